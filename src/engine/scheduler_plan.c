/* scheduler_plan.c - what the next step computes: growth, retraction, decode rows, chunks, admission, in this order.
 *
 * Estimate of growth: admission keeps blocks free for a share (growth_permille) of the tokens that the running
 * requests may yet generate, each counted to at most 4,096. The share starts at limits.growth_permille, falls by
 * 0.001 a step to 1/7 of that, and rises by 0.2 with a retraction. It decides when a request starts, never what it says.
 * A reservation leaves limits.reserved_tokens to each instead, when that is given. In role PREFILL nothing grows.
 */
#include "engine/scheduler_internal.h"

enum {
    GROWTH_FALL = 7,               /* the share falls to 1/7 of where it starts */
    GROWTH_PERMILLE_RETRACT = 200, /* added by each retraction for growth */
    GROWTH_TOKENS_MAX = 4096,
    BLOCK = PROA_KV_BLOCK_TOKENS,
};

/* ---- blocks ---- */

static proa_kv_block take_block(proa_scheduler *s)
{
    proa_kv_block block;
    bool taken = proa_kv_blocks_take(s->blocks, &block);
    if (!taken && s->cache != NULL && proa_prefix_cache_evict(s->cache))
        taken = proa_kv_blocks_take(s->blocks, &block);
    PROA_ASSERT(taken); /* callers have counted what is left */
    return block;
}

static void add_block(proa_scheduler *s, proa_scheduler_entry *entry)
{
    PROA_ASSERT(entry->block_count < s->lane_blocks);
    size_t i = (size_t)entry->lane * (size_t)s->lane_blocks + (size_t)entry->block_count++;
    s->held[i] = take_block(s);
    s->numbers[i] = s->held[i].number;
}

/* Does it decode in this step? */
static bool decodes(const proa_scheduler_entry *entry)
{
    return entry->state == PROA_REQUEST_DECODE && entry->credit > 0;
}

static bool starts_block(const proa_scheduler_entry *entry)
{
    return entry->computed == entry->block_count * BLOCK;
}

/* ---- retraction ---- */

static void retract(proa_scheduler *s, int32_t slot)
{
    proa_scheduler_entry *entry = &s->entries[slot];
    proa_scheduler_let_go(s, slot, true);
    entry->state = PROA_REQUEST_WAITING;
    entry->retractions++;
    entry->passes = 0;
    s->plan.retracted++;
    /* the front of the queue, the retracted among themselves by arrival */
    int32_t before = s->waiting.first;
    while (before != PROA_SLOT_NONE && s->entries[before].retractions > 0 &&
           s->entries[before].arrival < entry->arrival)
        before = s->entries[before].next;
    if (before == PROA_SLOT_NONE) {
        proa_slot_list_append(s, &s->waiting, slot);
        return;
    }
    entry->next = before;
    entry->previous = s->entries[before].previous;
    s->entries[before].previous = slot;
    if (entry->previous != PROA_SLOT_NONE)
        s->entries[entry->previous].next = slot;
    else
        s->waiting.first = slot;
    s->waiting.count++;
}

/* Is a to be retracted rather than b? */
static bool gives_way(const proa_scheduler_entry *a, const proa_scheduler_entry *b)
{
    if ((a->credit == 0) != (b->credit == 0))
        return a->credit == 0;
    if (a->outputs != b->outputs)
        return a->outputs < b->outputs;
    return a->arrival > b->arrival;
}

/* Admission has been too bold. */
static void expect_more_growth(proa_scheduler *s)
{
    s->growth_permille += GROWTH_PERMILLE_RETRACT;
    if (s->growth_permille > 1000)
        s->growth_permille = 1000;
}

/* False when one alone computes: it keeps what it has. */
static bool retract_for_growth(proa_scheduler *s)
{
    int32_t victim = PROA_SLOT_NONE, count = 0;
    for (int32_t slot = s->running.first; slot != PROA_SLOT_NONE; slot = s->entries[slot].next) {
        if (!proa_entry_computes(&s->entries[slot]))
            continue;
        if (count++ == 0 || gives_way(&s->entries[slot], &s->entries[victim]))
            victim = slot;
    }
    if (count < 2) {
        /* one alone has all blocks but those in a peer's hands, and submit checked that it fits */
        PROA_ASSERT(s->lent.count + s->running.count > 1);
        return false;
    }
    retract(s, victim);
    expect_more_growth(s);
    return true;
}

