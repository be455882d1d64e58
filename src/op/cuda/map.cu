/* map.cu - tensor maps, by the driver's encoder, which is found at run time: the program must start without a driver. */
#include "op/cuda/launch.cuh"

#include <cudaTypedefs.h>

proa_status proa_tensor_map_make(const proa_tensor_map *t, CUtensorMap *map, proa_error *err)
{
    PFN_cuTensorMapEncodeTiled_v12000 encode = NULL;
    cudaDriverEntryPointQueryResult found;
    const cudaError_t result = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", (void **)&encode,
                                                                12000, cudaEnableDefault, &found);
    if (result != cudaSuccess || found != cudaDriverEntryPointSuccess)
        return proa_error_set(err, PROA_ERR_UNSUPPORTED,
                              "the NVIDIA driver has no tensor maps: CUDA 13 needs a newer one");
    cuuint64_t size[3], stride[2];
    cuuint32_t box[3], step[3] = {1, 1, 1};
    for (int i = 0; i < t->rank; i++) {
        size[i] = (cuuint64_t)t->size[i];
        box[i] = (cuuint32_t)t->box[i];
        if (i > 0)
            stride[i - 1] = (cuuint64_t)t->stride[i - 1];
    }
    const CUresult encoded = encode(
        map, t->element_bytes == 1 ? CU_TENSOR_MAP_DATA_TYPE_UINT8 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
        (cuuint32_t)t->rank, (void *)t->base, size, stride, box, step, CU_TENSOR_MAP_INTERLEAVE_NONE,
        CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (encoded != CUDA_SUCCESS)
        return proa_error_set(err, PROA_ERR_DEVICE,
                              "the driver refused a tensor map of [%lld, %lld] (CUDA driver error %d)",
                              (long long)t->size[1], (long long)t->size[0], (int)encoded);
    return PROA_OK;
}
