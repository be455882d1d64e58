/* test_golden_linear.c - quantise and linear against golden/ops.safetensors (made by another program): codes and
 * scales bit for bit; the block-FP8 linear, exact and by the recipe, within float32's error. */
#include "model/safetensors.h"
#include "op/linear/linear.h"
#include "op/quantise/quantise.h"
#include "product_cases.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

static proa_safetensors *golden; /* NULL: not here */

static int open_golden(void **state)
{
    (void)state;
    const char *dir = getenv("PROA_TEST_DATA");
    char path[1000];
    proa_error err;
    snprintf(path, sizeof path, "%s/golden/ops.safetensors", dir != NULL ? dir : ".");
    if (proa_safetensors_open(path, &golden, &err) != PROA_OK)
        printf("SKIPPED: no golden data: %s\n", err.text);
    return 0;
}

static int close_golden(void **state)
{
    (void)state;
    proa_safetensors_close(golden);
    return 0;
}

/* The data of a tensor that must have `count` elements of `dtype`. */
static const void *data_of(const char *name, proa_dtype dtype, int64_t count)
{
    if (golden == NULL)
        skip();
    const proa_tensor *tensor = proa_safetensors_find(golden, name);
    if (tensor == NULL || tensor->dtype != dtype ||
        tensor->bytes != (uint64_t)count * proa_dtype_bytes(dtype))
        fail_msg("%s: absent or not as expected", name);
    return tensor->data;
}

/* Which device: -1 is ref, the others `cpu` at that instruction set. */
static proa_host host_of(int which, proa_precision precision)
{
    proa_host host = {.precision = precision, .isa = which < 0 ? PROA_ISA_PORTABLE : (proa_isa)which};
    host.scratch_bytes = proa_linear_scratch_bytes(&host, 9, 448, 320);
    host.scratch = aligned_alloc(64, (host.scratch_bytes + 63) / 64 * 64);
    return host;
}

static void expect_codes(const char *format, bool ue8m0)
{
    enum { ROWS = 16, COLS = 512 };
    char q_name[40], s_name[40];
    snprintf(q_name, sizeof q_name, "quant.%s.q", format);
    snprintf(s_name, sizeof s_name, "quant.%s.s", format);
    const float *x = data_of("quant.x", PROA_DTYPE_F32, ROWS * COLS);
    const uint8_t *q_expected = data_of(q_name, PROA_DTYPE_U8, ROWS * COLS);
    const float *s_expected = data_of(s_name, PROA_DTYPE_F32, ROWS * COLS / 128);
    for (int which = -1; which <= (int)proa_cpu_isa(); which++) {
        uint8_t q[ROWS * COLS];
        float s[ROWS * COLS / 128];
        proa_host host = {.ue8m0 = ue8m0, .isa = which < 0 ? PROA_ISA_PORTABLE : (proa_isa)which};
        proa_quantise_args args = {.rows = ROWS, .cols = COLS, .x = x, .x_stride = COLS, .q = q, .s = s};
        (which < 0 ? proa_quantise_ref : proa_quantise_cpu)(&host, &args);
        assert_memory_equal(s, s_expected, sizeof s);
        assert_memory_equal(q, q_expected, sizeof q);
    }
}

static void quantise_with_float_scales(void **state)
{
    (void)state;
    expect_codes("fp32", false);
}

static void quantise_with_power_of_two_scales(void **state)
{
    (void)state;
    expect_codes("ue8m0", true);
}

enum { ROWS = 9, N = 448, K = 320, GROUPS = 3 };

static proa_weight golden_weight(void)
{
    return (proa_weight){
        .dtype = PROA_DTYPE_E4M3,
        .n = N,
        .k = K,
        .block_n = 128,
        .block_k = 128,
        .data = data_of("linear.w", PROA_DTYPE_U8, N * K),
        .scale = data_of("linear.w_scale_inv", PROA_DTYPE_F32, 4 * GROUPS),
    };
}

/* Sum of |x| |w|, which bounds what rounding can do: from the float x, near enough for the quantised one too. */
static double magnitude_of(const float *x, const proa_weight *w, int r, int j)
{
    double sum = 0;
    for (int i = 0; i < K; i++)
        sum += fabs((double)x[r * K + i] * proa_e4m3_to_f32(((const uint8_t *)w->data)[j * K + i]) *
                    w->scale[j / 128 * GROUPS + i / 128]);
    return sum;
}

static void expect_linear(const proa_rows *x, const float *x_float, const char *name)
{
    const float *expected = data_of(name, PROA_DTYPE_F32, ROWS * N);
    proa_weight w = golden_weight();
    for (int which = -1; which <= (int)proa_cpu_isa(); which++) {
        static float y[ROWS * N];
        proa_host host = host_of(which, x->q != NULL ? PROA_PRECISION_DEFAULT : PROA_PRECISION_EXACT);
        proa_linear_args args = {.x = *x, .w = &w, .y = y, .y_stride = N};
        (which < 0 ? proa_linear_ref : proa_linear_cpu)(&host, &args);
        for (int i = 0; i < ROWS * N; i++) {
            double tolerance = sum_tolerance(K, (float)magnitude_of(x_float, &w, i / N, i % N));
            if (!(fabs((double)y[i] - expected[i]) <= tolerance))
                fail_msg("%s on %s: y[%d][%d] is %.9g, not %.9g, tolerance %.3g", name,
                         which < 0 ? "ref" : proa_isa_name(host.isa), i / N, i % N, (double)y[i],
                         (double)expected[i], tolerance);
        }
        free(host.scratch);
    }
}

static void linear_exact(void **state)
{
    (void)state;
    proa_rows x = {.rows = ROWS, .cols = K, .x = data_of("linear.x", PROA_DTYPE_F32, ROWS * K)};
    expect_linear(&x, x.x, "linear.y_exact");
}

static void linear_by_the_recipe(void **state)
{
    (void)state;
    uint8_t q[ROWS * K];
    float s[ROWS * GROUPS];
    const float *x_float = data_of("linear.x", PROA_DTYPE_F32, ROWS * K);
    proa_host host = {.precision = PROA_PRECISION_DEFAULT};
    proa_quantise_args quantise = {.rows = ROWS, .cols = K, .x = x_float, .x_stride = K, .q = q, .s = s};
    proa_quantise_ref(&host, &quantise);
    proa_rows x = {.rows = ROWS, .cols = K, .q = q, .s = s};
    expect_linear(&x, x_float, "linear.y_recipe");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(quantise_with_float_scales),
        cmocka_unit_test(quantise_with_power_of_two_scales),
        cmocka_unit_test(linear_exact),
        cmocka_unit_test(linear_by_the_recipe),
    };
    return cmocka_run_group_tests(tests, open_golden, close_golden);
}
