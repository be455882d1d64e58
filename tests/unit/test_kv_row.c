/* test_kv_row.c - the layout of a cache's rows, and scales that lose nothing. */
#include "op/mla/kv_row.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/number.h"

static void rows_lie_as_drawn(void **state)
{
    (void)state;
    static const struct {
        proa_dtype dtype;
        int32_t lora, rope;
        proa_kv_row row;
    } table[] = {
        {PROA_DTYPE_BF16, 512, 64, {1152, 0, 0, 1024}}, {PROA_DTYPE_F32, 512, 64, {2304, 0, 0, 2048}},
        {PROA_DTYPE_BF16, 33, 2, {70, 0, 0, 66}},       {PROA_DTYPE_F32, 33, 2, {140, 0, 0, 132}},
        {PROA_DTYPE_E4M3, 512, 64, {656, 512, 4, 528}}, /* DeepSeek-R1 */
        {PROA_DTYPE_E4M3, 128, 8, {160, 128, 1, 132}},  {PROA_DTYPE_E4M3, 144, 16, {192, 144, 2, 152}},
        {PROA_DTYPE_E4M3, 16, 8, {48, 16, 1, 20}},      {PROA_DTYPE_E4M3, 64, 32, {144, 64, 1, 68}},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        proa_kv_row row = proa_kv_row_of(table[i].dtype, table[i].lora, table[i].rope), want = table[i].row;
        assert_int_equal(row.bytes, want.bytes);
        assert_int_equal(row.scales, want.scales);
        assert_int_equal(row.groups, want.groups);
        assert_int_equal(row.k_pe, want.k_pe);
        assert_true(proa_kv_row_fits(table[i].dtype, table[i].lora, table[i].rope));
    }
    assert_false(proa_kv_row_fits(PROA_DTYPE_E4M3, 520, 64));
    assert_false(proa_kv_row_fits(PROA_DTYPE_E4M3, 512, 60));
    assert_int_equal(proa_kv_cache_dtype(PROA_KV_CACHE_AUTO, PROA_PRECISION_EXACT), PROA_DTYPE_F32);
    assert_int_equal(proa_kv_cache_dtype(PROA_KV_CACHE_AUTO, PROA_PRECISION_DEFAULT), PROA_DTYPE_BF16);
    assert_int_equal(proa_kv_cache_dtype(PROA_KV_CACHE_E4M3, PROA_PRECISION_DEFAULT), PROA_DTYPE_E4M3);
}

/* Of every finite bf16 magnitude: the least power of two that takes it to 448 or below, unless that is out of range. */
static void a_scale_is_the_least_power_of_two(void **state)
{
    (void)state;
    for (uint32_t half = 0; half < 0x7f80; half++) {
        float x = proa_bf16_to_f32((uint16_t)half);
        float s = proa_bits_to_f32(proa_kv_scale_bits(proa_f32_to_bits(x)));
        int e;
        assert_true(frexpf(s, &e) == 0.5f);
        e--;
        assert_in_range(e + 200, PROA_KV_SCALE_LEAST + 200, PROA_KV_SCALE_MOST + 200);
        assert_true(e == PROA_KV_SCALE_MOST || (double)x / s <= 448);
        assert_true(e == PROA_KV_SCALE_LEAST || (double)x / s > 224);
        assert_true((double)s * proa_bits_to_f32(proa_kv_inverse_bits(proa_f32_to_bits(s))) == 1);
    }
    assert_true(proa_bits_to_f32(proa_kv_scale_bits(0)) == 0x1p-117f);
    assert_true(proa_bits_to_f32(proa_kv_scale_bits(proa_f32_to_bits(1))) == 0x1p-8f);
    assert_true(proa_bits_to_f32(proa_kv_scale_bits(proa_f32_to_bits(448))) == 1);
    assert_true(proa_bits_to_f32(proa_kv_scale_bits(proa_f32_to_bits(450))) == 2);
    assert_true(proa_bits_to_f32(proa_kv_scale_bits(proa_f32_to_bits(0x1.fep127f))) == 0x1p119f);
    assert_true(isinf(proa_bits_to_f32(proa_kv_scale_bits(proa_f32_to_bits(INFINITY)))));
    assert_true(isinf(proa_bits_to_f32(proa_kv_scale_bits(proa_f32_to_bits(NAN) & 0x7fffffffu))));
}

/* Every code times every scale is a bf16 number that is normal or zero. */
static void what_is_read_is_bf16(void **state)
{
    (void)state;
    for (int e = PROA_KV_SCALE_LEAST; e <= PROA_KV_SCALE_MOST; e++)
        for (int q = 0; q < 256; q++) {
            if ((q & 0x7f) == 0x7f)
                continue;
            float exact = proa_e4m3_to_f32((uint8_t)q) * ldexpf(1, e);
            assert_true(isfinite(exact));
            assert_true(exact == 0 || isnormal(exact));
            assert_true((double)exact == (double)proa_e4m3_to_f32((uint8_t)q) * ldexp(1, e));
            assert_true(proa_round_bf16(exact) == exact);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_lie_as_drawn),
        cmocka_unit_test(a_scale_is_the_least_power_of_two),
        cmocka_unit_test(what_is_read_is_bf16),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
