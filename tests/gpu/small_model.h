/* small_model.h - a model of three layers, one of them dense, for tests of steps on a GPU. */
#ifndef PROA_TESTS_GPU_SMALL_MODEL_H
#define PROA_TESTS_GPU_SMALL_MODEL_H

#include "gpu_test.h"
#include "model/config.h"

static inline void small_model(proa_model_config *config)
{
    static const char config_text[] =
        "{\"model_type\": \"deepseek_v3\", \"vocab_size\": 320, \"hidden_size\": 256, \"intermediate_size\": "
        "256,"
        " \"moe_intermediate_size\": 128, \"num_hidden_layers\": 3, \"num_nextn_predict_layers\": 0, "
        "\"num_attention_heads\": 4,"
        " \"num_key_value_heads\": 4, \"n_shared_experts\": 1, \"n_routed_experts\": 16, "
        "\"routed_scaling_factor\": 2.5,"
        " \"kv_lora_rank\": 128, \"q_lora_rank\": 128, \"qk_rope_head_dim\": 32, \"v_head_dim\": 32, "
        "\"qk_nope_head_dim\": 32,"
        " \"n_group\": 4, \"topk_group\": 2, \"num_experts_per_tok\": 4, \"moe_layer_freq\": 1, "
        "\"first_k_dense_replace\": 1,"
        " \"norm_topk_prob\": true, \"scoring_func\": \"sigmoid\", \"topk_method\": \"noaux_tc\", "
        "\"hidden_act\": \"silu\","
        " \"max_position_embeddings\": 512, \"rms_norm_eps\": 1e-6, \"rope_theta\": 10000.0, "
        "\"attention_bias\": "
        "false,"
        " \"tie_word_embeddings\": false, \"bos_token_id\": 0, \"eos_token_id\": 1}";
    proa_error err = {0};
    proa_json *json = proa_json_parse(config_text, strlen(config_text), &err);
    assert_non_null(json);
    gpu_good(proa_model_config_parse(json, "test", config, &err), &err);
    proa_json_free(json);
}

#endif
