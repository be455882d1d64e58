/* safetensors.h - one .safetensors file: its header, checked, and its tensors, mapped.
 *
 * Untrusted (law 9): header length against the file and a cap (100 MB), JSON, dtype names, shapes (each >= 0,
 * product without overflow), data_offsets (begin <= end, inside the data, length = shape x dtype), no two tensors
 * overlapping, no holes, no duplicate names. Errors name the file, the tensor and the values.
 * Types that no op takes (F16, I8, F8_E5M2, ...) are PROA_DTYPE_OTHER and keep their name: whoever needs such a
 * tensor says so. A name that the format does not know is an error.
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
    const char *dtype_name; /* as the file spells it ("F8_E4M3"); ignored when writing */
    int32_t dims;
    int64_t shape[PROA_TENSOR_MAX_DIMS];
    const void *data; /* aligned as the file has it: not necessarily for its type */
    uint64_t bytes;   /* ignored when writing */
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

/* The format's spelling of a type ("BF16"); NULL for PROA_DTYPE_OTHER. */
const char *proa_safetensors_dtype_name(proa_dtype dtype);

/* Writes tensors (name, dtype, shape, data) to a new file, widest types first, so that each is aligned: the header
 * is padded to 8 bytes. Duplicate or unprintable names and PROA_DTYPE_OTHER are errors. */
proa_status proa_safetensors_write(const char *path, const proa_tensor *tensors, size_t count,
                                   proa_error *err);

#endif
