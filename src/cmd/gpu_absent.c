/* gpu_absent.c - in place of gpu.c where no CUDA compiler was found. */
#include "cmd/gpu.h"

proa_status proa_loaded_gpu_open(const proa_options *options, proa_loaded_gpu **gpu, proa_error *err)
{
    (void)options;
    *gpu = NULL;
    return proa_error_set(
        err, PROA_ERR_UNSUPPORTED,
        "--device cuda: this proa was built without CUDA: build it where nvcc 13 or later is in PATH or "
        "/usr/local/cuda, or use --device cpu");
}

void proa_loaded_gpu_close(proa_loaded_gpu *gpu)
{
    PROA_ASSERT(gpu == NULL);
}

proa_status proa_loaded_gpu_take(proa_loaded_gpu *gpu, const proa_options *options,
                                 const proa_model_config *config, const proa_weights *from, proa_pool *pool,
                                 proa_error *err)
{
    (void)gpu, (void)options, (void)config, (void)from, (void)pool;
    return proa_error_set(err, PROA_ERR_INTERNAL, "no GPU");
}

proa_status proa_loaded_gpu_plan(const proa_loaded_gpu *gpu, const proa_options *options,
                                 const proa_forward_limits *limits, proa_loaded_gpu_bytes *bytes,
                                 proa_error *err)
{
    (void)gpu, (void)options, (void)limits, (void)bytes;
    return proa_error_set(err, PROA_ERR_INTERNAL, "no GPU");
}

proa_status proa_loaded_gpu_forward(proa_loaded_gpu *gpu, const proa_options *options,
                                    const proa_forward_limits *limits, bool host_logits, proa_trace *trace,
                                    proa_forward **forward, proa_error *err)
{
    (void)gpu, (void)options, (void)limits, (void)host_logits, (void)trace, (void)forward;
    return proa_error_set(err, PROA_ERR_INTERNAL, "no GPU");
}
