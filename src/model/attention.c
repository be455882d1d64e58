/* attention.c - multi-head latent attention of one layer, over the segments of a step.
 *
 *   normed ─ q_a, norm, q_b ─> q [nope | rope] ─ rope ──┐
 *   normed ─ kv_a ─> kv_lora ─ norm ─┐                  ├─ expanded (prompt rows): tiles of kv_b(cache)  ─┐
 *                    k_pe ─ rope ────┴─> cache ─────────┤                                                  ├─ o ─> delta
 *                                                       └─ absorbed (generated rows): q W_UK, cache, W_UV ─┘
 *
 * Both forms read all keys from the cache, those of this step included, so that a key has the same bits whether it
 * came in this chunk or in an earlier one.
 */
#include "model/forward_internal.h"

#include "base/minmax.h"

void proa_forward_latents(proa_forward *f, int32_t layer, const float *normed, int32_t to, int32_t rows)
{
    const proa_model_config *c = &f->config;
    const proa_layer_weights *w = &f->weights->layers[layer];
    float *kv_a = f->b.kv_a + (int64_t)to * (c->kv_lora_rank + c->qk_rope_head_dim);
    float *q_a = f->b.q_a + (int64_t)to * c->q_lora_rank;
    bool latent_q = c->q_lora_rank > 0;
    proa_rows x =
        proa_forward_rows(f, normed, rows, c->hidden_size, &w->kv_a_proj, latent_q ? &w->q_a_proj : NULL);
    proa_forward_linear(f, x, &w->kv_a_proj, kv_a);
    if (!latent_q)
        return;
    proa_forward_linear(f, x, &w->q_a_proj, q_a);
    f->device->ops->rmsnorm(&f->device->host, &(proa_rmsnorm_args){
                                                  .rows = rows,
                                                  .cols = c->q_lora_rank,
                                                  .x = q_a,
                                                  .x_stride = c->q_lora_rank,
                                                  .w = &w->q_a_layernorm,
                                                  .eps = c->lora_norm_eps,
                                                  .y = q_a,
                                                  .y_stride = c->q_lora_rank,
                                              });
}

/* b.q of the heads that are here. */
static void project_queries(proa_forward *f, int32_t layer, const float *normed, int32_t rows)
{
    const proa_model_config *c = &f->config;
    const proa_weight *w = &f->own[layer].q;
    const float *x = c->q_lora_rank > 0 ? f->b.q_a : normed;
    proa_forward_linear(f, proa_forward_rows(f, x, rows, w->k, w, NULL), w, f->b.q);
}

static void rotate(proa_forward *f, float *x, const int32_t *positions, int32_t rows, int32_t heads,
                   int64_t row_stride, int64_t head_stride)
{
    f->device->ops->rope(&f->device->host, &(proa_rope_args){
                                               .rows = rows,
                                               .heads = heads,
                                               .dim = f->config.qk_rope_head_dim,
                                               .x = x,
                                               .row_stride = row_stride,
                                               .head_stride = head_stride,
                                               .positions = positions,
                                               .cos_table = f->rope_cos,
                                               .sin_table = f->rope_sin,
                                           });
}

/* Norms kv_lora, rotates k_pe and q_pe, and writes the step's keys to the cache. */
static void append_keys(proa_forward *f, const proa_layer_weights *w, int32_t layer, const int32_t *positions,
                        const proa_step *step)
{
    const proa_model_config *c = &f->config;
    int64_t kv_stride = c->kv_lora_rank + c->qk_rope_head_dim;
    int64_t head_stride = c->qk_nope_head_dim + c->qk_rope_head_dim;
    int64_t q_stride = f->heads * head_stride;
    float *k_pe = f->b.kv_a + c->kv_lora_rank;
    f->device->ops->rmsnorm(&f->device->host, &(proa_rmsnorm_args){
                                                  .rows = step->row_count,
                                                  .cols = c->kv_lora_rank,
                                                  .x = f->b.kv_a,
                                                  .x_stride = kv_stride,
                                                  .w = &w->kv_a_layernorm,
                                                  .eps = c->lora_norm_eps,
                                                  .y = f->b.kv_a,
                                                  .y_stride = kv_stride,
                                              });
    rotate(f, k_pe, positions, step->row_count, 1, kv_stride, c->qk_rope_head_dim);
    rotate(f, f->b.q + c->qk_nope_head_dim, positions, step->row_count, f->heads, q_stride, head_stride);
    f->device->ops->kv_append(&f->device->host, &(proa_kv_append_args){
                                                    .segments = step->segments,
                                                    .segment_count = step->segment_count,
                                                    .kv_lora = f->b.kv_a,
                                                    .kv_lora_stride = kv_stride,
                                                    .k_pe = k_pe,
                                                    .k_pe_stride = kv_stride,
                                                    .kv = &f->kv[layer],
                                                });
}

