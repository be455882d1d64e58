/* forward.c - buffers and the walk over the layers.
 *
 *   ids ─ embed ─> hidden ─┬─ norm ─ attention ─> delta ─ (+ hidden) norm ─ mlp ─> delta ─ ... ─ norm ─ lm_head ─> logits
 *                          └────────── residual ───────────┘
 *
 * `delta` is added to the residual stream by the norm that follows it, one pass over memory for both. Only the rows
 * that need logits go through the last norm and the head.
 */
#include "model/forward_internal.h"

#include "base/carver.h"
#include "base/minmax.h"
#include "model/overlap.h"

#include <stdlib.h>
#include <string.h>

enum { ALIGNMENT = 64 };

proa_status proa_forward_check_kv(const proa_model_config *config, proa_precision precision,
                                  proa_kv_cache kv_cache, proa_error *err)
{
    if (kv_cache == PROA_KV_CACHE_AUTO)
        return PROA_OK;
    if (precision == PROA_PRECISION_EXACT)
        return proa_error_set(
            err, PROA_ERR_INVALID,
            "--kv-cache-dtype fp8_e4m3 with --activation-dtype float32: the exact precision rounds nothing; "
            "leave one of them out");
    if (!proa_kv_row_fits(PROA_DTYPE_E4M3, config->kv_lora_rank, config->qk_rope_head_dim))
        return proa_error_set(
            err, PROA_ERR_INVALID,
            "--kv-cache-dtype fp8_e4m3 needs a kv_lora_rank that is a multiple of 16 and a qk_rope_head_dim "
            "that is one of 8; this model has %d and %d: use --kv-cache-dtype auto",
            config->kv_lora_rank, config->qk_rope_head_dim);
    return PROA_OK;
}

/* Of one layer. */
static proa_kv_row kv_row(const proa_model_config *config, proa_precision precision, proa_kv_cache kv_cache)
{
    return proa_kv_row_of(proa_kv_cache_dtype(kv_cache, precision), config->kv_lora_rank,
                          config->qk_rope_head_dim);
}

size_t proa_forward_kv_block_bytes(const proa_model_config *config, proa_precision precision,
                                   proa_kv_cache kv_cache)
{
    return (size_t)kv_row(config, precision, kv_cache).bytes * PROA_KV_BLOCK_TOKENS *
           (size_t)config->num_hidden_layers;
}

static float *carve_floats(proa_carver *c, int64_t rows, int64_t cols)
{
    return proa_carve(c, rows * cols, sizeof(float));
}

static int32_t *carve_ints(proa_carver *c, int64_t count)
{
    return proa_carve(c, count, sizeof(int32_t));
}

/* The widest row that is ever quantised, and the room for all rows of it. */
static void carve_quantised(proa_carver *c, const proa_model_config *m, int32_t rows, int32_t slots,
                            forward_buffers *b)
{
    int32_t shared = m->moe_intermediate_size * m->n_shared_experts;
    int32_t widest = proa_max_i32(proa_max_i32(m->hidden_size, m->q_lora_rank),
                                  proa_max_i32(m->num_attention_heads * m->v_head_dim, m->kv_lora_rank));
    widest = proa_max_i32(widest, proa_max_i32(m->intermediate_size, shared));
    int64_t groups = (widest + PROA_QUANT_GROUP - 1) / PROA_QUANT_GROUP;
    int64_t slot_groups = (m->moe_intermediate_size + PROA_QUANT_GROUP - 1) / PROA_QUANT_GROUP;
    int64_t many = proa_max_i32(rows, EXPANDED_TILE);
    int64_t bytes = many * widest, slot_bytes = (int64_t)slots * m->moe_intermediate_size;
    int64_t scales = many * groups, slot_scales = slots * slot_groups;
    b->q8 = proa_carve(c, bytes > slot_bytes ? bytes : slot_bytes, 1);
    b->q8_scale = carve_floats(c, 1, scales > slot_scales ? scales : slot_scales);
}

