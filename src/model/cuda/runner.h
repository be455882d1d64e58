/* runner.h - a GPU's forward behind model/forward.h: what an engine calls.
 *
 * A step whose rows do not fit the GPU's buffers at once (many rows of generated tokens that are computed again; prompts with long prefixes)
 * is done in pieces, one after another: a row's bits do not depend on it (law 2). A step of decode rows alone is padded to the next of the
 * graphs' sizes, and is one launch then; larger ones, and those with prompts, are queued op by op.
 *
 * Each call takes the GPU over for its thread.
 */
#ifndef PROA_MODEL_CUDA_RUNNER_H
#define PROA_MODEL_CUDA_RUNNER_H

#include "base/trace.h"
#include "model/cuda/forward.h"
#include "model/forward.h"

enum { PROA_CUDA_GRAPHS_MAX = 64 };

typedef struct proa_cuda_graph_sizes {
    int32_t count;                      /* 0: no graphs */
    int32_t rows[PROA_CUDA_GRAPHS_MAX]; /* ascending */
} proa_cuda_graph_sizes;

typedef struct proa_cuda_runner_options {
    proa_cuda_graph_sizes graphs;
    bool
        host_logits; /* they come to the host, for who reads them there; else tokens are drawn on the GPU (proa_forward_samples) */
    bool single_stream;     /* proa_cuda_forward_set_streams */
    proa_trace *trace;      /* records steps; borrowed, or NULL */
    proa_cuda_tiles *tiles; /* or NULL; borrowed, the forward's thread's from then on */
} proa_cuda_runner_options;

/* Limits of the GPU's forward for an engine's. */
proa_cuda_limits proa_cuda_runner_limits(const proa_forward_limits *limits,
                                         const proa_cuda_graph_sizes *graphs);

/* Borrows gpu and weights. `where` as for proa_cuda_forward_create. All graphs are made here, and a step of each is run. */
proa_status proa_cuda_runner_create(proa_gpu *gpu, const proa_cuda_weights *weights, const int32_t *where,
                                    const proa_forward_limits *limits,
                                    const proa_cuda_runner_options *options, proa_forward **forward,
                                    proa_error *err);

#endif
