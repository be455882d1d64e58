/* gpu.h - `--device cuda`: the GPU of a process, the weights on it, and what its forward is made with.
 *
 * Reads --base-gpu-id, --kernel-cache-dir, --slice-experts, --cuda-graph-bs, --cuda-graph-max-bs, --disable-cuda-graph and --single-stream. In a program that was built without
 * CUDA (gpu_absent.c) opening fails and says so; the other calls are never reached.
 */
#ifndef PROA_CMD_GPU_H
#define PROA_CMD_GPU_H

#include "base/option.h"
#include "base/trace.h"
#include "model/forward.h"

typedef struct proa_loaded_gpu proa_loaded_gpu;

proa_status proa_loaded_gpu_open(const proa_options *options, proa_loaded_gpu **gpu, proa_error *err);
void proa_loaded_gpu_close(proa_loaded_gpu *gpu); /* accepts NULL */

/* The weights, which may go from the host then; `from` NULL: random ones. `pool` reads. */
proa_status proa_loaded_gpu_take(proa_loaded_gpu *gpu, const proa_options *options,
                                 const proa_model_config *config, const proa_weights *from, proa_pool *pool,
                                 proa_error *err);

/* GPU memory: what was free before the weights came, what these take, and what a forward's buffers would (`limits` NULL: 0). */
typedef struct proa_loaded_gpu_bytes {
    uint64_t available;
    uint64_t weights;
    uint64_t buffers;
} proa_loaded_gpu_bytes;

proa_status proa_loaded_gpu_plan(const proa_loaded_gpu *gpu, const proa_options *options,
                                 const proa_forward_limits *limits, proa_loaded_gpu_bytes *bytes,
                                 proa_error *err);

/* `trace` NULL: none. */
proa_status proa_loaded_gpu_forward(proa_loaded_gpu *gpu, const proa_options *options,
                                    const proa_forward_limits *limits, bool host_logits, proa_trace *trace,
                                    proa_forward **forward, proa_error *err);

#endif
