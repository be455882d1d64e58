/* cuda_fp8.cu - the kernels of cuda_fp8.cuh that are built, and which one a shape gets. */
#include "op/linear/cuda.h"

#include "op/cuda/launch.cuh"
#include "op/linear/cuda_fp8.cuh"

#include <math.h>

namespace
{

typedef cudaError_t launch_function(cudaStream_t stream, int32_t blocks, const CUtensorMap *x,
                                    const CUtensorMap *w, const CUtensorMap *y, const proa::Fp8Gemm *g);

template <int BM, int BN>
cudaError_t launch(cudaStream_t stream, int32_t blocks, const CUtensorMap *x, const CUtensorMap *w,
                   const CUtensorMap *y, const proa::Fp8Gemm *g)
{
    constexpr int BYTES = proa::Fp8Layout<BM, BN>::BYTES;
    const cudaError_t result =
        cudaFuncSetAttribute(proa::fp8_gemm<BM, BN>, cudaFuncAttributeMaxDynamicSharedMemorySize, BYTES);
    if (result != cudaSuccess)
        return result;
    return proa_cuda_follow(stream, proa::fp8_gemm<BM, BN>, dim3((unsigned)blocks), BM * 2 + 128, BYTES, *x,
                            *w, *y, *g);
}

/* ns that a block takes for 128 of K when nothing but its own latency holds it up, as measured on an H100 with the 2112 x 7168
 * projection, where few blocks run. */
struct variant {
    proa_cuda_tile tile;
    double step_ns;
    launch_function *launch;
};

const variant variants[] = {
    {{64, 32}, 208, launch<64, 32>},   {{64, 64}, 237, launch<64, 64>},     {{64, 96}, 286, launch<64, 96>},
    {{64, 128}, 340, launch<64, 128>}, {{128, 32}, 246, launch<128, 32>},   {{128, 64}, 307, launch<128, 64>},
    {{128, 96}, 420, launch<128, 96>}, {{128, 128}, 465, launch<128, 128>},
};

enum { VARIANTS = sizeof variants / sizeof *variants };

const double BYTES_NS =
    3000; /* that memory gives; what is read more than once comes from the second-level cache */
const double IDLE =
    0.5; /* the power of the share of idle blocks that memory loses while the last wave of tiles runs */
const double CACHE_NS = 8500;
const double SHOWING = 0.15;

/* What a call takes by this variant: its waves or what it reads, whichever takes longest; the others are not quite hidden behind it. */
double cost_ns(const variant *v, const proa_cuda_fp8_linear_args *a, int32_t blocks)
{
    const int64_t rows = a->rows.first == NULL ? a->rows.rows : a->rows.expected > 0 ? a->rows.expected : 128;
    const int64_t down = (rows + v->tile.rows - 1) / v->tile.rows,
                  across = (a->n + v->tile.columns - 1) / v->tile.columns;
    const int64_t tiles = down * across * a->rows.groups;
    const double waves = (double)((tiles + blocks - 1) / blocks);
    const double step = v->step_ns * (double)a->k / 128;
    const double bytes =
        (double)a->rows.groups * ((double)a->n * a->k + (double)rows * a->k + 2.0 * (double)rows * a->n);
    /* how many rows groups have, and so how full the last wave is, is known only on the GPU */
    const double memory = a->rows.first == NULL ? bytes * pow(waves * blocks / (double)tiles, IDLE) : bytes;
    const double cache = (double)tiles * (v->tile.rows + v->tile.columns) * (double)a->k;
    const double parts[3] = {waves * step, memory / BYTES_NS, cache / CACHE_NS};
    double longest = 0, all = 0;
    for (int i = 0; i < 3; i++) {
        longest = parts[i] > longest ? parts[i] : longest;
        all += parts[i];
    }
    return longest + SHOWING * (all - longest);
}

const variant *choose(const proa_gpu *gpu, const proa_cuda_fp8_linear_args *a)
{
    const int32_t blocks = proa_gpu_facts_of(gpu)->multiprocessors;
    const variant *best = NULL;
    for (int i = 0; i < VARIANTS; i++) {
        const variant *v = &variants[i];
        if (a->tile.rows > 0 && (v->tile.rows != a->tile.rows || v->tile.columns != a->tile.columns))
            continue;
        if (best == NULL || cost_ns(v, a, blocks) < cost_ns(best, a, blocks))
            best = v;
    }
    return best;
}

proa_status check(const proa_cuda_fp8_linear_args *a, proa_error *err)
{
    if (a->n % 8 != 0 || a->k % 16 != 0 || a->y_stride % 8 != 0 || a->x.stride % 128 != 0)
        return proa_error_set(err, PROA_ERR_UNSUPPORTED,
                              "an FP8 weight of [%d, %d]: the GPU takes multiples of 8 and 16", a->n, a->k);
    return PROA_OK;
}

} // namespace

