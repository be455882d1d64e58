/* test_precompile_plan.c - which steps are measured for a worker: each size that it can make is covered by one. */
#include "cmd/precompile.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

static proa_gpu_step_shape steps[PROA_PRECOMPILE_STEPS_MAX];

static int32_t rows_of(const proa_gpu_step_shape *s)
{
    return s->decode ? s->sequences : s->sequences * (s->context - s->prefix);
}

/* The fewest rows, at least `rows`, of the steps of this kind; 0: none has so many. */
static int32_t cover(int32_t count, bool decode, int32_t rows)
{
    int32_t best = 0;
    for (int32_t i = 0; i < count; i++) {
        const int32_t has = rows_of(&steps[i]);
        if (steps[i].decode == decode && has >= rows && (best == 0 || has < best))
            best = has;
    }
    return best;
}

static int32_t longest(int32_t count)
{
    int32_t keys = 0;
    for (int32_t i = 0; i < count; i++)
        if (!steps[i].decode && steps[i].context > keys)
            keys = steps[i].context;
    return keys;
}

static void check(int32_t count, const proa_precompile_share *s)
{
    assert_in_range(count, 1, PROA_PRECOMPILE_STEPS_MAX);
    for (int32_t i = 0; i < count; i++) {
        assert_true(steps[i].sequences >= 1);
        assert_true(steps[i].context >= 1);
        assert_true(steps[i].prefix >= 0);
        assert_true(rows_of(&steps[i]) >= 1);
        assert_true(rows_of(&steps[i]) <= PROA_PRECOMPILE_ROWS_MOST + steps[i].sequences);
        assert_true(steps[i].context <= s->context || steps[i].context <= PROA_PRECOMPILE_ROWS_MOST);
        assert_true(i == 0 || rows_of(&steps[i]) <= rows_of(&steps[i - 1]));
        assert_true(steps[i].decode ? s->decodes : s->prefills);
    }
}

static void test_a_worker_that_does_both(void **state)
{
    (void)state;
    const proa_precompile_share s = {.decodes = true,
                                     .prefills = true,
                                     .running = 64,
                                     .chunk = 512,
                                     .context = 4096,
                                     .graph_count = 3,
                                     .graphs = {1, 24, 64}};
    const int32_t count = proa_precompile_steps(&s, steps);
    check(count, &s);
    assert_int_equal(cover(count, true, 24), 24); /* a graph's size, as it is */
    assert_int_equal(cover(count, true, 64), 64);
    assert_int_equal(cover(count, true, 65), 0);
    assert_int_equal(cover(count, false, 576), 576); /* decode rows beside a chunk */
    assert_int_equal(cover(count, false, 577), 0);
    assert_int_equal(cover(count, false, 100), 128);
    assert_int_equal(longest(count), 4096);
}

static void test_roles(void **state)
{
    (void)state;
    proa_precompile_share s = {.prefills = true, .running = 512, .chunk = 8192, .context = 4096};
    int32_t count = proa_precompile_steps(&s, steps);
    check(count, &s);
    assert_int_equal(cover(count, false, 8192), 8192); /* prompts of two requests */
    s = (proa_precompile_share){
        .decodes = true, .running = 768, .chunk = 768, .context = 2176, .graph_count = 1, .graphs = {768}};
    count = proa_precompile_steps(&s, steps);
    check(count, &s);
    assert_int_equal(cover(count, true, 768), 768);
    assert_int_equal(cover(count, false, 1), 0);
}

/* Extremes of the flags' ranges: bounded, and in the list's room. */
static void test_extremes(void **state)
{
    static const int32_t runnings[] = {1, 63, 65536}, chunks[] = {1, 64, 163840, INT32_MAX},
                         contexts[] = {1, 64, 163840, 1 << 20};
    (void)state;
    for (size_t r = 0; r < 3; r++)
        for (size_t c = 0; c < 4; c++)
            for (size_t t = 0; t < 4; t++) {
                proa_precompile_share s = {.decodes = true,
                                           .prefills = true,
                                           .running = runnings[r],
                                           .chunk = chunks[c] < contexts[t] ? chunks[c] : contexts[t],
                                           .context = contexts[t],
                                           .graph_count = PROA_GRAPH_SIZES_MAX};
                for (int32_t i = 0; i < PROA_GRAPH_SIZES_MAX; i++)
                    s.graphs[i] = 1000 * i + 1;
                check(proa_precompile_steps(&s, steps), &s);
            }
}

/* A class is that of its most rows, and holds for all that come before: sixteen tiles of 64 rows are sixteen. */
static void test_classes(void **state)
{
    const proa_cuda_shape kinds[] = {{.groups = 1, .n = 8, .k = 8},
                                     {.groups = 128, .form = PROA_CUDA_GROUPS_HEADS, .n = 8, .k = 8},
                                     {.groups = 9, .form = PROA_CUDA_GROUPS_ROWS, .n = 8, .k = 8}};
    (void)state;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        int32_t before = 0;
        for (int32_t rows = 1; rows < 5000; rows++) {
            proa_cuda_shape s = kinds[i];
            s.rows = rows;
            const int32_t most = proa_precompile_class(&s);
            assert_true(most >= rows);
            assert_true(most >= before);
            before = most;
            s.rows = most;
            assert_int_equal(proa_precompile_class(&s), most);
            assert_int_equal((most + 63) / 64, (rows + 63) / 64);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_worker_that_does_both),
        cmocka_unit_test(test_roles),
        cmocka_unit_test(test_extremes),
        cmocka_unit_test(test_classes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
