/* scheduler.h - what the next step computes: pure decisions over requests, KV blocks and the prefix cache (law 3).
 *
 * No socket, clock, thread, device or memory allocation inside: events come in through submit, cancel, grant and
 * complete, time through plan's `now_us`, decisions go out as a plan. The engine and the simulator drive the same
 * functions: plan, execute the plan, complete it; between complete and the next plan, any events.
 *
 * Continuous batching: a step has one decode row for each running request that has credit, and up to
 * chunked_prefill_size rows of prompts (or of replays), mixed. A request has at most one segment in a step.
 *
 * Forms (law 2): positions below prompt_count are computed expanded, later ones absorbed, also when a retracted
 * request computes them again. Chunks may end anywhere.
 *
 * Memory: admission takes blocks for all tokens that the request has, provided that the growth expected of those
 * that run still fits (an adaptive share of what they may yet generate); a decode row that starts a block takes
 * one. When none is left, not even by evicting the cache, requests are retracted: first those without credit, then
 * by fewest output tokens, latest arrival first. A retracted request keeps its tokens, waits at the front of the
 * queue, and is computed again from what the prefix cache still has.
 *
 * Progress: a lone request always has its blocks, since submit refuses what cannot fit alone; each retraction for
 * growth comes with a token of another request, each one for an admission with that admission. A request without
 * credit gives way to a waiting one when nothing else can run, or after PROA_SCHEDULER_PAUSE_US.
 *
 * Hand-off: blocks that another process reads (role PREFILL) or writes (role DECODE) are the request's until it is
 * adopted or released, whatever becomes of it; they are nobody's to take. HELD, RESERVED and LENT requests count as used
 * blocks and as running ones, compute nothing and are never retracted. Only an event frees them: adopt or release, one
 * of which must come within the caller's deadlines; neither waits for anything that is decided here, so nothing here
 * can wait in a circle. Meanwhile a decode row that finds no block, with nobody left to retract, is left out of
 * steps. It comes before every admission, and a retracted request before every fresh one, so reservations take
 * no block that either waits for.
 *
 * Owner: the engine thread. Deterministic. Tokens are only read, never stored.
 */
#ifndef PROA_ENGINE_SCHEDULER_H
#define PROA_ENGINE_SCHEDULER_H

#include "engine/engine.h"
#include "engine/prefix_cache.h"

enum {
    PROA_SCHEDULER_GROWTH_PERMILLE = 700, /* limits.growth_permille where nothing else is known */
    PROA_SCHEDULER_PAUSE_US = 1000000,    /* how long a request without credit may keep others waiting */
    PROA_SCHEDULER_PASSES_MAX = 16,       /* admissions of younger requests that one waits for, under LPM */
    PROA_SCHEDULER_LPM_WINDOW = 128,      /* waiting requests that LPM compares */
};

typedef struct proa_scheduler proa_scheduler;

typedef struct proa_scheduler_limits {
    proa_engine_role role;
    int32_t reserved_tokens; /* DECODE: as proa_engine_options.num_reserved_decode_tokens */
    int32_t slots;           /* requests known at once: running and waiting */
    int32_t running_max;     /* >= 1 */
    int32_t chunk;           /* rows of prompts and replays a step, >= 1 */
    int32_t kv_blocks;
    int32_t context_length;  /* prompt + output, at most kv_blocks * 64 */
    int32_t growth_permille; /* 0 .. 1000: how cautious admission begins, see scheduler_plan.c */
    int32_t page_size;
    bool cache; /* keep a prefix cache; false in role DECODE */
    proa_schedule_policy policy;
    proa_kv_event_hook kv_event; /* of the prefix cache, called while planning and completing; may be NULL */
    void *kv_event_context;
} proa_scheduler_limits;

/* A request as the scheduler sees it. `prompt_ids` is borrowed until the request has left or is LENT. */
typedef struct proa_scheduler_request {
    const int32_t *prompt_ids;
    int32_t prompt_count;   /* >= 1 */
    int32_t output_count;   /* tokens drawn before, < max_new_tokens */
    int32_t max_new_tokens; /* >= 1; prompt_count + max_new_tokens <= context_length */
    int32_t credit;         /* >= 1 */
} proa_scheduler_request;

/* Where a request stands. All moves happen on the engine thread.
 *
 *                   submit
 *                     |
 *                     v        admit in role DECODE: blocks for its tokens and one more
 *   +-------------> WAITING -------------------------------------------> RESERVED   a peer writes the rows
 *   |                 |                                                    |
 *   |                 | admit: blocks for all its tokens,                  |
 *   |                 |        a beginning from the cache                  |
 *   |                 v                                                    |
 *   +--- retract -- PREFILL   computed < prompt_count: expanded rows       |
 *   |                 |                                                    |
 *   |                 | prompt computed                                    |
 *   |                 v                                                    |
 *   +--- retract -- REPLAY    earlier output again, absorbed rows          |
 *   |                 |       (skipped when there is nothing to replay)    |
 *   |                 v                                                    |
 *   +--- retract -- DECODE <----- adopt: the token that follows the rows --+
 *                     |       all but the last token computed; one absorbed row a step while it has credit
 *                     |
 *                     | role PREFILL: its one token is drawn
 *                     v
 *                   HELD      a peer reads the rows
 *
 * Done, lost, failed or cancelled, a request leaves from where it is; but one whose blocks a peer was told of and may
 * touch (HELD, RESERVED, in role PREFILL also earlier) becomes LENT, which only release ends. Release makes it leave from
 * any state.
 */
