/* test_config.c - config.json: every field bad in turn, with the words that its message must hold; the variants of
 * the family; generation_config.json; the published shapes when the test data is present. */
#include "base/file.h"
#include "model/config.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

static const char base_text[] =
    "{\"model_type\":\"deepseek_v3\",\"vocab_size\":1024,\"hidden_size\":256,\"intermediate_size\":384,"
    "\"moe_intermediate_size\":128,\"num_hidden_layers\":4,\"num_attention_heads\":8,\"num_key_value_heads\":"
    "8,"
    "\"q_lora_rank\":96,\"kv_lora_rank\":64,\"qk_nope_head_dim\":32,\"qk_rope_head_dim\":16,\"v_head_dim\":"
    "24,"
    "\"n_routed_experts\":16,\"n_shared_experts\":1,\"num_experts_per_tok\":4,\"n_group\":4,\"topk_group\":2,"
    "\"first_k_dense_replace\":1,\"moe_layer_freq\":1,\"norm_topk_prob\":true,\"routed_scaling_factor\":2.5,"
    "\"scoring_func\":\"sigmoid\",\"topk_method\":\"noaux_tc\",\"hidden_act\":\"silu\",\"attention_bias\":"
    "false,"
    "\"max_position_embeddings\":2048,\"rms_norm_eps\":1e-6,\"rope_theta\":10000,\"rope_scaling\":{\"type\":"
    "\"yarn\","
    "\"factor\":8,\"original_max_position_embeddings\":256,\"beta_fast\":32,\"beta_slow\":1,\"mscale\":1,"
    "\"mscale_all_dim\":1},\"tie_word_embeddings\":false,\"bos_token_id\":0,\"eos_token_id\":1}";

static proa_json *parse(const char *text)
{
    proa_error err = {0};
    proa_json *json = proa_json_parse(text, strlen(text), &err);
    if (json == NULL)
        fail_msg("%s: %s", text, err.text);
    return json;
}

/* The base with the patch's fields put in place; a field whose patch is "absent" is left out. */
static proa_json *patched(const char *patch_text)
{
    proa_json *base = parse(base_text), *patch = parse(patch_text), *result = proa_json_new_object();
    for (void *it = proa_json_first(base); it != NULL; it = proa_json_next(base, it)) {
        if (proa_json_get(patch, proa_json_key(it)) == NULL)
            proa_json_set(result, proa_json_key(it), proa_json_ref(proa_json_value(it)));
    }
    for (void *it = proa_json_first(patch); it != NULL; it = proa_json_next(patch, it)) {
        if (strcmp(proa_json_string(proa_json_value(it), ""), "absent") != 0)
            proa_json_set(result, proa_json_key(it), proa_json_ref(proa_json_value(it)));
    }
    proa_json_free(base);
    proa_json_free(patch);
    return result;
}

static proa_status read_patched(const char *patch, proa_model_config *config, proa_error *err)
{
    proa_json *json = patched(patch);
    proa_status status = proa_model_config_parse(json, "config.json", config, err);
    proa_json_free(json);
    return status;
}

#define FP8(more)  "{\"quantization_config\":{\"quant_method\":\"fp8\"" more "}}"
#define YARN(more) "{\"rope_scaling\":{\"type\":\"yarn\",\"factor\":8" more "}}"

