/* absorb.c - W_UK and W_UV, the two halves of kv_b_proj that the absorbed form of attention multiplies by per head.
 *
 *   kv_b_proj  [heads][nope + v][kv_lora_rank]      rows of head h: first nope rows of k_nope, then v rows of v
 *   w_uk       [heads][kv_lora_rank][nope]          transposed: q_lat = W_UK^T q_nope as a linear layer
 *   w_uv       [heads][v][kv_lora_rank]             as it stands: o = W_UV o_lat
 *
 * In the default precision both are bf16, rounded once from the dequantised weight (as the published code does); in the
 * exact one float32. One task a (layer, head), so that the result does not depend on the threads.
 */
#include "model/checkpoint.h"

#include "base/number.h"

#include <stdlib.h>

enum { TILE = 256, E4M3_CODES = 256 };

typedef struct absorb {
    const proa_model_config *config;
    const proa_layer_weights *layers;
    proa_dtype dtype; /* of the results */
    float e4m3[E4M3_CODES];
} absorb;

/* out[0..count) = row `row`, columns first .. first + count - 1, dequantised. */
static void read_row(const absorb *a, const proa_weight *w, int32_t row, int32_t first, int32_t count,
                     float *out)
{
    size_t at = (size_t)row * (size_t)w->k + (size_t)first;
    switch (w->dtype) {
    case PROA_DTYPE_F32:
        for (int32_t i = 0; i < count; i++)
            out[i] = ((const float *)w->data)[at + i];
        return;
    case PROA_DTYPE_BF16:
        for (int32_t i = 0; i < count; i++)
            out[i] = proa_bf16_to_f32(((const uint16_t *)w->data)[at + i]);
        return;
    default: break;
    }
    PROA_ASSERT(w->dtype == PROA_DTYPE_E4M3);
    size_t blocks = ((size_t)w->k + w->block_k - 1) / w->block_k;
    const float *scale = w->scale + (size_t)(row / w->block_n) * blocks;
    for (int32_t i = 0; i < count; i++)
        out[i] = a->e4m3[((const uint8_t *)w->data)[at + i]] * scale[(first + i) / w->block_k];
}

/* Elements `stride` apart, so that one loop transposes and copies. */
static void store(const absorb *a, const void *base, size_t at, size_t stride, const float *values,
                  int32_t count)
{
    for (int32_t i = 0; i < count; i++) {
        size_t place = at + (size_t)i * stride;
        if (a->dtype == PROA_DTYPE_F32)
            ((float *)(uintptr_t)base)[place] = values[i];
        else
            ((uint16_t *)(uintptr_t)base)[place] = proa_f32_to_bf16(values[i]);
    }
}

static void absorb_head(void *context, int task, int thread)
{
    (void)thread;
    const absorb *a = context;
    const proa_model_config *c = a->config;
    const proa_layer_weights *layer = &a->layers[task / c->num_attention_heads];
    int32_t head = task % c->num_attention_heads, nope = c->qk_nope_head_dim, v = c->v_head_dim;
    size_t rank = (size_t)c->kv_lora_rank;
    float tile[TILE];
    for (int32_t first = 0; first < c->kv_lora_rank; first += TILE) {
        int32_t count = c->kv_lora_rank - first < TILE ? c->kv_lora_rank - first : TILE;
        for (int32_t d = 0; d < nope + v; d++) {
            read_row(a, &layer->kv_b_proj, head * (nope + v) + d, first, count, tile);
            if (d < nope)
                store(a, layer->w_uk, ((size_t)head * rank + (size_t)first) * (size_t)nope + (size_t)d,
                      (size_t)nope, tile, count);
            else
                store(a, layer->w_uv, ((size_t)head * (size_t)v + (size_t)(d - nope)) * rank + (size_t)first,
                      1, tile, count);
        }
    }
}

proa_status proa_checkpoint_absorb(proa_checkpoint *checkpoint, proa_precision precision, proa_error *err)
{
    const proa_model_config *c = &checkpoint->config;
    absorb a = {.config = c,
                .layers = checkpoint->places.layers,
                .dtype = precision == PROA_PRECISION_EXACT ? PROA_DTYPE_F32 : PROA_DTYPE_BF16};
    size_t width = proa_dtype_bytes(a.dtype);
    size_t uk_bytes = (size_t)c->num_attention_heads * c->kv_lora_rank * c->qk_nope_head_dim * width;
    size_t uv_bytes = (size_t)c->num_attention_heads * c->kv_lora_rank * c->v_head_dim * width;
    /* rounded up to 64 bytes, so that each matrix starts on a cache line */
    size_t uk_room = (uk_bytes + 63) & ~(size_t)63, uv_room = (uv_bytes + 63) & ~(size_t)63;
    size_t total = (uk_room + uv_room) * (size_t)c->num_hidden_layers;
    checkpoint->absorbed = aligned_alloc(64, total);
    if (checkpoint->absorbed == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "%s: no memory left for %zu bytes of W_UK and W_UV",
                              checkpoint->dir, total);
    for (int32_t i = 0; i < c->num_hidden_layers; i++) {
        const char *base = (const char *)checkpoint->absorbed + (uk_room + uv_room) * (size_t)i;
        checkpoint->places.layers[i].w_u_dtype = a.dtype;
        checkpoint->places.layers[i].w_uk = base;
        checkpoint->places.layers[i].w_uv = base + uk_room;
    }
    for (int code = 0; code < E4M3_CODES; code++)
        a.e4m3[code] = proa_e4m3_to_f32((uint8_t)code);
    proa_pool_run(checkpoint->pool, absorb_head, &a, c->num_hidden_layers * c->num_attention_heads);
    return PROA_OK;
}
