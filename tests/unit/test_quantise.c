/* test_quantise.c - quantise: `cpu` has the bits of `ref` at each instruction set; ref against known answers. */
#include "op/quantise/quantise.h"

#include "product_cases.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

/* Values that decide: ties, denormals, the clamp, infinity, NaN, and magnitudes far apart. */
static float awkward(uint64_t key, uint64_t i)
{
    static const float values[] = {0.0f,   -0.0f,  1e-4f,   1e-5f,   448.0f,  -448.0f, 449.0f,
                                   464.0f, 480.0f, 0.5f,    1e-38f,  -1e-45f, 17.0f,   19.0f,
                                   1e30f,  -1e38f, 0x1p-6f, 0x1p-9f, 0x1p-10f};
    uint32_t word = random_word(key, i);
    if (word % 4 == 0)
        return values[word / 4 % (sizeof values / sizeof values[0])];
    return random_normal(key + 1, i) * ldexpf(1.0f, (int)(word / 4 % 24) - 12);
}

static void check_cpu(int32_t rows, int32_t cols, int64_t gap, bool ue8m0, bool special)
{
    int64_t stride = cols + gap, groups = (cols + 127) / 128;
    float *x = checked_malloc((size_t)(rows * stride) * sizeof *x);
    for (int64_t i = 0; i < rows * stride; i++)
        x[i] = special ? awkward(3, (uint64_t)i) : random_normal(4, (uint64_t)i);
    if (special && cols > 140) {
        x[140] = INFINITY;
        x[3] = NAN;
    }
    size_t q_bytes = (size_t)(rows * cols), s_bytes = (size_t)(rows * groups) * sizeof(float);
    uint8_t *q_ref = checked_malloc(q_bytes), *q = checked_malloc(q_bytes);
    float *s_ref = checked_malloc(s_bytes), *s = checked_malloc(s_bytes);
    proa_quantise_args args = {
        .rows = rows, .cols = cols, .x = x, .x_stride = stride, .q = q_ref, .s = s_ref};
    proa_host host = {.ue8m0 = ue8m0, .pool = proa_pool_create(2)};
    proa_quantise_ref(&host, &args);
    for (int isa = 0; isa <= (int)proa_cpu_isa(); isa++) {
        memset(q, 0xee, q_bytes);
        memset(s, 0xee, s_bytes);
        host.isa = (proa_isa)isa;
        args.q = q;
        args.s = s;
        proa_quantise_cpu(&host, &args);
        assert_memory_equal(s, s_ref, s_bytes);
        for (size_t i = 0; i < q_bytes; i++)
            if (q[i] != q_ref[i])
                fail_msg("%s, cols %d, row %d column %d: x = %.9g gives %02x, ref %02x",
                         proa_isa_name(host.isa), cols, (int)(i / (size_t)cols), (int)(i % (size_t)cols),
                         (double)x[i / (size_t)cols * (size_t)stride + i % (size_t)cols], q[i], q_ref[i]);
    }
    proa_pool_free(host.pool);
    free(x), free(q), free(q_ref), free(s), free(s_ref);
}

static void cpu_has_refs_bits(void **state)
{
    (void)state;
    static const int32_t cols[] = {1, 15, 16, 31, 127, 128, 129, 192, 320, 448, 7168};
    for (size_t i = 0; i < sizeof cols / sizeof cols[0]; i++)
        for (int ue8m0 = 0; ue8m0 < 2; ue8m0++)
            for (int special = 0; special < 2; special++) {
                check_cpu(5, cols[i], 0, ue8m0, special);
                check_cpu(1, cols[i], 3, ue8m0, special);
            }
    check_cpu(0, 128, 0, false, false);
    check_cpu(300, 640, 1, true, true);
}

/* x / s over every e4m3 code, and the points between two codes, through a scale of 1. */
static void every_code_and_every_tie(void **state)
{
    (void)state;
    float x[128];
    uint8_t q[128];
    float s;
    for (int isa = -1; isa <= (int)proa_cpu_isa(); isa++) {
        for (int half = 0; half < 2; half++) {
            for (int code = 0; code < 127; code++) {
                float low = proa_e4m3_to_f32((uint8_t)code),
                      high = code < 126 ? proa_e4m3_to_f32((uint8_t)(code + 1)) : low;
                x[code] = half ? -(low + high) / 2 : low;
            }
            x[127] = 448.0f;
            proa_host host = {.isa = isa < 0 ? PROA_ISA_PORTABLE : (proa_isa)isa};
            proa_quantise_args args = {.rows = 1, .cols = 128, .x = x, .x_stride = 128, .q = q, .s = &s};
            (isa < 0 ? proa_quantise_ref : proa_quantise_cpu)(&host, &args);
            assert_true(s == 1.0f);
            for (int code = 0; code < 127; code++) {
                int even = code % 2 == 0 || code == 126 ? code : code + 1;
                assert_int_equal(q[code], half ? (even | 0x80) : code);
            }
        }
    }
}

static void scales_are_as_published(void **state)
{
    (void)state;
    static const struct {
        float amax, s, s_ue8m0;
    } cases[] = {{448.0f, 1.0f, 1.0f},
                 {449.0f, 449.0f / 448.0f, 2.0f},
                 {0.0f, 1e-4f / 448.0f, 0x1p-22f},
                 {-896.0f, 2.0f, 2.0f},
                 {223.0f, 223.0f / 448.0f, 0.5f}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        float x[2] = {cases[i].amax, 0}, s;
        uint8_t q[2];
        proa_quantise_args args = {.rows = 1, .cols = 2, .x = x, .x_stride = 2, .q = q, .s = &s};
        proa_host host = {.ue8m0 = false};
        proa_quantise_ref(&host, &args);
        assert_true(s == cases[i].s);
        host.ue8m0 = true;
        proa_quantise_ref(&host, &args);
        assert_true(s == cases[i].s_ue8m0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cpu_has_refs_bits),
        cmocka_unit_test(every_code_and_every_tie),
        cmocka_unit_test(scales_are_as_published),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
