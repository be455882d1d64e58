/* config.h - config.json of a DeepSeek-V3-architecture checkpoint, checked.
 *
 * Names are the file's own. Everything that the engine relies on is checked here: ranges, divisibility, features
 * that are not served (attention_bias, another scoring_func or topk_method, ...), each with file, field, value and
 * remedy, all problems at once. `rope_scaling` and transformers 5's `rope_parameters` are both read, type also under
 * `rope_type`. A multimodal wrapper's `text_config` is read in place of the outer object, which fills its gaps.
 * A config is plain data: copy freely.
 */
#ifndef PROA_MODEL_CONFIG_H
#define PROA_MODEL_CONFIG_H

#include "base/json.h"
#include "base/status.h"
#include "op/rope/rope.h"

enum { PROA_MAX_EOS = 8 };

typedef struct proa_model_config {
    char model_type[64]; /* "deepseek_v3", "kimi_k2" */
    int32_t vocab_size;
    int32_t hidden_size;
    int32_t intermediate_size;     /* dense layers */
    int32_t moe_intermediate_size; /* one routed expert; the shared one is n_shared_experts times as wide */
    int32_t num_hidden_layers;
    int32_t num_nextn_predict_layers; /* MTP layers stored after the last: recognised */
    int32_t first_k_dense_replace;
    int32_t moe_layer_freq;
    int32_t num_attention_heads;
    int32_t q_lora_rank; /* 0: none, q_proj is one matrix */
    int32_t kv_lora_rank;
    int32_t qk_nope_head_dim;
    int32_t qk_rope_head_dim;
    int32_t v_head_dim;
    int32_t n_routed_experts; /* 0: every layer is dense */
    int32_t n_shared_experts;
    int32_t num_experts_per_tok;
    int32_t n_group;
    int32_t topk_group;
    bool norm_topk_prob;
    double routed_scaling_factor;
    double rms_norm_eps;
    double
        lora_norm_eps; /* q_a_layernorm and kv_a_layernorm: 1e-6 whatever rms_norm_eps is, as in the published code */
    int32_t max_position_embeddings;
    bool tie_word_embeddings;
    proa_rope_config rope;
    bool fp8; /* quantization_config.quant_method "fp8" */
    int32_t weight_block_n;
    int32_t weight_block_k;
    bool ue8m0;           /* scale_fmt "ue8m0" */
    int32_t bos_token_id; /* -1: none */
    int32_t eos_token_ids[PROA_MAX_EOS];
    int32_t eos_count;
} proa_model_config;

/* Reads and checks `dir`/config.json. */
proa_status proa_model_config_load(const char *dir, proa_model_config *config, proa_error *err);

/* The same from parsed JSON; `where` names the source in errors. For tests and fuzzing. */
proa_status proa_model_config_parse(const proa_json *json, const char *where, proa_model_config *config,
                                    proa_error *err);

/* Is layer i (0-based) a mixture of experts? */
bool proa_model_config_is_moe(const proa_model_config *config, int32_t layer);

/* generation_config.json: the sampling defaults that a model's makers recommend, and more end-of-sequence ids
 * (added to the config's). A missing file leaves the defaults: temperature 1, top_p 1, top_k -1. */
typedef struct proa_generation_config {
    float temperature;
    float top_p;
    int32_t top_k;
} proa_generation_config;

proa_status proa_generation_config_load(const char *dir, proa_model_config *config,
                                        proa_generation_config *generation, proa_error *err);

#endif
