/* shards.c - model.safetensors.index.json, the shards that it names, and the catalogue of tensors.
 *
 * The index is {"metadata": {...}, "weight_map": {"tensor": "shard", ...}}. A shard's name must be a plain file name: an
 * index is not allowed to reach out of its folder.
 */
#include "model/shards.h"

#include "base/file.h"
#include "base/json.h"
#include "model/problems.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { INDEX_BYTES_MAX = 64 << 20, PATH_BYTES = 4096 };

#define INDEX_NAME  "model.safetensors.index.json"
#define SINGLE_NAME "model.safetensors"

/* Kimi-K2.5 and its like wrap the language model beside a vision tower, which is not served. */
static const char wrapper_prefix[] = "language_model.";

static proa_status out_of_memory(const char *dir, proa_error *err)
{
    return proa_error_set(err, PROA_ERR_MEMORY, "%s: no memory left for the table of tensors", dir);
}

static proa_status join_path(const char *dir, const char *name, char path[PATH_BYTES], proa_error *err)
{
    int n = snprintf(path, PATH_BYTES, "%s/%s", dir, name);
    if (n < 0 || n >= PATH_BYTES)
        return proa_error_set(err, PROA_ERR_TOO_LONG, "path too long: %s/%s", dir, name);
    return PROA_OK;
}

static int compare_shards(const void *a, const void *b)
{
    return strcmp(((const proa_shard *)a)->name, ((const proa_shard *)b)->name);
}

static int compare_tensors(const void *a, const void *b)
{
    return strcmp(((const proa_shard_tensor *)a)->name, ((const proa_shard_tensor *)b)->name);
}

static int32_t shard_number(const proa_shards *shards, const char *name)
{
    const proa_shard key = {.name = name};
    const proa_shard *found = bsearch(&key, shards->shards, shards->shard_count, sizeof key, compare_shards);
    PROA_ASSERT(found != NULL);
    return (int32_t)(found - shards->shards);
}

static bool plain_file_name(const char *name)
{
    return name[0] != '\0' && name[0] != '.' && strchr(name, '/') == NULL && strlen(name) < 256;
}

/* The distinct shard names of the index, sorted. */
static proa_status list_shards(const char *path, const proa_json *map, proa_shards *shards, proa_error *err)
{
    shards->shards = proa_arena_array(shards->arena, proa_json_size(map) + 1, sizeof shards->shards[0]);
    if (shards->shards == NULL)
        return out_of_memory(path, err);
    const char *last = NULL; /* neighbours in the index mostly share a shard: fewer names to sort */
    for (void *it = proa_json_first(map); it != NULL; it = proa_json_next(map, it)) {
        const char *name = proa_json_string(proa_json_value(it), NULL);
        if (name == NULL || !plain_file_name(name))
            return proa_error_set(
                err, PROA_ERR_CORRUPT,
                "%s: weight_map gives tensor %.200s the shard \"%.200s\": must be a file name in the "
                "same folder; fetch the file again",
                path, proa_json_key(it), name == NULL ? "(not a string)" : name);
        if (last == NULL || strcmp(last, name) != 0) {
            last = proa_arena_string(shards->arena, name, strlen(name));
            if (last == NULL)
                return out_of_memory(path, err);
            shards->shards[shards->shard_count++].name = last;
        }
    }
    qsort(shards->shards, shards->shard_count, sizeof shards->shards[0], compare_shards);
    size_t kept = 0;
    for (size_t i = 0; i < shards->shard_count; i++) {
        if (kept == 0 || strcmp(shards->shards[kept - 1].name, shards->shards[i].name) != 0)
            shards->shards[kept++] = shards->shards[i];
    }
    shards->shard_count = kept;
    return PROA_OK;
}

/* Opens every shard; those that are missing or broken are named together. */
static proa_status open_shards(const char *dir, proa_shards *shards, proa_error *err)
{
    proa_problems problems = {0};
    for (size_t i = 0; i < shards->shard_count; i++) {
        proa_shard *shard = &shards->shards[i];
        char path[PATH_BYTES];
        proa_error cause = {0};
        proa_status status = join_path(dir, shard->name, path, &cause);
        if (status == PROA_OK)
            status = proa_safetensors_open(path, &shard->file, &cause);
        if (status == PROA_ERR_NOT_FOUND)
            proa_problems_add(&problems, status, "shard %s is missing: the download is not complete",
                              shard->name);
        else if (status != PROA_OK)
            proa_problems_add(&problems, status, "%s", cause.text);
    }
    return proa_problems_finish(&problems, dir, err);
}

/* The catalogue as the index gives it; tensors that are not in their shard are named together. */
static proa_status catalogue_index(const char *path, const proa_json *map, proa_shards *shards,
                                   proa_error *err)
{
    shards->tensors = proa_arena_array(shards->arena, proa_json_size(map) + 1, sizeof shards->tensors[0]);
    if (shards->tensors == NULL)
        return out_of_memory(path, err);
    proa_problems problems = {0};
    size_t held = 0;
    for (void *it = proa_json_first(map); it != NULL; it = proa_json_next(map, it)) {
        const char *name = proa_json_key(it);
        int32_t number = shard_number(shards, proa_json_string(proa_json_value(it), ""));
        const proa_tensor *tensor = proa_safetensors_find(shards->shards[number].file, name);
        if (tensor == NULL) {
            proa_problems_add(
                &problems, PROA_ERR_CORRUPT,
                "tensor %.200s is not in %s, where the index puts it: index and shards do not belong "
                "together; fetch both again",
                name, shards->shards[number].name);
            continue;
        }
        shards->tensors[shards->tensor_count++] =
            (proa_shard_tensor){.name = tensor->name, .tensor = tensor, .shard = number};
    }
    for (size_t i = 0; i < shards->shard_count; i++)
        held += proa_safetensors_count(shards->shards[i].file);
    shards->unlisted_count = held - shards->tensor_count;
    return proa_problems_finish(&problems, path, err);
}

