/* cuda_decode.cu - host side of cuda_decode.cuh: workspace, tensor maps, launches. */
#include "op/mla/cuda_decode.h"

#include "op/cuda/launch.cuh"
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
    d.codes = a->fp8 ? (const uint8_t *)a->cache : NULL;
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
    return proa_cuda_follow(stream, mla_plan, dim3(1), MLA_LIMITS, (size_t)a->rows * sizeof(int32_t), d,
                            parts, (MlaStretch *)d.stretches, (int32_t *)d.first_split);
}

/* [9, rows, 64] over rows of 576: what a tile's shared memory looks like, piece by piece. */
static cudaError_t map_rows(CUtensorMap *map, const void *base, int64_t rows, int32_t pieces)
{
    const proa_tensor_map what = {.base = base,
                                  .element_bytes = 2,
                                  .rank = 3,
                                  .size = {64, rows, MLA_PIECES},
                                  .stride = {1152, 128},
                                  .box = {64, 64, pieces}};
    return proa_tensor_map_result(&what, map);
}

/* Codes, or rotary keys, of an FP8 cache. */
static cudaError_t map_codes(CUtensorMap *map, const proa_mla_decode_args *a, bool k_pe)
{
    const proa_tensor_map what = {.base = (const uint8_t *)a->cache + (k_pe ? MLA_FP8_K_PE : 0),
                                  .element_bytes = k_pe ? 2 : 1,
                                  .rank = 2,
                                  .size = {k_pe ? 64 : MLA_LATENT, (int64_t)a->cache_blocks * MLA_BLOCK},
                                  .stride = {MLA_FP8_ROW},
                                  .box = {k_pe ? 64 : 128, MLA_BLOCK}};
    return proa_tensor_map_result(&what, map);
}

static cudaError_t map_all(const proa_mla_decode_args *a, MlaMaps *maps)
{
    cudaError_t error = cudaSuccess;
    for (int32_t i = 0; i < 2 && error == cudaSuccess; i++) {
        error = map_rows(&maps->q[i], a->q, (int64_t)a->rows * a->heads, 2 - i);
        if (error == cudaSuccess)
            error = a->fp8 ? map_codes(&maps->cache[i], a, i != 0)
                           : map_rows(&maps->cache[i], a->cache, (int64_t)a->cache_blocks * MLA_BLOCK, 2 - i);
    }
    return error;
}

template <bool FP8>
static cudaError_t launch(const MlaMaps &maps, const MlaDecode &d, unsigned blocks, cudaStream_t stream)
{
    const cudaError_t error =
        cudaFuncSetAttribute(mla_decode<FP8>, cudaFuncAttributeMaxDynamicSharedMemorySize, sizeof(MlaShared));
    return error != cudaSuccess ? error
                                : proa_cuda_follow(stream, mla_decode<FP8>, dim3(blocks), MLA_THREADS,
                                                   sizeof(MlaShared), maps, d);
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
        const proa_dtype dtype = a->fp8 ? PROA_DTYPE_E4M3 : PROA_DTYPE_BF16;
        if (bytes > 47 * 1024 || !proa_kv_row_fits(dtype, a->kv_lora_rank, a->rope_dim))
            return cudaErrorInvalidValue;
        return proa_cuda_follow(stream, mla_decode_generic, dim3((unsigned)a->rows, (unsigned)a->heads),
                                MLA_GENERIC_THREADS, bytes, d, (const __nv_bfloat16 *)a->q,
                                (const uint8_t *)a->cache, a->fp8, a->kv_lora_rank, a->rope_dim);
    }
    cudaError_t error = parts_of(a, &parts);
    if (error == cudaSuccess)
        error = map_all(a, &maps);
    if (error != cudaSuccess)
        return error;
    const unsigned tiles = (unsigned)tiles_of(a->heads), blocks = (unsigned)parts * tiles;
    error = a->fp8 ? launch<true>(maps, d, blocks, stream) : launch<false>(maps, d, blocks, stream);
    return error != cudaSuccess ? error
                                : proa_cuda_follow(stream, mla_combine,
                                                   dim3((unsigned)a->rows, tiles * MLA_CHUNKS), 256, 0, d);
}

PROA_CUDA_KERNELS(mla_decode, mla_plan)
