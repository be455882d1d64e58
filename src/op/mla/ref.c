/* ref.c - latent attention, scalar with double accumulation: the specification.
 *
 * Both forms walk the keys in splits of 64 positions and keep, per query, the running maximum m, the sum l of
 * e^(score - m) and the output o weighted alike. At each split m grows to m', l and o shrink by e^(m - m'), the
 * split's own terms are added in order of position. The probabilities are rounded (default precision) only where
 * they weigh the values, not in l. */
#include "op/mla/mla.h"

#include "base/number.h"

#include "op/host.h"

#include <math.h>

/* Up to 128 latents to e4m3, as they would stand in a BF16 cache; their scale to `scale`. */
static void quantise_group(const float *from, int32_t count, unsigned char *to, unsigned char *scale)
{
    float amax = 0;
    for (int32_t i = 0; i < count; i++) {
        float magnitude = fabsf(proa_round_bf16(from[i]));
        if (!(magnitude <= amax)) /* a NaN too, which nothing replaces */
            amax = isnan(amax) ? amax : magnitude;
    }
    uint32_t bits = proa_kv_scale_bits(proa_f32_to_bits(amax));
    memcpy(scale, &bits, sizeof bits);
    for (int32_t i = 0; i < count; i++)
        to[i] =
            bits == PROA_KV_SCALE_INFINITE
                ? PROA_KV_CODE_ONE
                : proa_f32_to_e4m3(proa_round_bf16(from[i]) * proa_bits_to_f32(proa_kv_inverse_bits(bits)));
}

static void store_values(proa_dtype dtype, const float *from, int32_t count, unsigned char *to)
{
    for (int32_t i = 0; i < count; i++) {
        if (dtype == PROA_DTYPE_F32)
            ((float *)(void *)to)[i] = from[i];
        else
            ((uint16_t *)(void *)to)[i] = proa_f32_to_bf16(from[i]);
    }
}

static void store_row(const proa_kv_layer *kv, const float *kv_lora, const float *k_pe, unsigned char *to)
{
    const proa_kv_row row = proa_kv_layer_row(kv);
    store_values(kv->dtype, k_pe, kv->rope_dim, to + row.k_pe);
    if (kv->dtype != PROA_DTYPE_E4M3) {
        store_values(kv->dtype, kv_lora, kv->kv_lora_rank, to);
        return;
    }
    for (int32_t g = 0; g < row.groups; g++) {
        int32_t first = g * PROA_KV_SCALE_GROUP, left = kv->kv_lora_rank - first;
        quantise_group(kv_lora + first, left < PROA_KV_SCALE_GROUP ? left : PROA_KV_SCALE_GROUP, to + first,
                       to + row.scales + g * 4);
    }
    int32_t end = row.k_pe + kv->rope_dim * 2;
    memset(to + end, 0, (size_t)(row.bytes - end));
}

/* Value i of the row at `from`: of its kv_lora, then of its k_pe. */
static float load_value(const proa_kv_layer *kv, const proa_kv_row *row, const unsigned char *from, int32_t i)
{
    if (kv->dtype != PROA_DTYPE_E4M3)
        return proa_host_load(from, kv->dtype, i);
    if (i >= kv->kv_lora_rank)
        return proa_host_load(from + row->k_pe, PROA_DTYPE_BF16, i - kv->kv_lora_rank);
    float scale;
    memcpy(&scale, from + row->scales + i / PROA_KV_SCALE_GROUP * 4, sizeof scale);
    return proa_e4m3_to_f32(from[i]) * scale;
}

void proa_kv_append_ref(const proa_host *host, const proa_kv_append_args *args)
{
    (void)host;
    const proa_kv_layer *kv = args->kv;
    PROA_ASSERT(proa_kv_row_fits(kv->dtype, kv->kv_lora_rank, kv->rope_dim));
    for (int32_t i = 0; i < args->segment_count; i++) {
        const proa_segment *segment = &args->segments[i];
        for (int32_t t = 0; t < segment->row_count; t++) {
            int64_t row = segment->row_first + t;
            store_row(kv, args->kv_lora + row * args->kv_lora_stride, args->k_pe + row * args->k_pe_stride,
                      proa_kv_layer_at(kv, segment->blocks, segment->position_first + t));
        }
    }
}

