/* kernels_avx2.c - the attention of one split in float32, 8 lanes.
 *
 * Scores: 4 queries x 16 keys in 8 accumulators, as many as the multiply-add's latency needs; each step of depth
 * loads 2 vectors of keys and 4 scalars. Values: 4 queries x 16 columns likewise, a step a key.
 * Bound: 8 multiply-adds an instruction. */
#include "op/mla/kernels.h"

#include "op/vector.h"

#include <math.h>

#if defined(__x86_64__)

#define TARGET PROA_TARGET_AVX2
#define INLINE TARGET static inline __attribute__((always_inline))

enum {
    SPLIT = PROA_MLA_SPLIT,
    COLS = PROA_MLA_COLS,
    VECTORS = SPLIT / 8,
    TILE = 4,
    ACCUMULATORS = 8,
    WIDEST = 4
};

/* Elements at .. at + 7 of row j as floats, zero beyond dim. */
INLINE __m256 load_row(const proa_mla_source *source, int32_t j, int32_t at)
{
    int64_t index = j * source->stride + at;
    int32_t left = source->dim - at;
    if (left <= 0)
        return _mm256_setzero_ps();
    if (source->dtype == PROA_DTYPE_F32)
        return proa_load_8((const float *)source->data + index, left);
    const uint16_t *from = (const uint16_t *)source->data + index;
    if (left >= 8)
        return proa_load_bf16_8(from);
    uint16_t tail[8] = {0};
    __builtin_memcpy(tail, from, (size_t)left * sizeof *from);
    return proa_load_bf16_8(tail);
}