static const struct {
    const char *patch;
    const char *says;
} bad[] = {
    {"{\"model_type\":\"absent\"}", "model_type is missing"},
    {"{\"model_type\":7}", "model_type is 7"},
    {"{\"model_type\":\"llama\"}", "model_type is \"llama\": another architecture; served are deepseek_v3"},
    {"{\"model_type\":\"deepseek_v2\"}", "DeepSeek-V2's router"},
    {"{\"model_type\":\"deepseek_v32\"}", "sparse attention"},
    {"{\"index_topk\":2048}", "index_topk is 2048: sparse attention"},
    {"{\"hidden_act\":\"gelu\"}", "hidden_act is \"gelu\": only \"silu\" is served"},
    {"{\"attention_bias\":true}", "attention_bias is true: only false is served"},
    {"{\"attention_bias\":0}", "attention_bias is 0"},
    {"{\"vocab_size\":\"absent\"}", "vocab_size is missing"},
    {"{\"vocab_size\":0}", "vocab_size is 0: must be a whole number from 1 to"},
    {"{\"vocab_size\":-1}", "vocab_size is -1"},
    {"{\"vocab_size\":1e3}", "vocab_size is 1000.0"},
    {"{\"vocab_size\":4294967296}", "vocab_size is 4294967296"},
    {"{\"hidden_size\":\"256\"}", "hidden_size is \"256\""},
    {"{\"hidden_size\":[1]}", "hidden_size is [1]"},
    {"{\"intermediate_size\":null}", "intermediate_size is missing"},
    {"{\"num_hidden_layers\":0}", "num_hidden_layers is 0"},
    {"{\"num_hidden_layers\":5000}", "num_hidden_layers is 5000"},
    {"{\"num_nextn_predict_layers\":-1}", "num_nextn_predict_layers is -1"},
    {"{\"num_attention_heads\":0}", "num_attention_heads is 0"},
    {"{\"num_key_value_heads\":2}", "num_key_value_heads is 2: latent attention"},
    {"{\"q_lora_rank\":-1}", "q_lora_rank is -1"},
    {"{\"kv_lora_rank\":0}", "kv_lora_rank is 0"},
    {"{\"qk_nope_head_dim\":0}", "qk_nope_head_dim is 0"},
    {"{\"qk_rope_head_dim\":15}", "qk_rope_head_dim is 15: must be even"},
    {"{\"v_head_dim\":5000}", "v_head_dim is 5000"},
    {"{\"max_position_embeddings\":0}", "max_position_embeddings is 0"},
    {"{\"rms_norm_eps\":-1}", "rms_norm_eps is -1"},
    {"{\"rms_norm_eps\":\"x\"}", "rms_norm_eps is \"x\""},
    {"{\"tie_word_embeddings\":1}", "tie_word_embeddings is 1: must be true or false"},
    {"{\"n_routed_experts\":-1}", "n_routed_experts is -1"},
    {"{\"n_routed_experts\":2048}", "n_routed_experts is 2048"},
    {"{\"n_shared_experts\":-2}", "n_shared_experts is -2"},
    {"{\"moe_intermediate_size\":null}", "moe_intermediate_size is missing"},
    {"{\"first_k_dense_replace\":\"absent\"}", "first_k_dense_replace is missing"},
    {"{\"moe_layer_freq\":0}", "moe_layer_freq is 0"},
    {"{\"num_experts_per_tok\":0}", "num_experts_per_tok is 0"},
    {"{\"num_experts_per_tok\":9}",
     "num_experts_per_tok is 9: the topk_group = 2 groups of 4 experts hold only 8"},
    {"{\"n_group\":\"absent\"}", "n_group is missing"},
    {"{\"n_group\":3}", "n_group is 3: must divide n_routed_experts, 16"},
    {"{\"n_group\":16}", "n_group is 16: of n_routed_experts, 16, at least 2"},
    {"{\"topk_group\":5}", "topk_group is 5: must not be above n_group, 4"},
    {"{\"norm_topk_prob\":\"yes\"}", "norm_topk_prob is \"yes\""},
    {"{\"routed_scaling_factor\":\"absent\"}", "routed_scaling_factor is missing"},
    {"{\"routed_scaling_factor\":0}", "routed_scaling_factor is 0"},
    {"{\"scoring_func\":\"softmax\"}",
     "scoring_func is \"softmax\": only \"sigmoid\" is served; DeepSeek-V2"},
    {"{\"topk_method\":\"greedy\"}", "topk_method is \"greedy\": only \"noaux_tc\" is served"},
    {"{\"bos_token_id\":1024}", "bos_token_id is 1024"},
    {"{\"eos_token_id\":1024}", "eos_token_id is 1024: must be a token from 0 to 1023"},
    {"{\"eos_token_id\":[1,\"a\"]}", "eos_token_id is \"a\""},
    {"{\"eos_token_id\":[1,2,3,4,5,6,7,8,9]}", "9 is one too many"},
    {"{\"rope_theta\":1}", "rope_theta is 1"},
    {"{\"rope_theta\":\"big\"}", "rope_theta is \"big\""},
    {"{\"rope_interleave\":false}", "rope_interleave is false"},
    {"{\"rope_scaling\":8}", "rope_scaling is 8: must be an object or null"},
    {"{\"rope_scaling\":{\"factor\":8}}", "rope_scaling.rope_type is missing"},
    {"{\"rope_scaling\":{\"type\":\"linear\",\"factor\":8}}", "rope_type is \"linear\": only \"yarn\""},
    {"{\"rope_scaling\":{\"rope_type\":5}}", "rope_type is 5"},
    {"{\"rope_parameters\":{\"rope_type\":\"yarn\",\"factor\":0}}", "rope_parameters.factor is 0"},
    {"{\"rope_parameters\":{\"rope_type\":\"default\",\"rope_theta\":-1}}",
     "rope_parameters.rope_theta is -1"},
    {"{\"rope_parameters\":{\"rope_type\":\"default\",\"partial_rotary_factor\":0.5}}",
     "partial_rotary_factor is 0.5"},
    {YARN(",\"original_max_position_embeddings\":0"), "original_max_position_embeddings is 0"},
    {YARN(",\"beta_fast\":1,\"beta_slow\":32"), "beta_fast is 1: must not be below beta_slow, 32"},
    {YARN(",\"mscale\":-1"), "mscale is -1"},
    {YARN(",\"mscale_all_dim\":\"1\""), "mscale_all_dim is \"1\""},
    {YARN(",\"attention_factor\":-1"), "attention_factor is -1"},
    {YARN(",\"truncate\":false"), "truncate is false"},
    {"{\"rope_scaling\":{\"type\":\"yarn\",\"factor\":1,\"attention_factor\":1.5}}",
     "attention_factor is 1.5: with"},
    {"{\"quantization_config\":[]}", "quant_method is missing"},
    {"{\"quantization_config\":{\"quant_method\":\"compressed-tensors\"}}",
     "\"compressed-tensors\": served are"},
    {FP8(",\"fmt\":\"e5m2\""), "quantization_config.fmt is \"e5m2\""},
    {FP8(",\"activation_scheme\":\"static\""), "activation_scheme is \"static\""},
    {FP8(",\"weight_block_size\":null"), "weight_block_size is null"},
    {FP8(",\"weight_block_size\":128"), "weight_block_size is 128"},
    {FP8(",\"weight_block_size\":[128]"), "weight_block_size is [128]"},
    {FP8(",\"weight_block_size\":[0,128]"), "weight_block_size is [0,128]"},
    {FP8(",\"weight_block_size\":[128,64]"), "weight_block_size is [128,64]: the second number must be 128"},
    {FP8(",\"scale_fmt\":\"e5m3\""), "scale_fmt is \"e5m3\""},
    {FP8(",\"scale_fmt\":3"), "scale_fmt is 3"},
};

