/* gpu.c - see gpu.h. */
#include "cmd/gpu.h"

#include "base/log.h"
#include "cmd/gpu_tiles.h"
#include "cmd/graph_sizes.h"
#include "model/cuda/runner.h"

#include <stdlib.h>

_Static_assert((int)PROA_GRAPH_SIZES_MAX == (int)PROA_CUDA_GRAPHS_MAX,
               "the flags and the runner have the same room");

static const double gib = 1073741824.0;

struct proa_loaded_gpu {
    proa_gpu *gpu;
    size_t free_bytes; /* before the weights */
    proa_cuda_weights *weights;
    int32_t *where; /* [n_routed_experts] of a slice, or NULL */
    proa_cuda_tiles tiles;
};

proa_status proa_loaded_gpu_open(const proa_options *o, proa_loaded_gpu **out, proa_error *err)
{
    proa_loaded_gpu *g = calloc(1, sizeof *g);
    *out = NULL;
    if (g == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for a GPU");
    proa_status status = proa_gpu_open((int32_t)proa_options_int(o, "base-gpu-id"), &g->gpu, err);
    if (status == PROA_OK)
        status = proa_gpu_memory(g->gpu, &g->free_bytes, err);
    if (status != PROA_OK) {
        proa_loaded_gpu_close(g);
        return status;
    }
    const proa_gpu_facts *f = proa_gpu_facts_of(g->gpu);
    proa_log(PROA_LOG_INFO, "gpu",
             "GPU %d: %s, %d multiprocessors, %.1f of %.1f GiB free, driver for CUDA %d.%d", f->ordinal,
             f->name, f->multiprocessors, (double)g->free_bytes / gib, (double)f->memory_bytes / gib,
             f->driver / 1000, f->driver % 1000 / 10);
    proa_gpu_tiles_read(g->gpu, proa_options_string(o, "kernel-cache-dir"), &g->tiles);
    *out = g;
    return PROA_OK;
}

void proa_loaded_gpu_close(proa_loaded_gpu *g)
{
    proa_error unused;
    if (g == NULL)
        return;
    if (g->gpu != NULL)
        (void)proa_gpu_own(g->gpu, &unused);
    proa_cuda_weights_free(g->gpu, g->weights);
    proa_gpu_close(g->gpu);
    proa_cuda_tiles_free(&g->tiles);
    free(g->where);
    free(g);
}

/* Expert e of the model is played by e mod `experts`. */
static proa_status take_slice(proa_loaded_gpu *g, const proa_model_config *c, int32_t experts,
                              proa_error *err)
{
    if (c->n_routed_experts == 0 || experts > c->n_routed_experts)
        return proa_error_set(err, PROA_ERR_INVALID,
                              "--slice-experts %d: this model has %d routed experts a layer", experts,
                              c->n_routed_experts);
    g->where = malloc((size_t)c->n_routed_experts * sizeof *g->where);
    if (g->where == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for a table of experts");
    for (int32_t e = 0; e < c->n_routed_experts; e++)
        g->where[e] = e % experts;
    proa_log(PROA_LOG_WARN, "gpu",
             "a slice of the model for measurements: %d of its %d experts a layer stand for all; answers "
             "mean nothing",
             experts, c->n_routed_experts);
    return PROA_OK;
}

static proa_status check_room(const proa_loaded_gpu *g, uint64_t bytes, proa_error *err)
{
    if (bytes <= g->free_bytes)
        return PROA_OK;
    return proa_error_set(
        err, PROA_ERR_DEVICE_MEMORY,
        "the weights take %.1f GiB, GPU %d has %.1f GiB free: use a GPU with more memory, or a smaller model",
        (double)bytes / gib, proa_gpu_facts_of(g->gpu)->ordinal, (double)g->free_bytes / gib);
}

proa_status proa_loaded_gpu_take(proa_loaded_gpu *g, const proa_options *o, const proa_model_config *c,
                                 const proa_weights *from, proa_pool *pool, proa_error *err)
{
    const bool slice = proa_options_given(o, "slice-experts");
    int32_t experts = c->n_routed_experts;
    proa_status status = PROA_OK;
    if (slice && from != NULL)
        return proa_error_set(err, PROA_ERR_INVALID, "--slice-experts goes with --load-format dummy alone");
    if (slice) {
        experts = (int32_t)proa_options_int(o, "slice-experts");
        status = take_slice(g, c, experts, err);
    }
    if (status == PROA_OK)
        status = check_room(g, proa_cuda_weights_bytes(c, experts), err);
    if (status != PROA_OK)
        return status;
    return from != NULL ? proa_cuda_weights_load(g->gpu, c, from, pool, &g->weights, err)
                        : proa_cuda_weights_make(g->gpu, c, experts, &g->weights, err);
}

static proa_status graph_sizes(const proa_options *o, const proa_forward_limits *limits,
                               proa_cuda_graph_sizes *sizes, proa_error *err)
{
    *sizes = (proa_cuda_graph_sizes){0};
    return proa_graph_sizes_asked(o, limits->logit_rows_max, sizes->rows, &sizes->count, err);
}

proa_status proa_loaded_gpu_plan(const proa_loaded_gpu *g, const proa_options *o,
                                 const proa_forward_limits *limits, proa_loaded_gpu_bytes *bytes,
                                 proa_error *err)
{
    proa_cuda_graph_sizes sizes;
    uint64_t cache;
    *bytes = (proa_loaded_gpu_bytes){.available = g->free_bytes, .weights = g->weights->bytes};
    if (limits == NULL)
        return PROA_OK;
    proa_status status = graph_sizes(o, limits, &sizes, err);
    if (status != PROA_OK)
        return status;
    const proa_cuda_limits mine = proa_cuda_runner_limits(limits, &sizes);
    proa_cuda_forward_plan(&g->weights->config, g->weights->local_experts, &mine, &bytes->buffers, &cache);
    return PROA_OK;
}

proa_status proa_loaded_gpu_forward(proa_loaded_gpu *g, const proa_options *o,
                                    const proa_forward_limits *limits, bool host_logits, proa_trace *trace,
                                    proa_forward **forward, proa_error *err)
{
    proa_cuda_runner_options options = {.host_logits = host_logits,
                                        .tiles = &g->tiles,
                                        .single_stream = proa_options_bool(o, "single-stream"),
                                        .trace = trace};
    const proa_cuda_graph_sizes *sizes = &options.graphs;
    proa_status status = graph_sizes(o, limits, &options.graphs, err);
    if (status != PROA_OK)
        return status;
    status = proa_cuda_runner_create(g->gpu, g->weights, g->where, limits, &options, forward, err);
    if (status != PROA_OK || sizes->count == 0)
        return status;
    proa_log(PROA_LOG_INFO, "gpu", "%d CUDA graphs for decode steps of 1 to %d rows", sizes->count,
             sizes->rows[sizes->count - 1]);
    if (g->tiles.count > 0)
        proa_log(PROA_LOG_INFO, "gpu", "measured tiles are in use for %.0f %% of the graphs' products",
                 100.0 * (double)g->tiles.found / (double)g->tiles.asked);
    return PROA_OK;
}
