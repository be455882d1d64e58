/* engine_internal.h - the engine's state, shared by engine.c (other threads' side), engine_loop.c (the thread) and
 * engine_step.c (one step). Tests include it to put another model in the forward's place.
 *
 * Two halves. What stands under `lock` is where other threads leave what they want: a slot's new request, its
 * cancel, its grants, its adoption and release. They then ring the mailbox, once a slot however much they leave, so it
 * never overflows. The rest belongs to the engine thread alone. Sinks are called with no lock held.
 *
 * A step:  drain mailbox -> plan -> tell what is reserved -> copies, forward, sample -> complete -> publish
 *          statistics -> deliver (rows computed, tokens, ends).
 * Between plan and complete nothing is allocated (law 5); `guard` tells a test where that is.
 */
#ifndef PROA_ENGINE_ENGINE_INTERNAL_H
#define PROA_ENGINE_ENGINE_INTERNAL_H

#include "base/mailbox.h"
#include "engine/request.h"
#include "engine/scheduler.h"

#include <pthread.h>
#include <stdatomic.h>

/* What computes: the forward and its device, or a test's. Called on the engine thread. */
typedef struct proa_engine_model {
    void *context; /* of copy, step and guard */
    proa_status (*copy)(void *context, const proa_kv_copy *copies, int32_t count, proa_error *err);
    proa_status (*step)(void *context, const proa_step *step, float **logits, proa_error *err);
    void *sample_context;
    proa_status (*sample)(void *sample_context, const proa_sample_args *args, proa_error *err);
    void (*guard)(void *context, bool inside); /* may be NULL */
    /* When there is nothing to compute: what else there is to do, on behalf of other ranks. False: nothing. May be NULL. */
    bool (*idle)(void *context);
    /* A peer writes these blocks from now on. May be NULL. */
    void (*written)(void *context, const int32_t *blocks, int32_t count);
    /* Any thread, takes no lock: proa_engine_stats.away. May be NULL. */
    bool (*away)(void *context);
} proa_engine_model;

typedef enum proa_engine_state {
    PROA_ENGINE_RUNS,
    PROA_ENGINE_STOPS, /* proa_engine_stop was called */
    PROA_ENGINE_DEAD,  /* a step failed beyond its requests; `cause` says why */
} proa_engine_state;

/* What other threads want of a request and the engine thread has not seen yet. */
typedef struct proa_engine_wishes {
    proa_request *incoming;
    int64_t granted;
    bool cancelled;
    bool released;
    bool adopted;
    int32_t cached_tokens; /* with adopted */
    proa_sample_result first;
} proa_engine_wishes;

typedef struct proa_engine_slot {
    /* under lock */
    uint32_t generation; /* an id is generation << 32 | slot + 1 */
    bool used;
    bool lent; /* its request has finished, its blocks wait for release */
    bool rung; /* stands in the mailbox */
    proa_engine_wishes wishes;
    /* engine thread */
    proa_request *request;
    int32_t shown;   /* rows that `computed` has told of */
    int32_t matched; /* HELD: the id that ended it, or -1 */
} proa_engine_slot;

/* What to tell a sink after a step. */
typedef struct proa_delivery {
    int32_t slot;
    int32_t result; /* index of its token, or -1: it was lost */
    bool stop;      /* the token is an end */
    bool done;
    proa_engine_finish finish; /* when done */
} proa_delivery;

/* A change of the prefix cache that the hook has not been told of yet. */
typedef struct proa_kv_change {
    uint64_t hash;
    bool stored;
} proa_kv_change;

/* Since the last summary line. */
typedef struct proa_engine_window {
    int64_t busy_us;
    int32_t steps;
    int32_t decode_rows;
    int32_t prefill_rows;
    int32_t cached_tokens;
    int32_t admitted;
} proa_engine_window;

struct proa_engine {
    proa_engine_options options;
    proa_scheduler_limits limits;
    proa_model_config config;
    proa_engine_model model;
    pthread_t thread;
    _Atomic(int64_t) busy_since_us; /* 0: no step runs. Relaxed: for a watchdog alone */
    proa_mailbox *mailbox;          /* of slots, and the bells */

    pthread_mutex_t lock;
    pthread_cond_t changed; /* a flush was done, or the state changed */
    proa_engine_state state;
    proa_error cause;
    proa_engine_slot *slots; /* [limits.slots] */
    int32_t *free_slots;
    int32_t free_count;
    int32_t lent_count;
    uint64_t flush_wanted, flush_done;
    proa_engine_stats published;
    bool blocked;    /* as of the last step, requests waited for slots or blocks */
    char flush_bell; /* its address is the message */
    char nudge_bell; /* likewise: look whether model.idle has anything to do */
    bool nudged;     /* it stands in the mailbox */

    proa_scheduler *scheduler;
    proa_engine_stats stats;
    proa_engine_window window;
    proa_kv_change
        *kv_changes; /* [2 * limits.kv_blocks]: a plan evicts, a step stores each block once at most */
    int32_t kv_change_count;
    /* a step's arrays, see proa_engine_forward_limits for their sizes */
    int32_t *token_ids;
    proa_segment *segments;
    int32_t *logit_rows;
    int32_t *logit_segments; /* which segment a logit row belongs to */
    proa_sample_params *params;
    proa_sample_result *results;
    proa_outcome *outcomes;
    proa_delivery *deliveries;
};

/* As proa_engine_start, with any model. */
proa_status proa_engine_start_with(const proa_engine_options *options, const proa_model_config *config,
                                   const proa_engine_model *model, proa_engine **engine, proa_error *err);

/* The engine thread (engine_loop.c). */
void *proa_engine_run(void *engine);

/* Executes a plan that has rows, and delivers (engine_step.c). A failure that is not the requests' own is
 * returned: the engine must stop. */
proa_status proa_engine_execute(proa_engine *engine, const proa_schedule_plan *plan, proa_error *err);

/* Leaves a change of the prefix cache to be told between steps (engine_loop.c). The scheduler's hook. */
void proa_engine_note_kv(void *engine, bool stored, uint64_t hash);

/* Copies the statistics to where other threads see them (engine_loop.c). */
void proa_engine_publish(proa_engine *engine);

/* Fills in what the scheduler knows of a request's usage; before the request leaves it. */
void proa_engine_fill_usage(const proa_engine *engine, int32_t slot, proa_engine_usage *usage);

/* Adds a token that was drawn, here or by a peer, and counts it. When the request ends with it (in role PREFILL with any),
 * `finish` says how, but for the usage. */
proa_request_end proa_engine_take_token(proa_engine *engine, int32_t slot, int32_t token,
                                        proa_engine_finish *finish);

/* Frees the slot, unless its blocks are lent, then makes the request's last callback, then frees the request. */
void proa_engine_finish_request(proa_engine *engine, int32_t slot, const proa_engine_finish *finish);

#endif
