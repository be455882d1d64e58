/* test_router.c - choice of experts: groups, ties, bad values, cpu against ref; and the sort by expert. */
#include "op/router/router.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <cmocka.h>

#include "op_fixture.h"

typedef void (*router_op)(const proa_host *, const proa_router_args *);

static const router_op ops[] = {proa_router_ref, proa_router_cpu};

static float logit(double probability)
{
    return (float)log(probability / (1 - probability));
}

static void expect_ids(const proa_router_args *args, const int32_t *expected)
{
    for (size_t op = 0; op < 2; op++) {
        proa_host host = fixture_host(proa_cpu_isa(), 1, PROA_PRECISION_DEFAULT);
        memset(args->ids, 0xff, (size_t)(args->rows * args->top_k) * sizeof *args->ids);
        ops[op](&host, args);
        for (int32_t i = 0; i < args->rows * args->top_k; i++)
            if (args->ids[i] != expected[i])
                fail_msg("op %zu: id %d is %d, expected %d", op, i, args->ids[i], expected[i]);
        fixture_free(&host);
    }
}

/* All biased scores are negative. Were dropped groups masked with 0, their experts would win. */
static void dropped_groups_lose_to_negative_scores(void **state)
{
    (void)state;
    static const float bias[] = {-2, -2, -3, -3, -2.55f, -2.55f, -4, -4};
    float logits[8], weights[3];
    int32_t ids[3];
    for (int i = 0; i < 8; i++)
        logits[i] = logit(0.1 + 0.1 * i);
    proa_router_args args = {1, 8, 4, 2, 3, true, 2.5, logits, bias, ids, weights};
    expect_ids(&args, (int32_t[]){1, 0, 5}); /* groups 0 and 2 stay: -1.9, -1.8, -2.05, -1.95 */
}

/* A group is judged by the sum of its two best, not by its best. */
static void groups_are_judged_by_two(void **state)
{
    (void)state;
    float logits[] = {logit(0.9), logit(0.1), logit(0.1), logit(0.6), logit(0.6), logit(0.1)};
    float weights[2];
    int32_t ids[2];
    proa_router_args args = {1, 6, 2, 1, 2, true, 1, logits, NULL, ids, weights};
    expect_ids(&args, (int32_t[]){3, 4});
    assert_true(fabsf(weights[0] - 0.5f) < 1e-6f);
}

static void ties_go_to_the_lower_index(void **state)
{
    (void)state;
    static const float logits[16] = {0};
    float weights[4];
    int32_t ids[4];
    proa_router_args one = {1, 16, 1, 1, 4, true, 1, logits, NULL, ids, weights};
    expect_ids(&one, (int32_t[]){0, 1, 2, 3});
    proa_router_args groups = {1, 16, 8, 3, 4, true, 1, logits, NULL, ids, weights};
    expect_ids(&groups, (int32_t[]){0, 1, 2, 3});
}

/* The bias chooses and does not weigh; without normalisation a weight is the score times the factor. */
static void the_bias_only_chooses(void **state)
{
    (void)state;
    float logits[] = {logit(0.2), logit(0.6), logit(0.5)}, weights[2];
    static const float bias[] = {5, 0, 0};
    int32_t ids[2];
    for (size_t op = 0; op < 2; op++)
        for (int normalised = 0; normalised < 2; normalised++) {
            proa_host host = fixture_host(proa_cpu_isa(), 1, PROA_PRECISION_EXACT);
            proa_router_args args = {1, 3, 1, 1, 2, normalised == 1, 2.5, logits, bias, ids, weights};
            ops[op](&host, &args);
            assert_int_equal(ids[0], 0);
            assert_int_equal(ids[1], 1);
            fixture_close("weights", weights, normalised ? (float[]){0.625f, 1.875f} : (float[]){0.5f, 1.5f},
                          2, 0, 1e-6);
            fixture_free(&host);
        }
}

/* Whatever the logits are, ids are distinct and in range: they index memory later. */
static void bad_logits_give_valid_ids(void **state)
{
    (void)state;
    float logits[64], weights[8];
    int32_t ids[8];
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    for (size_t op = 0; op < 2; op++)
        for (int pattern = 0; pattern < 27; pattern++) {
            proa_host host = fixture_host(proa_cpu_isa(), 1, PROA_PRECISION_EXACT);
            for (int i = 0; i < 64; i++) {
                int pick = i % 3 == 0 ? pattern % 3 : i % 3 == 1 ? pattern / 3 % 3 : pattern / 9;
                logits[i] = i % 7 == 6 ? 1.0f : bad[pick];
            }
            proa_router_args args = {1, 64, 8, 4, 8, true, 2.5, logits, NULL, ids, weights};
            ops[op](&host, &args);
            uint64_t seen = 0;
            for (int k = 0; k < 8; k++) {
                assert_in_range(ids[k], 0, 63);
                assert_false(seen >> ids[k] & 1);
                seen |= (uint64_t)1 << ids[k];
            }
            fixture_free(&host);
        }
}

