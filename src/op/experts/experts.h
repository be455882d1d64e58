/* experts.h - one projection of many experts at once: a grouped linear over contiguous per-expert segments.
 *
 * Rows are sorted by expert: rows offsets[e] .. offsets[e + 1] - 1 belong to expert e. Each segment is an
 * ordinary linear (linear.h has the arithmetic and its order, which this op shares bit for bit); empty
 * segments cost nothing. Bound: the weights of the experts that have rows, once.
 */
#ifndef PROA_OP_EXPERTS_EXPERTS_H
#define PROA_OP_EXPERTS_EXPERTS_H

#include "op/tensor.h"

typedef struct proa_experts_args {
    int32_t experts;
    const int32_t *offsets;   /* [experts + 1], ascending, offsets[0] = 0, offsets[experts] = slots */
    const proa_weight *w;     /* [experts], all [n, k] and of one type */
    proa_rows x;              /* rows that the slots read: [any, k] */
    const int32_t *row_index; /* [slots]: slot i reads row row_index[i] of x; NULL: slot i reads row i */
    float *y;                 /* [slots, n] */
    bool round_output;
} proa_experts_args;

void proa_experts_ref(const proa_host *host, const proa_experts_args *args);
void proa_experts_cpu(const proa_host *host, const proa_experts_args *args);
size_t proa_experts_scratch_bytes(const proa_host *host, int32_t slots, int32_t experts, int32_t n,
                                  int32_t k);

#endif
