/* cuda.cu - a block a row, which it keeps in registers. */
#include "op/rmsnorm/cuda.h"

#include "op/cuda/launch.cuh"
#include "op/cuda/vectors.cuh"

namespace proa
{

constexpr int32_t NORM_VECTORS = 4; /* of a thread */

__global__ void __launch_bounds__(ROW_THREADS) rmsnorm(const proa_cuda_rmsnorm_args g)
{
    __shared__ float scratch[33];
    const int64_t row = blockIdx.x;
    const int32_t vectors = g.cols / VECTOR;
    __nv_bfloat16 *x = (__nv_bfloat16 *)g.x + row * g.x_stride;
    float h[NORM_VECTORS][VECTOR], sum = 0;
#pragma unroll
    for (int i = 0; i < NORM_VECTORS; i++) {
        const int32_t at = i * ROW_THREADS + (int32_t)threadIdx.x;
        if (at < vectors) {
            unpack(*(const uint4 *)(x + at * VECTOR), h[i]);
            if (g.delta != nullptr) {
                float d[VECTOR];
                unpack(*(const uint4 *)((const __nv_bfloat16 *)g.delta + row * g.cols + at * VECTOR), d);
#pragma unroll
                for (int j = 0; j < VECTOR; j++)
                    h[i][j] = round_bf16(h[i][j] + d[j]);
                *(uint4 *)(x + at * VECTOR) = pack(h[i]);
            }
        }
#pragma unroll
        for (int j = 0; j < VECTOR; j++) {
            h[i][j] = at < vectors ? h[i][j] : 0;
            sum = fmaf(h[i][j], h[i][j], sum);
        }
    }
    if (g.w == nullptr)
        return;
    sum = block_sum(sum, scratch);
    const float factor = __fdiv_rn(1.0f, __fsqrt_rn(__fdiv_rn(sum, (float)g.cols) + g.eps));
#pragma unroll
    for (int i = 0; i < NORM_VECTORS; i++) {
        const int32_t at = i * ROW_THREADS + (int32_t)threadIdx.x;
        if (i * ROW_THREADS >= vectors)
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
    const int32_t most = proa::NORM_VECTORS * proa::ROW_THREADS * proa::VECTOR;
    if (a->cols % proa::VECTOR != 0 || a->cols > most)
        return proa_error_set(err, PROA_ERR_UNSUPPORTED,
                              "rows of %d values: the GPU norms multiples of %d up to %d", a->cols,
                              proa::VECTOR, most);
    if (a->rows == 0)
        return PROA_OK;
    proa::rmsnorm<<<a->rows, proa::ROW_THREADS, 0, proa_cuda_stream(gpu)>>>(*a);
    return proa_cuda_launched("rmsnorm", err);
}

PROA_CUDA_KERNELS(rmsnorm, proa::rmsnorm)
