/* moe.c - the second half of a layer on a GPU, from b.q8 (and b.normed) to b.delta: a dense SwiGLU MLP, or experts.
 *
 *   normed ─ router ─> ids, weights, counts ─ spread ─> rows by expert ─ gate | up ─ SwiGLU ─ down ─> slots ─ combine ─> delta
 *   normed ─ shared expert ────────────────────────────────────────────────────────────────────────────┘   on the second stream
 */
#include "model/cuda/internal.h"

#include "op/combine/cuda.h"
#include "op/linear/cuda.h"
#include "op/router/cuda.h"
#include "op/swiglu/cuda.h"

/* Where a MLP's products go. */
typedef struct mlp_buffers {
    void *gate_up;
    void *activated;
    proa_cuda_fp8_rows *activated_q8;
    int32_t rows_max;
} mlp_buffers;

static proa_status activate(proa_cuda_forward *f, proa_cuda_op op, const proa_cuda_groups *rows,
                            const proa_cuda_mlp *w, const mlp_buffers *b, proa_error *err)
{
    const bool fp8 = w->down.dtype == PROA_DTYPE_E4M3;
    if (!proa_cuda_begin(f, op))
        return PROA_OK;
    return proa_cuda_swiglu(f->gpu,
                            &(proa_cuda_swiglu_args){.rows = *rows,
                                                     .cols = w->width,
                                                     .gate = b->gate_up,
                                                     .up = (uint16_t *)b->gate_up + w->width,
                                                     .stride = w->gate_up.n,
                                                     .y = fp8 ? NULL : b->activated,
                                                     .q = fp8 ? *b->activated_q8 : (proa_cuda_fp8_rows){0}},
                            err);
}

/* The three of one MLP, dense or shared. */
static proa_status run_mlp(proa_cuda_forward *f, proa_cuda_op op, const proa_cuda_mlp *w, void *y,
                           proa_error *err)
{
    const cuda_input x = {f->b.normed, f->config.hidden_size, &f->b.q8, f->limits.rows_max};
    const mlp_buffers b = {f->b.gate_up, f->b.activated, &f->b.activated_q8, f->limits.rows_max};
    const proa_cuda_groups all = {.groups = 1, .rows = f->rows};
    proa_status status =
        proa_cuda_product(f, op, &x, f->rows, NULL, &w->gate_up, b.gate_up, w->gate_up.n, err);
    if (status == PROA_OK)
        status = activate(f, op, &all, w, &b, err);
    const cuda_input h = {b.activated, w->width, b.activated_q8, b.rows_max};
    return status == PROA_OK
               ? proa_cuda_product_of(f, op, &h, f->rows, NULL, &w->down, y, f->config.hidden_size, err)
               : status;
}

static proa_status route(proa_cuda_forward *f, const proa_cuda_layer *w, int32_t *ids, int32_t *counts,
                         proa_error *err)
{
    const proa_model_config *c = &f->config;
    const int32_t slices = c->hidden_size % (PROA_CUDA_ROUTER_SLICES * 64) == 0 ? PROA_CUDA_ROUTER_SLICES : 1;
    if (!proa_cuda_begin(f, PROA_CUDA_ROUTER))
        return PROA_OK;
    const proa_cuda_shape shape = {.y_float = true,
                                   .form = slices > 1 ? PROA_CUDA_GROUPS_SLICES : PROA_CUDA_GROUPS_ROWS,
                                   .groups = slices,
                                   .n = c->n_routed_experts,
                                   .k = c->hidden_size / slices,
                                   .rows = f->rows};
    proa_status status = proa_cuda_bf16_linear(
        f->gpu,
        &(proa_cuda_bf16_linear_args){.rows = {.groups = slices, .rows = f->rows},
                                      .groups = shape.form,
                                      .rows_max = f->limits.rows_max,
                                      .n = c->n_routed_experts,
                                      .k = c->hidden_size / slices,
                                      .x = f->b.normed,
                                      .x_stride = c->hidden_size,
                                      .w = w->router,
                                      .y = f->b.router_logits,
                                      .y_float = true,
                                      .y_stride = c->n_routed_experts,
                                      .y_group_stride = (int64_t)f->rows * c->n_routed_experts,
                                      .tile = proa_cuda_tile_of(f, PROA_CUDA_ROUTER, &shape)},
        err);
    if (status != PROA_OK)
        return status;
    return proa_cuda_router(f->gpu,
                            &(proa_cuda_router_args){.rows = f->rows,
                                                     .experts = c->n_routed_experts,
                                                     .n_group = c->n_group,
                                                     .topk_group = c->topk_group,
                                                     .top_k = c->num_experts_per_tok,
                                                     .norm_topk_prob = c->norm_topk_prob,
                                                     .routed_scaling_factor = (float)c->routed_scaling_factor,
                                                     .parts = slices,
                                                     .logits = f->b.router_logits,
                                                     .bias = w->router_bias,
                                                     .where = f->where,
                                                     .ids = ids,
                                                     .weights = f->b.expert_weights,
                                                     .counts = counts},
                            err);
}

