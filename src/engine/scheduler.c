/* scheduler.c - the scheduler's state and events; the decisions are in scheduler_plan.c. */
#include "engine/scheduler_internal.h"

#include <stdlib.h>

static bool allocate_tables(proa_scheduler *s)
{
    const proa_scheduler_limits *limits = &s->limits;
    size_t lanes = (size_t)limits->running_max;
    s->lane_blocks = proa_kv_blocks_for(limits->context_length);
    s->entries = calloc((size_t)limits->slots, sizeof *s->entries);
    s->free_lanes = calloc(lanes, sizeof *s->free_lanes);
    s->numbers = calloc(lanes * (size_t)s->lane_blocks, sizeof *s->numbers);
    s->held = calloc(lanes * (size_t)s->lane_blocks, sizeof *s->held);
    s->segments = calloc(lanes, sizeof *s->segments);
    s->copies = calloc(lanes, sizeof *s->copies);
    s->reserved = calloc(lanes, sizeof *s->reserved);
    s->generations = calloc((size_t)s->lane_blocks, sizeof *s->generations);
    s->lenders = calloc((size_t)limits->kv_blocks, sizeof *s->lenders);
    s->blocks = proa_kv_blocks_create(limits->kv_blocks);
    if (s->blocks == NULL)
        return false;
    if (limits->cache) {
        s->cache = proa_prefix_cache_create(s->blocks, limits->page_size);
        if (s->cache == NULL)
            return false;
        proa_prefix_cache_watch(s->cache, limits->kv_event, limits->kv_event_context);
    }
    return s->entries != NULL && s->free_lanes != NULL && s->numbers != NULL && s->held != NULL &&
           s->segments != NULL && s->copies != NULL && s->reserved != NULL && s->generations != NULL &&
           s->lenders != NULL;
}

proa_scheduler *proa_scheduler_create(const proa_scheduler_limits *limits)
{
    PROA_ASSERT(limits->slots >= 1);
    PROA_ASSERT(limits->running_max >= 1);
    PROA_ASSERT(limits->chunk >= 1);
    PROA_ASSERT(limits->context_length <= (int64_t)limits->kv_blocks * PROA_KV_BLOCK_TOKENS);
    /* a peer writes where nobody else reads */
    PROA_ASSERT(limits->role != PROA_ENGINE_DECODE || !limits->cache);
    proa_scheduler *s = calloc(1, sizeof *s);
    if (s == NULL)
        return NULL;
    s->limits = *limits;
    if (!allocate_tables(s)) {
        proa_scheduler_free(s);
        return NULL;
    }
    for (int32_t i = 0; i < limits->running_max; i++)
        s->free_lanes[i] = limits->running_max - 1 - i;
    s->free_lane_count = limits->running_max;
    s->waiting = s->running = s->lent = (proa_slot_list){PROA_SLOT_NONE, PROA_SLOT_NONE, 0};
    s->growth_permille = limits->growth_permille;
    return s;
}

void proa_scheduler_free(proa_scheduler *s)
{
    if (s == NULL)
        return;
    proa_prefix_cache_free(s->cache);
    proa_kv_blocks_free(s->blocks);
    free(s->entries);
    free(s->free_lanes);
    free(s->numbers);
    free(s->held);
    free(s->segments);
    free(s->copies);
    free(s->reserved);
    free(s->generations);
    free(s->lenders);
    free(s);
}

/* ---- lists ---- */

void proa_slot_list_append(proa_scheduler *s, proa_slot_list *list, int32_t slot)
{
    proa_scheduler_entry *entry = &s->entries[slot];
    entry->previous = list->last;
    entry->next = PROA_SLOT_NONE;
    if (list->last != PROA_SLOT_NONE)
        s->entries[list->last].next = slot;
    else
        list->first = slot;
    list->last = slot;
    list->count++;
}

