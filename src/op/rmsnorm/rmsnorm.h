/* rmsnorm.h - root mean square normalisation, with the residual addition that precedes it, and plain addition.
 *
 * h = x + delta (when delta is given; h is stored back to x, rounded in the default precision), then
 * y = h * rsqrt(mean(h^2) + eps) * w. Computed in float32 (double in ref), w in float32, y rounded in the default
 * precision. Rows may be strided so that kv_lora is normed inside [kv_lora | k_pe].
 * Law 2: the sum over a row has an order fixed by cols and the instruction set.
 */
#ifndef PROA_OP_RMSNORM_RMSNORM_H
#define PROA_OP_RMSNORM_RMSNORM_H

#include "op/tensor.h"

typedef struct proa_rmsnorm_args {
    int32_t rows;
    int32_t cols;
    float *x; /* [rows, cols] at x_stride; written when delta is given */
    int64_t x_stride;
    const float *delta;   /* [rows, cols] contiguous, or NULL */
    const proa_weight *w; /* n = 1, k = cols; BF16 or F32 */
    double eps;
    float *y; /* [rows, cols] at y_stride; may be x when delta is NULL; NULL: only add */
    int64_t y_stride;
} proa_rmsnorm_args;

void proa_rmsnorm_ref(const proa_host *host, const proa_rmsnorm_args *args);
void proa_rmsnorm_cpu(const proa_host *host, const proa_rmsnorm_args *args);

#endif
