/* router.c - workers, their loads and failures, and the choice among them.
 *
 * Load: a report says what was there when it was sent, `fresh` what was placed and released since it came, and `own` what
 * this router has there for certain. Reports cross requests on the way, so the load is taken as the larger of report + fresh
 * and own: it never falls below what is known, and what other frontends place is seen one report later.
 *
 * Choosing gives each candidate a key (the larger the better), computed once, and takes the best; a pair takes the best prefill
 * worker for which there is a decode worker without trouble between the two.
 */
#include "cluster/router.h"

#include "base/random.h"
#include "op/tensor.h"

#include <stdlib.h>
#include <string.h>

typedef struct router_worker {
    bool used;
    bool ready;
    bool listed;
    bool draining;
    bool dead;         /* it computes nothing: its device is lost, or it is away from its group of ranks */
    proa_wire_leg leg; /* once it has been ready */
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
    uint64_t picked; /* serial of its latest request */
    int64_t backoff_us;
    int64_t avoid_until_us;
} router_worker;

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
    router_pair pairs[PROA_ROUTER_PAIRS_MAX];
    /* scratch of choose */
    double keys[PROA_ROUTER_WORKERS_MAX];
    bool open[PROA_ROUTER_WORKERS_MAX]; /* can take the request */
    int32_t depths[PROA_ROUTER_WORKERS_MAX];
};

proa_router *proa_router_create(const proa_router_options *options)
{
    proa_router *router = calloc(1, sizeof *router);
    if (router == NULL)
        return NULL;
    router->options = *options;
    router->index = proa_kv_index_create();
    if (router->index == NULL) {
        free(router);
        return NULL;
    }
    for (int i = 0; i < PROA_ROUTER_PAIRS_MAX; i++)
        router->pairs[i].prefill = -1;
    return router;
}

void proa_router_free(proa_router *router)
{
    if (router == NULL)
        return;
    proa_kv_index_free(router->index);
    free(router);
}

const proa_kv_index *proa_router_kv_index(const proa_router *router)
{
    return router->index;
}

/* ---- workers ---- */

static router_worker *worker_of(proa_router *router, int32_t number)
{
    PROA_ASSERT(number >= 0 && number < PROA_ROUTER_WORKERS_MAX);
    PROA_ASSERT(router->workers[number].used);
    return &router->workers[number];
}

int32_t proa_router_join(proa_router *router, uint64_t instance, uint64_t epoch)
{
    for (int32_t i = 0; i < PROA_ROUTER_WORKERS_MAX; i++) {
        if (router->workers[i].used)
            continue;
        router->workers[i] =
            (router_worker){.used = true, .listed = true, .instance = instance, .epoch = epoch};
        if (i >= router->worker_end)
            router->worker_end = i + 1;
        return i;
    }
    return -1;
}

void proa_router_leave(proa_router *router, int32_t worker)
{
    router_worker *w = worker_of(router, worker);
    proa_kv_index_reset(router->index, worker, 0);
    w->used = false;
    for (int i = 0; i < PROA_ROUTER_PAIRS_MAX; i++) {
        router_pair *pair = &router->pairs[i];
        if (pair->prefill == worker || (pair->prefill >= 0 && pair->decode == worker))
            pair->prefill = -1;
    }
    while (router->worker_end > 0 && !router->workers[router->worker_end - 1].used)
        router->worker_end--;
}

void proa_router_ready(proa_router *router, int32_t worker, const proa_wire_card *card)
{
    router_worker *w = worker_of(router, worker);
    if (!w->ready)
        proa_kv_index_reset(router->index, worker, card->kv_tokens / PROA_KV_BLOCK_TOKENS);
    w->ready = true;
    w->leg = (proa_wire_leg)card->leg;
    w->draining = card->draining;
    int64_t most = (int64_t)card->running_max + card->queued_max;
    w->requests_max = most < INT32_MAX ? (int32_t)most : INT32_MAX;
}

void proa_router_unready(proa_router *router, int32_t worker)
{
    router_worker *w = worker_of(router, worker);
    proa_kv_index_reset(router->index, worker, 0);
    w->ready = false;
    w->draining = w->dead = false;
    w->requests = w->blocks = 0;
    w->fresh_requests = w->fresh_blocks = 0;
    w->own_requests = w->own_blocks = 0;
}

void proa_router_listed(proa_router *router, int32_t worker, bool listed)
{
    worker_of(router, worker)->listed = listed;
}

