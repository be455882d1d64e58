/* group_sim.c - a life: its ranks, its trouble, and what must be at its end. */
#include "sim/group_sim_internal.h"

#include <stdlib.h>

enum {
    EVENTS_MAX = 20000000,
    CONVERGED_US = 9000000, /* from the end of the trouble: restarts, silence, shunning, and a few rounds */
};

/* ---- trouble ---- */

static bool well(const gsim_world *w, int32_t rank)
{
    return w->rank[rank].alive && !w->rank[rank].stalled && !w->rank[rank].hung;
}

static int32_t any_rank(gsim_world *w)
{
    return (int32_t)proa_gsim_random(w, (uint32_t)w->ranks);
}

static void stall(gsim_world *w, int32_t rank)
{
    gsim_rank *r = &w->rank[rank];
    int64_t us = 1000 + proa_gsim_random(w, proa_gsim_chance(w, 500) ? 10000000 : 1000000);
    if (us > w->heal_us - w->now_us)
        us = w->heal_us - w->now_us;
    w->result->stalls++;
    proa_gsim_log(w, "%d: stops for %d ms", rank, (int)(us / 1000));
    r->stalled = true;
    r->stalled_until_us = w->now_us + us;
    proa_gsim_post(w, &(gsim_event){.kind = GSIM_RESUME, .rank = rank, .life = r->life}, us);
}

static void block(gsim_world *w, int32_t cut, int32_t by)
{
    for (int32_t a = 0; a < w->ranks; a++)
        for (int32_t b = 0; b < w->ranks; b++)
            if (a != b && proa_group_mask_has(&w->cuts[2 * cut], a) &&
                proa_group_mask_has(&w->cuts[2 * cut + 1], b))
                w->way[a][b].blocked += by;
}

static void cut_ways(gsim_world *w, const proa_group_mask *from, const proa_group_mask *to, int64_t us)
{
    w->cuts = realloc(w->cuts, (size_t)(2 * w->cut_count + 2) * sizeof *w->cuts);
    if (w->cuts == NULL)
        abort();
    w->cuts[2 * w->cut_count] = *from;
    w->cuts[2 * w->cut_count + 1] = *to;
    block(w, w->cut_count, 1);
    proa_gsim_post(w, &(gsim_event){.kind = GSIM_HEAL, .number = (uint64_t)w->cut_count}, us);
    w->cut_count++;
}

/* In two, of a pair, of one rank from all others; in both directions or in one. */
static void partition(gsim_world *w)
{
    proa_group_mask a = {{0}}, b = {{0}};
    uint32_t kind = proa_gsim_random(w, 3);
    int32_t one = any_rank(w), other = any_rank(w);
    for (int32_t r = 0; r < w->ranks; r++) {
        bool first = kind == 0 ? proa_gsim_chance(w, 500) : r == one;
        if (first)
            proa_group_mask_add(&a, r);
        else if (kind != 1 || r == other)
            proa_group_mask_add(&b, r);
    }
    bool one_way = proa_gsim_chance(w, 300);
    int64_t us = 1000 + proa_gsim_random(w, proa_gsim_chance(w, 300) ? 1000000 : 8000000);
    w->result->partitions++;
    proa_gsim_log(w, "partition %s %d from %d, %s, for %d ms", kind == 0 ? "of halves," : "of", one,
                  kind == 1 ? other : -1, one_way ? "one way" : "both ways", (int)(us / 1000));
    cut_ways(w, &a, &b, us);
    if (!one_way)
        cut_ways(w, &b, &a, us);
}

static void make_trouble(gsim_world *w)
{
    if (w->now_us > w->trouble_until_us) {
        w->troubled = false;
        return;
    }
    int32_t rank = any_rank(w), other = any_rank(w);
    uint32_t what = proa_gsim_random(w, 100);
    if (what < 25 && well(w, rank)) {
        proa_gsim_crash(w, rank);
    } else if (what < 45 && well(w, rank)) {
        stall(w, rank);
    } else if (what < 70 && rank != other) {
        w->result->breaks++;
        proa_gsim_log(w, "link %d-%d breaks", rank, other);
        proa_gsim_break(w, rank, other, proa_gsim_chance(w, 300));
    } else if (what < 90) {
        partition(w);
    } else if (what < 93 && well(w, rank) && w->rank[rank].running) {
        w->result->hangs++;
        proa_gsim_log(w, "%d: its engine hangs", rank);
        w->rank[rank].hung = true;
    }
    uint32_t pause = proa_gsim_chance(w, 400) ? 5000 : 2000000; /* now and then much at once */
    proa_gsim_post(w, &(gsim_event){.kind = GSIM_TROUBLE}, 1000 + proa_gsim_random(w, pause));
}

