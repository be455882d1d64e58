/* kernels_avx512.c - the passes over a row, 16 logits at a time. Bound: the row's bytes; `fill` also spends a scalar
 * addition on each token that is not in the tail. */
#include "op/sample/kernels.h"

#include "op/vector.h"

#include <float.h>

#if defined(__x86_64__)

#define TARGET PROA_TARGET_AVX512
#define INLINE TARGET static inline __attribute__((always_inline))

enum { CHUNK = 4096 }; /* floats in which find_best looks for the place of a new maximum */

/* 16 logits from `id` on; those beyond the row are -inf. */
INLINE __m512 load(const float *logits, int32_t id, int32_t vocab)
{
    return _mm512_mask_loadu_ps(_mm512_set1_ps(-INFINITY), proa_mask_16(vocab - id), logits + id);
}

TARGET static int32_t find_best(const float *logits, int32_t vocab, bool *clean)
{
    const __m512 most = _mm512_set1_ps(FLT_MAX);
    float best = -INFINITY;
    int32_t chunk = 0;
    __mmask16 dirty = 0;
    for (int32_t first = 0; first < vocab; first += CHUNK) {
        int32_t end = vocab - first < CHUNK ? vocab : first + CHUNK, id = first;
        __m512 max[4];
        PROA_UNROLLED
        for (int i = 0; i < 4; i++)
            max[i] = _mm512_set1_ps(-INFINITY);
        for (; id < end; id += 64) {
            PROA_UNROLLED
            for (int i = 0; i < 4; i++) {
                __m512 x = load(logits, id + 16 * i, end);
                dirty |= _mm512_cmp_ps_mask(x, most, _CMP_NLE_UQ);
                max[i] = _mm512_max_ps(x, max[i]);
            }
        }
        float here =
            _mm512_reduce_max_ps(_mm512_max_ps(_mm512_max_ps(max[0], max[1]), _mm512_max_ps(max[2], max[3])));
        if (here > best) {
            best = here;
            chunk = first;
        }
    }
    *clean = dirty == 0;
    for (int32_t id = chunk; id < vocab; id += 16) {
        __mmask16 equal = _mm512_cmp_ps_mask(load(logits, id, vocab), _mm512_set1_ps(best), _CMP_EQ_OQ);
        if (equal != 0)
            return id + __builtin_ctz(equal);
    }
    return 0;
}

TARGET static double sum_exp(const float *logits, int32_t vocab, float max)
{
    __m512d low = _mm512_setzero_pd(), high = _mm512_setzero_pd();
    for (int32_t id = 0; id < vocab; id += 16) {
        __m512 e = proa_exp_16(_mm512_sub_ps(load(logits, id, vocab), _mm512_set1_ps(max)));
        low = _mm512_add_pd(low, _mm512_cvtps_pd(_mm512_castps512_ps256(e)));
        high = _mm512_add_pd(high, _mm512_cvtps_pd(_mm512_extractf32x8_ps(e, 1)));
    }
    return _mm512_reduce_add_pd(_mm512_add_pd(low, high));
}

TARGET static int32_t next_above(const float *logits, int32_t from, int32_t vocab, float bound)
{
    for (; from < vocab; from += 16) {
        __mmask16 above = _mm512_cmp_ps_mask(load(logits, from, vocab), _mm512_set1_ps(bound), _CMP_GT_OQ);
        if (above != 0)
            return from + __builtin_ctz(above);
    }
    return vocab;
}

/* z of 16 logits, and their buckets; `there` has those that are in one. */
INLINE __m512 distances(const proa_sample_span *span, int32_t id, __m512i *bucket, __mmask16 *there)
{
    __m512 x = load(span->logits, id, span->vocab);
    __m512 z =
        _mm512_mul_ps(_mm512_sub_ps(_mm512_set1_ps(span->max), x), _mm512_set1_ps(span->inverse_temperature));
    __m512 index = _mm512_mul_ps(z, _mm512_set1_ps(PROA_SAMPLE_BUCKETS_PER_UNIT));
    /* the constant second: it comes out when z is NaN */
    *bucket = _mm512_cvttps_epi32(_mm512_min_ps(index, _mm512_set1_ps(PROA_SAMPLE_TAIL)));
    *there = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-INFINITY), _CMP_NEQ_OQ);
    return z;
}

TARGET static void fill(const proa_sample_span *span, proa_sample_bucket *buckets)
{
    __m512d low = _mm512_setzero_pd(), high = _mm512_setzero_pd(); /* of the tail */
    int32_t tail_count = 0;
    for (int32_t id = 0; id < span->vocab; id += 16) {
        __m512i bucket;
        __mmask16 there;
        __m512 z = distances(span, id, &bucket, &there);
        __m512 e = proa_exp_16(_mm512_sub_ps(_mm512_setzero_ps(), z));
        __mmask16 tail = _mm512_mask_cmpeq_epi32_mask(there, bucket, _mm512_set1_epi32(PROA_SAMPLE_TAIL));
        __m512 tail_e = _mm512_maskz_mov_ps(tail, e);
        low = _mm512_add_pd(low, _mm512_cvtps_pd(_mm512_castps512_ps256(tail_e)));
        high = _mm512_add_pd(high, _mm512_cvtps_pd(_mm512_extractf32x8_ps(tail_e, 1)));
        tail_count += __builtin_popcount(tail);
        unsigned others = (unsigned)(there & ~tail) & 0xffffu;
        if (others == 0)
            continue;
        int32_t at[16];
        float weight[16];
        _mm512_storeu_si512(at, bucket);
        _mm512_storeu_ps(weight, e);
        for (; others != 0; others &= others - 1) {
            int i = __builtin_ctz(others);
            buckets[at[i]].count++;
            buckets[at[i]].weight += weight[i];
        }
    }
    buckets[PROA_SAMPLE_TAIL].weight = _mm512_reduce_add_pd(_mm512_add_pd(low, high));
    buckets[PROA_SAMPLE_TAIL].count = tail_count;
}

TARGET static int32_t collect(const proa_sample_span *span, int32_t wanted, proa_sample_item *items)
{
    int32_t count = 0;
    for (int32_t id = 0; id < span->vocab; id += 16) {
        __m512i bucket;
        __mmask16 there;
        __m512 z = distances(span, id, &bucket, &there);
        unsigned hits = _mm512_mask_cmpeq_epi32_mask(there, bucket, _mm512_set1_epi32(wanted));
        if (hits == 0)
            continue;
        float distance[16];
        _mm512_storeu_ps(distance, z);
        for (; hits != 0; hits &= hits - 1) {
            int i = __builtin_ctz(hits);
            items[count++] = (proa_sample_item){distance[i], id + i};
        }
    }
    return count;
}

const proa_sample_kernels proa_sample_kernels_avx512 = {
    .find_best = find_best,
    .sum_exp = sum_exp,
    .next_above = next_above,
    .fill = fill,
    .collect = collect,
};
#endif
