/* tile_cache.h - choices of tiles in a folder that processes and nodes may share: measured once, used at each start.
 *
 *   DIR/tiles-nvidia-h100-80gb-hbm3-0123456789abcdef.json
 *
 *     {"version": 1,
 *      "gpu": "NVIDIA H100 80GB HBM3", "capability": 90, "multiprocessors": 132, "kernels": "0f..", the digest of op/cuda/kernels.h
 *      "choices": [{"type": "fp8", "form": "rows", "groups": 1, "n": 2112, "k": 7168, "rows": 64, "output": "bf16",
 *                   "tile": [64, 32], "us": 9.1, "built_in_us": 9.4}, ...]}
 *
 * The key is the GPU's name, compute capability and multiprocessors, and the kernels; its digest is in the file's name, so that programs and GPUs of several
 * kinds share a folder. What is read is believed only when the key inside is this one and every tile is built. A writer adds to what is there
 * under a lock and puts the new file in the old one's place at once: readers see one or the other, writers lose nothing of each other. On a file
 * system without locks the last writer wins.
 */
#ifndef PROA_MODEL_CUDA_TILE_CACHE_H
#define PROA_MODEL_CUDA_TILE_CACHE_H

#include "base/buf.h"
#include "base/json.h"
#include "model/cuda/tiles.h"

typedef struct proa_cuda_tile_key {
    char gpu[128];
    int32_t capability;
    int32_t multiprocessors;
    char kernels[32];
} proa_cuda_tile_key;

enum { PROA_CUDA_TILE_PATH = 4096 };

proa_cuda_tile_key proa_cuda_tile_key_of(const proa_gpu *gpu);

/* The file of this key; PROA_ERR_TOO_LONG. */
proa_status proa_cuda_tile_cache_path(const char *dir, const proa_cuda_tile_key *key,
                                      char path[PROA_CUDA_TILE_PATH], proa_error *err);

/* Adds the file's choices to `tiles`, all or (on an error) none. PROA_ERR_NOT_FOUND: no such file; PROA_ERR_CORRUPT: it is not what is
 * drawn above; PROA_ERR_UNSUPPORTED: it is of other kernels or another GPU. The text says which and what to do. */
proa_status proa_cuda_tile_cache_read(const char *path, const proa_cuda_tile_key *key, proa_cuda_tiles *tiles,
                                      proa_error *err);

/* Files in the folder that are for this kind of GPU and have another key: of other builds, as a rule. */
int32_t proa_cuda_tile_cache_others(const char *dir, const proa_cuda_tile_key *key);

/* Whether the file can be written later: makes the folder if need be, and the lock, a file beside it which stays. */
proa_status proa_cuda_tile_cache_prepare(const char *dir, const proa_cuda_tile_key *key,
                                         char path[PROA_CUDA_TILE_PATH], proa_error *err);

/* Makes the folder if need be and adds the choices to the file, where they go before those of the same products. What is there and cannot be
 * used is replaced. PROA_ERR_DEADLINE: another writer holds the lock. */
proa_status proa_cuda_tile_cache_write(const char *dir, const proa_cuda_tile_key *key,
                                       const proa_cuda_tiles *tiles, proa_error *err);

/* For tests and fuzzing. `where` names the text in errors. */
proa_status proa_cuda_tile_cache_parse(const char *text, size_t length, const char *where,
                                       const proa_cuda_tile_key *key, proa_cuda_tiles *tiles,
                                       proa_error *err);
void proa_cuda_tile_cache_print(const proa_cuda_tile_key *key, const proa_cuda_tiles *tiles, proa_buf *out);

/* The fields of a choice in the file, [rows, columns] of its tile among them. */
void proa_cuda_choice_json(const proa_cuda_choice *choice, proa_json *object);
proa_json *proa_cuda_tile_json(const proa_cuda_tile *tile); /* a new reference */

/* "fp8", "bf16"; "rows", "heads", "slices": the words of the file. */
const char *proa_cuda_shape_type(const proa_cuda_shape *shape);
const char *proa_cuda_shape_form(const proa_cuda_shape *shape);

#endif
