/* weights.c - see weights.h. One walk over the model hands out places: the first time it only measures, the second time it fills them. */
#include "model/cuda/weights.h"

#include "base/progress.h"
#include "model/cuda/staging.h"
#include "op/cuda/fill.h"

#include <math.h>
#include <stdlib.h>

enum { ALIGNMENT = 256, BLOCK = 128 };

typedef struct walk {
    proa_gpu *gpu;
    const proa_weights *from; /* NULL: random */
    proa_staging *staging;    /* with from */
    proa_progress *progress;
    unsigned char *base; /* NULL: measure */
    uint64_t used;
    uint64_t key; /* of the next random matrix */
    proa_status status;
    proa_error *err;
} walk;

static int64_t blocks_of(int32_t n)
{
    return (n + BLOCK - 1) / BLOCK;
}

static void *place(walk *w, uint64_t bytes)
{
    void *at = w->base != NULL ? w->base + w->used : NULL;
    w->used += (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    return at;
}

static void note(walk *w, proa_status status)
{
    if (w->status == PROA_OK)
        w->status = status;
}

/* ---- filling ---- */

static void put(walk *w, void *to, const void *from, uint64_t bytes)
{
    if (w->status != PROA_OK)
        return;
    note(w, proa_staging_put(w->staging, to, from, bytes, w->err));
    proa_progress_add(w->progress, bytes);
}

/* `spread`: of the values, uniform in (-1, 1) times it. */
static void fill_bf16(walk *w, void *to, const proa_weight *from, uint64_t count, float middle, float spread)
{
    w->key++;
    if (w->base == NULL || w->status != PROA_OK)
        return;
    if (w->from == NULL)
        note(w, proa_cuda_fill_bf16(w->gpu, to, count, w->key, middle, spread, w->err));
    else if (from->dtype == PROA_DTYPE_BF16)
        put(w, to, from->data, count * sizeof(uint16_t));
    else
        note(w, proa_error_set(
                    w->err, PROA_ERR_UNSUPPORTED,
                    "a norm, embedding or router of another type than bf16: the GPU takes that alone"));
}

static void *vector(walk *w, const proa_weight *from, int32_t count)
{
    void *to = place(w, (uint64_t)count * sizeof(uint16_t));
    fill_bf16(w, to, from, (uint64_t)count, 1, 0.1f);
    return to;
}

static void *table(walk *w, const proa_weight *from, int64_t n, int64_t k, float spread)
{
    void *to = place(w, (uint64_t)(n * k) * sizeof(uint16_t));
    fill_bf16(w, to, from, (uint64_t)(n * k), 0, spread);
    return to;
}

static void *heads(walk *w, const void *from, int64_t count, float spread)
{
    const proa_weight as = {.dtype = PROA_DTYPE_BF16, .data = from};
    void *to = place(w, (uint64_t)count * sizeof(uint16_t));
    fill_bf16(w, to, &as, (uint64_t)count, 0, spread);
    return to;
}

static bool fits(const proa_weight *w)
{
    bool blocks = w->dtype != PROA_DTYPE_E4M3 || (w->block_n == BLOCK && w->block_k == BLOCK);
    return blocks && (w->dtype == PROA_DTYPE_E4M3 || w->dtype == PROA_DTYPE_BF16);
}

/* Group `group` of the matrix, from rows `row` on. */
static void fill_matrix(walk *w, const proa_cuda_matrix *to, int32_t group, int32_t row, int32_t rows,
                        const proa_weight *from)
{
    bool fp8 = to->dtype == PROA_DTYPE_E4M3;
    uint64_t width = (uint64_t)to->k * proa_dtype_bytes(to->dtype),
             at = ((uint64_t)group * (uint64_t)to->n + (uint64_t)row) * width;
    int64_t columns = blocks_of(to->k), scale_at = (group * blocks_of(to->n) + row / BLOCK) * columns;
    const float spread = 1.7f / sqrtf((float)to->k); /* a standard deviation of 1 / sqrt(k) */
    w->key++;
    if (w->base == NULL || w->status != PROA_OK)
        return;
    unsigned char *data = (unsigned char *)to->data + at;
    if (w->from == NULL) {
        uint64_t count = (uint64_t)rows * (uint64_t)to->k;
        note(w, fp8 ? proa_cuda_fill_e4m3(w->gpu, data, count, w->key, w->err)
                    : proa_cuda_fill_bf16(w->gpu, data, count, w->key, 0, spread, w->err));
        if (fp8)
            note(w, proa_cuda_fill_float(w->gpu, to->scale + scale_at, (uint64_t)(blocks_of(rows) * columns),
                                         w->key, spread / 448, 0.2f * spread / 448, w->err));
        return;
    }
    if (!fits(from) || from->dtype != to->dtype) {
        note(w, proa_error_set(w->err, PROA_ERR_UNSUPPORTED,
                               "a weight of [%d, %d] is neither bf16 nor FP8 with scales of 128 x 128 "
                               "blocks: the GPU takes these",
                               from->n, from->k));
        return;
    }
    put(w, data, from->data, (uint64_t)rows * width);
    if (fp8)
        put(w, to->scale + scale_at, from->scale, (uint64_t)(blocks_of(rows) * columns) * sizeof(float));
}

/* ---- places ---- */

static proa_cuda_matrix make_matrix(walk *w, proa_dtype dtype, int32_t groups, int32_t n, int32_t k)
{
    proa_cuda_matrix m = {.dtype = dtype, .n = n, .k = k};
    m.data = place(w, (uint64_t)groups * (uint64_t)n * (uint64_t)k * proa_dtype_bytes(dtype));
    if (dtype == PROA_DTYPE_E4M3)
        m.scale = place(w, (uint64_t)groups * (uint64_t)(blocks_of(n) * blocks_of(k)) * sizeof(float));
    return m;
}

static proa_cuda_matrix matrix(walk *w, proa_dtype dtype, const proa_weight *from, int32_t n, int32_t k)
{
    proa_cuda_matrix m = make_matrix(w, dtype, 1, n, k);
    fill_matrix(w, &m, 0, 0, n, from);
    return m;
}

/* from_a and from_b [groups], or NULL */
static proa_cuda_stack stack(walk *w, proa_dtype dtype, int32_t groups, const proa_weight *from_a, int32_t a,
                             const proa_weight *from_b, int32_t b, int32_t k)
{
    bool one = dtype == PROA_DTYPE_BF16 || a % BLOCK == 0;
    proa_cuda_stack s = {.parts = one ? 1 : 2, .n = a + b};
    s.part[0] = make_matrix(w, dtype, groups, one ? a + b : a, k);
    if (!one)
        s.part[1] = make_matrix(w, dtype, groups, b, k);
    for (int32_t g = 0; g < groups; g++) {
        fill_matrix(w, &s.part[0], g, 0, a, from_a != NULL ? &from_a[g] : NULL);
        fill_matrix(w, &s.part[one ? 0 : 1], g, one ? a : 0, b, from_b != NULL ? &from_b[g] : NULL);
    }
    return s;
}

static proa_cuda_mlp mlp(walk *w, proa_dtype dtype, int32_t groups, const proa_weight *gate,
                         const proa_weight *up, const proa_weight *down, int32_t width, int32_t hidden)
{
    proa_cuda_mlp m = {.width = width, .gate_up = stack(w, dtype, groups, gate, width, up, width, hidden)};
    m.down = make_matrix(w, dtype, groups, hidden, width);
    for (int32_t g = 0; g < groups; g++)
        fill_matrix(w, &m.down, g, 0, hidden, down != NULL ? &down[g] : NULL);
    return m;
}

/* ---- the model ---- */

static void attention(walk *w, const proa_model_config *c, proa_dtype dtype, const proa_layer_weights *from,
                      proa_cuda_layer *to)
{
    int32_t hidden = c->hidden_size, all = c->num_attention_heads, lora = c->kv_lora_rank;
    int32_t nope = c->qk_nope_head_dim, v = c->v_head_dim, qk = nope + c->qk_rope_head_dim;
    bool latent = c->q_lora_rank > 0;
    const proa_weight *first = from == NULL ? NULL : latent ? &from->q_a_proj : &from->q_proj;
    to->input_layernorm = vector(w, from != NULL ? &from->input_layernorm : NULL, hidden);
    to->post_attention_layernorm = vector(w, from != NULL ? &from->post_attention_layernorm : NULL, hidden);
    to->kv_a_layernorm = vector(w, from != NULL ? &from->kv_a_layernorm : NULL, lora);
    if (latent)
        to->q_a_layernorm = vector(w, from != NULL ? &from->q_a_layernorm : NULL, c->q_lora_rank);
    to->qkv_a = stack(w, dtype, 1, first, latent ? c->q_lora_rank : all * qk,
                      from != NULL ? &from->kv_a_proj : NULL, lora + c->qk_rope_head_dim, hidden);
    if (latent)
        to->q_b = matrix(w, dtype, from != NULL ? &from->q_b_proj : NULL, all * qk, c->q_lora_rank);
    to->kv_b = matrix(w, dtype, from != NULL ? &from->kv_b_proj : NULL, all * (nope + v), lora);
    to->o = matrix(w, dtype, from != NULL ? &from->o_proj : NULL, hidden, all * v);
    to->w_uk =
        heads(w, from != NULL ? from->w_uk : NULL, (int64_t)all * lora * nope, 1.7f / sqrtf((float)nope));
    to->w_uv = heads(w, from != NULL ? from->w_uv : NULL, (int64_t)all * v * lora, 1.7f / sqrtf((float)lora));
}

static void experts(walk *w, const proa_model_config *c, proa_dtype dtype, int32_t local,
                    const proa_layer_weights *from, proa_cuda_layer *to)
{
    bool biased = from == NULL || from->router_bias != NULL;
    uint64_t bias_bytes = (uint64_t)c->n_routed_experts * sizeof(float);
    to->router = table(w, from != NULL ? &from->router : NULL, c->n_routed_experts, c->hidden_size,
                       1.7f / sqrtf((float)c->hidden_size));
    to->router_bias = biased ? place(w, bias_bytes) : NULL;
    if (biased && w->base != NULL && from != NULL)
        put(w, to->router_bias, from->router_bias, bias_bytes);
    else if (biased && w->base != NULL && w->status == PROA_OK)
        note(w, proa_gpu_set(w->gpu, to->router_bias, 0, bias_bytes, w->err));
    to->experts =
        mlp(w, dtype, local, from != NULL ? from->expert_gate : NULL, from != NULL ? from->expert_up : NULL,
            from != NULL ? from->expert_down : NULL, c->moe_intermediate_size, c->hidden_size);
}

/* The type of a checkpoint's matrices. */
static proa_dtype matrix_dtype(const proa_model_config *c)
{
    return c->fp8 ? PROA_DTYPE_E4M3 : PROA_DTYPE_BF16;
}

static void walk_model(walk *w, proa_cuda_weights *to)
{
    const proa_model_config *c = &to->config;
    const proa_weights *from = w->from;
    proa_dtype dtype = matrix_dtype(c);
    float head_spread = 1.7f / sqrtf((float)c->hidden_size);
    to->embed_tokens =
        table(w, from != NULL ? &from->embed_tokens : NULL, c->vocab_size, c->hidden_size, 1.7f);
    to->norm = vector(w, from != NULL ? &from->norm : NULL, c->hidden_size);
    to->lm_head = table(w, from != NULL ? &from->lm_head : NULL, c->vocab_size, c->hidden_size, head_spread);
    for (int32_t i = 0; i < c->num_hidden_layers; i++) {
        const proa_layer_weights *layer = from != NULL ? &from->layers[i] : NULL;
        proa_cuda_layer *l = &to->layers[i];
        attention(w, c, dtype, layer, l);
        l->moe = proa_model_config_is_moe(c, i);
        l->has_shared = l->moe && c->n_shared_experts > 0;
        int32_t width = l->moe ? c->moe_intermediate_size * c->n_shared_experts : c->intermediate_size;
        if (!l->moe || l->has_shared)
            l->mlp = mlp(w, dtype, 1, layer != NULL ? &layer->mlp.gate : NULL,
                         layer != NULL ? &layer->mlp.up : NULL, layer != NULL ? &layer->mlp.down : NULL,
                         width, c->hidden_size);
        if (l->moe)
            experts(w, c, dtype, to->local_experts, layer, l);
    }
}

static proa_cuda_weights *make_table(const proa_model_config *config, int32_t local_experts)
{
    proa_cuda_weights *w = calloc(1, sizeof *w);
    if (w == NULL)
        return NULL;
    w->config = *config;
    w->local_experts = local_experts;
    w->layers = calloc((size_t)config->num_hidden_layers, sizeof *w->layers);
    if (w->layers == NULL) {
        free(w);
        return NULL;
    }
    return w;
}

uint64_t proa_cuda_weights_bytes(const proa_model_config *config, int32_t local_experts)
{
    proa_cuda_weights *to = make_table(config, local_experts);
    walk w = {0};
    if (to == NULL)
        return 0;
    walk_model(&w, to);
    free(to->layers);
    free(to);
    return w.used;
}

/* Fills what make_table has measured. */
static proa_status fill(proa_gpu *gpu, const proa_weights *from, proa_pool *pool, proa_cuda_weights *to,
                        proa_error *err)
{
    proa_progress progress;
    walk w = {.gpu = gpu, .from = from, .base = to->memory, .progress = &progress, .err = err};
    proa_status status = from != NULL ? proa_staging_create(gpu, pool, &w.staging, err) : PROA_OK;
    if (status != PROA_OK)
        return status;
    proa_progress_start(&progress, from != NULL ? "weights to the GPU" : "random weights",
                        from != NULL ? to->bytes : 0, "B");
    walk_model(&w, to);
    status = w.status;
    proa_error unused;
    const proa_status synced = proa_gpu_sync(gpu, status == PROA_OK ? err : &unused);
    proa_progress_finish(&progress);
    proa_staging_free(w.staging);
    return status == PROA_OK ? synced : status;
}

static proa_status make(proa_gpu *gpu, const proa_model_config *config, int32_t local_experts,
                        const proa_weights *from, proa_pool *pool, proa_cuda_weights **out, proa_error *err)
{
    proa_cuda_weights *to = make_table(config, local_experts);
    *out = NULL;
    if (to == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for the table of weights");
    walk w = {.gpu = gpu, .from = from, .err = err};
    walk_model(&w, to);
    to->bytes = w.used;
    proa_status status = proa_gpu_alloc(gpu, to->bytes, &to->memory, err);
    if (status == PROA_OK)
        status = fill(gpu, from, pool, to, err);
    if (status != PROA_OK) {
        proa_cuda_weights_free(gpu, to);
        return status;
    }
    *out = to;
    return PROA_OK;
}

proa_status proa_cuda_weights_load(proa_gpu *gpu, const proa_model_config *config, const proa_weights *from,
                                   proa_pool *pool, proa_cuda_weights **weights, proa_error *err)
{
    return make(gpu, config, config->n_routed_experts, from, pool, weights, err);
}

proa_status proa_cuda_weights_make(proa_gpu *gpu, const proa_model_config *config, int32_t local_experts,
                                   proa_cuda_weights **weights, proa_error *err)
{
    return make(gpu, config, local_experts, NULL, NULL, weights, err);
}

void proa_cuda_weights_free(proa_gpu *gpu, proa_cuda_weights *weights)
{
    if (weights == NULL)
        return;
    proa_gpu_free(gpu, weights->memory);
    free(weights->layers);
    free(weights);
}
