/* heads.c - which heads of attention are computed here, and the rows of q_b_proj and kv_b_proj that are theirs.
 *
 * Heads follow each other in the rows of these weights, so that a member's are a range of them. Scales of FP8 weights stand for blocks of
 * block_n rows; where a range begins inside a block, it gets scales of its own for smaller blocks, with the same values:
 *
 *   block_n 128      |      s0       |      s1       |
 *   rows from 96                |           range            |
 *   blocks of 32                | s0 |    s1    s1    s1     |
 */
#include "model/forward_internal.h"

#include <stdlib.h>

static int32_t gcd(int32_t a, int32_t b)
{
    return b == 0 ? a : gcd(b, a % b);
}

static int64_t scale_columns(const proa_weight *w)
{
    return (w->k + w->block_k - 1) / w->block_k;
}

/* Floats of the scales that rows first .. first + rows - 1 need for themselves; 0: none. */
static int64_t scales_needed(const proa_weight *w, int32_t first, int32_t rows)
{
    if (w->dtype != PROA_DTYPE_E4M3 || first % w->block_n == 0)
        return 0;
    int32_t block = gcd(w->block_n, first);
    return (rows + block - 1) / block * scale_columns(w);
}

/* Rows first .. of a weight; *scales, which scales_needed has room, moves on. */
static proa_weight take_rows(const proa_weight *w, int32_t first, int32_t rows, float **scales)
{
    proa_weight part = *w;
    int64_t columns = w->dtype == PROA_DTYPE_E4M3 ? scale_columns(w) : 0;
    part.n = rows;
    part.data = (const char *)w->data + (size_t)first * (size_t)w->k * proa_dtype_bytes(w->dtype);
    if (w->dtype != PROA_DTYPE_E4M3)
        return part;
    if (first % w->block_n == 0) {
        part.scale = w->scale + first / w->block_n * columns;
        return part;
    }
    part.block_n = gcd(w->block_n, first);
    part.scale = *scales;
    for (int32_t row = 0; row < rows; row += part.block_n) {
        const float *from = w->scale + (first + row) / w->block_n * columns;
        for (int64_t i = 0; i < columns; i++)
            *(*scales)++ = from[i];
    }
    return part;
}

typedef struct ranges {
    int32_t heads, q, q_rows, kv_b, kv_b_rows;
} ranges;

static const proa_weight *queries_of(const proa_forward *f, int32_t layer)
{
    const proa_layer_weights *w = &f->weights->layers[layer];
    return f->config.q_lora_rank > 0 ? &w->q_b_proj : &w->q_proj;
}

static void take_layer(proa_forward *f, int32_t layer, const ranges *r, float **scales)
{
    const proa_model_config *c = &f->config;
    const proa_layer_weights *w = &f->weights->layers[layer];
    size_t lora = (size_t)c->kv_lora_rank * proa_dtype_bytes(w->w_u_dtype), first = (size_t)r->heads;
    f->own[layer] = (forward_heads){
        .q = take_rows(queries_of(f, layer), r->q, r->q_rows, scales),
        .kv_b = take_rows(&w->kv_b_proj, r->kv_b, r->kv_b_rows, scales),
        .w_uk = (const char *)w->w_uk + first * lora * (size_t)c->qk_nope_head_dim,
        .w_uv = (const char *)w->w_uv + first * lora * (size_t)c->v_head_dim,
    };
}

proa_status proa_forward_take_heads(proa_forward *f, proa_error *err)
{
    const proa_model_config *c = &f->config;
    int32_t size = f->shares_heads ? f->team.size : 1, member = f->shares_heads ? f->team.member : 0;
    int32_t qk = c->qk_nope_head_dim + c->qk_rope_head_dim, kv = c->qk_nope_head_dim + c->v_head_dim;
    PROA_ASSERT(c->num_attention_heads % size == 0);
    f->heads = c->num_attention_heads / size;
    const ranges r = {member * f->heads, member * f->heads * qk, f->heads * qk, member * f->heads * kv,
                      f->heads * kv};
    int64_t floats = 0;
    for (int32_t i = 0; i < c->num_hidden_layers; i++)
        floats += scales_needed(queries_of(f, i), r.q, r.q_rows) +
                  scales_needed(&f->weights->layers[i].kv_b_proj, r.kv_b, r.kv_b_rows);
    f->own = calloc((size_t)c->num_hidden_layers, sizeof *f->own);
    f->own_scales = floats > 0 ? malloc((size_t)floats * sizeof *f->own_scales) : NULL;
    if (f->own == NULL || (floats > 0 && f->own_scales == NULL))
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for the weights' table of %d heads", f->heads);
    float *scales = f->own_scales;
    for (int32_t i = 0; i < c->num_hidden_layers; i++)
        take_layer(f, i, &r, &scales);
    PROA_ASSERT(scales == f->own_scales + floats);
    return PROA_OK;
}
