/* marks.h - when each op of a step ran: marks between the ops, on both streams, in a graph or queued; read when the step is over.
 *
 * A point says what begins on its stream there; it ends at the stream's next point. Each point is an event of its own on the GPU, made ahead;
 * in a graph it is a node, which is passed anew with each run. Owner: the thread of the GPU.
 */
#ifndef PROA_MODEL_CUDA_MARKS_H
#define PROA_MODEL_CUDA_MARKS_H

#include "op/cuda/gpu.h"

enum { PROA_CUDA_NOTHING = -1 }; /* begins: the stream waits */

typedef struct proa_cuda_marks proa_cuda_marks;

/* For `points_max` points. */
proa_status proa_cuda_marks_create(proa_gpu *gpu, int32_t points_max, proa_cuda_marks **marks,
                                   proa_error *err);
void proa_cuda_marks_free(proa_cuda_marks *marks); /* accepts NULL; after proa_gpu_sync */

/* Forgets the points. */
void proa_cuda_marks_clear(proa_cuda_marks *marks);

/* What is queued from now on is `what` of `layer` (-1: of none), on the stream that takes it. The same again goes on without a point. */
proa_status proa_cuda_marks_add(proa_cuda_marks *marks, int32_t what, int32_t layer, bool beside,
                                proa_error *err);

/* What ran, in microseconds since `from` was passed; after proa_gpu_sync. */
typedef struct proa_cuda_span {
    int32_t what; /* never NOTHING */
    int32_t layer;
    bool beside; /* on the second stream */
    double start_us;
    double end_us;
} proa_cuda_span;

/* One after another, in the order of their queuing: the first with *at = 0, which the call moves on; false when there is none left. Each
 * stream's last point must be NOTHING. */
bool proa_cuda_marks_next(const proa_cuda_marks *marks, const proa_gpu_mark *from, int32_t *at,
                          proa_cuda_span *span);

#endif
