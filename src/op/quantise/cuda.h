/* cuda.h - quantise.h on a GPU. Bound: bytes of x and q. */
#ifndef PROA_OP_QUANTISE_CUDA_H
#define PROA_OP_QUANTISE_CUDA_H

#include "op/cuda/gpu.h"
#include "op/cuda/rows.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct proa_cuda_quantise_args {
    int32_t rows;
    int32_t cols;     /* a multiple of 8 */
    const void *x;    /* bf16 [rows, cols] at x_stride */
    int64_t x_stride; /* elements, a multiple of 8 */
    proa_cuda_fp8_rows q;
} proa_cuda_quantise_args;

proa_status proa_cuda_quantise(proa_gpu *gpu, const proa_cuda_quantise_args *args, proa_error *err);

#ifdef __cplusplus
}
#endif

#endif
