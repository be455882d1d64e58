/* target.h - which GPUs a build's kernels are for. Plain C, without CUDA: gpu.cu knows what nvcc was told, this says what it means. */
#ifndef PROA_OP_CUDA_TARGET_H
#define PROA_OP_CUDA_TARGET_H

#include "op/cuda/gpu.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Fails with what the GPU is and what it would have to be. `built`: compute capabilities of the machine code, 90 for 9.0. Code for
 * sm_90a and sm_100a runs on that very capability: 10.3 is none of 10.0's. */
proa_status proa_gpu_target_check(const proa_gpu_facts *facts, const int32_t *built, int32_t built_count,
                                  proa_error *err);

#ifdef __cplusplus
}
#endif

#endif
