/* vector.h - what the vector kernels of several ops share: bf16 and e^x. For the .c files of src/op alone.
 *
 * e^x = 2^n e^r, n = round(x log2(e)), |r| <= ln(2) / 2, r in two steps (Cody and Waite), and e^r = 1 + r + r^2 P(r) with P
 * of degree 4, fitted to the relative error (2.9e-9 before rounding; 1.2 units in the last place measured). Results
 * run down through the denormals to 0 at -104 and up to infinity at 88.8; NaN stays NaN; e^0 is 1. */
#ifndef PROA_OP_VECTOR_H
#define PROA_OP_VECTOR_H

#include "base/cpu.h"

#include <stdint.h>

/* Before a loop of at most 16 turns over an array of accumulators: unrolled, the array lives in registers; neither
 * gcc nor clang does it by itself at -O2. */
#if defined(__clang__)
#define PROA_UNROLLED _Pragma("clang loop unroll(full)")
#else
#define PROA_UNROLLED _Pragma("GCC unroll 16")
#endif

#define PROA_EXP_LOG2E   1.44269504f
#define PROA_EXP_LN2_HI  0x1.62e4p-1f /* short, so that x - n * hi is exact */
#define PROA_EXP_LN2_LO  0x1.7f7d1cp-20f
#define PROA_EXP_LOWEST  (-104.0f)
#define PROA_EXP_HIGHEST 88.8f
#define PROA_EXP_P0      0.499999934f
#define PROA_EXP_P1      0.166665206f
#define PROA_EXP_P2      0.0416683881f
#define PROA_EXP_P3      0.00836871709f
#define PROA_EXP_P4      0.00138145964f

#if defined(__x86_64__)
#include <immintrin.h>

/* -- AVX-512 -- */

PROA_TARGET_AVX512 static inline __m512 proa_exp_16(__m512 x)
{
    enum { NEAREST = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC };
    /* the constant first: when x is NaN, the second operand comes out */
    x = _mm512_min_ps(_mm512_set1_ps(PROA_EXP_HIGHEST), x);
    x = _mm512_max_ps(_mm512_set1_ps(PROA_EXP_LOWEST), x);
    __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(PROA_EXP_LOG2E)), NEAREST);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(PROA_EXP_LN2_HI), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(PROA_EXP_LN2_LO), r);
    __m512 p = _mm512_fmadd_ps(_mm512_set1_ps(PROA_EXP_P4), r, _mm512_set1_ps(PROA_EXP_P3));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(PROA_EXP_P2));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(PROA_EXP_P1));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(PROA_EXP_P0));
    p = _mm512_fmadd_ps(_mm512_mul_ps(r, r), p, r);
    return _mm512_scalef_ps(_mm512_add_ps(p, _mm512_set1_ps(1)), n);
}

PROA_TARGET_AVX512 static inline __m512 proa_round_bf16_16(__m512 x)
{
    __m512i bits = _mm512_castps_si512(x);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
    rounded = _mm512_and_si512(rounded, _mm512_set1_epi32((int)0xffff0000));
    __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    return _mm512_mask_mov_ps(_mm512_castsi512_ps(rounded), nan, x);
}

PROA_TARGET_AVX512 static inline __m512 proa_load_bf16_16(const void *p)
{
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

/* The first n lanes of 16. */
static inline __mmask16 proa_mask_16(int n)
{
    return (__mmask16)(n >= 16 ? 0xffffu : n <= 0 ? 0u : (1u << n) - 1);
}

/* -- AVX2 -- */

PROA_TARGET_AVX2 static inline __m256 proa_exp_8(__m256 x)
{
    x = _mm256_min_ps(_mm256_set1_ps(PROA_EXP_HIGHEST), x);
    x = _mm256_max_ps(_mm256_set1_ps(PROA_EXP_LOWEST), x);
    __m256i turns = _mm256_cvtps_epi32(_mm256_mul_ps(x, _mm256_set1_ps(PROA_EXP_LOG2E)));
    __m256 n = _mm256_cvtepi32_ps(turns);
    __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(PROA_EXP_LN2_HI), x);
    r = _mm256_fnmadd_ps(n, _mm256_set1_ps(PROA_EXP_LN2_LO), r);
    __m256 p = _mm256_fmadd_ps(_mm256_set1_ps(PROA_EXP_P4), r, _mm256_set1_ps(PROA_EXP_P3));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(PROA_EXP_P2));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(PROA_EXP_P1));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(PROA_EXP_P0));
    p = _mm256_fmadd_ps(_mm256_mul_ps(r, r), p, r);
    p = _mm256_add_ps(p, _mm256_set1_ps(1));
    /* 2^n in two factors, each a normal number, so that the product can be denormal or infinite */
    __m256i half = _mm256_srai_epi32(turns, 1), rest = _mm256_sub_epi32(turns, half),
            bias = _mm256_set1_epi32(127);
    p = _mm256_mul_ps(p, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23)));
    return _mm256_mul_ps(p, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23)));
}

