/* router_internal.h - the router's state: router.c (who is there, loads, failures, why not), router_choose.c (the choice).
 *
 * Load: a report says what was there when it was sent, `fresh` what was placed and released since it came, and `own` what
 * this router has there for certain. Reports cross requests on the way, so the load is taken as the larger of report + fresh
 * and own: it never falls below what is known, and what other frontends place is seen one report later.
 */
#ifndef PROA_CLUSTER_ROUTER_INTERNAL_H
#define PROA_CLUSTER_ROUTER_INTERNAL_H

#include "cluster/router.h"

#include "op/tensor.h"

/* What this file calls a worker is a process that takes requests: a dp rank of a group, which is a worker to its users. */
typedef struct router_worker {
    bool used;
    bool ready;
    bool listed;
    bool draining;
    bool dead;         /* it computes nothing: its device is lost, or it is away from its group of ranks */
    proa_wire_leg leg; /* once it has been ready */
    int32_t group;     /* the worker that this dp rank is of; -1: it is not ready */
    int32_t dp_rank;
    int32_t dp_size;
    proa_wire_balance balance;
    uint64_t instance;
    uint64_t epoch;
    int32_t requests_max;
    /* the latest report */
    int32_t requests;
    int32_t blocks;
    int32_t blocks_total;
    /* since then; negative when more has ended than begun */
    int32_t fresh_requests;
    int32_t fresh_blocks;
    /* placed by this router and not released */
    int32_t own_requests;
    int32_t own_blocks;
    int64_t own_tokens;
    uint64_t picked; /* serial of its latest request */
    int64_t backoff_us;
    int64_t avoid_until_us;
} router_worker;

/* A worker: its dp ranks that are ready. */
typedef struct router_group {
    int32_t members; /* 0: unused */
    uint64_t id;     /* 0: of one dp rank, its own */
    proa_wire_leg leg;
    uint64_t picked; /* serial of its latest request */
} router_group;

/* The larger the better: `first`, then `second`, then the one picked longest ago. */
typedef struct router_key {
    double first;
    double second;
} router_key;

typedef struct router_pair {
    int32_t prefill; /* -1: unused */
    int32_t decode;
    int64_t backoff_us;
    int64_t avoid_until_us;
} router_pair;

struct proa_router {
    proa_router_options options;
    proa_kv_index *index;
    uint64_t serial; /* of requests placed */
    uint64_t draws;
    int32_t worker_end; /* workers from here on are unused */
    router_worker workers[PROA_ROUTER_WORKERS_MAX];
    router_group groups[PROA_ROUTER_WORKERS_MAX];
    router_pair pairs[PROA_ROUTER_PAIRS_MAX];
    /* scratch of choose */
    double prefixes
        [PROA_ROUTER_WORKERS_MAX]; /* mode kv: of a rank with a prefix cache, cached blocks against load */
    router_key group_keys[PROA_ROUTER_WORKERS_MAX];
    bool open[PROA_ROUTER_WORKERS_MAX]; /* can take the request */
    int32_t depths[PROA_ROUTER_WORKERS_MAX];
};

static inline int32_t router_requests_at(const router_worker *w)
{
    int32_t reported = w->requests + w->fresh_requests;
    return reported > w->own_requests ? reported : w->own_requests;
}

static inline int32_t router_blocks_at(const router_worker *w)
{
    int32_t reported = w->blocks + w->fresh_blocks;
    return reported > w->own_blocks ? reported : w->own_blocks;
}

/* Requests that it can take. */
static inline int32_t router_room_at(const router_worker *w)
{
    int32_t there = router_requests_at(w);
    return w->requests_max > there ? w->requests_max - there : 0;
}

static inline bool router_serves(const router_worker *w)
{
    return w->used && w->ready && !w->draining && !w->dead;
}

/* NULL: the two have no failure between them that is remembered. */
router_pair *proa_router_pair_of(proa_router *router, int32_t prefill, int32_t decode);

/* Why nothing can be chosen: by `refused` the request has been refused by workers that are not full by our count. */
proa_status proa_router_explain(const proa_router *router, int32_t refused, proa_error *err);

#endif
