/* shards.h - a checkpoint's files and the catalogue of their tensors.
 *
 * Either model.safetensors.index.json names a shard for each tensor, or model.safetensors holds all. Missing and broken
 * shards, and tensors that are not where the index says, are named all at once. Owns the mappings; the catalogue
 * points into them. One owner thread while loading, then immutable.
 */
#ifndef PROA_MODEL_SHARDS_H
#define PROA_MODEL_SHARDS_H

#include "base/arena.h"
#include "model/safetensors.h"

typedef struct proa_shard {
    const char *name; /* in the folder */
    proa_safetensors *file;
} proa_shard;

typedef struct proa_shard_tensor {
    const char
        *name; /* without the prefix that a multimodal wrapper puts before its language model's tensors */
    const proa_tensor *tensor;
    int32_t shard;
    bool known;  /* the configuration implies it */
    bool served; /* the layer graph reads it */
} proa_shard_tensor;

typedef struct proa_shards {
    proa_arena *arena;
    proa_shard *shards; /* [shard_count], by name */
    size_t shard_count;
    proa_shard_tensor *tensors; /* [tensor_count], by name */
    size_t tensor_count;
    size_t unlisted_count; /* tensors in shards that the index does not name: left alone */
} proa_shards;

/* On failure everything is released and *shards is {0}. */
proa_status proa_shards_open(const char *dir, proa_shards *shards, proa_error *err);
void proa_shards_close(proa_shards *shards); /* accepts {0} */

proa_shard_tensor *proa_shards_find(const proa_shards *shards, const char *name); /* NULL: absent */

#endif