void proa_slot_list_remove(proa_scheduler *s, proa_slot_list *list, int32_t slot)
{
    const proa_scheduler_entry *entry = &s->entries[slot];
    if (entry->previous != PROA_SLOT_NONE)
        s->entries[entry->previous].next = entry->next;
    else
        list->first = entry->next;
    if (entry->next != PROA_SLOT_NONE)
        s->entries[entry->next].previous = entry->previous;
    else
        list->last = entry->previous;
    list->count--;
}

/* ---- a request's holdings ---- */

void proa_entry_settle(proa_scheduler_entry *entry)
{
    if (entry->computed < entry->prompt_count)
        entry->state = PROA_REQUEST_PREFILL;
    else if (entry->computed < proa_entry_total(entry) - 1)
        entry->state = PROA_REQUEST_REPLAY;
    else
        entry->state = PROA_REQUEST_DECODE;
}

/* Is there a multiple of page_size among the first `count` rows after `first`, so that a match could end there? */
static bool tail_matches(int32_t first, int32_t count, int32_t page_size)
{
    return (first + count) / page_size * page_size > first;
}

void proa_scheduler_let_go(proa_scheduler *s, int32_t slot, bool keep_tail)
{
    proa_scheduler_entry *entry = &s->entries[slot];
    bool lent = entry->state == PROA_REQUEST_LENT;
    proa_kv_block *held = &s->held[(size_t)entry->lane * (size_t)s->lane_blocks];
    if (s->cache != NULL) {
        int32_t first = entry->node_blocks * PROA_KV_BLOCK_TOKENS;
        int32_t prompt = entry->computed < entry->prompt_count ? entry->computed : entry->prompt_count;
        if (keep_tail && tail_matches(first, prompt - first, s->limits.page_size))
            proa_prefix_cache_add_tail(s->cache, entry->node, entry->prompt_ids + first, prompt - first,
                                       held[entry->node_blocks]);
        proa_prefix_cache_unlock(s->cache, entry->node);
    }
    for (int32_t i = 0; i < entry->block_count; i++) {
        if (lent)
            s->blocks_lent -= --s->lenders[held[i].number] == 0;
        proa_kv_blocks_drop(s->blocks, held[i]);
    }
    proa_slot_list_remove(s, lent ? &s->lent : &s->running, slot);
    s->free_lanes[s->free_lane_count++] = entry->lane;
    entry->lane = PROA_SLOT_NONE;
    entry->block_count = entry->node_blocks = entry->computed = entry->shown = 0;
    entry->starved = false;
}

/* The request is over, a peer may still touch its blocks. */
static void lend(proa_scheduler *s, int32_t slot)
{
    proa_scheduler_entry *entry = &s->entries[slot];
    const int32_t *numbers = &s->numbers[(size_t)entry->lane * (size_t)s->lane_blocks];
    proa_slot_list_remove(s, &s->running, slot);
    proa_slot_list_append(s, &s->lent, slot);
    entry->state = PROA_REQUEST_LENT;
    entry->prompt_ids = NULL; /* its owner has it back */
    for (int32_t i = 0; i < entry->block_count; i++)
        s->blocks_lent += s->lenders[numbers[i]]++ == 0;
}

/* ---- events ---- */

static proa_scheduler_entry *known(proa_scheduler *s, int32_t slot)
{
    PROA_ASSERT(slot >= 0 && slot < s->limits.slots);
    PROA_ASSERT(s->entries[slot].state != PROA_REQUEST_FREE);
    return &s->entries[slot];
}

