/* quantise.h - activations to e4m3 with one scale per row and 128 consecutive channels.
 *
 * amax = max(max |x|, 1e-4); s = amax / 448; with ue8m0 s = 2^ceil(log2 s) (exact, by exponent bits);
 * q = e4m3(x / s) (true division in float32, saturating). The last group may be shorter than 128.
 * Source: DeepSeek-V3 inference/kernel.py (act_quant) and V3.2's; pinned by golden/ops.safetensors quant.*.
 */
#ifndef PROA_OP_QUANTISE_QUANTISE_H
#define PROA_OP_QUANTISE_QUANTISE_H

#include "op/tensor.h"

typedef struct proa_quantise_args {
    int32_t rows;
    int32_t cols;
    const float *x; /* [rows, cols] at x_stride */
    int64_t x_stride;
    uint8_t *q; /* [rows, cols] */
    float *s;   /* [rows, ceil(cols / 128)] */
} proa_quantise_args;

/* host->ue8m0 picks the scale format. */
void proa_quantise_ref(const proa_host *host, const proa_quantise_args *args);
void proa_quantise_cpu(const proa_host *host, const proa_quantise_args *args);

#endif
