/* test_weights.c - checkpoints that the test writes itself, whole and broken in every way that has a message; W_UK and
 * W_UV against their definition; dummy weights; the published ones when the test data is present. */
#include "base/buf.h"
#include "base/file.h"
#include "base/log.h"
#include "base/number.h"
#include "model/safetensors.h"
#include "model/weights.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

/* Two layers, the first dense; 2 heads of 8 + 4, v 6; 4 experts, one shared of twice the width; blocks of 128 x 128. */
static const char config_text[] =
    "{\"model_type\":\"deepseek_v3\",\"vocab_size\":32,\"hidden_size\":160,\"intermediate_size\":48,"
    "\"moe_intermediate_size\":24,\"num_hidden_layers\":2,\"num_nextn_predict_layers\":1,\"num_attention_"
    "heads\":2,"
    "\"q_lora_rank\":20,\"kv_lora_rank\":264,\"qk_nope_head_dim\":70,\"qk_rope_head_dim\":4,\"v_head_dim\":6,"
    "\"n_routed_experts\":4,\"n_shared_experts\":2,\"num_experts_per_tok\":2,\"n_group\":2,\"topk_group\":1,"
    "\"first_k_dense_replace\":1,\"routed_scaling_factor\":2.5,\"max_position_embeddings\":64%s}";

#define FP8 ",\"quantization_config\":{\"quant_method\":\"fp8\",\"weight_block_size\":[128,128]}"

typedef struct entry {
    const char *name; /* '*': 0..3, the experts */
    int32_t n;        /* 0: one-dimensional */
    int32_t k;
    bool matrix; /* FP8 in an FP8 checkpoint */
    bool second; /* in the second shard */
} entry;

/* Written out by hand from the published layout, not taken from the code under test. */
static const entry entries[] = {
    {"model.embed_tokens.weight", 32, 160, false, false},
    {"model.layers.0.input_layernorm.weight", 0, 160, false, false},
    {"model.layers.0.post_attention_layernorm.weight", 0, 160, false, false},
    {"model.layers.0.self_attn.q_a_proj.weight", 20, 160, true, false},
    {"model.layers.0.self_attn.q_a_layernorm.weight", 0, 20, false, false},
    {"model.layers.0.self_attn.q_b_proj.weight", 148, 20, true, false},
    {"model.layers.0.self_attn.kv_a_proj_with_mqa.weight", 268, 160, true, false},
    {"model.layers.0.self_attn.kv_a_layernorm.weight", 0, 264, false, false},
    {"model.layers.0.self_attn.kv_b_proj.weight", 152, 264, true, false},
    {"model.layers.0.self_attn.o_proj.weight", 160, 12, true, false},
    {"model.layers.0.mlp.gate_proj.weight", 48, 160, true, false},
    {"model.layers.0.mlp.up_proj.weight", 48, 160, true, false},
    {"model.layers.0.mlp.down_proj.weight", 160, 48, true, false},
    {"model.layers.1.input_layernorm.weight", 0, 160, false, true},
    {"model.layers.1.post_attention_layernorm.weight", 0, 160, false, true},
    {"model.layers.1.self_attn.q_a_proj.weight", 20, 160, true, true},
    {"model.layers.1.self_attn.q_a_layernorm.weight", 0, 20, false, true},
    {"model.layers.1.self_attn.q_b_proj.weight", 148, 20, true, true},
    {"model.layers.1.self_attn.kv_a_proj_with_mqa.weight", 268, 160, true, true},
    {"model.layers.1.self_attn.kv_a_layernorm.weight", 0, 264, false, true},
    {"model.layers.1.self_attn.kv_b_proj.weight", 152, 264, true, true},
    {"model.layers.1.self_attn.o_proj.weight", 160, 12, true, true},
    {"model.layers.1.mlp.gate.weight", 4, 160, false, true},
    {"model.layers.1.mlp.gate.e_score_correction_bias", 0, 4, false, true},
    {"model.layers.1.mlp.shared_experts.gate_proj.weight", 48, 160, true, true},
    {"model.layers.1.mlp.shared_experts.up_proj.weight", 48, 160, true, true},
    {"model.layers.1.mlp.shared_experts.down_proj.weight", 160, 48, true, true},
    {"model.layers.1.mlp.experts.*.gate_proj.weight", 24, 160, true, true},
    {"model.layers.1.mlp.experts.*.up_proj.weight", 24, 160, true, true},
    {"model.layers.1.mlp.experts.*.down_proj.weight", 160, 24, true, true},
    {"model.norm.weight", 0, 160, false, true},
    {"lm_head.weight", 32, 160, false, true},
    /* of the MTP layer a part: it is recognised, not needed */
    {"model.layers.2.eh_proj.weight", 160, 320, false, true},
    {"model.layers.2.shared_head.head.weight", 32, 160, false, true},
    {"model.layers.2.mlp.experts.*.up_proj.weight", 24, 160, true, true},
};

enum { TENSORS_MAX = 200 };