/* Retracts until each row that starts a block can have one, as far as that helps. */
static void make_room_for_growth(proa_scheduler *s)
{
    for (;;) {
        int32_t growth = 0;
        for (int32_t slot = s->running.first; slot != PROA_SLOT_NONE; slot = s->entries[slot].next)
            growth += decodes(&s->entries[slot]) && starts_block(&s->entries[slot]);
        if (growth <= proa_scheduler_room(s) || !retract_for_growth(s))
            return;
    }
}

/* ---- segments ---- */

/* The request's next rows, at most rows_max of them, all of one form. */
static void add_segment(proa_scheduler *s, int32_t slot, int32_t rows_max)
{
    const proa_scheduler_entry *entry = &s->entries[slot];
    bool absorbed = entry->computed >= entry->prompt_count;
    int32_t total = proa_entry_total(entry);
    int32_t rows = (absorbed ? total : entry->prompt_count) - entry->computed;
    if (rows > rows_max)
        rows = rows_max;
    PROA_ASSERT(rows >= 1);
    size_t lane = (size_t)entry->lane * (size_t)s->lane_blocks;
    for (int32_t i = entry->computed / BLOCK; i <= (entry->computed + rows - 1) / BLOCK; i++) {
        PROA_ASSERT(i < entry->block_count && i >= entry->node_blocks);
        PROA_ASSERT(proa_kv_blocks_references(s->blocks, s->held[lane + (size_t)i]) == 1);
    }
    proa_schedule_plan *plan = &s->plan;
    proa_plan_segment *segment = &s->segments[plan->segment_count++];
    *segment = (proa_plan_segment){
        .slot = slot,
        .position_first = entry->computed,
        .row_count = rows,
        .blocks = &s->numbers[lane],
        .absorbed = absorbed,
        .logits = entry->computed + rows == total,
    };
    PROA_ASSERT(!segment->logits || entry->credit > 0);
    plan->row_count += rows;
    plan->logit_count += segment->logits;
}

static void plan_decode(proa_scheduler *s)
{
    for (int32_t slot = s->running.first; slot != PROA_SLOT_NONE; slot = s->entries[slot].next) {
        proa_scheduler_entry *entry = &s->entries[slot];
        if (!decodes(entry))
            continue;
        if (starts_block(entry) && proa_scheduler_room(s) == 0) { /* peers have the rest: it waits */
            if (!entry->starved)
                expect_more_growth(s);
            entry->starved = true;
            continue;
        }
        entry->starved = false;
        if (starts_block(entry))
            add_block(s, entry);
        add_segment(s, slot, 1);
    }
    s->plan.decode_rows = s->plan.row_count;
}

static int32_t budget_left(const proa_scheduler *s)
{
    return s->limits.chunk - (s->plan.row_count - s->plan.decode_rows);
}

static void plan_prefill(proa_scheduler *s)
{
    for (int32_t slot = s->running.first; slot != PROA_SLOT_NONE && budget_left(s) > 0;
         slot = s->entries[slot].next) {
        proa_request_state state = s->entries[slot].state;
        if (state == PROA_REQUEST_PREFILL || state == PROA_REQUEST_REPLAY)
            add_segment(s, slot, budget_left(s));
    }
}

/* ---- admission ---- */

/* Tokens of the request that a match may cover: a fresh prompt needs its last row for the first token. */
static int32_t match_limit(const proa_scheduler_entry *entry)
{
    return entry->outputs > 0 ? entry->prompt_count : entry->prompt_count - 1;
}

static proa_prefix_match match_prefix(const proa_scheduler *s, const proa_scheduler_entry *entry)
{
    if (s->cache == NULL)
        return (proa_prefix_match){0};
    return proa_prefix_cache_match(s->cache, entry->prompt_ids, match_limit(entry));
}

