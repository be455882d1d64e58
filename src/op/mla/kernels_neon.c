/* kernels_neon.c - the attention of one split in float32, 4 lanes: arm64's, in the place of kernels_portable.c there.
 *
 * Scores: 4 queries x 16 keys in 16 accumulators, as many as four pipes with a latency of four keep busy; each step of depth loads 4
 * vectors of keys and 4 scalars. Values: 4 queries x 16 columns likewise, a step a key.
 * Bound: 4 multiply-adds an instruction. */
#include "op/mla/kernels.h"

#include "op/vector.h"

#include <math.h>

#define INLINE static inline __attribute__((always_inline))

enum {
    SPLIT = PROA_MLA_SPLIT,
    COLS = PROA_MLA_COLS,
    VECTORS = SPLIT / 4,
    TILE = 4,
    NARROW = 4, /* vectors of a tile's rows */
    WIDEST = 8, /* of a query alone */
    ACCUMULATORS = TILE * NARROW,
};

/* Elements at .. at + 3 of row j as floats, zero beyond dim. */
INLINE float32x4_t load_row(const proa_mla_source *source, int32_t j, int32_t at)
{
    int64_t index = j * source->stride + at;
    int32_t left = source->dim - at;
    if (left <= 0)
        return vdupq_n_f32(0);
    if (source->dtype == PROA_DTYPE_F32)
        return proa_load_4((const float *)source->data + index, left);
    const uint16_t *from = (const uint16_t *)source->data + index;
    if (left >= 4)
        return proa_load_bf16_4(from);
    uint16_t tail[4] = {0};
    __builtin_memcpy(tail, from, (size_t)left * sizeof *from);
    return proa_load_bf16_4(tail);
}

/* 4 rows of 4 floats become 4 columns, in place. */
INLINE void transpose_4x4(float32x4_t row[4])
{
    float64x2_t a = vreinterpretq_f64_f32(vtrn1q_f32(row[0], row[1])),
                b = vreinterpretq_f64_f32(vtrn2q_f32(row[0], row[1])),
                c = vreinterpretq_f64_f32(vtrn1q_f32(row[2], row[3])),
                d = vreinterpretq_f64_f32(vtrn2q_f32(row[2], row[3]));
    row[0] = vreinterpretq_f32_f64(vtrn1q_f64(a, c));
    row[1] = vreinterpretq_f32_f64(vtrn1q_f64(b, d));
    row[2] = vreinterpretq_f32_f64(vtrn2q_f64(a, c));
    row[3] = vreinterpretq_f32_f64(vtrn2q_f64(b, d));
}

static void pack_keys(void *packed, int32_t at, const proa_mla_source *source, int32_t keys)
{
    float *to = (float *)packed + at * SPLIT;
    int32_t even = proa_mla_even(source->dim);
    for (int32_t d = 0; d < source->dim; d += 4)
        for (int32_t j = 0; j < SPLIT; j += 4) {
            float32x4_t row[4];
            PROA_UNROLLED
            for (int32_t i = 0; i < 4; i++)
                row[i] = j + i < keys ? load_row(source, j + i, d) : vdupq_n_f32(0);
            transpose_4x4(row);
            PROA_UNROLLED
            for (int32_t i = 0; i < 4; i++)
                if (d + i < even)
                    vst1q_f32(to + (d + i) * SPLIT + j, row[i]);
        }
}

static void pack_values(void *packed, int32_t cols, const proa_mla_source *source, int32_t keys)
{
    float *to = packed;
    for (int32_t c = 0; c < cols; c += COLS)
        for (int32_t j = 0; j < SPLIT; j++, to += COLS)
            for (int32_t i = 0; i < COLS; i += 4)
                vst1q_f32(to + i, j < keys ? load_row(source, j, c + i) : vdupq_n_f32(0));
}

/* n queries, 4 * v keys; n * v accumulators. */
INLINE void score_tile(int32_t n, int32_t v, const float *q, const float *k, int32_t depth, float scale,
                       float *to)
{
    float32x4_t sum[ACCUMULATORS];
    PROA_UNROLLED
    for (int32_t i = 0; i < n * v; i++)
        sum[i] = vdupq_n_f32(0);
    for (int32_t d = 0; d < depth; d++, k += SPLIT) {
        float32x4_t key[WIDEST];
        PROA_UNROLLED
        for (int32_t j = 0; j < v; j++)
            key[j] = vld1q_f32(k + 4 * j);
        PROA_UNROLLED
        for (int32_t i = 0; i < n * v; i++)
            sum[i] = vfmaq_n_f32(sum[i], key[i % v], q[i / v * depth + d]);
    }
    PROA_UNROLLED
    for (int32_t i = 0; i < n * v; i++)
        vst1q_f32(to + i / v * SPLIT + i % v * 4, vmulq_n_f32(sum[i], scale));
}

