/* cuda.cu - pairs of all heads; rows of the cache. */
#include "op/rope/cuda.h"

#include "op/cuda/launch.cuh"
#include "op/cuda/vectors.cuh"

namespace proa
{

__device__ __forceinline__ __nv_bfloat162 rotate_pair(const proa_cuda_rope_table &t, int32_t row,
                                                      int32_t pairs, int32_t pair, __nv_bfloat162 x)
{
    const int64_t at = (int64_t)t.positions[row] * pairs + pair;
    const float c = __ldg(t.cos_table + at), s = __ldg(t.sin_table + at);
    const float2 v = __bfloat1622float2(x);
    return __floats2bfloat162_rn(__fmul_rn(v.x, c) - __fmul_rn(v.y, s),
                                 __fmul_rn(v.x, s) + __fmul_rn(v.y, c));
}

__global__ void __launch_bounds__(ROW_THREADS) rotate(const proa_cuda_rope_args g)
{
    const int32_t pairs = g.dim / 2;
    const int64_t all = (int64_t)g.rows * g.heads * pairs;
    follow();
    for (int64_t i = (int64_t)blockIdx.x * ROW_THREADS + threadIdx.x; i < all;
         i += (int64_t)gridDim.x * ROW_THREADS) {
        const int32_t pair = (int32_t)(i % pairs), head = (int32_t)(i / pairs % g.heads),
                      row = (int32_t)(i / pairs / g.heads);
        const __nv_bfloat162 x = *(const __nv_bfloat162 *)((const __nv_bfloat16 *)g.x + row * g.row_stride +
                                                           head * g.head_stride + 2 * pair);
        *(__nv_bfloat162 *)((__nv_bfloat16 *)g.y + row * g.y_row_stride + head * g.y_head_stride + 2 * pair) =
            rotate_pair(g.table, row, pairs, pair, x);
    }
}

/* A block a row. */
__global__ void __launch_bounds__(ROW_THREADS) kv_append(const proa_cuda_kv_append_args g)
{
    __shared__ float scratch[33];
    follow();
    const int32_t row = (int32_t)blockIdx.x, thread = (int32_t)threadIdx.x, slot = g.slots[row];
    const __nv_bfloat16 *x = (const __nv_bfloat16 *)g.kv_a + row * g.stride;
    float h[VECTOR] = {0}, sum = 0;
    const bool inside = thread < g.kv_lora_rank / VECTOR;
    if (slot < 0)
        return;
    __nv_bfloat16 *to = (__nv_bfloat16 *)g.cache + (int64_t)slot * (g.kv_lora_rank + g.rope_dim);
    if (inside)
        unpack(*(const uint4 *)(x + thread * VECTOR), h);
#pragma unroll
    for (int i = 0; i < VECTOR; i++)
        sum = fmaf(h[i], h[i], sum);
    sum = block_sum(sum, scratch);
    const float factor = __fdiv_rn(1.0f, __fsqrt_rn(__fdiv_rn(sum, (float)g.kv_lora_rank) + g.eps));
    if (inside) {
        float w[VECTOR];
        unpack(*(const uint4 *)((const __nv_bfloat16 *)g.w + thread * VECTOR), w);
#pragma unroll
        for (int i = 0; i < VECTOR; i++)
            h[i] = h[i] * factor * w[i];
        *(uint4 *)(to + thread * VECTOR) = pack(h);
    }
    if (thread < g.rope_dim / 2)
        *(__nv_bfloat162 *)(to + g.kv_lora_rank + 2 * thread) = rotate_pair(
            g.table, row, g.rope_dim / 2, thread, *(const __nv_bfloat162 *)(x + g.kv_lora_rank + 2 * thread));
}

/* A block a row. */
__global__ void __launch_bounds__(ROW_THREADS) kv_gather(const proa_cuda_kv_gather_args g)
{
    follow();
    const int32_t row = (int32_t)blockIdx.x, thread = (int32_t)threadIdx.x, slot = g.slots[row];
    const bool inside = thread < g.kv_lora_rank / VECTOR;
    if (slot < 0)
        return;
    const __nv_bfloat16 *from =
        (const __nv_bfloat16 *)g.cache + (int64_t)slot * (g.kv_lora_rank + g.rope_dim);
    uint4 piece = {0, 0, 0, 0};
    float x[VECTOR];
    if (inside)
        piece = *(const uint4 *)(from + thread * VECTOR);
    if (inside && g.kv_lora != nullptr)
        *(uint4 *)((__nv_bfloat16 *)g.kv_lora + (int64_t)row * g.kv_lora_rank + thread * VECTOR) = piece;
    unpack(piece, x);
    if (g.q.q != nullptr)
        store_quantised(g.q, row, g.kv_lora_rank, thread, inside, x);
    if (thread < g.rope_dim / VECTOR)
        *(uint4 *)((__nv_bfloat16 *)g.k_pe + (int64_t)row * g.rope_dim + thread * VECTOR) =
            *(const uint4 *)(from + g.kv_lora_rank + thread * VECTOR);
}

} // namespace proa

