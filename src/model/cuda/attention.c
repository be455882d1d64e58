/* attention.c - attention of one layer on a GPU, from b.q8 (or b.normed) to b.delta.
 *
 *   normed ─ qkv_a ─> q_a ─ norm ─ q_b ─> q [nope | rope] ─ rope ─┬─ decode rows:  W_UK ─ MLA of the cache ─ W_UV ─┬─ o ─> delta
 *                     │                                           └─ prompt rows:  causal MHA of keys and values ──┘
 *                     └── kv_a ─ norm, rope ─> cache ─ gather ─ kv_b ─> keys and values of the prompts   on the second stream
 */
#include "model/cuda/internal.h"

#include "op/linear/cuda.h"
#include "op/mla/cuda.h"
#include "op/quantise/cuda.h"
#include "op/rmsnorm/cuda.h"
#include "op/rope/cuda.h"

static uint16_t *at(void *base, int64_t elements)
{
    return (uint16_t *)base + elements;
}

static int32_t qk_of(const proa_model_config *c)
{
    return c->qk_nope_head_dim + c->qk_rope_head_dim;
}

/* Values of a key: of a row of the cache, and of a query of the absorbed form. */
static int32_t key_of(const proa_model_config *c)
{
    return c->kv_lora_rank + c->qk_rope_head_dim;
}

static bool fp8_cache(const proa_cuda_forward *f)
{
    return f->limits.kv_cache == PROA_KV_CACHE_E4M3;
}

static void *layer_cache(const proa_cuda_forward *f, int32_t layer)
{
    const int32_t layers = f->limits.cache_layers;
    return f->cache + f->cache_bytes / (uint64_t)layers * (uint64_t)(layer % layers);
}

static proa_cuda_rope_table table_of(const proa_cuda_forward *f, int32_t row)
{
    return (proa_cuda_rope_table){
        .positions = f->m.positions + row, .cos_table = f->rope_cos, .sin_table = f->rope_sin};
}

/* q_a | kv_a, or q | kv_a where there is no q_a, of all rows, in b.qkv_a. */
static proa_status project(proa_cuda_forward *f, const proa_cuda_layer *w, proa_error *err)
{
    const cuda_input x = {f->b.normed, f->config.hidden_size, &f->b.q8, f->limits.rows_max};
    return proa_cuda_product(f, PROA_CUDA_QKV_A, &x, f->rows, NULL, &w->qkv_a, f->b.qkv_a, w->qkv_a.n, err);
}

/* b.q of all rows, from q_a. */
static proa_status expand_q(proa_cuda_forward *f, const proa_cuda_layer *w, proa_error *err)
{
    const proa_model_config *c = &f->config;
    const int32_t rank = c->q_lora_rank, q_width = c->num_attention_heads * qk_of(c);
    const bool fp8 = w->q_b.dtype == PROA_DTYPE_E4M3;
    const cuda_input q_a = {f->b.q_a, rank, &f->b.q8, f->limits.rows_max};
    proa_status status = PROA_OK;
    if (rank == 0)
        return PROA_OK;
    if (proa_cuda_begin(f, PROA_CUDA_Q_NORM))
        status = proa_cuda_rmsnorm(f->gpu,
                                   &(proa_cuda_rmsnorm_args){.rows = f->rows,
                                                             .cols = rank,
                                                             .x = f->b.qkv_a,
                                                             .x_stride = w->qkv_a.n,
                                                             .w = w->q_a_layernorm,
                                                             .eps = (float)c->lora_norm_eps,
                                                             .y = fp8 ? NULL : f->b.q_a,
                                                             .y_stride = rank,
                                                             .q = fp8 ? f->b.q8 : (proa_cuda_fp8_rows){0}},
                                   err);
    return status == PROA_OK
               ? proa_cuda_product_of(f, PROA_CUDA_Q_B, &q_a, f->rows, NULL, &w->q_b, f->b.q, q_width, err)
               : status;
}

/* Positions into q_pe: of decode rows beside q_lat, of prompt rows in place. */
static proa_status rotate_q(proa_cuda_forward *f, uint16_t *q, int64_t q_stride, proa_error *err)
{
    const proa_model_config *c = &f->config;
    const int32_t heads = c->num_attention_heads, nope = c->qk_nope_head_dim, qk = qk_of(c), all = key_of(c),
                  decode = f->decode_rows;
    if (!proa_cuda_begin(f, PROA_CUDA_ROPE))
        return PROA_OK;
    proa_status status = proa_cuda_rope(f->gpu,
                                        &(proa_cuda_rope_args){.table = table_of(f, 0),
                                                               .rows = decode,
                                                               .heads = heads,
                                                               .dim = c->qk_rope_head_dim,
                                                               .x = q + nope,
                                                               .row_stride = q_stride,
                                                               .head_stride = qk,
                                                               .y = at(f->b.q_all, c->kv_lora_rank),
                                                               .y_row_stride = (int64_t)heads * all,
                                                               .y_head_stride = all},
                                        err);
    uint16_t *rest = q + decode * q_stride + nope;
    if (status == PROA_OK)
        status = proa_cuda_rope(f->gpu,
                                &(proa_cuda_rope_args){.table = table_of(f, decode),
                                                       .rows = f->rows - decode,
                                                       .heads = heads,
                                                       .dim = c->qk_rope_head_dim,
                                                       .x = rest,
                                                       .row_stride = q_stride,
                                                       .head_stride = qk,
                                                       .y = rest,
                                                       .y_row_stride = q_stride,
                                                       .y_head_stride = qk},
                                err);
    return status;
}

