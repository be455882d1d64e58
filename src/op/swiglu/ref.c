/* ref.c - swiglu, scalar in double: the specification. */
#include "op/swiglu/swiglu.h"

#include "op/host.h"

#include <math.h>

void proa_swiglu_ref(const proa_host *host, const proa_swiglu_args *args)
{
    int64_t count = (int64_t)args->rows * args->cols;
    for (int64_t i = 0; i < count; i++) {
        double gate = args->gate[i];
        double silu = gate / (1 + exp(-gate));
        args->y[i] = proa_host_round(host, (float)(silu * args->up[i]));
    }
}
