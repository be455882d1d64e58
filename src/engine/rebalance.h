/* rebalance.h - experts move between the ranks of a group while it steps: when, which, and that all ranks do it at once.
 *
 * One pure state machine (law 3), run by each rank beside that of group.h: events and a time go in, actions come out. The group
 * agrees on a placement version for each step; this machine says what a version is.
 *
 *     member                          coordinator of the view                          member
 *       │  LOAD: what its rows chose        │                                            │
 *       ├──────────────────────────────────>│<───────────────────────────────────────────┤   a round: after step 1 of a view,
 *       │                                   │ sums, plans                                │   then each `iterations` steps
 *       │   PLAN: version v, layers that move                                            │
 *       │<──────────────────────────────────┤───────────────────────────────────────────>│
 *     PREPARE: reads its new experts      PREPARE                                      PREPARE
 *       ├─ READY v ────────────────────────>│<──────────────────────────────── READY v ──┤   and to the group: ready for v
 *       │                       SHAPE of a step: placement v                             │
 *     that step and all later ones run with version v
 *                                           │ that step has ended: PLAN v + 1, the next chunk of layers
 *
 * Only layers that the plan makes more even move, `layers_per_chunk` a version. One version is under way at a time: the coordinator
 * sends the next when a step with the last one has ended, so that every member has begun it. A version of an epoch is one placement
 * for ever: what is sent again (messages may be lost) says the same, and a member is ready for it when it has all of it
 * and what it leads to has the coordinator's digest. So ranks that run the same step of an epoch have the same experts
 * everywhere, whatever is lost, late or said twice.
 *
 * A new view begins with version 1, the placement of the flags on the ranks that live, which each member computes by itself: nothing
 * needs to be known of the view before, whose coordinator may be gone in the middle of a plan, and a rank that joins knows as much as
 * all others. What is lost is balance, not for long: each rank keeps what it has counted, says it after the first step, and the
 * coordinator plans anew at once. What a dead rank had counted is gone.
 *
 * A round is skipped while a plan is under way; when nothing was counted; when less than half of the members were heard within
 * gather_us; and when the balance is already above `threshold`.
 *
 * All memory is taken at creation. One thread at a time. Any content of messages is safe.
 */
#ifndef PROA_ENGINE_REBALANCE_H
#define PROA_ENGINE_REBALANCE_H

#include "engine/eplb.h"
#include "engine/group.h"

typedef struct proa_rebalance_options {
    int32_t self;
    /* Of any view: layers, experts, ranks, nodes, groups; physical is the most that one may have. */
    proa_expert_shape shape;
    proa_eplb_algorithm algorithm;
    int32_t iterations;       /* steps from round to round, >= 1 */
    int32_t window;           /* of them, so many count, the last ones; 0: all */
    int32_t layers_per_chunk; /* 0: all at once */
    double threshold;         /* of utilisation, above which nothing moves; 1: always */
    int64_t gather_us;        /* for loads to come */
    int64_t resend_us;        /* until a plan is said again to who is not ready */
} proa_rebalance_options;

/* ---- messages ---- */

enum { PROA_REBALANCE_PART_BYTES = 64 << 10 }; /* of a message's tables; or a single row that is larger */

typedef enum proa_rebalance_kind {
    PROA_REBALANCE_LOAD,  /* to the coordinator */
    PROA_REBALANCE_PLAN,  /* from it */
    PROA_REBALANCE_READY, /* to it */
    PROA_REBALANCE_KINDS,
} proa_rebalance_kind;

typedef struct proa_rebalance_message {
    proa_rebalance_kind kind;
    int32_t from;
    proa_group_epoch epoch;
    uint64_t step;    /* LOAD: after which it was counted */
    uint32_t version; /* PLAN, READY */
    int32_t first;    /* LOAD: the first layer here; PLAN: how many moves came before these */
    int32_t count;    /* LOAD: layers here; PLAN: moves here */
    int32_t total;    /* LOAD: layers, or 0: nothing was counted; PLAN: moves of the version */
    uint64_t digest;  /* PLAN: of the placement of all layers with them */
    int32_t physical; /* PLAN: slots of a layer */
    /* lent until the next event */
    const uint32_t *load;     /* LOAD: [count, experts] */
    const int32_t *layers;    /* PLAN: [count] */
    const int32_t *placement; /* PLAN: [count, physical] */
} proa_rebalance_message;