typedef struct checkpoint {
    proa_tensor tensors[TENSORS_MAX];
    char names[TENSORS_MAX][120];
    bool second[TENSORS_MAX];
    size_t count;
} checkpoint;

static uint32_t next_random(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

static proa_tensor *add(checkpoint *c, const char *name, proa_dtype dtype, int32_t n, int32_t k, bool second)
{
    proa_tensor *t = &c->tensors[c->count];
    snprintf(c->names[c->count], sizeof c->names[0], "%s", name);
    c->second[c->count] = second;
    *t = (proa_tensor){.name = c->names[c->count], .dtype = dtype, .dims = n == 0 ? 1 : 2};
    t->shape[0] = n == 0 ? k : n;
    t->shape[1] = n == 0 ? 0 : k;
    size_t elements = (size_t)(n == 0 ? 1 : n) * (size_t)k;
    uint32_t state = (uint32_t)c->count + 7;
    unsigned char *data = malloc(elements * proa_dtype_bytes(dtype));
    for (size_t i = 0; i < elements; i++) {
        float value = ((float)(next_random(&state) & 0xffff) - 32768) / 65536;
        uint16_t half = proa_f32_to_bf16(value);
        if (dtype == PROA_DTYPE_F32)
            memcpy(data + 4 * i, &value, 4);
        else if (dtype == PROA_DTYPE_BF16)
            memcpy(data + 2 * i, &half, 2);
        else
            data[i] = dtype == PROA_DTYPE_E4M3 ? proa_f32_to_e4m3(value * 448) : (unsigned char)(120 + i % 5);
    }
    t->data = data;
    c->count++;
    return t;
}

static void add_entry(checkpoint *c, const entry *e, const char *name, bool fp8, proa_dtype scale_dtype)
{
    bool bias = strstr(name, "bias") != NULL;
    add(c, name,
        fp8 && e->matrix ? PROA_DTYPE_E4M3
        : bias           ? PROA_DTYPE_F32
                         : PROA_DTYPE_BF16,
        e->n, e->k, e->second);
    if (!fp8 || !e->matrix)
        return;
    char scale[140];
    snprintf(scale, sizeof scale, "%s_scale_inv", name);
    add(c, scale, scale_dtype, (e->n + 127) / 128, (e->k + 127) / 128, e->second);
}

static checkpoint *make(bool fp8, proa_dtype scale_dtype)
{
    checkpoint *c = calloc(1, sizeof *c);
    for (size_t i = 0; i < sizeof entries / sizeof entries[0]; i++) {
        const char *star = strchr(entries[i].name, '*');
        for (int expert = 0; expert < (star != NULL ? 4 : 1); expert++) {
            char name[120];
            snprintf(name, sizeof name, "%s", entries[i].name);
            if (star != NULL)
                name[star - entries[i].name] = (char)('0' + expert);
            add_entry(c, &entries[i], name, fp8, scale_dtype);
        }
    }
    return c;
}

static void discard(checkpoint *c)
{
    for (size_t i = 0; i < c->count; i++)
        free((void *)(uintptr_t)c->tensors[i].data);
    free(c);
}

static proa_tensor *find(checkpoint *c, const char *name)
{
    for (size_t i = 0; i < c->count; i++) {
        if (strcmp(c->tensors[i].name, name) == 0)
            return &c->tensors[i];
    }
    fail_msg("no tensor %s", name);
    return NULL;
}

static void drop(checkpoint *c, const char *name)
{
    size_t at = (size_t)(find(c, name) - c->tensors);
    free((void *)(uintptr_t)c->tensors[at].data);
    c->count--;
    for (size_t i = at; i < c->count; i++) {
        c->tensors[i] = c->tensors[i + 1];
        memcpy(c->names[i], c->names[i + 1], sizeof c->names[0]);
        c->tensors[i].name = c->names[i];
        c->second[i] = c->second[i + 1];
    }
}

static char folder[] = "/tmp/proa-weights-XXXXXX";
static const char *const shard_names[] = {"model-00001-of-00002.safetensors",
                                          "model-00002-of-00002.safetensors"};
#define INDEX "model.safetensors.index.json"

static const char *path_of(const char *name)
{
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static void clean(void)
{
    static const char *const names[] = {"model-00001-of-00002.safetensors",
                                        "model-00002-of-00002.safetensors", "model.safetensors", INDEX};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        unlink(path_of(names[i]));
        rmdir(path_of(names[i]));
    }
}

static void write_index(const checkpoint *c)
{
    proa_buf text = {0};
    proa_buf_append_text(&text, "{\"metadata\":{\"total_size\":1},\"weight_map\":{");
    for (size_t i = 0; i < c->count; i++)
        proa_buf_append_format(&text, "%s\"%s\":\"%s\"", i > 0 ? "," : "", c->tensors[i].name,
                               shard_names[c->second[i]]);
    proa_buf_append_text(&text, "}}");
    assert_int_equal(proa_file_write(path_of(INDEX), text.data, text.length, NULL), PROA_OK);
    proa_buf_free(&text);
}

static void write_sharded(const checkpoint *c)
{
    clean();
    for (int shard = 0; shard < 2; shard++) {
        proa_tensor some[TENSORS_MAX];
        size_t count = 0;
        for (size_t i = 0; i < c->count; i++) {
            if (c->second[i] == shard)
                some[count++] = c->tensors[i];
        }
        assert_int_equal(proa_safetensors_write(path_of(shard_names[shard]), some, count, NULL), PROA_OK);
    }
    write_index(c);
}

static void write_single(const checkpoint *c)
{
    clean();
    assert_int_equal(proa_safetensors_write(path_of("model.safetensors"), c->tensors, c->count, NULL),
                     PROA_OK);
}

static proa_model_config read_config(const char *more)
{
    char text[2048];
    snprintf(text, sizeof text, config_text, more);
    proa_error err = {0};
    proa_json *json = proa_json_parse(text, strlen(text), &err);
    proa_model_config config = {0};
    if (json == NULL || proa_model_config_parse(json, "config.json", &config, &err) != PROA_OK)
        fail_msg("%s", err.text);
    proa_json_free(json);
    return config;
}

static proa_checkpoint *load(const proa_model_config *config, proa_precision precision, proa_pool *pool)
{
    proa_checkpoint *loaded;
    proa_error err = {0};
    if (proa_checkpoint_load(folder, PROA_LOAD_AUTO, config, precision, pool, &loaded, &err) != PROA_OK)
        fail_msg("%s", err.text);
    return loaded;
}

static float element(const proa_weight *w, int32_t row, int32_t col)
{
    size_t at = (size_t)row * (size_t)w->k + (size_t)col;
    if (w->dtype == PROA_DTYPE_F32)
        return ((const float *)w->data)[at];
    if (w->dtype == PROA_DTYPE_BF16)
        return proa_bf16_to_f32(((const uint16_t *)w->data)[at]);
    int32_t blocks = (w->k + w->block_k - 1) / w->block_k;
    return proa_e4m3_to_f32(((const uint8_t *)w->data)[at]) *
           w->scale[(row / w->block_n) * blocks + col / w->block_k];
}

static float absorbed(const proa_layer_weights *layer, const void *base, size_t at)
{
    return layer->w_u_dtype == PROA_DTYPE_F32 ? ((const float *)base)[at]
                                              : proa_bf16_to_f32(((const uint16_t *)base)[at]);
}

/* w_uk [heads, kv_lora, nope] and w_uv [heads, v, kv_lora] are what their definition says. */
static void check_absorbed(const proa_model_config *c, const proa_weights *w, proa_precision precision)
{
    int32_t nope = c->qk_nope_head_dim, v = c->v_head_dim, rank = c->kv_lora_rank;
    for (int32_t i = 0; i < w->layer_count; i++) {
        const proa_layer_weights *layer = &w->layers[i];
        assert_int_equal(layer->w_u_dtype,
                         precision == PROA_PRECISION_EXACT ? PROA_DTYPE_F32 : PROA_DTYPE_BF16);
        for (int32_t h = 0; h < c->num_attention_heads; h++) {
            for (int32_t d = 0; d < nope + v; d++) {
                for (int32_t r = 0; r < rank; r++) {
                    float wanted = element(&layer->kv_b_proj, h * (nope + v) + d, r);
                    if (precision == PROA_PRECISION_DEFAULT)
                        wanted = proa_round_bf16(wanted);
                    float found = d < nope ? absorbed(layer, layer->w_uk, ((size_t)h * rank + r) * nope + d)
                                           : absorbed(layer, layer->w_uv,
                                                      ((size_t)h * v + (d - nope)) * (size_t)rank + r);
                    if (wanted != found)
                        fail_msg("layer %d head %d row %d column %d: %g, not %g", i, h, d, r, found, wanted);
                }
            }
        }
    }
}

static void check_same(checkpoint *c, const char *name, const proa_weight *w, int32_t n, int32_t k)
{
    const proa_tensor *t = find(c, name);
    assert_int_equal(w->n, n);
    assert_int_equal(w->k, k);
    assert_int_equal(w->dtype, t->dtype);
    assert_memory_equal(w->data, t->data, (size_t)n * k * proa_dtype_bytes(t->dtype));
    assert_int_equal((uintptr_t)w->data % proa_dtype_bytes(w->dtype), 0);
}

static void check_places(checkpoint *c, const proa_weights *w)
{
    check_same(c, "model.embed_tokens.weight", &w->embed_tokens, 32, 160);
    check_same(c, "model.norm.weight", &w->norm, 1, 160);
    check_same(c, "lm_head.weight", &w->lm_head, 32, 160);
    assert_int_equal(w->layer_count, 2);
    const proa_layer_weights *a = &w->layers[0], *b = &w->layers[1];
    assert_false(a->moe || a->has_shared);
    assert_true(b->moe && b->has_shared);
    check_same(c, "model.layers.0.input_layernorm.weight", &a->input_layernorm, 1, 160);
    check_same(c, "model.layers.0.self_attn.q_b_proj.weight", &a->q_b_proj, 148, 20);
    check_same(c, "model.layers.0.mlp.down_proj.weight", &a->mlp.down, 160, 48);
    check_same(c, "model.layers.1.post_attention_layernorm.weight", &b->post_attention_layernorm, 1, 160);
    check_same(c, "model.layers.1.self_attn.q_a_proj.weight", &b->q_a_proj, 20, 160);
    check_same(c, "model.layers.1.self_attn.q_a_layernorm.weight", &b->q_a_layernorm, 1, 20);
    check_same(c, "model.layers.1.self_attn.kv_a_proj_with_mqa.weight", &b->kv_a_proj, 268, 160);
    check_same(c, "model.layers.1.self_attn.kv_a_layernorm.weight", &b->kv_a_layernorm, 1, 264);
    check_same(c, "model.layers.1.self_attn.kv_b_proj.weight", &b->kv_b_proj, 152, 264);
    check_same(c, "model.layers.1.self_attn.o_proj.weight", &b->o_proj, 160, 12);
    check_same(c, "model.layers.1.mlp.gate.weight", &b->router, 4, 160);
    check_same(c, "model.layers.1.mlp.shared_experts.up_proj.weight", &b->mlp.up, 48, 160);
    check_same(c, "model.layers.1.mlp.shared_experts.gate_proj.weight", &b->mlp.gate, 48, 160);
    check_same(c, "model.layers.1.mlp.experts.0.gate_proj.weight", &b->expert_gate[0], 24, 160);
    check_same(c, "model.layers.1.mlp.experts.3.up_proj.weight", &b->expert_up[3], 24, 160);
    check_same(c, "model.layers.1.mlp.experts.2.down_proj.weight", &b->expert_down[2], 160, 24);
    assert_memory_equal(b->router_bias, find(c, "model.layers.1.mlp.gate.e_score_correction_bias")->data, 16);
}

static void good_checkpoints_are_placed(void **state)
{
    (void)state;
    proa_pool *pool = proa_pool_create(2);
    for (int fp8 = 0; fp8 < 2; fp8++) {
        checkpoint *c = make(fp8, PROA_DTYPE_F32);
        proa_model_config config = read_config(fp8 ? FP8 : "");
        for (int form = 0; form < 4; form++) {
            proa_precision precision = form & 1 ? PROA_PRECISION_EXACT : PROA_PRECISION_DEFAULT;
            if (form & 2)
                write_single(c);
            else
                write_sharded(c);
            proa_checkpoint *loaded = load(&config, precision, form & 1 ? NULL : pool);
            const proa_weights *w = proa_checkpoint_weights(loaded);
            check_places(c, w);
            check_absorbed(&config, w, precision);
            if (fp8) {
                const proa_weight *o = &w->layers[1].o_proj;
                assert_int_equal(o->block_n, 128);
                assert_memory_equal(o->scale,
                                    find(c, "model.layers.1.self_attn.o_proj.weight_scale_inv")->data, 8);
            }
            proa_checkpoint_free(loaded);
        }
        discard(c);
    }
    proa_pool_free(pool);
}

/* What a file may hold besides the usual: BF16 matrices in an FP8 checkpoint, F32 norms, BF16 biases, E8M0 scales, an
 * old buffer, no MTP layer, a head beside tied embeddings, no head with tied embeddings. */
static void unusual_types_are_placed(void **state)
{
    (void)state;
    checkpoint *c = make(true, PROA_DTYPE_E8M0);
    proa_model_config config = read_config(FP8);
    drop(c, "model.layers.0.self_attn.kv_b_proj.weight");
    drop(c, "model.layers.0.self_attn.kv_b_proj.weight_scale_inv");
    add(c, "model.layers.0.self_attn.kv_b_proj.weight", PROA_DTYPE_BF16, 152, 264, false);
    drop(c, "model.layers.1.self_attn.o_proj.weight");
    drop(c, "model.layers.1.self_attn.o_proj.weight_scale_inv");
    add(c, "model.layers.1.self_attn.o_proj.weight", PROA_DTYPE_F32, 160, 12, false);
    drop(c, "model.norm.weight");
    add(c, "model.norm.weight", PROA_DTYPE_F32, 0, 160, false);
    drop(c, "model.layers.1.mlp.gate.weight");
    add(c, "model.layers.1.mlp.gate.weight", PROA_DTYPE_F32, 4, 160, false);
    drop(c, "model.layers.1.mlp.gate.e_score_correction_bias");
    add(c, "model.layers.1.mlp.gate.e_score_correction_bias", PROA_DTYPE_BF16, 0, 4, false);
    add(c, "model.layers.0.self_attn.rotary_emb.inv_freq", PROA_DTYPE_F32, 0, 2, false);
    write_sharded(c);
    proa_checkpoint *loaded = load(&config, PROA_PRECISION_EXACT, NULL);
    const proa_weights *w = proa_checkpoint_weights(loaded);
    check_absorbed(&config, w, PROA_PRECISION_EXACT);
    assert_int_equal(w->layers[1].o_proj.dtype, PROA_DTYPE_F32);
    assert_int_equal(w->norm.dtype, PROA_DTYPE_F32);
    const uint16_t *bias = find(c, "model.layers.1.mlp.gate.e_score_correction_bias")->data;
    for (int i = 0; i < 4; i++)
        assert_float_equal(w->layers[1].router_bias[i], proa_bf16_to_f32(bias[i]), 0);
    assert_int_equal(w->layers[0].o_proj.dtype, PROA_DTYPE_E4M3); /* scales 2^(120-127), 2^(121-127) */
    assert_float_equal(w->layers[0].o_proj.scale[0], 0x1p-7f, 0);
    assert_float_equal(w->layers[0].o_proj.scale[1], 0x1p-6f, 0);
    proa_checkpoint_free(loaded);

    config = read_config(FP8 ",\"tie_word_embeddings\":true");
    for (int with_head = 1; with_head >= 0; with_head--) {
        if (!with_head)
            drop(c, "lm_head.weight");
        write_single(c);
        loaded = load(&config, PROA_PRECISION_DEFAULT, NULL);
        w = proa_checkpoint_weights(loaded);
        assert_ptr_equal(w->lm_head.data, w->embed_tokens.data);
        proa_checkpoint_free(loaded);
    }
    discard(c);
}

/* A header one byte longer puts every tensor on an odd address. */
static void unaligned_tensors_are_copied(void **state)
{
    (void)state;
    checkpoint *c = make(true, PROA_DTYPE_F32);
    write_single(c);
    proa_map map;
    assert_int_equal(proa_map_open(path_of("model.safetensors"), &map, NULL), PROA_OK);
    uint64_t length;
    memcpy(&length, map.data, 8);
    proa_buf text = {0};
    uint64_t longer = length + 1;
    proa_buf_append(&text, &longer, 8);
    proa_buf_append(&text, map.data + 8, length);
    proa_buf_append_char(&text, ' ');
    proa_buf_append(&text, map.data + 8 + length, map.bytes - 8 - length);
    proa_map_close(&map);
    assert_int_equal(proa_file_write(path_of("model.safetensors"), text.data, text.length, NULL), PROA_OK);
    proa_buf_free(&text);
    proa_model_config config = read_config(FP8);
    proa_checkpoint *loaded = load(&config, PROA_PRECISION_DEFAULT, NULL);
    check_places(c, proa_checkpoint_weights(loaded));
    check_absorbed(&config, proa_checkpoint_weights(loaded), PROA_PRECISION_DEFAULT);
    assert_int_equal((uintptr_t)proa_checkpoint_weights(loaded)->layers[1].o_proj.scale % 4, 0);
    proa_checkpoint_free(loaded);
    discard(c);
}

/* A broken checkpoint: what is taken out, what is put in instead, and the words of the message. */
static const struct {
    bool fp8;
    const char *drop; /* NULL: nothing */
    const char *add;  /* NULL: nothing */
    proa_dtype dtype;
    int32_t n;
    int32_t k;
    const char *says;
} broken[] = {
    {false, "model.embed_tokens.weight", NULL, 0, 0, 0, "1 missing: model.embed_tokens.weight"},
    {false, "lm_head.weight", NULL, 0, 0, 0, "1 missing: lm_head.weight"},
    {false, "model.layers.1.mlp.experts.3.up_proj.weight", NULL, 0, 0, 0,
     "1 missing: model.layers.1.mlp.experts.3.up"},
    {false, "model.layers.1.mlp.gate.e_score_correction_bias", NULL, 0, 0, 0,
     "1 missing: model.layers.1.mlp.gate.e_"},
    {false, NULL, "model.layers.0.self_attn.q_a_proj.bias", PROA_DTYPE_BF16, 0, 20,
     "1 unexpected: model.layers.0.self_attn.q_a_proj.bias"},
    {false, NULL, "model.layers.3.input_layernorm.weight", PROA_DTYPE_BF16, 0, 160,
     "1 unexpected: model.layers.3."},
    {false, NULL, "model.layers.1.mlp.experts.4.up_proj.weight", PROA_DTYPE_BF16, 24, 160, "1 unexpected: "},
    {false, "model.layers.0.self_attn.o_proj.weight", "model.layers.0.self_attn.o_proj.weight",
     PROA_DTYPE_BF16, 12, 160,
     "1 wrong: model.layers.0.self_attn.o_proj.weight is BF16 [12, 160], config.json implies BF16 or F32 "
     "[160, 12]"},
    {false, "model.norm.weight", "model.norm.weight", PROA_DTYPE_BF16, 1, 160,
     "model.norm.weight is BF16 [1, 160], config.json implies BF16 or F32 [160]"},
    {false, "model.norm.weight", "model.norm.weight", PROA_DTYPE_U8, 0, 160, "model.norm.weight is U8 [160]"},
    {false, "model.layers.0.self_attn.o_proj.weight", "model.layers.0.self_attn.o_proj.weight",
     PROA_DTYPE_E4M3, 160, 12, "is F8_E4M3 [160, 12], config.json implies BF16 or F32 [160, 12]"},
    {true, "lm_head.weight", "lm_head.weight", PROA_DTYPE_E4M3, 32, 160, "lm_head.weight is F8_E4M3"},
    {true, "model.layers.0.self_attn.o_proj.weight", "model.layers.0.self_attn.o_proj.weight", PROA_DTYPE_I64,
     160, 12, "is I64 [160, 12], config.json implies F8_E4M3, BF16 or F32 [160, 12]"},
    {true, "model.layers.0.self_attn.o_proj.weight_scale_inv", NULL, 0, 0, 0,
     "1 missing: model.layers.0.self_attn.o_proj.weight_scale_inv"},
    {true, "model.layers.0.self_attn.o_proj.weight", NULL, 0, 0, 0,
     "1 missing: model.layers.0.self_attn.o_proj.weight; 1 unexpected: "
     "model.layers.0.self_attn.o_proj.weight_scale_inv "
     "(its weight is absent or not FP8)"},
    {true, "model.layers.0.self_attn.o_proj.weight", "model.layers.0.self_attn.o_proj.weight",
     PROA_DTYPE_BF16, 160, 12,
     "1 unexpected: model.layers.0.self_attn.o_proj.weight_scale_inv (its weight is absent or not FP8)"},
    {true, "model.layers.0.self_attn.o_proj.weight_scale_inv",
     "model.layers.0.self_attn.o_proj.weight_scale_inv", PROA_DTYPE_F32, 1, 2,
     "weight_scale_inv is F32 [1, 2], config.json implies F32 or F8_E8M0 [2, 1]"},
    {true, "model.layers.0.self_attn.o_proj.weight_scale_inv",
     "model.layers.0.self_attn.o_proj.weight_scale_inv", PROA_DTYPE_BF16, 2, 1,
     "weight_scale_inv is BF16 [2, 1]"},
    {false, "model.layers.1.mlp.experts.2.up_proj.weight", "model.layers.1.mlp.experts.2.up_proj.weight",
     PROA_DTYPE_F32, 24, 160,
     "experts.2.up_proj.weight is F32, but model.layers.1.mlp.experts.0.up_proj.weight is BF16: the experts "
     "of a"},
    {false, "model.layers.2.eh_proj.weight", "model.layers.2.eh_proj.weight", PROA_DTYPE_BF16, 160, 160,
     "model.layers.2.eh_proj.weight is BF16 [160, 160], config.json implies BF16 or F32 [160, 320]"},
};

static void broken_checkpoints_are_explained(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof broken / sizeof broken[0]; i++) {
        checkpoint *c = make(broken[i].fp8, PROA_DTYPE_F32);
        if (broken[i].drop != NULL)
            drop(c, broken[i].drop);
        if (broken[i].add != NULL)
            add(c, broken[i].add, broken[i].dtype, broken[i].n, broken[i].k, false);
        write_sharded(c);
        proa_model_config config = read_config(broken[i].fp8 ? FP8 : "");
        proa_checkpoint *loaded;
        proa_error err = {0};
        proa_status status = proa_checkpoint_load(folder, PROA_LOAD_AUTO, &config, PROA_PRECISION_DEFAULT,
                                                  NULL, &loaded, &err);
        if (status != PROA_ERR_CORRUPT || strstr(err.text, broken[i].says) == NULL ||
            strstr(err.text, folder) == NULL || strstr(err.text, "same published model") == NULL)
            fail_msg("case %zu: \"%s\" lacks \"%s\"", i, err.text, broken[i].says);
        assert_null(loaded);
        discard(c);
    }
}

