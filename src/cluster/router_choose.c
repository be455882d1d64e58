/* router_choose.c - the choice: a worker by the router's mode, then one of its dp ranks by the worker's own method.
 *
 * Each worker gets a key, computed once from what is known of its ranks; the best key is taken among workers that have a rank for the
 * request, then the best rank of that worker. A rank that cannot take it is no candidate, so that its worker's next one is. A pair
 * takes the best prefill rank for which there is a decode rank without trouble between the two.
 */
#include "cluster/router_internal.h"

#include "base/random.h"

static bool is_refused(const proa_router_ask *ask, uint64_t epoch)
{
    for (int32_t i = 0; i < ask->refused_count; i++) {
        if (ask->refused[i] == epoch)
            return true;
    }
    return false;
}

/* Whether prefixes decide about its ranks. */
static bool by_prefix(const proa_router *router, proa_wire_leg leg)
{
    return router->options.mode == PROA_ROUTER_KV && leg != PROA_LEG_DECODE;
}

/* ---- workers ---- */

/* Requests and share of KV blocks of a mean rank, the less the better: a worker of more ranks takes more. */
static router_key key_of_load(int32_t ranks, int64_t requests, double shares)
{
    return (router_key){-(double)requests / ranks, -shares / ranks};
}

/* Fills group_keys, for all groups that have a rank that serves. */
static void weigh_groups(proa_router *router)
{
    int32_t ranks[PROA_ROUTER_WORKERS_MAX] = {0};
    int64_t requests[PROA_ROUTER_WORKERS_MAX] = {0};
    double shares[PROA_ROUTER_WORKERS_MAX] = {0};
    for (int32_t i = 0; i < router->worker_end; i++) {
        const router_worker *w = &router->workers[i];
        if (!router_serves(w))
            continue;
        router_key *key = &router->group_keys[w->group];
        requests[w->group] += router_requests_at(w);
        shares[w->group] += w->blocks_total > 0 ? (double)router_blocks_at(w) / w->blocks_total : 0;
        if (ranks[w->group]++ == 0 || (router->open[i] && router->prefixes[i] > key->first))
            *key = (router_key){router->open[i] ? router->prefixes[i] : -INT32_MAX, 0};
    }
    for (int32_t g = 0; g < PROA_ROUTER_WORKERS_MAX; g++) {
        uint32_t words[4];
        if (ranks[g] == 0 || by_prefix(router, router->groups[g].leg))
            continue;
        switch (router->options.mode) {
        case PROA_ROUTER_ROUND_ROBIN: router->group_keys[g] = (router_key){0}; break;
        case PROA_ROUTER_RANDOM:
            proa_random_philox(router->options.seed, router->draws, (uint64_t)g, words);
            router->group_keys[g] = (router_key){words[0], 0};
            break;
        case PROA_ROUTER_KV:
        case PROA_ROUTER_LEAST_LOADED:
            router->group_keys[g] = key_of_load(ranks[g], requests[g], shares[g]);
            break;
        }
    }
}

/* Fills open, prefixes and group_keys for this request; returns how many workers have refused it and would serve. */
static int32_t weigh(proa_router *router, const proa_router_ask *ask)
{
    proa_kv_index_set among = {0};
    int32_t refused = 0;
    for (int32_t i = 0; i < router->worker_end; i++) {
        const router_worker *w = &router->workers[i];
        bool no = router_serves(w) && is_refused(ask, w->epoch);
        refused += no;
        router->open[i] = router_serves(w) && !no && router_room_at(w) > 0;
        router->prefixes[i] = 0;
        if (router->open[i] && w->leg != PROA_LEG_DECODE)
            proa_kv_index_set_add(&among, i);
    }
    if (router->options.mode == PROA_ROUTER_KV)
        proa_kv_index_match(router->index, &among, ask->prompt_ids, ask->prompt_count, router->depths);
    for (int32_t i = 0; i < router->worker_end; i++) {
        const router_worker *w = &router->workers[i];
        if (router->open[i] && by_prefix(router, w->leg))
            router->prefixes[i] = router->options.kv_overlap_weight * router->depths[i] - router_blocks_at(w);
    }
    router->draws++;
    weigh_groups(router);
    return refused;
}

static bool group_before(const proa_router *router, int32_t a, int32_t b)
{
    const router_key *of_a = &router->group_keys[a], *of_b = &router->group_keys[b];
    if (of_a->first != of_b->first)
        return of_a->first > of_b->first;
    if (of_a->second != of_b->second)
        return of_a->second > of_b->second;
    return router->groups[a].picked < router->groups[b].picked;
}

/* ---- dp ranks of a worker ---- */

/* Prompt and output tokens: of what this router has placed there, exactly as it was placed; of others', whole blocks. */
static int64_t tokens_at(const router_worker *w)
{
    int64_t others = router_blocks_at(w) - w->own_blocks;
    return w->own_tokens + others * PROA_KV_BLOCK_TOKENS;
}

/* The less, the better. */
static double rank_cost(const proa_router *router, const proa_router_ask *ask, int32_t number)
{
    const router_worker *w = &router->workers[number];
    if (by_prefix(router, w->leg))
        return -router->prefixes[number];
    switch (w->balance) {
    case PROA_BALANCE_TOTAL_REQUESTS: return router_requests_at(w);
    case PROA_BALANCE_TOTAL_TOKENS: return (double)tokens_at(w);
    case PROA_BALANCE_FOLLOW_ROOM: {
        if (w->leg == PROA_LEG_COMBINED)
            return 0; /* of which no room comes */
        int32_t wanted = (int32_t)(ask->room % (uint64_t)w->dp_size);
        return (w->dp_rank - wanted + w->dp_size) % w->dp_size;
    }
    case PROA_BALANCE_ROUND_ROBIN:
    case PROA_BALANCE_COUNT: break;
    }
    return 0;
}

static bool rank_before(const proa_router *router, const proa_router_ask *ask, int32_t a, int32_t b)
{
    const router_worker *at_a = &router->workers[a], *at_b = &router->workers[b];
    double of_a = rank_cost(router, ask, a), of_b = rank_cost(router, ask, b);
    if (of_a != of_b)
        return of_a < of_b;
    return at_a->picked != at_b->picked ? at_a->picked < at_b->picked : at_a->dp_rank < at_b->dp_rank;
}

/* ---- choosing ---- */

static bool in_trouble(const router_worker *w, int64_t now_us)
{
    return !w->listed || now_us < w->avoid_until_us;
}

static bool pair_in_trouble(proa_router *router, int32_t prefill, int32_t decode, int64_t now_us)
{
    const router_pair *pair = proa_router_pair_of(router, prefill, decode);
    return pair != NULL && now_us < pair->avoid_until_us;
}

/* The best open worker's best open rank of a kind, or -1. Not one of `without`; for a decode rank, `prefill` is its partner. */
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
        int32_t group = found >= 0 ? router->workers[found].group : -1;
        if (group < 0 ||
            (w->group == group ? rank_before(router, ask, i, found) : group_before(router, w->group, group)))
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
    if (!found)
        return proa_router_explain(router, refused, err);
    if (router->options.mode == PROA_ROUTER_KV)
        pick->cached_blocks = router->depths[pick->prefill >= 0 ? pick->prefill : pick->main];
    return PROA_OK;
}
