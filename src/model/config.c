/* config.c - config.json and generation_config.json of the DeepSeek-V3 family, with every field checked.
 *
 * The order is: which model this is (if it is another one, nothing else is said), then fields alone, then fields
 * against each other (only when each is good alone, so that one mistake makes one problem).
 * Bounds are generous, but such that no product of two fields leaves int32_t.
 */
#include "model/config.h"

#include "base/file.h"
#include "model/config_reader.h"
#include "op/router/router.h"

#include <stdio.h>
#include <string.h>

enum {
    FILE_BYTES_MAX = 4 << 20,
    VOCAB_MAX = 1 << 24,
    WIDTH_MAX = 1 << 20, /* hidden, intermediate and low-rank widths */
    LAYERS_MAX = 4096,
    HEADS_MAX = 4096,
    HEAD_DIM_MAX = 4096,
    EXPERTS_MAX = PROA_ROUTER_MAX_EXPERTS,
    TOP_K_MAX = PROA_ROUTER_MAX_TOP_K,
    SHARED_MAX = 64,
    POSITIONS_MAX = 1 << 26,
    MTP_MAX = 16,
    BLOCK_N_MAX = 1 << 16,
};

#define SERVED "served are deepseek_v3 (DeepSeek-V3, R1, V3-0324, R1-0528, V3.1) and kimi_k2"

/* Is this a model that the layer graph computes? Otherwise adds the one problem that matters. */
static bool check_kind(const proa_config_reader *r, proa_model_config *config)
{
    static const struct {
        const char *type;
        const char *why;
    } known[] = {
        {"deepseek_v2", "DeepSeek-V2's router (softmax, greedy) is not served"},
        {"deepseek_v32", "sparse attention (DeepSeek-V3.2) is not served yet"},
        {"glm_moe_dsa", "sparse attention (GLM-5) is not served yet"},
        {"deepseek_v4", "DeepSeek-V4 is another architecture and not served yet"},
    };
    const proa_json *type = proa_config_field(r, "model_type");
    const char *name = proa_json_string(type, NULL);
    char text[64];
    if (name == NULL) {
        proa_problems_add(r->problems, PROA_ERR_INVALID, "model_type is %s: must be a string; " SERVED,
                          type == NULL ? "missing" : proa_config_value(type, text));
        return false;
    }
    if (strcmp(name, "deepseek_v3") != 0 && strcmp(name, "kimi_k2") != 0) {
        const char *why = "another architecture";
        for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
            if (strcmp(name, known[i].type) == 0)
                why = known[i].why;
        }
        proa_problems_add(r->problems, PROA_ERR_UNSUPPORTED, "model_type is %s: %s; " SERVED,
                          proa_config_value(type, text), why);
        return false;
    }
    snprintf(config->model_type, sizeof config->model_type, "%s", name);
    return true;
}

static void check_features(const proa_config_reader *r)
{
    proa_config_expect_text(r, "hidden_act", "silu", "no published model of this family has another");
    proa_config_expect_bool(r, "attention_bias", false, "no published model of this family has biases");
    const proa_json *index = proa_config_field(r, "index_topk");
    char text[64];
    if (index != NULL)
        proa_problems_add(r->problems, PROA_ERR_UNSUPPORTED,
                          "index_topk is %s: sparse attention (DeepSeek-V3.2) is not served yet; " SERVED,
                          proa_config_value(index, text));
}

static void read_heads(const proa_config_reader *r, proa_model_config *c)
{
    int before = r->problems->count;
    c->num_attention_heads = proa_config_int_required(r, "num_attention_heads", 1, HEADS_MAX);
    int32_t kv_heads = proa_config_int(r, "num_key_value_heads", 1, HEADS_MAX, c->num_attention_heads);
    if (kv_heads != c->num_attention_heads && r->problems->count == before)
        proa_problems_add(
            r->problems, PROA_ERR_UNSUPPORTED,
            "num_key_value_heads is %d: latent attention has as many as num_attention_heads, %d", kv_heads,
            c->num_attention_heads);
}

