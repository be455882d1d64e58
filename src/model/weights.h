/* weights.h - a checkpoint's tensors under the names that the layer graph uses.
 *
 * Loading maps the shards that model.safetensors.index.json lists (or model.safetensors alone), checks every name,
 * shape and dtype that the configuration implies (missing, extra and wrong ones named all at once), and points at
 * the mapped bytes: nothing is copied but W_UK and W_UV, which the absorbed form wants per head. A progress bar
 * with bytes/s is drawn on standard error when it is a terminal, while the pages are read in.
 * Weights are immutable after loading: any thread may read.
 */
#ifndef PROA_MODEL_WEIGHTS_H
#define PROA_MODEL_WEIGHTS_H

#include "model/config.h"
#include "op/tensor.h"

typedef struct proa_mlp_weights {
    proa_weight gate; /* gate_proj [width, hidden] */
    proa_weight up;   /* up_proj [width, hidden] */
    proa_weight down; /* down_proj [hidden, width] */
} proa_mlp_weights;

typedef struct proa_layer_weights {
    proa_weight input_layernorm;          /* [1, hidden] */
    proa_weight post_attention_layernorm; /* [1, hidden] */
    proa_weight q_proj;                   /* [heads * (nope + rope), hidden]; only when q_lora_rank = 0 */
    proa_weight q_a_proj;                 /* [q_lora_rank, hidden] */
    proa_weight q_a_layernorm;            /* [1, q_lora_rank] */
    proa_weight q_b_proj;                 /* [heads * (nope + rope), q_lora_rank] */
    proa_weight kv_a_proj;                /* kv_a_proj_with_mqa [kv_lora_rank + rope, hidden] */
    proa_weight kv_a_layernorm;           /* [1, kv_lora_rank] */
    proa_weight kv_b_proj;                /* [heads * (nope + v), kv_lora_rank] */
    proa_weight o_proj;                   /* [hidden, heads * v] */
    proa_dtype w_u_dtype;                 /* F32 (exact) or BF16 (default) */
    const void *w_uk;                     /* [heads, kv_lora_rank, nope]: transposed, for q_nope -> q_lat */
    const void *w_uv;                     /* [heads, v, kv_lora_rank]: for o_lat -> o */
    bool moe;
    bool has_shared;
    proa_mlp_weights mlp;           /* dense layer's MLP, or the shared expert of a MoE layer */
    proa_weight router;             /* mlp.gate [experts, hidden] */
    const float *router_bias;       /* e_score_correction_bias [experts], float32 */
    const proa_weight *expert_gate; /* [experts] */
    const proa_weight *expert_up;
    const proa_weight *expert_down;
} proa_layer_weights;

typedef struct proa_weights {
    proa_weight embed_tokens;         /* [vocab, hidden] */
    proa_weight norm;                 /* [1, hidden] */
    proa_weight lm_head;              /* [vocab, hidden] */
    const proa_layer_weights *layers; /* [num_hidden_layers] */
    int32_t layer_count;
    uint64_t bytes; /* of the tensors that are served */
} proa_weights;

typedef struct proa_checkpoint proa_checkpoint;

typedef enum proa_load_format { PROA_LOAD_AUTO, PROA_LOAD_DUMMY } proa_load_format;

/* DUMMY makes reproducible random weights of the right shapes and types and reads config.json alone.
 * `pool` (may be NULL) runs the preparation. */
proa_status proa_checkpoint_load(const char *dir, proa_load_format format, const proa_model_config *config,
                                 proa_precision precision, proa_pool *pool, proa_checkpoint **checkpoint,
                                 proa_error *err);
void proa_checkpoint_free(proa_checkpoint *checkpoint); /* accepts NULL */
const proa_weights *proa_checkpoint_weights(const proa_checkpoint *checkpoint);

#endif
