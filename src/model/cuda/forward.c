/* forward.c - see forward.h: buffers, the step's description, the walk over the layers. */
#include "model/cuda/internal.h"

#include "base/carver.h"
#include "base/minmax.h"
#include "op/embed/cuda.h"
#include "op/linear/cuda.h"
#include "op/mla/cuda_decode.h"
#include "op/rmsnorm/cuda.h"
#include "op/rope/rope.h"
#include "op/tensor.h"

#include <stdlib.h>
#include <string.h>

enum { ALIGNMENT = 256, ROW_ALIGN = 128 };

static int32_t round_up(int32_t value, int32_t to)
{
    return (value + to - 1) / to * to;
}

/* ---- memory ---- */

static void *carve_bf16(proa_carver *c, int64_t rows, int64_t cols)
{
    return proa_carve(c, rows * cols, sizeof(uint16_t));
}

static proa_cuda_fp8_rows carve_fp8(proa_carver *c, const proa_cuda_forward *f, int64_t rows, int64_t cols)
{
    const int64_t stride = (rows + ROW_ALIGN - 1) / ROW_ALIGN * ROW_ALIGN;
    proa_cuda_fp8_rows to = {
        .q = proa_carve(c, stride * cols, 1), .stride = stride, .ue8m0 = f->config.ue8m0};
    to.scale = proa_carve(c, (cols + PROA_QUANT_GROUP - 1) / PROA_QUANT_GROUP * stride, sizeof(float));
    return to;
}

static cuda_metadata carve_metadata(proa_carver *c, const proa_cuda_forward *f)
{
    const proa_cuda_limits *l = &f->limits;
    cuda_metadata m;
    m.ids = proa_carve(c, l->rows_max, sizeof(int32_t));
    m.positions = proa_carve(c, l->rows_max, sizeof(int32_t));
    m.slots = proa_carve(c, l->rows_max, sizeof(int32_t));
    m.lengths = proa_carve(c, l->decode_rows_max, sizeof(int32_t));
    m.tables = proa_carve(c, (int64_t)l->decode_rows_max * f->table_stride, sizeof(int32_t));
    m.segments = proa_carve(c, (int64_t)l->segments_max * PROA_CUDA_SEGMENT_INTS, sizeof(int32_t));
    m.key_slots = proa_carve(c, l->keys_max, sizeof(int32_t));
    m.logit_rows = proa_carve(c, l->logit_rows_max, sizeof(int32_t));
    return m;
}

static void carve_attention(proa_carver *c, proa_cuda_forward *f)
{
    const proa_model_config *m = &f->config;
    const int64_t rows = f->limits.rows_max, decode = f->limits.decode_rows_max, keys = f->limits.keys_max;
    const int64_t heads = m->num_attention_heads, qk = m->qk_nope_head_dim + m->qk_rope_head_dim,
                  lora = m->kv_lora_rank;
    cuda_buffers *b = &f->b;
    b->qkv_a =
        carve_bf16(c, rows, (m->q_lora_rank > 0 ? m->q_lora_rank : heads * qk) + lora + m->qk_rope_head_dim);
    b->q_a = carve_bf16(c, rows, m->q_lora_rank);
    b->q = carve_bf16(c, rows, heads * qk);
    b->q_all = carve_bf16(c, decode, heads * (lora + m->qk_rope_head_dim));
    b->o_lat = carve_bf16(c, decode, heads * lora);
    b->attention = carve_bf16(c, rows, heads * m->v_head_dim);
    b->kv_lora = carve_bf16(c, keys, lora);
    b->kv_q8 = carve_fp8(c, f, keys, lora);
    b->kv = carve_bf16(c, keys, heads * (m->qk_nope_head_dim + m->v_head_dim));
    b->k_pe = carve_bf16(c, keys, m->qk_rope_head_dim);
    b->tickets = proa_carve(c, 2, sizeof(int32_t));
    b->mla_workspace = proa_carve(
        c, (int64_t)proa_mla_decode_workspace_bytes((int32_t)decode, (int32_t)heads, f->splits_max), 1);
}