static void read_sizes(const proa_config_reader *r, proa_model_config *c)
{
    int before = r->problems->count;
    c->vocab_size = proa_config_int_required(r, "vocab_size", 1, VOCAB_MAX);
    if (r->problems->count > before)
        c->vocab_size = VOCAB_MAX; /* say nothing about tokens that only this mistake puts out of range */
    c->hidden_size = proa_config_int_required(r, "hidden_size", 1, WIDTH_MAX);
    c->intermediate_size = proa_config_int_required(r, "intermediate_size", 1, WIDTH_MAX);
    c->num_hidden_layers = proa_config_int_required(r, "num_hidden_layers", 1, LAYERS_MAX);
    int32_t mtp = proa_config_int(r, "num_mtp_layers", 0, MTP_MAX, 0);
    c->num_nextn_predict_layers = proa_config_int(r, "num_nextn_predict_layers", 0, MTP_MAX, mtp);
    read_heads(r, c);
    c->q_lora_rank = proa_config_int(r, "q_lora_rank", 0, WIDTH_MAX, 0);
    c->kv_lora_rank = proa_config_int_required(r, "kv_lora_rank", 1, WIDTH_MAX);
    c->qk_nope_head_dim = proa_config_int_required(r, "qk_nope_head_dim", 1, HEAD_DIM_MAX);
    c->qk_rope_head_dim = proa_config_int_required(r, "qk_rope_head_dim", 2, HEAD_DIM_MAX);
    c->v_head_dim = proa_config_int_required(r, "v_head_dim", 1, HEAD_DIM_MAX);
    c->max_position_embeddings = proa_config_int_required(r, "max_position_embeddings", 1, POSITIONS_MAX);
    c->rms_norm_eps = proa_config_real(r, "rms_norm_eps", 0, 1, 1e-6);
    c->lora_norm_eps = 1e-6;
    c->tie_word_embeddings = proa_config_bool(r, "tie_word_embeddings", false);
    if (c->qk_rope_head_dim % 2 != 0)
        proa_problems_add(r->problems, PROA_ERR_INVALID,
                          "qk_rope_head_dim is %d: must be even (RoPE turns pairs)", c->qk_rope_head_dim);
}

/* Experts against groups; each field is in its own range. */
static void check_experts(const proa_config_reader *r, const proa_model_config *c)
{
    if (c->n_routed_experts % c->n_group != 0) {
        proa_problems_add(r->problems, PROA_ERR_INVALID, "n_group is %d: must divide n_routed_experts, %d",
                          c->n_group, c->n_routed_experts);
        return;
    }
    int32_t per_group = c->n_routed_experts / c->n_group;
    if (c->n_group > 1 && per_group < 2)
        proa_problems_add(r->problems, PROA_ERR_INVALID,
                          "n_group is %d: of n_routed_experts, %d, at least 2 must be in a group", c->n_group,
                          c->n_routed_experts);
    else if (c->topk_group > c->n_group)
        proa_problems_add(r->problems, PROA_ERR_INVALID, "topk_group is %d: must not be above n_group, %d",
                          c->topk_group, c->n_group);
    else if (c->num_experts_per_tok > per_group * c->topk_group)
        proa_problems_add(r->problems, PROA_ERR_INVALID,
                          "num_experts_per_tok is %d: the topk_group = %d groups of %d experts hold only %d",
                          c->num_experts_per_tok, c->topk_group, per_group, per_group * c->topk_group);
}

/* As required, but an explicit null is 1: models without groups. */
static int32_t read_group_count(const proa_config_reader *r, const char *key)
{
    if (proa_json_get(r->inner, key) != NULL && proa_config_field(r, key) == NULL)
        return 1;
    return proa_config_int_required(r, key, 1, EXPERTS_MAX);
}

static void read_experts(const proa_config_reader *r, proa_model_config *c)
{
    c->n_routed_experts = proa_config_int(r, "n_routed_experts", 0, EXPERTS_MAX, 0);
    c->n_group = c->topk_group = c->moe_layer_freq = 1;
    if (c->n_routed_experts == 0)
        return;
    int before = r->problems->count;
    c->n_shared_experts = proa_config_int(r, "n_shared_experts", 0, SHARED_MAX, 0);
    c->moe_intermediate_size = proa_config_int_required(r, "moe_intermediate_size", 1, WIDTH_MAX);
    c->first_k_dense_replace = proa_config_int_required(r, "first_k_dense_replace", 0, LAYERS_MAX);
    c->moe_layer_freq = proa_config_int(r, "moe_layer_freq", 1, LAYERS_MAX, 1);
    c->num_experts_per_tok = proa_config_int_required(r, "num_experts_per_tok", 1, TOP_K_MAX);
    c->n_group = read_group_count(r, "n_group");
    c->topk_group = read_group_count(r, "topk_group");
    c->norm_topk_prob = proa_config_bool(r, "norm_topk_prob", true);
    if (proa_config_field(r, "routed_scaling_factor") == NULL)
        proa_problems_add(
            r->problems, PROA_ERR_INVALID,
            "routed_scaling_factor is missing: give the number that the model was trained with (2.5 in "
            "DeepSeek-V3)");
    c->routed_scaling_factor = proa_config_real(r, "routed_scaling_factor", 1e-6, 1e6, 1);
    proa_config_expect_text(r, "scoring_func", "sigmoid", "DeepSeek-V2's softmax router is not");
    proa_config_expect_text(r, "topk_method", "noaux_tc", "DeepSeek-V2's greedy choices are not");
    if (r->problems->count == before)
        check_experts(r, c);
}

