/* weights.c - the stages of loading, in order, and the ownership of their results (checkpoint.h draws them). */
#include "model/weights.h"

#include "model/checkpoint.h"

#include "base/log.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* The tables that the weights' pointers live in. */
static proa_status make_places(proa_checkpoint *c, proa_error *err)
{
    size_t layers = (size_t)c->config.num_hidden_layers, experts = (size_t)c->config.n_routed_experts;
    c->dir = proa_arena_string(c->arena, c->dir, strlen(c->dir));
    c->places.weights = &c->weights;
    c->places.layers = proa_arena_array(c->arena, layers, sizeof c->places.layers[0]);
    c->places.experts = proa_arena_array(c->arena, layers * experts * 3, sizeof c->places.experts[0]);
    if (c->dir == NULL || c->places.layers == NULL || c->places.experts == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory left for the tables of %zu layers", layers);
    for (size_t i = 0; i < layers; i++) {
        proa_layer_weights *layer = &c->places.layers[i];
        layer->moe = proa_model_config_is_moe(&c->config, (int32_t)i);
        layer->has_shared = layer->moe && c->config.n_shared_experts > 0;
        if (!layer->moe)
            continue;
        layer->expert_gate = c->places.experts + i * 3 * experts;
        layer->expert_up = layer->expert_gate + experts;
        layer->expert_down = layer->expert_up + experts;
    }
    c->weights.layers = c->places.layers;
    c->weights.layer_count = (int32_t)layers;
    return PROA_OK;
}

static proa_status read_files(proa_checkpoint *c, proa_error *err)
{
    proa_status status = proa_shards_open(c->dir, &c->shards, err);
    if (status == PROA_OK)
        status = proa_checkpoint_check(c, err);
    if (status == PROA_OK)
        status = proa_checkpoint_place(c, err);
    if (status != PROA_OK)
        return status;
    if (c->shards.unlisted_count > 0)
        proa_log(PROA_LOG_WARN, "model", "%zu tensors in the shards of %s are not in its index: left alone",
                 c->shards.unlisted_count, c->dir);
    return proa_checkpoint_page_in(c, err);
}

proa_status proa_checkpoint_load(const char *dir, proa_load_format format, const proa_model_config *config,
                                 proa_precision precision, proa_pool *pool, proa_checkpoint **out,
                                 proa_error *err)
{
    *out = NULL;
    proa_checkpoint *c = calloc(1, sizeof *c);
    if (c == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory left to load %s", dir);
    c->dir = dir;
    c->config = *config;
    c->pool = pool;
    c->arena = proa_arena_create(0); /* bounded by the checked sizes of config and files */
    proa_status status = c->arena != NULL
                             ? make_places(c, err)
                             : proa_error_set(err, PROA_ERR_MEMORY, "no memory left to load %s", dir);
    if (status == PROA_OK)
        status = format == PROA_LOAD_DUMMY ? proa_checkpoint_make_dummy(c, err) : read_files(c, err);
    if (status == PROA_OK && config->tie_word_embeddings)
        c->weights.lm_head = c->weights.embed_tokens;
    if (status == PROA_OK)
        status = proa_checkpoint_absorb(c, precision, err);
    c->pool = NULL;
    if (status != PROA_OK) {
        proa_checkpoint_free(c);
        return status;
    }
    *out = c;
    return PROA_OK;
}

void proa_checkpoint_free(proa_checkpoint *checkpoint)
{
    if (checkpoint == NULL)
        return;
    if (checkpoint->dummy != NULL)
        munmap(checkpoint->dummy, checkpoint->dummy_bytes);
    proa_shards_close(&checkpoint->shards);
    proa_arena_free(checkpoint->arena);
    free(checkpoint->absorbed);
    free(checkpoint);
}

const proa_weights *proa_checkpoint_weights(const proa_checkpoint *checkpoint)
{
    return &checkpoint->weights;
}
