/* cuda_decode.cu - host side of cuda_decode.cuh: workspace, tensor maps, launches. */
#include "op/mla/cuda_decode.h"

#include "op/mla/cuda_decode_generic.cuh"

using namespace proa;

static size_t aligned(size_t bytes)
{
    return (bytes + 255) / 256 * 256;
}

static int32_t tiles_of(int32_t heads)
{
    return (heads + MLA_HEADS - 1) / MLA_HEADS;
}

/* Workspace: stretches | first splits | sums of the parts | parts. */
enum { STRETCHES_MAX = 1024 };

static size_t sums_at(int32_t rows)
{
    return aligned(STRETCHES_MAX * sizeof(MlaStretch)) + aligned((size_t)rows * sizeof(int32_t));
}

static size_t parts_at(int32_t rows, int32_t heads, int32_t splits_max)
{
    return sums_at(rows) + aligned((size_t)splits_max * tiles_of(heads) * MLA_HEADS * sizeof(float2));
}

extern "C" int32_t proa_mla_decode_splits(int32_t length)
{
    return length <= 0 ? 0 : (length + MLA_SPLIT - 1) / MLA_SPLIT;
}

extern "C" size_t proa_mla_decode_workspace_bytes(int32_t rows, int32_t heads, int32_t splits_max)
{
    return parts_at(rows, heads, splits_max) +
           (size_t)splits_max * tiles_of(heads) * MLA_HEADS * MLA_LATENT * sizeof(float);
}

static MlaDecode described(const proa_mla_decode_args *a)
{
    MlaDecode d;
    uint8_t *memory = (uint8_t *)a->workspace;
    d.rows = a->rows;
    d.heads = a->heads;
    d.rows_per_table = a->rows_per_table;
    d.table_stride = a->table_stride;
    d.table = a->table;
    d.lengths = a->lengths;
    d.stretches = (MlaStretch *)memory;
    d.first_split = (int32_t *)(memory + aligned(STRETCHES_MAX * sizeof(MlaStretch)));
    d.scale = a->scale;
    d.out = (__nv_bfloat16 *)a->out;
    d.lse = a->lse;
    d.part_sum = (float2 *)(memory + sums_at(a->rows));
    d.part = (float *)(memory + parts_at(a->rows, a->heads, a->splits_max));
    return d;
}

static cudaError_t parts_of(const proa_mla_decode_args *a, int32_t *parts)
{
    int device = 0, processors = 0;
    cudaError_t error = cudaGetDevice(&device);
    if (error == cudaSuccess)
        error = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
    *parts = a->parts > 0 ? a->parts : processors / tiles_of(a->heads);
    *parts = *parts < 1 ? 1 : *parts > STRETCHES_MAX ? STRETCHES_MAX : *parts;
    return error;
}

static bool fast(const proa_mla_decode_args *a)
{
    return a->kv_lora_rank == MLA_LATENT && a->rope_dim == 64;
}

extern "C" cudaError_t proa_mla_decode_plan(const proa_mla_decode_args *a, cudaStream_t stream)
{
    int32_t parts = 0;
    const MlaDecode d = described(a);
    if (!fast(a) || a->rows == 0)
        return cudaSuccess;
    if (a->rows > MLA_ROWS_MAX)
        return cudaErrorInvalidValue;
    cudaError_t error = parts_of(a, &parts);
    if (error != cudaSuccess)
        return error;
    mla_plan<<<1, MLA_LIMITS, (size_t)a->rows * sizeof(int32_t), stream>>>(
        d, parts, (MlaStretch *)d.stretches, (int32_t *)d.first_split);
    return cudaGetLastError();
}

typedef CUresult (*MapEncode)(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *, const cuuint64_t *,
                              const cuuint64_t *, const cuuint32_t *, const cuuint32_t *,
                              CUtensorMapInterleave, CUtensorMapSwizzle, CUtensorMapL2promotion,
                              CUtensorMapFloatOOBfill);

/* [9, rows, 64] over rows of 576: what a tile's shared memory looks like, piece by piece. */
static cudaError_t map_rows(MapEncode encode, CUtensorMap *map, const void *base, uint64_t rows,
                            uint32_t pieces)
{
    const cuuint64_t shape[3] = {64, rows, MLA_PIECES}, bytes[2] = {1152, 128};
    const cuuint32_t box[3] = {64, 64, pieces}, steps[3] = {1, 1, 1};
    const CUresult result = encode(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3, (void *)base, shape, bytes, box,
                                   steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                                   CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

static cudaError_t map_all(const proa_mla_decode_args *a, MlaMaps *maps)
{
    void *entry = NULL;
    cudaDriverEntryPointQueryResult found;
    cudaError_t error =
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000, cudaEnableDefault, &found);
    if (error != cudaSuccess || found != cudaDriverEntryPointSuccess)
        return error != cudaSuccess ? error : cudaErrorNotSupported;
    for (uint32_t i = 0; i < 2 && error == cudaSuccess; i++) {
        error = map_rows((MapEncode)entry, &maps->q[i], a->q, (uint64_t)a->rows * a->heads, 2 - i);
        if (error == cudaSuccess)
            error = map_rows((MapEncode)entry, &maps->cache[i], a->cache,
                             (uint64_t)a->cache_blocks * MLA_BLOCK, 2 - i);
    }
    return error;
}

extern "C" cudaError_t proa_mla_decode(const proa_mla_decode_args *a, cudaStream_t stream)
{
    MlaMaps maps;
    int32_t parts = 0;
    const MlaDecode d = described(a);
    if (a->rows == 0)
        return cudaSuccess;
    if (!fast(a)) {
        const size_t bytes = (size_t)(2 * a->kv_lora_rank + a->rope_dim) * sizeof(float);
        if (bytes > 47 * 1024)
            return cudaErrorInvalidValue;
        mla_decode_generic<<<dim3((unsigned)a->rows, (unsigned)a->heads), MLA_GENERIC_THREADS, bytes,
                             stream>>>(d, (const __nv_bfloat16 *)a->q, (const __nv_bfloat16 *)a->cache,
                                       a->kv_lora_rank, a->rope_dim);
        return cudaGetLastError();
    }
    cudaError_t error = parts_of(a, &parts);
    if (error == cudaSuccess)
        error = map_all(a, &maps);
    if (error == cudaSuccess)
        error =
            cudaFuncSetAttribute(mla_decode, cudaFuncAttributeMaxDynamicSharedMemorySize, sizeof(MlaShared));
    if (error != cudaSuccess)
        return error;
    const unsigned tiles = (unsigned)tiles_of(a->heads);
    mla_decode<<<(unsigned)parts * tiles, MLA_THREADS, sizeof(MlaShared), stream>>>(maps, d);
    mla_combine<<<dim3((unsigned)a->rows, tiles * MLA_CHUNKS), 256, 0, stream>>>(d);
    return cudaGetLastError();
}
