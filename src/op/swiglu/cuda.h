/* cuda.h - swiglu.h on a GPU, with the quantisation behind it. Rows may stand in groups (op/cuda/rows.h).
 * Bound: bytes of gate and up, and of what is written. */
#ifndef PROA_OP_SWIGLU_CUDA_H
#define PROA_OP_SWIGLU_CUDA_H

#include "op/cuda/gpu.h"
#include "op/cuda/rows.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct proa_cuda_swiglu_args {
    proa_cuda_groups rows;
    int32_t cols;     /* a multiple of 8 */
    const void *gate; /* bf16 [rows, cols] at stride, as up */
    const void *up;
    int64_t stride; /* elements, a multiple of 8 */
    void *y;        /* bf16 [rows, cols]; NULL: q alone */
    proa_cuda_fp8_rows q;
} proa_cuda_swiglu_args;

proa_status proa_cuda_swiglu(proa_gpu *gpu, const proa_cuda_swiglu_args *args, proa_error *err);

#ifdef __cplusplus
}
#endif

#endif
