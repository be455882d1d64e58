/* test_gpu_stand_in.c - the stand-in's stream, graphs and memory: late as they may be, and its refusals. */
#include "../gpu/gpu_test.h"
#include "op/cuda/fill.h"
#include "op/embed/cuda.h"
#include "op/mla/cuda.h"
#include "op/router/cuda.h"

#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

enum { COLS = 8, TABLE = 4 };

/* Row ids[0] of a table goes to y, by a description that comes from pinned memory. */
typedef struct lookup {
    proa_gpu *gpu;
    int32_t *pinned;
    void *ids, *table, *y;
} lookup;

static lookup make_lookup(proa_gpu *gpu)
{
    lookup l = {.gpu = gpu};
    proa_error err = {0};
    float table[TABLE * COLS];
    for (int32_t i = 0; i < TABLE * COLS; i++)
        table[i] = (float)(i / COLS);
    gpu_good(proa_gpu_alloc_host(gpu, sizeof *l.pinned, (void **)&l.pinned, &err), &err);
    l.ids = gpu_room(gpu, sizeof(int32_t));
    l.table = gpu_bf16(gpu, table, TABLE * COLS);
    l.y = gpu_room(gpu, 2 * COLS);
    gpu_good(proa_gpu_sync(gpu, &err), &err);
    return l;
}

static void free_lookup(lookup *l)
{
    proa_gpu_free_host(l->gpu, l->pinned);
    proa_gpu_free(l->gpu, l->ids), proa_gpu_free(l->gpu, l->table), proa_gpu_free(l->gpu, l->y);
}

static void queue_row(const lookup *l)
{
    proa_error err = {0};
    const proa_cuda_embed_args args = {.rows = 1, .cols = COLS, .ids = l->ids, .table = l->table, .y = l->y};
    gpu_good(proa_cuda_embed(l->gpu, &args, &err), &err);
}

static void queue_lookup(const lookup *l)
{
    proa_error err = {0};
    gpu_good(proa_gpu_upload(l->gpu, l->ids, l->pinned, sizeof *l->pinned, &err), &err);
    queue_row(l);
}

static float found(const lookup *l)
{
    float *y = gpu_read_bf16(l->gpu, l->y, COLS), first = y[0];
    free(y);
    return first;
}

static void test_a_queue_runs_at_sync(void **state)
{
    proa_error err = {0};
    lookup l = make_lookup(gpu_of(state));
    *l.pinned = 1;
    queue_lookup(&l);
    *l.pinned = 2; /* too early, and seen */
    gpu_good(proa_gpu_sync(l.gpu, &err), &err);
    assert_true(found(&l) == 2);
    free_lookup(&l);
}

static void test_a_graph_runs_when_asked(void **state)
{
    proa_error err = {0};
    proa_gpu_graph *graph;
    lookup l = make_lookup(gpu_of(state));
    *l.pinned = 1;
    gpu_good(proa_gpu_graph_begin(l.gpu, &err), &err);
    queue_lookup(&l);
    gpu_good(proa_gpu_graph_end(l.gpu, &graph, &err), &err);
    assert_true(isnan(found(&l)));
    for (int32_t i = 0; i < TABLE; i++) {
        *l.pinned = i;
        gpu_good(proa_gpu_graph_run(l.gpu, graph, &err), &err);
        gpu_good(proa_gpu_sync(l.gpu, &err), &err);
        assert_true(found(&l) == (float)i);
    }
    gpu_good(proa_gpu_graph_run(l.gpu, graph, &err), &err);
    proa_gpu_graph_free(graph); /* what was started runs on */
    *l.pinned = 1;
    assert_true(found(&l) == 1);
    free_lookup(&l);
}

