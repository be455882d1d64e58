/* expect.h - the tensors that a configuration implies: names, shapes, kinds, and where each goes.
 *
 * One walk serves the checks, the placement and the dummy weights. Order: embed_tokens, the layers, norm, lm_head, the
 * MTP layers.
 */
#ifndef PROA_MODEL_EXPECT_H
#define PROA_MODEL_EXPECT_H

#include "model/weights.h"

typedef enum proa_expect_kind {
    PROA_EXPECT_MATRIX, /* of a linear layer: FP8 with scales in an FP8 checkpoint; BF16 or F32 anywhere */
    PROA_EXPECT_TABLE,  /* embedding, output head, router: BF16 or F32, never FP8 */
    PROA_EXPECT_NORM,   /* one-dimensional; BF16 or F32 */
    PROA_EXPECT_BIAS,   /* e_score_correction_bias: one-dimensional; F32, or BF16 that becomes F32 */
} proa_expect_kind;

typedef struct proa_expect {
    const char *name; /* valid during the visit */
    proa_expect_kind kind;
    int32_t n; /* 1 for the one-dimensional kinds */
    int32_t k;
    const char *like; /* NULL, or the name of a tensor whose type this one must have: expert 0's */
    bool required; /* false: may be absent (an MTP layer, the head of a tied model), is checked when there */
    proa_weight *weight; /* where it goes; NULL: nowhere, or `bias` */
    const float **bias;
} proa_expect;

/* The places that the walk hands out: weights->layers [num_hidden_layers] and experts [num_hidden_layers][3][experts]
 * (gate, up, down), all allocated by the caller. */
typedef struct proa_expect_places {
    proa_weights *weights;
    proa_layer_weights *layers;
    proa_weight *experts;
} proa_expect_places;

typedef void (*proa_expect_visit)(void *context, const proa_expect *expect);

void proa_expect_walk(const proa_model_config *config, const proa_expect_places *places,
                      proa_expect_visit visit, void *context);

/* The name of an FP8 matrix's scales, written to `text`; its shape is [ceil(n / block_n), ceil(k / block_k)]. */
const char *proa_expect_scale_name(const char *name, char text[160]);

#endif
