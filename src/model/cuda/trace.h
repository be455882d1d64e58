/* trace.h - a GPU's side of a trace (base/trace.h): when each op of a step ran, beside what the host did then.
 *
 * A step that is recorded is queued with marks between its ops, or runs as another graph, which has them; that one is made when its size is
 * first met and is gone when the trace is over. While nothing is recorded no mark and no such graph exists. Each mark is a command of its own on
 * the GPU, which costs the step a microsecond or two an op: what is shown is a little slower than what is not.
 *
 * The GPU's times are put beside the host's by an anchor before each piece of a step: a mark that the host waits for.
 *
 * Owner: the thread of the GPU. A trace that is NULL records nothing.
 */
#ifndef PROA_MODEL_CUDA_TRACE_H
#define PROA_MODEL_CUDA_TRACE_H

#include "base/trace.h"
#include "model/cuda/forward.h"

typedef struct proa_cuda_trace proa_cuda_trace;

/* Borrows all. */
proa_status proa_cuda_trace_create(proa_gpu *gpu, proa_cuda_forward *forward, proa_trace *to,
                                   proa_cuda_trace **trace, proa_error *err);
void proa_cuda_trace_free(
    proa_cuda_trace *trace); /* accepts NULL; after proa_gpu_sync, before the forward's end */

/* Before a step or a piece of one is prepared; the GPU has nothing to do then. */
proa_status proa_cuda_trace_begin(proa_cuda_trace *trace, proa_error *err);

/* After it was prepared: where it is recorded, *graph becomes the graph with marks of steps of so many rows. Of a number of rows there is one
 * graph. */
proa_status proa_cuda_trace_graph(proa_cuda_trace *trace, int32_t rows, proa_gpu_graph **graph,
                                  proa_error *err);

/* What the caller queues from now on, or PROA_CUDA_NOTHING. */
proa_status proa_cuda_trace_mark(proa_cuda_trace *trace, int32_t op, proa_error *err);

/* Behind proa_gpu_sync: what was marked goes to the trace. */
void proa_cuda_trace_end(proa_cuda_trace *trace);

#endif
