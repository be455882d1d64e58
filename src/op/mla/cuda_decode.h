/* cuda_decode.h - launches absorbed latent attention of decode steps on a Hopper GPU.
 *
 * Nothing is owned, allocated or waited for; every call may be captured in a graph, and what differs from step to step (lengths, tables,
 * values) is read on the device. Any thread may call, with the device of the pointers current.
 */
#ifndef PROA_OP_MLA_CUDA_DECODE_H
#define PROA_OP_MLA_CUDA_DECODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct proa_mla_decode_args {
    int32_t rows; /* queries: at most 8,192 */
    int32_t heads;
    int32_t kv_lora_rank; /* 512 and 64 have the fast kernel */
    int32_t rope_dim;
    int32_t rows_per_table; /* new rows of a sequence, neighbours and causal; rows is a multiple */
    int32_t table_stride;
    const int32_t *table; /* [rows / rows_per_table, table_stride] blocks of 64 keys */
    const int32_t *
        lengths; /* [rows / rows_per_table]: keys, the new rows' among them; a row that sees none gets zeros */
    const void *q;     /* bf16 [rows, heads, kv_lora_rank + rope_dim], aligned to 16 bytes, as is the cache */
    const void *cache; /* [cache_blocks, 64] rows as kv_row.h has them: bf16 [kv_lora_rank + rope_dim], or */
    bool fp8;          /* E4M3 */
    int32_t cache_blocks;
    float scale;
    void *out;          /* bf16 [rows, heads, kv_lora_rank] */
    float *lse;         /* [rows, heads], natural, or NULL */
    void *workspace;    /* of proa_mla_decode_workspace_bytes, aligned to 256 bytes */
    int32_t splits_max; /* of all rows together: see proa_mla_decode_splits */
    int32_t parts;      /* 0, or stretches to cut the work into: a test's way to spread it otherwise */
} proa_mla_decode_args;

/* Splits of a row that sees so many keys. */
int32_t proa_mla_decode_splits(int32_t length);

size_t proa_mla_decode_workspace_bytes(int32_t rows, int32_t heads, int32_t splits_max);

#ifdef __CUDACC__
/* Spreads a step's work over the device; before the step's first layer, and again when lengths have changed. */
cudaError_t proa_mla_decode_plan(const proa_mla_decode_args *args, cudaStream_t stream);

cudaError_t proa_mla_decode(const proa_mla_decode_args *args, cudaStream_t stream);
#endif

#ifdef __cplusplus
}
#endif

#endif