static void carve_attention(proa_carver *c, const proa_model_config *m, int32_t rows, forward_buffers *b)
{
    int64_t heads = m->num_attention_heads;
    b->q_a = carve_floats(c, rows, m->q_lora_rank);
    b->q = carve_floats(c, rows, heads * (m->qk_nope_head_dim + m->qk_rope_head_dim));
    b->kv_a = carve_floats(c, rows, m->kv_lora_rank + m->qk_rope_head_dim);
    b->attention = carve_floats(c, rows, heads * m->v_head_dim);
    b->q_lat = carve_floats(c, ABSORBED_ROWS, heads * m->kv_lora_rank);
    b->o_lat = carve_floats(c, ABSORBED_ROWS, heads * m->kv_lora_rank);
    b->tile_lora = carve_floats(c, EXPANDED_TILE, m->kv_lora_rank);
    b->tile_pe = carve_floats(c, EXPANDED_TILE, m->qk_rope_head_dim);
    b->tile_kv = carve_floats(c, EXPANDED_TILE, heads * (m->qk_nope_head_dim + m->v_head_dim));
    b->state_max = carve_floats(c, rows, heads);
    b->state_sum = carve_floats(c, rows, heads);
    b->state_out = carve_floats(c, rows, heads * m->v_head_dim);
    b->batch = proa_carve(c, ABSORBED_ROWS, sizeof(proa_segment));
}

static void carve_mlp(proa_carver *c, const proa_model_config *m, int32_t rows, int32_t slots,
                      forward_buffers *b)
{
    int32_t width = proa_max_i32(m->intermediate_size, m->moe_intermediate_size * m->n_shared_experts);
    b->mlp_gate = carve_floats(c, rows, width);
    b->mlp_up = carve_floats(c, rows, width);
    b->router_logits = carve_floats(c, rows, m->n_routed_experts);
    b->offsets = carve_ints(c, m->n_routed_experts + 1);
    b->order = carve_ints(c, slots);
    b->row_index = carve_ints(c, slots);
    b->place = carve_ints(c, slots);
    b->slot_gate = carve_floats(c, slots, m->moe_intermediate_size);
    b->slot_up = carve_floats(c, slots, m->moe_intermediate_size);
    b->slot_out = carve_floats(c, slots, m->hidden_size);
}

static void carve_lane(proa_carver *c, const proa_model_config *m, int32_t rows, int32_t slots,
                       forward_lane *lane)
{
    lane->expert_ids = carve_ints(c, slots);
    lane->expert_weights = carve_floats(c, 1, slots);
    lane->shared_out = carve_floats(c, rows, m->hidden_size);
}

static void carve_exchange(proa_carver *c, const proa_model_config *m, const proa_exchange *x, int32_t slots,
                           forward_buffers *b)
{
    int32_t local = x->local_experts;
    int64_t most = m->num_experts_per_tok < local ? m->num_experts_per_tok : local;
    b->physical = carve_ints(c, slots);
    b->work_order = carve_ints(c, x->received_max * most);
    b->work_row = carve_ints(c, x->received_max * most);
    b->work_offsets = carve_ints(c, local + 1);
    b->piece_offsets = carve_ints(c, local + 1);
    b->place_in = carve_ints(c, local);
    b->local = proa_carve(c, (int64_t)m->num_hidden_layers * 3 * local, sizeof(proa_weight));
}

