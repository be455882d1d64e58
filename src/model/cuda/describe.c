/* describe.c - what an op of the step at hand works on, for who reads a trace: rows and shapes, as JSON. */
#include "model/cuda/internal.h"

#include <stdio.h>

/* y [rows, n] = x [rows, k] W^T; or x [rows, n] where k is 0; each `times` times */
typedef struct shape {
    int32_t times, rows, n, k;
    int64_t keys; /* that the rows see together; 0: none */
} shape;

static int64_t decode_keys(const proa_cuda_forward *f)
{
    int64_t keys = 0;
    for (int32_t i = 0; i < f->decode_rows; i++)
        keys += f->host.lengths[i];
    return keys;
}

static int64_t prompt_keys(const proa_cuda_forward *f)
{
    enum { KEYS = 5 }; /* of a segment's numbers */
    int64_t keys = 0;
    for (int32_t i = 0; i < f->segments; i++)
        keys += f->host.segments[i * PROA_CUDA_SEGMENT_INTS + KEYS];
    return keys;
}

static shape attention_shape(const proa_cuda_forward *f, proa_cuda_op op)
{
    const proa_model_config *c = &f->config;
    const int32_t rows = f->rows, decode = f->decode_rows, heads = c->num_attention_heads,
                  lora = c->kv_lora_rank, rope = c->qk_rope_head_dim, nope = c->qk_nope_head_dim,
                  v = c->v_head_dim, q = heads * (nope + rope);
    switch (op) {
    case PROA_CUDA_QKV_A:
        return (shape){1, rows, (c->q_lora_rank > 0 ? c->q_lora_rank : q) + lora + rope, c->hidden_size, 0};
    case PROA_CUDA_Q_NORM: return (shape){1, rows, c->q_lora_rank, 0, 0};
    case PROA_CUDA_Q_B: return (shape){1, rows, q, c->q_lora_rank, 0};
    case PROA_CUDA_ROPE: return (shape){1, rows, heads * rope, 0, 0};
    case PROA_CUDA_APPEND: return (shape){1, rows, lora + rope, 0, 0};
    case PROA_CUDA_UK: return (shape){heads, decode, lora, nope, 0};
    case PROA_CUDA_MLA: return (shape){heads, decode, lora + rope, 0, decode_keys(f)};
    case PROA_CUDA_UV: return (shape){heads, decode, v, lora, 0};
    case PROA_CUDA_GATHER: return (shape){1, f->keys, lora + rope, 0, 0};
    case PROA_CUDA_KV_B: return (shape){1, f->keys, heads * (nope + v), lora, 0};
    case PROA_CUDA_MHA: return (shape){heads, rows - decode, nope + rope, 0, prompt_keys(f)};
    case PROA_CUDA_O_QUANTISE: return (shape){1, rows, heads * v, 0, 0};
    default: PROA_ASSERT(op == PROA_CUDA_O); return (shape){1, rows, c->hidden_size, heads * v, 0};
    }
}

static shape shape_of(const proa_cuda_forward *f, proa_cuda_op op)
{
    const proa_model_config *c = &f->config;
    const int32_t rows = f->rows, hidden = c->hidden_size, slots = rows * c->num_experts_per_tok,
                  width = c->moe_intermediate_size;
    switch (op) {
    case PROA_CUDA_UPLOAD: return (shape){1, rows, 0, 0, 0};
    case PROA_CUDA_EMBED:
    case PROA_CUDA_NORM: return (shape){1, rows, hidden, 0, 0};
    case PROA_CUDA_DENSE: return (shape){3, rows, c->intermediate_size, hidden, 0};
    case PROA_CUDA_SHARED: return (shape){3, rows, width * c->n_shared_experts, hidden, 0};
    case PROA_CUDA_ROUTER: return (shape){1, rows, c->n_routed_experts, hidden, 0};
    case PROA_CUDA_SPREAD:
    case PROA_CUDA_COMBINE: return (shape){1, slots, hidden, 0, 0};
    case PROA_CUDA_EXPERTS_UP: return (shape){1, slots, 2 * width, hidden, 0};
    case PROA_CUDA_EXPERTS_ACT: return (shape){1, slots, width, 0, 0};
    case PROA_CUDA_EXPERTS_DOWN: return (shape){1, slots, hidden, width, 0};
    case PROA_CUDA_HEAD: return (shape){1, f->logit_rows, c->vocab_size, hidden, 0};
    case PROA_CUDA_SAMPLE:
    case PROA_CUDA_DOWNLOAD: return (shape){1, f->logit_rows, c->vocab_size, 0, 0};
    default: return attention_shape(f, op);
    }
}

void proa_cuda_describe(const proa_cuda_forward *f, proa_cuda_op op, int32_t layer, char *args, size_t bytes)
{
    const shape s = shape_of(f, op);
    size_t at = (size_t)snprintf(args, bytes, "\"rows\":%d", s.rows);
    if (layer >= 0)
        at += (size_t)snprintf(args + at, bytes - at, ",\"layer\":%d", layer);
    if (s.keys > 0)
        at += (size_t)snprintf(args + at, bytes - at, ",\"keys\":%lld", (long long)s.keys);
    if (s.n == 0)
        return;
    at += (size_t)snprintf(args + at, bytes - at, ",\"shape\":\"");
    if (s.times > 1)
        at += (size_t)snprintf(args + at, bytes - at, "%d x ", s.times);
    at += (size_t)snprintf(args + at, bytes - at, "[%d, %d]", s.rows, s.k > 0 ? s.k : s.n);
    if (s.k > 0)
        at += (size_t)snprintf(args + at, bytes - at, " [%d, %d]^T", s.n, s.k);
    snprintf(args + at, bytes - at, "\"");
}
