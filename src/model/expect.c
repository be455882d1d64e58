/* expect.c - one table of a layer's tensors, and the walk over all layers.
 *
 * Expert e of layer i is model.layers.i.mlp.experts.e.{gate,up,down}_proj.weight. An MTP layer is an ordinary layer
 * with six tensors more; it is recognised and goes nowhere yet.
 */
#include "model/expect.h"

#include <stddef.h>
#include <stdio.h>

typedef enum dim {
    DIM_ONE,
    DIM_HIDDEN,
    DIM_TWICE_HIDDEN,
    DIM_VOCAB,
    DIM_Q,       /* heads * (nope + rope) */
    DIM_Q_LORA,  /* q_lora_rank */
    DIM_KV_A,    /* kv_lora_rank + rope */
    DIM_KV_LORA, /* kv_lora_rank */
    DIM_KV_B,    /* heads * (nope + v) */
    DIM_O,       /* heads * v */
    DIM_DENSE,   /* intermediate_size */
    DIM_SHARED,  /* n_shared_experts * moe_intermediate_size */
    DIM_EXPERT,  /* moe_intermediate_size */
    DIM_EXPERTS, /* n_routed_experts */
} dim;

static int32_t dim_size(const proa_model_config *c, dim d)
{
    switch (d) {
    case DIM_ONE: return 1;
    case DIM_HIDDEN: return c->hidden_size;
    case DIM_TWICE_HIDDEN: return 2 * c->hidden_size;
    case DIM_VOCAB: return c->vocab_size;
    case DIM_Q: return c->num_attention_heads * (c->qk_nope_head_dim + c->qk_rope_head_dim);
    case DIM_Q_LORA: return c->q_lora_rank;
    case DIM_KV_A: return c->kv_lora_rank + c->qk_rope_head_dim;
    case DIM_KV_LORA: return c->kv_lora_rank;
    case DIM_KV_B: return c->num_attention_heads * (c->qk_nope_head_dim + c->v_head_dim);
    case DIM_O: return c->num_attention_heads * c->v_head_dim;
    case DIM_DENSE: return c->intermediate_size;
    case DIM_SHARED: return c->n_shared_experts * c->moe_intermediate_size;
    case DIM_EXPERT: return c->moe_intermediate_size;
    case DIM_EXPERTS: return c->n_routed_experts;
    }
    return 0;
}

typedef enum when { ALWAYS, Q_LORA, NO_Q_LORA, DENSE, MOE, SHARED } when;

typedef struct row {
    const char *suffix; /* after "model.layers.3." */
    proa_expect_kind kind;
    dim n;
    dim k;
    when when;
    size_t place; /* in proa_layer_weights */
} row;

#define AT(member) offsetof(proa_layer_weights, member)

