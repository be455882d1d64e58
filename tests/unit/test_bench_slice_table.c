/* test_bench_slice_table.c - the table of `proa bench slice --table`: where figures stand, and which steps a GPU of that size has no room for. */
#include "cmd/bench_slice.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

/* DeepSeek-R1's slice on an H200: 61 layers of 576 bf16 values a token, 44.1 GB of weights. */
static const bench_slice_room h200 = {.memory = 150754820096, .weights = 44100000000};

static bench_slice_pair *find(bench_slice_pair *pairs, int32_t sequences, int32_t context)
{
    for (int i = 0; i < BENCH_SLICE_PAIRS; i++)
        if (pairs[i].shape.sequences == sequences && pairs[i].shape.context == context)
            return &pairs[i];
    fail_msg("no pair has %d at %d", sequences, context);
    return NULL;
}

static void measure(bench_slice_pair *p, double ms)
{
    p->state = ms > 0 ? BENCH_SLICE_MEASURED : BENCH_SLICE_NO_ROOM;
    p->us = ms * 1e3;
    p->cache = (uint64_t)p->shape.sequences * (uint64_t)p->shape.context * 61 * 576 * 2;
    p->buffers = 2000000000;
}

static char *print(const bench_slice_pair *pairs)
{
    char *text = NULL;
    size_t length = 0;
    FILE *out = open_memstream(&text, &length);
    assert_non_null(out);
    proa_bench_slice_table_print(out, &h200, pairs);
    fclose(out);
    return text;
}

static void test_every_pair_once(void **state)
{
    static const int32_t batches[] = {1, 32, 64, 128, 256}, contexts[] = {1024, 2048, 4096, 8192};
    bench_slice_pair pairs[BENCH_SLICE_PAIRS];
    (void)state;
    proa_bench_slice_pairs(pairs);
    for (size_t i = 0; i < 5; i++)
        for (size_t j = 0; j < 4; j++) {
            const bench_slice_pair *p = find(pairs, batches[i], contexts[j]);
            assert_true(p->shape.decode);
            assert_int_equal(p->shape.prefix, 0);
            assert_int_equal(p->state, BENCH_SLICE_NOT_ASKED);
        }
}

static void test_the_print(void **state)
{
    bench_slice_pair pairs[BENCH_SLICE_PAIRS];
    (void)state;
    proa_bench_slice_pairs(pairs);
    measure(find(pairs, 128, 4096), 33.78);
    measure(find(pairs, 256, 4096), 58.11);
    measure(find(pairs, 256, 8192), 0);
    char *text = print(pairs);
    /* 256 at 4,096: 73.7 GB fit beside 46.1 into 150.8 */
    assert_non_null(strstr(text, "\n        128                                         33.78   3789 "));
    assert_non_null(strstr(text, "     58.11   4405           no room-\n"));
    assert_non_null(strstr(text, "\n- 256 at 8192: the KV cache of all layers, 147.4 GB, does not fit beside "
                                 "44.1 GB of weights and 2.0 of buffers into 150.8 GB; nor"));
    assert_null(strstr(text, "+"));
    assert_null(strstr(text, "\n         64"));
    free(text);
    measure(find(pairs, 256, 8192), 90);
    text = print(pairs);
    assert_non_null(strstr(text, "     90.00   2844+\n+ 256 at 8192: the KV cache of all layers, 147.4 GB,"));
    assert_non_null(strstr(text, "measured with fewer caches, which layers share\n"));
    free(text);
}

static void test_the_json(void **state)
{
    bench_slice_pair pairs[BENCH_SLICE_PAIRS];
    (void)state;
    proa_bench_slice_pairs(pairs);
    measure(find(pairs, 1, 1024), 10);
    measure(find(pairs, 256, 4096), 58.11);
    measure(find(pairs, 256, 8192), 90);
    proa_json *table = proa_bench_slice_table_json(&h200, pairs);
    assert_int_equal(proa_json_size(table), 3);
    const proa_json *small = proa_json_at(table, 0), *fits = proa_json_at(table, 1),
                    *not = proa_json_at(table, 2);
    assert_true(proa_json_real(proa_json_get(small, "tokens_per_second"), 0) == 100);
    assert_true(proa_json_bool(proa_json_get(fits, "fits"), false));
    assert_false(proa_json_bool(proa_json_get(not, "fits"), true));
    assert_true(proa_json_real(proa_json_get(not, "step_ms"), 0) == 90);
    proa_json_free(table);
    find(pairs, 256, 8192)->state = BENCH_SLICE_NO_ROOM;
    table = proa_bench_slice_table_json(&h200, pairs);
    assert_null(proa_json_get(proa_json_at(table, 2), "step_ms"));
    proa_json_free(table);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_pair_once),
        cmocka_unit_test(test_the_print),
        cmocka_unit_test(test_the_json),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