static void read_block_size(const proa_config_reader *q, proa_model_config *c)
{
    c->weight_block_n = c->weight_block_k = PROA_QUANT_GROUP;
    if (proa_json_get(q->inner, "weight_block_size") == NULL)
        return; /* 128 x 128, as transformers takes it */
    const proa_json *size = proa_config_field(q, "weight_block_size");
    int64_t n = proa_json_int(proa_json_at(proa_json_is(size, PROA_JSON_ARRAY) ? size : NULL, 0), 0);
    int64_t k = proa_json_int(proa_json_at(proa_json_is(size, PROA_JSON_ARRAY) ? size : NULL, 1), 0);
    char text[64] = "null";
    if (size != NULL)
        proa_config_value(size, text);
    if (size == NULL || proa_json_size(size) != 2 || n < 1 || n > BLOCK_N_MAX || k < 1)
        proa_problems_add(
            q->problems, PROA_ERR_INVALID,
            "quantization_config.weight_block_size is %s: must be two counts, as [128, 128]; scales for "
            "whole tensors or rows are not served",
            text);
    else if (k != PROA_QUANT_GROUP)
        proa_problems_add(
            q->problems, PROA_ERR_UNSUPPORTED,
            "quantization_config.weight_block_size is %s: the second number must be %d, the channels "
            "that share a scale in activations",
            text, PROA_QUANT_GROUP);
    else
        c->weight_block_n = (int32_t)n;
}

static void read_quantisation(const proa_config_reader *r, proa_model_config *c)
{
    const proa_json *object = proa_config_field(r, "quantization_config");
    char text[64];
    if (object == NULL)
        return;
    proa_config_reader q = {.inner = object, .prefix = "quantization_config.", .problems = r->problems};
    const proa_json *method = proa_config_field(&q, "quant_method");
    if (!proa_json_is(object, PROA_JSON_OBJECT) || strcmp(proa_json_string(method, ""), "fp8") != 0) {
        proa_problems_add(r->problems, PROA_ERR_UNSUPPORTED,
                          "quantization_config.quant_method is %s: served are \"fp8\" with weight blocks and "
                          "checkpoints that are not quantised; use the model's FP8 or bf16 release",
                          method == NULL ? "missing" : proa_config_value(method, text));
        return;
    }
    c->fp8 = true;
    proa_config_expect_text(&q, "fmt", "e4m3", "use the model's FP8 release");
    proa_config_expect_text(&q, "activation_scheme", "dynamic", "use the model's FP8 release");
    read_block_size(&q, c);
    const proa_json *format = proa_config_field(&q, "scale_fmt");
    const char *name = proa_json_string(format, format == NULL ? "float" : "");
    c->ue8m0 = strcmp(name, "ue8m0") == 0;
    if (!c->ue8m0 && strcmp(name, "float") != 0)
        proa_problems_add(
            r->problems, PROA_ERR_UNSUPPORTED,
            "quantization_config.scale_fmt is %s: served are \"ue8m0\" and \"float\" (left out)",
            proa_config_value(format, text));
}

/* Adds an end-of-sequence id, unless it is there already. */
static void add_eos(proa_problems *problems, const proa_json *value, proa_model_config *c)
{
    int64_t id = proa_json_int(value, -1);
    char text[64];
    if (id < 0 || id >= c->vocab_size) {
        proa_problems_add(problems, PROA_ERR_INVALID,
                          "eos_token_id is %s: must be a token from 0 to %d, or a list of at most %d",
                          proa_config_value(value, text), c->vocab_size - 1, PROA_MAX_EOS);
        return;
    }
    for (int32_t i = 0; i < c->eos_count; i++) {
        if (c->eos_token_ids[i] == id)
            return;
    }
    if (c->eos_count == PROA_MAX_EOS)
        proa_problems_add(problems, PROA_ERR_INVALID,
                          "eos_token_id holds more than %d tokens: %d is one too many", PROA_MAX_EOS,
                          (int32_t)id);
    else
        c->eos_token_ids[c->eos_count++] = (int32_t)id;
}

