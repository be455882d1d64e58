/* rebalance_internal.h - what the files of the machine share: rebalance.c (a member's part), rebalance_lead.c (the coordinator's). */
#ifndef PROA_ENGINE_REBALANCE_INTERNAL_H
#define PROA_ENGINE_REBALANCE_INTERNAL_H

#include "engine/rebalance.h"

enum { REBALANCE_PLAN_COST = 2000000 }; /* of a tick: comparisons of the balancer, a few milliseconds */

#define REBALANCE_NEVER INT64_MAX

/* The version that comes after the one in force, as far as this rank has it.
 *
 *   NONE ── part of PLAN ──> RECEIVING ── all parts, and they fit ──> PREPARING ── prepared ──> READY ── a step begins ──> NONE
 *                                └─ they do not: REFUSED, until the view changes
 */
typedef enum rebalance_state {
    REBALANCE_NONE,
    REBALANCE_RECEIVING,
    REBALANCE_PREPARING,
    REBALANCE_READY,
    REBALANCE_REFUSED,
} rebalance_state;

typedef struct rebalance_next {
    rebalance_state state;
    int32_t total, received; /* moves */
    uint64_t digest;         /* of all layers, once they are in force */
    int32_t *layers;         /* [layers] */
    int32_t *placement;      /* [layers, physical] by number of move */
    bool *there;             /* [layers] by number of move */
} rebalance_next;

/* The coordinator's part.
 *
 *   RESTS ── first LOAD of a round ──> GATHERS ── all, or gather_us ──> PLANS ── all layers ──> MOVES ── last chunk in force ──> RESTS
 *                                         └─ too few, or nothing ─> RESTS     └─ nothing better ─> RESTS
 */
typedef enum rebalance_lead_state {
    REBALANCE_RESTS,
    REBALANCE_GATHERS,
    REBALANCE_PLANS,
    REBALANCE_MOVES,
} rebalance_lead_state;

typedef struct rebalance_lead {
    rebalance_lead_state state;
    uint64_t round;       /* step that is gathered for, or was last */
    int64_t since_us;     /* GATHERS; MOVES: when the chunk was sent last */
    int32_t missing;      /* members that have not said all */
    int32_t *heard;       /* [ranks] layers of the round; -1: all */
    uint64_t *heard_step; /* [ranks] of which step, once there is one */
    double *sum;          /* [layers, experts] */
    int32_t planned;      /* layers */
    int32_t *target;      /* [layers, physical] */
    int32_t *moving;      /* [layers] that move, and how many: */
    int32_t moving_count;
    int32_t moved;              /* of them, in force */
    proa_group_mask ready;      /* members, for the chunk */
    proa_group_mask to;         /* who is told it now */
    int32_t told;               /* moves of it that are sent; all: nothing is to be sent */
    bool paced;                 /* the tick's part is sent */
    double before[2], after[2]; /* sums of mean and of largest loads of ranks */
} rebalance_lead;

struct proa_rebalance {
    proa_rebalance_options options;
    int64_t now_us;
    /* view */
    proa_group_epoch epoch; /* count 0: none */
    proa_group_mask members;
    bool *live; /* [ranks] */
    int32_t live_count;
    int32_t physical;
    uint32_t version;  /* in force */
    int32_t *current;  /* [layers, physical] */
    uint64_t *digests; /* [layers] of current */
    rebalance_next next;
    rebalance_lead lead;
    /* own load */
    uint64_t *window; /* [layers, experts] since the last round */
    uint32_t *own;    /* [layers, experts] said last */
    bool any;         /* there is anything in the window */
    bool own_any;     /* and in what is said */
    int32_t said;     /* layers of it; all: nothing is to be sent */
    bool says_nothing;
    uint64_t own_step;
    /* actions that are due, beside messages with tables */
    bool due_prepare, due_say, due_ready, due_done, due_skipped, due_differs;
};

static inline size_t rebalance_cells(const proa_rebalance *r)
{
    return (size_t)r->options.shape.layers * (size_t)r->options.shape.experts;
}
static inline bool rebalance_leads(const proa_rebalance *r)
{
    return r->epoch.count > 0 && r->epoch.rank == r->options.self;
}

/* ---- rebalance.c ---- */

/* A version's moves are complete here: checks and prepares them. */
void proa_rebalance_complete(proa_rebalance *r);
/* Of the whole placement once the next version is in force: a sum over layers, so that a move changes one term. */
uint64_t proa_rebalance_digest_after(const proa_rebalance *r);

/* ---- rebalance_lead.c ---- */

void proa_rebalance_lead_install(proa_rebalance *r);
/* count layers of a load from layer `first` on; of `total`, or none. */
void proa_rebalance_lead_load(proa_rebalance *r, const proa_rebalance_message *m);
void proa_rebalance_lead_ready(proa_rebalance *r, int32_t from, uint32_t version);
void proa_rebalance_lead_ended(proa_rebalance *r);
void proa_rebalance_lead_tick(proa_rebalance *r);
bool proa_rebalance_lead_next(proa_rebalance *r, proa_rebalance_action *action);
int64_t proa_rebalance_lead_deadline(const proa_rebalance *r);

#endif
