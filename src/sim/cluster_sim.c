/* cluster_sim.c - a life: who is there, what goes wrong and when, and what must hold at the end. */
#include "sim/cluster_sim.h"

#include "sim/sim_internal.h"

#include <stdlib.h>

enum {

    LIFE_US = 60000000, /* after which everything must have ended; the longest deadline is a fraction of it */
    SETTLE_US = 15000000, /* for what is left when the last call has ended */
    EVENTS_MAX = 4000000,
};

/* ---- processes ---- */

static uint64_t fresh_epoch(sim_world *w)
{
    return (uint64_t)proa_sim_random(w, UINT32_MAX) << 32 | (proa_sim_random(w, UINT32_MAX) | 1);
}

static void start_node(sim_world *w, int32_t node)
{
    sim_node *n = &w->nodes[node];
    n->alive = true;
    n->stalled = false;
    n->epoch = fresh_epoch(w);
    proa_sim_worker_start(w, node);
}

/* The process ends now; its peers hear of it by the end of their streams. */
static void crash(sim_world *w, int32_t node)
{
    sim_node *n = &w->nodes[node];
    w->result->crashes++;
    n->alive = false;
    n->stalled = false;
    proa_sim_worker_stop(w, node);
    for (int32_t i = 0; i < w->link_count; i++) {
        if (w->links[i].a == node || w->links[i].b == node)
            proa_sim_cut(w, i, true, node);
    }
    proa_sim_post(w, &(sim_event){.kind = SIM_RESTART, .to = node}, 50000 + proa_sim_random(w, 2000000));
}

static void stall(sim_world *w, int32_t node)
{
    sim_node *n = &w->nodes[node];
    int64_t us = 100000 + proa_sim_random(w, 8000000);
    w->result->stalls++;
    n->stalled = true;
    n->stalled_until_us = w->now_us + us;
    proa_sim_post(w, &(sim_event){.kind = SIM_RESUME, .to = node, .epoch = n->epoch}, us);
    if (us < 2500000)
        return; /* nobody notices but by waiting */
    for (int32_t i = 0; i < w->link_count; i++) {
        if (w->links[i].a == node || w->links[i].b == node)
            proa_sim_cut(w, i, false, -1);
    }
}

/* A worker by chance; now and then the one that is in the midst of a write, if there is one. */
static int32_t choose_victim(sim_world *w)
{
    int32_t node = SIM_FRONTS + (int32_t)proa_sim_random(w, (uint32_t)(w->node_count - SIM_FRONTS));
    for (int32_t i = SIM_FRONTS; i < SIM_FRONTS + w->prefills && proa_sim_chance(w, 700); i++) {
        for (const sim_job *job = w->nodes[i].w.jobs; job != NULL; job = job->next) {
            if (job->write_left > 0)
                node = i;
        }
    }
    return node;
}

static void make_trouble(sim_world *w)
{
    int32_t node = choose_victim(w);

    if (w->now_us > w->trouble_until_us) {
        w->trouble = w->rough = false;
        return;
    }
    if (w->nodes[node].alive && !w->nodes[node].stalled) {
        uint32_t what = proa_sim_random(w, 100);
        if (what < 35) {
            crash(w, node);
        } else if (what < 60) {
            stall(w, node);
        } else if (w->link_count > 0) {
            w->result->breaks++;
            proa_sim_cut(w, (int32_t)proa_sim_random(w, (uint32_t)w->link_count), proa_sim_chance(w, 500),
                         -1);
        }
    }
    proa_sim_post(w, &(sim_event){.kind = SIM_TROUBLE}, 20000 + proa_sim_random(w, 500000));
}

/* ---- the loop ---- */

static bool is_message(const sim_event *e)
{
    return e->kind <= SIM_QUIET;
}

static void dispatch(sim_world *w, const sim_event *e)
{
    if (e->kind == SIM_TROUBLE) {
        make_trouble(w);
        return;
    }
    sim_node *n = &w->nodes[e->to];
    if (e->kind == SIM_RESTART) {
        start_node(w, e->to);
        return;
    }
    if (!n->alive || (!is_message(e) && e->epoch != 0 && e->epoch != n->epoch))
        return;
    if (e->kind == SIM_RESUME) {
        n->stalled = false;
        return;
    }
    if (n->stalled) { /* it lies in a buffer until the process goes on */
        proa_sim_post(w, e, n->stalled_until_us - w->now_us + 1);
        return;
    }
    if (is_message(e)) {
        const sim_link *link = &w->links[e->link];
        if (!link->up[link->b == e->to])
            return;
    }
    if (n->front)
        proa_sim_front_event(w, e);
    else if (n->prefill)
        proa_sim_prefill_event(w, e);
    else
        proa_sim_decode_event(w, e);
}

