/* cuda.cu - pairs of all heads; rows of the cache. */
#include "op/rope/cuda.h"

#include "op/cuda/launch.cuh"
#include "op/cuda/vectors.cuh"
#include "op/mla/kv_row.cuh"

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

/* ---- rows of the cache ---- */

__device__ __forceinline__ proa_kv_row row_of(bool fp8, int32_t kv_lora_rank, int32_t rope_dim)
{
    return proa_kv_row_of(fp8 ? PROA_DTYPE_E4M3 : PROA_DTYPE_BF16, kv_lora_rank, rope_dim);
}

/* Latents to a row, FP8; all 16 threads of a group are here, those beyond the row with zeros. */
__device__ __forceinline__ void store_codes(uint8_t *to, const proa_kv_row &row, int32_t thread, bool inside,
                                            float (&x)[VECTOR])
{
    uint32_t most = 0; /* bits of magnitudes, which have the order of those: a NaN's are the largest */
#pragma unroll
    for (int i = 0; i < VECTOR; i++) {
        x[i] = round_bf16(x[i]);
        most = max(most, __float_as_uint(fabsf(x[i])));
    }
#pragma unroll
    for (int i = GROUP_THREADS / 2; i > 0; i /= 2)
        most = max(most, __shfl_xor_sync(~0u, most, i));
    const uint32_t scale = proa_kv_scale_bits(most);
    const float inverse = __uint_as_float(proa_kv_inverse_bits(scale));
    if (!inside)
        return;
    uint2 codes;
    uint8_t *bytes = (uint8_t *)&codes;
#pragma unroll
    for (int i = 0; i < VECTOR; i++)
        bytes[i] = scale == PROA_KV_SCALE_INFINITE
                       ? PROA_KV_CODE_ONE
                       : (uint8_t)__nv_cvt_float_to_fp8(x[i] * inverse, __NV_SATFINITE, __NV_E4M3);
    *(uint2 *)(to + thread * VECTOR) = codes;
    if (thread % GROUP_THREADS == 0)
        ((uint32_t *)(to + row.scales))[thread / GROUP_THREADS] = scale;
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
    const proa_kv_row place = row_of(g.fp8, g.kv_lora_rank, g.rope_dim);
    uint8_t *to = (uint8_t *)g.cache + (int64_t)slot * place.bytes;
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
    }
    if (g.fp8)
        store_codes(to, place, thread, inside, h);
    else if (inside)
        *(uint4 *)(to + thread * VECTOR * sizeof(__nv_bfloat16)) = pack(h);
    __nv_bfloat162 *k_pe = (__nv_bfloat162 *)(to + place.k_pe);
    if (thread < g.rope_dim / 2)
        k_pe[thread] = rotate_pair(g.table, row, g.rope_dim / 2, thread,
                                   *(const __nv_bfloat162 *)(x + g.kv_lora_rank + 2 * thread));
    if (thread < (place.bytes - place.k_pe) / 4 - g.rope_dim / 2)
        k_pe[g.rope_dim / 2 + thread] = __floats2bfloat162_rn(0, 0); /* up to the row's end */
}

/* A block a row. */
__global__ void __launch_bounds__(ROW_THREADS) kv_gather(const proa_cuda_kv_gather_args g)
{
    follow();
    const int32_t row = (int32_t)blockIdx.x, thread = (int32_t)threadIdx.x, slot = g.slots[row];
    const bool inside = thread < g.kv_lora_rank / VECTOR;
    if (slot < 0)
        return;
    const proa_kv_row place = row_of(g.fp8, g.kv_lora_rank, g.rope_dim);
    const uint8_t *from = (const uint8_t *)g.cache + (int64_t)slot * place.bytes;
    uint4 piece = {0, 0, 0, 0};
    float x[VECTOR];
    if (inside && g.fp8) {
        const uint32_t scale = ((const uint32_t *)(from + place.scales))[thread / GROUP_THREADS];
        piece = kv_widen(*(const uint2 *)(from + thread * VECTOR), kv_scale_pair(scale >> 23));
    } else if (inside) {
        piece = *(const uint4 *)(from + thread * VECTOR * sizeof(__nv_bfloat16));
    }
    if (inside && g.kv_lora != nullptr)
        *(uint4 *)((__nv_bfloat16 *)g.kv_lora + (int64_t)row * g.kv_lora_rank + thread * VECTOR) = piece;
    unpack(piece, x);
    if (g.q.q != nullptr)
        store_quantised(g.q, row, g.kv_lora_rank, thread, inside, x);
    if (thread >= g.rope_dim / VECTOR)
        return;
    const uint32_t *k_pe = (const uint32_t *)(from + place.k_pe) + 4 * thread;
    *(uint4 *)((__nv_bfloat16 *)g.k_pe + (int64_t)row * g.rope_dim + thread * VECTOR) =
        g.fp8 ? make_uint4(k_pe[0], k_pe[1], k_pe[2], k_pe[3]) /* aligned to 4 bytes */
              : *(const uint4 *)k_pe;
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

/* Beside what a row may have at most. */
static proa_status check_row(bool fp8, int32_t kv_lora_rank, int32_t rope_dim, proa_error *err)
{
    if (!fp8 || proa_kv_row_fits(PROA_DTYPE_E4M3, kv_lora_rank, rope_dim))
        return PROA_OK;
    return proa_error_set(err, PROA_ERR_UNSUPPORTED,
                          "FP8 cache rows of %d + %d values: these are multiples of 16 and of 8",
                          kv_lora_rank, rope_dim);
}

proa_status proa_cuda_kv_append(proa_gpu *gpu, const proa_cuda_kv_append_args *a, proa_error *err)
{
    const int32_t lora_most = proa::ROW_THREADS * proa::VECTOR, rope_most = 2 * proa::ROW_THREADS;
    if (a->kv_lora_rank % proa::VECTOR != 0 || a->kv_lora_rank > lora_most || a->rope_dim > rope_most)
        return proa_error_set(err, PROA_ERR_UNSUPPORTED,
                              "cache rows of %d + %d values: the GPU takes multiples of %d up to %d, and %d",
                              a->kv_lora_rank, a->rope_dim, proa::VECTOR, lora_most, rope_most);
    const proa_status status = check_row(a->fp8, a->kv_lora_rank, a->rope_dim, err);
    if (status != PROA_OK || a->rows == 0)
        return status;
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
    const proa_status status = check_row(a->fp8, a->kv_lora_rank, a->rope_dim, err);
    if (status != PROA_OK || a->rows == 0)
        return status;
    return proa_cuda_status(
        proa_cuda_follow(proa_cuda_stream(gpu), proa::kv_gather, dim3(a->rows), proa::ROW_THREADS, 0, *a),
        "kv_gather", err);
}

PROA_CUDA_KERNELS(rope, proa::rotate)