void proa_scheduler_submit(proa_scheduler *s, int32_t slot, const proa_scheduler_request *request)
{
    PROA_ASSERT(slot >= 0 && slot < s->limits.slots);
    PROA_ASSERT(s->entries[slot].state == PROA_REQUEST_FREE);
    PROA_ASSERT(request->prompt_count >= 1);
    PROA_ASSERT(request->max_new_tokens >= 1);
    PROA_ASSERT(request->output_count >= 0 && request->output_count < request->max_new_tokens);
    PROA_ASSERT(request->prompt_count <= s->limits.context_length - request->max_new_tokens);
    PROA_ASSERT(request->credit >= 1);
    s->entries[slot] = (proa_scheduler_entry){
        .state = PROA_REQUEST_WAITING,
        .arrival = s->arrivals++,
        .prompt_ids = request->prompt_ids,
        .prompt_count = request->prompt_count,
        .max_new_tokens = request->max_new_tokens,
        .outputs = request->output_count,
        .credit = request->credit,
        .lane = PROA_SLOT_NONE,
        .paused_since_us = -1,
    };
    proa_slot_list_append(s, &s->waiting, slot);
}

static void leave(proa_scheduler *s, int32_t slot, bool keep_tail)
{
    if (s->entries[slot].state == PROA_REQUEST_WAITING)
        proa_slot_list_remove(s, &s->waiting, slot);
    else
        proa_scheduler_let_go(s, slot, keep_tail);
    s->entries[slot].state = PROA_REQUEST_FREE;
}

/* It ends before its time; its blocks stay when a peer may touch them. */
static void give_up(proa_scheduler *s, int32_t slot, bool keep_tail)
{
    if (s->entries[slot].shown > 0)
        lend(s, slot);
    else
        leave(s, slot, keep_tail);
}

void proa_scheduler_cancel(proa_scheduler *s, int32_t slot)
{
    PROA_ASSERT(!s->outstanding);
    PROA_ASSERT(known(s, slot)->state != PROA_REQUEST_LENT);
    give_up(s, slot, true);
}

void proa_scheduler_release(proa_scheduler *s, int32_t slot)
{
    PROA_ASSERT(!s->outstanding);
    bool has_tokens = known(s, slot)->prompt_ids != NULL; /* a lent one cannot name what its tail holds */
    leave(s, slot, has_tokens);
}

void proa_scheduler_adopt(proa_scheduler *s, int32_t slot, int32_t cached_tokens, proa_outcome outcome)
{
    PROA_ASSERT(!s->outstanding);
    proa_scheduler_entry *entry = known(s, slot);
    PROA_ASSERT(entry->state == PROA_REQUEST_RESERVED);
    PROA_ASSERT(outcome != PROA_OUTCOME_LOST);
    PROA_ASSERT(entry->credit > 0); /* it has had no token yet */
    entry->computed = entry->shown;
    entry->shown = 0;
    entry->adopted = true;
    entry->cached_tokens = cached_tokens;
    entry->outputs++;
    entry->credit--;
    proa_entry_settle(entry);
    PROA_ASSERT(entry->state == PROA_REQUEST_DECODE);
    if (outcome == PROA_OUTCOME_DONE)
        leave(s, slot, true);
}

void proa_scheduler_grant(proa_scheduler *s, int32_t slot, int32_t tokens)
{
    PROA_ASSERT(tokens >= 0);
    proa_scheduler_entry *entry = known(s, slot);
    entry->credit = entry->credit > INT32_MAX - tokens ? INT32_MAX : entry->credit + tokens;
    if (entry->credit > 0)
        entry->paused_since_us = -1;
}

/* Full blocks of the prompt that are computed now enter the cache. */
static void share_computed(proa_scheduler *s, proa_scheduler_entry *entry)
{
    if (s->cache == NULL)
        return;
    size_t lane = (size_t)entry->lane * (size_t)s->lane_blocks;
    int32_t prompt = entry->computed < entry->prompt_count ? entry->computed : entry->prompt_count;
    while ((entry->node_blocks + 1) * PROA_KV_BLOCK_TOKENS <= prompt) {
        int32_t i = entry->node_blocks++;
        entry->node = proa_prefix_cache_extend(
            s->cache, entry->node, entry->prompt_ids + i * PROA_KV_BLOCK_TOKENS, &s->held[lane + (size_t)i]);
        s->numbers[lane + (size_t)i] = s->held[lane + (size_t)i].number;
    }
}

