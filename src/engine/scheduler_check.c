/* scheduler_check.c - what must hold of the scheduler between steps, asserted by walking everything. For tests. */
#include "engine/scheduler_internal.h"

static void check_running(const proa_scheduler *s, int32_t slot)
{
    const proa_scheduler_entry *entry = &s->entries[slot];
    int32_t total = proa_entry_total(entry);
    bool all_but_one = entry->state == PROA_REQUEST_DECODE || entry->state == PROA_REQUEST_HELD;
    PROA_ASSERT(proa_entry_computes(entry) || entry->state == PROA_REQUEST_RESERVED ||
                entry->state == PROA_REQUEST_HELD);
    PROA_ASSERT(entry->computed < total);
    PROA_ASSERT(entry->state == PROA_REQUEST_RESERVED ||
                (entry->state == PROA_REQUEST_PREFILL) == (entry->computed < entry->prompt_count));
    PROA_ASSERT(!all_but_one || entry->computed == total - 1);
    PROA_ASSERT(all_but_one || entry->credit > 0);
    PROA_ASSERT(entry->block_count <= proa_kv_blocks_for(proa_entry_admitted(s, entry)));
    PROA_ASSERT(!entry->starved || entry->block_count * PROA_KV_BLOCK_TOKENS == entry->computed);
}

/* What a peer may touch, and when. */
static void check_shown(const proa_scheduler *s, const proa_scheduler_entry *entry)
{
    switch (s->limits.role) {
    case PROA_ENGINE_COMBINED:
        PROA_ASSERT(entry->shown == 0);
        PROA_ASSERT(entry->state != PROA_REQUEST_LENT);
        break;
    case PROA_ENGINE_PREFILL:
        PROA_ASSERT(entry->shown <= entry->computed);
        PROA_ASSERT(entry->state != PROA_REQUEST_HELD || entry->shown == entry->computed);
        PROA_ASSERT(entry->state != PROA_REQUEST_LENT || entry->shown > 0);
        /* what is shown and may be exchanged is exchanged already */
        PROA_ASSERT(s->cache == NULL || entry->computed >= entry->prompt_count ||
                    entry->shown <= entry->node_blocks * PROA_KV_BLOCK_TOKENS);
        break;
    case PROA_ENGINE_DECODE:
        PROA_ASSERT((entry->shown > 0) ==
                    (entry->state == PROA_REQUEST_RESERVED || entry->state == PROA_REQUEST_LENT));
        PROA_ASSERT(entry->shown == 0 || entry->shown == proa_entry_total(entry));
        PROA_ASSERT(entry->shown == 0 || entry->block_count == proa_kv_blocks_for(entry->shown + 1));
        break;
    }
}

static void check_blocks(const proa_scheduler *s, const proa_scheduler_entry *entry)
{
    PROA_ASSERT(entry->block_count >= proa_kv_blocks_for(entry->computed));
    const proa_kv_block *held = &s->held[(size_t)entry->lane * (size_t)s->lane_blocks];
    for (int32_t i = 0; i < entry->block_count; i++) {
        PROA_ASSERT(proa_kv_blocks_valid(s->blocks, held[i]));
        PROA_ASSERT(s->numbers[(size_t)entry->lane * (size_t)s->lane_blocks + (size_t)i] == held[i].number);
        /* what is written is the writer's alone; what is shared is prompt, and full */
        PROA_ASSERT(i < entry->node_blocks || proa_kv_blocks_references(s->blocks, held[i]) == 1);
        PROA_ASSERT(i >= entry->node_blocks || proa_kv_blocks_references(s->blocks, held[i]) >= 2);
    }
    PROA_ASSERT(entry->node_blocks * PROA_KV_BLOCK_TOKENS <= entry->prompt_count);
    PROA_ASSERT(entry->node_blocks * PROA_KV_BLOCK_TOKENS <= entry->computed);
}

