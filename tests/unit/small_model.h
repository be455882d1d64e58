/* small_model.h - a small configuration that has everything: q_lora, groups, YaRN, a dense layer before the MoE layers, shared experts,
 * and with FP8 partial blocks. For dummy weights. */
#ifndef PROA_TESTS_SMALL_MODEL_H
#define PROA_TESTS_SMALL_MODEL_H

#include "model/config.h"

#include <stdio.h>
#include <string.h>

enum { SMALL_MODEL_VOCAB = 300 };

typedef struct small_model {
    int layers, experts, top_k, shared;
    bool fp8;
    int heads; /* 0: 3 */
} small_model;

static inline proa_status small_model_config(const small_model *m, proa_model_config *config, proa_error *err)
{
    char text[4096];
    int heads = m->heads > 0 ? m->heads : 3;
    snprintf(
        text, sizeof text,
        "{\"model_type\": \"deepseek_v3\", \"vocab_size\": %d, \"hidden_size\": 192, \"intermediate_size\": "
        "320,"
        " \"moe_intermediate_size\": 160, \"num_hidden_layers\": %d, \"num_nextn_predict_layers\": 0,"
        " \"num_attention_heads\": %d, \"num_key_value_heads\": %d, \"n_shared_experts\": %d, "
        "\"n_routed_experts\": %d,"
        " \"routed_scaling_factor\": 2.5, \"kv_lora_rank\": 96, \"q_lora_rank\": 64, \"qk_rope_head_dim\": "
        "32,"
        " \"v_head_dim\": 40, \"qk_nope_head_dim\": 48, \"n_group\": 4, \"topk_group\": 2,"
        " \"num_experts_per_tok\": %d, \"moe_layer_freq\": 1, \"first_k_dense_replace\": 1, "
        "\"norm_topk_prob\": true,"
        " \"scoring_func\": \"sigmoid\", \"topk_method\": \"noaux_tc\", \"hidden_act\": \"silu\","
        " \"max_position_embeddings\": 512, \"rms_norm_eps\": 1e-6, \"rope_theta\": 10000.0,"
        " \"rope_scaling\": {\"type\": \"yarn\", \"factor\": 4.0, \"original_max_position_embeddings\": 128,"
        " \"beta_fast\": 32, \"beta_slow\": 1, \"mscale\": 1.0, \"mscale_all_dim\": 1.0},"
        " \"attention_bias\": false, \"tie_word_embeddings\": false, \"bos_token_id\": 0, \"eos_token_id\": "
        "1%s}",
        SMALL_MODEL_VOCAB, m->layers, heads, heads, m->shared, m->experts, m->top_k,
        m->fp8 ? ", \"quantization_config\": {\"activation_scheme\": \"dynamic\", \"fmt\": \"e4m3\","
                 " \"quant_method\": \"fp8\", \"weight_block_size\": [128, 128]}"
               : "");
    proa_json *json = proa_json_parse(text, strlen(text), err);
    if (json == NULL)
        return err->status;
    proa_status status = proa_model_config_parse(json, "test", config, err);
    proa_json_free(json);
    return status;
}

#endif
