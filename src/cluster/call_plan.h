/* call_plan.h - one request's life over its attempts at workers: pure decisions (law 3).
 *
 * An attempt is one worker (combined) or two (a prefill leg and a decode leg, joined by a room). When it fails in a way that
 * another worker need not fail in, the request goes on in a new attempt from the tokens that it has: prompt, sampling
 * parameters and seed are the same, output_ids are all tokens delivered so far, the room is new. So (law 2) the client
 * sees the tokens that it would have seen anyway.
 *
 *                picked               the main leg ends well, or the request's own error
 *   ┌─> PICKING ─────────> RUNNING ────────────────────────────────────────────────────> FINISHED
 *   │    │   ^                │
 *   │    │   │ retry          │ a leg fails or is lost: the other one is cancelled
 *   │    v   │                │
 *   │   WAITING               │        WAITING: no worker can take it just now; WAIT_US at most, then FINISHED
 *   │                         │
 *   ├─── credit is left ──────┤
 *   │                         │
 *   └─ grant ── HELD <────────┘        HELD: none is left, and a worker takes no request without
 *
 *   From every state, cancel ──> FINISHED.
 *
 * What an end with an error means:
 *   INVALID, TOO_LONG, UNSUPPORTED, NOT_FOUND       the request's own: it ends
 *   OVERLOADED                                      another worker is tried, without counting; when all have refused, it ends
 *   anything else, also a lost worker and the       replayed, at most migration_limit times; then it ends with the last error
 *   CANCELLED of a leg that nobody here cancelled
 *
 * Promises, whatever events come in whatever order: exactly one finish; tokens delivered are never repeated, contradicted or more
 * than the credit; nothing of an earlier attempt counts; a clean finish comes only when the tokens are complete: STOP after a
 * token that was marked as stopping, LENGTH with all max_new_tokens. A worker that breaks this is treated as failed.
 *
 * Each event fills a todo; the shell carries it out in the order of its fields. Owner: the thread of the client (the plan is
 * made by the thread that submits). Memory: prompt and lists are copied at creation, the output grows with its tokens.
 */
#ifndef PROA_CLUSTER_CALL_PLAN_H
#define PROA_CLUSTER_CALL_PLAN_H

#include "cluster/wire.h"

enum {
    PROA_CALL_WAIT_US = 5000000, /* for a worker that could take a replay */
    PROA_CALL_REFUSALS_MAX = 32, /* workers tried that said OVERLOADED */
};

typedef enum proa_call_state {
    PROA_CALL_PICKING, /* the shell has been told to pick */
    PROA_CALL_RUNNING,
    PROA_CALL_WAITING,
    PROA_CALL_HELD,
    PROA_CALL_FINISHED,
} proa_call_state;

typedef enum proa_call_leg { PROA_CALL_PREFILL = 0, PROA_CALL_MAIN = 1, PROA_CALL_LEGS = 2 } proa_call_leg;

typedef struct proa_call_plan proa_call_plan;

/* Where an attempt goes. */
typedef struct proa_call_pick {
    bool pair;
    uint64_t room;
    uint64_t epochs[PROA_CALL_LEGS]; /* of the processes; the prefill one's only for a pair */
    int32_t context_length;          /* of the main leg's worker: the smaller of its context and its memory */
    int32_t vocab_size;
} proa_call_pick;

/* What to do, in the order of the fields. */
typedef struct proa_call_todo {
    bool cancel[PROA_CALL_LEGS]; /* CANCEL to the leg's worker; its later messages do not count */
    /* for the router: the leg's worker has failed or worked, the two failed between them, or worked together */
    bool failed[PROA_CALL_LEGS];
    bool worked[PROA_CALL_LEGS];
    bool pair_failed;
    bool pair_worked;
    bool deliver;   /* the tokens of this event go to the sink */
    int32_t grant;  /* tokens of credit for the main leg; in messages of at most PROA_WIRE_CREDIT_MAX */
    bool replaying; /* this event has begun a replay */
    bool pick;      /* choose workers; answer with proa_call_plan_picked or _unpicked */
    bool finished;  /* tell the sink `finish`; nothing comes afterwards */
    proa_engine_finish finish;
} proa_call_todo;

/* Copies the request. PROA_ERR_INVALID, PROA_ERR_TOO_LONG: fields that no worker would take. */
proa_status proa_call_plan_create(const proa_engine_request *request, int32_t migration_limit,
                                  proa_call_plan **plan, proa_error *err);
void proa_call_plan_free(proa_call_plan *plan); /* accepts NULL */

proa_call_state proa_call_plan_state(const proa_call_plan *plan);
uint32_t proa_call_plan_attempt(const proa_call_plan *plan); /* counts from 1; 0 before the first */
int32_t proa_call_plan_replays(const proa_call_plan *plan);
const proa_engine_request *proa_call_plan_request(const proa_call_plan *plan);
/* Workers that have refused it, for the router; returns their count. */
int32_t proa_call_plan_refused(const proa_call_plan *plan, const uint64_t **epochs);
/* Of prompt and output so far. */
int32_t proa_call_plan_length(const proa_call_plan *plan);

/* ---- events ---- */

void proa_call_plan_start(proa_call_plan *plan, proa_call_todo *todo);

/* In PICKING. After `picked`, the shell sends proa_call_plan_submit of each leg; what cannot be sent has `ended` or is `lost`. */
void proa_call_plan_picked(proa_call_plan *plan, const proa_call_pick *pick);
void proa_call_plan_unpicked(proa_call_plan *plan, const proa_error *why, int64_t now_us,
                             proa_call_todo *todo);

/* Fills leg, room and request of a SUBMIT; the rest (id, epochs, addresses) is the shell's. Borrows from the plan until the next
 * event. */
void proa_call_plan_submit(const proa_call_plan *plan, proa_call_leg leg, proa_wire_submit *submit);

/* Messages of a leg of an attempt; those of earlier attempts, and of legs that have ended, are ignored. */
void proa_call_plan_tokens(proa_call_plan *plan, uint32_t attempt, const proa_wire_tokens *tokens,
                           int64_t now_us, proa_call_todo *todo);
/* `blamed`: another worker's fault, as FINISH.blame says. */
void proa_call_plan_ended(proa_call_plan *plan, uint32_t attempt, proa_call_leg leg,
                          const proa_engine_finish *finish, bool blamed, int64_t now_us,
                          proa_call_todo *todo);
/* The leg's worker is gone. */
void proa_call_plan_lost(proa_call_plan *plan, uint32_t attempt, proa_call_leg leg, const proa_error *why,
                         int64_t now_us, proa_call_todo *todo);

/* From the client. */
void proa_call_plan_cancel(proa_call_plan *plan, const char *why, proa_call_todo *todo);
void proa_call_plan_grant(proa_call_plan *plan, int32_t tokens, int64_t now_us, proa_call_todo *todo);

/* Several times a second, and when a worker becomes ready: a waiting call picks again. */
void proa_call_plan_retry(proa_call_plan *plan, proa_call_todo *todo);

#endif