void proa_router_load(proa_router *router, int32_t worker, const proa_wire_load *load)
{
    router_worker *w = worker_of(router, worker);
    w->draining = load->draining;
    w->dead = load->stats.device_lost || load->stats.away;
    int64_t requests = (int64_t)load->stats.running + load->stats.queued;
    w->requests = requests < INT32_MAX / 2 ? (int32_t)requests : INT32_MAX / 2;
    w->blocks = load->stats.kv_blocks_used;
    w->blocks_total = load->stats.kv_blocks_total;
    w->fresh_requests = w->fresh_blocks = 0;
}

void proa_router_kv_events(proa_router *router, int32_t worker, const proa_wire_kv_events *events)
{
    router_worker *w = worker_of(router, worker);
    if (!w->ready || router->options.mode != PROA_ROUTER_KV)
        return;
    if (events->snapshot)
        proa_kv_index_forget(router->index, worker);
    for (uint32_t i = 0; i < events->count; i++) {
        if (events->stored[i])
            proa_kv_index_store(router->index, worker, events->hashes[i]);
        else
            proa_kv_index_remove(router->index, worker, events->hashes[i]);
    }
}

/* ---- failures ---- */

/* One incident counts once, however many requests it took: while it is being avoided, failures change nothing. */
static void avoid(int64_t *backoff_us, int64_t *until_us, int64_t now_us)
{
    if (now_us < *until_us)
        return;
    *backoff_us = *backoff_us == 0 ? PROA_ROUTER_BACKOFF_US_MIN : 2 * *backoff_us;
    if (*backoff_us > PROA_ROUTER_BACKOFF_US_MAX)
        *backoff_us = PROA_ROUTER_BACKOFF_US_MAX;
    *until_us = now_us + *backoff_us;
}

void proa_router_failed(proa_router *router, int32_t worker, int64_t now_us)
{
    router_worker *w = worker_of(router, worker);
    avoid(&w->backoff_us, &w->avoid_until_us, now_us);
}

void proa_router_worked(proa_router *router, int32_t worker)
{
    router_worker *w = worker_of(router, worker);
    w->backoff_us = w->avoid_until_us = 0;
}

static router_pair *pair_of(proa_router *router, int32_t prefill, int32_t decode)
{
    for (int i = 0; i < PROA_ROUTER_PAIRS_MAX; i++) {
        if (router->pairs[i].prefill == prefill && router->pairs[i].decode == decode)
            return &router->pairs[i];
    }
    return NULL;
}

/* An unused record, or the one whose back-off ends first. */
static router_pair *pair_to_replace(proa_router *router)
{
    router_pair *oldest = &router->pairs[0];
    for (int i = 0; i < PROA_ROUTER_PAIRS_MAX; i++) {
        if (router->pairs[i].prefill < 0)
            return &router->pairs[i];
        if (router->pairs[i].avoid_until_us < oldest->avoid_until_us)
            oldest = &router->pairs[i];
    }
    return oldest;
}

void proa_router_pair_failed(proa_router *router, int32_t prefill, int32_t decode, int64_t now_us)
{
    worker_of(router, prefill);
    worker_of(router, decode);
    router_pair *pair = pair_of(router, prefill, decode);
    if (pair == NULL) {
        pair = pair_to_replace(router);
        *pair = (router_pair){.prefill = prefill, .decode = decode};
    }
    avoid(&pair->backoff_us, &pair->avoid_until_us, now_us);
}

void proa_router_pair_worked(proa_router *router, int32_t prefill, int32_t decode)
{
    router_pair *pair = pair_of(router, prefill, decode);
    if (pair != NULL)
        pair->prefill = -1;
}

/* ---- load ---- */

static int32_t larger(int32_t a, int32_t b)
{
    return a > b ? a : b;
}

static int32_t requests_at(const router_worker *w)
{
    return larger(w->requests + w->fresh_requests, w->own_requests);
}

static int32_t blocks_at(const router_worker *w)
{
    return larger(w->blocks + w->fresh_blocks, w->own_blocks);
}

static bool serves(const router_worker *w)
{
    return w->used && w->ready && !w->draining && !w->dead;
}

static int32_t room_at(const router_worker *w)
{
    return larger(w->requests_max - requests_at(w), 0);
}

void proa_router_placed(proa_router *router, int32_t worker, int32_t blocks)
{
    router_worker *w = worker_of(router, worker);
    w->picked = ++router->serial;
    w->own_requests++;
    w->own_blocks += blocks;
    w->fresh_requests++;
    w->fresh_blocks += blocks;
}

