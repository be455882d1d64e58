/* precompile.c - `proa precompile`: proves that nothing is left to compile on a GPU, and measures which tiles a worker with these flags is to
 * use there. What SGLang's compile_deep_gemm is for, without a compiler. precompile.h has the parts. */
#include "cmd/precompile.h"

#include "cmd/cmd.h"

#include <stdio.h>
#include <string.h>

int proa_cmd_precompile(const proa_options *options)
{
    proa_error err = {0};
    const char *device = proa_options_string(options, "device");
    if (strcmp(device, "cuda") != 0) {
        printf("--device %s: its code is compiled, and has no tiles to choose: there is nothing to do\n",
               device);
        return PROA_EXIT_OK;
    }
    return proa_precompile_run(options, &err) == PROA_OK ? PROA_EXIT_OK : proa_cmd_fail(&err);
}