/* The new rows of the cache, from kv_a; then keys and values of the prompts, from the cache. */
static proa_status make_keys(proa_cuda_forward *f, const proa_cuda_layer *w, int32_t layer, proa_error *err)
{
    const proa_model_config *c = &f->config;
    const int32_t lora = c->kv_lora_rank,
                  kv_width = c->num_attention_heads * (c->qk_nope_head_dim + c->v_head_dim);
    const bool fp8 = w->kv_b.dtype == PROA_DTYPE_E4M3;
    const cuda_input x = {f->b.kv_lora, lora, &f->b.kv_q8, f->limits.keys_max};
    proa_status status = PROA_OK;
    if (proa_cuda_begin(f, PROA_CUDA_APPEND))
        status =
            proa_cuda_kv_append(f->gpu,
                                &(proa_cuda_kv_append_args){.table = table_of(f, 0),
                                                            .rows = f->rows,
                                                            .kv_lora_rank = lora,
                                                            .rope_dim = c->qk_rope_head_dim,
                                                            .kv_a = at(f->b.qkv_a, w->qkv_a.n - key_of(c)),
                                                            .stride = w->qkv_a.n,
                                                            .w = w->kv_a_layernorm,
                                                            .eps = (float)c->lora_norm_eps,
                                                            .slots = f->m.slots,
                                                            .cache = layer_cache(f, layer),
                                                            .fp8 = fp8_cache(f)},
                                err);
    if (status != PROA_OK || f->segments == 0)
        return status;
    if (proa_cuda_begin(f, PROA_CUDA_GATHER))
        status =
            proa_cuda_kv_gather(f->gpu,
                                &(proa_cuda_kv_gather_args){.rows = f->keys,
                                                            .kv_lora_rank = lora,
                                                            .rope_dim = c->qk_rope_head_dim,
                                                            .slots = f->m.key_slots,
                                                            .cache = layer_cache(f, layer),
                                                            .fp8 = fp8_cache(f),
                                                            .kv_lora = fp8 ? NULL : f->b.kv_lora,
                                                            .q = fp8 ? f->b.kv_q8 : (proa_cuda_fp8_rows){0},
                                                            .k_pe = f->b.k_pe},
                                err);
    return status == PROA_OK
               ? proa_cuda_product_of(f, PROA_CUDA_KV_B, &x, f->keys, NULL, &w->kv_b, f->b.kv, kv_width, err)
               : status;
}

/* y of head h, row r at y + r * y_stride + h * y_head */
static proa_status by_head(proa_cuda_forward *f, proa_cuda_op op, const void *x, int64_t x_stride,
                           int64_t x_head, const void *w, int32_t n, int32_t k, void *y, int64_t y_stride,
                           int64_t y_head, proa_error *err)
{
    if (!proa_cuda_begin(f, op))
        return PROA_OK;
    return proa_cuda_bf16_linear(
        f->gpu,
        &(proa_cuda_bf16_linear_args){
            .rows = {.groups = f->config.num_attention_heads, .rows = f->decode_rows},
            .groups = PROA_CUDA_GROUPS_HEADS,
            .rows_max = f->decode_rows,
            .n = n,
            .k = k,
            .x = x,
            .x_stride = x_stride,
            .x_head_stride = x_head,
            .w = w,
            .y = y,
            .y_stride = y_stride,
            .y_group_stride = y_head,
            .tile = proa_cuda_tile_of(f, op,
                                      &(proa_cuda_shape){.form = PROA_CUDA_GROUPS_HEADS,
                                                         .groups = f->config.num_attention_heads,
                                                         .n = n,
                                                         .k = k,
                                                         .rows = f->decode_rows})},
        err);
}

/* q_lat of the decode rows. */
static proa_status absorb(proa_cuda_forward *f, const proa_cuda_layer *w, const uint16_t *q, int64_t q_stride,
                          proa_error *err)
{
    const proa_model_config *c = &f->config;
    const int32_t lora = c->kv_lora_rank, all = key_of(c);
    return f->decode_rows == 0
               ? PROA_OK
               : by_head(f, PROA_CUDA_UK, q, q_stride, qk_of(c), w->w_uk, lora, c->qk_nope_head_dim,
                         f->b.q_all, (int64_t)c->num_attention_heads * all, all, err);
}

