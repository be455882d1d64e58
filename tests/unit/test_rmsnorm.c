/* test_rmsnorm.c - normalisation with and without the residual: a hand-computed row, cpu against ref, law 2. */
#include "op/rmsnorm/rmsnorm.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <cmocka.h>

#include "op_fixture.h"

static void norm_of_a_known_row(void **state)
{
    (void)state;
    /* mean of squares (9 + 16) / 2 = 12.5; with eps 3.5 the divisor is 4 */
    static const float w[] = {2, -1};
    proa_weight weight = {.dtype = PROA_DTYPE_F32, .n = 1, .k = 2, .data = w};
    proa_host host = fixture_host(proa_cpu_isa(), 1, PROA_PRECISION_EXACT);
    for (int ref = 0; ref < 2; ref++) {
        float x[] = {1, 4}, y[2];
        static const float delta[] = {2, 0};
        proa_rmsnorm_args args = {1, 2, x, 2, delta, &weight, 3.5, y, 2};
        (ref ? proa_rmsnorm_ref : proa_rmsnorm_cpu)(&host, &args);
        fixture_close("y", y, (float[]){1.5f, -1}, 2, 1e-7, 0);
        assert_true(x[0] == 3 && x[1] == 4);
    }
    fixture_free(&host);
}

typedef struct norm_case {
    int32_t rows, cols;
    int64_t x_stride, y_stride; /* beyond cols */
    bool delta, norm, in_place;
    proa_dtype w;
} norm_case;

static const norm_case cases[] = {
    {1, 7168, 0, 0, true, true, false, PROA_DTYPE_BF16}, {5, 512, 64, 3, false, true, false, PROA_DTYPE_BF16},
    {64, 1536, 0, 0, true, true, false, PROA_DTYPE_F32}, {3, 1, 0, 0, true, true, false, PROA_DTYPE_F32},
    {9, 37, 5, 5, false, true, true, PROA_DTYPE_BF16},   {7, 250, 1, 0, true, false, false, PROA_DTYPE_F32},
    {2, 31, 0, 9, true, true, false, PROA_DTYPE_BF16},
};

typedef void (*norm_op)(const proa_host *, const proa_rmsnorm_args *);

/* Runs rows first .. first + rows - 1 of the case; gives back x and y of all rows, one after the other. */
static float *run(norm_op op, proa_host *host, const norm_case *c, int32_t first, int32_t rows)
{
    int64_t x_stride = c->cols + c->x_stride, y_stride = c->in_place ? x_stride : c->cols + c->y_stride;
    float *x = fixture_activations(1, c->rows * x_stride, 3, host->precision);
    float *delta = fixture_activations(2, (int64_t)c->rows * c->cols, 3, host->precision);
    float *w = fixture_activations(3, c->cols, 1, PROA_PRECISION_DEFAULT);
    float *both = fixture_floats(c->rows * (x_stride + y_stride)), *y = both + c->rows * x_stride;
    uint16_t *half = fixture_alloc((size_t)c->cols * sizeof *half);
    for (int32_t i = 0; i < c->cols; i++)
        half[i] = proa_f32_to_bf16(w[i]);
    proa_weight weight = {
        .dtype = c->w, .n = 1, .k = c->cols, .data = c->w == PROA_DTYPE_F32 ? w : (void *)half};
    proa_rmsnorm_args args = {rows, c->cols, x + first * x_stride, x_stride, NULL, &weight, 1e-6,
                              NULL, y_stride};
    if (c->delta)
        args.delta = delta + (int64_t)first * c->cols;
    if (c->norm)
        args.y = c->in_place ? args.x : y + first * y_stride;
    op(host, &args);
    memcpy(both, x, (size_t)(c->rows * x_stride) * sizeof *x);
    free(x);
    free(delta);
    free(w);
    free(half);
    return both;
}

static void cpu_equals_ref(void **state)
{
    (void)state;
    for (size_t p = 0; p < 2; p++)
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
            const norm_case *c = &cases[i];
            int64_t count = c->rows * (2 * c->cols + c->x_stride + (c->in_place ? c->x_stride : c->y_stride));
            proa_host ref = fixture_host(PROA_ISA_PORTABLE, 1, fixture_precisions[p]);
            float *expected = run(proa_rmsnorm_ref, &ref, c, 0, c->rows);
            FIXTURE_EACH_ISA(isa)
            {
                proa_host cpu = fixture_host(isa, 2, fixture_precisions[p]);
                float *actual = run(proa_rmsnorm_cpu, &cpu, c, 0, c->rows);
                if (fixture_precisions[p] == PROA_PRECISION_EXACT)
                    fixture_close("x and y", actual, expected, count, 1e-7, 1e-6);
                else { /* a rounding may fall the other way, seldom */
                    fixture_close("x and y", actual, expected, count, 1e-7, 8e-3);
                    assert_true(fixture_distance(actual, expected, count) < 3e-4);
                }
                free(actual);
                fixture_free(&cpu);
            }
            free(expected);
            fixture_free(&ref);
        }
}

static void rows_do_not_see_each_other(void **state)
{
    (void)state;
    for (size_t p = 0; p < 2; p++)
        FIXTURE_EACH_ISA(isa)
        {
            norm_case c = {40, 700, 3, 1, true, true, false, PROA_DTYPE_BF16};
            int64_t x_floats = c.rows * (c.cols + c.x_stride), y_stride = c.cols + c.y_stride;
            proa_host one = fixture_host(isa, 1, fixture_precisions[p]);
            proa_host three = fixture_host(isa, 3, fixture_precisions[p]);
            float *all = run(proa_rmsnorm_cpu, &three, &c, 0, c.rows);
            for (int32_t r = 0; r < c.rows; r += 13) {
                float *alone = run(proa_rmsnorm_cpu, &one, &c, r, 1);
                int64_t at = x_floats + r * y_stride;
                fixture_same_bits("row", all + at, alone + at, (size_t)c.cols * sizeof(float));
                free(alone);
            }
            free(all);
            fixture_free(&one);
            fixture_free(&three);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(norm_of_a_known_row),
        cmocka_unit_test(cpu_equals_ref),
        cmocka_unit_test(rows_do_not_see_each_other),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
