/* fuzz_wire.c - messages between processes: the first byte picks one. What is decoded encodes to the same bytes. */
#include "../unit/wire_again.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1)
        return 0;
    proa_arena *arena = proa_arena_create(64 << 20);
    proa_buf out = {0};
    proa_error err = {0};
    if (arena == NULL)
        abort();
    if (wire_agains[data[0] % WIRE_AGAIN_COUNT](data + 1, size - 1, arena, &out, &err)) {
        if (out.failed || out.length != size - 1 || memcmp(proa_buf_text(&out), data + 1, size - 1) != 0)
            abort();
    } else if (err.status != PROA_ERR_PROTOCOL || err.text[0] == 0)
        abort();
    proa_buf_free(&out);
    proa_arena_free(arena);
    return 0;
}
