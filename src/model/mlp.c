/* mlp.c - the second half of a layer: a dense SwiGLU MLP, or experts (moe.c).
 *
 * Rows pass in windows of MLP_ROWS, which bounds the slot buffers; where ranks share the experts, in the exchange's windows.
 */
#include "model/forward_internal.h"

#include "base/minmax.h"

void proa_forward_run_mlp(proa_forward *f, const proa_mlp_weights *w, proa_rows x, float *y)
{
    int32_t width = w->gate.n;
    proa_forward_linear(f, x, &w->gate, f->b.mlp_gate);
    proa_forward_linear(f, x, &w->up, f->b.mlp_up);
    f->device->ops->swiglu(
        &f->device->host,
        &(proa_swiglu_args){
            .rows = x.rows, .cols = width, .gate = f->b.mlp_gate, .up = f->b.mlp_up, .y = f->b.mlp_gate});
    proa_rows h = proa_forward_rows(f, f->b.mlp_gate, x.rows, width, &w->down, NULL);
    proa_forward_linear(f, h, &w->down, y);
}

static proa_status run_shared(proa_forward *f, int32_t layer, int32_t first, int32_t rows, int32_t windows,
                              proa_error *err)
{
    const int32_t lane = 0;
    int32_t most = f->exchange.rows_max;
    for (int32_t i = 0; i < windows; i++) {
        int32_t done = proa_min_i32(i * most, rows), count = proa_min_i32(most, rows - done);
        proa_status status = proa_forward_moe_send(f, lane, layer, first + done, count, err);
        if (status == PROA_OK)
            status = proa_forward_moe_work(f, lane, layer, err);
        if (status == PROA_OK)
            status = proa_forward_moe_collect(f, lane, layer, first + done, count, err);
        if (status != PROA_OK)
            return status;
    }
    return PROA_OK;
}

proa_status proa_forward_mlp(proa_forward *f, int32_t layer, int32_t first, int32_t rows, int32_t windows,
                             proa_error *err)
{
    const proa_layer_weights *w = &f->weights->layers[layer];
    int64_t hidden = f->config.hidden_size;
    if (w->moe && f->shared_experts)
        return run_shared(f, layer, first, rows, windows, err);
    for (int32_t done = 0; done < rows; done += MLP_ROWS) {
        int32_t count = proa_min_i32(MLP_ROWS, rows - done);
        const float *x = f->b.normed + (first + done) * hidden;
        float *y = f->b.delta + (first + done) * hidden;
        if (w->moe)
            proa_forward_moe(f, layer, x, count, y);
        else
            proa_forward_run_mlp(
                f, &w->mlp, proa_forward_rows(f, x, count, (int32_t)hidden, &w->mlp.gate, &w->mlp.up), y);
    }
    return PROA_OK;
}

size_t proa_forward_mlp_scratch(const proa_forward *f)
{
    const proa_model_config *c = &f->config;
    const proa_host *h = &f->device->host;
    int32_t rows = proa_min_i32(f->limits.rows_max, MLP_ROWS);
    size_t bytes = proa_linear_scratch_bytes(h, rows, c->intermediate_size, c->hidden_size);
    bytes = proa_max_size(bytes, proa_linear_scratch_bytes(h, rows, c->hidden_size, c->intermediate_size));
    if (c->n_routed_experts == 0)
        return bytes;
    int32_t slots = rows * c->num_experts_per_tok, width = c->moe_intermediate_size;
    int32_t shared = width * c->n_shared_experts;
    bytes = proa_max_size(bytes, proa_linear_scratch_bytes(h, rows, c->n_routed_experts, c->hidden_size));
    if (shared > 0) {
        bytes = proa_max_size(bytes, proa_linear_scratch_bytes(h, rows, shared, c->hidden_size));
        bytes = proa_max_size(bytes, proa_linear_scratch_bytes(h, rows, c->hidden_size, shared));
    }
    int32_t experts = f->shared_experts ? f->exchange.local_experts : c->n_routed_experts;
    bytes = proa_max_size(bytes, proa_experts_scratch_bytes(h, slots, experts, width, c->hidden_size));
    return proa_max_size(bytes, proa_experts_scratch_bytes(h, slots, experts, c->hidden_size, width));
}
