/* cuda.cu - a block a row. */
#include "op/embed/cuda.h"

#include "op/cuda/launch.cuh"
#include "op/cuda/vectors.cuh"

namespace proa
{

__global__ void __launch_bounds__(ROW_THREADS) embed(const proa_cuda_embed_args g)
{
    follow();
    const uint4 *from = (const uint4 *)((const __nv_bfloat16 *)g.table + (int64_t)g.ids[blockIdx.x] * g.cols);
    uint4 *to = (uint4 *)((__nv_bfloat16 *)g.y + (int64_t)blockIdx.x * g.cols);
    for (int32_t at = (int32_t)threadIdx.x; at < g.cols / VECTOR; at += ROW_THREADS)
        to[at] = from[at];
}

} // namespace proa

proa_status proa_cuda_embed(proa_gpu *gpu, const proa_cuda_embed_args *a, proa_error *err)
{
    if (a->cols % proa::VECTOR != 0)
        return proa_error_set(err, PROA_ERR_UNSUPPORTED, "rows of %d values: the GPU copies multiples of %d",
                              a->cols, proa::VECTOR);
    if (a->rows == 0)
        return PROA_OK;
    return proa_cuda_status(
        proa_cuda_follow(proa_cuda_stream(gpu), proa::embed, dim3(a->rows), proa::ROW_THREADS, 0, *a),
        "embed", err);
}

PROA_CUDA_KERNELS(embed, proa::embed)