static void each_bad_field_is_named(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        proa_model_config config;
        proa_error err = {0};
        if (read_patched(bad[i].patch, &config, &err) == PROA_OK)
            fail_msg("%s is accepted", bad[i].patch);
        if (strstr(err.text, bad[i].says) == NULL)
            fail_msg("%s: \"%s\" lacks \"%s\"", bad[i].patch, err.text, bad[i].says);
        assert_true(strncmp(err.text, "config.json: ", 13) == 0);
        if (strstr(err.text, "problems:") != NULL)
            fail_msg("%s: one mistake, but %s", bad[i].patch, err.text);
    }
}

static void several_problems_are_named_at_once(void **state)
{
    (void)state;
    proa_model_config config;
    proa_error err = {0};
    assert_int_equal(read_patched("{\"vocab_size\":0,\"hidden_act\":\"gelu\",\"n_group\":3,\"bos_token_id\":"
                                  "null,\"eos_token_id\":null}",
                                  &config, &err),
                     PROA_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.text, "config.json: 3 problems: (1) hidden_act"));
    assert_non_null(strstr(err.text, "; (2) vocab_size"));
    assert_non_null(strstr(err.text, "; (3) n_group"));
}

static void the_top_must_be_an_object(void **state)
{
    (void)state;
    static const char *const texts[] = {"[]", "3", "null", "\"deepseek_v3\"", "{}"};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        proa_json *json = parse(texts[i]);
        proa_model_config config;
        proa_error err = {0};
        assert_int_equal(proa_model_config_parse(json, "config.json", &config, &err), PROA_ERR_INVALID);
        assert_non_null(strstr(err.text, i < 4 ? "must be an object" : "model_type is missing"));
        proa_json_free(json);
    }
}

