/* group_sim_rank.c - a rank: the shell that carries out what its machine says, its engine, and what must hold of them. */
#include "sim/group_sim_internal.h"

#include <stdlib.h>
#include <string.h>

static void post(gsim_world *w, int32_t rank, gsim_kind kind, int64_t delay_us)
{
    proa_gsim_post(w, &(gsim_event){.kind = kind, .rank = rank, .life = w->rank[rank].life}, delay_us);
}

/* ---- what must hold ---- */

static gsim_view *view_of(gsim_world *w, const proa_group_epoch *epoch)
{
    for (int32_t i = w->view_count - 1; i >= 0; i--)
        if (proa_group_epoch_equal(&w->views[i].epoch, epoch))
            return &w->views[i];
    return NULL;
}

static gsim_view *view_new(gsim_world *w, const proa_group_epoch *epoch, const proa_group_mask *mask)
{
    if (w->view_count == w->view_room) {
        w->view_room = w->view_room > 0 ? 2 * w->view_room : 32;
        w->views = realloc(w->views, (size_t)w->view_room * sizeof *w->views);
        if (w->views == NULL)
            abort();
    }
    gsim_view *v = &w->views[w->view_count++];
    memset(v, 0, sizeof *v);
    v->epoch = *epoch;
    v->mask = *mask;
    w->result->views++;
    return v;
}

static void check_install(gsim_world *w, int32_t rank, const proa_group_action *a)
{
    gsim_rank *r = &w->rank[rank];
    gsim_view *v = view_of(w, &a->shape.epoch);
    if (v == NULL)
        v = view_new(w, &a->shape.epoch, &a->to);
    if (!proa_group_mask_equal(&v->mask, &a->to))
        proa_gsim_find(w, "rank %d installs epoch %d.%d with another mask than others", rank,
                       (int)v->epoch.count, v->epoch.rank);
    if (!proa_group_mask_has(&a->to, rank))
        proa_gsim_find(w, "rank %d installs a view without itself", rank);
    if (v->lives[rank] != 0)
        proa_gsim_find(w, "rank %d installs epoch %d.%d again", rank, (int)v->epoch.count, v->epoch.rank);
    if (proa_group_epoch_compare(&a->shape.epoch, &r->epoch) <= 0)
        proa_gsim_find(w, "rank %d goes back to epoch %d.%d", rank, (int)v->epoch.count, v->epoch.rank);
    v->lives[rank] = r->life;
}

static bool same_shape(const proa_group_shape *a, const proa_group_shape *b)
{
    return a->step == b->step && a->windows == b->windows && a->extend == b->extend &&
           a->placement == b->placement;
}

/* The shape against those of the others, and their steps. */
static void check_others(gsim_world *w, int32_t rank, gsim_view *v, const proa_group_shape *s)
{
    int slot = (int)(s->step % 2);
    if (s->step > v->step + 1 || s->step + 1 < v->step) {
        proa_gsim_find(w, "rank %d begins step %d while others are in %d", rank, (int)s->step, (int)v->step);
        return;
    }
    if (s->step > v->step) {
        if (v->step > 0 && !proa_group_mask_equal(&v->begun[1 - slot], &v->mask))
            proa_gsim_find(w, "rank %d begins step %d before all have begun %d", rank, (int)s->step,
                           (int)v->step);
        v->step = s->step;
        v->shape[slot] = *s;
        v->begun[slot] = (proa_group_mask){{0}};
        v->experts[slot] = 0;
    }
    if (!same_shape(&v->shape[slot], s))
        proa_gsim_find(w, "rank %d has another shape of step %d than others", rank, (int)s->step);
    if (proa_group_mask_has(&v->begun[slot], rank))
        proa_gsim_find(w, "rank %d begins step %d again", rank, (int)s->step);
    proa_group_mask_add(&v->begun[slot], rank);
    w->result->steps += proa_group_mask_equal(&v->begun[slot], &v->mask);
}