/* Rows by expert; clears the counts of the next layer. */
static proa_status spread(proa_cuda_forward *f, const proa_cuda_layer *w, const int32_t *ids, int32_t *counts,
                          int32_t *next, proa_error *err)
{
    const proa_model_config *c = &f->config;
    const bool fp8 = w->experts.down.dtype == PROA_DTYPE_E4M3;
    const int32_t local = f->local_experts;
    if (!proa_cuda_begin(f, PROA_CUDA_SPREAD))
        return PROA_OK;
    return proa_cuda_spread(f->gpu,
                            &(proa_cuda_spread_args){.rows = f->rows,
                                                     .top_k = c->num_experts_per_tok,
                                                     .experts = local,
                                                     .ids = ids,
                                                     .counts = counts,
                                                     .filled = counts + local,
                                                     .clear = next,
                                                     .clear_count = 2 * local,
                                                     .first = f->b.first,
                                                     .count = f->b.count,
                                                     .place = f->b.place,
                                                     .cols = c->hidden_size,
                                                     .q = fp8 ? f->b.q8 : (proa_cuda_fp8_rows){0},
                                                     .q_out = f->b.spread_q8,
                                                     .x = f->b.normed,
                                                     .x_out = f->b.spread},
                            err);
}

static proa_status run_experts(proa_cuda_forward *f, const proa_cuda_layer *w, proa_error *err)
{
    const proa_model_config *c = &f->config;
    const int32_t local = f->local_experts;
    const proa_cuda_groups groups = {.groups = local,
                                     .first = f->b.first,
                                     .count = f->b.count,
                                     .expected = (f->rows * c->num_experts_per_tok + local - 1) / local};
    const mlp_buffers b = {f->b.slot_gate_up, f->b.slot_activated, &f->b.slot_q8, f->slots_max};
    const cuda_input x = {f->b.spread, c->hidden_size, &f->b.spread_q8, f->slots_max};
    const cuda_input h = {b.activated, w->experts.width, b.activated_q8, b.rows_max};
    proa_status status = proa_cuda_product(f, PROA_CUDA_EXPERTS_UP, &x, 0, &groups, &w->experts.gate_up,
                                           b.gate_up, w->experts.gate_up.n, err);
    if (status == PROA_OK)
        status = activate(f, PROA_CUDA_EXPERTS_ACT, &groups, &w->experts, &b, err);
    return status == PROA_OK ? proa_cuda_product_of(f, PROA_CUDA_EXPERTS_DOWN, &h, 0, &groups,
                                                    &w->experts.down, f->b.slot_out, c->hidden_size, err)
                             : status;
}

/* Beside dispatch and the routed experts. */
static proa_status run_shared(proa_cuda_forward *f, const proa_cuda_layer *w, proa_error *err)
{
    proa_cuda_beside(f, true);
    const proa_status status = run_mlp(f, PROA_CUDA_SHARED, &w->mlp, f->b.shared_out, err);
    proa_cuda_beside(f, false);
    return status;
}

static proa_status moe(proa_cuda_forward *f, int32_t layer, proa_error *err)
{
    const proa_model_config *c = &f->config;
    const proa_cuda_layer *w = &f->weights->layers[layer];
    const int32_t table = 2 * f->local_experts;
    int32_t *ids =
        f->b.expert_ids + (int64_t)layer * f->rows * c->num_experts_per_tok; /* each layer's stay */
    int32_t *counts = f->b.counts + layer % 2 * table, *next = f->b.counts + (layer + 1) % 2 * table;
    proa_status status = w->has_shared ? proa_cuda_fork(f, err) : PROA_OK;
    if (status == PROA_OK)
        status = route(f, w, ids, counts, err);
    if (status == PROA_OK)
        status = spread(f, w, ids, counts, next, err);
    if (status == PROA_OK && w->has_shared)
        status = run_shared(f, w, err);
    if (status == PROA_OK)
        status = run_experts(f, w, err);
    if (status == PROA_OK && w->has_shared)
        status = proa_cuda_join(f, err);
    if (status != PROA_OK || !proa_cuda_begin(f, PROA_CUDA_COMBINE))
        return status;
    return proa_cuda_combine(f->gpu,
                             &(proa_cuda_combine_args){.rows = f->rows,
                                                       .cols = c->hidden_size,
                                                       .top_k = c->num_experts_per_tok,
                                                       .slots = f->b.slot_out,
                                                       .place = f->b.place,
                                                       .weights = f->b.expert_weights,
                                                       .shared = w->has_shared ? f->b.shared_out : NULL,
                                                       .y = f->b.delta},
                             err);
}

proa_status proa_cuda_mlp_of(proa_cuda_forward *f, int32_t layer, proa_error *err)
{
    const proa_cuda_layer *w = &f->weights->layers[layer];
    return w->moe ? moe(f, layer, err) : run_mlp(f, PROA_CUDA_DENSE, &w->mlp, f->b.delta, err);
}