static void expect_failure(proa_status status, const char *says)
{
    proa_model_config config = read_config("");
    proa_checkpoint *loaded;
    proa_error err = {0};
    proa_status found =
        proa_checkpoint_load(folder, PROA_LOAD_AUTO, &config, PROA_PRECISION_DEFAULT, NULL, &loaded, &err);
    if (found != status || strstr(err.text, says) == NULL)
        fail_msg("status %d, \"%s\" lacks \"%s\"", found, err.text, says);
    assert_non_null(strstr(err.text, folder));
}

static void put(const char *name, const char *text)
{
    assert_int_equal(proa_file_write(path_of(name), text, strlen(text), NULL), PROA_OK);
}

static void files_that_fail_are_named(void **state)
{
    (void)state;
    checkpoint *c = make(false, PROA_DTYPE_F32);
    clean();
    expect_failure(PROA_ERR_NOT_FOUND, "holds neither model.safetensors.index.json nor model.safetensors");
    write_sharded(c);
    unlink(path_of(shard_names[1]));
    expect_failure(PROA_ERR_NOT_FOUND, "shard model-00002-of-00002.safetensors is missing");
    unlink(path_of(shard_names[0]));
    expect_failure(PROA_ERR_NOT_FOUND, "2 problems: (1) shard model-00001-of-00002.safetensors is missing");
    mkdir(path_of(shard_names[0]), 0755);
    expect_failure(PROA_ERR_INVALID, "model-00001-of-00002.safetensors is not a regular file");
    write_sharded(c);
    put(shard_names[1], "short");
    expect_failure(PROA_ERR_CORRUPT, "model-00002-of-00002.safetensors: 5 bytes are too few");
    write_sharded(c);
    c->second[0] = true; /* the index puts embed_tokens into the second shard, where it is not */
    write_index(c);
    expect_failure(PROA_ERR_CORRUPT,
                   "tensor model.embed_tokens.weight is not in model-00002-of-00002.safetensors");
    put(INDEX, "{");
    expect_failure(PROA_ERR_INVALID, "index.json: not valid JSON");
    put(INDEX, "{\"weight_map\":{}}");
    expect_failure(PROA_ERR_CORRUPT, "\"weight_map\" is missing, empty");
    put(INDEX, "[]");
    expect_failure(PROA_ERR_CORRUPT, "\"weight_map\" is missing, empty");
    static const char *const escapes[] = {"../x", "/etc/passwd", "", ".."};
    for (size_t i = 0; i < 4; i++) {
        char text[100];
        snprintf(text, sizeof text, "{\"weight_map\":{\"a\":\"%s\"}}", escapes[i]);
        put(INDEX, text);
        expect_failure(PROA_ERR_CORRUPT, "must be a file name in the same folder");
    }
    put(INDEX, "{\"weight_map\":{\"a\":7}}");
    expect_failure(PROA_ERR_CORRUPT, "(not a string)");
    clean();
    mkdir(path_of(INDEX), 0755);
    expect_failure(PROA_ERR_IO, "index.json: Is a directory");
    discard(c);
}

