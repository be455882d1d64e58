/* fuzz_config.c - config.json and generation_config.json: whatever bytes a file holds, reading ends with a config that
 * is within its bounds or with an error that has a text. */
#include "model/config.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    proa_json *json = proa_json_parse((const char *)data, size, NULL);
    if (json == NULL)
        return 0;
    proa_model_config c;
    proa_error err = {0};
    if (proa_model_config_parse(json, "config.json", &c, &err) != PROA_OK) {
        if (err.status == PROA_OK || strncmp(err.text, "config.json: ", 13) != 0)
            abort();
    } else {
        /* what the rest of the program builds on */
        bool sane = c.vocab_size > 0 && c.hidden_size > 0 && c.num_hidden_layers > 0 &&
                    c.num_attention_heads > 0 && c.kv_lora_rank > 0 && c.q_lora_rank >= 0 &&
                    c.qk_rope_head_dim % 2 == 0 && c.eos_count >= 0 && c.eos_count <= PROA_MAX_EOS &&
                    c.rope.theta > 1 && c.rope.factor > 0 && c.max_position_embeddings > 0;
        if (c.n_routed_experts > 0)
            sane &= c.n_routed_experts % c.n_group == 0 && c.topk_group <= c.n_group &&
                    c.num_experts_per_tok <= c.n_routed_experts / c.n_group * c.topk_group &&
                    c.moe_layer_freq > 0 && c.moe_intermediate_size > 0 && c.n_shared_experts >= 0;
        if (c.fp8)
            sane &= c.weight_block_n > 0 && c.weight_block_k == PROA_QUANT_GROUP;
        for (int32_t i = 0; i < c.eos_count; i++)
            sane &= c.eos_token_ids[i] >= 0 && c.eos_token_ids[i] < c.vocab_size;
        if (!sane)
            abort();
    }
    proa_json_free(json);
    return 0;
}