proa_status proa_cuda_rope(proa_gpu *gpu, const proa_cuda_rope_args *a, proa_error *err)
{
    const int64_t pairs = (int64_t)a->rows * a->heads * (a->dim / 2);
    const int64_t wanted = (pairs + proa::ROW_THREADS - 1) / proa::ROW_THREADS;
    const int32_t fitting = proa_gpu_facts_of(gpu)->multiprocessors * 8;
    if (wanted == 0)
        return PROA_OK;
    const int32_t blocks = (int32_t)(wanted < fitting ? wanted : fitting);
    return proa_cuda_status(
        proa_cuda_follow(proa_cuda_stream(gpu), proa::rotate, dim3(blocks), proa::ROW_THREADS, 0, *a), "rope",
        err);
}

proa_status proa_cuda_kv_append(proa_gpu *gpu, const proa_cuda_kv_append_args *a, proa_error *err)
{
    const int32_t lora_most = proa::ROW_THREADS * proa::VECTOR, rope_most = 2 * proa::ROW_THREADS;
    if (a->kv_lora_rank % proa::VECTOR != 0 || a->kv_lora_rank > lora_most || a->rope_dim > rope_most)
        return proa_error_set(err, PROA_ERR_UNSUPPORTED,
                              "cache rows of %d + %d values: the GPU takes multiples of %d up to %d, and %d",
                              a->kv_lora_rank, a->rope_dim, proa::VECTOR, lora_most, rope_most);
    if (a->rows == 0)
        return PROA_OK;
    return proa_cuda_status(
        proa_cuda_follow(proa_cuda_stream(gpu), proa::kv_append, dim3(a->rows), proa::ROW_THREADS, 0, *a),
        "kv_append", err);
}

proa_status proa_cuda_kv_gather(proa_gpu *gpu, const proa_cuda_kv_gather_args *a, proa_error *err)
{
    const int32_t most = proa::ROW_THREADS * proa::VECTOR;
    if (a->kv_lora_rank % proa::VECTOR != 0 || a->rope_dim % proa::VECTOR != 0 || a->kv_lora_rank > most ||
        a->rope_dim > most)
        return proa_error_set(err, PROA_ERR_UNSUPPORTED,
                              "cache rows of %d + %d values: the GPU takes multiples of %d up to %d",
                              a->kv_lora_rank, a->rope_dim, proa::VECTOR, most);
    if (a->rows == 0)
        return PROA_OK;
    return proa_cuda_status(
        proa_cuda_follow(proa_cuda_stream(gpu), proa::kv_gather, dim3(a->rows), proa::ROW_THREADS, 0, *a),
        "kv_gather", err);
}

PROA_CUDA_KERNELS(rope, proa::rotate)