static void scores(const void *queries, int32_t n, const void *keys, int32_t depth, float scale, float *to)
{
    const float *q = queries, *k = keys;
    for (; n >= TILE; n -= TILE, q += TILE * depth, to += TILE * SPLIT)
        for (int32_t j = 0; j < SPLIT; j += 4 * NARROW)
            score_tile(TILE, NARROW, q, k + j, depth, scale, to + j);
    for (; n > 0; n--, q += depth, to += SPLIT)
        for (int32_t j = 0; j < SPLIT; j += 4 * WIDEST)
            score_tile(1, WIDEST, q, k + j, depth, scale, to + j);
}

static float weigh(const float *s, int32_t count, bool round, float *max, float *sum, void *p)
{
    float32x4_t score[VECTORS], most = vdupq_n_f32(-INFINITY), all = vdupq_n_f32(0);
    PROA_UNROLLED
    for (int i = 0; i < VECTORS; i++) {
        score[i] = vbslq_f32(proa_mask_4(count - 4 * i), vld1q_f32(s + 4 * i), vdupq_n_f32(-INFINITY));
        most = vmaxnmq_f32(most, score[i]); /* a NaN does not count here, and makes its own probability NaN */
    }
    float top = vmaxnmvq_f32(most);
    top = *max > top ? *max : top;
    PROA_UNROLLED
    for (int i = 0; i < VECTORS; i++) {
        uint32x4_t e = vreinterpretq_u32_f32(proa_exp_4(vsubq_f32(score[i], vdupq_n_f32(top))));
        float32x4_t seen = vreinterpretq_f32_u32(vandq_u32(proa_mask_4(count - 4 * i), e));
        all = vaddq_f32(all, seen);
        vst1q_f32((float *)p + 4 * i, round ? proa_neon_round_bf16_4(seen) : seen);
    }
    float shrink = 1; /* e^0, and most often so */
    if (*max != top)
        shrink = vgetq_lane_f32(proa_exp_4(vdupq_n_f32(*max - top)), 0);
    *sum = *sum * shrink + vaddvq_f32(all);
    *max = top;
    return shrink;
}

/* n queries, 4 * v columns of one block, of which `dim` exist. */
INLINE void accumulate_tile(int32_t n, int32_t v, const float *p, const float *shrink, int32_t count,
                            const float *values, int32_t dim, float *out, int64_t out_stride)
{
    float32x4_t sum[ACCUMULATORS];
    PROA_UNROLLED
    for (int32_t i = 0; i < n * v; i++)
        sum[i] =
            vmulq_n_f32(proa_load_4(out + i / v * out_stride + i % v * 4, dim - i % v * 4), shrink[i / v]);
    for (int32_t k = 0; k < count; k++, values += COLS) {
        float32x4_t value[WIDEST];
        PROA_UNROLLED
        for (int32_t j = 0; j < v; j++)
            value[j] = vld1q_f32(values + 4 * j);
        PROA_UNROLLED
        for (int32_t i = 0; i < n * v; i++)
            sum[i] = vfmaq_n_f32(sum[i], value[i % v], p[i / v * SPLIT + k]);
    }
    PROA_UNROLLED
    for (int32_t i = 0; i < n * v; i++)
        proa_store_4(out + i / v * out_stride + i % v * 4, dim - i % v * 4, sum[i]);
}

/* Queries in tiles of TILE, half a block of columns at once; the rest one by one, a block at once. */
static void accumulate(const void *p, const float *shrink, int32_t n, int32_t count, const void *values,
                       int32_t dim, int32_t cols, float *out, int64_t out_stride)
{
    const float *weights = p;
    int32_t tiled = n / TILE * TILE;
    (void)cols;
    for (int32_t c = 0; c < dim; c += COLS) {
        const float *v = (const float *)values + c * SPLIT;
        for (int32_t half = 0; half < COLS && c + half < dim; half += 4 * NARROW)
            for (int32_t i = 0; i < tiled; i += TILE)
                accumulate_tile(TILE, NARROW, weights + i * SPLIT, shrink + i, count, v + half,
                                dim - c - half, out + i * out_stride + c + half, out_stride);
        for (int32_t i = tiled; i < n; i++)
            accumulate_tile(1, WIDEST, weights + i * SPLIT, shrink + i, count, v, dim - c,
                            out + i * out_stride + c, out_stride);
    }
}

static void finish(const float *weighted, float sum, bool round, int32_t dim, float *out)
{
    for (int32_t c = 0; c < dim; c += 4) {
        float32x4_t o = vdivq_f32(proa_load_4(weighted + c, dim - c), vdupq_n_f32(sum));
        proa_store_4(out + c, dim - c, round ? proa_neon_round_bf16_4(o) : o);
    }
}

const proa_mla_kernels proa_mla_kernels_portable = {
    .element_bytes = sizeof(float),
    .pack_keys = pack_keys,
    .pack_values = pack_values,
    .pack_query = proa_mla_pack_query_f32,
    .scores = scores,
    .weigh = weigh,
    .accumulate = accumulate,
    .finish = finish,
};
