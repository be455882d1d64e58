/* cuda_bf16.cu - the kernels of cuda_bf16.cuh that are built, and which one a shape gets. */
#include "op/linear/cuda.h"

#include "op/cuda/launch.cuh"
#include "op/linear/cuda_bf16.cuh"

namespace
{

template <int BM, int BN, typename OUT>
cudaError_t launch(cudaStream_t stream, int32_t blocks, const CUtensorMap *x, const CUtensorMap *w,
                   const proa_cuda_bf16_linear_args *a)
{
    constexpr int BYTES = proa::Bf16Layout<BM, BN, OUT>::BYTES;
    const proa::Bf16Gemm<OUT> g = {.rows = a->rows,
                                   .groups = (proa::Bf16Groups)a->groups,
                                   .n = a->n,
                                   .k = a->k,
                                   .y = (OUT *)a->y,
                                   .y_stride = a->y_stride,
                                   .y_group_stride = a->y_group_stride};
    const cudaError_t result = cudaFuncSetAttribute(proa::bf16_gemm<BM, BN, OUT>,
                                                    cudaFuncAttributeMaxDynamicSharedMemorySize, BYTES);
    if (result != cudaSuccess)
        return result;
    return proa_cuda_follow(stream, proa::bf16_gemm<BM, BN, OUT>, dim3((unsigned)blocks), BM * 2 + 128, BYTES,
                            *x, *w, g);
}

typedef cudaError_t launch_function(cudaStream_t stream, int32_t blocks, const CUtensorMap *x,
                                    const CUtensorMap *w, const proa_cuda_bf16_linear_args *a);

struct variant {
    proa_cuda_tile tile;
    launch_function *to_bf16;
    launch_function *to_float;
};

const variant variants[] = {
    {{64, 32}, launch<64, 32, __nv_bfloat16>, launch<64, 32, float>},
    {{64, 64}, launch<64, 64, __nv_bfloat16>, launch<64, 64, float>},
    {{128, 64}, launch<128, 64, __nv_bfloat16>, launch<128, 64, float>},
    {{128, 128}, launch<128, 128, __nv_bfloat16>, launch<128, 128, float>},
};

enum { VARIANTS = sizeof variants / sizeof *variants };

/* The largest tile of which there are enough for all multiprocessors, else the smallest. */
const variant *choose(const proa_cuda_bf16_linear_args *a, int32_t blocks)
{
    const int64_t rows = a->rows.first == NULL ? a->rows.rows : a->rows.expected > 0 ? a->rows.expected : 128;
    for (int i = VARIANTS - 1; i >= 0; i--) {
        const proa_cuda_tile t = variants[i].tile;
        const int64_t tiles =
            (rows + t.rows - 1) / t.rows * ((a->n + t.columns - 1) / t.columns) * a->rows.groups;
        if (a->tile.rows > 0 ? t.rows == a->tile.rows && t.columns == a->tile.columns
                             : i == 0 || (tiles >= blocks && (rows > 64 || t.rows == 64)))
            return &variants[i];
    }
    return NULL;
}

proa_status check(const proa_cuda_bf16_linear_args *a, proa_error *err)
{
    const bool slices = a->groups == PROA_CUDA_GROUPS_SLICES;
    if (a->n % 8 != 0 || a->k % (slices ? proa::BF16_K : 8) != 0 || a->x_stride % 8 != 0 ||
        a->x_head_stride % 8 != 0 || a->y_stride % 8 != 0)
        return proa_error_set(err, PROA_ERR_UNSUPPORTED,
                              "a bf16 weight of [%d, %d]: the GPU takes multiples of 8", a->n, a->k);
    return PROA_OK;
}

} // namespace

proa_status proa_cuda_bf16_linear(proa_gpu *gpu, const proa_cuda_bf16_linear_args *a, proa_error *err)
{
    const bool heads = a->groups == PROA_CUDA_GROUPS_HEADS, slices = a->groups == PROA_CUDA_GROUPS_SLICES;
    const int32_t blocks = proa_gpu_facts_of(gpu)->multiprocessors;
    const variant *v = choose(a, blocks);
    CUtensorMap x_map, w_map;
    proa_status status = check(a, err);
    if (status == PROA_OK && v == NULL)
        status = proa_error_set(err, PROA_ERR_INVALID, "no bf16 kernel has tiles of %d x %d", a->tile.rows,
                                a->tile.columns);
    if (status != PROA_OK)
        return status;
    const int64_t k = slices ? (int64_t)a->k * a->rows.groups : a->k;
    const proa_tensor_map x = {.base = a->x,
                               .element_bytes = 2,
                               .rank = 3,
                               .size = {k, heads ? a->rows.groups : 1, a->rows_max},
                               .stride = {(heads ? a->x_head_stride : a->x_stride) * 2, a->x_stride * 2},
                               .box = {proa::BF16_K, 1, v->tile.rows}};
    const proa_tensor_map w = {.base = a->w,
                               .element_bytes = 2,
                               .rank = 2,
                               .size = {k, slices ? a->n : (int64_t)a->rows.groups * a->n},
                               .stride = {k * 2},
                               .box = {proa::BF16_K, v->tile.columns}};
    status = proa_tensor_map_make(&x, &x_map, err);
    if (status == PROA_OK)
        status = proa_tensor_map_make(&w, &w_map, err);
    if (status != PROA_OK)
        return status;
    launch_function *run = a->y_float ? v->to_float : v->to_bf16;
    return proa_cuda_status(run(proa_cuda_stream(gpu), blocks, &x_map, &w_map, a), "a bf16 product", err);
}

bool proa_cuda_bf16_linear_tiles(int32_t i, proa_cuda_tile *tile)
{
    if (i < 0 || i >= VARIANTS)
        return false;
    *tile = variants[i].tile;
    return true;
}

bool proa_cuda_bf16_linear_tile(const proa_gpu *gpu, const proa_cuda_bf16_linear_args *a,
                                proa_cuda_tile *tile)
{
    const variant *v = choose(a, proa_gpu_facts_of(gpu)->multiprocessors);
    if (v != NULL)
        *tile = v->tile;
    return v != NULL;
}

PROA_CUDA_KERNELS(linear_bf16, (proa::bf16_gemm<64, 32, float>))