void proa_kv_gather_ref(const proa_host *host, const proa_kv_gather_args *args)
{
    (void)host;
    const proa_kv_layer *kv = args->kv;
    const proa_kv_row row = proa_kv_layer_row(kv);
    for (int64_t t = 0; t < args->count; t++) {
        const unsigned char *from = proa_kv_layer_at(kv, args->blocks, args->first + t);
        for (int32_t i = 0; i < kv->kv_lora_rank; i++)
            args->kv_lora[t * kv->kv_lora_rank + i] = load_value(kv, &row, from, i);
        for (int32_t i = 0; i < kv->rope_dim; i++)
            args->k_pe[t * kv->rope_dim + i] = load_value(kv, &row, from, kv->kv_lora_rank + i);
    }
}

/* Takes a split's scores into the running maximum and sum; leaves in `score` the probabilities that weigh the
 * values. Returns the factor by which the output so far shrinks. */
static double take_scores(const proa_host *host, double *score, int32_t count, float *max, float *sum)
{
    double top = *max;
    for (int32_t j = 0; j < count; j++)
        if (score[j] > top)
            top = score[j];
    double shrink = exp(*max - top), total = *sum * shrink;
    for (int32_t j = 0; j < count; j++) {
        double p = exp(score[j] - top);
        total += p;
        score[j] = proa_host_round(host, (float)p);
    }
    *max = (float)top;
    *sum = (float)total;
    return shrink;
}

static void expand_split(const proa_host *host, const proa_mla_expanded_args *a, int32_t row, int32_t head,
                         int32_t first, int32_t count)
{
    int64_t head_dim = a->nope_dim + a->v_dim, key_stride = a->heads * head_dim,
            state = (int64_t)head * a->rows + row;
    const float *q = a->q + row * a->q_row_stride + head * (int64_t)(a->nope_dim + a->rope_dim);
    const float *k = a->kv + first * key_stride + head * head_dim, *v = k + a->nope_dim;
    const float *k_pe = a->k_pe + (int64_t)first * a->rope_dim;
    double score[PROA_KV_BLOCK_TOKENS];
    for (int32_t j = 0; j < count; j++) {
        double dot = 0;
        for (int32_t i = 0; i < a->nope_dim; i++)
            dot += (double)q[i] * k[j * key_stride + i];
        for (int32_t i = 0; i < a->rope_dim; i++)
            dot += (double)q[a->nope_dim + i] * k_pe[j * (int64_t)a->rope_dim + i];
        score[j] = (float)(dot * a->scale);
    }
    double shrink = take_scores(host, score, count, &a->state_max[state], &a->state_sum[state]);
    for (int32_t i = 0; i < a->v_dim; i++) {
        double o = a->state_out[state * a->v_dim + i] * shrink;
        for (int32_t j = 0; j < count; j++)
            o += score[j] * v[j * key_stride + i];
        a->state_out[state * a->v_dim + i] = (float)o;
    }
}

static void expand_query(const proa_host *host, const proa_mla_expanded_args *a, int32_t row, int32_t head)
{
    int64_t state = (int64_t)head * a->rows + row;
    if (a->first) {
        a->state_max[state] = -INFINITY;
        a->state_sum[state] = 0;
        memset(a->state_out + state * a->v_dim, 0, (size_t)a->v_dim * sizeof(float));
    }
    int32_t visible = a->position_first + row + 1 - a->tile_first; /* keys of the tile up to the query */
    if (visible > a->tile_count)
        visible = a->tile_count;
    for (int32_t first = 0; first < visible; first += PROA_KV_BLOCK_TOKENS) {
        int32_t left = visible - first;
        expand_split(host, a, row, head, first, left < PROA_KV_BLOCK_TOKENS ? left : PROA_KV_BLOCK_TOKENS);
    }
    if (!a->last)
        return;
    float *out = a->out + row * a->out_row_stride + (int64_t)head * a->v_dim;
    double sum = a->state_sum[state];
    for (int32_t i = 0; i < a->v_dim; i++)
        out[i] = proa_host_round(host, (float)(a->state_out[state * a->v_dim + i] / sum));
    if (a->lse != NULL)
        a->lse[(int64_t)head * a->rows + row] = (float)(a->state_max[state] + log(sum));
}

