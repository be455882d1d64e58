/* moe.c - routed experts plus the shared one.
 *
 *   dispatch: router -> ids, weights; slots sorted by expert; rows quantised once, before they travel
 *   experts:  gate, up, SwiGLU, down over contiguous per-expert segments
 *   combine:  per (token, slot) rows, weighted and summed in slot order on the token's home rank, then shared
 *
 * Where ranks share the experts (exchange.h), the rows of all ranks are worked on together, in pieces that the slot buffers hold; each
 * output is that of its row and expert alone, so it has the bits that one rank with all experts computes.
 */
#include "model/forward_internal.h"

#include "base/minmax.h"

#include <string.h>

static void choose_experts(proa_forward *f, const proa_layer_weights *w, const forward_lane *to,
                           const float *x, int32_t rows)
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
                                     .ids = to->expert_ids,
                                     .weights = to->expert_weights,
                                 });
}

/* Segments of slots, one an expert. */
typedef struct grouped {
    int32_t experts;
    const int32_t *offsets; /* [experts + 1] */
    const proa_weight *gate, *up, *down;
} grouped;

static void project(proa_forward *f, const grouped *g, const proa_weight *w, proa_rows x,
                    const int32_t *row_index, float *y)
{
    f->device->ops->experts(&f->device->host, &(proa_experts_args){
                                                  .experts = g->experts,
                                                  .offsets = g->offsets,
                                                  .w = w,
                                                  .x = x,
                                                  .row_index = row_index,
                                                  .y = y,
                                                  .round_output = true,
                                              });
    proa_forward_progress(f);
}

/* b.slot_gate and b.slot_up from the rows that the slots read. */
static void run_first_half(proa_forward *f, const grouped *g, proa_rows x, const int32_t *row_index)
{
    project(f, g, g->gate, x, row_index, f->b.slot_gate);
    project(f, g, g->up, x, row_index, f->b.slot_up);
}

/* b.slot_out from b.slot_gate and b.slot_up. */
static void run_second_half(proa_forward *f, const grouped *g)
{
    int32_t slots = g->offsets[g->experts], width = f->config.moe_intermediate_size;
    f->device->ops->swiglu(
        &f->device->host,
        &(proa_swiglu_args){
            .rows = slots, .cols = width, .gate = f->b.slot_gate, .up = f->b.slot_up, .y = f->b.slot_gate});
    proa_rows h = proa_forward_rows(f, f->b.slot_gate, slots, width, &g->down[0], NULL);
    project(f, g, g->down, h, NULL, f->b.slot_out);
}

static void add_up(proa_forward *f, const proa_layer_weights *w, const forward_lane *lane, int32_t rows,
                   const float *slots, const int32_t *place, float *y)
{
    f->device->ops->combine(&f->device->host, &(proa_combine_args){
                                                  .rows = rows,
                                                  .cols = f->config.hidden_size,
                                                  .top_k = f->config.num_experts_per_tok,
                                                  .slots = slots,
                                                  .place = place,
                                                  .weights = lane->expert_weights,
                                                  .shared = w->has_shared ? lane->shared_out : NULL,
                                                  .y = y,
                                              });
}

static proa_rows rows_of(proa_forward *f, const proa_layer_weights *w, const float *x, int32_t rows)
{
    return proa_forward_rows(f, x, rows, f->config.hidden_size, &w->expert_gate[0],
                             w->has_shared ? &w->mlp.gate : NULL);
}

/* Fills expert_ids and expert_weights. */
static void choose(proa_forward *f, int32_t layer, const forward_lane *to, const float *x, int32_t rows)
{
    choose_experts(f, &f->weights->layers[layer], to, x, rows);
    if (f->expert_tap != NULL)
        f->expert_tap(f->expert_tap_context, layer, rows, to->expert_ids);
}

void proa_forward_moe(proa_forward *f, int32_t layer, const float *x, int32_t rows, float *y)
{
    const proa_model_config *c = &f->config;
    const proa_layer_weights *w = &f->weights->layers[layer];
    const forward_lane *lane = &f->b.lanes[0];
    const grouped all = {c->n_routed_experts, f->b.offsets, w->expert_gate, w->expert_up, w->expert_down};
    choose(f, layer, lane, x, rows);
    proa_router_sort(rows, c->num_experts_per_tok, c->n_routed_experts, lane->expert_ids, f->b.offsets,
                     f->b.order, f->b.row_index, f->b.place);
    proa_rows in = rows_of(f, w, x, rows);
    run_first_half(f, &all, in, f->b.row_index);
    if (w->has_shared)
        proa_forward_run_mlp(f, &w->mlp, in, lane->shared_out);
    run_second_half(f, &all);
    add_up(f, w, lane, rows, f->b.slot_out, f->b.place, y);
}