static const row layer_rows[] = {
    {"input_layernorm.weight", PROA_EXPECT_NORM, DIM_ONE, DIM_HIDDEN, ALWAYS, AT(input_layernorm)},
    {"self_attn.q_proj.weight", PROA_EXPECT_MATRIX, DIM_Q, DIM_HIDDEN, NO_Q_LORA, AT(q_proj)},
    {"self_attn.q_a_proj.weight", PROA_EXPECT_MATRIX, DIM_Q_LORA, DIM_HIDDEN, Q_LORA, AT(q_a_proj)},
    {"self_attn.q_a_layernorm.weight", PROA_EXPECT_NORM, DIM_ONE, DIM_Q_LORA, Q_LORA, AT(q_a_layernorm)},
    {"self_attn.q_b_proj.weight", PROA_EXPECT_MATRIX, DIM_Q, DIM_Q_LORA, Q_LORA, AT(q_b_proj)},
    {"self_attn.kv_a_proj_with_mqa.weight", PROA_EXPECT_MATRIX, DIM_KV_A, DIM_HIDDEN, ALWAYS, AT(kv_a_proj)},
    {"self_attn.kv_a_layernorm.weight", PROA_EXPECT_NORM, DIM_ONE, DIM_KV_LORA, ALWAYS, AT(kv_a_layernorm)},
    {"self_attn.kv_b_proj.weight", PROA_EXPECT_MATRIX, DIM_KV_B, DIM_KV_LORA, ALWAYS, AT(kv_b_proj)},
    {"self_attn.o_proj.weight", PROA_EXPECT_MATRIX, DIM_HIDDEN, DIM_O, ALWAYS, AT(o_proj)},
    {"post_attention_layernorm.weight", PROA_EXPECT_NORM, DIM_ONE, DIM_HIDDEN, ALWAYS,
     AT(post_attention_layernorm)},
    {"mlp.gate_proj.weight", PROA_EXPECT_MATRIX, DIM_DENSE, DIM_HIDDEN, DENSE, AT(mlp.gate)},
    {"mlp.up_proj.weight", PROA_EXPECT_MATRIX, DIM_DENSE, DIM_HIDDEN, DENSE, AT(mlp.up)},
    {"mlp.down_proj.weight", PROA_EXPECT_MATRIX, DIM_HIDDEN, DIM_DENSE, DENSE, AT(mlp.down)},
    {"mlp.gate.weight", PROA_EXPECT_TABLE, DIM_EXPERTS, DIM_HIDDEN, MOE, AT(router)},
    {"mlp.gate.e_score_correction_bias", PROA_EXPECT_BIAS, DIM_ONE, DIM_EXPERTS, MOE, AT(router_bias)},
    {"mlp.shared_experts.gate_proj.weight", PROA_EXPECT_MATRIX, DIM_SHARED, DIM_HIDDEN, SHARED, AT(mlp.gate)},
    {"mlp.shared_experts.up_proj.weight", PROA_EXPECT_MATRIX, DIM_SHARED, DIM_HIDDEN, SHARED, AT(mlp.up)},
    {"mlp.shared_experts.down_proj.weight", PROA_EXPECT_MATRIX, DIM_HIDDEN, DIM_SHARED, SHARED, AT(mlp.down)},
};

static const row expert_rows[] = {
    {"gate_proj", PROA_EXPECT_MATRIX, DIM_EXPERT, DIM_HIDDEN, MOE, 0},
    {"up_proj", PROA_EXPECT_MATRIX, DIM_EXPERT, DIM_HIDDEN, MOE, 0},
    {"down_proj", PROA_EXPECT_MATRIX, DIM_HIDDEN, DIM_EXPERT, MOE, 0},
};

static const row mtp_rows[] = {
    {"embed_tokens.weight", PROA_EXPECT_TABLE, DIM_VOCAB, DIM_HIDDEN, ALWAYS, 0},
    {"enorm.weight", PROA_EXPECT_NORM, DIM_ONE, DIM_HIDDEN, ALWAYS, 0},
    {"hnorm.weight", PROA_EXPECT_NORM, DIM_ONE, DIM_HIDDEN, ALWAYS, 0},
    {"eh_proj.weight", PROA_EXPECT_MATRIX, DIM_HIDDEN, DIM_TWICE_HIDDEN, ALWAYS, 0},
    {"shared_head.norm.weight", PROA_EXPECT_NORM, DIM_ONE, DIM_HIDDEN, ALWAYS, 0},
    {"shared_head.head.weight", PROA_EXPECT_TABLE, DIM_VOCAB, DIM_HIDDEN, ALWAYS, 0},
};

enum {
    LAYER_ROWS = sizeof layer_rows / sizeof layer_rows[0],
    EXPERT_ROWS = sizeof expert_rows / sizeof expert_rows[0],
    MTP_ROWS = sizeof mtp_rows / sizeof mtp_rows[0],
    NAME_BYTES = 128,
};

typedef struct walk {
    const proa_model_config *config;
    const proa_expect_places *places;
    proa_expect_visit visit;
    void *context;
} walk;

static proa_expect from_row(const walk *w, const row *r, const char *name)
{
    return (proa_expect){
        .name = name, .kind = r->kind, .n = dim_size(w->config, r->n), .k = dim_size(w->config, r->k)};
}

