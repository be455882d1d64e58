/* fill.cu - see fill.h. The generator is SplitMix64's finaliser over a counter (Steele, Lea, Flood, OOPSLA 2014). */
#include "op/cuda/fill.h"

#include "op/cuda/launch.cuh"

#include <cuda_bf16.h>
#include <cuda_fp8.h>

namespace
{

enum { THREADS = 256, BLOCKS = 2048 };

__device__ float uniform(uint64_t key, uint64_t i)
{
    uint64_t z = key * 0xd1342543de82ef95ull + (i + 1) * 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    z ^= z >> 31;
    return (float)((double)(int64_t)z * 0x1p-63);
}

__device__ void store(__nv_bfloat16 *to, float value)
{
    *to = __float2bfloat16_rn(value);
}

__device__ void store(float *to, float value)
{
    *to = value;
}

__device__ void store(__nv_fp8_e4m3 *to, float value)
{
    *to = __nv_fp8_e4m3(value);
}

template <typename T>
__global__ void __launch_bounds__(THREADS)
    fill(T *to, uint64_t count, uint64_t key, float middle, float spread)
{
    for (uint64_t i = (uint64_t)blockIdx.x * THREADS + threadIdx.x; i < count;
         i += (uint64_t)gridDim.x * THREADS)
        store(to + i, middle + spread * uniform(key, i));
}

template <typename T>
proa_status launch(proa_gpu *gpu, void *to, uint64_t count, uint64_t key, float middle, float spread,
                   proa_error *err)
{
    fill<<<BLOCKS, THREADS, 0, proa_cuda_stream(gpu)>>>((T *)to, count, key, middle, spread);
    return proa_cuda_launched("filling with random values", err);
}

} // namespace

proa_status proa_cuda_fill_bf16(proa_gpu *gpu, void *to, uint64_t count, uint64_t key, float middle,
                                float spread, proa_error *err)
{
    return launch<__nv_bfloat16>(gpu, to, count, key, middle, spread, err);
}

proa_status proa_cuda_fill_float(proa_gpu *gpu, float *to, uint64_t count, uint64_t key, float middle,
                                 float spread, proa_error *err)
{
    return launch<float>(gpu, to, count, key, middle, spread, err);
}

proa_status proa_cuda_fill_e4m3(proa_gpu *gpu, void *to, uint64_t count, uint64_t key, proa_error *err)
{
    return launch<__nv_fp8_e4m3>(gpu, to, count, key, 0, 448, err);
}

PROA_CUDA_KERNELS(fill, fill<float>)