/* Rows that a peer may read from now on; see proa_scheduler_rows. */
static int32_t rows_to_show(const proa_scheduler_entry *entry)
{
    bool filling = entry->computed < entry->prompt_count;
    return filling ? entry->computed / PROA_KV_BLOCK_TOKENS * PROA_KV_BLOCK_TOKENS : entry->computed;
}

void proa_scheduler_complete(proa_scheduler *s, const proa_outcome *outcomes)
{
    PROA_ASSERT(s->outstanding);
    s->outstanding = false;
    for (int32_t i = 0; i < s->plan.segment_count; i++) {
        const proa_plan_segment *segment = &s->segments[i];
        proa_scheduler_entry *entry = &s->entries[segment->slot];
        if (segment->logits && outcomes[i] == PROA_OUTCOME_LOST) {
            give_up(s, segment->slot, false);
            continue;
        }
        entry->computed += segment->row_count;
        share_computed(s, entry);
        if (s->limits.role == PROA_ENGINE_PREFILL)
            entry->shown = rows_to_show(entry);
        if (segment->logits) {
            PROA_ASSERT(entry->credit > 0);
            PROA_ASSERT(entry->outputs < entry->max_new_tokens);
            entry->outputs++;
            entry->credit--;
        }
        if (segment->logits && s->limits.role == PROA_ENGINE_PREFILL)
            entry->state = PROA_REQUEST_HELD;
        else if (segment->logits && outcomes[i] == PROA_OUTCOME_DONE)
            leave(s, segment->slot, true);
        else
            proa_entry_settle(entry);
    }
}

void proa_scheduler_fail(proa_scheduler *s)
{
    PROA_ASSERT(s->outstanding);
    s->outstanding = false;
    for (int32_t i = 0; i < s->plan.segment_count; i++)
        give_up(s, s->segments[i].slot, false);
}

void proa_scheduler_flush(proa_scheduler *s)
{
    while (s->cache != NULL && proa_prefix_cache_evict(s->cache)) {
    }
}

/* ---- views ---- */

void proa_scheduler_look(const proa_scheduler *s, proa_scheduler_view *view)
{
    int32_t room = proa_scheduler_room(s), available = proa_kv_blocks_available(s->blocks);
    *view = (proa_scheduler_view){
        .running = s->running.count,
        .waiting = s->waiting.count,
        .lent = s->lent.count,
        .blocks_lent = s->blocks_lent,
        .blocks_used = s->limits.kv_blocks - room,
        .blocks_cached = room - available,
        .blocked = s->blocked,
    };
    for (int32_t slot = s->running.first; slot != PROA_SLOT_NONE; slot = s->entries[slot].next)
        view->tokens_used += s->entries[slot].computed;
}

proa_request_state proa_scheduler_state(const proa_scheduler *s, int32_t slot)
{
    PROA_ASSERT(slot >= 0 && slot < s->limits.slots);
    return s->entries[slot].state;
}

void proa_scheduler_rows(proa_scheduler *s, int32_t slot, proa_engine_rows *rows)
{
    const proa_scheduler_entry *entry = known(s, slot);
    PROA_ASSERT(entry->lane != PROA_SLOT_NONE);
    size_t lane = (size_t)entry->lane * (size_t)s->lane_blocks;
    for (int32_t i = 0; i < entry->block_count; i++)
        s->generations[i] = s->held[lane + (size_t)i].generation;
    rows->rows = entry->shown;
    rows->block_count = entry->block_count;
    rows->blocks = &s->numbers[lane];
    rows->generations = s->generations;
    rows->cached_tokens = entry->cached_tokens;
}

int32_t proa_scheduler_cached_tokens(const proa_scheduler *s, int32_t slot)
{
    return s->entries[slot].cached_tokens;
}

int32_t proa_scheduler_retractions(const proa_scheduler *s, int32_t slot)
{
    return s->entries[slot].retractions;
}
