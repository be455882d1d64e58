/* cuda.cu - 16 threads a group of 128 channels. */
#include "op/quantise/cuda.h"

#include "op/cuda/launch.cuh"
#include "op/cuda/vectors.cuh"

namespace proa
{

/* y = blocks of columns of 8 * 256; x of the grid is the row. */
__global__ void __launch_bounds__(ROW_THREADS) quantise_rows(const proa_cuda_quantise_args g)
{
    const int32_t at = (int32_t)(blockIdx.y * ROW_THREADS + threadIdx.x);
    const bool inside = at < g.cols / VECTOR;
    float x[VECTOR] = {0};
    follow();
    if (inside)
        unpack(*(const uint4 *)((const __nv_bfloat16 *)g.x + blockIdx.x * g.x_stride + at * VECTOR), x);
    store_quantised(g.q, blockIdx.x, g.cols, at, inside, x);
}

} // namespace proa

proa_status proa_cuda_quantise(proa_gpu *gpu, const proa_cuda_quantise_args *a, proa_error *err)
{
    if (a->cols % proa::VECTOR != 0)
        return proa_error_set(err, PROA_ERR_UNSUPPORTED,
                              "rows of %d values: the GPU quantises multiples of %d", a->cols, proa::VECTOR);
    const int32_t across = (a->cols / proa::VECTOR + proa::ROW_THREADS - 1) / proa::ROW_THREADS;
    if (a->rows == 0)
        return PROA_OK;
    return proa_cuda_status(proa_cuda_follow(proa_cuda_stream(gpu), proa::quantise_rows,
                                             dim3(a->rows, across), proa::ROW_THREADS, 0, *a),
                            "quantise", err);
}

PROA_CUDA_KERNELS(quantise, proa::quantise_rows)
