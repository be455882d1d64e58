/* staging.h - the way of a checkpoint's bytes to a GPU: mapped pages are read by all threads into pinned memory, from where the GPU takes
 * them while the next ones are read. Owner: the thread of the GPU.
 */
#ifndef PROA_MODEL_CUDA_STAGING_H
#define PROA_MODEL_CUDA_STAGING_H

#include "base/pool.h"
#include "op/cuda/gpu.h"

typedef struct proa_staging proa_staging;

/* `pool` may be NULL. */
proa_status proa_staging_create(proa_gpu *gpu, proa_pool *pool, proa_staging **staging, proa_error *err);
void proa_staging_free(proa_staging *staging); /* accepts NULL; after proa_gpu_sync */

/* Queues a copy; `from` may be forgotten on return. */
proa_status proa_staging_put(proa_staging *staging, void *to, const void *from, size_t bytes,
                             proa_error *err);

#endif
