/* test_combine.c - the weighted sum in slot order: an order that shows, cpu against ref, law 2. */
#include "op/combine/combine.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <cmocka.h>

#include "op_fixture.h"

typedef void (*combine_op)(const proa_host *, const proa_combine_args *);

/* In float32, (2^24 + 1) - 2^24 is 0 and (2^24 - 2^24) + 1 is 1: the order of the slots is visible. */
static void sums_in_slot_order(void **state)
{
    (void)state;
    static const float slots[] = {0x1p24f, 1, -0x1p24f};
    static const float weights[] = {1, 1, 1, 1, 1, 1};
    static const int32_t place[] = {0, 1, 2, 0, 2, 1};
    static const float shared[] = {0.5f, 0.5f};
    float y[2];
    FIXTURE_EACH_ISA(isa)
    {
        proa_host host = fixture_host(isa, 1, PROA_PRECISION_EXACT);
        proa_combine_args args = {2, 1, 3, slots, place, weights, shared, y};
        proa_combine_cpu(&host, &args);
        assert_true(y[0] == 0.5f && y[1] == 1.5f);
        fixture_free(&host);
    }
}

static float *run(combine_op op, const proa_host *host, int32_t rows, int32_t cols, int32_t top_k,
                  bool shared)
{
    int32_t slot_count = rows * top_k;
    float *slots = fixture_activations(1, (int64_t)slot_count * cols, 1, host->precision);
    float *extra = fixture_activations(2, (int64_t)rows * cols, 1, host->precision);
    float *weights = fixture_activations(3, slot_count, 1, PROA_PRECISION_EXACT);
    float *y = fixture_floats((int64_t)rows * cols);
    int32_t *place = fixture_alloc((size_t)slot_count * sizeof *place);
    for (int32_t i = 0; i < slot_count; i++)
        place[i] = slot_count - 1 - i;
    proa_combine_args args = {rows, cols, top_k, slots, place, weights, shared ? extra : NULL, y};
    op(host, &args);
    free(slots);
    free(extra);
    free(weights);
    free(place);
    return y;
}

static void cpu_equals_ref(void **state)
{
    (void)state;
    static const int32_t shapes[][3] = {{1, 7168, 8}, {5, 1025, 8}, {40, 300, 2}, {3, 7, 1}, {2, 31, 0}};
    for (size_t p = 0; p < 2; p++)
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
            int32_t rows = shapes[i][0], cols = shapes[i][1], top_k = shapes[i][2];
            int64_t count = (int64_t)rows * cols;
            bool exact = fixture_precisions[p] == PROA_PRECISION_EXACT;
            proa_host ref = fixture_host(PROA_ISA_PORTABLE, 1, fixture_precisions[p]);
            float *expected = run(proa_combine_ref, &ref, rows, cols, top_k, i != 3);
            FIXTURE_EACH_ISA(isa)
            {
                float *last = NULL;
                for (int threads = 1; threads <= 3; threads++) {
                    proa_host cpu = fixture_host(isa, threads, fixture_precisions[p]);
                    float *actual = run(proa_combine_cpu, &cpu, rows, cols, top_k, i != 3);
                    fixture_close("y", actual, expected, count, 2e-6, exact ? 1e-6 : 8e-3);
                    assert_true(fixture_distance(actual, expected, count) < (exact ? 1e-6 : 3e-4));
                    if (last != NULL)
                        fixture_same_bits("threads", actual, last, (size_t)count * sizeof *last);
                    free(last);
                    last = actual;
                    fixture_free(&cpu);
                }
                free(last);
            }
            free(expected);
            fixture_free(&ref);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sums_in_slot_order),
        cmocka_unit_test(cpu_equals_ref),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
