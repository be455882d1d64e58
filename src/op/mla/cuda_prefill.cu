/* cuda_prefill.cu - host side of cuda_prefill.cuh: tensor maps, launches. */
#include "op/mla/cuda_prefill.h"

#include "op/cuda/launch.cuh"
#include "op/mla/cuda_prefill.cuh"

using namespace proa;

static cudaError_t map_rows(CUtensorMap *map, const void *base, int64_t rows, int64_t columns,
                            int32_t box_rows)
{
    const proa_tensor_map what = {.base = base,
                                  .element_bytes = 2,
                                  .rank = 2,
                                  .size = {columns, rows},
                                  .stride = {columns * 2},
                                  .box = {PREFILL_BOX, box_rows}};
    return proa_tensor_map_result(&what, map);
}

static cudaError_t map_all(const proa_mla_prefill_args *a, PrefillMaps *maps)
{
    cudaError_t error = map_rows(&maps->q, a->q, a->rows, (int64_t)a->heads * PREFILL_QK, PREFILL_ROWS / 2);
    if (error == cudaSuccess)
        error = map_rows(&maps->kv, a->kv, a->keys, (int64_t)a->heads * PREFILL_KV, PREFILL_KEYS);
    if (error == cudaSuccess)
        error = map_rows(&maps->k_pe, a->k_pe, a->keys, PREFILL_ROPE, PREFILL_KEYS);
    return error;
}

static MlaPrefill described(const proa_mla_prefill_args *a)
{
    MlaPrefill d;
    d.segments = a->segments;
    d.segment_count = a->segment_count;
    d.heads = a->heads;
    d.rows = a->rows;
    d.scale = a->scale;
    d.out = (__nv_bfloat16 *)a->out;
    d.lse = a->lse;
    d.state_max = a->state_max;
    d.state_sum = a->state_sum;
    d.state_out = a->state_out;
    d.tickets = a->tickets;
    d.l2_bytes = a->l2_bytes > 0 ? a->l2_bytes : PREFILL_L2_BYTES;
    return d;
}

static cudaError_t launch_generic(const proa_mla_prefill_args *a, cudaStream_t stream)
{
    if (a->v_dim > 32 * PREFILL_GENERIC_V)
        return cudaErrorNotSupported;
    MlaPrefillGeneric g;
    g.a = described(a);
    g.q = (const __nv_bfloat16 *)a->q;
    g.kv = (const __nv_bfloat16 *)a->kv;
    g.k_pe = (const __nv_bfloat16 *)a->k_pe;
    g.nope_dim = a->nope_dim;
    g.rope_dim = a->rope_dim;
    g.v_dim = a->v_dim;
    const dim3 grid((unsigned)(a->rows + PREFILL_GENERIC_WARPS - 1) / PREFILL_GENERIC_WARPS,
                    (unsigned)a->heads);
    mla_prefill_generic<<<grid, 32 * PREFILL_GENERIC_WARPS, 0, stream>>>(g);
    return cudaGetLastError();
}

extern "C" cudaError_t proa_mla_prefill(const proa_mla_prefill_args *a, cudaStream_t stream)
{
    if (a->generic || a->nope_dim != PREFILL_NOPE || a->rope_dim != PREFILL_ROPE || a->v_dim != PREFILL_V)
        return launch_generic(a, stream);
    PrefillMaps maps;
    int device = 0, processors = 0;
    cudaError_t error = cudaGetDevice(&device);
    if (error == cudaSuccess)
        error = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
    if (error == cudaSuccess)
        error = map_all(a, &maps);
    if (error == cudaSuccess)
        error = cudaFuncSetAttribute(mla_prefill, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                     PrefillMemory::BYTES);
    if (error != cudaSuccess)
        return error;
    mla_prefill<<<(unsigned)processors, PREFILL_THREADS, PrefillMemory::BYTES, stream>>>(maps, described(a));
    return cudaGetLastError();
}

PROA_CUDA_KERNELS(mla_prefill, mla_prefill_generic)