typedef enum proa_request_state {
    PROA_REQUEST_FREE, /* the slot is unused */
    PROA_REQUEST_WAITING,
    PROA_REQUEST_PREFILL,
    PROA_REQUEST_REPLAY,
    PROA_REQUEST_DECODE,
    PROA_REQUEST_RESERVED,
    PROA_REQUEST_HELD,
    PROA_REQUEST_LENT,
} proa_request_state;

/* Rows position_first .. + row_count - 1 of a request. The blocks stand for positions from 0 and stay valid until
 * the plan is completed. */
typedef struct proa_plan_segment {
    int32_t slot;
    int32_t position_first;
    int32_t row_count;
    const int32_t *blocks;
    bool absorbed;
    bool logits; /* the last row's logits draw the request's next token */
} proa_plan_segment;

/* What to do now: copies first, in their order, then all segments as one step. */
typedef struct proa_schedule_plan {
    const proa_plan_segment *segments;
    int32_t segment_count;
    int32_t row_count;
    int32_t logit_count;
    const proa_kv_copy *copies;
    int32_t copy_count;
    const int32_t *reserved; /* slots that are RESERVED now: tell their peers where to write */
    int32_t reserved_count;
    /* for people */
    int32_t decode_rows;
    int32_t prefill_rows; /* prompts and replays */
    int32_t admitted;
    int32_t retracted;
    int32_t cached_tokens; /* of prompts admitted for the first time */
} proa_schedule_plan;

/* What became of a segment with logits. */
typedef enum proa_outcome {
    PROA_OUTCOME_TOKEN, /* one token more; the request goes on */
    PROA_OUTCOME_DONE,  /* one token more, the last */
    PROA_OUTCOME_LOST,  /* no token; the request is given up */
} proa_outcome;

typedef struct proa_scheduler_view {
    int32_t running; /* without the lent ones */
    int32_t waiting;
    int32_t lent;
    int32_t blocks_used;   /* held by requests */
    int32_t blocks_cached; /* held by the prefix cache alone */
    int32_t blocks_lent;   /* of those used, held by lent requests */
    int64_t tokens_used;   /* positions held by requests */
    bool blocked;          /* requests wait because running slots or blocks are out */
} proa_scheduler_view;

/* NULL when memory is out. */
proa_scheduler *proa_scheduler_create(const proa_scheduler_limits *limits);
void proa_scheduler_free(proa_scheduler *scheduler); /* accepts NULL */

/* `slot` (0 .. slots - 1) is unused and names the request until it has left (cancel, DONE or LOST), or was released when
 * it is LENT after that. */
void proa_scheduler_submit(proa_scheduler *scheduler, int32_t slot, const proa_scheduler_request *request);
void proa_scheduler_cancel(proa_scheduler *scheduler, int32_t slot);
void proa_scheduler_grant(proa_scheduler *scheduler, int32_t slot, int32_t tokens);

/* Nobody else touches the request's blocks any more: it leaves. */
void proa_scheduler_release(proa_scheduler *scheduler, int32_t slot);

/* The rows of a RESERVED request are there, and the token that follows them: TOKEN or DONE. */
void proa_scheduler_adopt(proa_scheduler *scheduler, int32_t slot, int32_t cached_tokens,
                          proa_outcome outcome);

/* Decides a step. With segment_count 0 there is nothing to do until the next event, and nothing to complete. */
void proa_scheduler_plan(proa_scheduler *scheduler, int64_t now_us, proa_schedule_plan *plan);

/* The plan's step is done: `outcomes` has one entry for each segment (read where it has logits). */
void proa_scheduler_complete(proa_scheduler *scheduler, const proa_outcome *outcomes);

/* The plan's step failed: each request of it leaves or is LENT. What is left is free; nothing of the step is cached. */
void proa_scheduler_fail(proa_scheduler *scheduler);

/* Drops all cached blocks that no request shares. */
void proa_scheduler_flush(proa_scheduler *scheduler);

void proa_scheduler_look(const proa_scheduler *scheduler, proa_scheduler_view *view);

proa_request_state proa_scheduler_state(const proa_scheduler *scheduler, int32_t slot);

/* What a peer may be told of a request that is not waiting: PREFILL, rows 0 .. rows - 1 that are final and in blocks that stay,
 * RESERVED, those that it must write; else none. Whole blocks until the prompt is computed: the block that is being
 * filled may yet be exchanged for an equal one of the cache. The arrays are valid until the next call of any function
 * here; `id` is left alone. */
void proa_scheduler_rows(proa_scheduler *scheduler, int32_t slot, proa_engine_rows *rows);

/* Of a request that has not left yet. */
int32_t proa_scheduler_cached_tokens(const proa_scheduler *scheduler, int32_t slot);
int32_t proa_scheduler_retractions(const proa_scheduler *scheduler, int32_t slot);

/* Asserts what must hold between steps. For tests: walks everything. */
void proa_scheduler_check(const proa_scheduler *scheduler);

#endif