static void check_begin(gsim_world *w, int32_t rank, const proa_group_action *a)
{
    gsim_rank *r = &w->rank[rank];
    const proa_group_shape *s = &a->shape;
    gsim_view *v = view_of(w, &s->epoch);
    if (v == NULL || !proa_group_epoch_equal(&s->epoch, &r->epoch) || !proa_group_mask_has(&r->view, rank)) {
        proa_gsim_find(w, "rank %d begins a step of a view that it has not installed", rank);
        return;
    }
    if (r->running)
        proa_gsim_find(w, "rank %d begins a step while another one runs", rank);
    if (s->step != r->done + 1)
        proa_gsim_find(w, "rank %d begins step %d after step %d", rank, (int)s->step, (int)r->done);
    if (s->placement < 1 || s->placement > r->ready || s->placement < r->in_force)
        proa_gsim_find(w, "rank %d is to run with placement %u, is ready for %u and had %u", rank,
                       s->placement, r->ready, r->in_force);
    if (s->windows < 1)
        proa_gsim_find(w, "step %d is for nobody", (int)s->step);
    if (r->promised && (!a->counted || s->windows < r->promise.windows || (r->promise.extend && !s->extend)))
        proa_gsim_find(w, "step %d is without what rank %d had proposed for it", (int)s->step, rank);
    check_others(w, rank, v, s);
    proa_gsim_experts_begin(w, rank, v, s);
}

/* ---- the engine ---- */

static void want_soon(gsim_world *w, int32_t rank, int64_t most_us)
{
    post(w, rank, GSIM_WANT, proa_gsim_random(w, (uint32_t)most_us + 1));
}

static void begin(gsim_world *w, int32_t rank, const proa_group_action *a)
{
    gsim_rank *r = &w->rank[rank];
    check_begin(w, rank, a);
    r->running = true;
    r->abandoned = r->computing = r->waits_long = r->promised = false;
    r->shape = a->shape;
    r->begun_us = w->now_us;
    w->result->switches += r->in_force != 0 && a->shape.placement > r->in_force;
    r->in_force = a->shape.placement;
    bool fits = r->work > 0 && r->windows <= a->shape.windows && (!r->extend || a->shape.extend);
    if (fits) {
        r->work--; /* given back when the step is abandoned */
        r->windows = 1 + (int32_t)proa_gsim_random(w, 4);
        r->extend = proa_gsim_chance(w, 200);
    }
    r->takes = fits;
    if (a->counted)
        want_soon(w, rank, proa_gsim_chance(w, 900) ? 200 : 1500);
    for (int32_t peer = 0; peer < w->ranks; peer++)
        proa_gsim_rows(w, peer);
}

/* Rows come from all members that have begun the step, over links that are not cut. */
void proa_gsim_rows(gsim_world *w, int32_t rank)
{
    gsim_rank *r = &w->rank[rank];
    if (!r->alive || !r->running || r->computing || r->abandoned || r->hung)
        return;
    const gsim_view *v = view_of(w, &r->shape.epoch);
    proa_group_mask late = {{0}};
    for (int32_t m = -1; (m = proa_group_mask_next(&v->mask, m)) >= 0;) {
        bool begun = v->step >= r->shape.step &&
                     (v->step > r->shape.step || proa_group_mask_has(&v->begun[r->shape.step % 2], m));
        if (!begun || w->way[m][rank].blocked > 0)
            proa_group_mask_add(&late, m);
    }
    if (proa_group_mask_empty(&late)) {
        r->computing = true;
        int64_t us = 200 + proa_gsim_random(w, proa_gsim_chance(w, 50) ? 20000 : 1500);
        proa_gsim_post(w,
                       &(gsim_event){.kind = GSIM_COMPUTED,
                                     .rank = rank,
                                     .life = r->life,
                                     .epoch = r->shape.epoch,
                                     .number = r->shape.step},
                       us);
        return;
    }
    proa_group_mask_remove(&late, rank);
    if (!r->stalled && !proa_group_mask_empty(&late) && w->now_us - r->begun_us > w->missed_us &&
        !r->waits_long) {
        r->waits_long = true;
        proa_gsim_log(w, "%d: all-to-all misses %d ranks, %d first", rank, proa_group_mask_count(&late),
                      proa_group_mask_lowest(&late));
        proa_group_missed(r->group, &late, &r->shape.epoch, w->now_us);
        proa_gsim_acted(w, rank);
    }
}

