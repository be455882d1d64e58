/* cuda.h - router.h on a GPU, and the way of rows to their experts.
 *
 *   router   sigmoid, groups, top-k, weights; counts the slots of each expert
 *   spread   rows in the order of experts, each expert's first row a multiple of 128: what the grouped products read
 *
 * The logits may come in parts, sums over slices of K, which are added in order: a product over few columns and a long K is cut so, at the
 * same places always (law 2). Where a row stands among those of its expert is left to chance: it moves no bit of any result.
 */
#ifndef PROA_OP_ROUTER_CUDA_H
#define PROA_OP_ROUTER_CUDA_H

#include "op/cuda/gpu.h"
#include "op/cuda/rows.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct proa_cuda_router_args {
    int32_t rows;
    int32_t experts; /* at most 1,024 */
    int32_t n_group; /* at most 32 */
    int32_t topk_group;
    int32_t top_k; /* at most 32 */
    bool norm_topk_prob;
    float routed_scaling_factor;
    int32_t parts;
    const float *logits;  /* [parts, rows, experts] */
    const float *bias;    /* [experts], or NULL */
    const int32_t *where; /* [experts] physical expert of each; NULL: itself */
    int32_t *ids;         /* [rows, top_k] physical experts */
    float *weights;       /* [rows, top_k] */
    int32_t *counts;      /* [physical experts], cleared before, slots are added; NULL: not wanted */
} proa_cuda_router_args;

proa_status proa_cuda_router(proa_gpu *gpu, const proa_cuda_router_args *args, proa_error *err);

/* Rows are q, or x where q.q is NULL. */
typedef struct proa_cuda_spread_args {
    int32_t rows;
    int32_t top_k;
    int32_t experts;       /* physical ones, at most 1,024 */
    const int32_t *ids;    /* [rows, top_k] */
    const int32_t *counts; /* [experts] */
    int32_t *filled;       /* [experts], cleared before */
    int32_t *clear;        /* [clear_count] of the next layer, which this call clears; NULL: none */
    int32_t clear_count;
    int32_t *first; /* [experts] out: groups of op/cuda/rows.h */
    int32_t *count; /* [experts] out */
    int32_t *place; /* [rows, top_k] out: row of each slot */
    int32_t cols;   /* a multiple of 16 */
    proa_cuda_fp8_rows q;
    proa_cuda_fp8_rows q_out; /* rows * top_k + experts * 127 rows are enough */
    const void *x;            /* bf16 [rows, cols] */
    void *x_out;
} proa_cuda_spread_args;

proa_status proa_cuda_spread(proa_gpu *gpu, const proa_cuda_spread_args *args, proa_error *err);

#ifdef __cplusplus
}
#endif

#endif