/* Redirects standard error into `text` while the load fails. */
static void load_logging(const proa_model_config *config, char *text, size_t size, proa_error *err)
{
    fflush(stderr);
    FILE *log = tmpfile();
    int saved = dup(STDERR_FILENO);
    dup2(fileno(log), STDERR_FILENO);
    proa_checkpoint *loaded;
    proa_checkpoint_load(folder, PROA_LOAD_AUTO, config, PROA_PRECISION_DEFAULT, NULL, &loaded, err);
    dup2(saved, STDERR_FILENO);
    close(saved);
    rewind(log);
    text[fread(text, 1, size - 1, log)] = '\0';
    fclose(log);
}

static void long_lists_are_logged_to_twenty(void **state)
{
    (void)state;
    checkpoint *c = make(true, PROA_DTYPE_F32); /* an FP8 checkpoint with a bf16 configuration */
    write_single(c);
    proa_model_config config = read_config("");
    static char text[65536];
    proa_error err = {0};
    load_logging(&config, text, sizeof text, &err);
    assert_non_null(strstr(err.text, "32 unexpected: "));
    assert_non_null(strstr(err.text, "32 wrong: "));
    assert_non_null(strstr(err.text, ", ..."));
    int unexpected = 0, wrong = 0;
    for (const char *at = text; (at = strstr(at, "unexpected: model.")) != NULL; at++)
        unexpected++;
    for (const char *at = text; (at = strstr(at, "wrong: model.")) != NULL; at++)
        wrong++;
    assert_int_equal(unexpected, 20);
    assert_int_equal(wrong, 20);
    discard(c);
}