/* LPM: retracted requests first, then those passed over too often, then the longest match, then the eldest. */
static int32_t longest_match(proa_scheduler *s)
{
    int32_t best = PROA_SLOT_NONE, seen = 0;
    uint64_t version = s->cache != NULL ? proa_prefix_cache_version(s->cache) : 1;
    for (int32_t slot = s->waiting.first; slot != PROA_SLOT_NONE && seen < PROA_SCHEDULER_LPM_WINDOW;
         slot = s->entries[slot].next) {
        proa_scheduler_entry *entry = &s->entries[slot];
        if (entry->credit == 0)
            continue;
        if (entry->retractions > 0 || entry->passes >= PROA_SCHEDULER_PASSES_MAX)
            return slot;
        if (entry->hint_version != version) {
            entry->hint_version = version;
            entry->hint_tokens = match_prefix(s, entry).tokens;
        }
        if (best == PROA_SLOT_NONE || entry->hint_tokens > s->entries[best].hint_tokens)
            best = slot;
        seen++;
    }
    return best;
}

static int32_t next_candidate(proa_scheduler *s)
{
    if (s->limits.policy == PROA_SCHEDULE_LPM)
        return longest_match(s);
    int32_t slot = s->waiting.first;
    while (slot != PROA_SLOT_NONE && s->entries[slot].credit == 0)
        slot = s->entries[slot].next;
    return slot;
}

/* Blocks that the request is expected to take beyond those for its present tokens, as an admission sees it that
 * reserves for a peer or does not. */
static int32_t expected_growth(const proa_scheduler *s, const proa_scheduler_entry *entry, bool reserves)
{
    if (s->limits.role == PROA_ENGINE_PREFILL)
        return 0;
    int32_t total = proa_entry_admitted(s, entry);
    int64_t tokens = entry->prompt_count + entry->max_new_tokens - total;
    if (reserves && s->limits.reserved_tokens >= 0) {
        if (tokens > s->limits.reserved_tokens)
            tokens = s->limits.reserved_tokens;
    } else {
        if (tokens > GROWTH_TOKENS_MAX)
            tokens = GROWTH_TOKENS_MAX;
        tokens = tokens * s->growth_permille / 1000;
    }
    return proa_kv_blocks_for(total + tokens) - proa_kv_blocks_for(total);
}

/* Is there room for `need` more blocks and for what the running ones are expected to take? */
static bool fits(const proa_scheduler *s, const proa_scheduler_entry *entry, int32_t need)
{
    bool reserves = proa_entry_awaits_rows(s, entry);
    int64_t wanted = need;
    if (s->running.count > 0)
        wanted += expected_growth(s, entry, reserves);
    for (int32_t slot = s->running.first; slot != PROA_SLOT_NONE; slot = s->entries[slot].next) {
        if (s->entries[slot].credit > 0)
            wanted += expected_growth(s, &s->entries[slot], reserves);
    }
    return wanted <= proa_scheduler_room(s);
}

/* Takes the shared beginning; gives it back when the rest does not fit. */
static bool take_prefix(proa_scheduler *s, proa_scheduler_entry *entry, const proa_prefix_match *match,
                        int32_t lane)
{
    proa_kv_block *held = &s->held[(size_t)lane * (size_t)s->lane_blocks];
    if (s->cache != NULL)
        proa_prefix_cache_acquire(s->cache, match, held);
    if (fits(s, entry, proa_kv_blocks_for(proa_entry_admitted(s, entry)) - match->block_count))
        return true;
    PROA_ASSERT(s->running.count + s->lent.count > 0);
    if (s->cache != NULL)
        proa_prefix_cache_unlock(s->cache, match->node);
    for (int32_t i = 0; i < match->block_count; i++)
        proa_kv_blocks_drop(s->blocks, held[i]);
    return false;
}