/* Keys first .. first + count - 1 of a sequence, expanded per head into b.tile_kv and b.tile_pe. */
static void expand_tile(proa_forward *f, int32_t layer, const proa_segment *s, int32_t first, int32_t count)
{
    const proa_model_config *c = &f->config;
    f->device->ops->kv_gather(&f->device->host, &(proa_kv_gather_args){
                                                    .kv = &f->kv[layer],
                                                    .blocks = s->blocks,
                                                    .first = first,
                                                    .count = count,
                                                    .kv_lora = f->b.tile_lora,
                                                    .k_pe = f->b.tile_pe,
                                                });
    const proa_weight *w = &f->own[layer].kv_b;
    proa_rows x = proa_forward_rows(f, f->b.tile_lora, count, c->kv_lora_rank, w, NULL);
    proa_forward_linear(f, x, w, f->b.tile_kv);
}

static void attend_expanded(proa_forward *f, int32_t layer, const proa_segment *s)
{
    const proa_model_config *c = &f->config;
    int64_t q_stride = (int64_t)f->heads * (c->qk_nope_head_dim + c->qk_rope_head_dim);
    int64_t out_stride = (int64_t)f->heads * c->v_head_dim;
    int32_t keys = s->position_first + s->row_count;
    for (int32_t first = 0; first < keys; first += EXPANDED_TILE) {
        int32_t count = proa_min_i32(EXPANDED_TILE, keys - first);
        expand_tile(f, layer, s, first, count);
        f->device->ops->mla_expanded(&f->device->host, &(proa_mla_expanded_args){
                                                           .rows = s->row_count,
                                                           .position_first = s->position_first,
                                                           .heads = f->heads,
                                                           .nope_dim = c->qk_nope_head_dim,
                                                           .rope_dim = c->qk_rope_head_dim,
                                                           .v_dim = c->v_head_dim,
                                                           .scale = f->softmax_scale,
                                                           .q = f->b.q + s->row_first * q_stride,
                                                           .q_row_stride = q_stride,
                                                           .tile_first = first,
                                                           .tile_count = count,
                                                           .kv = f->b.tile_kv,
                                                           .k_pe = f->b.tile_pe,
                                                           .first = first == 0,
                                                           .last = first + count == keys,
                                                           .state_max = f->b.state_max,
                                                           .state_sum = f->b.state_sum,
                                                           .state_out = f->b.state_out,
                                                           .out = f->b.attention + s->row_first * out_stride,
                                                           .out_row_stride = out_stride,
                                                       });
    }
}

/* `count` rows from row_first, covered by the segments in b.batch (whose row_first count from this batch's first
 * row): q W_UK, attention over the latent rows, W_UV. */
static void attend_absorbed(proa_forward *f, const proa_layer_weights *w, int32_t layer, int32_t row_first,
                            int32_t count, int32_t segments)
{
    const proa_model_config *c = &f->config;
    int64_t qk = c->qk_nope_head_dim + c->qk_rope_head_dim;
    int64_t lora = c->kv_lora_rank;
    const float *q = f->b.q + row_first * f->heads * qk;
    const proa_host *host = &f->device->host;
    f->device->ops->linear_heads(host, &(proa_linear_heads_args){
                                           .rows = count,
                                           .heads = f->heads,
                                           .n = c->kv_lora_rank,
                                           .k = c->qk_nope_head_dim,
                                           .x = q,
                                           .x_row_stride = f->heads * qk,
                                           .x_head_stride = qk,
                                           .w_dtype = w->w_u_dtype,
                                           .w = f->own[layer].w_uk,
                                           .y = f->b.q_lat,
                                           .y_row_stride = f->heads * lora,
                                           .y_head_stride = lora,
                                           .round_output = true,
                                       });
    f->device->ops->mla_absorbed(host, &(proa_mla_absorbed_args){
                                           .segments = f->b.batch,
                                           .segment_count = segments,
                                           .heads = f->heads,
                                           .scale = f->softmax_scale,
                                           .q_lat = f->b.q_lat,
                                           .q_pe = q + c->qk_nope_head_dim,
                                           .q_pe_row_stride = f->heads * qk,
                                           .q_pe_head_stride = qk,
                                           .kv = &f->kv[layer],
                                           .o_lat = f->b.o_lat,
                                       });
    f->device->ops->linear_heads(host,
                                 &(proa_linear_heads_args){
                                     .rows = count,
                                     .heads = f->heads,
                                     .n = c->v_head_dim,
                                     .k = c->kv_lora_rank,
                                     .x = f->b.o_lat,
                                     .x_row_stride = f->heads * lora,
                                     .x_head_stride = lora,
                                     .w_dtype = w->w_u_dtype,
                                     .w = f->own[layer].w_uv,
                                     .y = f->b.attention + (int64_t)row_first * f->heads * c->v_head_dim,
                                     .y_row_stride = (int64_t)f->heads * c->v_head_dim,
                                     .y_head_stride = c->v_head_dim,
                                     .round_output = true,
                                 });
}