static void a_wrapper_s_prefix_is_taken_off(void **state)
{
    (void)state;
    checkpoint *c = make(false, PROA_DTYPE_F32), *wrapped = calloc(1, sizeof *wrapped);
    add(wrapped, "vision_tower.patch_embed.weight", PROA_DTYPE_BF16, 4, 4, false);
    for (size_t i = 0; i < c->count; i++) {
        wrapped->tensors[wrapped->count] = c->tensors[i];
        snprintf(wrapped->names[wrapped->count], sizeof wrapped->names[0], "language_model.%.100s",
                 c->names[i]);
        wrapped->tensors[wrapped->count].name = wrapped->names[wrapped->count];
        wrapped->count++;
    }
    write_single(wrapped);
    proa_model_config config = read_config("");
    proa_checkpoint *loaded = load(&config, PROA_PRECISION_DEFAULT, NULL);
    check_places(c, proa_checkpoint_weights(loaded));
    proa_checkpoint_free(loaded);
    free((void *)(uintptr_t)wrapped->tensors[0].data);
    free(wrapped);
    discard(c);
}

static proa_checkpoint *make_dummy(const proa_model_config *config, proa_pool *pool)
{
    proa_checkpoint *loaded;
    proa_error err = {0};
    if (proa_checkpoint_load("/nonexistent", PROA_LOAD_DUMMY, config, PROA_PRECISION_DEFAULT, pool, &loaded,
                             &err) != PROA_OK)
        fail_msg("%s", err.text);
    return loaded;
}

