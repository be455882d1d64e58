/* ref.c - quantise as specified. Division and rounding are float32's: the result is defined bit for bit, so that
 * this and every other version agree exactly. A NaN does not count for amax and becomes e4m3's NaN. */
#include "op/quantise/quantise.h"

#include "base/number.h"

static float round_up_to_power_of_two(float s)
{
    uint32_t bits;
    memcpy(&bits, &s, sizeof bits);
    if ((bits & 0x7fffffu) != 0)
        bits = (bits & 0x7f800000u) + 0x800000u;
    memcpy(&s, &bits, sizeof s);
    return s;
}

static float group_scale(const float *x, int64_t count, bool ue8m0)
{
    float amax = 1e-4f;
    for (int64_t i = 0; i < count; i++)
        if (fabsf(x[i]) > amax)
            amax = fabsf(x[i]);
    float s = amax / 448.0f;
    return ue8m0 ? round_up_to_power_of_two(s) : s;
}

void proa_quantise_ref(const proa_host *host, const proa_quantise_args *args)
{
    int64_t groups = ((int64_t)args->cols + PROA_QUANT_GROUP - 1) / PROA_QUANT_GROUP;
    PROA_ASSERT(args->x_stride >= args->cols);
    for (int64_t r = 0; r < args->rows; r++) {
        for (int64_t g = 0; g < groups; g++) {
            int64_t first = g * PROA_QUANT_GROUP, count = args->cols - first;
            if (count > PROA_QUANT_GROUP)
                count = PROA_QUANT_GROUP;
            const float *x = args->x + r * args->x_stride + first;
            float s = group_scale(x, count, host->ue8m0);
            args->s[r * groups + g] = s;
            for (int64_t i = 0; i < count; i++)
                args->q[r * args->cols + first + i] = proa_f32_to_e4m3(x[i] / s);
        }
    }
}
