/* team.c - a layer whose heads several ranks share, drawn in team.h: what is packed into swaps and taken out of them.
 *
 * Values travel as bf16, which they are in the default precision (each op rounds its output), in the exact one as float32: nothing changes
 * on the way. They are quantised where they are used, as by one rank.
 */
#include "base/bf16.h"
#include "base/minmax.h"
#include "model/forward_internal.h"

#include <string.h>

enum { ALIGNMENT = 64 };

static size_t value_bytes(proa_precision precision)
{
    return precision == PROA_PRECISION_EXACT ? sizeof(float) : sizeof(uint16_t);
}

/* What latents of a row have: the queries' input and kv_a. */
static int32_t query_width(const proa_model_config *c)
{
    return c->q_lora_rank > 0 ? c->q_lora_rank : c->hidden_size;
}

static int32_t key_width(const proa_model_config *c)
{
    return c->kv_lora_rank + c->qk_rope_head_dim;
}

proa_status proa_forward_team_bytes(const proa_model_config *c, proa_precision precision,
                                    const proa_forward_limits *limits, int32_t size, proa_team_bytes *bytes,
                                    proa_error *err)
{
    if (size > PROA_TEAM_MAX || c->num_attention_heads % size != 0)
        return proa_error_set(
            err, PROA_ERR_INVALID,
            "%d attention heads do not divide among the %d ranks of --tp-size / --dp-size: give a "
            "--dp-size so that these are a divisor of %d, and at most %d",
            c->num_attention_heads, size, c->num_attention_heads, PROA_TEAM_MAX);
    size_t value = value_bytes(precision);
    size_t slice = (size_t)proa_team_slice_max(limits->rows_max, size);
    size_t latents = slice * (size_t)(query_width(c) + key_width(c)) * value;
    size_t heads = proa_round_up(
        slice * (size_t)(c->num_attention_heads / size) * (size_t)c->v_head_dim * value, ALIGNMENT);
    size_t last = (size_t)limits->logit_rows_max * (size_t)c->hidden_size * value;
    bytes->message_max = proa_round_up(proa_max_size(proa_max_size(latents, heads), last), ALIGNMENT);
    bytes->buffer = proa_max_size(bytes->message_max, heads * (size_t)size);
    return PROA_OK;
}

static forward_rows slice_of(const proa_forward *f, int32_t rows, int32_t member)
{
    int32_t first = proa_team_slice(rows, f->team.size, member);
    return (forward_rows){first, proa_team_slice(rows, f->team.size, member + 1) - first};
}

forward_rows proa_forward_own_rows(const proa_forward *f, int32_t rows)
{
    return f->shares_heads ? slice_of(f, rows, f->team.member) : (forward_rows){0, rows};
}

/* ---- values ---- */

static size_t value_of(const proa_forward *f)
{
    return value_bytes(f->device->host.precision);
}

static uint8_t *put(const proa_forward *f, uint8_t *to, const float *values, int64_t count)
{
    if (f->device->host.precision == PROA_PRECISION_EXACT)
        memcpy(to, values, (size_t)count * sizeof *values);
    else
        proa_bf16_from_floats((uint16_t *)(void *)to, values, (size_t)count);
    return to + (size_t)count * value_of(f);
}

static const uint8_t *get(const proa_forward *f, const uint8_t *from, float *values, int64_t count)
{
    if (f->device->host.precision == PROA_PRECISION_EXACT)
        memcpy(values, from, (size_t)count * sizeof *values);
    else
        proa_bf16_to_floats(values, (const uint16_t *)(const void *)from, (size_t)count);
    return from + (size_t)count * value_of(f);
}

/* ---- swaps ---- */

/* The queries' input of all rows: q_a, or what the latents are made of. */
static float *query_rows(const proa_forward *f)
{
    return f->config.q_lora_rank > 0 ? f->b.q_a : f->b.normed;
}

static proa_status swap_latents(proa_forward *f, int32_t layer, int32_t rows, proa_error *err)
{
    int64_t q = query_width(&f->config), kv = key_width(&f->config);
    size_t row_bytes = (size_t)(q + kv) * value_of(f);
    forward_rows own = proa_forward_own_rows(f, rows);
    proa_team_swap swap = {.what = "latents", .layer = layer};
    uint8_t *buffer, *to;
    proa_status status = f->team.prepare(f->team.context, &buffer, err);
    if (status != PROA_OK)
        return status;
    to = put(f, buffer, query_rows(f) + own.first * q, own.count * q);
    put(f, to, f->b.kv_a + own.first * kv, own.count * kv);
    for (int32_t i = 0; i < f->team.size; i++) {
        swap.send[i] = buffer;
        swap.send_bytes[i] = (size_t)own.count * row_bytes;
        swap.receive_bytes[i] = (size_t)slice_of(f, rows, i).count * row_bytes;
    }
    status = f->team.swap(f->team.context, &swap, err);
    for (int32_t i = 0; i < f->team.size && status == PROA_OK; i++) {
        forward_rows slice = slice_of(f, rows, i);
        if (i == f->team.member)
            continue;
        const uint8_t *from = get(f, swap.received[i], query_rows(f) + slice.first * q, slice.count * q);
        get(f, from, f->b.kv_a + slice.first * kv, slice.count * kv);
    }
    return status;
}

/* The heads of a member, for the own slice, to their place among all heads. */
static void place_heads(proa_forward *f, int32_t member, forward_rows own, const uint8_t *from)
{
    int64_t width = (int64_t)f->heads * f->config.v_head_dim;
    float *to = f->b.heads_out + member * width;
    for (int32_t r = 0; r < own.count; r++, to += width * f->team.size)
        from = get(f, from, to, width);
}