/* 8 rows of 8 floats become 8 columns, in place. */
INLINE void transpose_8x8(__m256 row[8])
{
    __m256 t[8];
    PROA_UNROLLED
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_ps(row[i], row[i + 1]);
        t[i + 1] = _mm256_unpackhi_ps(row[i], row[i + 1]);
    }
    PROA_UNROLLED
    for (int i = 0; i < 8; i += 4) {
        row[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
        row[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
        row[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
        row[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
    }
    PROA_UNROLLED
    for (int i = 0; i < 4; i++) {
        t[i] = _mm256_permute2f128_ps(row[i], row[i + 4], 0x20);
        t[i + 4] = _mm256_permute2f128_ps(row[i], row[i + 4], 0x31);
    }
    __builtin_memcpy(row, t, sizeof t);
}

TARGET static void pack_keys(void *packed, int32_t at, const proa_mla_source *source, int32_t keys)
{
    float *to = (float *)packed + at * SPLIT;
    int32_t even = proa_mla_even(source->dim);
    for (int32_t d = 0; d < source->dim; d += 8)
        for (int32_t j = 0; j < SPLIT; j += 8) {
            __m256 row[8];
            PROA_UNROLLED
            for (int32_t i = 0; i < 8; i++)
                row[i] = j + i < keys ? load_row(source, j + i, d) : _mm256_setzero_ps();
            transpose_8x8(row);
            PROA_UNROLLED
            for (int32_t i = 0; i < 8; i++)
                if (d + i < even)
                    _mm256_storeu_ps(to + (d + i) * SPLIT + j, row[i]);
        }
}

TARGET static void pack_values(void *packed, int32_t cols, const proa_mla_source *source, int32_t keys)
{
    float *to = packed;
    for (int32_t c = 0; c < cols; c += COLS)
        for (int32_t j = 0; j < SPLIT; j++, to += COLS)
            for (int32_t i = 0; i < COLS; i += 8)
                _mm256_storeu_ps(to + i, j < keys ? load_row(source, j, c + i) : _mm256_setzero_ps());
}

/* n queries, 8 * v keys; n * v accumulators. */
INLINE void score_tile(int32_t n, int32_t v, const float *q, const float *k, int32_t depth, float scale,
                       float *to)
{
    __m256 sum[ACCUMULATORS];
    PROA_UNROLLED
    for (int32_t i = 0; i < n * v; i++)
        sum[i] = _mm256_setzero_ps();
    for (int32_t d = 0; d < depth; d++, k += SPLIT) {
        __m256 key[WIDEST];
        PROA_UNROLLED
        for (int32_t j = 0; j < v; j++)
            key[j] = _mm256_loadu_ps(k + 8 * j);
        PROA_UNROLLED
        for (int32_t i = 0; i < n * v; i++)
            sum[i] = _mm256_fmadd_ps(_mm256_broadcast_ss(q + i / v * depth + d), key[i % v], sum[i]);
    }
    PROA_UNROLLED
    for (int32_t i = 0; i < n * v; i++)
        _mm256_storeu_ps(to + i / v * SPLIT + i % v * 8, _mm256_mul_ps(sum[i], _mm256_set1_ps(scale)));
}

TARGET static void scores(const void *queries, int32_t n, const void *keys, int32_t depth, float scale,
                          float *to)
{
    const float *q = queries, *k = keys;
    for (; n >= TILE; n -= TILE, q += TILE * depth, to += TILE * SPLIT)
        for (int32_t j = 0; j < SPLIT; j += 16)
            score_tile(TILE, 2, q, k + j, depth, scale, to + j);
    for (; n > 0; n--, q += depth, to += SPLIT)
        for (int32_t j = 0; j < SPLIT; j += 8 * WIDEST)
            score_tile(1, WIDEST, q, k + j, depth, scale, to + j);
}

INLINE float greatest(__m256 x)
{
    __m128 half = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    half = _mm_max_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
}

INLINE float total_of(__m256 x)
{
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}

TARGET static float weigh(const float *s, int32_t count, bool round, float *max, float *sum, void *p)
{
    __m256 score[VECTORS], most = _mm256_set1_ps(-INFINITY), all = _mm256_setzero_ps();
    PROA_UNROLLED
    for (int i = 0; i < VECTORS; i++) {
        __m256 seen = _mm256_castsi256_ps(proa_mask_8(count - 8 * i));
        score[i] = _mm256_blendv_ps(_mm256_set1_ps(-INFINITY), _mm256_loadu_ps(s + 8 * i), seen);
        most = _mm256_max_ps(most, score[i]);
    }
    float top = greatest(most);
    top = *max > top ? *max : top;
    PROA_UNROLLED
    for (int i = 0; i < VECTORS; i++) {
        __m256 seen = _mm256_castsi256_ps(proa_mask_8(count - 8 * i));
        __m256 e = _mm256_and_ps(seen, proa_exp_8(_mm256_sub_ps(score[i], _mm256_set1_ps(top))));
        all = _mm256_add_ps(all, e);
        _mm256_storeu_ps((float *)p + 8 * i, round ? proa_round_bf16_8(e) : e);
    }
    float shrink = 1; /* e^0, and most often so */
    if (*max != top)
        shrink = _mm256_cvtss_f32(proa_exp_8(_mm256_set1_ps(*max - top)));
    *sum = *sum * shrink + total_of(all);
    *max = top;
    return shrink;
}

/* n queries, 8 * v columns of one block, of which `dim` exist. */
INLINE void accumulate_tile(int32_t n, int32_t v, const float *p, const float *shrink, int32_t count,
                            const float *values, int32_t dim, float *out, int64_t out_stride)
{
    __m256 sum[ACCUMULATORS];
    PROA_UNROLLED
    for (int32_t i = 0; i < n * v; i++)
        sum[i] = _mm256_mul_ps(_mm256_broadcast_ss(shrink + i / v),
                               proa_load_8(out + i / v * out_stride + i % v * 8, dim - i % v * 8));
    for (int32_t k = 0; k < count; k++, values += COLS) {
        __m256 value[WIDEST];
        PROA_UNROLLED
        for (int32_t j = 0; j < v; j++)
            value[j] = _mm256_loadu_ps(values + 8 * j);
        PROA_UNROLLED
        for (int32_t i = 0; i < n * v; i++)
            sum[i] = _mm256_fmadd_ps(_mm256_broadcast_ss(p + i / v * SPLIT + k), value[i % v], sum[i]);
    }
    PROA_UNROLLED
    for (int32_t i = 0; i < n * v; i++)
        proa_store_8(out + i / v * out_stride + i % v * 8, dim - i % v * 8, sum[i]);
}

/* Queries in tiles of TILE, half a block of columns at once; the rest one by one, a block at once. */
TARGET static void accumulate(const void *p, const float *shrink, int32_t n, int32_t count,
                              const void *values, int32_t dim, int32_t cols, float *out, int64_t out_stride)
{
    const float *weights = p;
    int32_t tiled = n / TILE * TILE;
    (void)cols;
    for (int32_t c = 0; c < dim; c += COLS) {
        const float *v = (const float *)values + c * SPLIT;
        for (int32_t half = 0; half < COLS && c + half < dim; half += 16)
            for (int32_t i = 0; i < tiled; i += TILE)
                accumulate_tile(TILE, 2, weights + i * SPLIT, shrink + i, count, v + half, dim - c - half,
                                out + i * out_stride + c + half, out_stride);
        for (int32_t i = tiled; i < n; i++)
            accumulate_tile(1, WIDEST, weights + i * SPLIT, shrink + i, count, v, dim - c,
                            out + i * out_stride + c, out_stride);
    }
}

TARGET static void finish(const float *weighted, float sum, bool round, int32_t dim, float *out)
{
    for (int32_t c = 0; c < dim; c += 8) {
        __m256 o = _mm256_div_ps(proa_load_8(weighted + c, dim - c), _mm256_set1_ps(sum));
        proa_store_8(out + c, dim - c, round ? proa_round_bf16_8(o) : o);
    }
}

const proa_mla_kernels proa_mla_kernels_avx2 = {
    .element_bytes = sizeof(float),
    .pack_keys = pack_keys,
    .pack_values = pack_values,
    .pack_query = proa_mla_pack_query_f32,
    .scores = scores,
    .weigh = weigh,
    .accumulate = accumulate,
    .finish = finish,
};
#endif
