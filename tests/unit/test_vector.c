/* test_vector.c - the vector helpers of the kernels: e^x against the C library's in double, bf16 against number.h. */
#include "op/vector.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "op_fixture.h"

/* What this processor has of vector.h, each over 16 floats. */
typedef struct vectors {
    const char *name;
    proa_isa least;
    void (*exp)(const float *x, float *y);
    void (*round)(const float *x, float *y);
} vectors;

#if defined(__x86_64__)

PROA_TARGET_AVX512 static void exp_avx512(const float *x, float *y)
{
    _mm512_storeu_ps(y, proa_exp_16(_mm512_loadu_ps(x)));
}

PROA_TARGET_AVX2 static void exp_avx2(const float *x, float *y)
{
    for (int i = 0; i < 16; i += 8)
        _mm256_storeu_ps(y + i, proa_exp_8(_mm256_loadu_ps(x + i)));
}

PROA_TARGET_AVX512 static void round_avx512(const float *x, float *y)
{
    _mm512_storeu_ps(y, proa_round_bf16_16(_mm512_loadu_ps(x)));
}

PROA_TARGET_AVX2 static void round_avx2(const float *x, float *y)
{
    for (int i = 0; i < 16; i += 8)
        _mm256_storeu_ps(y + i, proa_round_bf16_8(_mm256_loadu_ps(x + i)));
}

static const vectors all[] = {{"AVX2", PROA_ISA_AVX2, exp_avx2, round_avx2},
                              {"AVX-512", PROA_ISA_AVX512, exp_avx512, round_avx512}};

#elif defined(__aarch64__)

static void exp_neon(const float *x, float *y)
{
    for (int i = 0; i < 16; i += 4)
        vst1q_f32(y + i, proa_exp_4(vld1q_f32(x + i)));
}

static void round_neon(const float *x, float *y)
{
    for (int i = 0; i < 16; i += 4)
        vst1q_f32(y + i, proa_neon_round_bf16_4(vld1q_f32(x + i)));
}

static const vectors all[] = {{"NEON", PROA_ISA_PORTABLE, exp_neon, round_neon}};

#else
#error "vector.h has nothing for this processor: leave this test out of the build"
#endif

/* Those that this processor can run. */
static const vectors *next(size_t *i)
{
    while (*i < sizeof all / sizeof *all && all[*i].least > proa_cpu_isa())
        ++*i;
    return *i < sizeof all / sizeof *all ? &all[(*i)++] : NULL;
}

/* Errors in units in the last place of the exact result (2^-149 among the denormals). */
static void exp_is_close(void **state)
{
    const vectors *v;
    (void)state;
    for (size_t at = 0; (v = next(&at)) != NULL;) {
        double worst = 0;
        for (double from = -106; from < 90; from += 0.0031) {
            float x[16], y[16];
            for (int i = 0; i < 16; i++)
                x[i] = (float)(from + i * 0.00019);
            v->exp(x, y);
            for (int i = 0; i < 16; i++) {
                double exact = exp(x[i]);
                if (exact > 3.4028235e38) {
                    assert_true(y[i] > 3.4e38f);
                    continue;
                }
                int exponent;
                frexp(exact, &exponent);
                double unit = ldexp(1, (exponent < -125 ? -125 : exponent) - 24);
                double error = fabs(y[i] - exact) / unit;
                worst = error > worst ? error : worst;
            }
        }
        if (worst > 1.3)
            fail_msg("%s: e^x is off by %g units in the last place", v->name, worst);
    }
}

static void exp_knows_the_extremes(void **state)
{
    const vectors *v;
    (void)state;
    static const float x[16] = {0, -0.0f, -INFINITY, INFINITY, NAN, -104, -1e30f, 1e30f, 89, 1};
    for (size_t at = 0; (v = next(&at)) != NULL;) {
        float y[16];
        v->exp(x, y);
        assert_true(y[0] == 1 && y[1] == 1);
        assert_true(y[2] == 0 && y[5] == 0 && y[6] == 0);
        assert_true(isinf(y[3]) && isinf(y[7]) && isinf(y[8]));
        assert_true(isnan(y[4]));
    }
}

static void rounding_is_that_of_number_h(void **state)
{
    const vectors *v;
    (void)state;
    for (size_t at = 0; (v = next(&at)) != NULL;)
        for (uint64_t bits = 0; bits < (uint64_t)1 << 32; bits += 16 * 4099) {
            float x[16], y[16];
            for (uint64_t i = 0; i < 16; i++) {
                /* low halves around the middle, where ties are */
                uint32_t word =
                    (uint32_t)((bits & 0xffff0000u) | ((0x7ff8 + i) & 0xffff)) ^ (i == 15 ? 0xffffu : 0);
                memcpy(&x[i], &word, sizeof word);
            }
            v->round(x, y);
            for (int i = 0; i < 16; i++) {
                float expected = proa_round_bf16(x[i]);
                if (isnan(expected) ? !isnan(y[i]) : memcmp(&expected, &y[i], sizeof expected) != 0)
                    fail_msg("%s: %a becomes %a, expected %a", v->name, x[i], y[i], expected);
            }
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exp_is_close),
        cmocka_unit_test(exp_knows_the_extremes),
        cmocka_unit_test(rounding_is_that_of_number_h),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
