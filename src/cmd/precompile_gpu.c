/* precompile_gpu.c - `proa precompile` on a GPU: its kernels, a rank's share of the model, the choices and where they are kept. */
#include "cmd/precompile.h"

#include "base/log.h"
#include "cmd/bench.h"
#include "cmd/cmd.h"
#include "cmd/load.h"
#include "model/cuda/tile_cache.h"
#include "op/cuda/kernels.h"

#include <stdio.h>
#include <string.h>

static const double gib = 1073741824.0;

/* Of the memory that is free: weights alone, the rest is for the buffers of a step. */
static const double weights_share = 0.6;

typedef struct job {
    const proa_options *options;
    char dir[4096];
    proa_model_config config; /* a rank's share of it */
    int32_t layers;           /* of the model; the config has those that are measured */
    proa_precompile_share share;
    proa_gpu *gpu;
    proa_cuda_weights *weights;
    proa_precompile_result result;
    int32_t kernels;
    proa_json *names; /* of the kernels */
    char cache[PROA_CUDA_TILE_PATH];
} job;

/* ---- kernels ---- */

static void see_kernel(void *context, const proa_cuda_kernel *kernel)
{
    job *j = context;
    j->kernels++;
    proa_json_append(j->names, proa_json_new_text(kernel->name));
}

static proa_status load_kernels(job *j, proa_error *err)
{
    const proa_gpu_facts *f = proa_gpu_facts_of(j->gpu);
    j->names = proa_json_new_array();
    const proa_status status = proa_cuda_kernels_load(j->gpu, see_kernel, j, err);
    if (status != PROA_OK)
        return status;
    printf("GPU %d: %s, %d multiprocessors, compute capability %d.%d\n"
           "%d kernels (%s), each machine code for it and loaded: nothing is left to compile\n",
           f->ordinal, f->name, f->multiprocessors, f->capability / 10, f->capability % 10, j->kernels,
           proa_cuda_kernels_digest);
    return PROA_OK;
}

/* ---- the model ---- */

/* Bytes of the smallest weight that a tile is measured for, in one layer of experts. */
static double smallest_weight(const proa_model_config *c)
{
    const double uk = 2.0 * c->num_attention_heads * c->qk_nope_head_dim * c->kv_lora_rank,
                 router = 2.0 * c->n_routed_experts * c->hidden_size;
    return router > 0 && router < uk ? router : uk;
}

/* So many layers that one kind of weight in all of them is twice what the second-level cache holds; fewer where memory ends first. */
static void choose_layers(job *j, size_t free_bytes)
{
    proa_model_config *c = &j->config;
    const double cache = 2.0 * (double)proa_gpu_facts_of(j->gpu)->l2_bytes;
    const int32_t dense = c->n_routed_experts > 0 ? c->first_k_dense_replace : 0;
    int32_t layers = dense + (int32_t)(cache / smallest_weight(c)) + 1;
    if (layers < j->layers)
        c->num_hidden_layers = layers;
    while (c->num_hidden_layers > dense + 1 &&
           (double)proa_cuda_weights_bytes(c, j->share.experts) > weights_share * (double)free_bytes)
        c->num_hidden_layers--;
}

static proa_status make_weights(job *j, proa_error *err)
{
    size_t free_bytes = 0;
    proa_status status = proa_gpu_memory(j->gpu, &free_bytes, err);
    if (status != PROA_OK)
        return status;
    choose_layers(j, free_bytes);
    const double bytes = (double)proa_cuda_weights_bytes(&j->config, j->share.experts);
    if (bytes > (double)free_bytes)
        return proa_error_set(
            err, PROA_ERR_DEVICE_MEMORY,
            "%d layers of this model with %d experts each take %.1f GiB, the GPU has %.1f GiB "
            "free: give the worker's --tp-size and --dp-size, or --slice-experts",
            j->config.num_hidden_layers, j->share.experts, bytes / gib, (double)free_bytes / gib);
    return proa_cuda_weights_make(j->gpu, &j->config, j->share.experts, &j->weights, err);
}

static proa_status read_model(job *j, proa_error *err)
{
    proa_status status = proa_model_dir(j->options, j->dir, sizeof j->dir, err);
    if (status == PROA_OK)
        status = proa_model_config_load(j->dir, &j->config, err);
    if (status == PROA_OK)
        status = proa_precompile_share_of(j->options, &j->config, &j->share, err);
    j->layers = j->config.num_hidden_layers;
    j->config.num_attention_heads = j->share.heads;
    return status;
}