/* Moves a waiting request to the running ones, with blocks for all its tokens. False when they do not fit. */
static bool admit(proa_scheduler *s, int32_t slot)
{
    if (s->free_lane_count == 0)
        return false;
    proa_scheduler_entry *entry = &s->entries[slot];
    proa_prefix_match match = match_prefix(s, entry);
    int32_t lane = s->free_lanes[s->free_lane_count - 1];
    if (!take_prefix(s, entry, &match, lane))
        return false;
    s->free_lane_count--;
    for (int32_t i = s->waiting.first; i != slot; i = s->entries[i].next)
        s->entries[i].passes += s->entries[i].credit > 0;
    proa_slot_list_remove(s, &s->waiting, slot);
    proa_slot_list_append(s, &s->running, slot);
    size_t first = (size_t)lane * (size_t)s->lane_blocks;
    for (int32_t i = 0; i < match.block_count; i++)
        s->numbers[first + (size_t)i] = s->held[first + (size_t)i].number;
    entry->lane = lane;
    entry->node = match.node;
    entry->block_count = entry->node_blocks = match.block_count;
    entry->computed = match.tokens;
    while (entry->block_count < proa_kv_blocks_for(proa_entry_admitted(s, entry)))
        add_block(s, entry);
    /* the source may have been evicted for a block just taken, even for this very one: the copy comes first */
    int32_t to = match.partial_tokens > 0 ? s->numbers[first + (size_t)match.block_count] : 0;
    if (match.partial_tokens > 0 && to != match.partial_block.number)
        s->copies[s->plan.copy_count++] =
            (proa_kv_copy){match.partial_block.number, to, match.partial_tokens};
    if (entry->retractions == 0) {
        entry->cached_tokens = match.tokens;
        s->plan.cached_tokens += match.tokens;
    }
    s->plan.admitted++;
    proa_entry_settle(entry);
    return true;
}

/* Retracts the request that has been without credit for longest, if one must give way now. */
static bool retract_paused(proa_scheduler *s, int64_t now_us)
{
    int32_t victim = PROA_SLOT_NONE;
    for (int32_t slot = s->running.first; slot != PROA_SLOT_NONE; slot = s->entries[slot].next) {
        const proa_scheduler_entry *entry = &s->entries[slot];
        if (entry->credit == 0 && proa_entry_computes(entry) &&
            (victim == PROA_SLOT_NONE || entry->paused_since_us < s->entries[victim].paused_since_us))
            victim = slot;
    }
    if (victim == PROA_SLOT_NONE)
        return false;
    if (s->plan.segment_count > 0 && now_us - s->entries[victim].paused_since_us < PROA_SCHEDULER_PAUSE_US)
        return false;
    retract(s, victim);
    return true;
}

/* An admitted request waits for a peer to write its rows. */
static void reserve(proa_scheduler *s, int32_t slot)
{
    proa_scheduler_entry *entry = &s->entries[slot];
    entry->state = PROA_REQUEST_RESERVED;
    entry->shown = proa_entry_total(entry);
    s->reserved[s->plan.reserved_count++] = slot;
}

static void plan_admission(proa_scheduler *s, int64_t now_us)
{
    s->blocked = false;
    while (budget_left(s) > 0 || s->limits.role == PROA_ENGINE_DECODE) {
        int32_t slot = next_candidate(s);
        if (slot == PROA_SLOT_NONE)
            return;
        bool reserves = proa_entry_awaits_rows(s, &s->entries[slot]);
        if (!reserves && budget_left(s) == 0)
            return;
        while (!admit(s, slot)) {
            if (!retract_paused(s, now_us)) {
                s->blocked = true;
                return;
            }
        }
        if (reserves)
            reserve(s, slot);
        else
            add_segment(s, slot, budget_left(s));
    }
}

void proa_scheduler_plan(proa_scheduler *s, int64_t now_us, proa_schedule_plan *plan)
{
    PROA_ASSERT(!s->outstanding);
    s->plan = (proa_schedule_plan){.segments = s->segments, .copies = s->copies, .reserved = s->reserved};
    if (s->growth_permille > s->limits.growth_permille / GROWTH_FALL)
        s->growth_permille--;
    for (int32_t slot = s->running.first; slot != PROA_SLOT_NONE; slot = s->entries[slot].next) {
        proa_scheduler_entry *entry = &s->entries[slot];
        if (entry->credit == 0 && entry->paused_since_us < 0)
            entry->paused_since_us = now_us;
    }
    make_room_for_growth(s);
    plan_decode(s);
    plan_prefill(s);
    plan_admission(s, now_us);
    s->plan.prefill_rows = s->plan.row_count - s->plan.decode_rows;
    s->outstanding = s->plan.segment_count > 0;
    *plan = s->plan;
}
