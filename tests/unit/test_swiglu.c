/* test_swiglu.c - known values, extremes, cpu against ref, law 2. */
#include "op/swiglu/swiglu.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <cmocka.h>

#include "op_fixture.h"

typedef void (*swiglu_op)(const proa_host *, const proa_swiglu_args *);

static void known_values_and_extremes(void **state)
{
    (void)state;
    static const float gate[] = {0, 1, -1, 100, -100, 3e38f, -3e38f, 90, -90, INFINITY};
    static const float up[] = {5, 2, 2, 3, 3, 1, 1, 1, 1, 1};
    static const float expected[] = {0,  1.4621171573f, -0.5378828427f, 300, -1.1160e-41f, 3e38f, 0,
                                     90, -7.3777e-38f,  INFINITY};
    enum { COUNT = sizeof gate / sizeof *gate };
    FIXTURE_EACH_ISA(isa)
    for (int ref = 0; ref < 2; ref++) {
        float y[COUNT];
        proa_host host = fixture_host(isa, 1, PROA_PRECISION_EXACT);
        proa_swiglu_args args = {1, COUNT, gate, up, y};
        (ref ? proa_swiglu_ref : proa_swiglu_cpu)(&host, &args);
        fixture_close("y", y, expected, COUNT, 1e-37, 1e-6);
        fixture_free(&host);
    }
}

static float *run(swiglu_op op, const proa_host *host, int32_t rows, int32_t cols)
{
    int64_t count = (int64_t)rows * cols;
    float *gate = fixture_activations(1, count, 8, host->precision);
    float *up = fixture_activations(2, count, 2, host->precision);
    proa_swiglu_args args = {rows, cols, gate, up, gate}; /* in place */
    op(host, &args);
    free(up);
    return gate;
}

static void cpu_equals_ref(void **state)
{
    (void)state;
    static const int32_t shapes[][2] = {{1, 2048}, {1, 1}, {3, 37}, {40, 1000}, {7, 2048}, {2, 15}};
    for (size_t p = 0; p < 2; p++)
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
            int32_t rows = shapes[i][0], cols = shapes[i][1];
            int64_t count = (int64_t)rows * cols;
            bool exact = fixture_precisions[p] == PROA_PRECISION_EXACT;
            proa_host ref = fixture_host(PROA_ISA_PORTABLE, 1, fixture_precisions[p]);
            float *expected = run(proa_swiglu_ref, &ref, rows, cols);
            FIXTURE_EACH_ISA(isa)
            {
                float *last = NULL;
                for (int threads = 1; threads <= 3; threads++) {
                    proa_host cpu = fixture_host(isa, threads, fixture_precisions[p]);
                    float *actual = run(proa_swiglu_cpu, &cpu, rows, cols);
                    fixture_close("y", actual, expected, count, 1e-30, exact ? 1e-6 : 8e-3);
                    assert_true(fixture_distance(actual, expected, count) < (exact ? 1e-6 : 3e-4));
                    if (last != NULL)
                        fixture_same_bits("threads", actual, last, (size_t)count * sizeof *last);
                    free(last);
                    last = actual;
                    fixture_free(&cpu);
                }
                float *alone = run(proa_swiglu_cpu, &ref, 1, cols);
                if (isa == PROA_ISA_PORTABLE)
                    fixture_same_bits("one row", last, alone, (size_t)cols * sizeof *last);
                free(alone);
                free(last);
            }
            free(expected);
            fixture_free(&ref);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_values_and_extremes),
        cmocka_unit_test(cpu_equals_ref),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
