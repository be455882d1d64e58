/* gpu_step.c - see gpu_step.h. */
#include "cmd/gpu_step.h"

#include "op/router/router.h"

#include <stdlib.h>

enum { CACHES = 3, WARM_RUNS = 3 };

proa_status proa_gpu_step_init(proa_gpu_step *s, proa_gpu *gpu, const proa_cuda_weights *weights,
                               proa_error *err)
{
    *s = (proa_gpu_step){.gpu = gpu, .weights = weights};
    proa_status status = proa_gpu_mark_create(gpu, &s->from, err);
    return status == PROA_OK ? proa_gpu_mark_create(gpu, &s->to, err) : status;
}

void proa_gpu_step_free(proa_gpu_step *s)
{
    if (s->gpu == NULL)
        return;
    proa_cuda_forward_free(s->forward);
    proa_gpu_mark_free(s->from);
    proa_gpu_mark_free(s->to);
    *s = (proa_gpu_step){0};
}

static int32_t blocks_of(int32_t keys)
{
    return (keys + PROA_KV_BLOCK_TOKENS - 1) / PROA_KV_BLOCK_TOKENS;
}

static int32_t rows_of(const proa_gpu_step_shape *s)
{
    return s->decode ? 1 : s->context - s->prefix;
}

static proa_cuda_limits limits_of(const proa_gpu_step *s, const proa_gpu_step_shape *shape,
                                  int32_t cache_layers)
{
    enum { KEY_TILE = 128 };
    const int32_t rows = shape->sequences * rows_of(shape);
    return (proa_cuda_limits){
        .rows_max = rows,
        .decode_rows_max = shape->decode ? rows : 1,
        .segments_max = shape->sequences,
        .keys_max =
            shape->decode ? 1 : shape->sequences * ((shape->context + KEY_TILE - 1) / KEY_TILE * KEY_TILE),
        .logit_rows_max = shape->sequences,
        .positions_max = shape->context,
        .kv_blocks = shape->sequences * blocks_of(shape->context),
        .kv_cache = s->kv_cache,
        .cache_layers = cache_layers,
    };
}

void proa_gpu_step_plan(const proa_gpu_step *s, const proa_gpu_step_shape *shape, uint64_t *buffers,
                        uint64_t *cache)
{
    const proa_cuda_limits limits = limits_of(s, shape, 0);
    proa_cuda_forward_plan(&s->weights->config, s->weights->local_experts, &limits, buffers, cache);
}

static proa_status make_forward(proa_gpu_step *s, const proa_gpu_step_shape *shape, proa_error *err)
{
    int32_t where[PROA_ROUTER_MAX_EXPERTS];
    const proa_cuda_limits limits = limits_of(s, shape, CACHES);
    for (int32_t e = 0; e < s->weights->config.n_routed_experts; e++)
        where[e] = e % s->weights->local_experts;
    return proa_cuda_forward_create(s->gpu, s->weights, &limits, where, &s->forward, err);
}

/* Sequences whose blocks lie scattered. */
proa_status proa_gpu_step_prepare(proa_gpu_step *s, const proa_gpu_step_shape *shape, proa_error *err)
{
    const int32_t each = blocks_of(shape->context), all = shape->sequences * each, rows = rows_of(shape);
    proa_cuda_sequence *sequences = calloc((size_t)shape->sequences, sizeof *sequences);
    int32_t *blocks = malloc(sizeof *blocks * (size_t)all),
            *ids = malloc(sizeof *ids * (size_t)(rows + shape->sequences));
    proa_status status = PROA_OK;
    if (sequences == NULL || blocks == NULL || ids == NULL)
        status = proa_error_set(err, PROA_ERR_MEMORY, "no memory for %d sequences", shape->sequences);
    for (int32_t i = 0; i < all && status == PROA_OK; i++)
        blocks[i] = (int32_t)((int64_t)i * 7919 % all); /* a prime that divides none of these numbers */
    for (int32_t i = 0; i < rows + shape->sequences && status == PROA_OK;
         i++) /* all sequences different, or all go to the same experts */
        ids[i] = (int32_t)((int64_t)i * 104729 % s->weights->config.vocab_size);
    for (int32_t i = 0; i < shape->sequences && status == PROA_OK; i++)
        sequences[i] = (proa_cuda_sequence){.row_count = rows,
                                            .position_first = shape->context - rows,
                                            .ids = ids + i,
                                            .blocks = blocks + i * each,
                                            .logits = 1};
    if (status == PROA_OK)
        status =
            proa_cuda_forward_prepare(s->forward,
                                      &(proa_cuda_step){.decode = shape->decode ? sequences : NULL,
                                                        .decode_count = shape->decode ? shape->sequences : 0,
                                                        .prompts = shape->decode ? NULL : sequences,
                                                        .prompt_count = shape->decode ? 0 : shape->sequences},
                                      err);
    if (status == PROA_OK)
        status = proa_gpu_sync(s->gpu, err);
    free(sequences);
    free(blocks);
    free(ids);
    return status;
}

proa_status proa_gpu_step_open(proa_gpu_step *s, const proa_gpu_step_shape *shape, proa_error *err)
{
    proa_cuda_forward_free(s->forward);
    s->forward = NULL;
    proa_status status = make_forward(s, shape, err);
    if (status != PROA_OK)
        return status;
    proa_cuda_forward_set_tiles(s->forward, s->tiles);
    return proa_gpu_step_prepare(s, shape, err);
}

proa_status proa_gpu_step_run(proa_gpu_step *s, proa_error *err)
{
    proa_cuda_forward_only(s->forward, UINT32_MAX);
    proa_status status = proa_cuda_forward_run(s->forward, err);
    return status == PROA_OK ? proa_gpu_sync(s->gpu, err) : status;
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static proa_status time_runs(proa_gpu_step *s, proa_gpu_graph *graph, int runs, double *us, proa_error *err)
{
    double times[PROA_GPU_STEP_RUNS_MAX];
    proa_status status = PROA_OK;
    for (int i = -WARM_RUNS; i < runs && status == PROA_OK; i++) {
        status = proa_gpu_mark_set(s->gpu, s->from, err);
        if (status == PROA_OK)
            status = proa_gpu_graph_run(s->gpu, graph, err);
        if (status == PROA_OK)
            status = proa_gpu_mark_set(s->gpu, s->to, err);
        if (status == PROA_OK)
            status = proa_gpu_sync(s->gpu, err);
        if (i >= 0)
            times[i] = proa_gpu_mark_us(s->from, s->to);
    }
    if (status == PROA_OK) {
        qsort(times, (size_t)runs, sizeof *times, by_value);
        *us = times[runs / 2];
    }
    return status;
}

proa_status proa_gpu_step_time(proa_gpu_step *s, uint32_t ops, int32_t streams, int runs, double *us,
                               proa_error *err)
{
    proa_gpu_graph *graph = NULL;
    PROA_ASSERT(runs > 0);
    PROA_ASSERT(runs <= PROA_GPU_STEP_RUNS_MAX);
    proa_cuda_forward_set_streams(s->forward, streams);
    proa_cuda_forward_only(s->forward, ops);
    proa_status status = proa_gpu_graph_begin(s->gpu, err);
    if (status != PROA_OK)
        return status;
    proa_error end = {0};
    const proa_status queued = proa_cuda_forward_run(s->forward, err);
    status = proa_gpu_graph_end(s->gpu, &graph, queued == PROA_OK ? err : &end);
    if (queued == PROA_OK && status == PROA_OK)
        status = time_runs(s, graph, runs, us, err);
    proa_gpu_graph_free(graph);
    return queued != PROA_OK ? queued : status;
}
