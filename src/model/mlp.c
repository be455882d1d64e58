/* mlp.c - the second half of a layer: a dense SwiGLU MLP, or routed experts plus the shared one.
 *
 *   dispatch: router -> ids, weights; slots sorted by expert; rows quantised once, before they would travel
 *   experts:  gate, up, SwiGLU, down over contiguous per-expert segments
 *   combine:  per (token, slot) rows, weighted and summed in slot order on the token's home rank, then shared
 *
 * Rows pass in windows of MLP_ROWS, which bounds the slot buffers.
 */
#include "model/forward_internal.h"

static int32_t min_i32(int32_t a, int32_t b)
{
    return a < b ? a : b;
}

static void swiglu(proa_forward *f, int32_t rows, int32_t cols, float *gate, const float *up)
{
    f->device->ops->swiglu(
        &f->device->host, &(proa_swiglu_args){.rows = rows, .cols = cols, .gate = gate, .up = up, .y = gate});
}

/* y [x.rows, hidden] = down(silu(gate(x)) * up(x)) */
static void run_mlp(proa_forward *f, const proa_mlp_weights *w, proa_rows x, float *y)
{
    int32_t width = w->gate.n;
    proa_forward_linear(f, x, &w->gate, f->b.mlp_gate);
    proa_forward_linear(f, x, &w->up, f->b.mlp_up);
    swiglu(f, x.rows, width, f->b.mlp_gate, f->b.mlp_up);
    proa_rows h = proa_forward_rows(f, f->b.mlp_gate, x.rows, width, &w->down, NULL);
    proa_forward_linear(f, h, &w->down, y);
}

static void choose_experts(proa_forward *f, const proa_layer_weights *w, const float *x, int32_t rows)
{
    const proa_model_config *c = &f->config;
    const proa_host *host = &f->device->host;
    f->device->ops->linear(host, &(proa_linear_args){
                                     .x = {.rows = rows, .cols = c->hidden_size, .x = x},
                                     .w = &w->router,
                                     .y = f->b.router_logits,
                                     .y_stride = c->n_routed_experts,
                                     .round_output = false, /* the router works in float32 */
                                 });
    f->device->ops->router(host, &(proa_router_args){
                                     .rows = rows,
                                     .experts = c->n_routed_experts,
                                     .n_group = c->n_group,
                                     .topk_group = c->topk_group,
                                     .top_k = c->num_experts_per_tok,
                                     .norm_topk_prob = c->norm_topk_prob,
                                     .routed_scaling_factor = c->routed_scaling_factor,
                                     .logits = f->b.router_logits,
                                     .bias = w->router_bias,
                                     .ids = f->b.expert_ids,
                                     .weights = f->b.expert_weights,
                                 });
    proa_router_sort(rows, c->num_experts_per_tok, c->n_routed_experts, f->b.expert_ids, f->b.offsets,
                     f->b.order, f->b.row_index, f->b.place);
}

static void project_experts(proa_forward *f, const proa_weight *w, proa_rows x, const int32_t *row_index,
                            float *y)
{
    f->device->ops->experts(&f->device->host, &(proa_experts_args){
                                                  .experts = f->config.n_routed_experts,
                                                  .offsets = f->b.offsets,
                                                  .w = w,
                                                  .x = x,
                                                  .row_index = row_index,
                                                  .y = y,
                                                  .round_output = true,
                                              });
}

static void run_moe(proa_forward *f, int32_t layer, const float *x, int32_t rows, float *y)
{
    const proa_model_config *c = &f->config;
    const proa_layer_weights *w = &f->weights->layers[layer];
    int32_t slots = rows * c->num_experts_per_tok;
    choose_experts(f, w, x, rows);
    if (f->expert_tap != NULL)
        f->expert_tap(f->expert_tap_context, layer, rows, f->b.expert_ids);
    proa_rows in = proa_forward_rows(f, x, rows, c->hidden_size, &w->expert_gate[0],
                                     w->has_shared ? &w->mlp.gate : NULL);
    project_experts(f, w->expert_gate, in, f->b.row_index, f->b.slot_gate);
    project_experts(f, w->expert_up, in, f->b.row_index, f->b.slot_up);
    if (w->has_shared)
        run_mlp(f, &w->mlp, in, f->b.shared_out);
    swiglu(f, slots, c->moe_intermediate_size, f->b.slot_gate, f->b.slot_up);
    proa_rows h =
        proa_forward_rows(f, f->b.slot_gate, slots, c->moe_intermediate_size, &w->expert_down[0], NULL);
    project_experts(f, w->expert_down, h, NULL, f->b.slot_out);
    f->device->ops->combine(&f->device->host, &(proa_combine_args){
                                                  .rows = rows,
                                                  .cols = c->hidden_size,
                                                  .top_k = c->num_experts_per_tok,
                                                  .slots = f->b.slot_out,
                                                  .place = f->b.place,
                                                  .weights = f->b.expert_weights,
                                                  .shared = w->has_shared ? f->b.shared_out : NULL,
                                                  .y = y,
                                              });
}

void proa_forward_mlp(proa_forward *f, int32_t layer, int32_t rows)
{
    const proa_layer_weights *w = &f->weights->layers[layer];
    int64_t hidden = f->config.hidden_size;
    for (int32_t first = 0; first < rows; first += MLP_ROWS) {
        int32_t count = min_i32(MLP_ROWS, rows - first);
        const float *x = f->b.normed + first * hidden;
        float *y = f->b.delta + first * hidden;
        if (w->moe)
            run_moe(f, layer, x, count, y);
        else
            run_mlp(f, &w->mlp, proa_forward_rows(f, x, count, (int32_t)hidden, &w->mlp.gate, &w->mlp.up), y);
    }
}

static size_t max_size(size_t a, size_t b)
{
    return a > b ? a : b;
}

size_t proa_forward_mlp_scratch(const proa_forward *f)
{
    const proa_model_config *c = &f->config;
    const proa_host *h = &f->device->host;
    int32_t rows = min_i32(f->limits.rows_max, MLP_ROWS);
    size_t bytes = proa_linear_scratch_bytes(h, rows, c->intermediate_size, c->hidden_size);
    bytes = max_size(bytes, proa_linear_scratch_bytes(h, rows, c->hidden_size, c->intermediate_size));
    if (c->n_routed_experts == 0)
        return bytes;
    int32_t slots = rows * c->num_experts_per_tok, width = c->moe_intermediate_size;
    int32_t shared = width * c->n_shared_experts;
    bytes = max_size(bytes, proa_linear_scratch_bytes(h, rows, c->n_routed_experts, c->hidden_size));
    if (shared > 0) {
        bytes = max_size(bytes, proa_linear_scratch_bytes(h, rows, shared, c->hidden_size));
        bytes = max_size(bytes, proa_linear_scratch_bytes(h, rows, c->hidden_size, shared));
    }
    bytes = max_size(bytes, proa_experts_scratch_bytes(h, slots, c->n_routed_experts, width, c->hidden_size));
    return max_size(bytes, proa_experts_scratch_bytes(h, slots, c->n_routed_experts, c->hidden_size, width));
}
