/* copy.c - the copy of a KV block's first rows; bytes move, nothing is computed. */
#include "op/mla/mla.h"

#include <string.h>

void proa_kv_copy_host(const proa_host *host, const proa_kv_copy_args *args)
{
    (void)host; /* a block is at most 64 rows of some hundred values: one thread does */
    PROA_ASSERT(args->tokens >= 1);
    PROA_ASSERT(args->tokens <= PROA_KV_BLOCK_TOKENS);
    size_t row = (size_t)proa_kv_layer_row(args->kv).bytes;
    size_t block = row * PROA_KV_BLOCK_TOKENS;
    unsigned char *base = args->kv->base;
    memcpy(base + (size_t)args->to * block, base + (size_t)args->from * block, row * (size_t)args->tokens);
}