/* Absorbed segments lie next to each other more often than not: neighbours run as one batch of at most
 * ABSORBED_ROWS rows; a longer segment is cut. */
static void attend_all_absorbed(proa_forward *f, const proa_layer_weights *w, int32_t layer,
                                const proa_step *step)
{
    int32_t batch_first = 0, batch_rows = 0, batch_segments = 0;
    for (int32_t i = 0; i < step->segment_count; i++) {
        const proa_segment *s = &step->segments[i];
        for (int32_t done = 0; s->absorbed && done < s->row_count;) {
            bool adjacent = batch_first + batch_rows == s->row_first + done;
            if (batch_rows > 0 && (!adjacent || batch_rows == ABSORBED_ROWS)) {
                attend_absorbed(f, w, layer, batch_first, batch_rows, batch_segments);
                batch_rows = batch_segments = 0;
            }
            if (batch_rows == 0)
                batch_first = s->row_first + done;
            int32_t take = proa_min_i32(s->row_count - done, ABSORBED_ROWS - batch_rows);
            f->b.batch[batch_segments++] = (proa_segment){
                .row_first = batch_rows,
                .row_count = take,
                .position_first = s->position_first + done,
                .blocks = s->blocks,
                .absorbed = true,
            };
            batch_rows += take;
            done += take;
        }
    }
    if (batch_rows > 0)
        attend_absorbed(f, w, layer, batch_first, batch_rows, batch_segments);
}

void proa_forward_attend_heads(proa_forward *f, int32_t layer, const int32_t *positions, const float *normed,
                               const proa_step *step)
{
    project_queries(f, layer, normed, step->row_count);
    append_keys(f, &f->weights->layers[layer], layer, positions, step);
    for (int32_t i = 0; i < step->segment_count; i++) {
        if (!step->segments[i].absorbed)
            attend_expanded(f, layer, &step->segments[i]);
    }
    attend_all_absorbed(f, &f->weights->layers[layer], layer, step);
}

void proa_forward_join_heads(proa_forward *f, int32_t layer, const float *x, int32_t rows, float *y)
{
    const proa_weight *w = &f->weights->layers[layer].o_proj;
    proa_forward_linear(f, proa_forward_rows(f, x, rows, w->k, w, NULL), w, y);
}

size_t proa_forward_attention_scratch(const proa_forward *f)
{
    const proa_model_config *c = &f->config;
    const proa_host *h = &f->device->host;
    int32_t rows = f->limits.rows_max, heads = c->num_attention_heads;
    int32_t qk = c->qk_nope_head_dim + c->qk_rope_head_dim;
    size_t bytes = proa_linear_scratch_bytes(h, rows, c->kv_lora_rank + c->qk_rope_head_dim, c->hidden_size);
    bytes = proa_max_size(bytes, proa_linear_scratch_bytes(h, rows, heads * qk, c->hidden_size));
    if (c->q_lora_rank > 0) {
        bytes = proa_max_size(bytes, proa_linear_scratch_bytes(h, rows, heads * qk, c->q_lora_rank));
        bytes = proa_max_size(bytes, proa_linear_scratch_bytes(h, rows, c->q_lora_rank, c->hidden_size));
    }
    bytes = proa_max_size(bytes, proa_linear_scratch_bytes(h, rows, c->hidden_size, heads * c->v_head_dim));
    bytes = proa_max_size(bytes, proa_linear_scratch_bytes(h, EXPANDED_TILE,
                                                           heads * (c->qk_nope_head_dim + c->v_head_dim),
                                                           c->kv_lora_rank));
    bytes = proa_max_size(bytes, proa_linear_heads_scratch_bytes(h, ABSORBED_ROWS, heads, c->kv_lora_rank,
                                                                 c->qk_nope_head_dim));
    bytes = proa_max_size(
        bytes, proa_linear_heads_scratch_bytes(h, ABSORBED_ROWS, heads, c->v_head_dim, c->kv_lora_rank));
    bytes = proa_max_size(bytes,
                          proa_mla_expanded_scratch_bytes(h, rows, heads, EXPANDED_TILE, c->qk_nope_head_dim,
                                                          c->qk_rope_head_dim, c->v_head_dim));
    return proa_max_size(bytes, proa_mla_absorbed_scratch_bytes(h, ABSORBED_ROWS, heads, c->kv_lora_rank,
                                                                c->qk_rope_head_dim));
}
