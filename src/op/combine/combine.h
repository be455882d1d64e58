/* combine.h - the sum of the chosen experts' outputs: y[r] = sum_k weights[r][k] * slots[place[r * top_k + k]]
 * (+ shared[r]), in float32, in slot order k = 0, 1, ... then the shared expert; rounded in the default precision.
 * On one rank `slots` is the experts op's output; over ranks, what came back per (token, slot) (law 2). */
#ifndef PROA_OP_COMBINE_COMBINE_H
#define PROA_OP_COMBINE_COMBINE_H

#include "op/tensor.h"

typedef struct proa_combine_args {
    int32_t rows;
    int32_t cols;
    int32_t top_k;
    const float *slots;   /* [any, cols] */
    const int32_t *place; /* [rows * top_k]: slot -> row of slots */
    const float *weights; /* [rows, top_k] */
    const float *shared;  /* [rows, cols] or NULL */
    float *y;             /* [rows, cols] */
} proa_combine_args;

void proa_combine_ref(const proa_host *host, const proa_combine_args *args);
void proa_combine_cpu(const proa_host *host, const proa_combine_args *args);

#endif