/* What runs beside comes as late as it may: what the first stream does after the fork, before the join, is done by then. */
static void test_a_fork_ends_at_its_join(void **state)
{
    proa_error err = {0};
    lookup a = make_lookup(gpu_of(state)), b = make_lookup(a.gpu);
    proa_gpu_graph *graph;
    *a.pinned = 1;
    *b.pinned = 2;
    proa_gpu_free(a.gpu, b.y);
    b.y = a.y;
    gpu_good(proa_gpu_graph_begin(a.gpu, &err), &err);
    gpu_good(proa_gpu_fork(a.gpu, &err), &err);
    proa_gpu_beside(a.gpu, true);
    queue_row(&a); /* its row is copied up by the first stream, later */
    proa_gpu_beside(a.gpu, false);
    queue_lookup(&b);
    gpu_good(proa_gpu_upload(a.gpu, a.ids, a.pinned, sizeof *a.pinned, &err), &err);
    gpu_good(proa_gpu_join(a.gpu, &err), &err);
    gpu_good(proa_gpu_graph_end(a.gpu, &graph, &err), &err);
    assert_int_equal(proa_gpu_graph_nodes(graph), 4);
    gpu_good(proa_gpu_graph_run(a.gpu, graph, &err), &err);
    assert_true(found(&a) == 1);
    proa_gpu_graph_free(graph);
    gpu_good(proa_gpu_graph_begin(a.gpu, &err), &err);
    gpu_good(proa_gpu_fork(a.gpu, &err), &err);
    assert_int_equal(proa_gpu_graph_end(a.gpu, &graph, &err), PROA_ERR_DEVICE);
    gpu_good(proa_gpu_fork(a.gpu, &err), &err);
    assert_int_equal(proa_gpu_sync(a.gpu, &err), PROA_ERR_DEVICE);
    gpu_good(proa_gpu_join(a.gpu, &err), &err);
    b.y = NULL;
    free_lookup(&a);
    free_lookup(&b);
}

static void test_what_a_graph_does_not_take(void **state)
{
    proa_gpu *gpu = gpu_of(state);
    proa_error err = {0};
    proa_gpu_graph *graph;
    void *memory;
    int32_t here = 0;
    void *there = gpu_copy(gpu, &here, sizeof here);
    assert_int_equal(proa_gpu_graph_end(gpu, &graph, &err), PROA_ERR_DEVICE);
    gpu_good(proa_gpu_graph_begin(gpu, &err), &err);
    assert_int_equal(proa_gpu_graph_begin(gpu, &err), PROA_ERR_DEVICE);
    assert_int_equal(proa_gpu_sync(gpu, &err), PROA_ERR_DEVICE);
    assert_int_equal(proa_gpu_alloc(gpu, 64, &memory, &err), PROA_ERR_DEVICE);
    assert_int_equal(proa_gpu_alloc_host(gpu, 64, &memory, &err), PROA_ERR_DEVICE);
    assert_int_equal(proa_gpu_upload(gpu, there, &here, sizeof here, &err), PROA_ERR_DEVICE);
    assert_int_equal(proa_gpu_download(gpu, &here, there, sizeof here, &err), PROA_ERR_DEVICE);
    gpu_good(proa_gpu_graph_end(gpu, &graph, &err), &err);
    proa_gpu_graph_free(graph);
    proa_gpu_free(gpu, there);
}

/* What is refused begins nothing, and ends nothing that was begun. */
static void test_a_graph_that_is_not_begun(void **state)
{
    proa_error err = {0};
    proa_gpu_graph *graph;
    lookup l = make_lookup(gpu_of(state));
    *l.pinned = 1;
    gpu_good(proa_gpu_fork(l.gpu, &err), &err);
    assert_int_equal(proa_gpu_graph_begin(l.gpu, &err), PROA_ERR_DEVICE);
    gpu_good(proa_gpu_join(l.gpu, &err), &err);
    queue_lookup(&l);
    gpu_good(proa_gpu_sync(l.gpu, &err), &err);
    assert_true(found(&l) == 1);
    *l.pinned = 2;
    gpu_good(proa_gpu_graph_begin(l.gpu, &err), &err);
    assert_int_equal(proa_gpu_graph_begin(l.gpu, &err), PROA_ERR_DEVICE);
    queue_lookup(&l);
    gpu_good(proa_gpu_graph_end(l.gpu, &graph, &err), &err);
    assert_true(found(&l) == 1);
    gpu_good(proa_gpu_graph_run(l.gpu, graph, &err), &err);
    assert_true(found(&l) == 2);
    proa_gpu_graph_free(graph);
    free_lookup(&l);
}