static void carve_moe(proa_carver *c, proa_cuda_forward *f)
{
    const proa_model_config *m = &f->config;
    const int64_t rows = f->limits.rows_max, hidden = m->hidden_size, slots = f->slots_max,
                  local = f->local_experts;
    const int64_t width =
        proa_max_i64(m->intermediate_size, (int64_t)m->moe_intermediate_size * m->n_shared_experts);
    const int64_t moe = m->moe_intermediate_size, choices = rows * m->num_experts_per_tok;
    cuda_buffers *b = &f->b;
    b->gate_up = carve_bf16(c, rows, 2 * width);
    b->activated = carve_bf16(c, rows, width);
    b->activated_q8 = carve_fp8(c, f, rows, width);
    if (m->n_routed_experts == 0)
        return;
    b->shared_out = carve_bf16(c, rows, hidden);
    b->router_logits = proa_carve(c, PROA_CUDA_ROUTER_SLICES * rows * m->n_routed_experts, sizeof(float));
    b->expert_ids = proa_carve(c, m->num_hidden_layers * choices, sizeof(int32_t));
    b->place = proa_carve(c, choices, sizeof(int32_t));
    b->expert_weights = proa_carve(c, choices, sizeof(float));
    b->counts = proa_carve(c, 4 * local, sizeof(int32_t));
    b->first = proa_carve(c, local, sizeof(int32_t));
    b->count = proa_carve(c, local, sizeof(int32_t));
    b->spread = m->fp8 ? NULL : carve_bf16(c, slots, hidden);
    b->spread_q8 = m->fp8 ? carve_fp8(c, f, slots, hidden) : (proa_cuda_fp8_rows){0};
    b->slot_gate_up = carve_bf16(c, slots, 2 * moe);
    b->slot_activated = m->fp8 ? NULL : carve_bf16(c, slots, moe);
    b->slot_q8 = m->fp8 ? carve_fp8(c, f, slots, moe) : (proa_cuda_fp8_rows){0};
    b->slot_out = carve_bf16(c, slots, hidden);
}

/* Of a token in one layer. */
static int32_t cache_row_bytes(const proa_cuda_forward *f)
{
    const proa_dtype dtype = proa_kv_cache_dtype(f->limits.kv_cache, PROA_PRECISION_DEFAULT);
    return proa_kv_row_of(dtype, f->config.kv_lora_rank, f->config.qk_rope_head_dim).bytes;
}

static void carve_all(proa_carver *c, proa_cuda_forward *f)
{
    const proa_model_config *m = &f->config;
    const int64_t rows = f->limits.rows_max, hidden = m->hidden_size, last = f->limits.logit_rows_max;
    const int64_t widest =
        proa_max_i64(proa_max_i64(hidden, m->q_lora_rank), (int64_t)m->num_attention_heads * m->v_head_dim);
    const int64_t pairs = (int64_t)f->limits.positions_max * m->qk_rope_head_dim / 2;
    f->m = carve_metadata(c, f);
    f->metadata_bytes = c->used;
    f->b.hidden = carve_bf16(c, rows, hidden);
    f->b.normed = carve_bf16(c, rows, hidden);
    f->b.delta = carve_bf16(c, rows, hidden);
    f->b.q8 = carve_fp8(c, f, rows, widest);
    carve_attention(c, f);
    carve_moe(c, f);
    f->b.last = carve_bf16(c, last, hidden);
    f->b.last_delta = carve_bf16(c, last, hidden);
    f->b.logits = proa_carve(c, last * m->vocab_size, sizeof(float));
    f->rope_cos = proa_carve(c, pairs, sizeof(float));
    f->rope_sin = proa_carve(c, pairs, sizeof(float));
    f->where = f->placed ? proa_carve(c, m->n_routed_experts, sizeof(int32_t)) : NULL;
    f->buffer_bytes = c->used;
    f->cache_bytes = (uint64_t)f->limits.cache_layers * (uint64_t)f->limits.kv_blocks * PROA_KV_BLOCK_TOKENS *
                     (uint64_t)cache_row_bytes(f);
    f->cache = proa_carve(c, (int64_t)f->cache_bytes, 1);
}

