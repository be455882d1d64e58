/* avx512.h - what the two AVX-512 variants of the split's attention share. */
#ifndef PROA_OP_MLA_AVX512_H
#define PROA_OP_MLA_AVX512_H

#include "op/mla/kernels.h"
#include "op/vector.h"

#include <math.h>

#if defined(__x86_64__)

/* 16 rows of 16 words become 16 columns, in place. */
PROA_TARGET_AVX512 static inline void proa_mla_transpose_16x16(__m512i row[16])
{
    __m512i t[16];
    PROA_UNROLLED
    for (int i = 0; i < 16; i += 2) { /* words of two rows, within each 128 bits */
        t[i] = _mm512_unpacklo_epi32(row[i], row[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(row[i], row[i + 1]);
    }
    PROA_UNROLLED
    for (int i = 0; i < 16; i += 4) { /* of four rows */
        row[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        row[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        row[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        row[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    PROA_UNROLLED
    for (int i = 0; i < 4; i++) { /* quarters of eight rows */
        t[i] = _mm512_shuffle_i32x4(row[i], row[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_i32x4(row[i], row[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_i32x4(row[i + 8], row[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_i32x4(row[i + 8], row[i + 12], 0xdd);
    }
    PROA_UNROLLED
    for (int i = 0; i < 4; i++) { /* of all sixteen */
        row[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
        row[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
        row[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
        row[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
    }
}

/* `weigh` up to the probabilities, which it leaves in p [4]. */
PROA_TARGET_AVX512 static inline float proa_mla_weigh_16(const float *s, int32_t count, float *max,
                                                         float *sum, __m512 p[4])
{
    __m512 lowest = _mm512_set1_ps(-INFINITY);
    __mmask16 seen[4];
    PROA_UNROLLED
    for (int i = 0; i < 4; i++) {
        seen[i] = proa_mask_16(count - 16 * i);
        p[i] = _mm512_mask_loadu_ps(lowest, seen[i], s + 16 * i);
    }
    __m512 most = _mm512_max_ps(_mm512_max_ps(p[0], p[1]), _mm512_max_ps(p[2], p[3]));
    float top = _mm512_reduce_max_ps(most);
    top = *max > top ? *max : top;
    PROA_UNROLLED
    for (int i = 0; i < 4; i++)
        p[i] = _mm512_maskz_mov_ps(seen[i], proa_exp_16(_mm512_sub_ps(p[i], _mm512_set1_ps(top))));
    float total = _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(p[0], p[1]), _mm512_add_ps(p[2], p[3])));
    float shrink = 1; /* e^0, and most often so */
    if (*max != top)
        shrink = _mm512_cvtss_f32(proa_exp_16(_mm512_set1_ps(*max - top)));
    *sum = *sum * shrink + total;
    *max = top;
    return shrink;
}

/* `finish`. */
PROA_TARGET_AVX512 static inline void proa_mla_finish_16(const float *weighted, float sum, bool round,
                                                         int32_t dim, float *out)
{
    for (int32_t c = 0; c < dim; c += 16) {
        __mmask16 mask = proa_mask_16(dim - c);
        __m512 o = _mm512_div_ps(_mm512_maskz_loadu_ps(mask, weighted + c), _mm512_set1_ps(sum));
        _mm512_mask_storeu_ps(out + c, mask, round ? proa_round_bf16_16(o) : o);
    }
}

#endif
#endif
