/* weights.h - a model's weights in a GPU's memory, laid out as its kernels take them.
 *
 *   stacks    matrices with one input, one below the other, so that one product does for both: q_a_proj | kv_a_proj, gate | up. Where the first
 *             one's rows are no multiple of 128, its scales would not meet the blocks of the second: then they stay apart
 *   experts   those that are here, one behind the other
 *   W_UK, W_UV  per head, bf16 (model/absorb.c)
 *
 * Default precision alone: FP8 weights with scales of 128 x 128 blocks, or bf16. Owner: the thread of the GPU.
 */
#ifndef PROA_MODEL_CUDA_WEIGHTS_H
#define PROA_MODEL_CUDA_WEIGHTS_H

#include "base/pool.h"
#include "model/weights.h"
#include "op/cuda/gpu.h"

/* [groups, n, k] */
typedef struct proa_cuda_matrix {
    proa_dtype dtype; /* E4M3 or BF16 */
    int32_t n;
    int32_t k;
    void *data;
    float *scale; /* E4M3: [groups, ceil(n / 128), ceil(k / 128)] */
} proa_cuda_matrix;

typedef struct proa_cuda_stack {
    proa_cuda_matrix part[2];
    int32_t
        parts; /* 1: the product of one matrix gives all columns; 2: of each its own, one behind the other */
    int32_t n; /* columns of all */
} proa_cuda_stack;

typedef struct proa_cuda_mlp {
    proa_cuda_stack gate_up;
    proa_cuda_matrix down;
    int32_t width;
} proa_cuda_mlp;

typedef struct proa_cuda_layer {
    void *input_layernorm; /* norms: bf16 */
    void *post_attention_layernorm;
    void *q_a_layernorm;
    void *kv_a_layernorm;
    proa_cuda_stack qkv_a; /* q_a_proj | kv_a_proj; without q_lora_rank, q_proj | kv_a_proj */
    proa_cuda_matrix q_b;
    proa_cuda_matrix kv_b;
    proa_cuda_matrix o;
    void *w_uk; /* bf16 [heads, kv_lora_rank, nope] */
    void *w_uv; /* bf16 [heads, v, kv_lora_rank] */
    bool moe;
    bool has_shared;
    proa_cuda_mlp mlp;  /* dense, or the shared expert */
    void *router;       /* bf16 [experts, hidden] */
    float *router_bias; /* [experts], or NULL */
    proa_cuda_mlp experts;
} proa_cuda_layer;

typedef struct proa_cuda_weights {
    proa_model_config config;
    int32_t local_experts;
    void *embed_tokens; /* bf16 [vocab, hidden] */
    void *norm;
    void *lm_head; /* bf16 [vocab, hidden] */
    proa_cuda_layer *layers;
    uint64_t bytes;
    void *memory; /* all of it */
} proa_cuda_weights;

/* Bytes of GPU memory that the weights take with so many experts of each layer. */
uint64_t proa_cuda_weights_bytes(const proa_model_config *config, int32_t local_experts);

/* The model's own weights, all experts; `from` may go on return. `pool` (may be NULL) reads. A progress bar with bytes/s is drawn where
 * standard error is a terminal. PROA_ERR_UNSUPPORTED: shapes or types that no kernel takes. */
proa_status proa_cuda_weights_load(proa_gpu *gpu, const proa_model_config *config, const proa_weights *from,
                                   proa_pool *pool, proa_cuda_weights **weights, proa_error *err);
/* Random ones, made on the GPU, with `local_experts` of each layer: what one rank of several has. */
proa_status proa_cuda_weights_make(proa_gpu *gpu, const proa_model_config *config, int32_t local_experts,
                                   proa_cuda_weights **weights, proa_error *err);
void proa_cuda_weights_free(proa_gpu *gpu, proa_cuda_weights *weights); /* accepts NULL */

#endif
