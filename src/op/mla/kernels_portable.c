/* kernels_portable.c - the attention of one split in plain C. */
#include "op/mla/kernels.h"

#include "op/host.h"
#include "op/lanes.h"

#include <math.h>

enum { SPLIT = PROA_MLA_SPLIT, COLS = PROA_MLA_COLS };

static void pack_keys(void *packed, int32_t at, const proa_mla_source *source, int32_t keys)
{
    float *to = (float *)packed + at * SPLIT;
    memset(to, 0, (size_t)proa_mla_even(source->dim) * SPLIT * sizeof *to);
    for (int32_t j = 0; j < keys; j++)
        for (int32_t i = 0; i < source->dim; i++)
            to[i * SPLIT + j] = proa_host_load(source->data, source->dtype, j * source->stride + i);
}

static void pack_values(void *packed, int32_t cols, const proa_mla_source *source, int32_t keys)
{
    float *to = packed;
    memset(to, 0, (size_t)cols * SPLIT * sizeof *to);
    for (int32_t j = 0; j < keys; j++)
        for (int32_t c = 0; c < source->dim; c++)
            to[(c / COLS * SPLIT + j) * COLS + c % COLS] =
                proa_host_load(source->data, source->dtype, j * source->stride + c);
}

static void scores(const void *queries, int32_t n, const void *keys, int32_t depth, float scale,
                   float *scores_out)
{
    const float *q = queries;
    for (int32_t i = 0; i < n; i++, q += depth) {
        float sum[SPLIT] = {0};
        const float *k = keys;
        for (int32_t d = 0; d < depth; d++, k += SPLIT) {
            PROA_VECTORISED
            for (int32_t j = 0; j < SPLIT; j++)
                sum[j] += q[d] * k[j];
        }
        for (int32_t j = 0; j < SPLIT; j++)
            scores_out[i * SPLIT + j] = sum[j] * scale;
    }
}

static float weigh(const float *s, int32_t count, bool round, float *max, float *sum, void *p)
{
    float top = *max, *to = p;
    for (int32_t j = 0; j < count; j++)
        top = s[j] > top ? s[j] : top;
    float total = 0, shrink = expf(*max - top);
    for (int32_t j = 0; j < count; j++) {
        float e = expf(s[j] - top);
        total += e;
        to[j] = round ? proa_round_bf16(e) : e;
    }
    for (int32_t j = count; j < SPLIT; j++)
        to[j] = 0;
    *sum = *sum * shrink + total;
    *max = top;
    return shrink;
}

/* One query and one block of columns. */
static void accumulate_block(const float *p, float shrink, int32_t count, const float *values, int32_t dim,
                             float *out)
{
    float sum[COLS];
    for (int32_t c = 0; c < COLS; c++)
        sum[c] = c < dim ? out[c] * shrink : 0;
    for (int32_t j = 0; j < count; j++, values += COLS) {
        PROA_VECTORISED
        for (int32_t c = 0; c < COLS; c++)
            sum[c] += p[j] * values[c];
    }
    for (int32_t c = 0; c < COLS && c < dim; c++)
        out[c] = sum[c];
}

static void accumulate(const void *p, const float *shrink, int32_t n, int32_t count, const void *values,
                       int32_t dim, int32_t cols, float *out, int64_t out_stride)
{
    (void)cols;
    for (int32_t c = 0; c < dim; c += COLS)
        for (int32_t i = 0; i < n; i++)
            accumulate_block((const float *)p + i * SPLIT, shrink[i], count,
                             (const float *)values + c * SPLIT, dim - c, out + i * out_stride + c);
}

static void finish(const float *weighted, float sum, bool round, int32_t dim, float *out)
{
    for (int32_t c = 0; c < dim; c++) {
        float o = weighted[c] / sum;
        out[c] = round ? proa_round_bf16(o) : o;
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
