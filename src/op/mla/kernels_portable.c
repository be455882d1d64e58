/* kernels_portable.c - the attention of one split in plain C. */
#include "op/mla/kernels.h"

#include "op/host.h"

#include <math.h>

enum { SPLIT = PROA_MLA_SPLIT };

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
    for (int32_t j = 0; j < keys; j++, to += cols) {
        for (int32_t i = 0; i < source->dim; i++)
            to[i] = proa_host_load(source->data, source->dtype, j * source->stride + i);
        for (int32_t i = source->dim; i < cols; i++)
            to[i] = 0;
    }
}

static void pack_query(void *packed, int32_t at, const float *query, int32_t dim)
{
    float *to = (float *)packed + at;
    memcpy(to, query, (size_t)dim * sizeof *to);
    if (dim & 1)
        to[dim] = 0;
}

static void scores(const void *queries, int32_t n, const void *keys, int32_t depth, float scale,
                   float *scores_out)
{
    const float *q = queries;
    for (int32_t i = 0; i < n; i++, q += depth) {
        float sum[SPLIT] = {0};
        const float *k = keys;
        for (int32_t d = 0; d < depth; d++, k += SPLIT)
            for (int32_t j = 0; j < SPLIT; j++)
                sum[j] += q[d] * k[j];
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

static void accumulate(const void *p, const float *shrink, int32_t n, int32_t count, const void *values,
                       int32_t dim, int32_t cols, float *out, int64_t out_stride)
{
    const float *weight = p;
    for (int32_t i = 0; i < n; i++, weight += SPLIT, out += out_stride) {
        const float *v = values;
        for (int32_t c = 0; c < dim; c++)
            out[c] *= shrink[i];
        for (int32_t j = 0; j < count; j++, v += cols)
            for (int32_t c = 0; c < dim; c++)
                out[c] += weight[j] * v[c];
    }
}

const proa_mla_kernels proa_mla_kernels_portable = {
    .element_bytes = sizeof(float),
    .pack_keys = pack_keys,
    .pack_values = pack_values,
    .pack_query = pack_query,
    .scores = scores,
    .weigh = weigh,
    .accumulate = accumulate,
};