static size_t carve_buffers(proa_forward *f, unsigned char *base)
{
    const proa_model_config *m = &f->config;
    const proa_forward_limits *l = &f->limits;
    int32_t mlp_rows = l->rows_max < MLP_ROWS ? l->rows_max : MLP_ROWS;
    int32_t slots = m->n_routed_experts > 0 ? mlp_rows * m->num_experts_per_tok : 0;
    proa_carver c = {.base = base, .alignment = ALIGNMENT};
    f->b.positions = carve_ints(&c, l->rows_max);
    f->b.logit_rows = carve_ints(&c, l->logit_rows_max);
    f->b.hidden = carve_floats(&c, l->rows_max, m->hidden_size);
    f->b.normed = carve_floats(&c, l->rows_max, m->hidden_size);
    f->b.delta = carve_floats(&c, l->rows_max, m->hidden_size);
    carve_quantised(&c, m, l->rows_max, slots, &f->b);
    carve_attention(&c, m, l->rows_max, &f->b);
    carve_mlp(&c, m, mlp_rows, slots, &f->b);
    carve_lane(&c, m, mlp_rows, slots, &f->b.lanes[0]);
    if (f->shared_experts)
        carve_exchange(&c, m, &f->exchange, slots, &f->b);
    if (f->overlap) {
        carve_lane(&c, m, mlp_rows, slots, &f->b.lanes[1]);
        f->b.half_segments = proa_carve(&c, (int64_t)l->rows_max + 1, sizeof(proa_segment));
    }
    if (f->shares_heads)
        f->b.heads_out = carve_floats(&c, proa_team_slice_max(l->rows_max, f->team.size),
                                      m->num_attention_heads * m->v_head_dim);
    f->b.last_hidden = carve_floats(&c, l->logit_rows_max, m->hidden_size);
    f->b.last_delta = carve_floats(&c, l->logit_rows_max, m->hidden_size);
    f->b.logits = carve_floats(&c, l->logit_rows_max, m->vocab_size);
    f->rope_cos = carve_floats(&c, l->positions_max, m->qk_rope_head_dim / 2);
    f->rope_sin = carve_floats(&c, l->positions_max, m->qk_rope_head_dim / 2);
    f->kv = proa_carve(&c, m->num_hidden_layers, sizeof(proa_kv_layer));
    return c.used;
}

static size_t head_scratch(const proa_forward *f)
{
    const proa_host *h = &f->device->host;
    size_t linear =
        proa_linear_scratch_bytes(h, f->limits.logit_rows_max, f->config.vocab_size, f->config.hidden_size);
    size_t sample = proa_sample_scratch_bytes(h, f->limits.logit_rows_max, f->config.vocab_size);
    return linear > sample ? linear : sample;
}

static proa_status reserve_scratch(proa_forward *f, proa_error *err)
{
    size_t bytes = head_scratch(f);
    size_t attention = proa_forward_attention_scratch(f), mlp = proa_forward_mlp_scratch(f);
    bytes = bytes > attention ? bytes : attention;
    bytes = bytes > mlp ? bytes : mlp;
    return proa_device_reserve(f->device, bytes, err);
}

static void place_kv(proa_forward *f)
{
    const proa_model_config *m = &f->config;
    const proa_precision precision = f->device->host.precision;
    size_t layer_bytes = (size_t)kv_row(m, precision, f->limits.kv_cache).bytes * PROA_KV_BLOCK_TOKENS *
                         (size_t)f->limits.kv_blocks;
    for (int32_t i = 0; i < m->num_hidden_layers; i++) {
        f->kv[i] = (proa_kv_layer){
            .base = (unsigned char *)f->kv_memory + (size_t)i * layer_bytes,
            .dtype = proa_kv_cache_dtype(f->limits.kv_cache, precision),
            .kv_lora_rank = m->kv_lora_rank,
            .rope_dim = m->qk_rope_head_dim,
        };
    }
}

static void *allocate(size_t bytes)
{
    return aligned_alloc(ALIGNMENT, (bytes + ALIGNMENT) / ALIGNMENT * ALIGNMENT);
}