/* ---- experts at several ranks ---- */

/* Sorts the work by expert, stably: b.work_offsets, b.work_order, b.work_row. */
static void sort_work(proa_forward *f, const proa_dispatched *work)
{
    int32_t experts = f->exchange.local_experts;
    int32_t *offsets = f->b.work_offsets, *next = f->b.place_in;
    memset(offsets, 0, ((size_t)experts + 1) * sizeof *offsets);
    for (int32_t i = 0; i < work->slots; i++) {
        PROA_ASSERT(work->slot_expert[i] >= 0);
        PROA_ASSERT(work->slot_expert[i] < experts);
        offsets[work->slot_expert[i] + 1]++;
    }
    for (int32_t e = 0; e < experts; e++) {
        next[e] = offsets[e];
        offsets[e + 1] += offsets[e];
    }
    for (int32_t i = 0; i < work->slots; i++) {
        int32_t at = next[work->slot_expert[i]]++;
        f->b.work_order[at] = i;
        f->b.work_row[at] = work->slot_row[i];
    }
}

/* What the slot buffers hold at once. */
static int32_t piece_slots(const proa_forward *f)
{
    return proa_min_i32(f->limits.rows_max, MLP_ROWS) * f->config.num_experts_per_tok;
}

/* The outputs of all slots of the work, given to the exchange. */
static void run_work(proa_forward *f, int32_t layer, int32_t lane, const proa_dispatched *work)
{
    int32_t local = f->exchange.local_experts, most = piece_slots(f);
    const proa_weight *weights = f->b.local + (int64_t)layer * 3 * local;
    const grouped piece = {local, f->b.piece_offsets, weights, weights + local, weights + 2 * local};
    sort_work(f, work);
    for (int32_t first = 0; first < work->slots; first += most) {
        int32_t count = proa_min_i32(most, work->slots - first);
        for (int32_t e = 0; e <= local; e++) {
            int32_t offset = f->b.work_offsets[e] - first;
            f->b.piece_offsets[e] = offset < 0 ? 0 : proa_min_i32(offset, count);
        }
        run_first_half(f, &piece, work->x, f->b.work_row + first);
        run_second_half(f, &piece);
        f->exchange.put(f->exchange.context, lane, count, f->b.work_order + first, f->b.slot_out);
    }
}

static proa_status dispatch(proa_forward *f, int32_t layer, int32_t lane, int32_t first, proa_rows in,
                            proa_error *err)
{
    f->place(f->place_context, layer, first, in.rows, f->b.lanes[lane].expert_ids, f->b.physical);
    return f->exchange.dispatch(
        f->exchange.context, lane,
        &(proa_dispatch_args){
            .layer = layer, .x = in, .top_k = f->config.num_experts_per_tok, .physical = f->b.physical},
        err);
}

proa_status proa_forward_moe_send(proa_forward *f, int32_t number, int32_t layer, int32_t first, int32_t rows,
                                  proa_error *err)
{
    const proa_layer_weights *w = &f->weights->layers[layer];
    const forward_lane *lane = &f->b.lanes[number];
    const float *x = f->b.normed + (int64_t)first * f->config.hidden_size;
    proa_rows in = {.cols = f->config.hidden_size};
    if (rows > 0) {
        choose(f, layer, lane, x, rows);
        in = rows_of(f, w, x, rows);
    }
    proa_status status = dispatch(f, layer, number, first, in, err);
    if (status == PROA_OK && w->has_shared && rows > 0)
        proa_forward_run_mlp(f, &w->mlp, in, lane->shared_out); /* while the rows travel */
    return status;
}

proa_status proa_forward_moe_work(proa_forward *f, int32_t lane, int32_t layer, proa_error *err)
{
    proa_dispatched work;
    proa_status status = f->exchange.receive(f->exchange.context, lane, &work, err);
    if (status != PROA_OK)
        return status;
    run_work(f, layer, lane, &work);
    return f->exchange.give_back(f->exchange.context, lane, err);
}

proa_status proa_forward_moe_collect(proa_forward *f, int32_t lane, int32_t layer, int32_t first,
                                     int32_t rows, proa_error *err)
{
    proa_collected back;
    proa_status status = f->exchange.collect(f->exchange.context, lane, &back, err);
    if (status == PROA_OK && rows > 0)
        add_up(f, &f->weights->layers[layer], &f->b.lanes[lane], rows, back.slots, back.place,
               f->b.delta + (int64_t)first * f->config.hidden_size);
    return status;
}
