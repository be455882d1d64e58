/* cuda.cu - blocks walk the rows of all groups there are. */
#include "op/swiglu/cuda.h"

#include "op/cuda/groups.cuh"
#include "op/cuda/launch.cuh"
#include "op/cuda/vectors.cuh"

namespace proa
{

/* y = blocks of columns of 8 * 256; x of the grid walks rows. */
__global__ void __launch_bounds__(ROW_THREADS) swiglu(proa_cuda_swiglu_args g)
{
    __shared__ NearGroups near;
    const int32_t at = (int32_t)(blockIdx.y * ROW_THREADS + threadIdx.x);
    const bool inside = at < g.cols / VECTOR;
    int32_t next = (int32_t)blockIdx.x, before = 0;
    follow();
    near.take(&g.rows);
    for (int32_t group = 0; group < g.rows.groups; group++) {
        const int32_t count = g.rows.first != nullptr ? g.rows.count[group] : g.rows.rows;
        const int32_t first = g.rows.first != nullptr ? g.rows.first[group] : 0;
        for (; next - before < count; next += (int32_t)gridDim.x) {
            const int64_t row = first + next - before;
            float gate[VECTOR] = {0}, up[VECTOR] = {0};
            if (inside) {
                unpack(*(const uint4 *)((const __nv_bfloat16 *)g.gate + row * g.stride + at * VECTOR), gate);
                unpack(*(const uint4 *)((const __nv_bfloat16 *)g.up + row * g.stride + at * VECTOR), up);
            }
#pragma unroll
            for (int i = 0; i < VECTOR; i++)
                gate[i] = round_bf16(__fdiv_rn(gate[i], 1.0f + expf(-gate[i])) * up[i]);
            if (inside && g.y != nullptr)
                *(uint4 *)((__nv_bfloat16 *)g.y + row * g.cols + at * VECTOR) = pack(gate);
            if (g.q.q != nullptr)
                store_quantised(g.q, row, g.cols, at, inside, gate);
        }
        before += count;
    }
}

} // namespace proa

proa_status proa_cuda_swiglu(proa_gpu *gpu, const proa_cuda_swiglu_args *a, proa_error *err)
{
    if (a->cols % proa::VECTOR != 0)
        return proa_error_set(err, PROA_ERR_UNSUPPORTED, "rows of %d values: the GPU takes multiples of %d",
                              a->cols, proa::VECTOR);
    const int32_t across = (a->cols / proa::VECTOR + proa::ROW_THREADS - 1) / proa::ROW_THREADS;
    const int32_t fitting =
        proa_gpu_facts_of(gpu)->multiprocessors * 8 / across; /* eight blocks of 256 threads fit */
    const bool known = a->rows.first == NULL && a->rows.groups == 1;
    const int32_t blocks = known && a->rows.rows < fitting ? a->rows.rows : fitting;
    if (blocks == 0)
        return PROA_OK;
    return proa_cuda_status(
        proa_cuda_follow(proa_cuda_stream(gpu), proa::swiglu, dim3(blocks, across), proa::ROW_THREADS, 0, *a),
        "swiglu", err);
}

PROA_CUDA_KERNELS(swiglu, proa::swiglu)