/* What follows from config, limits and local_experts; how much memory all of it takes. */
static void measure_all(proa_cuda_forward *f, proa_carver *measure)
{
    const proa_model_config *c = &f->config;
    proa_cuda_limits *l = &f->limits;
    if (l->cache_layers == 0)
        l->cache_layers = c->num_hidden_layers;
    f->table_stride = (l->positions_max + PROA_KV_BLOCK_TOKENS - 1) / PROA_KV_BLOCK_TOKENS;
    f->slots_max =
        round_up(l->rows_max * c->num_experts_per_tok + f->local_experts * (ROW_ALIGN - 1), ROW_ALIGN);
    f->splits_max =
        l->splits_max > 0 ? l->splits_max : l->decode_rows_max * proa_cuda_forward_splits(l->positions_max);
    carve_all(measure, f);
}

int32_t proa_cuda_forward_splits(int32_t keys)
{
    return proa_mla_decode_splits(keys);
}

void proa_cuda_forward_plan(const proa_model_config *config, int32_t local_experts,
                            const proa_cuda_limits *limits, uint64_t *buffers, uint64_t *cache)
{
    proa_cuda_forward f = {
        .config = *config, .limits = *limits, .local_experts = local_experts, .placed = true};
    proa_carver measure = {.alignment = ALIGNMENT};
    measure_all(&f, &measure);
    proa_cuda_forward_bytes(&f, buffers, cache);
}

/* ---- life ---- */

static proa_status upload_tables(proa_cuda_forward *f, const int32_t *where, proa_error *err)
{
    const proa_model_config *c = &f->config;
    const int32_t half = c->qk_rope_head_dim / 2;
    const size_t bytes = (size_t)f->limits.positions_max * (size_t)half * sizeof(float);
    float *tables = malloc(2 * bytes);
    if (tables == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for RoPE's table of %d positions",
                              f->limits.positions_max);
    proa_rope_table(&c->rope, 0, f->limits.positions_max, tables, tables + bytes / sizeof(float));
    proa_status status = proa_gpu_upload(f->gpu, f->rope_cos, tables, bytes, err);
    if (status == PROA_OK)
        status = proa_gpu_upload(f->gpu, f->rope_sin, tables + bytes / sizeof(float), bytes, err);
    if (status == PROA_OK && where != NULL)
        status = proa_gpu_upload(f->gpu, f->where, where, (size_t)c->n_routed_experts * sizeof *where, err);
    if (status == PROA_OK) /* blocks that nobody has written hold zeros, not another process's NaNs */
        status = proa_gpu_set(f->gpu, f->cache, 0, f->cache_bytes, err);
    if (status == PROA_OK)
        status = proa_gpu_set(f->gpu, f->b.tickets, 0, 2 * sizeof(int32_t), err);
    if (status == PROA_OK)
        status = proa_gpu_sync(f->gpu, err);
    free(tables);
    return status;
}

