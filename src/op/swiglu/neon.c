/* neon.c - swiglu with NEON: arm64's, in the place of portable.c there. */
#include "op/swiglu/run.h"

#include "op/vector.h"

static void run(const float *gate, const float *up, float *y, int32_t count, bool round)
{
    for (int32_t i = 0; i < count; i += 4) {
        float32x4_t g = proa_load_4(gate + i, count - i), u = proa_load_4(up + i, count - i);
        float32x4_t e = proa_exp_4(vnegq_f32(g));
        float32x4_t value = vmulq_f32(vdivq_f32(g, vaddq_f32(vdupq_n_f32(1), e)), u);
        proa_store_4(y + i, count - i, round ? proa_neon_round_bf16_4(value) : value);
    }
}

proa_swiglu_run proa_swiglu_run_portable(void)
{
    return run;
}