static void print_share(const job *j, int32_t steps)
{
    const proa_precompile_share *s = &j->share;
    printf("%s: %d of %d layers are measured, with %d heads and %d experts a layer", j->dir,
           j->config.num_hidden_layers, j->layers, s->heads, s->experts);
    if (s->ranks > 1)
        printf(" (the share of one of %d ranks)", s->ranks);
    printf("\n%d steps:", steps);
    if (s->decodes)
        printf(" decode of 1 to %d rows, %d sizes with a graph%s", s->running, s->graph_count,
               s->prefills ? ";" : "");
    if (s->prefills)
        printf(" prompts of 1 to %d rows and of up to %d keys", s->chunk, s->context);
    printf("\n\n");
    fflush(stdout);
}

/* ---- the whole ---- */

static proa_status measure(job *j, proa_error *err)
{
    proa_gpu_step_shape steps[PROA_PRECOMPILE_STEPS_MAX];
    const int32_t count = proa_precompile_steps(&j->share, steps);
    print_share(j, count);
    proa_status status = proa_precompile_tune(j->gpu, j->weights, steps, count, &j->result, err);
    if (status == PROA_OK)
        proa_precompile_print(&j->config, &j->result);
    return status;
}

/* Before minutes of measuring, whose choices would be lost. */
static proa_status find_cache(job *j, proa_error *err)
{
    const char *dir = proa_options_string(j->options, "kernel-cache-dir");
    const proa_cuda_tile_key key = proa_cuda_tile_key_of(j->gpu);
    if (dir == NULL)
        return proa_error_set(
            err, PROA_ERR_INVALID,
            "nowhere to keep the choices: give --kernel-cache-dir DIR (neither XDG_CACHE_HOME nor "
            "HOME is set)");
    return proa_cuda_tile_cache_prepare(dir, &key, j->cache, err);
}

static proa_status keep(const job *j, proa_error *err)
{
    const proa_cuda_tile_key key = proa_cuda_tile_key_of(j->gpu);
    int32_t other = 0;
    const proa_status status = proa_cuda_tile_cache_write(proa_options_string(j->options, "kernel-cache-dir"),
                                                          &key, &j->result.tiles, err);
    if (status != PROA_OK)
        return status;
    for (int32_t i = 0; i < j->result.tiles.count; i++)
        other += j->result.tiles.choices[i].us < j->result.tiles.choices[i].built_in_us;
    printf("%d choices, %d of them faster than the model's, are kept in %s\n", j->result.tiles.count, other,
           j->cache);
    return PROA_OK;
}

static proa_status write_json(job *j, const char *path, proa_error *err)
{
    const proa_gpu_facts *f = proa_gpu_facts_of(j->gpu);
    proa_json *whole = proa_precompile_json(&j->config, &j->result), *kernels = proa_json_new_object();
    proa_json_set(kernels, "digest", proa_json_new_text(proa_cuda_kernels_digest));
    proa_json_set(kernels, "capability", proa_json_new_int(f->capability));
    proa_json_set(kernels, "names", proa_json_ref(j->names));
    proa_json_set(whole, "gpu", proa_json_new_text(f->name));
    proa_json_set(whole, "kernels", kernels);
    proa_json_set(whole, "cache", proa_json_new_text(j->cache));
    const proa_status status = proa_bench_write_file(whole, path, err);
    proa_json_free(whole);
    return status;
}

static proa_status run(job *j, proa_error *err)
{
    const char *json = proa_options_string(j->options, "json");
    proa_status status = read_model(j, err);
    if (status == PROA_OK)
        status = proa_gpu_open((int32_t)proa_options_int(j->options, "base-gpu-id"), &j->gpu, err);
    if (status == PROA_OK)
        status = load_kernels(j, err);
    if (status == PROA_OK)
        status = find_cache(j, err);
    if (status == PROA_OK)
        status = make_weights(j, err);
    if (status == PROA_OK)
        status = measure(j, err);
    if (status == PROA_OK)
        status = keep(j, err);
    return status == PROA_OK && json != NULL ? write_json(j, json, err) : status;
}

proa_status proa_precompile_run(const proa_options *options, proa_error *err)
{
    job j = {.options = options};
    const proa_status status = run(&j, err);
    if (j.gpu != NULL) {
        proa_cuda_weights_free(j.gpu, j.weights);
        proa_gpu_close(j.gpu);
    }
    proa_precompile_result_free(&j.result);
    proa_json_free(j.names);
    return status;
}
