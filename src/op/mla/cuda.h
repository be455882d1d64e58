/* cuda.h - mla.h's absorbed attention on a GPU (cuda_decode.h has the arguments): status and stream as the other ops have them. */
#ifndef PROA_OP_MLA_CUDA_H
#define PROA_OP_MLA_CUDA_H

#include "op/cuda/gpu.h"
#include "op/mla/cuda_decode.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Spreads the work over the GPU: once a step, before its first layer. */
proa_status proa_cuda_mla_plan(proa_gpu *gpu, const proa_mla_decode_args *args, proa_error *err);
proa_status proa_cuda_mla_decode(proa_gpu *gpu, const proa_mla_decode_args *args, proa_error *err);

#ifdef __cplusplus
}
#endif

#endif
