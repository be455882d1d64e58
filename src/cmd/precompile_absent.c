/* precompile_absent.c - in place of precompile.c where no CUDA compiler was found. */
#include "cmd/cmd.h"

int proa_cmd_precompile(const proa_options *options)
{
    proa_error err = {0};
    (void)options;
    proa_error_set(
        &err, PROA_ERR_UNSUPPORTED,
        "this proa was built without CUDA: build it where nvcc 13 or later is in PATH or /usr/local/cuda");
    return proa_cmd_fail(&err);
}
