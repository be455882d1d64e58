/* avx2.c - quantise with AVX2: a group of 128 is sixteen vectors. */
#include "op/quantise/row.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define TARGET PROA_TARGET_AVX2
#define INLINE TARGET static inline __attribute__((always_inline))

enum { LANES = 8 };

/* Rounds to e4m3 codes, ties to even; beyond 448 saturates, NaN becomes 0x7f: as proa_f32_to_e4m3. */
INLINE __m256i round_e4m3(__m256 v)
{
    __m256i bits = _mm256_castps_si256(v);
    __m256i magnitude = _mm256_and_si256(bits, _mm256_set1_epi32(0x7fffffff));
    __m256i sign = _mm256_and_si256(_mm256_srli_epi32(bits, 24), _mm256_set1_epi32(0x80));
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(magnitude, 20), _mm256_set1_epi32(1));
    __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(magnitude, _mm256_set1_epi32(0x7ffff)), odd);
    __m256i code = _mm256_sub_epi32(_mm256_srli_epi32(rounded, 20), _mm256_set1_epi32(120 << 3));
    code = _mm256_min_epi32(code, _mm256_set1_epi32(0x7e));
    __m256 size = _mm256_castsi256_ps(magnitude);
    __m256i small = _mm256_cvtps_epi32(_mm256_mul_ps(size, _mm256_set1_ps(0x1p9f)));
    __m256 denormal = _mm256_cmp_ps(size, _mm256_set1_ps(0x1p-6f), _CMP_LT_OQ);
    code = _mm256_or_si256(_mm256_blendv_epi8(code, small, _mm256_castps_si256(denormal)), sign);
    __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    return _mm256_blendv_epi8(code, _mm256_set1_epi32(0x7f), nan);
}

/* The scale of a whole group; a NaN does not count: the maximum is its second operand when the first is one. */
INLINE float group_scale(const float x[PROA_QUANT_GROUP], bool ue8m0)
{
    __m256 amax = _mm256_set1_ps(1e-4f), no_sign = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
    for (int i = 0; i < PROA_QUANT_GROUP; i += LANES)
        amax = _mm256_max_ps(_mm256_and_ps(_mm256_loadu_ps(x + i), no_sign), amax);
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(amax), _mm256_extractf128_ps(amax, 1));
    four = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return proa_quantise_scale(_mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four))), ue8m0);
}

INLINE float quantise_group(const float x[PROA_QUANT_GROUP], bool ue8m0, uint8_t q[PROA_QUANT_GROUP])
{
    float scale = group_scale(x, ue8m0);
    __m256 s = _mm256_set1_ps(scale);
    for (int i = 0; i < PROA_QUANT_GROUP; i += 2 * LANES) {
        __m256i a = round_e4m3(_mm256_div_ps(_mm256_loadu_ps(x + i), s));
        __m256i b = round_e4m3(_mm256_div_ps(_mm256_loadu_ps(x + i + LANES), s));
        /* packs within 128-bit halves: put the quarters in order, then narrow once more */
        __m256i words = _mm256_permute4x64_epi64(_mm256_packus_epi32(a, b), 0xd8);
        __m128i bytes = _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
        _mm_storeu_si128((__m128i *)(void *)(q + i), bytes);
    }
    return scale;
}

#include "op/quantise/row.inc"

proa_quantise_row proa_quantise_row_avx2(void)
{
    return quantise_row;
}

#else
proa_quantise_row proa_quantise_row_avx2(void)
{
    return NULL;
}
#endif