static int32_t number_of(const proa_scheduler *s, const proa_scheduler_entry *entry, int32_t i)
{
    return s->numbers[(size_t)entry->lane * (size_t)s->lane_blocks + (size_t)i];
}

/* Blocks that this request holds and none does that stands earlier in its list, or in the other list `before`. */
static int32_t first_held(const proa_scheduler *s, int32_t slot, const proa_slot_list *before)
{
    const proa_scheduler_entry *entry = &s->entries[slot];
    int32_t count = entry->block_count - entry->node_blocks;
    for (int32_t i = 0; i < entry->node_blocks; i++) {
        bool earlier = false;
        for (int32_t o = entry->previous; o != PROA_SLOT_NONE && !earlier; o = s->entries[o].previous)
            earlier =
                i < s->entries[o].node_blocks && number_of(s, &s->entries[o], i) == number_of(s, entry, i);
        for (int32_t o = before->first; o != PROA_SLOT_NONE && !earlier; o = s->entries[o].next)
            earlier =
                i < s->entries[o].node_blocks && number_of(s, &s->entries[o], i) == number_of(s, entry, i);
        count += !earlier;
    }
    return count;
}

static void check_waiting(const proa_scheduler *s)
{
    int32_t count = 0;
    for (int32_t slot = s->waiting.first; slot != PROA_SLOT_NONE; slot = s->entries[slot].next) {
        const proa_scheduler_entry *entry = &s->entries[slot];
        PROA_ASSERT(entry->state == PROA_REQUEST_WAITING);
        PROA_ASSERT(entry->lane == PROA_SLOT_NONE);
        PROA_ASSERT(entry->block_count == 0);
        PROA_ASSERT(entry->shown == 0);
        if (entry->previous != PROA_SLOT_NONE) {
            const proa_scheduler_entry *before = &s->entries[entry->previous];
            bool same_kind = (before->retractions > 0) == (entry->retractions > 0);
            PROA_ASSERT(same_kind || before->retractions > 0);
            PROA_ASSERT(!same_kind || before->arrival < entry->arrival);
        }
        count++;
    }
    PROA_ASSERT(count == s->waiting.count);
}

/* Returns the blocks that lent requests hold. */
static int32_t check_lent(const proa_scheduler *s)
{
    static const proa_slot_list nobody = {PROA_SLOT_NONE, PROA_SLOT_NONE, 0};
    int32_t count = 0, blocks = 0;
    for (int32_t slot = s->lent.first; slot != PROA_SLOT_NONE; slot = s->entries[slot].next) {
        const proa_scheduler_entry *entry = &s->entries[slot];
        PROA_ASSERT(entry->state == PROA_REQUEST_LENT);
        PROA_ASSERT(entry->prompt_ids == NULL);
        check_blocks(s, entry);
        check_shown(s, entry);
        for (int32_t i = 0; i < entry->block_count; i++)
            PROA_ASSERT(s->lenders[number_of(s, entry, i)] > 0);
        blocks += first_held(s, slot, &nobody);
        count++;
    }
    PROA_ASSERT(count == s->lent.count);
    PROA_ASSERT(blocks == s->blocks_lent);
    return blocks;
}

void proa_scheduler_check(const proa_scheduler *s)
{
    PROA_ASSERT(!s->outstanding);
    int32_t count = 0, used = check_lent(s);
    for (int32_t slot = s->running.first; slot != PROA_SLOT_NONE; slot = s->entries[slot].next) {
        check_running(s, slot);
        check_blocks(s, &s->entries[slot]);
        check_shown(s, &s->entries[slot]);
        used += first_held(s, slot, &s->lent);
        count++;
    }
    PROA_ASSERT(count == s->running.count);
    PROA_ASSERT(count + s->lent.count + s->free_lane_count == s->limits.running_max);
    PROA_ASSERT(used == s->limits.kv_blocks - proa_scheduler_room(s)); /* none leaked, none held twice */
    check_waiting(s);
    if (s->cache != NULL)
        proa_prefix_cache_check(s->cache);
}