void proa_mla_expanded_ref(const proa_host *host, const proa_mla_expanded_args *args)
{
    PROA_ASSERT(args->tile_first % PROA_KV_BLOCK_TOKENS == 0);
    PROA_ASSERT(args->last || args->tile_count % PROA_KV_BLOCK_TOKENS == 0);
    for (int32_t row = 0; row < args->rows; row++)
        for (int32_t head = 0; head < args->heads; head++)
            expand_query(host, args, row, head);
}

/* One split of `count` keys whose first cache row is at `rows`. */
static void absorb_split(const proa_host *host, const proa_mla_absorbed_args *a, const float *q_lat,
                         const float *q_pe, const unsigned char *rows, int32_t count, float *max, float *sum,
                         float *o)
{
    const proa_kv_layer *kv = a->kv;
    int32_t lora = kv->kv_lora_rank;
    const proa_kv_row row = proa_kv_layer_row(kv);
    double score[PROA_KV_BLOCK_TOKENS];
    for (int32_t j = 0; j < count; j++) {
        double dot = 0;
        for (int32_t i = 0; i < lora; i++)
            dot += (double)q_lat[i] * load_value(kv, &row, rows + j * (int64_t)row.bytes, i);
        for (int32_t i = 0; i < kv->rope_dim; i++)
            dot += (double)q_pe[i] * load_value(kv, &row, rows + j * (int64_t)row.bytes, lora + i);
        score[j] = (float)(dot * a->scale);
    }
    double shrink = take_scores(host, score, count, max, sum);
    for (int32_t i = 0; i < lora; i++) {
        double sum_i = o[i] * shrink;
        for (int32_t j = 0; j < count; j++)
            sum_i += score[j] * load_value(kv, &row, rows + j * (int64_t)row.bytes, i);
        o[i] = (float)sum_i;
    }
}

static void absorb_query(const proa_host *host, const proa_mla_absorbed_args *a, const proa_segment *segment,
                         int32_t t, int32_t head, float *lse)
{
    int64_t row = segment->row_first + t, lora = a->kv->kv_lora_rank;
    const float *q_lat = a->q_lat + (row * a->heads + head) * lora;
    const float *q_pe = a->q_pe + row * a->q_pe_row_stride + head * a->q_pe_head_stride;
    float *o = a->o_lat + (row * a->heads + head) * lora;
    int32_t keys = segment->position_first + t + 1;
    float max = -INFINITY, sum = 0;
    memset(o, 0, (size_t)lora * sizeof *o);
    for (int32_t first = 0; first < keys; first += PROA_KV_BLOCK_TOKENS) {
        int32_t left = keys - first;
        absorb_split(host, a, q_lat, q_pe, proa_kv_layer_at(a->kv, segment->blocks, first),
                     left < PROA_KV_BLOCK_TOKENS ? left : PROA_KV_BLOCK_TOKENS, &max, &sum, o);
    }
    for (int64_t i = 0; i < lora; i++)
        o[i] = proa_host_round(host, o[i] / sum);
    if (lse != NULL)
        *lse = (float)(max + log(sum));
}

void proa_mla_absorbed_ref(const proa_host *host, const proa_mla_absorbed_args *args)
{
    int64_t rows = 0;
    for (int32_t i = 0; i < args->segment_count; i++)
        if (args->segments[i].row_first + args->segments[i].row_count > rows)
            rows = args->segments[i].row_first + args->segments[i].row_count;
    for (int32_t i = 0; i < args->segment_count; i++) {
        const proa_segment *segment = &args->segments[i];
        if (!segment->absorbed)
            continue;
        for (int32_t t = 0; t < segment->row_count; t++)
            for (int32_t head = 0; head < args->heads; head++)
                absorb_query(host, args, segment, t, head,
                             args->lse == NULL ? NULL : &args->lse[head * rows + segment->row_first + t]);
    }
}
