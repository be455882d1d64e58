/* swiglu.h - y = silu(gate) * up, silu(g) = g / (1 + e^-g), in float32, rounded in the default precision. */
#ifndef PROA_OP_SWIGLU_SWIGLU_H
#define PROA_OP_SWIGLU_SWIGLU_H

#include "op/tensor.h"

typedef struct proa_swiglu_args {
    int32_t rows;
    int32_t cols;
    const float *gate; /* [rows, cols] */
    const float *up;   /* [rows, cols] */
    float *y;          /* [rows, cols]; may be gate or up */
} proa_swiglu_args;

void proa_swiglu_ref(const proa_host *host, const proa_swiglu_args *args);
void proa_swiglu_cpu(const proa_host *host, const proa_swiglu_args *args);

#endif
