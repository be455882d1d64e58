/* router.h - which workers a request goes to: pure decisions over what is known of the workers (law 3).
 *
 * A process that takes requests is a dp rank of a worker; of most workers, the only one. Cards say which are of one worker (worker_id).
 * What this header calls a worker, in its functions and numbers, is such a process.
 *
 * The router knows each worker's purpose, limits and latest load report, counts what it has placed there itself (so that a
 * burst between two reports spreads), keeps the index of cached prefixes, and remembers failures. Nothing inside waits, looks at
 * a clock or does I/O; the same calls give the same picks.
 *
 * A request goes to a pair (prefill worker, decode worker) or to one combined worker. A worker can take a request when it is
 * ready, not draining, not dead and not full (fewer requests there than its card's running_max + queued_max). Among those that can,
 * in this order:
 *
 *   1. a pair of workers to which no trouble sticks
 *   2. a combined worker to which no trouble sticks
 *   3. a pair, 4. a combined worker, with trouble
 *
 * Trouble: a worker that has failed a request or whose link broke, for a back-off that doubles with each failure (BACKOFF_US_MIN ..
 * BACKOFF_US_MAX) and ends with the first success; a pair whose hand-off failed between the two (a partition), likewise, without
 * condemning either; a worker that discovery no longer lists, though it is connected (law 4: the connection is believed, but
 * what left on purpose is left alone).
 *
 * Within a step the mode picks among workers: round-robin (the one picked longest ago), random (counter-based, so a seed repeats it),
 * least-loaded (requests a rank, then the share of KV blocks in use), kv (for prefill and combined workers kv_overlap_weight * cached
 * blocks of the prompt - load in blocks, of the best rank; for decode workers as least-loaded). Then the method in the cards, SGLang's
 * --load-balance-method, picks among the worker's dp ranks that can take the request:
 *
 *   round_robin            the one picked longest ago
 *   total_requests         fewest requests there
 *   total_tokens           fewest prompt and output tokens there
 *   follow_bootstrap_room  rank room % dp_size, else the next; a combined worker has no rooms: as round_robin
 *
 * In mode kv, prefixes pick among ranks with a prefix cache, whatever the method. Ties go to the one picked longest ago.
 *
 * Owner: the thread of the client. Memory is reserved at creation, but for the index of prefixes, which grows with KV events up to
 * its bound; choosing allocates nothing.
 */
#ifndef PROA_CLUSTER_ROUTER_H
#define PROA_CLUSTER_ROUTER_H

#include "cluster/client.h"
#include "cluster/kv_index.h"

enum {
    PROA_ROUTER_WORKERS_MAX = PROA_KV_INDEX_WORKERS_MAX,
    PROA_ROUTER_PAIRS_MAX = 256, /* that failed and are remembered */
    PROA_ROUTER_BACKOFF_US_MIN = 500000,
    PROA_ROUTER_BACKOFF_US_MAX = 30000000,
};

typedef struct proa_router proa_router;

typedef struct proa_router_options {
    proa_router_mode mode;
    double kv_overlap_weight;
    uint64_t seed; /* PROA_ROUTER_RANDOM */
} proa_router_options;

proa_router *proa_router_create(const proa_router_options *options); /* NULL when memory is out */
void proa_router_free(proa_router *router);                          /* accepts NULL */

/* ---- workers ---- */

/* A process of a worker is known from now on by the number returned, until it leaves; -1: PROA_ROUTER_WORKERS_MAX are. `epoch`
 * names it in asks. It is listed and not ready. */
int32_t proa_router_join(proa_router *router, uint64_t instance, uint64_t epoch);
void proa_router_leave(proa_router *router, int32_t worker);

/* Its link is up and this is its card; or the card has changed. */
void proa_router_ready(proa_router *router, int32_t worker, const proa_wire_card *card);
/* Its link is down: what was placed there is gone, its prefixes are forgotten. */
void proa_router_unready(proa_router *router, int32_t worker);
void proa_router_listed(proa_router *router, int32_t worker, bool listed);
void proa_router_load(proa_router *router, int32_t worker, const proa_wire_load *load);
void proa_router_kv_events(proa_router *router, int32_t worker, const proa_wire_kv_events *events);

void proa_router_failed(proa_router *router, int32_t worker, int64_t now_us);
void proa_router_worked(proa_router *router, int32_t worker);
void proa_router_pair_failed(proa_router *router, int32_t prefill, int32_t decode, int64_t now_us);
void proa_router_pair_worked(proa_router *router, int32_t prefill, int32_t decode);

/* ---- requests ---- */

typedef struct proa_router_ask {
    const int32_t *prompt_ids;
    int32_t prompt_count;
    const uint64_t *refused; /* epochs of processes that must not be picked */
    int32_t refused_count;
    uint64_t room; /* that the hand-off will have */
    int64_t now_us;
} proa_router_ask;

typedef struct proa_router_pick {
    int32_t prefill;       /* -1: `main` is a combined worker */
    int32_t main;          /* decode or combined */
    int32_t cached_blocks; /* of the prompt, as the index says (mode kv) */
} proa_router_pick;

/* PROA_ERR_UNREACHABLE: no worker is known or none could take it; PROA_ERR_OVERLOADED: those that could are full or have
 * refused. The text counts them. */
proa_status proa_router_choose(proa_router *router, const proa_router_ask *ask, proa_router_pick *pick,
                               proa_error *err);

/* How many requests more there is room for; 0 with the error that choose would give. */
int32_t proa_router_room(const proa_router *router, proa_error *err);

/* A request of so many tokens (prompt and earlier output) has been sent to the worker, and has ended there. */
void proa_router_placed(proa_router *router, int32_t worker, int32_t tokens);
void proa_router_released(proa_router *router, int32_t worker, int32_t tokens);

const proa_kv_index *proa_router_kv_index(const proa_router *router);

#endif
