/* gpu.h - one GPU: its facts, its memory, its streams. The rest of the program knows no CUDA type.
 *
 * A program that was built with CUDA starts without a driver or a GPU; proa_gpu_open says what is missing. One owner thread a GPU, for
 * all calls but the facts: the one that opened it, until another one takes it over. Everything runs on one stream, in the order of the calls,
 * but for what goes beside it between a fork and its join.
 */
#ifndef PROA_OP_CUDA_GPU_H
#define PROA_OP_CUDA_GPU_H

#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct proa_gpu proa_gpu;

typedef struct proa_gpu_facts {
    char name[128];
    int32_t ordinal;
    int32_t capability; /* 90 for 9.0, 100 for 10.0 */
    int32_t multiprocessors;
    size_t memory_bytes;
    size_t l2_bytes;
    int32_t driver; /* 13000: knows CUDA 13.0 */
} proa_gpu_facts;

/* How many GPUs there are; 0 with an error that says why none is seen. */
int32_t proa_gpu_count(proa_error *err);

/* Fails with what is there and what is needed: no driver, an older one, or a GPU that no built-in kernel is for. */
proa_status proa_gpu_open(int32_t ordinal, proa_gpu **gpu, proa_error *err);
void proa_gpu_close(proa_gpu *gpu); /* accepts NULL */
/* The calling thread owns it from now on; the one before must have stopped using it. Cheap where it does already. */
proa_status proa_gpu_own(proa_gpu *gpu, proa_error *err);
const proa_gpu_facts *proa_gpu_facts_of(const proa_gpu *gpu);
void *proa_gpu_stream(const proa_gpu *gpu); /* cudaStream_t: the one that takes what is queued now */

/* A second stream beside the first. It starts behind what the first one has been given before the fork, and runs beside what that is given
 * from then on; behind the join the first one goes on when both are through. While `beside` is set, calls queue to it. In graphs
 * too. A join ends a fork: before the next one, a sync, or the end of a graph. Where both have work, the first one's blocks go first. */
proa_status proa_gpu_fork(proa_gpu *gpu, proa_error *err);
void proa_gpu_beside(proa_gpu *gpu, bool beside);
proa_status proa_gpu_join(proa_gpu *gpu, proa_error *err);

proa_status proa_gpu_alloc(proa_gpu *gpu, size_t bytes, void **memory, proa_error *err);
void proa_gpu_free(proa_gpu *gpu, void *memory); /* accepts NULL */
proa_status proa_gpu_memory(const proa_gpu *gpu, size_t *free_bytes, proa_error *err);
/* Host memory that copies to and from without staging. */
proa_status proa_gpu_alloc_host(proa_gpu *gpu, size_t bytes, void **memory, proa_error *err);
void proa_gpu_free_host(proa_gpu *gpu, void *memory); /* accepts NULL */

/* Queued; from and to memory of proa_gpu_alloc_host they do not wait. */
proa_status proa_gpu_upload(proa_gpu *gpu, void *to, const void *from, size_t bytes, proa_error *err);
proa_status proa_gpu_download(proa_gpu *gpu, void *to, const void *from, size_t bytes, proa_error *err);
/* On the GPU: `rows` rows of `bytes`, `stride` bytes apart at both ends. */
proa_status proa_gpu_copy_rows(proa_gpu *gpu, void *to, const void *from, size_t stride, size_t bytes,
                               size_t rows, proa_error *err);
proa_status proa_gpu_set(proa_gpu *gpu, void *to, int value, size_t bytes, proa_error *err);
/* Waits until all that was queued is done; tells of what has failed since the last one. */
proa_status proa_gpu_sync(proa_gpu *gpu, proa_error *err);

/* What is queued between begin and end runs as one graph from then on; nothing of it runs at once. An end that fails ends the recording too. */
typedef struct proa_gpu_graph proa_gpu_graph;
proa_status proa_gpu_graph_begin(proa_gpu *gpu, proa_error *err);
proa_status proa_gpu_graph_end(proa_gpu *gpu, proa_gpu_graph **graph, proa_error *err);
proa_status proa_gpu_graph_run(proa_gpu *gpu, proa_gpu_graph *graph, proa_error *err);
void proa_gpu_graph_free(proa_gpu_graph *graph);          /* accepts NULL */
size_t proa_gpu_graph_nodes(const proa_gpu_graph *graph); /* kernels, copies and marks */

/* Microseconds between two marks, once both have been passed (proa_gpu_sync); -1: they have not. One that is set in a graph is passed anew with each run. */
typedef struct proa_gpu_mark proa_gpu_mark;
proa_status proa_gpu_mark_create(proa_gpu *gpu, proa_gpu_mark **mark, proa_error *err);
void proa_gpu_mark_free(proa_gpu_mark *mark); /* accepts NULL */
proa_status proa_gpu_mark_set(proa_gpu *gpu, proa_gpu_mark *mark, proa_error *err);
proa_status proa_gpu_mark_wait(proa_gpu *gpu, proa_gpu_mark *mark,
                               proa_error *err); /* until it has been passed */
double proa_gpu_mark_us(const proa_gpu_mark *from, const proa_gpu_mark *to);

#ifdef __cplusplus
}
#endif

#endif
