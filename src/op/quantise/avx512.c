/* avx512.c - quantise with AVX-512 F, BW, DQ, VL: a group of 128 is eight vectors, read twice, the second time from
 * the nearest cache. Bound: 5 bytes moved per element; the division keeps up (16 in about 10 cycles). */
#include "op/quantise/row.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define TARGET PROA_TARGET_AVX512
#define INLINE TARGET static inline __attribute__((always_inline))

enum { LANES = 16 };

INLINE __mmask16 mask_of(int32_t left)
{
    return (__mmask16)(left >= LANES ? 0xffff : (1 << left) - 1);
}

/* Rounds to e4m3 codes, ties to even; beyond 448 saturates, NaN becomes 0x7f: as proa_f32_to_e4m3. */
INLINE __m128i round_e4m3(__m512 v)
{
    __m512i bits = _mm512_castps_si512(v);
    __m512i magnitude = _mm512_and_si512(bits, _mm512_set1_epi32(0x7fffffff));
    __m512i sign = _mm512_and_si512(_mm512_srli_epi32(bits, 24), _mm512_set1_epi32(0x80));
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(magnitude, 20), _mm512_set1_epi32(1));
    __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(magnitude, _mm512_set1_epi32(0x7ffff)), odd);
    __m512i code = _mm512_sub_epi32(_mm512_srli_epi32(rounded, 20), _mm512_set1_epi32(120 << 3));
    code = _mm512_min_epi32(code, _mm512_set1_epi32(0x7e));
    __m512 size = _mm512_castsi512_ps(magnitude);
    __mmask16 denormal = _mm512_cmp_ps_mask(size, _mm512_set1_ps(0x1p-6f), _CMP_LT_OQ);
    code = _mm512_mask_cvtps_epi32(code, denormal, _mm512_mul_ps(size, _mm512_set1_ps(0x1p9f)));
    code = _mm512_or_si512(code, sign);
    code = _mm512_mask_mov_epi32(code, _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q), _mm512_set1_epi32(0x7f));
    return _mm512_cvtepi32_epi8(code);
}

/* The scale of a group; a NaN does not count: the maximum is its second operand when the first is one. */
INLINE float group_scale(const float *x, int32_t count, bool ue8m0)
{
    __m512 amax = _mm512_set1_ps(1e-4f);
    for (int32_t i = 0; i < count; i += LANES)
        amax = _mm512_max_ps(_mm512_abs_ps(_mm512_maskz_loadu_ps(mask_of(count - i), x + i)), amax);
    return proa_quantise_scale(_mm512_reduce_max_ps(amax), ue8m0);
}

TARGET static void quantise_row(const float *x, int32_t cols, bool ue8m0, uint8_t *q, float *s)
{
    for (int32_t first = 0; first < cols; first += PROA_QUANT_GROUP) {
        int32_t count = cols - first < PROA_QUANT_GROUP ? cols - first : PROA_QUANT_GROUP;
        float scale = group_scale(x + first, count, ue8m0);
        *s++ = scale;
        for (int32_t i = 0; i < count; i += LANES) {
            __mmask16 mask = mask_of(count - i);
            __m512 v = _mm512_maskz_loadu_ps(mask, x + first + i);
            _mm_mask_storeu_epi8(q + first + i, mask, round_e4m3(_mm512_div_ps(v, _mm512_set1_ps(scale))));
        }
    }
}

proa_quantise_row proa_quantise_row_avx512(void)
{
    return quantise_row;
}

#else
proa_quantise_row proa_quantise_row_avx512(void)
{
    return NULL;
}
#endif