/* A good variant: the patch and one number that it must lead to. */
static proa_model_config good(const char *patch)
{
    proa_model_config config;
    proa_error err = {0};
    if (read_patched(patch, &config, &err) != PROA_OK)
        fail_msg("%s: %s", patch, err.text);
    return config;
}

static void variants_are_read(void **state)
{
    (void)state;
    proa_model_config c = good("{}");
    assert_int_equal(c.q_lora_rank, 96);
    assert_int_equal(c.num_nextn_predict_layers, 0);
    assert_int_equal(c.eos_count, 1);
    assert_false(c.fp8);
    assert_true(c.rope.yarn);
    assert_float_equal(c.rope.factor, 8, 0);
    assert_int_equal(c.rope.dim, 16);
    assert_string_equal(good("{\"model_type\":\"kimi_k2\"}").model_type, "kimi_k2");
    assert_int_equal(good("{\"q_lora_rank\":null}").q_lora_rank, 0);
    assert_int_equal(good("{\"q_lora_rank\":0}").q_lora_rank, 0);
    assert_int_equal(good("{\"q_lora_rank\":\"absent\"}").q_lora_rank, 0);
    assert_int_equal(good("{\"num_nextn_predict_layers\":1}").num_nextn_predict_layers, 1);
    assert_int_equal(good("{\"num_mtp_layers\":2}").num_nextn_predict_layers, 2);
    assert_true(good("{\"tie_word_embeddings\":true}").tie_word_embeddings);
    assert_int_equal(good("{\"bos_token_id\":null}").bos_token_id, -1);
    assert_int_equal(good("{\"eos_token_id\":null}").eos_count, 0);
    c = good("{\"eos_token_id\":[5,7,5]}");
    assert_int_equal(c.eos_count, 2);
    assert_int_equal(c.eos_token_ids[1], 7);
    assert_float_equal(good("{\"rms_norm_eps\":1e-5}").rms_norm_eps, 1e-5, 0);
    assert_float_equal(good("{\"rms_norm_eps\":1e-5}").lora_norm_eps, 1e-6, 0);
}

