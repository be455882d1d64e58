/* test_tile_cache.c - which tile a product gets by its rows; the file that keeps the choices: what is written is read, what is stale, corrupt or
 * of another GPU is not, and writers at once lose nothing of each other. */
#include "base/file.h"
#include "model/cuda/tile_cache.h"

#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <fcntl.h>
#include <cmocka.h>

static const proa_cuda_tile_key key = {
    .gpu = "NVIDIA H100 80GB HBM3", .capability = 90, .multiprocessors = 132, .kernels = "0123456789abcdef"};
static const proa_cuda_tile small = {64, 64}, large = {128, 128}; /* those that the stand-in has */

static char dir[64];

static int make_dir(void **state)
{
    (void)state;
    snprintf(dir, sizeof dir, "/tmp/proa_tiles_XXXXXX");
    return mkdtemp(dir) == NULL;
}

static int remove_dir(void **state)
{
    char path[400];
    DIR *folder = opendir(dir);
    (void)state;
    for (struct dirent *e; folder != NULL && (e = readdir(folder)) != NULL;) {
        snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
        (void)unlink(path);
    }
    if (folder != NULL)
        closedir(folder);
    return rmdir(dir);
}

static proa_cuda_choice choice(int32_t n, int32_t rows, proa_cuda_tile tile)
{
    return (proa_cuda_choice){.shape = {.fp8 = true, .groups = 1, .n = n, .k = 7168, .rows = rows},
                              .tile = tile,
                              .us = 1.25 * n + rows,
                              .built_in_us = 1.5 * n + rows};
}

static void set(proa_cuda_tiles *tiles, int32_t n, int32_t rows, proa_cuda_tile tile)
{
    const proa_cuda_choice c = choice(n, rows, tile);
    assert_true(proa_cuda_tiles_set(tiles, &c));
}

static int32_t found_rows(proa_cuda_tiles *tiles, int32_t n, int32_t rows)
{
    const proa_cuda_choice c = choice(n, rows, small);
    return proa_cuda_tiles_find(tiles, &c.shape).rows;
}

/* ---- choices ---- */

static void test_the_fewest_rows_that_are_enough(void **state)
{
    (void)state;
    static const struct {
        int32_t n, rows, want; /* rows of the tile, 0: none */
    } cases[] = {{2112, 1, 64},  {2112, 64, 64},    {2112, 65, 128}, {2112, 256, 128}, {2112, 257, 0},
                 {4096, 1, 128}, {4096, 4096, 128}, {2111, 1, 0},    {2113, 1, 0},     {9999, 1, 0}};
    proa_cuda_tiles tiles = {0};
    set(&tiles, 2112, 256, large); /* in no order */
    set(&tiles, 4096, 4096, large);
    set(&tiles, 2112, 64, small);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_int_equal(found_rows(&tiles, cases[i].n, cases[i].rows), cases[i].want);
    assert_int_equal(tiles.asked, 10);
    assert_int_equal(tiles.found, 6);
    proa_cuda_tiles_free(&tiles);
    assert_int_equal(found_rows(&tiles, 2112, 1), 0);
    assert_int_equal(proa_cuda_tiles_find(NULL, &(proa_cuda_shape){.groups = 1}).rows, 0);
}

/* Each field of a shape tells two apart. */
static void test_shapes_are_told_apart(void **state)
{
    (void)state;
    const proa_cuda_shape base = {.groups = 8, .n = 256, .k = 896, .rows = 64};
    proa_cuda_shape others[6] = {base, base, base, base, base, base};
    others[0].fp8 = true;
    others[1].y_float = true;
    others[2].form = PROA_CUDA_GROUPS_SLICES;
    others[3].groups = 7;
    others[4].n = 257;
    others[5].k = 895;
    proa_cuda_tiles tiles = {0};
    for (size_t i = 0; i < 6; i++) {
        assert_true(proa_cuda_tiles_set(&tiles, &(proa_cuda_choice){.shape = others[i], .tile = large}));
        assert_false(proa_cuda_shape_same(&base, &others[i]));
    }
    assert_int_equal(proa_cuda_tiles_find(&tiles, &base).rows, 0);
    assert_true(proa_cuda_tiles_set(&tiles, &(proa_cuda_choice){.shape = base, .tile = small}));
    assert_int_equal(tiles.count, 7);
    assert_int_equal(proa_cuda_tiles_find(&tiles, &base).rows, 64);
    proa_cuda_tiles_remove(&tiles, &base);
    proa_cuda_tiles_remove(&tiles, &base);
    assert_int_equal(tiles.count, 6);
    assert_null(proa_cuda_tiles_at(&tiles, &base));
    for (size_t i = 0; i < 6; i++)
        assert_int_equal(proa_cuda_tiles_find(&tiles, &others[i]).rows, 128);
    proa_cuda_tiles_free(&tiles);
}

