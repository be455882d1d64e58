/* fuzz_safetensors.c - the header of a .safetensors file: what is accepted lies inside the bytes, tensor by tensor,
 * without holes. Under the address sanitizer every byte of every tensor is read. */
#include "model/safetensors.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    proa_safetensors *file;
    proa_error err = {0};
    if (proa_safetensors_parse(data, size, "x.safetensors", &file, &err) != PROA_OK) {
        if (file != NULL || err.status == PROA_OK || strncmp(err.text, "x.safetensors: ", 15) != 0)
            abort();
        return 0;
    }
    uint64_t bytes = 0;
    unsigned sum = 0;
    for (size_t i = 0; i < proa_safetensors_count(file); i++) {
        const proa_tensor *t = proa_safetensors_at(file, i);
        uint64_t elements = 1;
        for (int32_t d = 0; d < t->dims; d++)
            elements *= (uint64_t)t->shape[d];
        if (proa_dtype_bytes(t->dtype) != 0 && elements * proa_dtype_bytes(t->dtype) != t->bytes)
            abort();
        for (uint64_t b = 0; b < t->bytes; b++)
            sum += ((const unsigned char *)t->data)[b];
        if (proa_safetensors_find(file, t->name) != t)
            abort();
        bytes += t->bytes;
    }
    if (bytes > size || sum == 1) /* the sum is used, so that the reads stay */
        bytes++;
    proa_safetensors_close(file);
    return 0;
}