static void experts_are_read(void **state)
{
    (void)state;
    proa_model_config c =
        good("{\"n_group\":1,\"topk_group\":1,\"n_shared_experts\":2,\"num_experts_per_tok\":16}");
    assert_int_equal(c.n_group, 1);
    assert_int_equal(c.n_shared_experts, 2);
    c = good(
        "{\"n_group\":null,\"topk_group\":null,\"n_shared_experts\":null,\"moe_layer_freq\":\"absent\"}");
    assert_int_equal(c.n_group + c.topk_group + c.moe_layer_freq, 3);
    assert_int_equal(c.n_shared_experts, 0);
    assert_false(proa_model_config_is_moe(&c, 0));
    assert_true(proa_model_config_is_moe(&c, 1));
    assert_true(proa_model_config_is_moe(&c, 4)); /* the MTP layer's number */
    c = good("{\"moe_layer_freq\":2,\"first_k_dense_replace\":0}");
    assert_true(proa_model_config_is_moe(&c, 0));
    assert_false(proa_model_config_is_moe(&c, 1));
    static const char *const dense[] = {
        "{\"n_routed_experts\":null,\"n_group\":\"absent\",\"moe_intermediate_size\":null}",
        "{\"n_routed_experts\":0}",
        "{\"n_routed_experts\":\"absent\",\"routed_scaling_factor\":null}",
    };
    for (size_t i = 0; i < 3; i++) {
        c = good(dense[i]);
        assert_int_equal(c.n_routed_experts, 0);
        assert_false(proa_model_config_is_moe(&c, 3));
    }
    c = good("{\"scoring_func\":\"absent\",\"topk_method\":\"absent\",\"hidden_act\":\"absent\","
             "\"attention_bias\":\"absent\"}"); /* as transformers 5 writes it */
    assert_true(proa_model_config_is_moe(&c, 2));
}

