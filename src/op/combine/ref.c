/* ref.c - combine, scalar with double accumulation: the specification. */
#include "op/combine/combine.h"

#include "op/host.h"

void proa_combine_ref(const proa_host *host, const proa_combine_args *args)
{
    int64_t cols = args->cols;
    for (int32_t r = 0; r < args->rows; r++) {
        const int32_t *place = args->place + (int64_t)r * args->top_k;
        const float *weights = args->weights + (int64_t)r * args->top_k;
        for (int64_t i = 0; i < cols; i++) {
            double sum = 0;
            for (int32_t k = 0; k < args->top_k; k++)
                sum += (double)weights[k] * args->slots[place[k] * cols + i];
            if (args->shared != NULL)
                sum += args->shared[r * cols + i];
            args->y[r * cols + i] = proa_host_round(host, (float)sum);
        }
    }
}