static void heal_all(gsim_world *w)
{
    proa_gsim_log(w, "the trouble is over");
    for (int32_t a = 0; a < w->ranks; a++) {
        gsim_rank *r = &w->rank[a];
        for (int32_t b = 0; b < w->ranks; b++)
            w->way[a][b].blocked = 0;
        if (r->hung)
            proa_gsim_crash(w, a);
    }
    w->cut_count = 0; /* heals that are still to come are of nothing */
}

/* ---- what must be ---- */

static bool converged(const gsim_world *w)
{
    for (int32_t i = 0; i < w->ranks; i++) {
        const gsim_rank *r = &w->rank[i];
        if (!r->alive || r->stalled || proa_group_state_of(r->group) != PROA_GROUP_MEMBER ||
            !proa_group_epoch_equal(&r->epoch, &w->rank[0].epoch) ||
            proa_group_mask_count(&r->view) != w->ranks)
            return false;
    }
    return true;
}

static void check_end(gsim_world *w)
{
    for (int32_t i = 0; i < w->ranks; i++) {
        const gsim_rank *r = &w->rank[i];
        if (r->alive && (r->work > 0 || r->running))
            proa_gsim_find(w, "rank %d still has work (%d) or runs (%d); its state is %d", i, r->work,
                           r->running, proa_group_state_of(r->group));
    }
    if (!converged(w))
        proa_gsim_find(w, "not all ranks are in one view at the end");
    else
        proa_gsim_experts_check_end(w);
    if (w->trouble == PROA_GROUP_SIM_CRASH && w->result->abandoned != w->abandoned_before)
        proa_gsim_find(w, "a step was abandoned for a rank that joined");
}

/* CRASH: the others have gone on; what comes now is the return of the one that had crashed. */
static void restart(gsim_world *w, int32_t rank)
{
    if (w->trouble == PROA_GROUP_SIM_CRASH && w->first_down_us != 0) {
        w->result->recovery_us = w->last_install_us - w->first_down_us;
        w->abandoned_before = w->result->abandoned;
        for (int32_t i = 0; i < w->ranks; i++)
            if (w->rank[i].alive && proa_group_mask_count(&w->rank[i].view) != w->ranks - 1)
                proa_gsim_find(w, "rank %d is not in a view of all survivors", i);
    }
    proa_gsim_rank_start(w, rank);
}

/* ---- the loop ---- */

static void world_event(gsim_world *w, const gsim_event *e)
{
    switch (e->kind) {
    case GSIM_START: restart(w, e->rank); break;
    case GSIM_WATCH:
        proa_gsim_watch(w);
        for (int32_t r = 0; r < w->ranks; r++)
            proa_gsim_rows(w, r);
        proa_gsim_post(w, e, GSIM_WATCH_US);
        break;
    case GSIM_TROUBLE: make_trouble(w); break;
    case GSIM_KILL: proa_gsim_crash(w, any_rank(w)); break;
    case GSIM_HEAL:
        if (e->number < (uint64_t)w->cut_count)
            block(w, (int32_t)e->number, -1);
        break;
    default: break;
    }
}

static void dispatch(gsim_world *w, gsim_event *e)
{
    gsim_rank *r = &w->rank[e->rank];
    if (e->kind >= GSIM_START) {
        world_event(w, e);
    } else if (e->kind == GSIM_DELIVER && !r->alive) {
        proa_gsim_deliver(w, e->peer, e->rank);
    } else if (!r->alive || (e->life != 0 && e->life != r->life)) {
        return;
    } else if (r->stalled && e->kind != GSIM_RESUME) {
        /* it lies in a buffer until the process goes on */
        proa_gsim_post(w, e, r->stalled_until_us > w->now_us ? r->stalled_until_us - w->now_us : 1);
        e->packet = NULL;
    } else {
        proa_gsim_rank_event(w, e);
    }
}

