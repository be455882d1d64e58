/* bench_slice.h - what each op of a step must at least do: bytes and operations, summed over the layers. For bench_slice.c. */
#ifndef PROA_CMD_BENCH_SLICE_H
#define PROA_CMD_BENCH_SLICE_H

#include "cmd/gpu_step.h"

typedef struct bench_slice_cost {
    double bytes;
    double fp8_flops;
    double bf16_flops;
} bench_slice_cost;

bench_slice_cost proa_bench_slice_cost(const proa_model_config *config, int32_t local_experts,
                                       const proa_gpu_step_shape *shape, proa_cuda_op op);

#endif