void proa_router_released(proa_router *router, int32_t worker, int32_t blocks)
{
    router_worker *w = worker_of(router, worker);
    if (!w->ready)
        return; /* forgotten when its link went down */
    PROA_ASSERT(w->own_requests > 0 && w->own_blocks >= blocks);
    w->own_requests--;
    w->own_blocks -= blocks;
    w->fresh_requests--;
    w->fresh_blocks -= blocks;
}

/* ---- why not ---- */

typedef struct census {
    int32_t known, ready;
    int32_t serving[3]; /* by leg: ready, neither draining nor dead */
    int32_t draining, dead;
    int64_t room[3];
} census;

static void count(const proa_router *router, census *c)
{
    *c = (census){0};
    for (int32_t i = 0; i < router->worker_end; i++) {
        const router_worker *w = &router->workers[i];
        c->known += w->used;
        c->ready += w->used && w->ready;
        c->draining += w->used && w->ready && w->draining;
        c->dead += w->used && w->ready && w->dead && !w->draining;
        if (serves(w)) {
            c->serving[w->leg]++;
            c->room[w->leg] += room_at(w);
        }
    }
}

/* Why nothing can be chosen: by `refused` the request has been refused by workers that are not full by our count. */
static proa_status explain(const census *c, int32_t refused, proa_error *err)
{
    int32_t combined = c->serving[PROA_LEG_COMBINED], prefill = c->serving[PROA_LEG_PREFILL],
            decode = c->serving[PROA_LEG_DECODE];
    if (c->known == 0)
        return proa_error_set(err, PROA_ERR_UNREACHABLE,
                              "no worker is known: start one with `proa worker` in this namespace, with the "
                              "same --discovery-backend");
    if (combined == 0 && (prefill == 0 || decode == 0))
        return proa_error_set(err, PROA_ERR_UNREACHABLE,
                              "no worker can take the request: of %d known %d are connected, %d of these "
                              "draining and %d out of order or away; %d prefill, %d decode and %d combined "
                              "ones are left (a prefill and a decode worker "
                              "are needed, or a combined one)",
                              c->known, c->ready, c->draining, c->dead, prefill, decode, combined);
    if (refused > 0)
        return proa_error_set(err, PROA_ERR_OVERLOADED,
                              "the workers are full: %d prefill, %d decode and %d combined ones serve, and "
                              "%d of them refused the request: try again later",
                              prefill, decode, combined, refused);
    bool pairs = prefill > 0 && decode > 0;
    const char *which = !pairs                          ? "combined"
                        : c->room[PROA_LEG_PREFILL] > 0 ? "decode"
                        : c->room[PROA_LEG_DECODE] > 0  ? "prefill"
                                                        : "prefill and all decode";
    return proa_error_set(err, PROA_ERR_OVERLOADED,
                          "all %s workers are full: %d prefill, %d decode and %d combined ones serve, each "
                          "with as many requests as its --max-running-requests and --max-queued-requests "
                          "allow: try again later",
                          which, prefill, decode, combined);
}

int32_t proa_router_room(const proa_router *router, proa_error *err)
{
    census c;
    count(router, &c);
    int64_t pairs = c.room[PROA_LEG_PREFILL] < c.room[PROA_LEG_DECODE] ? c.room[PROA_LEG_PREFILL]
                                                                       : c.room[PROA_LEG_DECODE];
    int64_t room = pairs + c.room[PROA_LEG_COMBINED];
    if (room == 0)
        explain(&c, 0, err);
    return room < INT32_MAX ? (int32_t)room : INT32_MAX;
}

/* ---- choosing ---- */

static bool is_refused(const proa_router_ask *ask, uint64_t epoch)
{
    for (int32_t i = 0; i < ask->refused_count; i++) {
        if (ask->refused[i] == epoch)
            return true;
    }
    return false;
}

static double key_of(const proa_router *router, int32_t number)
{
    const router_worker *w = &router->workers[number];
    switch (router->options.mode) {
    case PROA_ROUTER_ROUND_ROBIN: return 0;
    case PROA_ROUTER_RANDOM: {
        uint32_t words[4];
        proa_random_philox(router->options.seed, router->draws, (uint64_t)number, words);
        return words[0];
    }
    case PROA_ROUTER_KV:
        if (w->leg != PROA_LEG_DECODE)
            return router->options.kv_overlap_weight * router->depths[number] - blocks_at(w);
        break;
    case PROA_ROUTER_LEAST_LOADED: break;
    }
    double share = w->blocks_total > 0 ? (double)blocks_at(w) / w->blocks_total : 0;
    return -(double)requests_at(w) - (share < 0.99 ? share : 0.99);
}

