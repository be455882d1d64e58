/* kernels_avx512_bf16.c - the attention of one split on pairs of bf16 (vdpbf16ps), for the default precision.
 *
 * Keys are paired along depth, values and probabilities along the keys; vdpbf16ps adds two exact products to each
 * of 16 float32 sums (denormals count as zero). Tiles are those of kernels_avx512.c. An odd number of keys ends in a
 * pair whose second value is masked away, not multiplied by zero, for it may be anything.
 * Bound: 32 multiply-adds an instruction. */
#include "op/mla/kernels.h"

#include "op/mla/avx512.h"

#if defined(__x86_64__)

#define TARGET PROA_TARGET_AVX512_BF16
#define INLINE TARGET static inline __attribute__((always_inline))

enum {
    SPLIT = PROA_MLA_SPLIT,
    COLS = PROA_MLA_COLS,
    PAIRS = SPLIT / 2,
    TILE = 8,
    ACCUMULATORS = 16,
    WIDEST = 8
};

INLINE __mmask32 mask_32(int32_t n)
{
    return n >= 32 ? 0xffffffffu : n <= 0 ? 0 : (1u << n) - 1;
}

/* The 32 floats low, high as bf16 in order. */
INLINE __m512i to_bf16(__m512 low, __m512 high)
{
    return (__m512i)_mm512_cvtne2ps_pbh(high, low);
}

INLINE __m512bh broadcast(uint32_t pair)
{
    return (__m512bh)_mm512_set1_epi32((int)pair);
}

/* Elements at .. at + 31 of row j as bf16, zero beyond dim. */
INLINE __m512i load_row(const proa_mla_source *source, int32_t j, int32_t at)
{
    int64_t index = j * source->stride + at;
    int32_t left = source->dim - at;
    if (source->dtype == PROA_DTYPE_BF16)
        return _mm512_maskz_loadu_epi16(mask_32(left), (const uint16_t *)source->data + index);
    const float *row = (const float *)source->data + index;
    return to_bf16(_mm512_maskz_loadu_ps(proa_mask_16(left), row),
                   _mm512_maskz_loadu_ps(proa_mask_16(left - 16), row + 16));
}

TARGET static void pack_keys(void *packed, int32_t at, const proa_mla_source *source, int32_t keys)
{
    uint32_t *to = (uint32_t *)packed + at / 2 * SPLIT;
    int32_t pairs = proa_mla_even(source->dim) / 2;
    for (int32_t d = 0; d < pairs; d += 16)
        for (int32_t j = 0; j < SPLIT; j += 16) {
            __m512i row[16];
            PROA_UNROLLED
            for (int32_t i = 0; i < 16; i++)
                row[i] = j + i < keys ? load_row(source, j + i, 2 * d) : _mm512_setzero_si512();
            proa_mla_transpose_16x16(row);
            PROA_UNROLLED
            for (int32_t i = 0; i < 16; i++)
                if (d + i < pairs)
                    _mm512_storeu_si512(to + (d + i) * SPLIT + j, row[i]);
        }
}

TARGET static void pack_values(void *packed, int32_t cols, const proa_mla_source *source, int32_t keys)
{
    uint16_t weave[2][32]; /* element i of the first row, element i of the second (numbered from 32), ... */
    for (int i = 0; i < 64; i++)
        weave[i / 32][i % 32] = (uint16_t)(i / 2 + i % 2 * 32);
    __m512i weave_low = _mm512_loadu_si512(weave[0]), weave_high = _mm512_loadu_si512(weave[1]);
    uint32_t *to = packed;
    for (int32_t c = 0; c < cols; c += COLS)
        for (int32_t j = 0; j < SPLIT; j += 2, to += COLS) {
            __m512i first = j < keys ? load_row(source, j, c) : _mm512_setzero_si512();
            __m512i second = j + 1 < keys ? load_row(source, j + 1, c) : _mm512_setzero_si512();
            _mm512_storeu_si512(to, _mm512_permutex2var_epi16(first, weave_low, second));
            _mm512_storeu_si512(to + 16, _mm512_permutex2var_epi16(first, weave_high, second));
        }
}

TARGET static void pack_query(void *packed, int32_t at, const float *query, int32_t dim)
{
    uint16_t *to = (uint16_t *)packed + at;
    for (int32_t d = 0; d < dim; d += 32) {
        __m512 low = _mm512_maskz_loadu_ps(proa_mask_16(dim - d), query + d);
        __m512 high = _mm512_maskz_loadu_ps(proa_mask_16(dim - d - 16), query + d + 16);
        _mm512_mask_storeu_epi16(to + d, mask_32(proa_mla_even(dim) - d), to_bf16(low, high));
    }
}

