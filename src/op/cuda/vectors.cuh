/* vectors.cuh - eight bf16 values at once, sums over a block in a fixed order, and the FP8 recipe of activations.
 *
 * Rows are taken in vectors of 8 values (16 bytes); thread t of a block of 256 has vectors t, t + 256, ... A group of 128 channels is
 * then 16 neighbouring threads.
 */
#ifndef PROA_OP_CUDA_VECTORS_CUH
#define PROA_OP_CUDA_VECTORS_CUH

#include "op/cuda/rows.h"
#include "op/ptx/follow.cuh"

#include <cuda_bf16.h>
#include <cuda_fp8.h>
#include <cuda_runtime.h>
#include <stdint.h>

namespace proa
{

constexpr int32_t VECTOR = 8, ROW_THREADS = 256, GROUP_THREADS = 16;
constexpr float FP8_MAX = 448;

__device__ __forceinline__ void unpack(uint4 from, float (&to)[VECTOR])
{
    const __nv_bfloat162 *pairs = (const __nv_bfloat162 *)&from;
#pragma unroll
    for (int i = 0; i < VECTOR / 2; i++) {
        const float2 two = __bfloat1622float2(pairs[i]);
        to[2 * i] = two.x;
        to[2 * i + 1] = two.y;
    }
}

__device__ __forceinline__ uint4 pack(const float (&from)[VECTOR])
{
    uint4 to;
    __nv_bfloat162 *pairs = (__nv_bfloat162 *)&to;
#pragma unroll
    for (int i = 0; i < VECTOR / 2; i++)
        pairs[i] = __floats2bfloat162_rn(from[2 * i], from[2 * i + 1]);
    return to;
}

/* As it is kept between ops. */
__device__ __forceinline__ float round_bf16(float value)
{
    return __bfloat162float(__float2bfloat16_rn(value));
}

/* The sum of all threads' values, at all of them, in the same order however many rows there are. `scratch` [33] */
__device__ __forceinline__ float block_sum(float value, float *scratch)
{
    const int32_t lane = (int32_t)threadIdx.x % 32, warp = (int32_t)threadIdx.x / 32,
                  warps = (int32_t)blockDim.x / 32;
#pragma unroll
    for (int i = 16; i > 0; i /= 2)
        value += __shfl_xor_sync(~0u, value, i);
    if (lane == 0)
        scratch[warp] = value;
    __syncthreads();
    value = lane < warps ? scratch[lane] : 0;
#pragma unroll
    for (int i = 16; i > 0; i /= 2)
        value += __shfl_xor_sync(~0u, value, i);
    __syncthreads(); /* scratch may be written again */
    return value;
}

/* The scale of the 128 channels that this thread and its 15 neighbours have (quantise.h has the recipe). */
__device__ __forceinline__ float group_scale(const float (&x)[VECTOR], bool ue8m0)
{
    float most = 1e-4f;
#pragma unroll
    for (int i = 0; i < VECTOR; i++)
        most = fmaxf(most, fabsf(x[i])); /* a NaN does not count */
#pragma unroll
    for (int i = GROUP_THREADS / 2; i > 0; i /= 2)
        most = fmaxf(most, __shfl_xor_sync(~0u, most, i));
    const float scale = __fdiv_rn(most, FP8_MAX);
    if (!ue8m0)
        return scale;
    const uint32_t bits = __float_as_uint(scale);
    return __uint_as_float((bits & 0x7fffffu) != 0 ? (bits & 0x7f800000u) + 0x800000u : bits);
}

__device__ __forceinline__ uint2 quantise(const float (&x)[VECTOR], float scale)
{
    uint2 to;
    uint8_t *bytes = (uint8_t *)&to;
#pragma unroll
    for (int i = 0; i < VECTOR; i++)
        bytes[i] = (uint8_t)__nv_cvt_float_to_fp8(__fdiv_rn(x[i], scale), __NV_SATFINITE, __NV_E4M3);
    return to;
}

/* Vector `at` of a row; all 16 threads of a group are here, those beyond the row with zeros. */
__device__ __forceinline__ void store_quantised(const proa_cuda_fp8_rows &to, int64_t row, int32_t cols,
                                                int32_t at, bool inside, const float (&x)[VECTOR])
{
    const float scale = group_scale(x, to.ue8m0);
    if (!inside)
        return;
    *(uint2 *)(to.q + row * cols + (int64_t)at * VECTOR) = quantise(x, scale);
    if (at % GROUP_THREADS == 0)
        to.scale[(int64_t)(at / GROUP_THREADS) * to.stride + row] = scale;
}

} // namespace proa

#endif
