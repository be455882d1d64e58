/* safetensors.h - one .safetensors file: its header, checked, and its tensors, mapped.
 *
 * Untrusted (law 9): header length against the file and a cap (100 MB), JSON, dtype names, shapes (each >= 0,
 * product without overflow), data_offsets (begin <= end, inside the data, length = shape x dtype), no two tensors
 * overlapping, no holes, no duplicate names. Errors name the file, the tensor and the values.
 * A file owns its mapping; tensors point into it. Immutable after opening: any thread may read.
 */
#ifndef PROA_MODEL_SAFETENSORS_H
#define PROA_MODEL_SAFETENSORS_H

#include "base/status.h"
#include "op/tensor.h"

enum { PROA_TENSOR_MAX_DIMS = 8 };

typedef struct proa_tensor {
    const char *name;
    proa_dtype dtype;
    int32_t dims;
    int64_t shape[PROA_TENSOR_MAX_DIMS];
    const void *data;
    uint64_t bytes;
} proa_tensor;

typedef struct proa_safetensors proa_safetensors;

proa_status proa_safetensors_open(const char *path, proa_safetensors **file, proa_error *err);

/* The same over bytes in memory (kept by the caller); `name` stands in errors. For fuzzing. */
proa_status proa_safetensors_parse(const void *data, uint64_t bytes, const char *name,
                                   proa_safetensors **file, proa_error *err);
void proa_safetensors_close(proa_safetensors *file); /* accepts NULL */

size_t proa_safetensors_count(const proa_safetensors *file);
const proa_tensor *proa_safetensors_at(const proa_safetensors *file, size_t index); /* in order of offset */
const proa_tensor *proa_safetensors_find(const proa_safetensors *file, const char *name); /* NULL: absent */

/* Writes tensors (name, dtype, shape, data) to a new file. Offsets are aligned to 8 bytes by header padding. */
proa_status proa_safetensors_write(const char *path, const proa_tensor *tensors, size_t count,
                                   proa_error *err);

#endif
