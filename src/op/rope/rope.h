/* rope.h - YaRN's frequencies and the rotation of interleaved pairs.
 *
 * Pairs (x[2i], x[2i + 1]) are complex numbers times e^(j * position * inv_freq[i]); order is kept (GPT-J style).
 * Plain RoPE: inv_freq[i] = theta^(-2i / dim). YaRN blends f / factor and f over a ramp between
 * low = floor(d(beta_fast)) and high = ceil(d(beta_slow)), d(r) = dim * ln(original_max / (2 pi r)) / (2 ln theta),
 * clamped to [0, dim - 1] (when low = high, high + 0.001); applied whenever the configuration names it.
 * cos and sin carry the factor m(mscale) / m(mscale_all_dim), m(s) = 0.1 s ln(factor) + 1 (1 when factor <= 1).
 * Softmax scale: (nope + rope)^-0.5 * m(mscale_all_dim)^2. Pinned by golden/ops.safetensors yarn.*.
 */
#ifndef PROA_OP_ROPE_ROPE_H
#define PROA_OP_ROPE_ROPE_H

#include "op/tensor.h"

typedef struct proa_rope_config {
    int32_t dim; /* qk_rope_head_dim, even */
    double theta;
    bool yarn;
    double factor;
    double beta_fast;
    double beta_slow;
    double mscale;
    double mscale_all_dim;
    int32_t original_max_position;
} proa_rope_config;

/* inv_freq [dim / 2] in double. */
void proa_rope_frequencies(const proa_rope_config *config, double *inv_freq);
/* The multiplier of cos and sin. */
double proa_rope_amplitude(const proa_rope_config *config);
/* The attention's softmax scale for heads of qk_head_dim = nope + rope. */
double proa_rope_softmax_scale(const proa_rope_config *config, int32_t qk_head_dim);

/* Fills cos and sin [positions, dim / 2] for positions first .. first + positions - 1, computed in double and
 * rounded once to float32. */
void proa_rope_table(const proa_rope_config *config, int32_t first, int32_t positions, float *cos_out,
                     float *sin_out);

/* Rotates in place `heads` vectors of `dim` in each row; the table is indexed by absolute position. */
typedef struct proa_rope_args {
    int32_t rows;
    int32_t heads;
    int32_t dim;
    float *x; /* row r, head h at x + r * row_stride + h * head_stride */
    int64_t row_stride;
    int64_t head_stride;
    const int32_t *positions; /* [rows] */
    const float *cos_table;   /* [max positions, dim / 2] */
    const float *sin_table;
} proa_rope_args;

void proa_rope_ref(const proa_host *host, const proa_rope_args *args);
void proa_rope_cpu(const proa_host *host, const proa_rope_args *args);

#endif
