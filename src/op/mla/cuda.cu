/* cuda.cu - see cuda.h. */
#include "op/mla/cuda.h"

#include "op/cuda/launch.cuh"

proa_status proa_cuda_mla_plan(proa_gpu *gpu, const proa_mla_decode_args *args, proa_error *err)
{
    return proa_cuda_status(proa_mla_decode_plan(args, proa_cuda_stream(gpu)), "planning decode attention",
                            err);
}

proa_status proa_cuda_mla_decode(proa_gpu *gpu, const proa_mla_decode_args *args, proa_error *err)
{
    return proa_cuda_status(proa_mla_decode(args, proa_cuda_stream(gpu)), "decode attention", err);
}

proa_status proa_cuda_mla_prefill(proa_gpu *gpu, const proa_mla_prefill_args *args, proa_error *err)
{
    return proa_cuda_status(proa_mla_prefill(args, proa_cuda_stream(gpu)), "prefill attention", err);
}
