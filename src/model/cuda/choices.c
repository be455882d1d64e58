/* choices.c - see choices.h.
 *
 *   GPU [layers, rows of the piece with padding, top_k] ── one copy ──> staged (pinned), the same ── take ──> kept [layers, rows_max, top_k]
 */
#include "model/cuda/choices.h"

#include <stdlib.h>
#include <string.h>

struct proa_cuda_choices {
    proa_gpu *gpu;
    const proa_cuda_forward *forward;
    proa_model_config config;
    int32_t rows_max;
    proa_forward_expert_tap tap;
    void *context;
    int32_t *staged;
    int32_t staged_rows, staged_stride; /* without padding, and with it */
    int32_t *kept;
    int32_t kept_rows;
};

static size_t bytes_of(const proa_model_config *c, int32_t rows)
{
    return (size_t)c->num_hidden_layers * (size_t)rows * (size_t)c->num_experts_per_tok * sizeof(int32_t);
}

static int32_t *kept_of(const proa_cuda_choices *c, int32_t layer, int32_t row)
{
    return c->kept + ((int64_t)layer * c->rows_max + row) * c->config.num_experts_per_tok;
}

proa_status proa_cuda_choices_create(proa_gpu *gpu, const proa_cuda_forward *forward,
                                     const proa_model_config *config, int32_t rows_max,
                                     proa_forward_expert_tap tap, void *context, proa_cuda_choices **out,
                                     proa_error *err)
{
    *out = NULL;
    PROA_ASSERT(config->n_routed_experts > 0);
    proa_cuda_choices *c = calloc(1, sizeof *c);
    if (c == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for what routers choose");
    *c = (proa_cuda_choices){.gpu = gpu,
                             .forward = forward,
                             .config = *config,
                             .rows_max = rows_max,
                             .tap = tap,
                             .context = context};
    c->kept = malloc(bytes_of(config, rows_max));
    proa_status status =
        c->kept != NULL
            ? proa_gpu_alloc_host(gpu, bytes_of(config, rows_max), (void **)&c->staged, err)
            : proa_error_set(err, PROA_ERR_MEMORY, "no memory for what routers choose in %d rows", rows_max);
    if (status != PROA_OK) {
        proa_cuda_choices_free(c);
        return status;
    }
    *out = c;
    return PROA_OK;
}

void proa_cuda_choices_free(proa_cuda_choices *c)
{
    if (c == NULL)
        return;
    proa_gpu_free_host(c->gpu, c->staged);
    free(c->kept);
    free(c);
}

void proa_cuda_choices_begin(proa_cuda_choices *c)
{
    if (c != NULL)
        c->staged_rows = c->kept_rows = 0;
}

proa_status proa_cuda_choices_fetch(proa_cuda_choices *c, int32_t rows, proa_error *err)
{
    if (c == NULL)
        return PROA_OK;
    PROA_ASSERT(c->staged_rows == 0);
    const int32_t *from = proa_cuda_forward_choices(c->forward, &c->staged_stride);
    PROA_ASSERT(rows <= c->staged_stride);
    PROA_ASSERT(c->kept_rows + rows <= c->rows_max);
    const proa_status status =
        proa_gpu_download(c->gpu, c->staged, from, bytes_of(&c->config, c->staged_stride), err);
    c->staged_rows = status == PROA_OK ? rows : 0;
    return status;
}

void proa_cuda_choices_take(proa_cuda_choices *c)
{
    if (c == NULL)
        return;
    const int32_t top_k = c->config.num_experts_per_tok;
    for (int32_t l = 0; l < c->config.num_hidden_layers; l++) {
        if (proa_model_config_is_moe(&c->config, l))
            memcpy(kept_of(c, l, c->kept_rows), c->staged + (int64_t)l * c->staged_stride * top_k,
                   (size_t)c->staged_rows * (size_t)top_k * sizeof *c->staged);
    }
    c->kept_rows += c->staged_rows;
    c->staged_rows = 0;
}

void proa_cuda_choices_tell(proa_cuda_choices *c)
{
    if (c == NULL || c->kept_rows == 0)
        return;
    for (int32_t l = 0; l < c->config.num_hidden_layers; l++) {
        if (proa_model_config_is_moe(&c->config, l))
            c->tap(c->context, l, c->kept_rows, kept_of(c, l, 0));
    }
    c->kept_rows = 0;
}