/* The same settings under every spelling; and what transformers multiplies cos and sin by. */
static void rope_spellings_agree(void **state)
{
    (void)state;
    double m1 = 0.1 * log(8) + 1, m07 = 0.0707 * log(8) + 1;
    struct {
        const char *patch;
        bool yarn;
        double theta;
        double amplitude; /* of cos and sin */
        double all_dim;
    } cases[] = {
        {"{}", true, 10000, 1, 1},
        {"{\"rope_scaling\":null}", false, 10000, 1, 0},
        {"{\"rope_scaling\":{}}", false, 10000, 1, 0},
        {"{\"rope_scaling\":\"absent\",\"rope_theta\":\"absent\"}", false, 10000, 1, 0},
        {"{\"rope_scaling\":null,\"rope_theta\":50000.5}", false, 50000.5, 1, 0},
        {"{\"rope_scaling\":{\"rope_type\":\"default\"}}", false, 10000, 1, 0},
        {"{\"rope_scaling\":null,\"rope_theta\":null,\"rope_parameters\":{\"rope_type\":\"default\",\"rope_"
         "theta\":500}}",
         false, 500, 1, 0},
        {"{\"rope_scaling\":null,\"rope_theta\":null,\"rope_parameters\":{\"rope_type\":\"yarn\",\"rope_"
         "theta\":10000,"
         "\"factor\":8,\"original_max_position_embeddings\":256,\"mscale\":1.0,\"mscale_all_dim\":1.0}}",
         true, 10000, 1, 1},
        {"{\"rope_scaling\":{\"rope_type\":\"yarn\",\"original_max_position_embeddings\":256}}", true, 10000,
         m1, 0},
        {"{\"rope_scaling\":{\"type\":\"yarn\",\"factor\":8,\"mscale\":0.707}}", true, 10000, m1, 0},
        {"{\"rope_scaling\":{\"type\":\"yarn\",\"factor\":8,\"mscale_all_dim\":0.707}}", true, 10000, m1,
         0.707},
        {"{\"rope_scaling\":{\"type\":\"yarn\",\"factor\":8,\"mscale\":0.707,\"mscale_all_dim\":1}}", true,
         10000, m07 / m1, 1},
        {"{\"rope_scaling\":{\"type\":\"yarn\",\"factor\":8,\"mscale\":1,\"mscale_all_dim\":1,\"attention_"
         "factor\":1.25}}",
         true, 10000, 1.25, 1},
        {"{\"rope_scaling\":{\"type\":\"yarn\",\"factor\":1,\"mscale\":1}}", true, 10000, 1, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        proa_rope_config rope = good(cases[i].patch).rope;
        assert_int_equal(rope.yarn, cases[i].yarn);
        assert_float_equal(rope.theta, cases[i].theta, 0);
        if (!rope.yarn)
            continue;
        double scale = rope.factor > 1 ? 0.1 * log(rope.factor) : 0;
        double amplitude = (scale * rope.mscale + 1) / (scale * rope.mscale_all_dim + 1);
        if (fabs(amplitude - cases[i].amplitude) > 1e-12 || rope.mscale_all_dim != cases[i].all_dim)
            fail_msg("%s: amplitude %.9f, not %.9f; mscale_all_dim %g", cases[i].patch, amplitude,
                     cases[i].amplitude, rope.mscale_all_dim);
        assert_float_equal(rope.beta_fast, 32, 0);
        assert_float_equal(rope.beta_slow, 1, 0);
    }
    /* left out: the factor is the quotient of lengths, the original length the whole length */
    proa_rope_config rope =
        good("{\"rope_scaling\":{\"rope_type\":\"yarn\",\"original_max_position_embeddings\":512}}").rope;
    assert_float_equal(rope.factor, 4, 0);
    assert_int_equal(good(YARN("")).rope.original_max_position, 2048);
}

static void quantisation_is_read(void **state)
{
    (void)state;
    proa_model_config c =
        good(FP8(",\"fmt\":\"e4m3\",\"activation_scheme\":\"dynamic\",\"weight_block_size\":[128,128]"));
    assert_true(c.fp8 && !c.ue8m0);
    assert_int_equal(c.weight_block_n, 128);
    assert_int_equal(c.weight_block_k, 128);
    assert_true(good(FP8(",\"scale_fmt\":\"ue8m0\"")).ue8m0);
    assert_false(good(FP8(",\"scale_fmt\":\"float\"")).ue8m0);
    assert_false(good(FP8(",\"scale_fmt\":null")).ue8m0);
    assert_int_equal(good(FP8("")).weight_block_n, 128);
    assert_int_equal(
        good(FP8(",\"weight_block_size\":[64,128],\"modules_to_not_convert\":[\"lm_head\"]")).weight_block_n,
        64);
    assert_false(good("{\"quantization_config\":null}").fp8);
}

static void text_config_is_read_in_place_of_the_wrapper(void **state)
{
    (void)state;
    proa_buf text = {0};
    proa_buf_append_format(
        &text,
        "{\"model_type\":\"kimi_k25\",\"vocab_size\":5,\"quantization_config\":{\"quant_method\":"
        "\"fp8\"},\"text_config\":%s}",
        base_text);
    proa_json *json = parse(proa_buf_text(&text));
    proa_model_config config;
    proa_error err = {0};
    if (proa_model_config_parse(json, "config.json", &config, &err) != PROA_OK)
        fail_msg("%s", err.text);
    assert_string_equal(config.model_type, "deepseek_v3");
    assert_int_equal(config.vocab_size, 1024);
    assert_true(config.fp8);
    proa_json_free(json);
    proa_buf_free(&text);
}

static char folder[] = "/tmp/proa-config-XXXXXX";

static int make_folder(void **state)
{
    (void)state;
    return mkdtemp(folder) == NULL;
}

static void put(const char *name, const char *text)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    assert_int_equal(proa_file_write(path, text, strlen(text), NULL), PROA_OK);
}

static int remove_folder(void **state)
{
    (void)state;
    static const char *const names[] = {"config.json", "generation_config.json"};
    char path[256];
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        unlink(path);
    }
    return rmdir(folder);
}

static void files_are_read(void **state)
{
    (void)state;
    proa_model_config config;
    proa_error err = {0};
    assert_int_equal(proa_model_config_load(folder, &config, &err), PROA_ERR_NOT_FOUND);
    assert_non_null(strstr(err.text, "/config.json does not exist"));
    assert_non_null(strstr(err.text, "--model-path"));
    put("config.json", "{\"model_type\":");
    assert_int_equal(proa_model_config_load(folder, &config, &err), PROA_ERR_INVALID);
    assert_non_null(strstr(err.text, "/config.json: not valid JSON"));
    put("config.json", base_text);
    assert_int_equal(proa_model_config_load(folder, &config, &err), PROA_OK);
}