static void ended(gsim_world *w, int32_t rank, bool completed)
{
    gsim_rank *r = &w->rank[rank];
    r->running = false;
    if (!completed && r->takes)
        r->work++; /* done again */
    if (completed && proa_group_epoch_equal(&r->shape.epoch, &r->epoch)) {
        r->done++;
        proa_gsim_experts_ended(w, rank, &r->shape, r->takes);
    }
    w->result->abandoned += !completed;
    proa_group_ended(r->group, completed, w->now_us);
    proa_gsim_acted(w, rank);
}

/* ---- the shell ---- */

void proa_gsim_propose(gsim_world *w, int32_t rank)
{
    gsim_rank *r = &w->rank[rank];
    if (proa_group_state_of(r->group) != PROA_GROUP_MEMBER)
        return;
    proa_group_want want = {.placement = r->ready};
    if (r->work > 0) {
        want.windows = r->windows;
        want.extend = r->extend;
    }
    /* said for the first time after a step that used the last proposal up: it must be in the next shape */
    if (r->owes && !r->promised) {
        r->promised = want.windows > 0;
        r->promise = want;
    }
    r->owes = false;
    proa_group_propose(r->group, &want, w->now_us);
    proa_gsim_acted(w, rank);
}

static void install(gsim_world *w, int32_t rank, const proa_group_action *a)
{
    gsim_rank *r = &w->rank[rank];
    proa_gsim_log(w, "%d: installs epoch %d.%d of %d ranks", rank, (int)a->shape.epoch.count,
                  a->shape.epoch.rank, proa_group_mask_count(&a->to));
    check_install(w, rank, a);
    r->epoch = a->shape.epoch;
    r->view = a->to;
    r->done = 0;
    r->ready = r->in_force = 0;
    r->promised = r->owes = false;
    w->last_install_us = w->now_us;
    want_soon(w, rank, 200);
    proa_gsim_post(
        w, &(gsim_event){.kind = GSIM_LOADED, .rank = rank, .life = r->life, .epoch = r->epoch, .number = 1},
        proa_gsim_chance(w, 300) ? 0 : proa_gsim_random(w, 40000));
}

static void act(gsim_world *w, int32_t rank, const proa_group_action *a)
{
    gsim_rank *r = &w->rank[rank];
    switch (a->kind) {
    case PROA_GROUP_SEND:
        for (int32_t to = -1; (to = proa_group_mask_next(&a->to, to)) >= 0;)
            proa_gsim_send(w, rank, to, &a->message);
        break;
    case PROA_GROUP_BEGIN:
        begin(w, rank, a);
        r->owes = a->counted;
        break;
    case PROA_GROUP_ABANDON:
        proa_gsim_log(w, "%d: abandons step %d", rank, (int)a->shape.step);
        if (!r->running || r->abandoned)
            proa_gsim_find(w, "rank %d is to abandon a step that it does not run", rank);
        r->abandoned = true;
        if (!r->hung)
            post(w, rank, GSIM_LEFT, proa_gsim_random(w, 1000));
        break;
    case PROA_GROUP_INSTALL: install(w, rank, a); break;
    case PROA_GROUP_RESET:
        proa_gsim_log(w, "%d: resets", rank);
        w->result->resets++;
        r->work = 0;
        r->takes = false;
        r->view = (proa_group_mask){{0}};
        break;
    case PROA_GROUP_STUCK:
        proa_gsim_log(w, "%d: is stuck", rank);
        r->stuck = true;
        break;
    }
}

void proa_gsim_acted(gsim_world *w, int32_t rank)
{
    gsim_rank *r = &w->rank[rank];
    proa_group_action action;
    while (r->alive && proa_group_next(r->group, &action))
        act(w, rank, &action);
    if (!r->alive)
        return;
    if (r->stuck) {
        proa_gsim_crash(w, rank);
        return;
    }
    int64_t due = proa_group_deadline(r->group);
    if (due < w->now_us)
        due = w->now_us;
    if (r->tick_us > w->now_us && r->tick_us <= due)
        return;
    r->tick_us = due;
    post(w, rank, GSIM_TICK, due - w->now_us);
}

/* ---- processes ---- */