static void live(gsim_world *w)
{
    gsim_event e;
    bool healed = w->trouble != PROA_GROUP_SIM_TROUBLE;
    while (w->result->finding[0] == 0 && w->now_us < w->end_us && proa_gsim_take(w, &e)) {
        dispatch(w, &e);
        free(e.packet);
        if (++w->result->events > EVENTS_MAX)
            proa_gsim_find(w, "more than %d events", EVENTS_MAX);
        if (!healed && w->now_us > w->heal_us) {
            healed = true;
            heal_all(w);
        }
        if (w->now_us <= w->heal_us || w->result->converged_us != 0 || w->trouble == PROA_GROUP_SIM_CRASH)
            continue;
        if (converged(w))
            w->result->converged_us = w->now_us - w->heal_us;
        else if (w->now_us > w->heal_us + CONVERGED_US)
            proa_gsim_find(w, "not all ranks are in one view %d s after the trouble", CONVERGED_US / 1000000);
    }
    if (w->result->finding[0] == 0)
        check_end(w);
}

/* A life's times. */
static void plan(gsim_world *w)
{
    bool dense = proa_gsim_chance(w, 500); /* all at once, or a life of several stalls' length */
    w->troubled = w->trouble == PROA_GROUP_SIM_TROUBLE;
    w->trouble_until_us = dense ? 2000000 : 10000000;
    w->heal_us = w->trouble_until_us + proa_gsim_random(w, 4000000);
    if (!w->troubled)
        w->heal_us = 3000000;
    w->work_until_us = w->heal_us + 2000000;
    w->end_us = w->heal_us + CONVERGED_US + 3000000;
    if (!w->troubled)
        w->end_us = w->heal_us + 4000000;
    proa_gsim_experts_plan(w);
    w->watchdog = proa_gsim_chance(w, 500);
    w->missed_us = proa_gsim_chance(w, 500) ? 1000000 : 4000000;
    w->limits = (proa_group_limits){.collect_us = 300000,
                                    .view_us = 700000,
                                    .join_us = 600000,
                                    .form_us = 1000000,
                                    .status_us = 300000,
                                    .proposal_us = 2000000,
                                    .placement_us = 3000000,
                                    .shun_us = 3000000,
                                    .abandon_us = 4000000};
    if (w->troubled)
        proa_gsim_post(w, &(gsim_event){.kind = GSIM_TROUBLE}, 1000 + proa_gsim_random(w, 2000000));
    proa_gsim_post(w, &(gsim_event){.kind = GSIM_WATCH}, GSIM_WATCH_US);
}

static void clean_up(gsim_world *w)
{
    gsim_event e;
    while (proa_gsim_take(w, &e))
        free(e.packet);
    for (int32_t a = 0; a < w->ranks; a++) {
        for (int32_t b = 0; b < w->ranks; b++)
            proa_gsim_drop(w, a, b);
        proa_gsim_rank_stop(w, a);
    }
    proa_sim_queue_free(&w->queue);
    free(w->views);
    free(w->cuts);
    free(w);
}

void proa_group_sim_run(uint64_t seed, proa_group_sim_trouble trouble, int32_t ranks, FILE *log,
                        proa_group_sim_result *result)
{
    *result = (proa_group_sim_result){0};
    gsim_world *w = calloc(1, sizeof *w);
    if (w == NULL)
        abort();
    w->seed = seed;
    w->queue.event_bytes = sizeof(gsim_event);
    w->trouble = trouble;
    w->log = log;
    w->result = result;
    w->ranks = ranks > 0 ? ranks : 2 + (int32_t)proa_gsim_random(w, proa_gsim_chance(w, 700) ? 5 : 15);
    result->ranks = w->ranks;
    for (int32_t a = 0; a < w->ranks; a++)
        for (int32_t b = 0; b < w->ranks; b++)
            w->way[a][b].tail = &w->way[a][b].head;
    plan(w);
    for (int32_t r = 0; r < w->ranks; r++)
        proa_gsim_post(w, &(gsim_event){.kind = GSIM_START, .rank = r}, proa_gsim_random(w, 100000));
    if (trouble == PROA_GROUP_SIM_CRASH)
        proa_gsim_post(w, &(gsim_event){.kind = GSIM_KILL}, 1000000 + proa_gsim_random(w, 500000));
    live(w);
    clean_up(w);
}
