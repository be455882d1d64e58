/* gpu_step.h - made-up steps of a model on a GPU, and the time of their ops: for `proa bench slice` and `proa precompile`.
 *
 * A step has sequences of one length, whose blocks lie scattered and whose tokens differ, so that they go to different experts. What is timed is a
 * graph of some of its ops in all layers: each launch has other weights, and as many as a second-level cache does not hold where the model has them.
 * Layers share a few caches, each larger than the second-level cache by far. Expert e of the model is played by e mod the local ones.
 *
 * Owner: the thread of the GPU.
 */
#ifndef PROA_CMD_GPU_STEP_H
#define PROA_CMD_GPU_STEP_H

#include "model/cuda/forward.h"

typedef struct proa_gpu_step_shape {
    bool decode;
    int32_t sequences;
    int32_t context; /* keys of each at the end of the step */
    int32_t prefix;  /* of a prompt: keys that are in the cache already; its rows are the others */
} proa_gpu_step_shape;

typedef struct proa_gpu_step {
    proa_gpu *gpu; /* borrowed, as the weights are */
    const proa_cuda_weights *weights;
    proa_cuda_forward *forward; /* NULL: none is open */
    proa_gpu_mark *from, *to;
    proa_cuda_tiles *tiles; /* of the steps that are opened; borrowed, or NULL */
    proa_kv_cache kv_cache; /* and what their caches hold */
} proa_gpu_step;

/* {0} is closed. */
proa_status proa_gpu_step_init(proa_gpu_step *step, proa_gpu *gpu, const proa_cuda_weights *weights,
                               proa_error *err);
void proa_gpu_step_free(proa_gpu_step *step);

/* Bytes of a worker that does such steps: its buffers, and the KV cache of all layers. */
void proa_gpu_step_plan(const proa_gpu_step *step, const proa_gpu_step_shape *shape, uint64_t *buffers,
                        uint64_t *cache);

/* Buffers and description of a step, which takes the place of the one before. */
proa_status proa_gpu_step_open(proa_gpu_step *step, const proa_gpu_step_shape *shape, proa_error *err);

/* The description once more, of the shape that is open: what a step begins with. */
proa_status proa_gpu_step_prepare(proa_gpu_step *step, const proa_gpu_step_shape *shape, proa_error *err);

/* All of it once, to the end: the ops that are measured afterwards find its rows and counts. */
proa_status proa_gpu_step_run(proa_gpu_step *step, proa_error *err);

enum { PROA_GPU_STEP_RUNS_MAX = 15 };

/* The median of `runs` runs of the ops in this set (bit 1 << op), as one graph, all layers, on 1 or 2 streams. */
proa_status proa_gpu_step_time(proa_gpu_step *step, uint32_t ops, int32_t streams, int runs, double *us,
                               proa_error *err);

#endif