proa_status proa_cuda_forward_create(proa_gpu *gpu, const proa_cuda_weights *weights,
                                     const proa_cuda_limits *limits, const int32_t *where,
                                     proa_cuda_forward **out, proa_error *err)
{
    const proa_model_config *c = &weights->config;
    proa_cuda_forward *f = calloc(1, sizeof *f);
    proa_carver measure = {.alignment = ALIGNMENT};
    *out = NULL;
    if (f == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for a forward");
    if (c->q_lora_rank == 0) {
        free(f);
        return proa_error_set(err, PROA_ERR_UNSUPPORTED,
                              "a model without q_lora_rank is not served on a GPU yet: use --device cpu");
    }
    f->gpu = gpu;
    f->weights = weights;
    f->local_experts = weights->local_experts;
    f->config = *c;
    f->limits = *limits;
    f->only = UINT32_MAX;
    f->two_streams = true;
    f->layer = -1;
    f->softmax_scale = (float)proa_rope_softmax_scale(&c->rope, c->qk_nope_head_dim + c->qk_rope_head_dim);
    f->placed = where != NULL;
    measure_all(f, &measure);
    proa_status status = proa_gpu_alloc(gpu, measure.used, &f->memory, err);
    if (status == PROA_OK)
        status = proa_gpu_alloc_host(gpu, f->metadata_bytes, &f->pinned, err);
    if (status == PROA_OK) {
        proa_carver there = {.base = f->memory, .alignment = ALIGNMENT};
        proa_carver here = {.base = f->pinned, .alignment = ALIGNMENT};
        carve_all(&there, f);
        f->host = carve_metadata(&here, f);
        status = upload_tables(f, where, err);
    }
    if (status != PROA_OK) {
        proa_cuda_forward_free(f);
        return status;
    }
    *out = f;
    return PROA_OK;
}

void proa_cuda_forward_free(proa_cuda_forward *f)
{
    if (f == NULL)
        return;
    proa_gpu_free(f->gpu, f->memory);
    proa_gpu_free_host(f->gpu, f->pinned);
    free(f);
}

void proa_cuda_forward_bytes(const proa_cuda_forward *f, uint64_t *buffers, uint64_t *cache)
{
    *buffers = f->buffer_bytes;
    *cache = f->cache_bytes;
}

bool proa_cuda_forward_placed(const proa_cuda_forward *f)
{
    return f->placed;
}

const int32_t *proa_cuda_forward_choices(const proa_cuda_forward *f, int32_t *rows)
{
    PROA_ASSERT(!f->placed); /* else they are places, not the model's experts */
    *rows = f->rows;
    return f->b.expert_ids;
}

const float *proa_cuda_forward_logits(const proa_cuda_forward *f)
{
    return f->b.logits;
}

void proa_cuda_forward_only(proa_cuda_forward *f, uint32_t ops)
{
    f->only = ops;
}

/* ---- the step's description ---- */

static int32_t slot_of(const int32_t *blocks, int32_t position)
{
    return blocks[position / PROA_KV_BLOCK_TOKENS] * PROA_KV_BLOCK_TOKENS + position % PROA_KV_BLOCK_TOKENS;
}

static void add_rows(proa_cuda_forward *f, const proa_cuda_sequence *s)
{
    for (int32_t i = 0; i < s->row_count; i++) {
        const int32_t row = f->rows++;
        f->host.ids[row] = s->ids[i];
        f->host.positions[row] = s->position_first + i;
        f->host.slots[row] = slot_of(s->blocks, s->position_first + i);
    }
    for (int32_t i = s->logits; i > 0; i--)
        f->host.logit_rows[f->logit_rows++] = f->rows - i;
}

static void add_decode(proa_cuda_forward *f, const proa_cuda_sequence *s)
{
    const int32_t row = f->rows, keys = s->position_first + 1;
    add_rows(f, s);
    f->host.lengths[row] = keys;
    memcpy(f->host.tables + (int64_t)row * f->table_stride, s->blocks,
           sizeof *s->blocks * (size_t)((keys + PROA_KV_BLOCK_TOKENS - 1) / PROA_KV_BLOCK_TOKENS));
}

static void add_padding(proa_cuda_forward *f)
{
    const int32_t row = f->rows++;
    f->host.ids[row] = 0;
    f->host.positions[row] = 0;
    f->host.slots[row] = -1;
    f->host.lengths[row] = 0;
    f->host.logit_rows[f->logit_rows++] = row;
}

static void add_prompt(proa_cuda_forward *f, const proa_cuda_sequence *s)
{
    const int32_t keys = s->position_first + s->row_count, room = round_up(keys, PROA_CUDA_KEY_TILE);
    const int32_t segment[PROA_CUDA_SEGMENT_INTS] = {
        f->rows - f->decode_rows, s->row_count, s->position_first, f->keys, 0, keys};
    memcpy(f->host.segments + f->segments++ * PROA_CUDA_SEGMENT_INTS, segment, sizeof segment);
    for (int32_t i = 0; i < room; i++)
        f->host.key_slots[f->keys + i] = i < keys ? slot_of(s->blocks, i) : -1;
    f->keys += room;
    add_rows(f, s);
}

proa_status proa_cuda_forward_prepare(proa_cuda_forward *f, const proa_cuda_step *step, proa_error *err)
{
    f->rows = f->decode_rows = f->segments = f->keys = f->logit_rows = 0;
    f->logits_at = step->logits_at;
    PROA_ASSERT(step->decode_count + step->padding <= f->limits.decode_rows_max);
    PROA_ASSERT(step->prompt_count <= f->limits.segments_max);
    for (int32_t i = 0; i < step->decode_count; i++)
        add_decode(f, &step->decode[i]);
    for (int32_t i = 0; i < step->padding; i++)
        add_padding(f);
    f->decode_rows = f->rows;
    for (int32_t i = 0; i < step->prompt_count; i++)
        add_prompt(f, &step->prompts[i]);
    PROA_ASSERT(f->rows <= f->limits.rows_max);
    PROA_ASSERT(f->keys <= f->limits.keys_max);
    PROA_ASSERT(f->logits_at + f->logit_rows <= f->limits.logit_rows_max);
    (void)proa_cuda_begin(f, PROA_CUDA_UPLOAD);
    return proa_cuda_end(f, proa_gpu_upload(f->gpu, f->memory, f->pinned, f->metadata_bytes, err), err);
}

/* ---- norms ---- */

proa_status proa_cuda_norm(proa_cuda_forward *f, const void *delta, const void *w, bool keep, bool quantise,
                           proa_error *err)
{
    const int32_t hidden = f->config.hidden_size;
    if (!proa_cuda_begin(f, PROA_CUDA_NORM))
        return PROA_OK;
    return proa_cuda_rmsnorm(f->gpu,
                             &(proa_cuda_rmsnorm_args){.rows = f->rows,
                                                       .cols = hidden,
                                                       .x = f->b.hidden,
                                                       .x_stride = hidden,
                                                       .delta = delta,
                                                       .w = w,
                                                       .eps = (float)f->config.rms_norm_eps,
                                                       .y = keep ? f->b.normed : NULL,
                                                       .y_stride = hidden,
                                                       .q = quantise ? f->b.q8 : (proa_cuda_fp8_rows){0}},
                             err);
}

/* ---- the walk ---- */

/* The rows whose logits are wanted, together; their last norm; the head. */
static proa_status finish(proa_cuda_forward *f, proa_error *err)
{
    const proa_model_config *c = &f->config;
    const int32_t rows = f->logit_rows, hidden = c->hidden_size;
    if (rows == 0 || !proa_cuda_begin(f, PROA_CUDA_HEAD))
        return PROA_OK;
    proa_status status = proa_cuda_embed(
        f->gpu,
        &(proa_cuda_embed_args){
            .rows = rows, .cols = hidden, .ids = f->m.logit_rows, .table = f->b.hidden, .y = f->b.last},
        err);
    if (status == PROA_OK)
        status = proa_cuda_embed(f->gpu,
                                 &(proa_cuda_embed_args){.rows = rows,
                                                         .cols = hidden,
                                                         .ids = f->m.logit_rows,
                                                         .table = f->b.delta,
                                                         .y = f->b.last_delta},
                                 err);
    if (status == PROA_OK)
        status = proa_cuda_rmsnorm(f->gpu,
                                   &(proa_cuda_rmsnorm_args){.rows = rows,
                                                             .cols = hidden,
                                                             .x = f->b.last,
                                                             .x_stride = hidden,
                                                             .delta = f->b.last_delta,
                                                             .w = f->weights->norm,
                                                             .eps = (float)c->rms_norm_eps,
                                                             .y = f->b.normed,
                                                             .y_stride = hidden},
                                   err);
    if (status != PROA_OK)
        return status;
    return proa_cuda_bf16_linear(
        f->gpu,
        &(proa_cuda_bf16_linear_args){
            .rows = {.groups = 1, .rows = rows},
            .rows_max = f->limits.rows_max,
            .n = c->vocab_size,
            .k = hidden,
            .x = f->b.normed,
            .x_stride = hidden,
            .w = f->weights->lm_head,
            .y = f->b.logits + (int64_t)f->logits_at * c->vocab_size,
            .y_float = true,
            .y_stride = c->vocab_size,
            .tile = proa_cuda_tile_of(
                f, PROA_CUDA_HEAD,
                &(proa_cuda_shape){
                    .y_float = true, .groups = 1, .n = c->vocab_size, .k = hidden, .rows = rows})},
        err);
}

static proa_status run_layer(proa_cuda_forward *f, int32_t layer, proa_error *err)
{
    const proa_cuda_layer *w = &f->weights->layers[layer];
    const bool fp8 = w->o.dtype == PROA_DTYPE_E4M3, add = layer > 0;
    proa_status status = PROA_OK;
    f->layer = layer;
    if (f->tap != NULL)
        status = proa_cuda_tap_hidden(f, layer, add, err);
    if (status == PROA_OK)
        status =
            proa_cuda_norm(f, add && f->tap == NULL ? f->b.delta : NULL, w->input_layernorm, !fp8, fp8, err);
    if (status == PROA_OK)
        status = proa_cuda_attention(f, layer, err);
    if (status == PROA_OK) /* the router takes bf16 */
        status = proa_cuda_norm(f, f->b.delta, w->post_attention_layernorm, !fp8 || w->moe, fp8, err);
    return status == PROA_OK ? proa_cuda_mlp_of(f, layer, err) : status;
}

proa_status proa_cuda_forward_run(proa_cuda_forward *f, proa_error *err)
{
    const proa_model_config *c = &f->config;
    proa_status status = PROA_OK;
    f->layer = -1;
    if (proa_cuda_begin(f, PROA_CUDA_EMBED))
        status = proa_cuda_embed(f->gpu,
                                 &(proa_cuda_embed_args){.rows = f->rows,
                                                         .cols = c->hidden_size,
                                                         .ids = f->m.ids,
                                                         .table = f->weights->embed_tokens,
                                                         .y = f->b.hidden},
                                 err);
    if (status == PROA_OK && c->n_routed_experts > 0 && proa_cuda_begin(f, PROA_CUDA_ROUTER))
        status = proa_gpu_set(f->gpu, f->b.counts, 0, 4 * (size_t)f->local_experts * sizeof(int32_t), err);
    for (int32_t i = 0; i < c->num_hidden_layers && status == PROA_OK; i++)
        status = run_layer(f, i, err);
    f->layer = -1;
    if (status == PROA_OK && f->tap != NULL)
        status = proa_cuda_tap_last(f, err);
    return proa_cuda_end(f, status == PROA_OK ? finish(f, err) : status, err);
}

/* ---- copies ---- */

proa_status proa_cuda_forward_kv_copy(proa_cuda_forward *f, int32_t from, int32_t to, int32_t tokens,
                                      proa_error *err)
{
    const size_t row = (size_t)cache_row_bytes(f), block = row * PROA_KV_BLOCK_TOKENS,
                 layers = (size_t)f->limits.cache_layers;
    return proa_gpu_copy_rows(f->gpu, f->cache + (size_t)to * block, f->cache + (size_t)from * block,
                              f->cache_bytes / layers, row * (size_t)tokens, layers, err);
}
