/* kernels_avx2.c - the passes over a row, 8 logits at a time. Bound: the row's bytes; `fill` also spends a scalar addition
 * on each token that is not in the tail. */
#include "op/sample/kernels.h"

#include "op/vector.h"

#include <float.h>

#if defined(__x86_64__)

#define TARGET PROA_TARGET_AVX2
#define INLINE TARGET static inline __attribute__((always_inline))

enum { CHUNK = 4096 }; /* floats in which find_best looks for the place of a new maximum */

/* 8 logits from `id` on; those beyond the row are -inf. */
INLINE __m256 load(const float *logits, int32_t id, int32_t vocab)
{
    if (vocab - id >= 8)
        return _mm256_loadu_ps(logits + id);
    __m256i mask = proa_mask_8(vocab - id);
    __m256 x = _mm256_maskload_ps(logits + id, mask);
    return _mm256_blendv_ps(_mm256_set1_ps(-INFINITY), x, _mm256_castsi256_ps(mask));
}

INLINE float greatest(__m256 x)
{
    __m128 half = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    half = _mm_max_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
}

TARGET static int32_t find_best(const float *logits, int32_t vocab, bool *clean)
{
    const __m256 most = _mm256_set1_ps(FLT_MAX);
    __m256 dirty = _mm256_setzero_ps();
    float best = -INFINITY;
    int32_t chunk = 0;
    for (int32_t first = 0; first < vocab; first += CHUNK) {
        int32_t end = vocab - first < CHUNK ? vocab : first + CHUNK;
        __m256 max[4];
        PROA_UNROLLED
        for (int i = 0; i < 4; i++)
            max[i] = _mm256_set1_ps(-INFINITY);
        for (int32_t id = first; id < end; id += 32) {
            PROA_UNROLLED
            for (int i = 0; i < 4; i++) {
                __m256 x = load(logits, id + 8 * i, end);
                dirty = _mm256_or_ps(dirty, _mm256_cmp_ps(x, most, _CMP_NLE_UQ));
                max[i] = _mm256_max_ps(x, max[i]);
            }
        }
        float here = greatest(_mm256_max_ps(_mm256_max_ps(max[0], max[1]), _mm256_max_ps(max[2], max[3])));
        if (here > best) {
            best = here;
            chunk = first;
        }
    }
    *clean = _mm256_movemask_ps(dirty) == 0;
    for (int32_t id = chunk; id < vocab; id += 8) {
        __m256 equal = _mm256_cmp_ps(load(logits, id, vocab), _mm256_set1_ps(best), _CMP_EQ_OQ);
        if (_mm256_movemask_ps(equal) != 0)
            return id + __builtin_ctz((unsigned)_mm256_movemask_ps(equal));
    }
    return 0;
}

/* The sum of 8 doubles in two vectors. */
INLINE double total_of(__m256d low, __m256d high)
{
    __m256d all = _mm256_add_pd(low, high);
    __m128d half = _mm_add_pd(_mm256_castpd256_pd128(all), _mm256_extractf128_pd(all, 1));
    return _mm_cvtsd_f64(_mm_add_sd(half, _mm_unpackhi_pd(half, half)));
}

INLINE void add_doubles(__m256d *low, __m256d *high, __m256 x)
{
    *low = _mm256_add_pd(*low, _mm256_cvtps_pd(_mm256_castps256_ps128(x)));
    *high = _mm256_add_pd(*high, _mm256_cvtps_pd(_mm256_extractf128_ps(x, 1)));
}

TARGET static double sum_exp(const float *logits, int32_t vocab, float max)
{
    __m256d low = _mm256_setzero_pd(), high = _mm256_setzero_pd();
    for (int32_t id = 0; id < vocab; id += 8)
        add_doubles(&low, &high, proa_exp_8(_mm256_sub_ps(load(logits, id, vocab), _mm256_set1_ps(max))));
    return total_of(low, high);
}

