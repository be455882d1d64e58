/* table.c - RoPE's frequencies, amplitudes and tables, with YaRN's blend, all in double.
 *
 * YaRN (Peng et al., 2023): a dimension that turns more than beta_fast times within the original context keeps its
 * frequency, one that turns less than beta_slow times is slowed down by `factor`, and a linear ramp lies between. */
#include "op/rope/rope.h"

#include "base/status.h"

#include <math.h>

static const double two_pi = 6.283185307179586476925286766559;

/* The (fractional) pair that turns `turns` times within the original context. */
static double pair_of_turns(const proa_rope_config *config, double turns)
{
    return config->dim * log(config->original_max_position / (turns * two_pi)) / (2 * log(config->theta));
}

static double clamp(double value, double low, double high)
{
    return value < low ? low : value > high ? high : value;
}

void proa_rope_frequencies(const proa_rope_config *config, double *inv_freq)
{
    PROA_ASSERT(config->dim % 2 == 0);
    double low = 0, high = 0;
    if (config->yarn) {
        low = clamp(floor(pair_of_turns(config, config->beta_fast)), 0, config->dim - 1);
        high = clamp(ceil(pair_of_turns(config, config->beta_slow)), 0, config->dim - 1);
        if (low == high)
            high += 0.001;
    }
    for (int32_t i = 0; i < config->dim / 2; i++) {
        double plain = pow(config->theta, -2.0 * i / config->dim);
        if (config->yarn) {
            double ramp = clamp((i - low) / (high - low), 0, 1);
            inv_freq[i] = plain / config->factor * ramp + plain * (1 - ramp);
        } else {
            inv_freq[i] = plain;
        }
    }
}

static double magnitude(double factor, double mscale)
{
    return factor <= 1 ? 1 : 0.1 * mscale * log(factor) + 1;
}

double proa_rope_amplitude(const proa_rope_config *config)
{
    if (!config->yarn)
        return 1;
    return magnitude(config->factor, config->mscale) / magnitude(config->factor, config->mscale_all_dim);
}

double proa_rope_softmax_scale(const proa_rope_config *config, int32_t qk_head_dim)
{
    double m = config->yarn ? magnitude(config->factor, config->mscale_all_dim) : 1;
    return m * m / sqrt(qk_head_dim);
}

void proa_rope_table(const proa_rope_config *config, int32_t first, int32_t positions, float *cos_out,
                     float *sin_out)
{
    enum { MOST_PAIRS = 512 };
    double inv_freq[MOST_PAIRS];
    int32_t pairs = config->dim / 2;
    PROA_ASSERT(pairs <= MOST_PAIRS);
    proa_rope_frequencies(config, inv_freq);
    double amplitude = proa_rope_amplitude(config);
    for (int64_t p = 0; p < positions; p++)
        for (int32_t i = 0; i < pairs; i++) {
            double angle = (double)(first + p) * inv_freq[i];
            cos_out[p * pairs + i] = (float)(cos(angle) * amplitude);
            sin_out[p * pairs + i] = (float)(sin(angle) * amplitude);
        }
}
