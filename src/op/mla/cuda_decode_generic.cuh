/* cuda_decode_generic.cuh - absorbed latent attention of a decode step for any rank, rotary width and number of heads (mla.h).
 *
 * For small test models: plain arithmetic, no tensor cores, a block a (row, head). Keys go in blocks of 64 from position 0, with a
 * running maximum and sum as in ref.c; every sum's order is that of its channel or position, so that a row's bits depend on its own q,
 * keys and length (law 2). Inputs, outputs and their layouts are those of cuda_decode.cuh, with kv_lora_rank and rope_dim for 512 and 64; of
 * rows of either type the same numbers are made, in the same order.
 */
#ifndef PROA_OP_MLA_CUDA_DECODE_GENERIC_CUH
#define PROA_OP_MLA_CUDA_DECODE_GENERIC_CUH

#include "op/mla/cuda_decode.cuh"
#include "op/mla/kv_row.cuh"

namespace proa
{

enum { MLA_GENERIC_THREADS = 128 };

/* The sum over a warp, the same in every lane. */
__device__ __forceinline__ float mla_warp_sum(float x)
{
#pragma unroll
    for (int step = 16; step > 0; step /= 2)
        x += __shfl_xor_sync(~0u, x, step);
    return x;
}

/* Rows of the cache, as floats. */
struct MlaGenericRows {
    const uint8_t *base;
    proa_kv_row row;
    int32_t lora;
    bool fp8;

    __device__ __forceinline__ float at(int32_t key, int32_t i) const
    {
        const uint8_t *from = base + (int64_t)key * row.bytes;
        if (i >= lora)
            return __bfloat162float(((const __nv_bfloat16 *)(from + row.k_pe))[i - lora]);
        if (!fp8)
            return __bfloat162float(((const __nv_bfloat16 *)from)[i]);
        const uint32_t scale = ((const uint32_t *)(from + row.scales))[i / PROA_KV_SCALE_GROUP];
        const uint32_t pair = kv_widen((uint32_t)from[i], kv_scale_pair(scale >> 23)).x;
        return __uint_as_float(pair << 16);
    }
};

/* score[0..63] of a block's keys, -inf beyond `keys`: a warp a key, its lanes 32 channels apart. */
__device__ inline void mla_generic_scores(const float *q, const MlaGenericRows &rows, int32_t dim,
                                          int32_t keys, float scale, float *score)
{
    const int32_t warp = (int32_t)threadIdx.x / 32, lane = (int32_t)threadIdx.x % 32;
    for (int32_t key = warp; key < MLA_BLOCK; key += MLA_GENERIC_THREADS / 32) {
        float dot = 0;
        if (key < keys)
            for (int32_t i = lane; i < dim; i += 32)
                dot = fmaf(q[i], rows.at(key, i), dot);
        dot = mla_warp_sum(dot);
        if (lane == 0)
            score[key] = key < keys ? dot * scale : -INFINITY;
    }
}

/* Grid (rows, heads); dynamic shared memory: (2 lora + rope) floats. */
__global__ void __launch_bounds__(MLA_GENERIC_THREADS)
    mla_decode_generic(const MlaDecode d, const __nv_bfloat16 *q_all, const uint8_t *cache, bool fp8,
                       int32_t lora, int32_t rope)
{
    extern __shared__ float mla_generic_memory[];
    __shared__ float score[MLA_BLOCK];
    const int32_t dim = lora + rope, row = (int32_t)blockIdx.x, head = (int32_t)blockIdx.y,
                  thread = (int32_t)threadIdx.x;
    const int64_t at = (int64_t)row * d.heads + head;
    follow();
    const int32_t length = mla_length(d, row);
    const int32_t *table = d.table + (int64_t)(row / d.rows_per_table) * d.table_stride;
    float *q = mla_generic_memory, *o = q + dim;
    MlaGenericRows rows = {cache, proa_kv_row_of(fp8 ? PROA_DTYPE_E4M3 : PROA_DTYPE_BF16, lora, rope), lora,
                           fp8};
    float top = -INFINITY, sum = 0;
    for (int32_t i = thread; i < dim; i += MLA_GENERIC_THREADS)
        q[i] = __bfloat162float(q_all[at * dim + i]);
    for (int32_t i = thread; i < lora; i += MLA_GENERIC_THREADS)
        o[i] = 0;
    __syncthreads();
    for (int32_t first = 0; first < length; first += MLA_BLOCK) {
        const int32_t keys = min(MLA_BLOCK, length - first);
        rows.base = cache + (int64_t)__ldg(table + first / MLA_BLOCK) * MLA_BLOCK * rows.row.bytes;
        mla_generic_scores(q, rows, dim, keys, d.scale, score);
        __syncthreads();
        float now = top, added = 0; /* every thread the same */
        for (int32_t j = 0; j < keys; j++)
            now = fmaxf(now, score[j]);
        const float shrink = expf(top - now);
        for (int32_t j = 0; j < keys; j++)
            added += expf(score[j] - now);
        sum = fmaf(sum, shrink, added);
        top = now;
        for (int32_t i = thread; i < lora; i += MLA_GENERIC_THREADS) {
            float total = o[i] * shrink;
            for (int32_t j = 0; j < keys; j++)
                total = fmaf(__bfloat162float(__float2bfloat16(expf(score[j] - now))), rows.at(j, i), total);
            o[i] = total;
        }
        __syncthreads();
    }
    for (int32_t i = thread; i < lora; i += MLA_GENERIC_THREADS)
        d.out[at * lora + i] = __float2bfloat16(length > 0 ? o[i] / sum : 0);
    if (thread == 0 && d.lse != nullptr)
        d.lse[at] = length > 0 ? top + logf(sum) : -INFINITY;
}

} // namespace proa

#endif