static void test_a_later_choice_replaces(void **state)
{
    (void)state;
    proa_cuda_tiles tiles = {0};
    for (int32_t i = 0; i < 1000; i++)
        set(&tiles, 8 * (i * 7 % 100 + 1), 64, i < 900 ? small : large);
    assert_int_equal(tiles.count, 100);
    for (int32_t i = 1; i <= 100; i++)
        assert_int_equal(found_rows(&tiles, 8 * i, 64), 128);
    proa_cuda_tiles_free(&tiles);
}

/* ---- the file ---- */

static void path_of(const proa_cuda_tile_key *k, char path[PROA_CUDA_TILE_PATH])
{
    proa_error err = {0};
    assert_int_equal(proa_cuda_tile_cache_path(dir, k, path, &err), PROA_OK);
}

static proa_status read_all(proa_cuda_tiles *tiles, proa_error *err)
{
    char path[PROA_CUDA_TILE_PATH];
    path_of(&key, path);
    *tiles = (proa_cuda_tiles){0};
    return proa_cuda_tile_cache_read(path, &key, tiles, err);
}

static void write_one(int32_t n, int32_t rows, proa_cuda_tile tile)
{
    proa_error err = {0};
    proa_cuda_tiles tiles = {0};
    set(&tiles, n, rows, tile);
    if (proa_cuda_tile_cache_write(dir, &key, &tiles, &err) != PROA_OK)
        fail_msg("%s", err.text);
    proa_cuda_tiles_free(&tiles);
}

static void test_what_is_written_is_read(void **state)
{
    (void)state;
    static const proa_cuda_linear_groups forms[] = {PROA_CUDA_GROUPS_ROWS, PROA_CUDA_GROUPS_HEADS,
                                                    PROA_CUDA_GROUPS_SLICES};
    proa_cuda_tiles tiles = {0}, again;
    proa_error err = {0};
    for (int32_t i = 0; i < 12; i++)
        assert_true(proa_cuda_tiles_set(&tiles, &(proa_cuda_choice){.shape = {.fp8 = i % 2 == 0,
                                                                              .y_float = i % 4 < 2,
                                                                              .form = forms[i % 3],
                                                                              .groups = i + 1,
                                                                              .n = 1 << i,
                                                                              .k = 1 << 28,
                                                                              .rows = 3 * i + 1},
                                                                    .tile = i < 6 ? small : large,
                                                                    .us = 0.1 * i + 1e-3,
                                                                    .built_in_us = 1e6 / 3}));
    assert_int_equal(proa_cuda_tile_cache_write(dir, &key, &tiles, &err), PROA_OK);
    assert_int_equal(read_all(&again, &err), PROA_OK);
    assert_int_equal(again.count, 12);
    for (int32_t i = 0; i < 12; i++) {
        const proa_cuda_choice *a = &tiles.choices[i], *b = &again.choices[i];
        assert_true(proa_cuda_shape_same(&a->shape, &b->shape));
        assert_int_equal(a->shape.rows, b->shape.rows);
        assert_memory_equal(&a->tile, &b->tile, sizeof a->tile);
        assert_true(a->us == b->us);
        assert_true(a->built_in_us == b->built_in_us);
    }
    proa_cuda_tiles_free(&tiles);
    proa_cuda_tiles_free(&again);
}

static void test_a_writer_adds(void **state)
{
    (void)state;
    proa_cuda_tiles tiles;
    proa_error err = {0};
    write_one(8, 64, small);
    write_one(16, 64, small);
    write_one(8, 64, large);
    assert_int_equal(read_all(&tiles, &err), PROA_OK);
    assert_int_equal(tiles.count, 2);
    assert_int_equal(found_rows(&tiles, 8, 1), 128);
    assert_int_equal(found_rows(&tiles, 16, 1), 64);
    proa_cuda_tiles_free(&tiles);
}