TARGET static int32_t next_above(const float *logits, int32_t from, int32_t vocab, float bound)
{
    for (; from < vocab; from += 8) {
        __m256 above = _mm256_cmp_ps(load(logits, from, vocab), _mm256_set1_ps(bound), _CMP_GT_OQ);
        if (_mm256_movemask_ps(above) != 0)
            return from + __builtin_ctz((unsigned)_mm256_movemask_ps(above));
    }
    return vocab;
}

/* z of 8 logits, and their buckets; `there` has those that are in one. */
INLINE __m256 distances(const proa_sample_span *span, int32_t id, __m256i *bucket, __m256 *there)
{
    __m256 x = load(span->logits, id, span->vocab);
    __m256 z =
        _mm256_mul_ps(_mm256_sub_ps(_mm256_set1_ps(span->max), x), _mm256_set1_ps(span->inverse_temperature));
    __m256 index = _mm256_mul_ps(z, _mm256_set1_ps(PROA_SAMPLE_BUCKETS_PER_UNIT));
    /* the constant second: it comes out when z is NaN */
    *bucket = _mm256_cvttps_epi32(_mm256_min_ps(index, _mm256_set1_ps(PROA_SAMPLE_TAIL)));
    *there = _mm256_cmp_ps(x, _mm256_set1_ps(-INFINITY), _CMP_NEQ_OQ);
    return z;
}

INLINE __m256 in_bucket(__m256i bucket, int32_t wanted, __m256 there)
{
    return _mm256_and_ps(there, _mm256_castsi256_ps(_mm256_cmpeq_epi32(bucket, _mm256_set1_epi32(wanted))));
}

TARGET static void fill(const proa_sample_span *span, proa_sample_bucket *buckets)
{
    __m256d low = _mm256_setzero_pd(), high = _mm256_setzero_pd(); /* of the tail */
    int32_t tail_count = 0;
    for (int32_t id = 0; id < span->vocab; id += 8) {
        __m256i bucket;
        __m256 there, z = distances(span, id, &bucket, &there);
        __m256 e = proa_exp_8(_mm256_sub_ps(_mm256_setzero_ps(), z));
        __m256 tail = in_bucket(bucket, PROA_SAMPLE_TAIL, there);
        add_doubles(&low, &high, _mm256_and_ps(tail, e));
        tail_count += __builtin_popcount((unsigned)_mm256_movemask_ps(tail));
        unsigned others = (unsigned)_mm256_movemask_ps(_mm256_andnot_ps(tail, there));
        if (others == 0)
            continue;
        int32_t at[8];
        float weight[8];
        _mm256_storeu_si256((void *)at, bucket);
        _mm256_storeu_ps(weight, e);
        for (; others != 0; others &= others - 1) {
            int i = __builtin_ctz(others);
            buckets[at[i]].count++;
            buckets[at[i]].weight += weight[i];
        }
    }
    buckets[PROA_SAMPLE_TAIL].weight = total_of(low, high);
    buckets[PROA_SAMPLE_TAIL].count = tail_count;
}

TARGET static int32_t collect(const proa_sample_span *span, int32_t wanted, proa_sample_item *items)
{
    int32_t count = 0;
    for (int32_t id = 0; id < span->vocab; id += 8) {
        __m256i bucket;
        __m256 there, z = distances(span, id, &bucket, &there);
        unsigned hits = (unsigned)_mm256_movemask_ps(in_bucket(bucket, wanted, there));
        if (hits == 0)
            continue;
        float distance[8];
        _mm256_storeu_ps(distance, z);
        for (; hits != 0; hits &= hits - 1) {
            int i = __builtin_ctz(hits);
            items[count++] = (proa_sample_item){distance[i], id + i};
        }
    }
    return count;
}

const proa_sample_kernels proa_sample_kernels_avx2 = {
    .find_best = find_best,
    .sum_exp = sum_exp,
    .next_above = next_above,
    .fill = fill,
    .collect = collect,
};
#endif
