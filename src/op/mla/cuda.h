/* cuda.h - mla.h's two forms of attention on a GPU: status and stream as the other ops have them. cuda_decode.h and cuda_prefill.h have the
 * arguments. */
#ifndef PROA_OP_MLA_CUDA_H
#define PROA_OP_MLA_CUDA_H

#include "op/cuda/gpu.h"
#include "op/mla/cuda_decode.h"
#include "op/mla/cuda_prefill.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Spreads the work over the GPU: once a step, before its first layer. */
proa_status proa_cuda_mla_plan(proa_gpu *gpu, const proa_mla_decode_args *args, proa_error *err);
proa_status proa_cuda_mla_decode(proa_gpu *gpu, const proa_mla_decode_args *args, proa_error *err);

proa_status proa_cuda_mla_prefill(proa_gpu *gpu, const proa_mla_prefill_args *args, proa_error *err);

#ifdef __cplusplus
}
#endif

#endif
