/* scheduler_check.c - what must hold of the scheduler between steps, asserted by walking everything. For tests. */
#include "engine/scheduler_internal.h"

static void check_running(const proa_scheduler *s, int32_t slot)
{
    const proa_scheduler_entry *entry = &s->entries[slot];
    int32_t total = proa_entry_total(entry);
    PROA_ASSERT(entry->state >= PROA_REQUEST_PREFILL);
    PROA_ASSERT(entry->computed < total);
    PROA_ASSERT((entry->state == PROA_REQUEST_PREFILL) == (entry->computed < entry->prompt_count));
    PROA_ASSERT(entry->state != PROA_REQUEST_DECODE || entry->computed == total - 1);
    PROA_ASSERT(entry->state == PROA_REQUEST_DECODE || entry->credit > 0);
    PROA_ASSERT(entry->block_count >= proa_kv_blocks_for(entry->computed));
    PROA_ASSERT(entry->block_count <= proa_kv_blocks_for(total));
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

/* Blocks that this request holds and no earlier running one does. */
static int32_t first_held(const proa_scheduler *s, int32_t slot)
{
    const proa_scheduler_entry *entry = &s->entries[slot];
    int32_t count = entry->block_count - entry->node_blocks;
    for (int32_t i = 0; i < entry->node_blocks; i++) {
        int32_t number = s->numbers[(size_t)entry->lane * (size_t)s->lane_blocks + (size_t)i];
        bool earlier = false;
        for (int32_t o = entry->previous; o != PROA_SLOT_NONE && !earlier; o = s->entries[o].previous) {
            const proa_scheduler_entry *other = &s->entries[o];
            earlier = i < other->node_blocks &&
                      s->numbers[(size_t)other->lane * (size_t)s->lane_blocks + (size_t)i] == number;
        }
        count += !earlier;
    }
    return count;
}

void proa_scheduler_check(const proa_scheduler *s)
{
    PROA_ASSERT(!s->outstanding);
    int32_t count = 0, used = 0;
    for (int32_t slot = s->running.first; slot != PROA_SLOT_NONE; slot = s->entries[slot].next) {
        check_running(s, slot);
        used += first_held(s, slot);
        count++;
    }
    PROA_ASSERT(count == s->running.count);
    PROA_ASSERT(count <= s->limits.running_max);
    PROA_ASSERT(used == s->limits.kv_blocks - proa_scheduler_room(s)); /* none leaked, none held twice */
    count = 0;
    for (int32_t slot = s->waiting.first; slot != PROA_SLOT_NONE; slot = s->entries[slot].next) {
        const proa_scheduler_entry *entry = &s->entries[slot];
        PROA_ASSERT(entry->state == PROA_REQUEST_WAITING);
        PROA_ASSERT(entry->lane == PROA_SLOT_NONE);
        PROA_ASSERT(entry->block_count == 0);
        if (entry->previous != PROA_SLOT_NONE) {
            const proa_scheduler_entry *before = &s->entries[entry->previous];
            bool same_kind = (before->retractions > 0) == (entry->retractions > 0);
            PROA_ASSERT(same_kind || before->retractions > 0);
            PROA_ASSERT(!same_kind || before->arrival < entry->arrival);
        }
        count++;
    }
    PROA_ASSERT(count == s->waiting.count);
    if (s->cache != NULL)
        proa_prefix_cache_check(s->cache);
}