PROA_TARGET_AVX2 static inline __m256 proa_round_bf16_8(__m256 x)
{
    __m256i bits = _mm256_castps_si256(x);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
    rounded = _mm256_and_si256(rounded, _mm256_set1_epi32((int)0xffff0000));
    __m256 nan = _mm256_cmp_ps(x, x, _CMP_UNORD_Q);
    return _mm256_blendv_ps(_mm256_castsi256_ps(rounded), x, nan);
}

PROA_TARGET_AVX2 static inline __m256 proa_load_bf16_8(const void *p)
{
    __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}

/* The first n lanes of 8. */
PROA_TARGET_AVX2 static inline __m256i proa_mask_8(int n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

/* At most n floats, at most 8; lanes beyond are 0. Masked stores take tens of cycles on some processors: only tails
 * may use them. */
PROA_TARGET_AVX2 static inline __m256 proa_load_8(const float *from, int n)
{
    return n >= 8   ? _mm256_loadu_ps(from)
           : n <= 0 ? _mm256_setzero_ps()
                    : _mm256_maskload_ps(from, proa_mask_8(n));
}

PROA_TARGET_AVX2 static inline void proa_store_8(float *to, int n, __m256 x)
{
    if (n >= 8)
        _mm256_storeu_ps(to, x);
    else if (n > 0)
        _mm256_maskstore_ps(to, proa_mask_8(n), x);
}

#elif defined(__aarch64__)
#include <arm_neon.h>

/* -- NEON -- */

static inline float32x4_t proa_exp_4(float32x4_t x)
{
    x = vminq_f32(x, vdupq_n_f32(PROA_EXP_HIGHEST)); /* NaN stays NaN */
    x = vmaxq_f32(x, vdupq_n_f32(PROA_EXP_LOWEST));
    int32x4_t turns = vcvtnq_s32_f32(vmulq_f32(x, vdupq_n_f32(PROA_EXP_LOG2E)));
    float32x4_t n = vcvtq_f32_s32(turns);
    float32x4_t r = vfmsq_f32(x, n, vdupq_n_f32(PROA_EXP_LN2_HI));
    r = vfmsq_f32(r, n, vdupq_n_f32(PROA_EXP_LN2_LO));
    float32x4_t p = vfmaq_f32(vdupq_n_f32(PROA_EXP_P3), vdupq_n_f32(PROA_EXP_P4), r);
    p = vfmaq_f32(vdupq_n_f32(PROA_EXP_P2), p, r);
    p = vfmaq_f32(vdupq_n_f32(PROA_EXP_P1), p, r);
    p = vfmaq_f32(vdupq_n_f32(PROA_EXP_P0), p, r);
    p = vfmaq_f32(r, vmulq_f32(r, r), p);
    p = vaddq_f32(p, vdupq_n_f32(1));
    /* 2^n in two factors, each a normal number, so that the product can be denormal or infinite */
    int32x4_t half = vshrq_n_s32(turns, 1), rest = vsubq_s32(turns, half), bias = vdupq_n_s32(127);
    p = vmulq_f32(p, vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(half, bias), 23)));
    return vmulq_f32(p, vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(rest, bias), 23)));
}

static inline float32x4_t proa_neon_round_bf16_4(float32x4_t x)
{
    uint32x4_t bits = vreinterpretq_u32_f32(x);
    uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
    uint32x4_t rounded = vaddq_u32(vaddq_u32(bits, vdupq_n_u32(0x7fff)), odd);
    rounded = vandq_u32(rounded, vdupq_n_u32(0xffff0000u));
    return vbslq_f32(vceqq_f32(x, x), vreinterpretq_f32_u32(rounded), x);
}

static inline float32x4_t proa_load_bf16_4(const uint16_t *from)
{
    return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(from), 16));
}

/* The first n lanes of 4. */
static inline uint32x4_t proa_mask_4(int n)
{
    const int32x4_t lanes = {0, 1, 2, 3};
    return vcgtq_s32(vdupq_n_s32(n), lanes);
}

/* At most n floats, at most 4; lanes beyond are 0. */
static inline float32x4_t proa_load_4(const float *from, int n)
{
    if (n >= 4)
        return vld1q_f32(from);
    float tail[4] = {0};
    for (int i = 0; i < n; i++)
        tail[i] = from[i];
    return vld1q_f32(tail);
}

static inline void proa_store_4(float *to, int n, float32x4_t x)
{
    if (n >= 4) {
        vst1q_f32(to, x);
        return;
    }
    float all[4];
    vst1q_f32(all, x);
    for (int i = 0; i < n; i++)
        to[i] = all[i];
}

#endif
#endif