void proa_gsim_rank_start(gsim_world *w, int32_t rank)
{
    gsim_rank *r = &w->rank[rank];
    /* never the same twice, and no more often above the one before than below it */
    uint64_t life = (uint64_t)proa_gsim_random(w, 1000) << 32 | ((r->life & UINT32_MAX) + 1);
    proa_rebalance_free(r->experts);
    proa_group_free(r->group); /* of two starts that were due, the second one takes the place of the first */
    *r = (gsim_rank){.alive = true, .life = life, .windows = 1};
    r->group = proa_group_create(w->ranks, rank, life, &w->limits, w->now_us);
    if (r->group == NULL)
        abort();
    proa_gsim_experts_start(w, rank);
    proa_gsim_log(w, "%d: starts, life %llx", rank, (unsigned long long)life);
    post(w, rank, GSIM_TICK, 0);
    post(w, rank, GSIM_WORK, proa_gsim_random(w, 1000000));
}

void proa_gsim_rank_stop(gsim_world *w, int32_t rank)
{
    w->rank[rank].alive = false;
    proa_group_free(w->rank[rank].group);
    w->rank[rank].group = NULL;
    proa_rebalance_free(w->rank[rank].experts);
    w->rank[rank].experts = NULL;
}

void proa_gsim_crash(gsim_world *w, int32_t rank)
{
    w->result->crashes++;
    proa_gsim_log(w, "%d: crashes", rank);
    proa_gsim_rank_stop(w, rank);
    proa_gsim_crash_links(w, rank);
    int64_t pause = w->trouble == PROA_GROUP_SIM_CRASH ? 300000 : 20000;
    proa_gsim_post(w, &(gsim_event){.kind = GSIM_START, .rank = rank}, pause + proa_gsim_random(w, 3000000));
}

/* ---- events ---- */

static void ghost(gsim_world *w, const gsim_event *e)
{
    gsim_rank *r = &w->rank[e->rank];
    const gsim_way *way = &w->way[e->peer][e->rank];
    if (way->link == 0)
        return; /* the shell has no link that it could be of */
    bool old = e->packet->message.life != way->life;
    w->result->ghosts += old;
    proa_group_receive(r->group, &e->packet->message, w->now_us);
    proa_group_action action;
    if (old && proa_group_next(r->group, &action)) {
        proa_gsim_find(w, "a message of kind %d of an old life of rank %d moved rank %d",
                       e->packet->message.kind, e->peer, e->rank);
        act(w, e->rank, &action);
    }
    proa_gsim_acted(w, e->rank);
}

static void work(gsim_world *w, int32_t rank)
{
    gsim_rank *r = &w->rank[rank];
    if (w->now_us > w->work_until_us)
        return;
    r->work += 1 + (int32_t)proa_gsim_random(w, 20);
    post(w, rank, GSIM_WORK, proa_gsim_random(w, 4000000));
    proa_gsim_propose(w, rank);
}

void proa_gsim_rank_event(gsim_world *w, const gsim_event *e)
{
    gsim_rank *r = &w->rank[e->rank];
    switch (e->kind) {
    case GSIM_DELIVER: proa_gsim_deliver(w, e->peer, e->rank); break;
    case GSIM_GHOST: ghost(w, e); break;
    case GSIM_TICK:
        r->tick_us = 0;
        proa_group_tick(r->group, w->now_us);
        proa_gsim_acted(w, e->rank);
        break;
    case GSIM_EXPERTS_TICK: proa_gsim_experts_tick(w, e->rank); break;
    case GSIM_WANT: proa_gsim_propose(w, e->rank); break;
    case GSIM_COMPUTED:
        if (r->running && r->computing && r->shape.step == e->number && !r->hung &&
            proa_group_epoch_equal(&r->shape.epoch, &e->epoch))
            ended(w, e->rank, true);
        break;
    case GSIM_LEFT:
        if (r->running && r->abandoned)
            ended(w, e->rank, false);
        break;
    case GSIM_LOADED:
        if (!proa_group_epoch_equal(&e->epoch, &r->epoch) || e->number <= r->ready)
            break;
        proa_gsim_experts_loaded(w, e->rank, e->number);
        break;
    case GSIM_WORK: work(w, e->rank); break;
    case GSIM_RESUME:
        proa_gsim_log(w, "%d: goes on", e->rank);
        r->stalled = false;
        proa_gsim_resumed(w, e->rank);
        break;
    default: break;
    }
}
