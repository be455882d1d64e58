/* bench_cost.c - bytes and operations of a step, from the shapes of its weights and segments.
 *
 * Counted as the layer graph's forms of attention have it: an expanded segment expands all keys of its sequence
 * (kv_b_proj), those of earlier chunks again; an absorbed one uses W_UK and W_UV and never touches kv_b_proj. Of a
 * causal mask only what it leaves counts. Left out, being small or in the cache: activations, norms, logits, RoPE.
 */
#include "cmd/bench_cost.h"

static double weight_bytes(const proa_weight *w)
{
    double bytes = (double)w->n * w->k * (double)proa_dtype_bytes(w->dtype);
    if (w->dtype != PROA_DTYPE_E4M3)
        return bytes;
    int64_t blocks_n = ((int64_t)w->n + w->block_n - 1) / w->block_n;
    int64_t blocks_k = ((int64_t)w->k + w->block_k - 1) / w->block_k;
    return bytes + (double)(blocks_n * blocks_k) * sizeof(float);
}

/* rows x W^T; a matrix that the model lacks has n = 0. */
static void add_linear(proa_bench_cost *cost, const proa_weight *w, double rows)
{
    cost->bytes += weight_bytes(w);
    cost->flops += 2 * rows * w->n * w->k;
}

static void add_mlp(proa_bench_cost *cost, const proa_mlp_weights *w, double rows)
{
    add_linear(cost, &w->gate, rows);
    add_linear(cost, &w->up, rows);
    add_linear(cost, &w->down, rows);
}

/* A query of the segment sees position_first + 1, + 2, ... keys. */
static double visible_pairs(const proa_segment *s)
{
    double rows = s->row_count;
    return rows * s->position_first + rows * (rows + 1) / 2;
}

static void add_absorbed(proa_bench_cost *cost, const proa_model_config *c, const proa_segment *s)
{
    double heads = c->num_attention_heads, lora = c->kv_lora_rank;
    cost->flops += 2 * s->row_count * heads * lora * (c->qk_nope_head_dim + c->v_head_dim);
    cost->flops += 2 * visible_pairs(s) * heads * (2 * lora + c->qk_rope_head_dim);
}

static void add_expanded(proa_bench_cost *cost, const proa_model_config *c, const proa_layer_weights *w,
                         const proa_segment *s)
{
    double keys = (double)s->position_first + s->row_count;
    int32_t dims = c->qk_nope_head_dim + c->qk_rope_head_dim + c->v_head_dim;
    cost->flops += 2 * keys * w->kv_b_proj.n * w->kv_b_proj.k;
    cost->flops += 2 * visible_pairs(s) * c->num_attention_heads * dims;
}

static void add_attention(proa_bench_cost *cost, const proa_model_config *c, const proa_layer_weights *w,
                          double kv_row_bytes, const proa_step *step)
{
    bool absorbed = false, expanded = false;
    add_linear(cost, &w->q_proj, step->row_count);
    add_linear(cost, &w->q_a_proj, step->row_count);
    add_linear(cost, &w->q_b_proj, step->row_count);
    add_linear(cost, &w->kv_a_proj, step->row_count);
    add_linear(cost, &w->o_proj, step->row_count);
    for (int32_t i = 0; i < step->segment_count; i++) {
        const proa_segment *s = &step->segments[i];
        cost->bytes += ((double)s->position_first + s->row_count) * kv_row_bytes;
        absorbed = absorbed || s->absorbed;
        expanded = expanded || !s->absorbed;
        if (s->absorbed)
            add_absorbed(cost, c, s);
        else
            add_expanded(cost, c, w, s);
    }
    if (absorbed)
        cost->bytes += (double)w->kv_b_proj.n * w->kv_b_proj.k * (double)proa_dtype_bytes(w->w_u_dtype);
    if (expanded)
        cost->bytes += weight_bytes(&w->kv_b_proj);
}

/* Operations of the routed experts; their bytes depend on how many are chosen. Returns the bytes of one. */
static double add_routed(proa_bench_cost *cost, const proa_layer_weights *w, double slots)
{
    const proa_mlp_weights one = {*w->expert_gate, *w->expert_up, *w->expert_down};
    proa_bench_cost expert = {0};
    add_mlp(&expert, &one, slots);
    cost->flops += expert.flops;
    return expert.bytes;
}

proa_bench_cost proa_bench_step_cost(const proa_model_config *config, const proa_weights *weights,
                                     proa_precision precision, proa_kv_cache kv_cache, const proa_step *step,
                                     double experts)
{
    proa_bench_cost cost = {0};
    double rows = step->row_count, expert_bytes = 0;
    double kv_row_bytes = (double)proa_forward_kv_block_bytes(config, precision, kv_cache) /
                          PROA_KV_BLOCK_TOKENS / config->num_hidden_layers;
    for (int32_t i = 0; i < weights->layer_count; i++) {
        const proa_layer_weights *w = &weights->layers[i];
        add_attention(&cost, config, w, kv_row_bytes, step);
        if (!w->moe || w->has_shared)
            add_mlp(&cost, &w->mlp, rows);
        if (w->moe) {
            add_linear(&cost, &w->router, rows);
            expert_bytes = add_routed(&cost, w, rows * config->num_experts_per_tok);
        }
    }
    cost.bytes += experts * expert_bytes;
    cost.bytes += rows * config->hidden_size * (double)proa_dtype_bytes(weights->embed_tokens.dtype);
    if (step->logit_count > 0)
        add_linear(&cost, &weights->lm_head, step->logit_count);
    return cost;
}
