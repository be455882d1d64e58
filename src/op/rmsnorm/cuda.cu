/* cuda.cu - a block a row, a vector a thread: few rows have to fill the GPU's schedulers. */
#include "op/rmsnorm/cuda.h"

#include "op/cuda/launch.cuh"
#include "op/cuda/vectors.cuh"

namespace proa
{

constexpr int32_t NORM_THREADS = 1024; /* at most */

__global__ void __launch_bounds__(NORM_THREADS) rmsnorm(const proa_cuda_rmsnorm_args g)
{
    __shared__ float scratch[33];
    const int64_t row = blockIdx.x;
    const int32_t vectors = g.cols / VECTOR;
    __nv_bfloat16 *x = (__nv_bfloat16 *)g.x + row * g.x_stride;
    const int32_t at = (int32_t)threadIdx.x;
    const bool inside = at < vectors;
    float h[VECTOR] = {0}, w[VECTOR] = {0}, sum = 0;
    if (inside && g.w != nullptr)
        unpack(*(const uint4 *)((const __nv_bfloat16 *)g.w + at * VECTOR), w);
    follow();
    if (inside)
        unpack(*(const uint4 *)(x + at * VECTOR), h);
    if (inside && g.delta != nullptr) {
        float d[VECTOR];
        unpack(*(const uint4 *)((const __nv_bfloat16 *)g.delta + row * g.cols + at * VECTOR), d);
#pragma unroll
        for (int j = 0; j < VECTOR; j++)
            h[j] = round_bf16(h[j] + d[j]);
        *(uint4 *)(x + at * VECTOR) = pack(h);
    }
    if (g.w == nullptr)
        return;
#pragma unroll
    for (int j = 0; j < VECTOR; j++)
        sum = fmaf(h[j], h[j], sum);
    sum = block_sum(sum, scratch);
    const float factor = __fdiv_rn(1.0f, __fsqrt_rn(__fdiv_rn(sum, (float)g.cols) + g.eps));
#pragma unroll
    for (int j = 0; j < VECTOR; j++)
        h[j] = round_bf16(h[j] * factor * w[j]);
    if (inside && g.y != nullptr)
        *(uint4 *)((__nv_bfloat16 *)g.y + row * g.y_stride + at * VECTOR) = pack(h);
    if (g.q.q != nullptr)
        store_quantised(g.q, row, g.cols, at, inside, h);
}

} // namespace proa

proa_status proa_cuda_rmsnorm(proa_gpu *gpu, const proa_cuda_rmsnorm_args *a, proa_error *err)
{
    const int32_t most = proa::NORM_THREADS * proa::VECTOR;
    const int32_t threads = (a->cols / proa::VECTOR + 31) / 32 * 32;
    if (a->cols % proa::VECTOR != 0 || a->cols > most)
        return proa_error_set(err, PROA_ERR_UNSUPPORTED,
                              "rows of %d values: the GPU norms multiples of %d up to %d", a->cols,
                              proa::VECTOR, most);
    if (a->rows == 0)
        return PROA_OK;
    return proa_cuda_status(
        proa_cuda_follow(proa_cuda_stream(gpu), proa::rmsnorm, dim3(a->rows), threads, 0, *a), "rmsnorm",
        err);
}

PROA_CUDA_KERNELS(rmsnorm, proa::rmsnorm)