static proa_status swap_heads(proa_forward *f, int32_t layer, int32_t rows, proa_error *err)
{
    int64_t width = (int64_t)f->heads * f->config.v_head_dim;
    size_t row_bytes = (size_t)width * value_of(f);
    forward_rows own = proa_forward_own_rows(f, rows);
    proa_team_swap swap = {.what = "heads", .layer = layer};
    uint8_t *to;
    proa_status status = f->team.prepare(f->team.context, &to, err);
    if (status != PROA_OK)
        return status;
    for (int32_t i = 0; i < f->team.size; i++) {
        forward_rows slice = slice_of(f, rows, i);
        if (i == f->team.member)
            continue;
        put(f, to, f->b.attention + slice.first * width, slice.count * width);
        swap.send[i] = to;
        swap.send_bytes[i] = (size_t)slice.count * row_bytes;
        swap.receive_bytes[i] = (size_t)own.count * row_bytes;
        to += proa_round_up(swap.send_bytes[i], ALIGNMENT);
    }
    status = f->team.swap(f->team.context, &swap, err);
    for (int32_t i = 0; i < f->team.size && status == PROA_OK; i++) {
        if (i != f->team.member)
            place_heads(f, i, own, swap.received[i]);
    }
    const float *from = f->b.attention + own.first * width;
    float *place = f->b.heads_out + f->team.member * width;
    for (int32_t r = 0; r < own.count && status == PROA_OK; r++, from += width, place += width * f->team.size)
        memcpy(place, from, (size_t)width * sizeof *from);
    return status;
}

proa_status proa_forward_team_attend(proa_forward *f, int32_t layer, const proa_step *step,
                                     const float *delta, proa_error *err)
{
    const proa_layer_weights *w = &f->weights->layers[layer];
    forward_rows own = proa_forward_own_rows(f, step->row_count);
    int64_t at = (int64_t)own.first * f->config.hidden_size;
    float *hidden = f->b.hidden + at, *normed = f->b.normed + at;
    if (own.count > 0) {
        proa_forward_add_and_norm(f, own.count, hidden, delta != NULL ? delta + at : NULL,
                                  &w->input_layernorm, normed);
        proa_forward_latents(f, layer, normed, own.first, own.count);
    }
    proa_status status = swap_latents(f, layer, step->row_count, err);
    if (status != PROA_OK)
        return status;
    proa_forward_attend_heads(f, layer, f->b.positions, f->b.normed, step);
    status = swap_heads(f, layer, step->row_count, err);
    if (status != PROA_OK || own.count == 0)
        return status;
    proa_forward_join_heads(f, layer, f->b.heads_out, own.count, f->b.delta + at);
    proa_forward_add_and_norm(f, own.count, hidden, f->b.delta + at, &w->post_attention_layernorm, normed);
    return PROA_OK;
}

/* ---- the end ---- */

/* Which logit rows lie in a slice; they ascend. */
static forward_rows logits_of(const proa_step *step, forward_rows slice)
{
    forward_rows found = {0, 0};
    for (int32_t i = 0; i < step->logit_count; i++) {
        found.first += step->logit_rows[i] < slice.first;
        found.count += step->logit_rows[i] >= slice.first && step->logit_rows[i] < slice.first + slice.count;
    }
    return found;
}

/* Rows of a table of the step's rows, together. */
static void gather(proa_forward *f, const proa_step *step, forward_rows logits, const float *from, float *to)
{
    proa_weight table = {
        .dtype = PROA_DTYPE_F32, .n = step->row_count, .k = f->config.hidden_size, .data = from};
    f->device->ops->embed(&f->device->host, &(proa_embed_args){.rows = logits.count,
                                                               .ids = step->logit_rows + logits.first,
                                                               .table = &table,
                                                               .y = to});
}

/* Those of the own slice, into b.normed from row 0: the leader's come first in any case. */
static void norm_last(proa_forward *f, const proa_step *step, forward_rows logits, const float *delta)
{
    if (logits.count == 0)
        return;
    gather(f, step, logits, f->b.hidden, f->b.last_hidden);
    gather(f, step, logits, delta, f->b.last_delta);
    proa_forward_add_and_norm(f, logits.count, f->b.last_hidden, f->b.last_delta, &f->weights->norm,
                              f->b.normed);
}

proa_status proa_forward_team_last(proa_forward *f, const proa_step *step, const float *delta,
                                   proa_error *err)
{
    int64_t hidden = f->config.hidden_size;
    size_t row_bytes = (size_t)hidden * value_of(f);
    forward_rows own = logits_of(step, proa_forward_own_rows(f, step->row_count));
    proa_team_swap swap = {.what = "last rows", .layer = f->config.num_hidden_layers};
    bool leads = f->team.member == 0;
    uint8_t *buffer;
    norm_last(f, step, own, delta);
    proa_status status = f->team.prepare(f->team.context, &buffer, err);
    if (status != PROA_OK)
        return status;
    if (!leads)
        put(f, buffer, f->b.normed, own.count * hidden);
    swap.send[0] = buffer;
    swap.send_bytes[0] = leads ? 0 : (size_t)own.count * row_bytes;
    for (int32_t i = 1; i < f->team.size && leads; i++)
        swap.receive_bytes[i] = (size_t)logits_of(step, slice_of(f, step->row_count, i)).count * row_bytes;
    status = f->team.swap(f->team.context, &swap, err);
    for (int32_t i = 1; i < f->team.size && leads && status == PROA_OK; i++) {
        forward_rows theirs = logits_of(step, slice_of(f, step->row_count, i));
        get(f, swap.received[i], f->b.normed + theirs.first * hidden, theirs.count * hidden);
    }
    return status;
}