/* n queries, 16 * v keys; n * v accumulators. */
INLINE void score_tile(int32_t n, int32_t v, const uint32_t *q, const uint32_t *k, int32_t pairs, float scale,
                       float *to)
{
    __m512 sum[ACCUMULATORS];
    PROA_UNROLLED
    for (int32_t i = 0; i < n * v; i++)
        sum[i] = _mm512_setzero_ps();
    for (int32_t d = 0; d < pairs; d++, k += SPLIT) {
        __m512bh key[WIDEST];
        PROA_UNROLLED
        for (int32_t j = 0; j < v; j++)
            key[j] = (__m512bh)_mm512_loadu_si512(k + 16 * j);
        PROA_UNROLLED
        for (int32_t i = 0; i < n * v; i++)
            sum[i] = _mm512_dpbf16_ps(sum[i], broadcast(q[i / v * pairs + d]), key[i % v]);
    }
    PROA_UNROLLED
    for (int32_t i = 0; i < n * v; i++)
        _mm512_storeu_ps(to + i / v * SPLIT + i % v * 16, _mm512_mul_ps(sum[i], _mm512_set1_ps(scale)));
}

TARGET static void scores(const void *queries, int32_t n, const void *keys, int32_t depth, float scale,
                          float *to)
{
    const uint32_t *q = queries, *k = keys;
    int32_t pairs = depth / 2;
    for (; n >= TILE; n -= TILE, q += TILE * pairs, to += TILE * SPLIT) {
        score_tile(TILE, 2, q, k, pairs, scale, to);
        score_tile(TILE, 2, q, k + 32, pairs, scale, to + 32);
    }
    for (; n > 0; n--, q += pairs, to += SPLIT)
        score_tile(1, 4, q, k, pairs, scale, to);
}

TARGET static float weigh(const float *s, int32_t count, bool round, float *max, float *sum, void *p)
{
    __m512 probability[4];
    (void)round; /* these kernels have no other way */
    float shrink = proa_mla_weigh_16(s, count, max, sum, probability);
    _mm512_storeu_si512(p, to_bf16(probability[0], probability[1]));
    _mm512_storeu_si512((uint16_t *)p + 32, to_bf16(probability[2], probability[3]));
    return shrink;
}

/* One pair of keys; vector j of the columns stands in block j / 2. */
INLINE void add_pair(int32_t n, int32_t v, const uint32_t *p, const uint32_t *values, __m512i mask,
                     __m512 *sum)
{
    __m512bh value[WIDEST];
    PROA_UNROLLED
    for (int32_t j = 0; j < v; j++)
        value[j] =
            (__m512bh)_mm512_and_si512(mask, _mm512_loadu_si512(values + j / 2 * COLS * PAIRS + j % 2 * 16));
    PROA_UNROLLED
    for (int32_t i = 0; i < n * v; i++)
        sum[i] = _mm512_dpbf16_ps(sum[i], broadcast(p[i / v * PAIRS]), value[i % v]);
}

/* n queries, 16 * v columns of which `dim` exist. */
INLINE void accumulate_tile(int32_t n, int32_t v, const uint32_t *p, const float *shrink, int32_t count,
                            const uint32_t *values, int32_t dim, float *out, int64_t out_stride)
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
    for (int32_t j = 0; j < count / 2; j++, values += COLS)
        add_pair(n, v, p + j, values, _mm512_set1_epi32(-1), sum);
    if (count & 1)
        add_pair(n, v, p + count / 2, values, _mm512_set1_epi32(0xffff), sum);
    PROA_UNROLLED
    for (int32_t i = 0; i < n * v; i++)
        _mm512_mask_storeu_ps(out + i / v * out_stride + i % v * 16, mask[i % v], sum[i]);
}

/* Queries in tiles of TILE, block by block of columns; the rest one by one, WIDEST vectors of columns at once. */
TARGET static void accumulate(const void *p, const float *shrink, int32_t n, int32_t count,
                              const void *values, int32_t dim, int32_t cols, float *out, int64_t out_stride)
{
    const uint32_t *weights = p, *v = values;
    int32_t tiled = n / TILE * TILE;
    for (int32_t c = 0; c < dim; c += COLS)
        for (int32_t i = 0; i < tiled; i += TILE)
            accumulate_tile(TILE, 2, weights + i * PAIRS, shrink + i, count, v + c * PAIRS, dim - c,
                            out + i * out_stride + c, out_stride);
    for (int32_t i = tiled; i < n; i++) {
        int32_t c = 0;
        for (; c + 16 * WIDEST <= cols; c += 16 * WIDEST)
            accumulate_tile(1, WIDEST, weights + i * PAIRS, shrink + i, count, v + c * PAIRS, dim - c,
                            out + i * out_stride + c, out_stride);
        for (; c < dim; c += COLS)
            accumulate_tile(1, 2, weights + i * PAIRS, shrink + i, count, v + c * PAIRS, dim - c,
                            out + i * out_stride + c, out_stride);
    }
}

TARGET static void finish(const float *weighted, float sum, bool round, int32_t dim, float *out)
{
    proa_mla_finish_16(weighted, sum, round, dim, out);
}

const proa_mla_kernels proa_mla_kernels_avx512_bf16 = {
    .element_bytes = sizeof(uint16_t),
    .pack_keys = pack_keys,
    .pack_values = pack_values,
    .pack_query = pack_query,
    .scores = scores,
    .weigh = weigh,
    .accumulate = accumulate,
    .finish = finish,
};
#endif
