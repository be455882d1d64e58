/* test_graph_sizes.c - which batch sizes get a CUDA graph. */
#include "cmd/graph_sizes.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

static int32_t rows[PROA_GRAPH_SIZES_MAX], count;
static proa_error err;

static void expect(const char *list, int32_t most, int32_t running, const int32_t *want, int32_t wanted)
{
    assert_int_equal(proa_graph_sizes(list, most, running, rows, &count, &err), PROA_OK);
    assert_int_equal(count, wanted);
    assert_memory_equal(rows, want, (size_t)wanted * sizeof *want);
}

static void test_lists(void **state)
{
    (void)state;
    expect("128", 0, 1000, (int32_t[]){128}, 1);
    expect("128, 1 8,8", 0, 1000, (int32_t[]){1, 8, 128}, 3);
}

static void test_without_a_list(void **state)
{
    (void)state;
    expect(NULL, 0, 1, (int32_t[]){1}, 1);
    expect(NULL, 0, 5, (int32_t[]){1, 2, 4, 8}, 4);
    expect(NULL, 20, 500, (int32_t[]){1, 2, 4, 8, 16, 20}, 6);
    assert_int_equal(proa_graph_sizes(NULL, 0, 4000, rows, &count, &err), PROA_OK);
    assert_int_equal(rows[count - 1], 256);
    for (int32_t most = 1; most < 20000; most += 77) {
        assert_int_equal(proa_graph_sizes(NULL, most, 20000, rows, &count, &err), PROA_OK);
        assert_true(count <= PROA_GRAPH_SIZES_MAX);
        assert_int_equal(rows[count - 1], most);
        for (int32_t i = 1; i < count; i++)
            assert_true(rows[i] > rows[i - 1]);
    }
}

static void test_bad_lists(void **state)
{
    static const char *const bad[] = {
        "", " , ", "0", "-1", "x", "1;2", "8x", "65537", "99999999999999999999"};
    char many[4096] = "";
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(proa_graph_sizes(bad[i], 0, 8, rows, &count, &err), PROA_ERR_INVALID);
        assert_non_null(strstr(err.text, "--cuda-graph-bs"));
    }
    for (int i = 1; i <= PROA_GRAPH_SIZES_MAX + 1; i++)
        snprintf(many + strlen(many), sizeof many - strlen(many), "%d,", i);
    assert_int_equal(proa_graph_sizes(many, 0, 8, rows, &count, &err), PROA_ERR_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_lists), cmocka_unit_test(test_without_a_list),
                                       cmocka_unit_test(test_bad_lists)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