static void generation_defaults_are_read(void **state)
{
    (void)state;
    static const struct {
        const char *text; /* NULL: no file */
        const char *says; /* NULL: good */
        float temperature, top_p;
        int32_t top_k;
        int32_t eos_count; /* the config's own 1 included */
    } cases[] = {
        {NULL, NULL, 1, 1, -1, 1},
        {"{}", NULL, 1, 1, -1, 1},
        {"{\"do_sample\":true,\"temperature\":0.6,\"top_p\":0.95,\"eos_token_id\":1}", NULL, 0.6f, 0.95f, -1,
         1},
        {"{\"temperature\":1,\"top_k\":50,\"eos_token_id\":[1,9,10]}", NULL, 1, 1, 50, 3},
        {"{\"temperature\":0,\"top_k\":0,\"top_p\":null}", NULL, 0, 1, -1, 1},
        {"{\"temperature\":-1}", "generation_config.json: temperature is -1", 0, 0, 0, 0},
        {"{\"top_p\":0}", "top_p is 0", 0, 0, 0, 0},
        {"{\"top_p\":1.5}", "top_p is 1.5", 0, 0, 0, 0},
        {"{\"top_k\":-2}", "top_k is -2", 0, 0, 0, 0},
        {"{\"eos_token_id\":5000}", "eos_token_id is 5000", 0, 0, 0, 0},
        {"[]", "must be an object", 0, 0, 0, 0},
        {"{", "not valid JSON", 0, 0, 0, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        proa_model_config config = good("{}");
        proa_generation_config generation;
        proa_error err = {0};
        if (cases[i].text != NULL)
            put("generation_config.json", cases[i].text);
        proa_status status = proa_generation_config_load(folder, &config, &generation, &err);
        if (cases[i].says != NULL) {
            assert_true(proa_failed(status));
            if (strstr(err.text, cases[i].says) == NULL)
                fail_msg("%s: \"%s\" lacks \"%s\"", cases[i].text, err.text, cases[i].says);
            continue;
        }
        assert_int_equal(status, PROA_OK);
        assert_float_equal(generation.temperature, cases[i].temperature, 0);
        assert_float_equal(generation.top_p, cases[i].top_p, 0);
        assert_int_equal(generation.top_k, cases[i].top_k);
        assert_int_equal(config.eos_count, cases[i].eos_count);
    }
}

static void published_files_are_read(void **state)
{
    (void)state;
    static const char *const dirs[] = {"golden/v3-bf16", "golden/v3-fp8", "models/tiny-r1"};
    const char *data = getenv("PROA_TEST_DATA");
    for (size_t i = 0; i < 3; i++) {
        char path[1024];
        snprintf(path, sizeof path, "%s/%s", data != NULL ? data : "", dirs[i]);
        if (!proa_file_exists(path)) {
            print_message("%s is not there (PROA_TEST_DATA): skipped\n", path);
            skip();
        }
        proa_model_config config;
        proa_generation_config generation;
        proa_error err = {0};
        if (proa_model_config_load(path, &config, &err) != PROA_OK ||
            proa_generation_config_load(path, &config, &generation, &err) != PROA_OK)
            fail_msg("%s", err.text);
        assert_int_equal(config.fp8, i > 0);
        assert_float_equal(generation.temperature, 0.6f, 0);
        assert_int_equal(config.num_nextn_predict_layers, i == 2);
        assert_int_equal(config.eos_count, 1);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_bad_field_is_named),
        cmocka_unit_test(several_problems_are_named_at_once),
        cmocka_unit_test(the_top_must_be_an_object),
        cmocka_unit_test(variants_are_read),
        cmocka_unit_test(experts_are_read),
        cmocka_unit_test(rope_spellings_agree),
        cmocka_unit_test(quantisation_is_read),
        cmocka_unit_test(text_config_is_read_in_place_of_the_wrapper),
        cmocka_unit_test(files_are_read),
        cmocka_unit_test(generation_defaults_are_read),
        cmocka_unit_test(published_files_are_read),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