proa_status proa_forward_create(const proa_model_config *config, const proa_weights *weights,
                                proa_device *device, const proa_forward_limits *limits,
                                proa_forward **forward, proa_error *err)
{
    PROA_ASSERT(limits->rows_max > 0);
    PROA_ASSERT(limits->logit_rows_max > 0);
    PROA_ASSERT(limits->logit_rows_max <= limits->rows_max);
    PROA_ASSERT(limits->overlap_threshold >= 0);
    PROA_ASSERT(limits->overlap_threshold <= 0.5);
    PROA_ASSERT(weights->layer_count == config->num_hidden_layers);
    proa_status status = proa_forward_check_kv(config, device->host.precision, limits->kv_cache, err);
    if (status != PROA_OK)
        return status;
    proa_forward *f = calloc(1, sizeof *f);
    if (f == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for the layer graph");
    f->config = *config;
    f->weights = weights;
    f->device = device;
    f->limits = *limits;
    f->shared_experts = limits->exchange != NULL;
    if (f->shared_experts)
        f->exchange = *limits->exchange;
    f->overlap = f->exchange.lanes == 2;
    f->shares_heads = limits->team != NULL;
    if (f->shares_heads)
        f->team = *limits->team;
    f->limits.exchange = NULL;
    f->limits.team = NULL;
    PROA_ASSERT(f->exchange.rows_max <= MLP_ROWS);
    PROA_ASSERT(!f->shares_heads || (f->shared_experts && !f->overlap));
    f->softmax_scale =
        (float)proa_rope_softmax_scale(&config->rope, config->qk_nope_head_dim + config->qk_rope_head_dim);
    device->host.ue8m0 = config->ue8m0;
    size_t kv_bytes = proa_forward_kv_block_bytes(config, device->host.precision, limits->kv_cache) *
                      (size_t)limits->kv_blocks;
    size_t buffer_bytes = carve_buffers(f, NULL);
    f->memory = allocate(buffer_bytes);
    f->kv_memory = allocate(kv_bytes);
    if (f->memory == NULL || f->kv_memory == NULL) {
        proa_forward_free(f);
        return proa_error_set(err, PROA_ERR_MEMORY,
                              "no memory for %zu MiB of step buffers and %zu MiB of KV cache: "
                              "lower --max-total-tokens, --chunked-prefill-size or --max-running-requests",
                              buffer_bytes >> 20, kv_bytes >> 20);
    }
    carve_buffers(f, f->memory);
    place_kv(f);
    proa_rope_table(&config->rope, 0, limits->positions_max, f->rope_cos, f->rope_sin);
    status = proa_forward_take_heads(f, err);
    if (status == PROA_OK)
        status = reserve_scratch(f, err);
    if (status != PROA_OK) {
        proa_forward_free(f);
        return status;
    }
    *forward = f;
    return PROA_OK;
}

proa_status proa_forward_wrap(const proa_model_config *config, const proa_forward_limits *limits,
                              const proa_forward_backend *backend, void *context, proa_forward **forward,
                              proa_error *err)
{
    PROA_ASSERT(limits->exchange == NULL);
    PROA_ASSERT(limits->team == NULL);
    proa_forward *f = calloc(1, sizeof *f);
    *forward = f;
    if (f == NULL) {
        backend->free(context);
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for a forward");
    }
    f->config = *config;
    f->limits = *limits;
    f->backend = backend;
    f->backend_context = context;
    return PROA_OK;
}

void proa_forward_free(proa_forward *forward)
{
    if (forward == NULL)
        return;
    if (forward->backend != NULL)
        forward->backend->free(forward->backend_context);
    free(forward->memory);
    free(forward->kv_memory);
    free(forward->own);
    free(forward->own_scales);
    free(forward);
}

const proa_forward_limits *proa_forward_limits_of(const proa_forward *f)
{
    return &f->limits;
}

proa_forward_kv proa_forward_kv_memory(const proa_forward *f)
{
    if (f->backend != NULL)
        return (proa_forward_kv){0};
    size_t row = (size_t)kv_row(&f->config, f->device->host.precision, f->limits.kv_cache).bytes;
    return (proa_forward_kv){
        .base = f->kv_memory,
        .row_bytes = row,
        .layer_bytes = row * PROA_KV_BLOCK_TOKENS * (size_t)f->limits.kv_blocks,
    };
}

void proa_forward_set_tap(proa_forward *forward, proa_forward_tap tap, void *context)
{
    forward->tap = tap;
    forward->tap_context = context;
    if (forward->backend != NULL)
        forward->backend->set_tap(forward->backend_context, tap, context);
}

proa_status proa_forward_set_expert_tap(proa_forward *forward, proa_forward_expert_tap tap, void *context,
                                        proa_error *err)
{
    if (forward->backend != NULL)
        return forward->backend->set_expert_tap(forward->backend_context, tap, context, err);
    forward->expert_tap = tap;
    forward->expert_tap_context = context;
    return PROA_OK;
}

void proa_forward_set_experts(proa_forward *f, int32_t layer, const int32_t *logical)
{
    const proa_layer_weights *w = &f->weights->layers[layer];
    int32_t local = f->exchange.local_experts;
    proa_weight *to = f->b.local + (int64_t)layer * 3 * local;
    PROA_ASSERT(f->shared_experts);
    for (int32_t i = 0; i < local; i++) {
        PROA_ASSERT(logical[i] >= 0);
        PROA_ASSERT(logical[i] < f->config.n_routed_experts);
        to[i] = w->expert_gate[logical[i]];
        to[local + i] = w->expert_up[logical[i]];
        to[2 * local + i] = w->expert_down[logical[i]];
    }
}

void proa_forward_get_expert(const proa_forward *f, int32_t layer, int32_t expert, proa_weight projections[3])
{
    const proa_layer_weights *w = &f->weights->layers[layer];
    projections[0] = w->expert_gate[expert];
    projections[1] = w->expert_up[expert];
    projections[2] = w->expert_down[expert];
}

void proa_forward_set_place(proa_forward *forward, proa_forward_place place, void *context)
{
    forward->place = place;
    forward->place_context = context;
}

proa_rows proa_forward_rows(proa_forward *f, const float *x, int32_t rows, int32_t cols, const proa_weight *w,
                            const proa_weight *w2)
{
    proa_rows r = {.rows = rows, .cols = cols, .x = x};
    bool fp8 = w->dtype == PROA_DTYPE_E4M3 || (w2 != NULL && w2->dtype == PROA_DTYPE_E4M3);
    if (fp8 && f->device->host.precision == PROA_PRECISION_DEFAULT) {
        f->device->ops->quantise(&f->device->host, &(proa_quantise_args){
                                                       .rows = rows,
                                                       .cols = cols,
                                                       .x = x,
                                                       .x_stride = cols,
                                                       .q = f->b.q8,
                                                       .s = f->b.q8_scale,
                                                   });
        r.q = f->b.q8;
        r.s = f->b.q8_scale;
    }
    return r;
}

void proa_forward_linear(proa_forward *f, proa_rows x, const proa_weight *w, float *y)
{
    f->device->ops->linear(
        &f->device->host,
        &(proa_linear_args){.x = x, .w = w, .y = y, .y_stride = w->n, .round_output = true});
    proa_forward_progress(f);
}

void proa_forward_add_and_norm(proa_forward *f, int32_t rows, float *hidden, const float *delta,
                               const proa_weight *w, float *normed)
{
    f->device->ops->rmsnorm(&f->device->host, &(proa_rmsnorm_args){
                                                  .rows = rows,
                                                  .cols = f->config.hidden_size,
                                                  .x = hidden,
                                                  .x_stride = f->config.hidden_size,
                                                  .delta = delta,
                                                  .w = w,
                                                  .eps = f->config.rms_norm_eps,
                                                  .y = w != NULL ? normed : NULL,
                                                  .y_stride = f->config.hidden_size,
                                              });
}

/* Copies the rows that need logits together: an embedding look-up in the table of hidden states. */
static void gather_rows(proa_forward *f, const proa_step *step, const float *from, float *to)
{
    proa_weight table = {
        .dtype = PROA_DTYPE_F32, .n = step->row_count, .k = f->config.hidden_size, .data = from};
    f->device->ops->embed(
        &f->device->host,
        &(proa_embed_args){.rows = step->logit_count, .ids = step->logit_rows, .table = &table, .y = to});
}

static void check_step(const proa_forward *f, const proa_step *step)
{
    int32_t row = 0;
    PROA_ASSERT(step->row_count > 0 || f->shared_experts);
    PROA_ASSERT(step->row_count <= f->limits.rows_max);
    PROA_ASSERT(!f->shared_experts || step->windows >= proa_forward_windows(f, step->row_count));
    PROA_ASSERT(step->logit_count <= f->limits.logit_rows_max);
    for (int32_t i = 0; i < step->segment_count; i++) {
        const proa_segment *s = &step->segments[i];
        PROA_ASSERT(s->row_count > 0);
        PROA_ASSERT(s->row_first == row);
        PROA_ASSERT(s->position_first + s->row_count <= f->limits.positions_max);
        for (int32_t j = 0; j < s->row_count && f->backend == NULL; j++)
            f->b.positions[row + j] = s->position_first + j;
        row += s->row_count;
    }
    PROA_ASSERT(row == step->row_count);
}

void proa_forward_attend(proa_forward *f, int32_t layer, int32_t first, const proa_step *step,
                         const float *delta)
{
    const proa_layer_weights *w = &f->weights->layers[layer];
    int64_t at = (int64_t)first * f->config.hidden_size;
    proa_forward_add_and_norm(f, step->row_count, f->b.hidden + at, delta, &w->input_layernorm,
                              f->b.normed + at);
    const float *normed = f->b.normed + at;
    proa_forward_latents(f, layer, normed, 0, step->row_count);
    proa_forward_attend_heads(f, layer, f->b.positions + first, normed, step);
    proa_forward_join_heads(f, layer, f->b.attention, step->row_count, f->b.delta + at);
    proa_forward_add_and_norm(f, step->row_count, f->b.hidden + at, f->b.delta + at,
                              &w->post_attention_layernorm, f->b.normed + at);
}

/* For a reference's hidden states: folds the pending delta into the residual stream first. */
static void tap_hidden(proa_forward *f, int32_t index, int32_t rows, float **delta)
{
    if (f->tap == NULL)
        return;
    if (*delta != NULL)
        proa_forward_add_and_norm(f, rows, f->b.hidden, *delta, NULL, NULL);
    *delta = NULL;
    f->tap(f->tap_context, index, rows, f->b.hidden);
}

/* The rows that need logits after the last norm, to b.normed. */
static void norm_last(proa_forward *f, const proa_step *step, const float *delta)
{
    gather_rows(f, step, f->b.hidden, f->b.last_hidden);
    if (delta != NULL)
        gather_rows(f, step, delta, f->b.last_delta);
    proa_forward_add_and_norm(f, step->logit_count, f->b.last_hidden, delta != NULL ? f->b.last_delta : NULL,
                              &f->weights->norm, f->b.normed);
}

static void make_logits(proa_forward *f, int32_t rows)
{
    f->device->ops->linear(&f->device->host,
                           &(proa_linear_args){
                               .x = {.rows = rows, .cols = f->config.hidden_size, .x = f->b.normed},
                               .w = &f->weights->lm_head,
                               .y = f->b.logits,
                               .y_stride = f->config.vocab_size,
                               .round_output = false, /* logits stay float32 */
                           });
}

static proa_status finish_step(proa_forward *f, const proa_step *step, float *delta, proa_error *err)
{
    if (f->tap != NULL) {
        proa_forward_add_and_norm(f, step->row_count, f->b.hidden, delta, &f->weights->norm, f->b.normed);
        f->tap(f->tap_context, f->config.num_hidden_layers, step->row_count, f->b.normed);
        delta = NULL; /* hidden has it now */
    }
    if (step->logit_count == 0)
        return PROA_OK;
    if (f->shares_heads) {
        proa_status status = proa_forward_team_last(f, step, delta, err);
        if (status != PROA_OK || f->team.member > 0)
            return status;
    } else {
        norm_last(f, step, delta);
    }
    make_logits(f, step->logit_count);
    return PROA_OK;
}

int32_t proa_forward_windows(const proa_forward *f, int32_t rows)
{
    int32_t most = f->overlap        ? proa_overlap_half_rows(rows, f->limits.overlap_threshold)
                   : f->shares_heads ? proa_team_slice_max(rows, f->team.size)
                                     : rows;
    return f->shared_experts ? (most + f->exchange.rows_max - 1) / f->exchange.rows_max : 0;
}

static proa_status attend(proa_forward *f, int32_t layer, const proa_step *step, float **delta,
                          proa_error *err)
{
    if (f->shares_heads)
        return proa_forward_team_attend(f, layer, step, *delta, err);
    tap_hidden(f, layer, step->row_count, delta);
    proa_forward_attend(f, layer, 0, step, *delta);
    return PROA_OK;
}

/* All layers; *delta is what is still to be added to b.hidden. Without rows, there is work for the experts here alone. */
static proa_status run_layers(proa_forward *f, const proa_step *step, float **delta, proa_error *err)
{
    forward_rows own = proa_forward_own_rows(f, step->row_count);
    proa_status status = PROA_OK;
    *delta = NULL;
    for (int32_t i = 0; i < f->config.num_hidden_layers && status == PROA_OK; i++) {
        if (step->row_count > 0)
            status = attend(f, i, step, delta, err);
        if (status == PROA_OK)
            status = proa_forward_mlp(f, i, own.first, own.count, step->windows, err);
        *delta = f->b.delta;
    }
    return status;
}

static proa_status run_halves(proa_forward *f, const proa_step *step, float **delta, proa_error *err)
{
    PROA_ASSERT(f->tap == NULL);
    *delta = f->b.delta;
    return proa_overlap_layers(f, step, err);
}

static void embed(proa_forward *f, const proa_step *step)
{
    forward_rows own = proa_forward_own_rows(f, step->row_count);
    if (own.count > 0)
        f->device->ops->embed(
            &f->device->host,
            &(proa_embed_args){.rows = own.count,
                               .ids = step->token_ids + own.first,
                               .table = &f->weights->embed_tokens,
                               .y = f->b.hidden + (int64_t)own.first * f->config.hidden_size});
}

proa_status proa_forward_step(proa_forward *forward, const proa_step *step, float **logits, proa_error *err)
{
    proa_forward *f = forward;
    PROA_ASSERT(f->tap == NULL || !f->shares_heads);
    check_step(f, step);
    if (f->backend != NULL)
        return f->backend->step(f->backend_context, step, logits, err);
    *logits = f->b.logits;
    embed(f, step);
    float *delta;
    proa_status status = f->overlap ? run_halves(f, step, &delta, err) : run_layers(f, step, &delta, err);
    if (status == PROA_OK && step->row_count > 0)
        status = finish_step(f, step, delta, err);
    return status;
}

proa_status proa_forward_kv_copy(proa_forward *forward, const proa_kv_copy *copies, int32_t count,
                                 proa_error *err)
{
    if (forward->backend != NULL)
        return forward->backend->kv_copy(forward->backend_context, copies, count, err);
    for (int32_t i = 0; i < count; i++) {
        for (int32_t layer = 0; layer < forward->config.num_hidden_layers; layer++)
            forward->device->ops->kv_copy(&forward->device->host,
                                          &(proa_kv_copy_args){.kv = &forward->kv[layer],
                                                               .from = copies[i].from,
                                                               .to = copies[i].to,
                                                               .tokens = copies[i].tokens});
    }
    return PROA_OK;
}

bool proa_forward_samples(const proa_forward *forward)
{
    return forward->backend != NULL && forward->backend->sample != NULL;
}

proa_status proa_forward_sample(proa_forward *forward, const proa_sample_args *args, proa_error *err)
{
    PROA_ASSERT(proa_forward_samples(forward));
    return forward->backend->sample(forward->backend_context, args, err);
}