static void read_eos(const proa_config_reader *r, proa_model_config *c)
{
    const proa_json *eos = proa_config_field(r, "eos_token_id");
    if (proa_json_is(eos, PROA_JSON_ARRAY)) {
        for (size_t i = 0; i < proa_json_size(eos); i++)
            add_eos(r->problems, proa_json_at(eos, i), c);
    } else if (eos != NULL) {
        add_eos(r->problems, eos, c);
    }
}

proa_status proa_model_config_parse(const proa_json *json, const char *where, proa_model_config *config,
                                    proa_error *err)
{
    *config = (proa_model_config){0};
    if (!proa_json_is(json, PROA_JSON_OBJECT))
        return proa_error_set(err, PROA_ERR_INVALID, "%s: holds a JSON %s: must be an object", where,
                              proa_json_type_name(proa_json_type_of(json)));
    proa_problems problems = {0};
    const proa_json *text_config = proa_json_get(json, "text_config");
    bool nested = proa_json_is(text_config, PROA_JSON_OBJECT);
    proa_config_reader r = {.inner = nested ? text_config : json,
                            .outer = nested ? json : NULL,
                            .prefix = "",
                            .problems = &problems};
    if (check_kind(&r, config)) {
        check_features(&r);
        read_sizes(&r, config);
        read_experts(&r, config);
        proa_config_read_rope(&r, config);
        read_quantisation(&r, config);
        config->bos_token_id = proa_config_int(&r, "bos_token_id", 0, config->vocab_size - 1, -1);
        read_eos(&r, config);
    }
    return proa_problems_finish(&problems, where, err);
}

/* "dir/name" in `path`. */
static proa_status join_path(const char *dir, const char *name, char path[4096], proa_error *err)
{
    int n = snprintf(path, 4096, "%s/%s", dir, name);
    if (n < 0 || n >= 4096)
        return proa_error_set(err, PROA_ERR_TOO_LONG, "path too long: %s/%s", dir, name);
    return PROA_OK;
}

proa_status proa_model_config_load(const char *dir, proa_model_config *config, proa_error *err)
{
    char path[4096];
    proa_status status = join_path(dir, "config.json", path, err);
    if (status != PROA_OK)
        return status;
    if (!proa_file_exists(path))
        return proa_error_set(
            err, PROA_ERR_NOT_FOUND,
            "%s does not exist: --model-path must name a folder (nothing is fetched from a hub) with "
            "config.json, tokenizer.json and *.safetensors in the published format",
            path);
    proa_error cause = {0};
    proa_json *json = proa_json_parse_file(path, FILE_BYTES_MAX, &cause);
    if (json == NULL)
        return proa_error_set(err, cause.status, "%s", cause.text);
    status = proa_model_config_parse(json, path, config, err);
    proa_json_free(json);
    return status;
}

bool proa_model_config_is_moe(const proa_model_config *config, int32_t layer)
{
    return config->n_routed_experts > 0 && layer >= config->first_k_dense_replace &&
           layer % config->moe_layer_freq == 0;
}

proa_status proa_generation_config_load(const char *dir, proa_model_config *config,
                                        proa_generation_config *generation, proa_error *err)
{
    *generation = (proa_generation_config){.temperature = 1, .top_p = 1, .top_k = -1};
    char path[4096];
    proa_status status = join_path(dir, "generation_config.json", path, err);
    if (status != PROA_OK || !proa_file_exists(path))
        return status;
    proa_error cause = {0};
    proa_json *json = proa_json_parse_file(path, FILE_BYTES_MAX, &cause);
    if (json == NULL)
        return proa_error_set(err, cause.status, "%s", cause.text);
    proa_problems problems = {0};
    if (!proa_json_is(json, PROA_JSON_OBJECT))
        proa_problems_add(&problems, PROA_ERR_INVALID, "holds a JSON %s: must be an object",
                          proa_json_type_name(proa_json_type_of(json)));
    proa_config_reader r = {.inner = json, .prefix = "", .problems = &problems};
    generation->temperature = (float)proa_config_real(&r, "temperature", 0, 1000, 1);
    generation->top_p = (float)proa_config_real(&r, "top_p", 1e-6, 1, 1);
    generation->top_k = proa_config_int(&r, "top_k", -1, INT32_MAX, -1);
    if (generation->top_k == 0)
        generation->top_k = -1; /* both mean "all" */
    read_eos(&r, config);
    proa_json_free(json);
    return proa_problems_finish(&problems, path, err);
}
