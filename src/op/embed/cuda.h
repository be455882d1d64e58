/* cuda.h - embed.h on a GPU: rows of a bf16 table. Bound: bytes of the rows, twice. */
#ifndef PROA_OP_EMBED_CUDA_H
#define PROA_OP_EMBED_CUDA_H

#include "op/cuda/gpu.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct proa_cuda_embed_args {
    int32_t rows;
    int32_t cols;       /* a multiple of 8 */
    const int32_t *ids; /* [rows] */
    const void *table;  /* bf16 [any, cols] */
    void *y;            /* bf16 [rows, cols] */
} proa_cuda_embed_args;

proa_status proa_cuda_embed(proa_gpu *gpu, const proa_cuda_embed_args *args, proa_error *err);

#ifdef __cplusplus
}
#endif

#endif
