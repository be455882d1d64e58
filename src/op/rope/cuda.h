/* cuda.h - rope.h on a GPU, and the new rows of the KV cache (mla.h).
 *
 *   rope       q_pe of all heads, in place or from one place to another ([q_lat | q_pe] of the absorbed form)
 *   kv_append  a row of kv_a: kv_lora normed, k_pe rotated, into the cache
 *   kv_gather  rows of the cache, as kv_b_proj and the expanded form take them
 */
#ifndef PROA_OP_ROPE_CUDA_H
#define PROA_OP_ROPE_CUDA_H

#include "op/cuda/gpu.h"
#include "op/cuda/rows.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct proa_cuda_rope_table {
    const int32_t *positions; /* [rows] */
    const float *cos_table;   /* [max positions, dim / 2] */
    const float *sin_table;
} proa_cuda_rope_table;

/* Strides in elements, even. */
typedef struct proa_cuda_rope_args {
    proa_cuda_rope_table table;
    int32_t rows;
    int32_t heads;
    int32_t dim; /* even */
    const void *x;
    int64_t row_stride;
    int64_t head_stride;
    void *y; /* may be x */
    int64_t y_row_stride;
    int64_t y_head_stride;
} proa_cuda_rope_args;

proa_status proa_cuda_rope(proa_gpu *gpu, const proa_cuda_rope_args *args, proa_error *err);

typedef struct proa_cuda_kv_append_args {
    proa_cuda_rope_table table;
    int32_t rows;
    int32_t kv_lora_rank; /* a multiple of 8, at most 2,048 */
    int32_t rope_dim;     /* even, at most 512 */
    const void *kv_a;     /* bf16 [rows, kv_lora_rank + rope_dim] at stride */
    int64_t stride;       /* elements, a multiple of 8 */
    const void *w;        /* bf16 [kv_lora_rank]: kv_a_layernorm */
    float eps;
    const int32_t *slots; /* [rows]: block * 64 + place in it; < 0: nowhere */
    void *cache; /* [blocks * 64] rows as op/mla/kv_row.h has them: bf16 [kv_lora_rank + rope_dim], or */
    bool fp8;    /* E4M3: kv_lora_rank is a multiple of 16 then, rope_dim of 8 */
} proa_cuda_kv_append_args;

proa_status proa_cuda_kv_append(proa_gpu *gpu, const proa_cuda_kv_append_args *args, proa_error *err);

typedef struct proa_cuda_kv_gather_args {
    int32_t rows;
    int32_t kv_lora_rank; /* a multiple of 8, at most 2,048 */
    int32_t rope_dim;     /* a multiple of 8, at most 512 */
    const int32_t *slots; /* [rows]: block * 64 + place in it; < 0: nothing */
    const void *cache;    /* and */
    bool fp8;             /* as for append */
    void *kv_lora;        /* bf16 [rows, kv_lora_rank]; NULL: q alone */
    proa_cuda_fp8_rows q; /* of kv_lora; q.q NULL: not wanted */
    void *k_pe;           /* bf16 [rows, rope_dim] */
} proa_cuda_kv_gather_args;

proa_status proa_cuda_kv_gather(proa_gpu *gpu, const proa_cuda_kv_gather_args *args, proa_error *err);

#ifdef __cplusplus
}
#endif

#endif
