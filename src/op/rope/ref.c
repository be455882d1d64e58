/* ref.c - the rotation, scalar in double: the specification. */
#include "op/rope/rope.h"

#include "op/host.h"

void proa_rope_ref(const proa_host *host, const proa_rope_args *args)
{
    int32_t pairs = args->dim / 2;
    for (int32_t r = 0; r < args->rows; r++) {
        const float *c = args->cos_table + (int64_t)args->positions[r] * pairs;
        const float *s = args->sin_table + (int64_t)args->positions[r] * pairs;
        for (int32_t h = 0; h < args->heads; h++) {
            float *x = args->x + r * args->row_stride + h * args->head_stride;
            for (int32_t i = 0; i < pairs; i++) {
                double re = x[2 * i], im = x[2 * i + 1];
                x[2 * i] = proa_host_round(host, (float)(re * c[i] - im * s[i]));
                x[2 * i + 1] = proa_host_round(host, (float)(re * s[i] + im * c[i]));
            }
        }
    }
}