static void check_node(sim_world *w, int32_t node)
{
    const sim_node *n = &w->nodes[node];
    int32_t used = 0;
    for (int32_t i = 0; i < n->w.pool; i++)
        used += n->w.used[i];
    if (n->w.jobs != NULL)
        proa_sim_find(w, "%s worker %d still has call %llx in room %llx (prefill state %d, decode state %d)",
                      n->prefill ? "prefill" : "decode", node, (unsigned long long)n->w.jobs->id,
                      (unsigned long long)n->w.jobs->room, n->w.jobs->prefill.state, n->w.jobs->decode.state);
    if (used > 0)
        proa_sim_find(w, "worker %d still holds %d blocks", node, used);
}

static bool idle(const sim_world *w)
{
    for (int32_t i = SIM_FRONTS; i < w->node_count; i++) {
        if (!w->nodes[i].alive || w->nodes[i].stalled || w->nodes[i].w.jobs != NULL)
            return false;
    }
    return true;
}

static void live(sim_world *w)
{
    sim_event e;
    int64_t ended_us = 0;
    while (w->result->finding[0] == 0 && proa_sim_take(w, &e)) {
        dispatch(w, &e);
        if (++w->result->events > EVENTS_MAX)
            proa_sim_find(w, "more than %d events", EVENTS_MAX);
        if (w->unfinished > 0) {
            if (w->now_us > LIFE_US)
                proa_sim_find(w, "%d calls have not ended after %d s", w->unfinished, LIFE_US / 1000000);
            continue;
        }
        if (ended_us == 0)
            ended_us = w->now_us;
        if (idle(w) || w->now_us - ended_us > SETTLE_US)
            break;
    }
    for (int32_t i = SIM_FRONTS; i < w->node_count; i++)
        check_node(w, i);
}

void proa_cluster_sim_run(uint64_t seed, bool trouble, proa_cluster_sim_result *result)
{
    *result = (proa_cluster_sim_result){0};
    sim_world w = {.seed = seed,
                   .trouble = trouble,
                   .rough = trouble,
                   .queue = {.event_bytes = sizeof(sim_event)},
                   .result = result};
    w.prefills = 1 + (int32_t)proa_sim_random(&w, 3);
    w.node_count = SIM_FRONTS + w.prefills + 1 + (int32_t)proa_sim_random(&w, 3);
    bool dense = proa_sim_chance(&w, 500); /* all at once, or a life of several stalls' length */
    w.calls_until_us = dense ? 400000 : 12000000;
    w.trouble_until_us = dense ? 1500000 : 12000000;
    w.slow = proa_sim_chance(&w, 500);
    w.unfinished = SIM_FRONTS * SIM_CALLS;
    w.limits = (proa_room_limits){
        .waiting_us = 4000000, .transfer_us = 500000, .abort_us = 100000, .starved_us = 300000};
    w.nodes = calloc(SIM_NODES_MAX, sizeof *w.nodes);
    if (w.nodes == NULL)
        abort();
    for (int32_t i = SIM_FRONTS; i < w.node_count; i++) {
        w.nodes[i].prefill = i < SIM_FRONTS + w.prefills;
        w.nodes[i].w.pool = SIM_BLOCKS_MAX + (int32_t)proa_sim_random(&w, SIM_POOL_MAX - SIM_BLOCKS_MAX);
        start_node(&w, i);
    }
    for (int32_t i = 0; i < SIM_FRONTS; i++) {
        w.nodes[i].front = w.nodes[i].alive = true;
        w.nodes[i].epoch = fresh_epoch(&w);
        proa_sim_front_start(&w, i);
    }
    if (trouble)
        proa_sim_post(&w, &(sim_event){.kind = SIM_TROUBLE}, 10000 + proa_sim_random(&w, 100000));
    live(&w);
    result->virtual_us = w.now_us;
    for (int32_t i = 0; i < w.node_count; i++) {
        if (w.nodes[i].front)
            proa_sim_front_stop(&w, i);
        else if (w.nodes[i].alive)
            proa_sim_worker_stop(&w, i);
    }
    free(w.nodes);
    free(w.links);
    proa_sim_queue_free(&w.queue);
}
