/* kv_blocks.c - a stack of free numbers beside an array of (references, generation).
 *
 * The stack gives back the block that was freed last: it is the likeliest to be in a cache still, and a stale
 * reader meets foreign bytes soonest, in tests. Lacks: runs of neighbouring blocks on purpose (for transfers).
 */
#include "engine/kv_blocks.h"

#include <stdlib.h>

typedef struct block_state {
    int32_t references;
    uint32_t generation;
} block_state;

struct proa_kv_blocks {
    int32_t total;
    int32_t available;
    int32_t *stack; /* [total] free numbers, the top at available - 1 */
    block_state *states;
};

proa_kv_blocks *proa_kv_blocks_create(int32_t total)
{
    PROA_ASSERT(total >= 1);
    proa_kv_blocks *blocks = calloc(1, sizeof *blocks);
    if (blocks == NULL)
        return NULL;
    blocks->total = total;
    blocks->available = total;
    blocks->stack = calloc((size_t)total, sizeof *blocks->stack);
    blocks->states = calloc((size_t)total, sizeof *blocks->states);
    if (blocks->stack == NULL || blocks->states == NULL) {
        proa_kv_blocks_free(blocks);
        return NULL;
    }
    for (int32_t i = 0; i < total; i++) {
        blocks->stack[i] = total - 1 - i;
        blocks->states[i].generation = 1;
    }
    return blocks;
}

void proa_kv_blocks_free(proa_kv_blocks *blocks)
{
    if (blocks == NULL)
        return;
    free(blocks->stack);
    free(blocks->states);
    free(blocks);
}

bool proa_kv_blocks_take(proa_kv_blocks *blocks, proa_kv_block *block)
{
    if (blocks->available == 0)
        return false;
    int32_t number = blocks->stack[--blocks->available];
    block_state *state = &blocks->states[number];
    PROA_ASSERT(state->references == 0);
    state->references = 1;
    *block = (proa_kv_block){number, state->generation};
    return true;
}

static block_state *checked(const proa_kv_blocks *blocks, proa_kv_block block)
{
    PROA_ASSERT(block.number >= 0 && block.number < blocks->total);
    block_state *state = &blocks->states[block.number];
    PROA_ASSERT(state->generation == block.generation);
    PROA_ASSERT(state->references > 0);
    return state;
}

void proa_kv_blocks_hold(proa_kv_blocks *blocks, proa_kv_block block)
{
    checked(blocks, block)->references++;
}

void proa_kv_blocks_drop(proa_kv_blocks *blocks, proa_kv_block block)
{
    block_state *state = checked(blocks, block);
    if (--state->references > 0)
        return;
    state->generation++;
    if (state->generation == 0)
        state->generation = 1;
    blocks->stack[blocks->available++] = block.number;
}

bool proa_kv_blocks_valid(const proa_kv_blocks *blocks, proa_kv_block block)
{
    return block.number >= 0 && block.number < blocks->total &&
           blocks->states[block.number].generation == block.generation &&
           blocks->states[block.number].references > 0;
}

int32_t proa_kv_blocks_references(const proa_kv_blocks *blocks, proa_kv_block block)
{
    return checked(blocks, block)->references;
}

int32_t proa_kv_blocks_total(const proa_kv_blocks *blocks)
{
    return blocks->total;
}

int32_t proa_kv_blocks_available(const proa_kv_blocks *blocks)
{
    return blocks->available;
}