/* Mean and deviation of a weight, all of it finite. */
static void check_spread(const proa_weight *w, double mean, double deviation)
{
    double sum = 0, squares = 0, count = (double)w->n * w->k;
    for (int32_t i = 0; i < w->n; i++) {
        for (int32_t j = 0; j < w->k; j++) {
            double value = element(w, i, j);
            assert_true(isfinite(value));
            sum += value;
            squares += value * value;
        }
    }
    double found = sqrt(squares / count - sum / count * sum / count);
    if (fabs(sum / count - mean) > 5 * deviation / sqrt(count) + 0.01 || fabs(found / deviation - 1) > 0.35)
        fail_msg("mean %g, deviation %g: not %g, %g", sum / count, found, mean, deviation);
}

static void dummies_are_reproducible(void **state)
{
    (void)state;
    static const char *const forms[] = {
        "", FP8, ",\"tie_word_embeddings\":true",
        ",\"quantization_config\":{\"quant_method\":\"fp8\",\"scale_fmt\":\"ue8m0\"}"};
    proa_pool *pool = proa_pool_create(3);
    for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++) {
        proa_model_config config = read_config(forms[i]);
        proa_checkpoint *one = make_dummy(&config, NULL), *other = make_dummy(&config, pool);
        const proa_weights *a = proa_checkpoint_weights(one), *b = proa_checkpoint_weights(other);
        const proa_layer_weights *p = &a->layers[1], *q = &b->layers[1];
        assert_memory_equal(p->expert_up[2].data, q->expert_up[2].data, 24 * 160);
        assert_memory_not_equal(p->expert_up[2].data, p->expert_up[1].data, 24 * 160);
        assert_memory_equal(p->w_uk, q->w_uk, 2 * 2 * 264 * 70);
        check_absorbed(&config, a, PROA_PRECISION_DEFAULT);
        check_spread(&a->embed_tokens, 0, 1);
        check_spread(&p->expert_down[0], 0, 1 / sqrt(24));
        check_spread(&p->router, 0, 1 / sqrt(160));
        check_spread(&a->norm, 1, 0.1 / sqrt(3));
        check_spread(&p->q_a_proj, 0, 1 / sqrt(160));
        assert_int_equal(p->q_a_proj.dtype, config.fp8 ? PROA_DTYPE_E4M3 : PROA_DTYPE_BF16);
        for (int e = 0; e < 4; e++)
            assert_true(fabsf(p->router_bias[e]) <= 0.05f);
        int exponent;
        if (config.ue8m0)
            assert_float_equal(frexpf(p->q_a_proj.scale[0], &exponent), 0.5, 0);
        if (config.tie_word_embeddings)
            assert_ptr_equal(a->lm_head.data, a->embed_tokens.data);
        proa_checkpoint_free(one);
        proa_checkpoint_free(other);
    }
    proa_pool_free(pool);
}

