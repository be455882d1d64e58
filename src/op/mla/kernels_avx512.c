/* kernels_avx512.c - the attention of one split in float32, 16 lanes.
 *
 * Scores: 8 queries x 32 keys in 16 accumulators; each step of depth loads 2 vectors of keys and 8 scalars for 16
 * multiply-adds. Values: 8 queries x 32 columns likewise, a step a key. With fewer queries the same sums run in
 * fewer registers. Bound: 16 multiply-adds an instruction. */
#include "op/mla/kernels.h"

#include "op/mla/avx512.h"

#if defined(__x86_64__)

#define TARGET PROA_TARGET_AVX512
#define INLINE TARGET static inline __attribute__((always_inline))

enum { SPLIT = PROA_MLA_SPLIT, COLS = PROA_MLA_COLS, TILE = 8, ACCUMULATORS = 16, WIDEST = 8 };

/* Elements at .. at + 15 of row j as floats, zero beyond dim. */
INLINE __m512 load_row(const proa_mla_source *source, int32_t j, int32_t at)
{
    int64_t index = j * source->stride + at;
    __mmask16 mask = proa_mask_16(source->dim - at);
    if (source->dtype == PROA_DTYPE_F32)
        return _mm512_maskz_loadu_ps(mask, (const float *)source->data + index);
    __m256i half = _mm256_maskz_loadu_epi16(mask, (const uint16_t *)source->data + index);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

TARGET static void pack_keys(void *packed, int32_t at, const proa_mla_source *source, int32_t keys)
{
    float *to = (float *)packed + at * SPLIT;
    int32_t even = proa_mla_even(source->dim);
    for (int32_t d = 0; d < source->dim; d += 16)
        for (int32_t j = 0; j < SPLIT; j += 16) {
            __m512i row[16];
            PROA_UNROLLED
            for (int32_t i = 0; i < 16; i++)
                row[i] =
                    j + i < keys ? _mm512_castps_si512(load_row(source, j + i, d)) : _mm512_setzero_si512();
            proa_mla_transpose_16x16(row);
            PROA_UNROLLED
            for (int32_t i = 0; i < 16; i++)
                if (d + i < even)
                    _mm512_storeu_si512(to + (d + i) * SPLIT + j, row[i]);
        }
}

TARGET static void pack_values(void *packed, int32_t cols, const proa_mla_source *source, int32_t keys)
{
    float *to = packed;
    for (int32_t c = 0; c < cols; c += COLS)
        for (int32_t j = 0; j < SPLIT; j++, to += COLS) {
            bool there = j < keys;
            _mm512_storeu_ps(to, there ? load_row(source, j, c) : _mm512_setzero_ps());
            _mm512_storeu_ps(to + 16, there ? load_row(source, j, c + 16) : _mm512_setzero_ps());
        }
}

/* n queries, 16 * v keys; n * v accumulators. */
INLINE void score_tile(int32_t n, int32_t v, const float *q, const float *k, int32_t depth, float scale,
                       float *to)
{
    __m512 sum[ACCUMULATORS];
    PROA_UNROLLED
    for (int32_t i = 0; i < n * v; i++)
        sum[i] = _mm512_setzero_ps();
    for (int32_t d = 0; d < depth; d++, k += SPLIT) {
        __m512 key[WIDEST];
        PROA_UNROLLED
        for (int32_t j = 0; j < v; j++)
            key[j] = _mm512_loadu_ps(k + 16 * j);
        PROA_UNROLLED
        for (int32_t i = 0; i < n * v; i++)
            sum[i] = _mm512_fmadd_ps(_mm512_set1_ps(q[i / v * depth + d]), key[i % v], sum[i]);
    }
    PROA_UNROLLED
    for (int32_t i = 0; i < n * v; i++)
        _mm512_storeu_ps(to + i / v * SPLIT + i % v * 16, _mm512_mul_ps(sum[i], _mm512_set1_ps(scale)));
}

TARGET static void scores(const void *queries, int32_t n, const void *keys, int32_t depth, float scale,
                          float *to)
{
    const float *q = queries, *k = keys;
    for (; n >= TILE; n -= TILE, q += TILE * depth, to += TILE * SPLIT) {
        score_tile(TILE, 2, q, k, depth, scale, to);
        score_tile(TILE, 2, q, k + 32, depth, scale, to + 32);
    }
    for (; n > 0; n--, q += depth, to += SPLIT)
        score_tile(1, 4, q, k, depth, scale, to);
}

TARGET static float weigh(const float *s, int32_t count, bool round, float *max, float *sum, void *p)
{
    __m512 probability[4];
    float shrink = proa_mla_weigh_16(s, count, max, sum, probability);
    PROA_UNROLLED
    for (int i = 0; i < 4; i++)
        _mm512_storeu_ps((float *)p + 16 * i, round ? proa_round_bf16_16(probability[i]) : probability[i]);
    return shrink;
}

/* n queries, 16 * v columns of which `dim` exist; vector j of the columns stands in block j / 2. */
INLINE void accumulate_tile(int32_t n, int32_t v, const float *p, const float *shrink, int32_t count,
                            const float *values, int32_t dim, float *out, int64_t out_stride)
{
    __m512 sum[ACCUMULATORS];
    __mmask16 mask[WIDEST];
    PROA_UNROLLED
    for (int32_t j = 0; j < v; j++)
        mask[j] = proa_mask_16(dim - 16 * j);
    PROA_UNROLLED
    for (int32_t i = 0; i < n * v; i++)
        sum[i] = _mm512_mul_ps(_mm512_set1_ps(shrink[i / v]),
                               _mm512_maskz_loadu_ps(mask[i % v], out + i / v * out_stride + i % v * 16));
    for (int32_t k = 0; k < count; k++, values += COLS) {
        __m512 value[WIDEST];
        PROA_UNROLLED
        for (int32_t j = 0; j < v; j++)
            value[j] = _mm512_loadu_ps(values + j / 2 * COLS * SPLIT + j % 2 * 16);
        PROA_UNROLLED
        for (int32_t i = 0; i < n * v; i++)
            sum[i] = _mm512_fmadd_ps(_mm512_set1_ps(p[i / v * SPLIT + k]), value[i % v], sum[i]);
    }
    PROA_UNROLLED
    for (int32_t i = 0; i < n * v; i++)
        _mm512_mask_storeu_ps(out + i / v * out_stride + i % v * 16, mask[i % v], sum[i]);
}

/* Queries in tiles of TILE, block by block of columns; the rest one by one, WIDEST vectors of columns at once. */
TARGET static void accumulate(const void *p, const float *shrink, int32_t n, int32_t count,
                              const void *values, int32_t dim, int32_t cols, float *out, int64_t out_stride)
{
    const float *weights = p, *v = values;
    int32_t tiled = n / TILE * TILE;
    for (int32_t c = 0; c < dim; c += COLS)
        for (int32_t i = 0; i < tiled; i += TILE)
            accumulate_tile(TILE, 2, weights + i * SPLIT, shrink + i, count, v + c * SPLIT, dim - c,
                            out + i * out_stride + c, out_stride);
    for (int32_t i = tiled; i < n; i++) {
        int32_t c = 0;
        for (; c + 16 * WIDEST <= cols; c += 16 * WIDEST)
            accumulate_tile(1, WIDEST, weights + i * SPLIT, shrink + i, count, v + c * SPLIT, dim - c,
                            out + i * out_stride + c, out_stride);
        for (; c < dim; c += COLS)
            accumulate_tile(1, 2, weights + i * SPLIT, shrink + i, count, v + c * SPLIT, dim - c,
                            out + i * out_stride + c, out_stride);
    }
}

TARGET static void finish(const float *weighted, float sum, bool round, int32_t dim, float *out)
{
    proa_mla_finish_16(weighted, sum, round, dim, out);
}

const proa_mla_kernels proa_mla_kernels_avx512 = {
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
