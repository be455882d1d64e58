/* launch.cuh - what launchers share: results as statuses, tensor maps. */
#ifndef PROA_OP_CUDA_LAUNCH_CUH
#define PROA_OP_CUDA_LAUNCH_CUH

#include "op/cuda/gpu.h"

#include <cuda.h>
#include <cuda_runtime.h>

#ifdef __cplusplus
extern "C" {
#endif

/* `what` was asked of CUDA. */
proa_status proa_cuda_status(cudaError_t result, const char *what, proa_error *err);

/* What one copy of a tile takes of a tensor: dimensions and box by rising stride, the first contiguous; strides in bytes of the
 * second and third dimension. Rows of a box have 128 bytes, in the 128-byte swizzle. */
typedef struct proa_tensor_map {
    const void *base;
    int32_t element_bytes; /* 1, or 2: bf16 */
    int32_t rank;          /* 2 or 3 */
    int64_t size[3];
    int64_t stride[2]; /* multiples of 16 */
    int32_t box[3];
} proa_tensor_map;

proa_status proa_tensor_map_make(const proa_tensor_map *what, CUtensorMap *map, proa_error *err);

#ifdef __cplusplus
}
#endif

/* For launchers that tell CUDA's results: not supported where the driver has no tensor maps, else an invalid value. */
static inline cudaError_t proa_tensor_map_result(const proa_tensor_map *what, CUtensorMap *map)
{
    proa_error err;
    const proa_status status = proa_tensor_map_make(what, map, &err);
    if (status == PROA_OK)
        return cudaSuccess;
    return status == PROA_ERR_UNSUPPORTED ? cudaErrorNotSupported : cudaErrorInvalidValue;
}

static inline cudaStream_t proa_cuda_stream(const proa_gpu *gpu)
{
    return (cudaStream_t)proa_gpu_stream(gpu);
}

/* For a file of kernels, one of them: op/cuda/kernels.cu finds the others through it. */
#define PROA_CUDA_KERNELS(file, kernel)                                                                      \
    extern "C" const void *proa_cuda_kernels_##file(void);                                                   \
    extern "C" const void *proa_cuda_kernels_##file(void)                                                    \
    {                                                                                                        \
        return (const void *)(kernel);                                                                       \
    }

/* Queues a kernel whose blocks may start while those of the one before it on the stream still run (programmatic dependent launch, CUDA
 * programming guide): launches and first copies of weights take no time of their own then. Every thread of it calls follow_wait() before
 * it reads or writes what another kernel touches; as all kernels do, all earlier ones have ended by then. */
template <typename... PARAMETERS, typename... ARGUMENTS>
cudaError_t proa_cuda_follow(cudaStream_t stream, void (*kernel)(PARAMETERS...), dim3 grid, int32_t threads,
                             size_t shared, const ARGUMENTS &...arguments)
{
    cudaLaunchAttribute early = {};
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = dim3((unsigned)threads);
    config.dynamicSmemBytes = shared;
    config.stream = stream;
    config.attrs = &early;
    config.numAttrs = 1;
    return cudaLaunchKernelEx(&config, kernel, PARAMETERS(arguments)...);
}

/* After a launch. */
static inline proa_status proa_cuda_launched(const char *what, proa_error *err)
{
    return proa_cuda_status(cudaGetLastError(), what, err);
}

#endif
