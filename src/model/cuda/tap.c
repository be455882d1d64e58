/* tap.c - shows what lies between the layers, for comparison with a reference: the slow way, on the host. */
#include "model/cuda/internal.h"

#include "op/rmsnorm/cuda.h"
#include "base/number.h"

#include <stdlib.h>

void proa_cuda_forward_set_tap(proa_cuda_forward *f, proa_cuda_tap tap, void *context)
{
    f->tap = tap;
    f->tap_context = context;
}

/* bf16 [rows, hidden] on the GPU */
static proa_status show(proa_cuda_forward *f, int32_t index, const void *from, proa_error *err)
{
    const size_t count = (size_t)f->rows * (size_t)f->config.hidden_size;
    uint16_t *rounded = malloc(count * sizeof *rounded);
    float *values = malloc(count * sizeof *values);
    proa_status status = PROA_OK;
    PROA_ASSERT(f->decode_rows == 0);
    if (rounded == NULL || values == NULL)
        status = proa_error_set(err, PROA_ERR_MEMORY, "no memory for hidden states of %d rows", f->rows);
    if (status == PROA_OK)
        status = proa_gpu_download(f->gpu, rounded, from, count * sizeof *rounded, err);
    if (status == PROA_OK)
        status = proa_gpu_sync(f->gpu, err);
    if (status == PROA_OK) {
        for (size_t i = 0; i < count; i++)
            values[i] = proa_bf16_to_f32(rounded[i]);
        f->tap(f->tap_context, index, f->rows, values);
    }
    free(rounded);
    free(values);
    return status;
}

proa_status proa_cuda_tap_hidden(proa_cuda_forward *f, int32_t index, bool add, proa_error *err)
{
    proa_status status = add ? proa_cuda_norm(f, f->b.delta, NULL, false, false, err) : PROA_OK;
    return status == PROA_OK ? show(f, index, f->b.hidden, err) : status;
}

proa_status proa_cuda_tap_last(proa_cuda_forward *f, proa_error *err)
{
    const size_t bytes = (size_t)f->rows * (size_t)f->config.hidden_size * sizeof(uint16_t);
    proa_status status = proa_cuda_norm(f, f->b.delta, f->weights->norm, true, false, err);
    if (status == PROA_OK)
        status = show(f, f->config.num_hidden_layers, f->b.normed, err);
    return status == PROA_OK ? proa_gpu_set(f->gpu, f->b.delta, 0, bytes, err) : status;
}
