/* scheduler_internal.h - the scheduler's state, shared by scheduler.c (events), scheduler_plan.c (decisions) and
 * scheduler_check.c (what must hold). Not for others. */
#ifndef PROA_ENGINE_SCHEDULER_INTERNAL_H
#define PROA_ENGINE_SCHEDULER_INTERNAL_H

#include "engine/scheduler.h"

enum { PROA_SLOT_NONE = -1 };

typedef struct proa_scheduler_entry {
    proa_request_state state;
    uint64_t arrival;
    const int32_t *prompt_ids;
    int32_t prompt_count;
    int32_t max_new_tokens;
    int32_t outputs;  /* tokens drawn; prompt_count + outputs are known */
    int32_t computed; /* positions whose keys are in the blocks */
    int32_t shown;    /* rows that a peer was told of and may touch; 0: none */
    int32_t credit;
    int32_t lane; /* row of the block tables; PROA_SLOT_NONE while waiting */
    int32_t block_count;
    int32_t node;           /* deepest node of the prefix cache that it locks */
    int32_t node_blocks;    /* leading blocks that the cache shares */
    int32_t previous, next; /* neighbours in the waiting or the running list */
    int32_t passes;         /* younger requests admitted before it (LPM) */
    int32_t retractions;
    int32_t cached_tokens;   /* found at the first admission */
    int64_t paused_since_us; /* -1: has credit, or not seen yet */
    int32_t hint_tokens;     /* LPM: length of its match under the cache's hint_version; 0: none yet */
    uint64_t hint_version;
    bool adopted; /* DECODE: its first rows came from a peer; if they are lost, they are computed here */
    bool starved; /* its decode row has found no block */
} proa_scheduler_entry;

typedef struct proa_slot_list {
    int32_t first, last, count;
} proa_slot_list;

struct proa_scheduler {
    proa_scheduler_limits limits;
    proa_kv_blocks *blocks;
    proa_prefix_cache *cache; /* NULL: off */
    proa_scheduler_entry *entries;
    proa_slot_list waiting; /* retracted ones first, then by arrival */
    proa_slot_list running; /* by admission */
    proa_slot_list lent;    /* finished, their blocks in a peer's hands */
    uint64_t arrivals;
    int32_t growth_permille; /* share of what the running may yet generate that admission keeps free */
    bool blocked;
    bool outstanding; /* a plan waits to be completed */

    int32_t lane_blocks;     /* blocks of a lane's tables */
    int32_t free_lane_count; /* running_max less the running and the lent */
    int32_t *free_lanes;     /* a stack */
    int32_t *numbers;        /* [running_max][lane_blocks], as segments want them */
    proa_kv_block *held;     /* the same with generations */
    uint32_t *generations;   /* [lane_blocks], for proa_scheduler_rows */

    int32_t *lenders;    /* [kv_blocks] lent requests that hold the block */
    int32_t blocks_lent; /* blocks with any */

    /* the plan: at most one segment and one copy a running request */
    proa_plan_segment *segments;
    proa_kv_copy *copies;
    int32_t *reserved; /* [running_max] */
    proa_schedule_plan plan;
};

static inline int32_t proa_entry_total(const proa_scheduler_entry *entry)
{
    return entry->prompt_count + entry->outputs;
}

/* Must a peer write its rows before it can run? */
static inline bool proa_entry_awaits_rows(const proa_scheduler *scheduler, const proa_scheduler_entry *entry)
{
    return scheduler->limits.role == PROA_ENGINE_DECODE && !entry->adopted;
}

/* Tokens that it is admitted with: those it has, and the one that comes with a peer's rows. */
static inline int32_t proa_entry_admitted(const proa_scheduler *scheduler, const proa_scheduler_entry *entry)
{
    return proa_entry_total(entry) + proa_entry_awaits_rows(scheduler, entry);
}

/* Does it have rows to compute, now or when it gets credit? Only such a request can be retracted. */
static inline bool proa_entry_computes(const proa_scheduler_entry *entry)
{
    return entry->state == PROA_REQUEST_PREFILL || entry->state == PROA_REQUEST_REPLAY ||
           entry->state == PROA_REQUEST_DECODE;
}

static inline int32_t proa_scheduler_room(const proa_scheduler *scheduler)
{
    int32_t room = proa_kv_blocks_available(scheduler->blocks);
    return scheduler->cache != NULL ? room + proa_prefix_cache_evictable(scheduler->cache) : room;
}

void proa_slot_list_append(proa_scheduler *scheduler, proa_slot_list *list, int32_t slot);
void proa_slot_list_remove(proa_scheduler *scheduler, proa_slot_list *list, int32_t slot);

/* Sets the running state that follows from what is computed. */
void proa_entry_settle(proa_scheduler_entry *entry);

/* Gives back lane, blocks and lock of a running or lent request, leaves it in no list. keep_tail: the last, partial
 * block of its prompt may enter the cache. */
void proa_scheduler_let_go(proa_scheduler *scheduler, int32_t slot, bool keep_tail);

#endif