/* ---- actions ---- */

typedef enum proa_rebalance_action_kind {
    PROA_REBALANCE_SEND,    /* message to each rank of `to`; may be lost */
    PROA_REBALANCE_PREPARE, /* read the experts of `moves`; answer proa_rebalance_prepared */
    PROA_REBALANCE_SAY,     /* this rank is ready for `version`: propose it */
    PROA_REBALANCE_SKIPPED, /* at the coordinator: measured, and nothing moves */
    PROA_REBALANCE_DONE,    /* at the coordinator: the last version of a plan is in force */
    PROA_REBALANCE_DIFFERS, /* a plan of the coordinator does not fit the placement here: it is never carried out */
} proa_rebalance_action_kind;

typedef struct proa_rebalance_moves {
    int32_t count;
    int32_t physical;
    const int32_t *layers;    /* [count] */
    const int32_t *placement; /* [count, physical] */
} proa_rebalance_moves;

typedef struct proa_rebalance_action {
    proa_rebalance_action_kind kind;
    proa_group_mask to;
    proa_rebalance_message message;
    uint32_t version;
    proa_rebalance_moves moves; /* lent until the version is in force or the view changes */
    /* SKIPPED, DONE: sums over layers of a rank's mean load, divided by those of the fullest one's */
    double before, after;
    int32_t layers; /* DONE: that have moved */
} proa_rebalance_action;

/* ---- the machine ---- */

typedef struct proa_rebalance proa_rebalance;

/* NULL when memory is out. */
proa_rebalance *proa_rebalance_create(const proa_rebalance_options *options);
void proa_rebalance_free(proa_rebalance *rebalance); /* accepts NULL */

/* Events. After each one, take all actions with proa_rebalance_next, in order. */

/* The view is installed, and version 1 in force: placement [layers, physical]. `members` has this rank and epoch's. */
void proa_rebalance_install(proa_rebalance *rebalance, const proa_group_epoch *epoch,
                            const proa_group_mask *members, int32_t physical, const int32_t *placement,
                            int64_t now_us);
/* A step of the view begins with this version, which is in force or was said by SAY. What moves with it: none, but for the first
 * step with a version. */
proa_rebalance_moves proa_rebalance_begin(proa_rebalance *rebalance, uint32_t version);
/* It has ended well (a step that is broken off counts when it is done again). counts [layers, experts]: what rows of
 * this rank chose; NULL: it had none. */
void proa_rebalance_ended(proa_rebalance *rebalance, uint64_t step, const uint32_t *counts, int64_t now_us);
void proa_rebalance_receive(proa_rebalance *rebalance, const proa_rebalance_message *message, int64_t now_us);
void proa_rebalance_prepared(proa_rebalance *rebalance, uint32_t version);
/* At proa_rebalance_deadline, or at any other time; a long plan is made and sent a piece a tick. */
void proa_rebalance_tick(proa_rebalance *rebalance, int64_t now_us);

/* False when there is none left. */
bool proa_rebalance_next(proa_rebalance *rebalance, proa_rebalance_action *action);

/* When to tick next; INT64_MAX: not before another event. */
int64_t proa_rebalance_deadline(const proa_rebalance *rebalance);

/* Of the last step that began in the view, 1 before; and what it is: [layers, physical of the view]. */
uint32_t proa_rebalance_version(const proa_rebalance *rebalance);
const int32_t *proa_rebalance_placement(const proa_rebalance *rebalance);
/* The coordinator has nothing under way here. */
bool proa_rebalance_rests(const proa_rebalance *rebalance);

#endif