static proa_status decode(proa_cuda_forward *f, const proa_cuda_layer *w, int32_t layer, proa_error *err)
{
    const proa_model_config *c = &f->config;
    const int32_t heads = c->num_attention_heads, lora = c->kv_lora_rank, v = c->v_head_dim;
    const proa_mla_decode_args args = {.rows = f->decode_rows,
                                       .heads = heads,
                                       .kv_lora_rank = lora,
                                       .rope_dim = c->qk_rope_head_dim,
                                       .rows_per_table = 1,
                                       .table_stride = f->table_stride,
                                       .table = f->m.tables,
                                       .lengths = f->m.lengths,
                                       .q = f->b.q_all,
                                       .cache = layer_cache(f, layer),
                                       .fp8 = fp8_cache(f),
                                       .cache_blocks = f->limits.kv_blocks,
                                       .scale = f->softmax_scale,
                                       .out = f->b.o_lat,
                                       .workspace = f->b.mla_workspace,
                                       .splits_max = f->splits_max};
    proa_status status = PROA_OK;
    if (f->decode_rows == 0)
        return PROA_OK;
    if (proa_cuda_begin(f, PROA_CUDA_MLA)) {
        status = layer == 0 ? proa_cuda_mla_plan(f->gpu, &args, err) : PROA_OK;
        if (status == PROA_OK)
            status = proa_cuda_mla_decode(f->gpu, &args, err);
    }
    return status != PROA_OK ? status
                             : by_head(f, PROA_CUDA_UV, f->b.o_lat, (int64_t)heads * lora, lora, w->w_uv, v,
                                       lora, f->b.attention, (int64_t)heads * v, v, err);
}

static proa_status prompts(proa_cuda_forward *f, const uint16_t *q, int64_t q_stride, proa_error *err)
{
    const proa_model_config *c = &f->config;
    const int32_t heads = c->num_attention_heads, v = c->v_head_dim;
    if (f->segments == 0 || !proa_cuda_begin(f, PROA_CUDA_MHA))
        return PROA_OK;
    return proa_cuda_mla_prefill(f->gpu,
                                 &(proa_mla_prefill_args){
                                     .segments = (const proa_mla_prefill_segment *)f->m.segments,
                                     .segment_count = f->segments,
                                     .rows = f->rows - f->decode_rows,
                                     .keys = f->keys,
                                     .heads = heads,
                                     .nope_dim = c->qk_nope_head_dim,
                                     .rope_dim = c->qk_rope_head_dim,
                                     .v_dim = v,
                                     .scale = f->softmax_scale,
                                     .q = q + f->decode_rows * q_stride,
                                     .kv = f->b.kv,
                                     .k_pe = f->b.k_pe,
                                     .out = at(f->b.attention, (int64_t)f->decode_rows * heads * v),
                                     .tickets = f->b.tickets,
                                 },
                                 err);
}

/* Keys are made beside the queries; both are there then. */
static proa_status make_inputs(proa_cuda_forward *f, const proa_cuda_layer *w, int32_t layer, uint16_t *q,
                               int64_t q_stride, proa_error *err)
{
    proa_status status = proa_cuda_fork(f, err);
    if (status != PROA_OK)
        return status;
    proa_cuda_beside(f, true);
    status = make_keys(f, w, layer, err);
    proa_cuda_beside(f, false);
    if (status == PROA_OK)
        status = expand_q(f, w, err);
    if (status == PROA_OK)
        status = rotate_q(f, q, q_stride, err);
    if (status == PROA_OK)
        status = absorb(f, w, q, q_stride, err);
    return status == PROA_OK ? proa_cuda_join(f, err) : status;
}

/* o_proj, of all rows, to b.delta. */
static proa_status project_out(proa_cuda_forward *f, const proa_cuda_layer *w, proa_error *err)
{
    const proa_model_config *c = &f->config;
    const int32_t width = c->num_attention_heads * c->v_head_dim;
    const cuda_input x = {f->b.attention, width, &f->b.q8, f->limits.rows_max};
    proa_status status = PROA_OK;
    if (w->o.dtype == PROA_DTYPE_E4M3 && proa_cuda_begin(f, PROA_CUDA_O_QUANTISE))
        status = proa_cuda_quantise(
            f->gpu,
            &(proa_cuda_quantise_args){
                .rows = f->rows, .cols = width, .x = f->b.attention, .x_stride = width, .q = f->b.q8},
            err);
    return status == PROA_OK ? proa_cuda_product_of(f, PROA_CUDA_O, &x, f->rows, NULL, &w->o, f->b.delta,
                                                    c->hidden_size, err)
                             : status;
}

proa_status proa_cuda_attention(proa_cuda_forward *f, int32_t layer, proa_error *err)
{
    const proa_model_config *c = &f->config;
    const proa_cuda_layer *w = &f->weights->layers[layer];
    const bool latent = c->q_lora_rank > 0;
    uint16_t *q = latent ? f->b.q : f->b.qkv_a;
    const int64_t q_stride = latent ? (int64_t)c->num_attention_heads * qk_of(c) : w->qkv_a.n;
    proa_status status = project(f, w, err);
    if (status == PROA_OK)
        status = make_inputs(f, w, layer, q, q_stride, err);
    if (status == PROA_OK)
        status = decode(f, w, layer, err);
    if (status == PROA_OK)
        status = prompts(f, q, q_stride, err);
    return status == PROA_OK ? project_out(f, w, err) : status;
}