proa_status proa_cuda_fp8_linear(proa_gpu *gpu, const proa_cuda_fp8_linear_args *a, proa_error *err)
{
    proa_status status = check(a, err);
    const variant *v = choose(gpu, a);
    CUtensorMap x_map, w_map, y_map;
    if (status == PROA_OK && v == NULL)
        status = proa_error_set(err, PROA_ERR_INVALID, "no FP8 kernel has tiles of %d x %d", a->tile.rows,
                                a->tile.columns);
    if (status != PROA_OK || (a->rows.first == NULL && a->rows.rows == 0))
        return status;
    const proa_tensor_map x = {.base = a->x.q,
                               .element_bytes = 1,
                               .rank = 2,
                               .size = {a->k, a->rows_max},
                               .stride = {a->k},
                               .box = {proa::FP8_K, v->tile.rows}};
    const proa_tensor_map w = {.base = a->w,
                               .element_bytes = 1,
                               .rank = 2,
                               .size = {a->k, (int64_t)a->rows.groups * a->n},
                               .stride = {a->k},
                               .box = {proa::FP8_K, v->tile.columns}};
    const proa_tensor_map y = {.base = a->y,
                               .element_bytes = 2,
                               .rank = 2,
                               .size = {a->n, a->rows.first == NULL ? a->rows.rows : a->rows_max},
                               .stride = {a->y_stride * 2},
                               .box = {64, 64}};
    status = proa_tensor_map_make(&x, &x_map, err);
    if (status == PROA_OK)
        status = proa_tensor_map_make(&y, &y_map, err);
    if (status == PROA_OK)
        status = proa_tensor_map_make(&w, &w_map, err);
    if (status != PROA_OK)
        return status;
    const proa::Fp8Gemm g = {.rows = a->rows,
                             .n = a->n,
                             .k = a->k,
                             .x_scale = a->x.scale,
                             .scale_stride = a->x.stride,
                             .w_scale = a->w_scale,
                             .y = (__nv_bfloat16 *)a->y,
                             .y_stride = a->y_stride};
    return proa_cuda_status(
        v->launch(proa_cuda_stream(gpu), proa_gpu_facts_of(gpu)->multiprocessors, &x_map, &w_map, &y_map, &g),
        "an FP8 product", err);
}

bool proa_cuda_fp8_linear_tiles(int32_t i, proa_cuda_tile *tile)
{
    if (i < 0 || i >= VARIANTS)
        return false;
    *tile = variants[i].tile;
    return true;
}

bool proa_cuda_fp8_linear_tile(const proa_gpu *gpu, const proa_cuda_fp8_linear_args *a, proa_cuda_tile *tile)
{
    const variant *v = choose(gpu, a);
    if (v != NULL)
        *tile = v->tile;
    return v != NULL;
}

PROA_CUDA_KERNELS(linear_fp8, (proa::fp8_gemm<64, 32>))
