/* cuda.h - rmsnorm.h on a GPU, with the addition before it and the quantisation behind it: x is read once.
 *
 *   x += delta (rounded, stored back);  y = x * rsqrt(mean(x^2) + eps) * w (rounded);  q, scale = FP8 of y
 *
 * Bound: bytes of x, delta, y and q.
 */
#ifndef PROA_OP_RMSNORM_CUDA_H
#define PROA_OP_RMSNORM_CUDA_H

#include "op/cuda/gpu.h"
#include "op/cuda/rows.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct proa_cuda_rmsnorm_args {
    int32_t rows;
    int32_t cols;      /* a multiple of 8, at most 8,192 */
    void *x;           /* bf16 [rows, cols] at x_stride; written where delta is given */
    int64_t x_stride;  /* elements, a multiple of 8, as the others */
    const void *delta; /* bf16 [rows, cols], or NULL */
    const void *w;     /* bf16 [cols]; NULL: only add */
    float eps;
    void *y; /* bf16 at y_stride; may be x where delta is NULL; NULL: q alone */
    int64_t y_stride;
    proa_cuda_fp8_rows q; /* q.q NULL: not wanted */
} proa_cuda_rmsnorm_args;

proa_status proa_cuda_rmsnorm(proa_gpu *gpu, const proa_cuda_rmsnorm_args *args, proa_error *err);

#ifdef __cplusplus
}
#endif

#endif