static void test_memory_ends(void **state)
{
    proa_gpu *gpu = gpu_of(state);
    proa_error err = {0};
    size_t before, after;
    void *memory;
    gpu_good(proa_gpu_memory(gpu, &before, &err), &err);
    assert_int_equal(proa_gpu_alloc(gpu, before + 1, &memory, &err), PROA_ERR_DEVICE_MEMORY);
    assert_null(memory);
    memory = gpu_room(gpu, 4096);
    gpu_good(proa_gpu_memory(gpu, &after, &err), &err);
    assert_int_equal(before - after, 4096);
    proa_gpu_free(gpu, memory);
    gpu_good(proa_gpu_memory(gpu, &after, &err), &err);
    assert_int_equal(before, after);
}

static void test_fills(void **state)
{
    enum { COUNT = 1000 };
    proa_gpu *gpu = gpu_of(state);
    proa_error err = {0};
    void *floats = gpu_room(gpu, sizeof(float) * COUNT), *bytes = gpu_room(gpu, COUNT);
    float x[COUNT], sum = 0;
    uint8_t q[COUNT];
    gpu_good(proa_cuda_fill_float(gpu, floats, COUNT, 7, 3, 0.5f, &err), &err);
    gpu_good(proa_cuda_fill_e4m3(gpu, bytes, COUNT, 7, &err), &err);
    gpu_read(gpu, x, floats, sizeof x);
    gpu_read(gpu, q, bytes, sizeof q);
    for (int32_t i = 0; i < COUNT; i++) {
        assert_true(x[i] > 2.5f && x[i] < 3.5f);
        assert_false(isnan(proa_e4m3_to_f32(q[i])));
        sum += x[i];
    }
    assert_true(fabsf(sum / COUNT - 3) < 0.05f);
    proa_gpu_free(gpu, floats), proa_gpu_free(gpu, bytes);
}

/* ---- what ends the program ---- */

typedef void misuse(proa_gpu *gpu);

static void assert_dies(proa_gpu *gpu, misuse *run, const char *name)
{
    int how = 0;
    fflush(stdout);
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        signal(SIGABRT, SIG_DFL);
        if (freopen("/dev/null", "w", stderr) != NULL)
            run(gpu);
        _exit(0);
    }
    assert_int_equal(waitpid(child, &how, 0), child);
    if (!WIFSIGNALED(how) || WTERMSIG(how) != SIGABRT)
        fail_msg("%s went unnoticed", name);
}

static void embed_to(proa_gpu *gpu, size_t y_bytes, size_t y_at, int32_t id)
{
    proa_error err = {0};
    const proa_cuda_embed_args args = {.rows = 1,
                                       .cols = COLS,
                                       .ids = gpu_copy(gpu, &id, sizeof id),
                                       .table = gpu_room(gpu, 2 * COLS * TABLE),
                                       .y = (unsigned char *)gpu_room(gpu, y_bytes) + y_at};
    (void)proa_cuda_embed(gpu, &args, &err);
    (void)proa_gpu_sync(gpu, &err);
}

static void write_past_the_end(proa_gpu *gpu)
{
    embed_to(gpu, 2 * COLS - 2, 0, 0);
}

static void write_askew(proa_gpu *gpu)
{
    embed_to(gpu, 4 * COLS, 4, 0);
}

static void read_past_the_end(proa_gpu *gpu)
{
    embed_to(gpu, 2 * COLS, 0, TABLE);
}

static void read_an_index_never_written(proa_gpu *gpu)
{
    embed_to(gpu, 2 * COLS, 0, -1);
}

static void use_what_was_freed(proa_gpu *gpu)
{
    proa_error err = {0};
    void *memory = gpu_room(gpu, 64);
    proa_gpu_free(gpu, memory);
    (void)proa_gpu_set(gpu, memory, 0, 64, &err);
    (void)proa_gpu_sync(gpu, &err);
}

static void free_twice(proa_gpu *gpu)
{
    void *memory = gpu_room(gpu, 64);
    proa_gpu_free(gpu, memory);
    proa_gpu_free(gpu, memory);
}

