/* kv_blocks.h - who holds which KV block: reference counts and generations, no KV bytes.
 *
 * A block is PROA_KV_BLOCK_TOKENS consecutive positions of one sequence; its bytes live in the forward. A handle is
 * (number, generation): the generation changes when the last holder lets go, so a handle kept too long is
 * recognised instead of naming another sequence's keys. Holders are requests and the prefix cache.
 * Lifetime: the engine's; memory is taken at creation only. Owner: the engine thread. Deterministic.
 */
#ifndef PROA_ENGINE_KV_BLOCKS_H
#define PROA_ENGINE_KV_BLOCKS_H

#include "op/tensor.h"

typedef struct proa_kv_blocks proa_kv_blocks;

typedef struct proa_kv_block {
    int32_t number;      /* 0 .. total - 1 */
    uint32_t generation; /* 0 is never valid */
} proa_kv_block;

/* NULL when memory is out. `total` >= 1. */
proa_kv_blocks *proa_kv_blocks_create(int32_t total);
void proa_kv_blocks_free(proa_kv_blocks *blocks); /* accepts NULL */

/* Takes a free block with one reference, the caller's. False when none is free. */
bool proa_kv_blocks_take(proa_kv_blocks *blocks, proa_kv_block *block);

/* One more reference, and one less. The last drop frees the block and ends its generation. */
void proa_kv_blocks_hold(proa_kv_blocks *blocks, proa_kv_block block);
void proa_kv_blocks_drop(proa_kv_blocks *blocks, proa_kv_block block);

/* Is the handle's generation the current one, and held by someone? */
bool proa_kv_blocks_valid(const proa_kv_blocks *blocks, proa_kv_block block);

int32_t proa_kv_blocks_references(const proa_kv_blocks *blocks, proa_kv_block block);
int32_t proa_kv_blocks_total(const proa_kv_blocks *blocks);
int32_t proa_kv_blocks_available(const proa_kv_blocks *blocks); /* free ones */

/* Blocks that `tokens` positions from 0 touch. */
static inline int32_t proa_kv_blocks_for(int64_t tokens)
{
    return (int32_t)((tokens + PROA_KV_BLOCK_TOKENS - 1) / PROA_KV_BLOCK_TOKENS);
}

#endif