/* Folders are made on the way; a file of another key is told, and not touched. */
static void test_keys_have_files_of_their_own(void **state)
{
    (void)state;
    proa_cuda_tile_key others[4] = {key, key, key, key};
    char own[PROA_CUDA_TILE_PATH], path[PROA_CUDA_TILE_PATH];
    proa_cuda_tiles tiles = {0};
    proa_error err = {0};
    snprintf(others[0].gpu, sizeof others[0].gpu, "NVIDIA H200");
    others[1].capability = 100;
    others[2].multiprocessors = 114;
    snprintf(others[3].kernels, sizeof others[3].kernels, "0123456789abcdee");
    path_of(&key, own);
    assert_non_null(strstr(own, "/tiles-nvidia-h100-80gb-hbm3-"));
    set(&tiles, 8, 64, small);
    assert_int_equal(proa_cuda_tile_cache_others(dir, &key), 0);
    for (size_t i = 0; i < 4; i++) {
        path_of(&others[i], path);
        assert_string_not_equal(own, path);
        assert_int_equal(proa_cuda_tile_cache_write(dir, &others[i], &tiles, &err), PROA_OK);
    }
    assert_int_equal(proa_cuda_tile_cache_others(dir, &key), 3); /* the H200 is of another name */
    assert_int_equal(proa_cuda_tile_cache_read(own, &key, &tiles, &err), PROA_ERR_NOT_FOUND);
    for (size_t i = 0; i < 4; i++) { /* brought here by hand */
        path_of(&others[i], path);
        assert_int_equal(proa_cuda_tile_cache_read(path, &key, &tiles, &err), PROA_ERR_UNSUPPORTED);
        assert_non_null(strstr(err.text, i == 3 ? "other kernels" : "multiprocessors"));
    }
    assert_int_equal(tiles.count, 1);
    proa_cuda_tiles_free(&tiles);
}

/* A text of the file in which the first `from` is `to` instead. */
static char *changed(const char *text, const char *from, const char *to)
{
    const char *at = strstr(text, from);
    assert_non_null(at);
    char *copy = malloc(strlen(text) + strlen(to) + 1);
    assert_non_null(copy);
    sprintf(copy, "%.*s%s%s", (int)(at - text), text, to, at + strlen(from));
    return copy;
}

static void test_what_is_corrupt_is_refused_and_replaced(void **state)
{
    static const char *const changes[][2] = {{"{", "["},
                                             {"\"fp8\"", "\"fp9\""},
                                             {"\"rows\": 64", "\"rows\": 0"},
                                             {"7168", "-7168"},
                                             {"7168", "99999999999"},
                                             {"\"float32\"", "\"float33\""},
                                             {"    64,", "    65,"},
                                             {"\"heads\"", "\"tails\""},
                                             {"\"us\"", "\"as\""},
                                             {"2048", "2048.5"},
                                             {"\"choices\"", "\"choice\""},
                                             {"\"version\": 1", "\"version\": \"1\""},
                                             {"\"kernels\"", "\"kernel\""},
                                             {"\"groups\": 4", "\"groups\": 4294967300"}};
    (void)state;
    proa_cuda_tiles tiles = {0}, got;
    proa_buf text = {0};
    proa_error err = {0};
    char path[PROA_CUDA_TILE_PATH];
    path_of(&key, path);
    set(&tiles, 2048, 64, small);
    const proa_cuda_choice other = {
        .shape = {.y_float = true, .form = PROA_CUDA_GROUPS_HEADS, .groups = 4, .n = 8, .k = 8, .rows = 1},
        .tile = large,
        .us = 1,
        .built_in_us = 2};
    assert_true(proa_cuda_tiles_set(&tiles, &other));
    proa_cuda_tile_cache_print(&key, &tiles, &text);
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        char *bad = changed(proa_buf_text(&text), changes[i][0], changes[i][1]);
        assert_int_equal(proa_file_write(path, bad, strlen(bad), &err), PROA_OK);
        if (read_all(&got, &err) != PROA_ERR_CORRUPT)
            fail_msg("%s for %s: read as if it were whole", changes[i][1], changes[i][0]);
        assert_int_equal(got.count, 0);
        assert_non_null(strstr(err.text, path));
        free(bad);
    }
    for (size_t length = 0; length + 2 < text.length;
         length += 7) /* cut off; the last two are a brace and a line's end */
        assert_int_equal(proa_cuda_tile_cache_parse(proa_buf_text(&text), length, "x", &key, &got, &err),
                         PROA_ERR_CORRUPT);
    write_one(8, 64, large);
    assert_int_equal(read_all(&got, &err), PROA_OK);
    assert_int_equal(got.count, 1);
    proa_cuda_tiles_free(&got);
    proa_cuda_tiles_free(&tiles);
    proa_buf_free(&text);
}