/* One row of length 1, planned for; then length 2. */
static void decode_by_an_old_plan(proa_gpu *gpu)
{
    proa_error err = {0};
    int32_t block = 0, length = 1, longer = 2;
    const proa_mla_decode_args args = {
        .rows = 1,
        .heads = 1,
        .kv_lora_rank = 512,
        .rope_dim = 64,
        .rows_per_table = 1,
        .table_stride = 1,
        .table = gpu_copy(gpu, &block, sizeof block),
        .lengths = gpu_copy(gpu, &length, sizeof length),
        .q = gpu_room(gpu, 2 * 576),
        .cache = gpu_room(gpu, 2 * 64 * 576),
        .cache_blocks = 1,
        .scale = 1,
        .out = gpu_room(gpu, 2 * 512),
        .workspace = gpu_room(gpu, proa_mla_decode_workspace_bytes(1, 1, 1)),
        .splits_max = 1,
    };
    (void)proa_cuda_mla_plan(gpu, &args, &err);
    (void)proa_gpu_upload(gpu, (void *)args.lengths, &longer, sizeof longer, &err);
    (void)proa_cuda_mla_decode(gpu, &args, &err);
    (void)proa_gpu_sync(gpu, &err);
}

/* Two experts, a row for each; what is filled was not cleared. */
static void spread_over_what_was_filled(proa_gpu *gpu)
{
    enum { ROWS = 2, WIDTH = 16, SLOTS = ROWS + 2 * 127 };
    static const int32_t ids[ROWS] = {0, 1}, counts[ROWS] = {1, 1}, filled[ROWS] = {0, 1};
    proa_error err = {0};
    const proa_cuda_spread_args args = {.rows = ROWS,
                                        .top_k = 1,
                                        .experts = ROWS,
                                        .ids = gpu_copy(gpu, ids, sizeof ids),
                                        .counts = gpu_copy(gpu, counts, sizeof counts),
                                        .filled = gpu_copy(gpu, filled, sizeof filled),
                                        .first = gpu_room(gpu, sizeof ids),
                                        .count = gpu_room(gpu, sizeof ids),
                                        .place = gpu_room(gpu, sizeof ids),
                                        .cols = WIDTH,
                                        .x = gpu_room(gpu, 2 * ROWS * WIDTH),
                                        .x_out = gpu_room(gpu, 2 * SLOTS * WIDTH)};
    (void)proa_cuda_spread(gpu, &args, &err);
    (void)proa_gpu_sync(gpu, &err);
}

static void *sync_there(void *gpu)
{
    proa_error err = {0};
    (void)proa_gpu_sync(gpu, &err);
    return NULL;
}

static void call_from_another_thread(proa_gpu *gpu)
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, sync_there, gpu) == 0)
        pthread_join(thread, NULL);
}

static void test_misuse_ends_the_program(void **state)
{
    static const struct {
        misuse *run;
        const char *name;
    } cases[] = {
        {write_past_the_end, "a write past the end"},
        {write_askew, "a pointer that is not aligned"},
        {read_past_the_end, "a read past the end"},
        {read_an_index_never_written, "an index that nobody wrote"},
        {use_what_was_freed, "a use after free"},
        {free_twice, "a second free"},
        {decode_by_an_old_plan, "a plan of other lengths"},
        {spread_over_what_was_filled, "a counter that was not cleared"},
        {call_from_another_thread, "a call from another thread"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_dies(gpu_of(state), cases[i].run, cases[i].name);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_queue_runs_at_sync),
        cmocka_unit_test(test_a_graph_runs_when_asked),
        cmocka_unit_test(test_a_fork_ends_at_its_join),
        cmocka_unit_test(test_what_a_graph_does_not_take),
        cmocka_unit_test(test_a_graph_that_is_not_begun),
        cmocka_unit_test(test_memory_ends),
        cmocka_unit_test(test_fills),
        cmocka_unit_test(test_misuse_ends_the_program),
    };
    return cmocka_run_group_tests(tests, gpu_open_state, gpu_close_state);
}