/* NaN counts as -inf: it loses, wherever it stands. */
static void nan_is_not_chosen(void **state)
{
    (void)state;
    float logits[] = {NAN, -5, -6, NAN, -7, -4}, weights[2];
    int32_t ids[2];
    proa_router_args args = {1, 6, 1, 1, 2, true, 1, logits, NULL, ids, weights};
    expect_ids(&args, (int32_t[]){5, 1});
    proa_router_args groups = {1, 6,      3,    2,   2,      true,
                               1, logits, NULL, ids, weights}; /* (NaN -5) (-6 NaN) (-7 -4) */
    expect_ids(&groups, (int32_t[]){5, 1});
}

static void cpu_equals_ref(void **state)
{
    (void)state;
    static const struct {
        int32_t rows, experts, n_group, topk_group, top_k;
    } shapes[] = {
        {33, 256, 8, 4, 8}, {20, 384, 1, 1, 8}, {9, 160, 8, 3, 6}, {5, 17, 1, 1, 17}, {3, 6, 6, 2, 2}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        int32_t rows = shapes[i].rows, experts = shapes[i].experts, top_k = shapes[i].top_k;
        float *logits = fixture_activations(1, (int64_t)rows * experts, 2, PROA_PRECISION_EXACT);
        float *bias = fixture_activations(2, experts, 0.3f, PROA_PRECISION_EXACT);
        float *expected_weights = fixture_floats(rows * top_k), *weights = fixture_floats(rows * top_k);
        int32_t *expected = fixture_alloc((size_t)(rows * top_k) * sizeof *expected);
        int32_t *ids = fixture_alloc((size_t)(rows * top_k) * sizeof *ids);
        proa_router_args args = {rows,   experts, shapes[i].n_group, shapes[i].topk_group, top_k, i != 2, 2.5,
                                 logits, bias,    expected,          expected_weights};
        proa_host host = fixture_host(PROA_ISA_PORTABLE, 1, PROA_PRECISION_EXACT);
        proa_router_ref(&host, &args);
        fixture_free(&host);
        args.ids = ids;
        args.weights = weights;
        FIXTURE_EACH_ISA(isa)
        for (int threads = 1; threads <= 3; threads++) {
            host = fixture_host(isa, threads, PROA_PRECISION_EXACT);
            proa_router_cpu(&host, &args);
            fixture_same_bits("ids", ids, expected, (size_t)(rows * top_k) * sizeof *ids);
            fixture_close("weights", weights, expected_weights, rows * top_k, 0, 1e-6);
            fixture_free(&host);
        }
        free(logits);
        free(bias);
        free(expected_weights);
        free(weights);
        free(expected);
        free(ids);
    }
}

static void sort_is_stable_and_knows_empty_experts(void **state)
{
    (void)state;
    static const int32_t ids[] = {3, 1, 3, 0, 1, 3}; /* three rows of two slots, experts 2 and 4 empty */
    int32_t offsets[6], order[6], row_index[6], place[6];
    proa_router_sort(3, 2, 5, ids, offsets, order, row_index, place);
    fixture_same_bits("offsets", offsets, (int32_t[]){0, 1, 3, 3, 6, 6}, sizeof offsets);
    fixture_same_bits("order", order, (int32_t[]){3, 1, 4, 0, 2, 5}, sizeof order);
    fixture_same_bits("row_index", row_index, (int32_t[]){1, 0, 2, 0, 1, 2}, sizeof row_index);
    fixture_same_bits("place", place, (int32_t[]){3, 1, 4, 0, 2, 5}, sizeof place);
    proa_router_sort(0, 2, 5, ids, offsets, order, row_index, place);
    assert_int_equal(offsets[5], 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dropped_groups_lose_to_negative_scores),
        cmocka_unit_test(groups_are_judged_by_two),
        cmocka_unit_test(ties_go_to_the_lower_index),
        cmocka_unit_test(the_bias_only_chooses),
        cmocka_unit_test(bad_logits_give_valid_ids),
        cmocka_unit_test(nan_is_not_chosen),
        cmocka_unit_test(cpu_equals_ref),
        cmocka_unit_test(sort_is_stable_and_knows_empty_experts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
