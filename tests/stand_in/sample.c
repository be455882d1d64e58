/* sample.c - op/sample/cuda.h by its ref.c: parameters are copied when a run is queued, logits read when it runs. */
#include "stand_in.h"

#include "op/sample/cuda.h"

#include <stdlib.h>
#include <string.h>

struct proa_cuda_sampler {
    proa_gpu *gpu;
    int32_t rows_max, vocab, rows;
    bool queued; /* a run is */
    const float *logits;
    float *row;                  /* [vocab], for ref to overwrite */
    proa_sample_params *params;  /* [rows_max] */
    int32_t *row_of;             /* [rows_max] */
    proa_sample_result *results; /* [rows_max], pinned */
    proa_host host;
};

static void *copy(const void *from, int32_t count, size_t size)
{
    void *to = malloc((size_t)count * size + 1);
    PROA_ASSERT(to != NULL);
    if (count > 0)
        memcpy(to, from, (size_t)count * size);
    return to;
}

static void forget(proa_cuda_sampler *s)
{
    for (int32_t r = 0; r < s->rows; r++) {
        free((void *)(uintptr_t)s->params[r].bias);
        free((void *)(uintptr_t)s->params[r].counts);
        free((void *)(uintptr_t)s->params[r].banned);
    }
    s->rows = 0;
}

proa_status proa_cuda_sampler_create(proa_gpu *gpu, int32_t rows_max, int32_t vocab, proa_cuda_sampler **out,
                                     proa_error *err)
{
    proa_cuda_sampler *s = calloc(1, sizeof *s);
    void *results = NULL;
    PROA_ASSERT(s != NULL);
    PROA_ASSERT(rows_max > 0);
    PROA_ASSERT(vocab > 0);
    *s = (proa_cuda_sampler){.gpu = gpu,
                             .rows_max = rows_max,
                             .vocab = vocab,
                             .row = malloc((size_t)vocab * sizeof *s->row),
                             .params = calloc((size_t)rows_max, sizeof *s->params),
                             .row_of = calloc((size_t)rows_max, sizeof *s->row_of),
                             .host = {.pool = proa_pool_create(1)}};
    PROA_ASSERT(s->host.pool != NULL);
    s->host.scratch_bytes = proa_sample_scratch_bytes(&s->host, 1, vocab);
    s->host.scratch = malloc(s->host.scratch_bytes);
    PROA_ASSERT(s->host.scratch != NULL);
    proa_status status = proa_gpu_alloc_host(gpu, (size_t)rows_max * sizeof *s->results, &results, err);
    s->results = results;
    *out = s;
    if (status != PROA_OK) {
        proa_cuda_sampler_free(s);
        *out = NULL;
    }
    return status;
}

void proa_cuda_sampler_free(proa_cuda_sampler *s)
{
    if (s == NULL)
        return;
    PROA_ASSERT(!s->queued);
    forget(s);
    proa_gpu_free_host(s->gpu, s->results);
    proa_pool_free(s->host.pool);
    free(s->host.scratch), free(s->row), free(s->params), free(s->row_of), free(s);
}

static void run_sampler(proa_gpu *gpu, const void *args)
{
    proa_cuda_sampler *s = *(proa_cuda_sampler *const *)args;
    const size_t bytes = (size_t)s->vocab * sizeof *s->row;
    stand_in_check(gpu, s->logits, (int64_t)bytes, 16, "logits");
    for (int32_t r = 0; r < s->rows; r++) {
        const float *from = s->logits + (int64_t)s->row_of[r] * s->vocab;
        stand_in_check(gpu, from, (int64_t)bytes, 4, "a row of logits");
        memcpy(s->row, from, bytes);
        proa_sample_ref(&s->host, &(proa_sample_args){1, s->vocab, s->row, &s->params[r], &s->results[r]});
    }
    s->queued = false;
}

proa_status proa_cuda_sampler_run(proa_cuda_sampler *s, const proa_cuda_sample_args *a, proa_error *err)
{
    PROA_ASSERT(!s->queued);
    PROA_ASSERT(a->rows <= s->rows_max);
    forget(s);
    s->rows = a->rows;
    s->logits = a->logits;
    memset(s->results, 0xff, (size_t)s->rows_max * sizeof *s->results);
    for (int32_t r = 0; r < a->rows; r++) {
        proa_sample_params *p = &s->params[r];
        *p = a->params[r];
        p->bias = copy(p->bias, p->bias_count, sizeof *p->bias);
        p->counts = copy(p->counts, p->count_count, sizeof *p->counts);
        p->banned = copy(p->banned, p->banned_count, sizeof *p->banned);
        s->row_of[r] = a->row_of != NULL ? a->row_of[r] : r;
    }
    if (a->rows == 0)
        return PROA_OK;
    s->queued = true;
    return stand_in_queue(s->gpu, run_sampler, &s, sizeof s, err);
}

const proa_sample_result *proa_cuda_sampler_results(const proa_cuda_sampler *s)
{
    PROA_ASSERT(!s->queued);
    return s->results;
}
