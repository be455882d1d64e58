/* router.h - which experts each token goes to (noaux_tc), and the sorting of the slots by expert.
 *
 * s = sigmoid(logits); c = s + bias (choice only); a group's score is the sum of its two best c; the topk_group
 * best groups stay, the others count as -inf (not 0); the top_k best c of those are chosen, in descending order of
 * c, ties to the lower index; weight = s / (sum of the chosen s + 1e-20 if norm_topk_prob) * routed_scaling_factor.
 * n_group = 1 means no groups. Pinned by golden/ops.safetensors router.v3.* and router.k2.*.
 */
#ifndef PROA_OP_ROUTER_ROUTER_H
#define PROA_OP_ROUTER_ROUTER_H

#include "op/tensor.h"

enum { PROA_ROUTER_MAX_EXPERTS = 1024, PROA_ROUTER_MAX_TOP_K = 32 };

typedef struct proa_router_args {
    int32_t rows;
    int32_t experts;
    int32_t n_group;
    int32_t topk_group;
    int32_t top_k;
    bool norm_topk_prob;
    double routed_scaling_factor;
    const float *logits; /* [rows, experts] */
    const float *bias;   /* [experts] float32, or NULL */
    int32_t *ids;        /* [rows, top_k] */
    float *weights;      /* [rows, top_k] */
} proa_router_args;

void proa_router_ref(const proa_host *host, const proa_router_args *args);
void proa_router_cpu(const proa_host *host, const proa_router_args *args);

/* Stable counting sort of the rows * top_k slots by expert.
 * offsets [experts + 1]; order [rows * top_k]: sorted place -> slot (row * top_k + k);
 * row_index [rows * top_k]: sorted place -> row; place [rows * top_k]: slot -> sorted place. */
void proa_router_sort(int32_t rows, int32_t top_k, int32_t experts, const int32_t *ids, int32_t *offsets,
                      int32_t *order, int32_t *row_index, int32_t *place);

#endif
