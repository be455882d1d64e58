/* bench_slice_cost.c - see bench_slice.h. Weights, inputs and outputs once each; FP8 values with a float32 scale for 128. */
#include "cmd/bench_slice.h"

static const double fp8 = 1 + 4.0 / 128, bf16 = 2; /* bytes of a value */

/* y [rows, n] = x [rows, k] W^T, `count` times */
static bench_slice_cost fp8_product(double count, double rows, double n, double k)
{
    return (bench_slice_cost){.bytes = count * (n * k + rows * k * fp8 + rows * n * bf16),
                              .fp8_flops = count * 2 * rows * n * k};
}

static bench_slice_cost bf16_product(double count, double rows, double n, double k, double out_bytes)
{
    return (bench_slice_cost){.bytes = count * (n * k * bf16 + rows * k * bf16 + rows * n * out_bytes),
                              .bf16_flops = count * 2 * rows * n * k};
}

static bench_slice_cost move(double bytes)
{
    return (bench_slice_cost){.bytes = bytes};
}

static bench_slice_cost sum(bench_slice_cost a, bench_slice_cost b)
{
    return (bench_slice_cost){a.bytes + b.bytes, a.fp8_flops + b.fp8_flops, a.bf16_flops + b.bf16_flops};
}

/* Of all layers, for rows that decode at `context` keys each, or `context` rows a prompt. */
static bench_slice_cost attention_cost(const proa_model_config *c, proa_kv_cache kv_cache,
                                       const proa_gpu_step_shape *s, double rows, proa_cuda_op op)
{
    const double layers = c->num_hidden_layers, heads = c->num_attention_heads, lora = c->kv_lora_rank,
                 rope = c->qk_rope_head_dim;
    const double nope = c->qk_nope_head_dim, v = c->v_head_dim, qk = nope + rope, hidden = c->hidden_size,
                 rank = c->q_lora_rank;
    const double pairs = s->sequences * (double)s->context * (s->decode ? 1 : (s->context + 1) / 2.0);
    const double keys = s->sequences * (double)s->context;
    const double key = proa_kv_row_of(proa_kv_cache_dtype(kv_cache, PROA_PRECISION_DEFAULT), c->kv_lora_rank,
                                      c->qk_rope_head_dim)
                           .bytes; /* in the cache */
    switch (op) {
    case PROA_CUDA_QKV_A: return fp8_product(layers, rows, rank + lora + rope, hidden);
    case PROA_CUDA_Q_NORM: return move(layers * rows * rank * (bf16 + fp8));
    case PROA_CUDA_Q_B: return fp8_product(layers, rows, heads * qk, rank);
    case PROA_CUDA_ROPE: return move(layers * rows * 2 * bf16 * heads * rope);
    case PROA_CUDA_APPEND: return move(layers * rows * (bf16 * (lora + rope) + key));
    case PROA_CUDA_UK: return s->decode ? bf16_product(layers * heads, rows, lora, nope, bf16) : move(0);
    case PROA_CUDA_UV: return s->decode ? bf16_product(layers * heads, rows, v, lora, bf16) : move(0);
    case PROA_CUDA_MLA:
        return s->decode ? (bench_slice_cost){.bytes = layers *
                                                       (keys * key + rows * heads * (2 * lora + rope) * bf16),
                                              .bf16_flops = layers * 2 * heads * pairs * (2 * lora + rope)}
                         : move(0);
    case PROA_CUDA_GATHER:
        return s->decode ? move(0) : move(layers * keys * (key + lora * fp8 + rope * bf16));
    case PROA_CUDA_KV_B: return s->decode ? move(0) : fp8_product(layers, keys, heads * (nope + v), lora);
    case PROA_CUDA_MHA:
        return s->decode ? move(0)
                         : (bench_slice_cost){.bytes = layers * bf16 * heads *
                                                       (rows * (qk + v) + keys * (nope + v)),
                                              .bf16_flops = layers * 2 * heads * pairs * (qk + v)};
    case PROA_CUDA_O_QUANTISE: return move(layers * rows * heads * v * (bf16 + fp8));
    case PROA_CUDA_O: return fp8_product(layers, rows, hidden, heads * v);
    default: return move(0);
    }
}

static bench_slice_cost moe_cost(const proa_model_config *c, double local, double rows, proa_cuda_op op)
{
    const double dense = c->first_k_dense_replace, layers = c->num_hidden_layers - dense,
                 hidden = c->hidden_size;
    const double width = c->moe_intermediate_size, slots = rows * c->num_experts_per_tok,
                 top_k = c->num_experts_per_tok;
    const double shared = width * c->n_shared_experts, wide = c->intermediate_size;
    const bench_slice_cost none = {0};
    bench_slice_cost experts;
    switch (op) {
    case PROA_CUDA_DENSE:
        return sum(fp8_product(dense, rows, 2 * wide, hidden), fp8_product(dense, rows, hidden, wide));
    case PROA_CUDA_SHARED:
        return sum(fp8_product(layers, rows, 2 * shared, hidden), fp8_product(layers, rows, hidden, shared));
    case PROA_CUDA_ROUTER: return bf16_product(layers, rows, c->n_routed_experts, hidden, 4);
    case PROA_CUDA_SPREAD: return move(layers * rows * hidden * fp8 * (1 + top_k));
    case PROA_CUDA_EXPERTS_UP:
        experts = fp8_product(layers, slots, 2 * width, hidden);
        experts.bytes += layers * (local - 1) * 2 * width * hidden;
        return experts;
    case PROA_CUDA_EXPERTS_ACT: return move(layers * slots * width * (2 * bf16 + fp8));
    case PROA_CUDA_EXPERTS_DOWN:
        experts = fp8_product(layers, slots, hidden, width);
        experts.bytes += layers * (local - 1) * width * hidden;
        return experts;
    case PROA_CUDA_COMBINE: return move(layers * rows * hidden * bf16 * (top_k + 2));
    default: return none;
    }
}

bench_slice_cost proa_bench_slice_cost(const proa_model_config *c, int32_t local_experts,
                                       proa_kv_cache kv_cache, const proa_gpu_step_shape *s, proa_cuda_op op)
{
    const double rows = s->decode ? s->sequences : s->sequences * (double)s->context, hidden = c->hidden_size;
    const double moe_layers = c->num_hidden_layers - c->first_k_dense_replace, layers = c->num_hidden_layers;
    switch (op) {
    case PROA_CUDA_EMBED: return move(rows * hidden * 2 * bf16);
    case PROA_CUDA_NORM: /* x and delta in, x and q out; before the experts bf16 as well */
        return move(rows * hidden * (layers * 2 * (3 * bf16 + fp8) + moe_layers * bf16));
    case PROA_CUDA_HEAD: return bf16_product(1, s->sequences, c->vocab_size, hidden, 4);
    default: return sum(attention_cost(c, kv_cache, s, rows, op), moe_cost(c, local_experts, rows, op));
    }
}
