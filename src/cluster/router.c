/* router.c - who is there, with what load and which failures, and what is said when none can be chosen. */
#include "cluster/router_internal.h"

#include <stdlib.h>
#include <string.h>

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
            (router_worker){.used = true, .listed = true, .instance = instance, .epoch = epoch, .group = -1};
        if (i >= router->worker_end)
            router->worker_end = i + 1;
        return i;
    }
    return -1;
}

static void leave_group(proa_router *router, router_worker *w)
{
    if (w->group >= 0)
        router->groups[w->group].members--;
    w->group = -1;
}

/* The group of its worker's other dp ranks, or a new one: there are as many groups as workers. */
static void join_group(proa_router *router, router_worker *w, const proa_wire_card *card)
{
    router_group *found = w->group >= 0 ? &router->groups[w->group] : NULL;
    if (found != NULL && found->id == card->worker_id && found->leg == (proa_wire_leg)card->leg)
        return; /* the card came again */
    leave_group(router, w);
    found = NULL;
    for (int32_t i = 0; i < PROA_ROUTER_WORKERS_MAX; i++) {
        router_group *group = &router->groups[i];
        bool same = group->members > 0 && card->worker_id != 0 && group->id == card->worker_id &&
                    group->leg == (proa_wire_leg)card->leg;
        if (same || (found == NULL && group->members == 0))
            found = group;
        if (same)
            break;
    }
    PROA_ASSERT(found != NULL);
    if (found->members == 0)
        *found = (router_group){.id = card->worker_id, .leg = (proa_wire_leg)card->leg};
    found->members++;
    w->group = (int32_t)(found - router->groups);
}

void proa_router_leave(proa_router *router, int32_t worker)
{
    router_worker *w = worker_of(router, worker);
    leave_group(router, w);
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
    w->dp_rank = card->dp_rank;
    w->dp_size = card->worker_id != 0 ? card->dp_size : 1;
    w->balance = (proa_wire_balance)card->balance;
    join_group(router, w, card);
    w->draining = card->draining;
    int64_t most = (int64_t)card->running_max + card->queued_max;
    w->requests_max = most < INT32_MAX ? (int32_t)most : INT32_MAX;
}

void proa_router_unready(proa_router *router, int32_t worker)
{
    router_worker *w = worker_of(router, worker);
    proa_kv_index_reset(router->index, worker, 0);
    leave_group(router, w);
    w->ready = false;
    w->draining = w->dead = false;
    w->requests = w->blocks = 0;
    w->fresh_requests = w->fresh_blocks = 0;
    w->own_requests = w->own_blocks = 0;
    w->own_tokens = 0;
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

router_pair *proa_router_pair_of(proa_router *router, int32_t prefill, int32_t decode)
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
    router_pair *pair = proa_router_pair_of(router, prefill, decode);
    if (pair == NULL) {
        pair = pair_to_replace(router);
        *pair = (router_pair){.prefill = prefill, .decode = decode};
    }
    avoid(&pair->backoff_us, &pair->avoid_until_us, now_us);
}

void proa_router_pair_worked(proa_router *router, int32_t prefill, int32_t decode)
{
    router_pair *pair = proa_router_pair_of(router, prefill, decode);
    if (pair != NULL)
        pair->prefill = -1;
}

/* ---- load ---- */

static int32_t blocks_of(int32_t tokens)
{
    return (tokens + PROA_KV_BLOCK_TOKENS - 1) / PROA_KV_BLOCK_TOKENS;
}

void proa_router_placed(proa_router *router, int32_t worker, int32_t tokens)
{
    router_worker *w = worker_of(router, worker);
    int32_t blocks = blocks_of(tokens);
    w->picked = ++router->serial;
    if (w->group >= 0)
        router->groups[w->group].picked = w->picked;
    w->own_requests++;
    w->own_blocks += blocks;
    w->own_tokens += tokens;
    w->fresh_requests++;
    w->fresh_blocks += blocks;
}

void proa_router_released(proa_router *router, int32_t worker, int32_t tokens)
{
    router_worker *w = worker_of(router, worker);
    int32_t blocks = blocks_of(tokens);
    if (!w->ready)
        return; /* forgotten when its link went down */
    PROA_ASSERT(w->own_requests > 0);
    PROA_ASSERT(w->own_tokens >= tokens);
    w->own_requests--;
    w->own_blocks -= blocks;
    w->own_tokens -= tokens;
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
        if (router_serves(w)) {
            c->serving[w->leg]++;
            c->room[w->leg] += router_room_at(w);
        }
    }
}

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

proa_status proa_router_explain(const proa_router *router, int32_t refused, proa_error *err)
{
    census c;
    count(router, &c);
    return explain(&c, refused, err);
}
