/* portable.c - swiglu in plain C. */
#include "op/swiglu/run.h"

#include "base/number.h"

#include <math.h>

static void run(const float *gate, const float *up, float *y, int32_t count, bool round)
{
    for (int32_t i = 0; i < count; i++) {
        float value = gate[i] / (1 + expf(-gate[i])) * up[i];
        y[i] = round ? proa_round_bf16(value) : value;
    }
}

proa_swiglu_run proa_swiglu_run_portable(void)
{
    return run;
}
