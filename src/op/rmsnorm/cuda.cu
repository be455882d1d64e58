/* cuda.cu - a block a row, which it keeps in registers: a vector a thread where rows are few and have to fill the GPU's schedulers, more
 * where they are many. A sum is that of 32 vectors at a time, then of those, either way: in the same order. */
#include "op/rmsnorm/cuda.h"

#include "op/cuda/launch.cuh"
#include "op/cuda/vectors.cuh"

namespace proa
{

enum { NORM_WARPS = 32 /* of vectors, at most */, NORM_EACH = 4 };

/* The sum over the row of vectors' sums: `mine` of this thread's vectors, which are blockDim.x apart. `scratch` [NORM_WARPS] */
template <int EACH> __device__ __forceinline__ float row_sum(const float (&mine)[EACH], float *scratch)
{
    const int32_t lane = (int32_t)threadIdx.x % 32, warp = (int32_t)threadIdx.x / 32,
                  warps = (int32_t)blockDim.x / 32;
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        float sum = mine[i];
#pragma unroll
        for (int step = 16; step > 0; step /= 2)
            sum += __shfl_xor_sync(~0u, sum, step);
        if (lane == 0)
            scratch[i * warps + warp] = sum;
    }
    __syncthreads();
    float sum = lane < EACH * warps ? scratch[lane] : 0;
#pragma unroll
    for (int step = 16; step > 0; step /= 2)
        sum += __shfl_xor_sync(~0u, sum, step);
    return sum;
}

template <int EACH>
__global__ void __launch_bounds__(NORM_WARPS * 32 / EACH) rmsnorm(const proa_cuda_rmsnorm_args g)
{
    __shared__ float scratch[NORM_WARPS];
    const int64_t row = blockIdx.x;
    const int32_t vectors = g.cols / VECTOR;
    __nv_bfloat16 *x = (__nv_bfloat16 *)g.x + row * g.x_stride;
    float h[EACH][VECTOR], sums[EACH];
    follow();
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        const int32_t at = i * (int32_t)blockDim.x + (int32_t)threadIdx.x;
        sums[i] = 0;
        for (int j = 0; j < VECTOR; j++)
            h[i][j] = 0;
        if (at >= vectors)
            continue;
        unpack(*(const uint4 *)(x + at * VECTOR), h[i]);
        if (g.delta != nullptr) {
            float d[VECTOR];
            unpack(*(const uint4 *)((const __nv_bfloat16 *)g.delta + row * g.cols + at * VECTOR), d);
#pragma unroll
            for (int j = 0; j < VECTOR; j++)
                h[i][j] = round_bf16(h[i][j] + d[j]);
            *(uint4 *)(x + at * VECTOR) = pack(h[i]);
        }
#pragma unroll
        for (int j = 0; j < VECTOR; j++)
            sums[i] = fmaf(h[i][j], h[i][j], sums[i]);
    }
    if (g.w == nullptr)
        return;
    const float sum = row_sum(sums, scratch);
    const float factor = __fdiv_rn(1.0f, __fsqrt_rn(__fdiv_rn(sum, (float)g.cols) + g.eps));
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        const int32_t at = i * (int32_t)blockDim.x + (int32_t)threadIdx.x;
        if (i * (int32_t)blockDim.x >= vectors)
            break;
        if (at < vectors) {
            float w[VECTOR];
            unpack(*(const uint4 *)((const __nv_bfloat16 *)g.w + at * VECTOR), w);
#pragma unroll
            for (int j = 0; j < VECTOR; j++)
                h[i][j] = round_bf16(h[i][j] * factor * w[j]);
            if (g.y != nullptr)
                *(uint4 *)((__nv_bfloat16 *)g.y + row * g.y_stride + at * VECTOR) = pack(h[i]);
        }
        if (g.q.q != nullptr)
            store_quantised(g.q, row, g.cols, at, at < vectors, h[i]);
    }
}

} // namespace proa

proa_status proa_cuda_rmsnorm(proa_gpu *gpu, const proa_cuda_rmsnorm_args *a, proa_error *err)
{
    const int32_t most = proa::NORM_WARPS * 32 * proa::VECTOR;
    const int32_t warps = (a->cols / proa::VECTOR + 31) / 32; /* of vectors */
    if (a->cols % proa::VECTOR != 0 || a->cols > most)
        return proa_error_set(err, PROA_ERR_UNSUPPORTED,
                              "rows of %d values: the GPU norms multiples of %d up to %d", a->cols,
                              proa::VECTOR, most);
    if (a->rows == 0)
        return PROA_OK;
    const dim3 blocks((unsigned)a->rows);
    const bool few = a->rows <= 2 * proa_gpu_facts_of(gpu)->multiprocessors;
    const cudaError_t result =
        few ? proa_cuda_follow(proa_cuda_stream(gpu), proa::rmsnorm<1>, blocks, warps * 32, 0, *a)
            : proa_cuda_follow(proa_cuda_stream(gpu), proa::rmsnorm<proa::NORM_EACH>, blocks,
                               (warps + proa::NORM_EACH - 1) / proa::NORM_EACH * 32, 0, *a);
    return proa_cuda_status(result, "rmsnorm", err);
}

PROA_CUDA_KERNELS(rmsnorm, proa::rmsnorm<1>)
