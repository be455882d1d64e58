/* ref.c - rmsnorm, scalar with double accumulation: the specification. */
#include "op/rmsnorm/rmsnorm.h"

#include "op/host.h"

#include <math.h>

static void add_row(const proa_host *host, float *x, const float *delta, int32_t cols)
{
    for (int32_t i = 0; i < cols; i++)
        x[i] = proa_host_round(host, (float)((double)x[i] + delta[i]));
}

static void norm_row(const proa_host *host, const proa_rmsnorm_args *args, const float *x, float *y)
{
    double sum = 0;
    for (int32_t i = 0; i < args->cols; i++)
        sum += (double)x[i] * x[i];
    double factor = 1 / sqrt(sum / args->cols + args->eps);
    for (int32_t i = 0; i < args->cols; i++) {
        double w = proa_host_load(args->w->data, args->w->dtype, i);
        y[i] = proa_host_round(host, (float)(x[i] * factor * w));
    }
}

void proa_rmsnorm_ref(const proa_host *host, const proa_rmsnorm_args *args)
{
    PROA_ASSERT(args->y == NULL || args->w->k == args->cols);
    for (int32_t r = 0; r < args->rows; r++) {
        float *x = args->x + r * args->x_stride;
        if (args->delta != NULL)
            add_row(host, x, args->delta + (int64_t)r * args->cols, args->cols);
        if (args->y != NULL)
            norm_row(host, args, x, args->y + r * args->y_stride);
    }
}