/* Processes that each write choices of their own, one after another, while one reads all the time. */
static void test_writers_at_once_lose_nothing(void **state)
{
    enum { WRITERS = 4, EACH = 12 };
    pid_t children[WRITERS];
    proa_cuda_tiles tiles;
    proa_error err = {0};
    (void)state;
    write_one(8, 1, small);
    for (int i = 0; i < WRITERS; i++) {
        children[i] = fork();
        assert_true(children[i] >= 0);
        for (int j = 0; children[i] == 0 && j < EACH; j++)
            write_one(8 * (i + 2), j + 1, j % 2 == 0 ? small : large);
        if (children[i] == 0)
            _exit(0);
    }
    for (int left = WRITERS; left > 0;) {
        int how;
        const pid_t ended = waitpid(-1, &how, WNOHANG);
        assert_int_equal(read_all(&tiles, &err), PROA_OK);
        proa_cuda_tiles_free(&tiles);
        if (ended > 0) {
            assert_true(WIFEXITED(how));
            assert_int_equal(WEXITSTATUS(how), 0);
            left--;
        }
    }
    assert_int_equal(read_all(&tiles, &err), PROA_OK);
    assert_int_equal(tiles.count, 1 + WRITERS * EACH);
    proa_cuda_tiles_free(&tiles);
}

static void test_folders(void **state)
{
    char deep[200], path[PROA_CUDA_TILE_PATH + 8], *too_long = malloc(8000);
    proa_cuda_tiles tiles = {0};
    proa_error err = {0};
    (void)state;
    assert_non_null(too_long);
    set(&tiles, 8, 64, small);
    snprintf(deep, sizeof deep, "%s/a/b", dir);
    assert_int_equal(proa_cuda_tile_cache_prepare(deep, &key, path, &err), PROA_OK);
    assert_false(proa_file_exists(path)); /* nothing was measured */
    assert_int_equal(proa_cuda_tile_cache_write(deep, &key, &tiles, &err), PROA_OK);
    assert_int_equal(proa_cuda_tile_cache_path(deep, &key, path, &err), PROA_OK);
    assert_true(proa_file_exists(path));
    assert_int_equal(unlink(path), 0);
    strcat(path, ".lock");
    assert_int_equal(unlink(path), 0);
    assert_int_equal(rmdir(deep), 0);
    snprintf(deep, sizeof deep, "%s/a", dir);
    assert_int_equal(rmdir(deep), 0);
    assert_int_equal(proa_cuda_tile_cache_prepare("/proc/nowhere", &key, path, &err), PROA_ERR_IO);
    assert_non_null(strstr(err.text, "/proc/nowhere"));
    assert_int_equal(proa_cuda_tile_cache_write("/proc/nowhere", &key, &tiles, &err), PROA_ERR_IO);
    assert_non_null(strstr(err.text, "/proc/nowhere"));
    memset(too_long, 'x', 7999);
    too_long[7999] = '\0';
    assert_int_equal(proa_cuda_tile_cache_write(too_long, &key, &tiles, &err), PROA_ERR_TOO_LONG);
    proa_cuda_tiles_free(&tiles);
    free(too_long);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_fewest_rows_that_are_enough),
        cmocka_unit_test(test_shapes_are_told_apart),
        cmocka_unit_test(test_a_later_choice_replaces),
        cmocka_unit_test_setup_teardown(test_what_is_written_is_read, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(test_a_writer_adds, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(test_keys_have_files_of_their_own, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(test_what_is_corrupt_is_refused_and_replaced, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(test_writers_at_once_lose_nothing, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(test_folders, make_dir, remove_dir),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