static void oversized_dummies_are_refused(void **state)
{
    (void)state;
    static const struct {
        int32_t layers, width, experts;
    } cases[] = {
        {1000, 1 << 17, 4}, {64, 1 << 20, 1024}, /* refused before all of it is counted */
    };
    for (size_t i = 0; i < 2; i++) {
        proa_model_config config = read_config("");
        config.num_hidden_layers = cases[i].layers;
        config.intermediate_size = config.hidden_size = config.moe_intermediate_size = cases[i].width;
        config.n_routed_experts = cases[i].experts;
        proa_checkpoint *loaded;
        proa_error err = {0};
        proa_status status =
            proa_checkpoint_load("/x", PROA_LOAD_DUMMY, &config, PROA_PRECISION_DEFAULT, NULL, &loaded, &err);
        assert_int_equal(status, PROA_ERR_MEMORY);
        assert_non_null(strstr(err.text, "num_hidden_layers"));
    }
}

static void published_checkpoints_are_read(void **state)
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
        for (int exact = 0; exact < 2; exact++) {
            proa_precision precision = exact ? PROA_PRECISION_EXACT : PROA_PRECISION_DEFAULT;
            proa_model_config config;
            proa_checkpoint *loaded = NULL;
            proa_error err = {0};
            if (proa_model_config_load(path, &config, &err) != PROA_OK ||
                proa_checkpoint_load(path, PROA_LOAD_AUTO, &config, precision, NULL, &loaded, &err) !=
                    PROA_OK)
                fail_msg("%s", err.text);
            const proa_weights *w = proa_checkpoint_weights(loaded);
            check_absorbed(&config, w, precision);
            assert_int_equal(w->layer_count, config.num_hidden_layers);
            assert_int_equal(w->layers[w->layer_count - 1].expert_down[3].dtype,
                             config.fp8 ? PROA_DTYPE_E4M3 : PROA_DTYPE_BF16);
            proa_checkpoint_free(loaded);
        }
    }
}

static int make_folder(void **state)
{
    (void)state;
    return mkdtemp(folder) == NULL;
}

static int remove_folder(void **state)
{
    (void)state;
    clean();
    return rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(good_checkpoints_are_placed),     cmocka_unit_test(unusual_types_are_placed),
        cmocka_unit_test(unaligned_tensors_are_copied),    cmocka_unit_test(broken_checkpoints_are_explained),
        cmocka_unit_test(files_that_fail_are_named),       cmocka_unit_test(long_lists_are_logged_to_twenty),
        cmocka_unit_test(a_wrapper_s_prefix_is_taken_off), cmocka_unit_test(dummies_are_reproducible),
        cmocka_unit_test(oversized_dummies_are_refused),   cmocka_unit_test(published_checkpoints_are_read),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
