/* cuda.h - combine.h on a GPU: sums in slot order, then the shared expert (law 2).
 * Bound: bytes of top_k rows of slots, of shared and of y. */
#ifndef PROA_OP_COMBINE_CUDA_H
#define PROA_OP_COMBINE_CUDA_H

#include "op/cuda/gpu.h"
#include "op/cuda/rows.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct proa_cuda_combine_args {
    int32_t rows;
    int32_t cols;         /* a multiple of 8 */
    int32_t top_k;        /* at most 32 */
    const void *slots;    /* bf16 [any, cols] */
    const int32_t *place; /* [rows, top_k]: row of slots */
    const float *weights; /* [rows, top_k] */
    const void *shared;   /* bf16 [rows, cols], or NULL */
    void *y;              /* bf16 [rows, cols] */
} proa_cuda_combine_args;

proa_status proa_cuda_combine(proa_gpu *gpu, const proa_cuda_combine_args *args, proa_error *err);

#ifdef __cplusplus
}
#endif

#endif
