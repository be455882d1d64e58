/* precompile_absent.c - in place of precompile_gpu.c where no CUDA compiler was found. */
#include "cmd/precompile.h"

proa_status proa_precompile_run(const proa_options *options, proa_error *err)
{
    (void)options;
    return proa_error_set(
        err, PROA_ERR_UNSUPPORTED,
        "this proa was built without CUDA: build it where nvcc 13 or later is in PATH or /usr/local/cuda");
}