/* Fills open, depths and keys for this request; returns how many workers have refused it and would serve. */
static int32_t weigh(proa_router *router, const proa_router_ask *ask)
{
    proa_kv_index_set among = {0};
    int32_t refused = 0;
    for (int32_t i = 0; i < router->worker_end; i++) {
        const router_worker *w = &router->workers[i];
        bool no = serves(w) && is_refused(ask, w->epoch);
        refused += no;
        router->open[i] = serves(w) && !no && room_at(w) > 0;
        if (router->open[i] && w->leg != PROA_LEG_DECODE)
            proa_kv_index_set_add(&among, i);
    }
    if (router->options.mode == PROA_ROUTER_KV)
        proa_kv_index_match(router->index, &among, ask->prompt_ids, ask->prompt_count, router->depths);
    router->draws++;
    for (int32_t i = 0; i < router->worker_end; i++) {
        if (router->open[i])
            router->keys[i] = key_of(router, i);
    }
    return refused;
}

static bool in_trouble(const router_worker *w, int64_t now_us)
{
    return !w->listed || now_us < w->avoid_until_us;
}

static bool pair_in_trouble(proa_router *router, int32_t prefill, int32_t decode, int64_t now_us)
{
    const router_pair *pair = pair_of(router, prefill, decode);
    return pair != NULL && now_us < pair->avoid_until_us;
}

static bool better(const proa_router *router, int32_t a, int32_t b)
{
    if (b < 0 || router->keys[a] > router->keys[b])
        return true;
    if (router->keys[a] < router->keys[b])
        return false;
    return router->workers[a].picked < router->workers[b].picked;
}

/* The best open worker of a kind, or -1. Not one of `without`; for a decode worker, `prefill` is its partner. */
static int32_t best(proa_router *router, const proa_router_ask *ask, proa_wire_leg leg, bool troubled,
                    const proa_kv_index_set *without, int32_t prefill)
{
    int32_t found = -1;
    for (int32_t i = 0; i < router->worker_end; i++) {
        const router_worker *w = &router->workers[i];
        if (!router->open[i] || w->leg != leg || proa_kv_index_set_has(without, i))
            continue;
        if (!troubled && in_trouble(w, ask->now_us))
            continue;
        if (!troubled && prefill >= 0 && pair_in_trouble(router, prefill, i, ask->now_us))
            continue;
        if (better(router, i, found))
            found = i;
    }
    return found;
}

static bool choose_pair(proa_router *router, const proa_router_ask *ask, bool troubled,
                        proa_router_pick *pick)
{
    static const proa_kv_index_set none = {0};
    proa_kv_index_set tried = {0};
    for (;;) {
        pick->prefill = best(router, ask, PROA_LEG_PREFILL, troubled, &tried, -1);
        if (pick->prefill < 0)
            return false;
        pick->main = best(router, ask, PROA_LEG_DECODE, troubled, &none, pick->prefill);
        if (pick->main >= 0)
            return true;
        proa_kv_index_set_add(&tried, pick->prefill);
    }
}

static bool choose_combined(proa_router *router, const proa_router_ask *ask, bool troubled,
                            proa_router_pick *pick)
{
    static const proa_kv_index_set none = {0};
    pick->prefill = -1;
    pick->main = best(router, ask, PROA_LEG_COMBINED, troubled, &none, -1);
    return pick->main >= 0;
}

proa_status proa_router_choose(proa_router *router, const proa_router_ask *ask, proa_router_pick *pick,
                               proa_error *err)
{
    int32_t refused = weigh(router, ask);
    *pick = (proa_router_pick){.prefill = -1, .main = -1};
    bool found = choose_pair(router, ask, false, pick) || choose_combined(router, ask, false, pick) ||
                 choose_pair(router, ask, true, pick) || choose_combined(router, ask, true, pick);
    if (!found) {
        census c;
        count(router, &c);
        return explain(&c, refused, err);
    }
    if (router->options.mode == PROA_ROUTER_KV)
        pick->cached_blocks = router->depths[pick->prefill >= 0 ? pick->prefill : pick->main];
    return PROA_OK;
}
