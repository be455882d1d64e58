/* cuda.cu - a few blocks a row, a vector of columns a thread. */
#include "op/combine/cuda.h"

#include "op/cuda/launch.cuh"
#include "op/cuda/vectors.cuh"

namespace proa
{

enum { COMBINE_SLOTS = 32 }; /* of a row, at most */

__global__ void __launch_bounds__(ROW_THREADS) combine(const proa_cuda_combine_args g)
{
    __shared__ int32_t place[COMBINE_SLOTS];
    __shared__ float weight[COMBINE_SLOTS];
    const int64_t row = blockIdx.x;
    follow();
    if ((int32_t)threadIdx.x < g.top_k) {
        place[threadIdx.x] = g.place[row * g.top_k + threadIdx.x];
        weight[threadIdx.x] = g.weights[row * g.top_k + threadIdx.x];
    }
    __syncthreads();
    const int32_t at = (int32_t)(blockIdx.y * ROW_THREADS + threadIdx.x);
    if (at < g.cols / VECTOR) {
        float sum[VECTOR] = {0}, one[VECTOR];
#pragma unroll 8
        for (int32_t k = 0; k < g.top_k; k++) {
            unpack(
                *(const uint4 *)((const __nv_bfloat16 *)g.slots + (int64_t)place[k] * g.cols + at * VECTOR),
                one);
#pragma unroll
            for (int i = 0; i < VECTOR; i++)
                sum[i] = fmaf(weight[k], one[i], sum[i]);
        }
        if (g.shared != nullptr) {
            unpack(*(const uint4 *)((const __nv_bfloat16 *)g.shared + row * g.cols + at * VECTOR), one);
#pragma unroll
            for (int i = 0; i < VECTOR; i++)
                sum[i] += one[i];
        }
        *(uint4 *)((__nv_bfloat16 *)g.y + row * g.cols + at * VECTOR) = pack(sum);
    }
}

} // namespace proa

proa_status proa_cuda_combine(proa_gpu *gpu, const proa_cuda_combine_args *a, proa_error *err)
{
    if (a->cols % proa::VECTOR != 0 || a->top_k > proa::COMBINE_SLOTS)
        return proa_error_set(err, PROA_ERR_UNSUPPORTED,
                              "sums of %d rows of %d values: the GPU takes up to %d of multiples of %d",
                              a->top_k, a->cols, proa::COMBINE_SLOTS, proa::VECTOR);
    if (a->rows == 0)
        return PROA_OK;
    const int32_t across = (a->cols / proa::VECTOR + proa::ROW_THREADS - 1) / proa::ROW_THREADS;
    return proa_cuda_status(proa_cuda_follow(proa_cuda_stream(gpu), proa::combine, dim3(a->rows, across),
                                             proa::ROW_THREADS, 0, *a),
                            "combine", err);
}

PROA_CUDA_KERNELS(combine, proa::combine)