static proa_status catalogue_single(const char *path, proa_shards *shards, proa_error *err)
{
    size_t count = proa_safetensors_count(shards->shards[0].file);
    shards->tensors = proa_arena_array(shards->arena, count + 1, sizeof shards->tensors[0]);
    if (shards->tensors == NULL)
        return out_of_memory(path, err);
    for (size_t i = 0; i < count; i++) {
        const proa_tensor *tensor = proa_safetensors_at(shards->shards[0].file, i);
        shards->tensors[i] = (proa_shard_tensor){.name = tensor->name, .tensor = tensor};
    }
    shards->tensor_count = count;
    return PROA_OK;
}

static proa_status open_indexed(const char *dir, const char *path, proa_shards *shards, proa_error *err)
{
    proa_error cause = {0};
    proa_json *index = proa_json_parse_file(path, INDEX_BYTES_MAX, &cause);
    if (index == NULL)
        return proa_error_set(err, cause.status, "%s", cause.text);
    const proa_json *map = proa_json_get(index, "weight_map");
    proa_status status;
    if (!proa_json_is(map, PROA_JSON_OBJECT) || proa_json_size(map) == 0)
        status = proa_error_set(err, PROA_ERR_CORRUPT,
                                "%s: \"weight_map\" is missing, empty or not an object; fetch the file again",
                                path);
    else
        status = list_shards(path, map, shards, err);
    if (status == PROA_OK)
        status = open_shards(dir, shards, err);
    if (status == PROA_OK)
        status = catalogue_index(path, map, shards, err);
    proa_json_free(index);
    return status;
}

static proa_status open_single(const char *dir, const char *path, proa_shards *shards, proa_error *err)
{
    if (!proa_file_exists(path))
        return proa_error_set(err, PROA_ERR_NOT_FOUND,
                              "%s holds neither " INDEX_NAME " nor " SINGLE_NAME
                              ": fetch the weights, or make random ones with --load-format dummy",
                              dir);
    shards->shards = proa_arena_array(shards->arena, 1, sizeof shards->shards[0]);
    if (shards->shards == NULL)
        return out_of_memory(dir, err);
    shards->shards[0].name = SINGLE_NAME;
    shards->shard_count = 1;
    proa_status status = proa_safetensors_open(path, &shards->shards[0].file, err);
    return status == PROA_OK ? catalogue_single(path, shards, err) : status;
}

/* Takes the wrapper's prefix off the language model's tensors and forgets the others. */
static void unwrap(proa_shards *shards)
{
    size_t length = strlen(wrapper_prefix), kept = 0, wrapped = 0;
    for (size_t i = 0; i < shards->tensor_count; i++)
        wrapped += strncmp(shards->tensors[i].name, wrapper_prefix, length) == 0;
    if (wrapped == 0)
        return;
    for (size_t i = 0; i < shards->tensor_count; i++) {
        if (strncmp(shards->tensors[i].name, wrapper_prefix, length) == 0) {
            shards->tensors[kept] = shards->tensors[i];
            shards->tensors[kept++].name += length;
        }
    }
    shards->tensor_count = kept;
}

proa_status proa_shards_open(const char *dir, proa_shards *shards, proa_error *err)
{
    *shards = (proa_shards){.arena = proa_arena_create(0)};
    if (shards->arena == NULL)
        return out_of_memory(dir, err);
    char path[PATH_BYTES];
    proa_status status = join_path(dir, INDEX_NAME, path, err);
    if (status == PROA_OK && proa_file_exists(path)) {
        status = open_indexed(dir, path, shards, err);
    } else if (status == PROA_OK) {
        join_path(dir, SINGLE_NAME, path, NULL); /* shorter than the index's path, which fitted */
        status = open_single(dir, path, shards, err);
    }
    if (status != PROA_OK) {
        proa_shards_close(shards);
        return status;
    }
    unwrap(shards);
    if (shards->tensor_count > 0)
        qsort(shards->tensors, shards->tensor_count, sizeof shards->tensors[0], compare_tensors);
    return PROA_OK;
}

void proa_shards_close(proa_shards *shards)
{
    for (size_t i = 0; i < shards->shard_count; i++)
        proa_safetensors_close(shards->shards[i].file);
    proa_arena_free(shards->arena);
    *shards = (proa_shards){0};
}

proa_shard_tensor *proa_shards_find(const proa_shards *shards, const char *name)
{
    const proa_shard_tensor key = {.name = name};
    return shards->tensor_count == 0
               ? NULL
               : bsearch(&key, shards->tensors, shards->tensor_count, sizeof key, compare_tensors);
}
