/* fill.h - random values made on a GPU, for weights that only have to have the right shapes. Value i is a function of (key, i). */
#ifndef PROA_OP_CUDA_FILL_H
#define PROA_OP_CUDA_FILL_H

#include "op/cuda/gpu.h"

#ifdef __cplusplus
extern "C" {
#endif

/* middle + spread * u, u uniform in (-1, 1) */
proa_status proa_cuda_fill_bf16(proa_gpu *gpu, void *to, uint64_t count, uint64_t key, float middle,
                                float spread, proa_error *err);
proa_status proa_cuda_fill_float(proa_gpu *gpu, float *to, uint64_t count, uint64_t key, float middle,
                                 float spread, proa_error *err);
/* e4m3, uniform in (-448, 448); no NaN */
proa_status proa_cuda_fill_e4m3(proa_gpu *gpu, void *to, uint64_t count, uint64_t key, proa_error *err);

#ifdef __cplusplus
}
#endif

#endif