static bool applies(const proa_model_config *c, when condition, bool moe)
{
    switch (condition) {
    case ALWAYS: return true;
    case Q_LORA: return c->q_lora_rank > 0;
    case NO_Q_LORA: return c->q_lora_rank == 0;
    case DENSE: return !moe;
    case MOE: return moe;
    case SHARED: return moe && c->n_shared_experts > 0;
    }
    return false;
}

static void walk_experts(const walk *w, int32_t index, bool served)
{
    char name[NAME_BYTES], first[NAME_BYTES];
    int32_t experts = w->config->n_routed_experts;
    for (int32_t e = 0; e < experts; e++) {
        for (int32_t r = 0; r < EXPERT_ROWS; r++) {
            snprintf(name, sizeof name, "model.layers.%d.mlp.experts.%d.%s.weight", index, e,
                     expert_rows[r].suffix);
            snprintf(first, sizeof first, "model.layers.%d.mlp.experts.0.%s.weight", index,
                     expert_rows[r].suffix);
            proa_expect expect = from_row(w, &expert_rows[r], name);
            expect.like = first;
            expect.required = served;
            if (served)
                expect.weight = w->places->experts + ((size_t)index * EXPERT_ROWS + (size_t)r) * experts + e;
            w->visit(w->context, &expect);
        }
    }
}

/* One layer; an MTP layer is not served. */
static void walk_layer(const walk *w, int32_t index, bool served)
{
    char name[NAME_BYTES];
    bool moe = proa_model_config_is_moe(w->config, index);
    for (int32_t r = 0; r < LAYER_ROWS; r++) {
        if (!applies(w->config, layer_rows[r].when, moe))
            continue;
        snprintf(name, sizeof name, "model.layers.%d.%s", index, layer_rows[r].suffix);
        proa_expect expect = from_row(w, &layer_rows[r], name);
        expect.required = served;
        void *place = served ? (char *)&w->places->layers[index] + layer_rows[r].place : NULL;
        if (expect.kind == PROA_EXPECT_BIAS)
            expect.bias = place;
        else
            expect.weight = place;
        w->visit(w->context, &expect);
    }
    if (moe)
        walk_experts(w, index, served);
}

void proa_expect_walk(const proa_model_config *config, const proa_expect_places *places,
                      proa_expect_visit visit, void *context)
{
    walk w = {config, places, visit, context};
    proa_expect table = {.name = "model.embed_tokens.weight",
                         .kind = PROA_EXPECT_TABLE,
                         .n = config->vocab_size,
                         .k = config->hidden_size,
                         .required = true,
                         .weight = &places->weights->embed_tokens};
    visit(context, &table);
    for (int32_t i = 0; i < config->num_hidden_layers; i++)
        walk_layer(&w, i, true);
    proa_expect norm = {.name = "model.norm.weight",
                        .kind = PROA_EXPECT_NORM,
                        .n = 1,
                        .k = config->hidden_size,
                        .required = true,
                        .weight = &places->weights->norm};
    visit(context, &norm);
    bool tied = config->tie_word_embeddings;
    table.name = "lm_head.weight";
    table.required = !tied;
    table.weight = tied ? NULL : &places->weights->lm_head;
    visit(context, &table);
    for (int32_t i = 0; i < config->num_nextn_predict_layers; i++) {
        int32_t index = config->num_hidden_layers + i;
        char name[NAME_BYTES];
        walk_layer(&w, index, false);
        for (int32_t r = 0; r < MTP_ROWS; r++) {
            snprintf(name, sizeof name, "model.layers.%d.%s", index, mtp_rows[r].suffix);
            proa_expect expect = from_row(&w, &mtp_rows[r], name);
            visit(context, &expect);
        }
    }
}

const char *proa_expect_scale_name(const char *name, char text[160])
{
    snprintf(text, 160, "%s_scale_inv", name);
    return text;
}
