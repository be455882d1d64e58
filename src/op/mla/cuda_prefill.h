/* cuda_prefill.h - launches expanded latent attention of prompts on a Hopper GPU.
 *
 * Nothing is owned, allocated or waited for; every call may be captured in a graph, and the segments are read on the device. Any thread
 * may call, with the device of the pointers current. cuda_prefill.cuh says what is computed, and what the state carries between calls.
 */
#ifndef PROA_OP_MLA_CUDA_PREFILL_H
#define PROA_OP_MLA_CUDA_PREFILL_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* One segment in one call, in device memory. */
typedef struct proa_mla_prefill_segment {
    int32_t row_first;      /* of q and out */
    int32_t row_count;      /* 0: none */
    int32_t position_first; /* of the first row */
    int32_t key_row;        /* row of kv and k_pe that holds position key_first */
    int32_t key_first;      /* this call's first key, a multiple of 128; 0: the state starts here */
    int32_t
        key_count; /* key_first + key_count is a multiple of 128, or position_first + row_count; 0: nothing to do */
} proa_mla_prefill_segment;

typedef struct proa_mla_prefill_args {
    const proa_mla_prefill_segment *segments; /* [segment_count] on the device */
    int32_t segment_count;
    int32_t rows; /* of q and out */
    int32_t keys; /* rows of kv and k_pe: past them nothing is read */
    int32_t heads;
    int32_t nope_dim; /* 128, 64 and 128 have the fast kernel */
    int32_t rope_dim;
    int32_t v_dim; /* at most 512 */
    float scale;
    const void *q; /* bf16 [rows, heads, nope_dim + rope_dim], aligned to 16 bytes, as are kv, k_pe and out */
    const void *kv;   /* bf16 [keys, heads, nope_dim + v_dim] */
    const void *k_pe; /* bf16 [keys, rope_dim] */
    void *out;        /* bf16 [rows, heads, v_dim] */
    float *lse;       /* [heads, rows], natural, or NULL */
    float *state_max; /* [heads, rows]; the state may be NULL where each segment's keys come in one call */
    float *state_sum; /* [heads, rows, 4] */
    float *state_out; /* [heads, rows, v_dim] */
    int32_t *
        tickets; /* [2], zero before the first call; a call leaves them zero. Not shared by calls that overlap */
    int32_t l2_bytes; /* keys and values that blocks at work at once may span; 0: the measured best */
    bool generic;     /* the other kernel in any case: for tests. Its state is its own, and its bits too */
} proa_mla_prefill_args;

#ifdef __CUDACC__ /* streams are of CUDA files; cuda.h is for all others */
cudaError_t proa_mla_prefill(const proa_mla_prefill_args *args, cudaStream_t stream);
#endif

#ifdef __cplusplus
}
#endif

#endif
