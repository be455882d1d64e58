/* group.c - events come in, are given to the part that they concern, and actions are queued; drawn in group.h. */
#include "engine/group_internal.h"

#include "base/minmax.h"

#include <stdlib.h>

int proa_group_epoch_compare(const proa_group_epoch *a, const proa_group_epoch *b)
{
    if (a->count != b->count)
        return a->count < b->count ? -1 : 1;
    if (a->rank != b->rank)
        return a->rank < b->rank ? -1 : 1;
    return a->life == b->life ? 0 : a->life < b->life ? -1 : 1;
}

proa_group *proa_group_create(int32_t ranks, int32_t self, uint64_t life, const proa_group_limits *limits,
                              int64_t now_us)
{
    PROA_ASSERT(ranks >= 1 && ranks <= PROA_GROUP_RANKS_MAX);
    PROA_ASSERT(self >= 0 && self < ranks);
    PROA_ASSERT(life > 0);
    PROA_ASSERT(limits->view_us > limits->collect_us && limits->join_us > limits->collect_us);
    proa_group *g = calloc(1, sizeof *g);
    if (g == NULL)
        return NULL;
    g->ranks = ranks;
    g->self = self;
    g->life = life;
    g->limits = *limits;
    g->now_us = g->since_us = now_us;
    g->why = "it has just begun";
    g->why_rank = g->other = -1;
    g->shun_until_us = GROUP_NEVER;
    g->knock_us = now_us;
    g->status_us = now_us + limits->status_us;
    g->lead.waiting_us = g->steps.waiting_us = GROUP_NEVER;
    g->lives = calloc((size_t)ranks, sizeof *g->lives);
    g->misses = calloc((size_t)ranks, sizeof *g->misses);
    g->reports = calloc((size_t)ranks, sizeof *g->reports);
    g->degree = calloc((size_t)ranks, sizeof *g->degree);
    g->drawn_lives = calloc((size_t)ranks, sizeof *g->drawn_lives);
    g->lead.standing = calloc((size_t)ranks, sizeof *g->lead.standing);
    g->lead.want = calloc((size_t)ranks, sizeof *g->lead.want);
    if (g->lives == NULL || g->misses == NULL || g->reports == NULL || g->degree == NULL ||
        g->drawn_lives == NULL || g->lead.standing == NULL || g->lead.want == NULL) {
        proa_group_free(g);
        return NULL;
    }
    g->lives[self] = life;
    return g;
}

void proa_group_free(proa_group *g)
{
    if (g == NULL)
        return;
    free(g->lives);
    free(g->misses);
    free(g->reports);
    free(g->degree);
    free(g->drawn_lives);
    free(g->lead.standing);
    free(g->lead.want);
    free(g);
}

/* ---- actions ---- */

proa_group_action *proa_group_push(proa_group *g, proa_group_action_kind kind)
{
    PROA_ASSERT(g->action_count < GROUP_ACTIONS);
    proa_group_action *action = &g->actions[(g->action_first + g->action_count++) % GROUP_ACTIONS];
    action->kind = kind;
    return action;
}

proa_group_message *proa_group_send(proa_group *g, const proa_group_mask *to, proa_group_kind kind)
{
    proa_group_action *action = proa_group_push(g, PROA_GROUP_SEND);
    action->to = proa_group_mask_and(to, &g->up);
    if (proa_group_mask_empty(&action->to))
        g->action_count--; /* the place stays writable until the next push */
    bool of_rank = kind == PROA_GROUP_ASK || kind == PROA_GROUP_REPORT || kind == PROA_GROUP_JOIN;
    action->message = (proa_group_message){
        .kind = kind, .from = g->self, .life = g->life, .epoch = of_rank ? g->floor : g->epoch};
    return &action->message;
}

bool proa_group_next(proa_group *g, proa_group_action *action)
{
    if (g->action_count == 0)
        return false;
    *action = g->actions[g->action_first];
    g->action_first = (g->action_first + 1) % GROUP_ACTIONS;
    g->action_count--;
    return true;
}

/* ---- what is seen ---- */

proa_group_mask proa_group_seen(const proa_group *g)
{
    proa_group_mask seen = proa_group_mask_minus(&g->up, &g->doubt);
    seen = proa_group_mask_minus(&seen, &g->shun);
    proa_group_mask_add(&seen, g->self);
    return seen;
}

/* A peer is not seen any more. */
static void lose(proa_group *g, int32_t peer, const char *why)
{
    proa_group_mask_remove(&g->joiners, peer);
    bool of_view = proa_group_mask_has(&g->view, peer);
    switch (g->state) {
    case PROA_GROUP_OUTSIDE: break;
    case PROA_GROUP_KNOCKING:
        if (g->other == peer)
            proa_group_outside(g);
        break;
    case PROA_GROUP_REPORTING:
        if (g->other == peer && g->purpose == PROA_GROUP_FORM)
            proa_group_outside(g);
        else if (g->other == peer)
            proa_group_elect(g);
        else if (of_view)
            proa_group_report_to(g, g->other, g->purpose);
        break;
    case PROA_GROUP_COLLECTING: proa_group_collect_without(g, peer); break;
    case PROA_GROUP_MEMBER:
        if (of_view)
            proa_group_break(g, why, peer);
        else if (g->growing)
            proa_group_collect_without(g, peer);
        break;
    }
}

/* A peer is seen again while a view is made: it may still be in time. */
static void regain(proa_group *g, int32_t peer)
{
    bool forming = g->purpose == PROA_GROUP_FORM;
    bool of_view = proa_group_mask_has(&g->view, peer) && !proa_group_mask_has(&g->gone, peer);
    if (g->state == PROA_GROUP_REPORTING && (forming || of_view)) {
        proa_group_report_to(g, g->other, g->purpose);
    } else if (g->state == PROA_GROUP_COLLECTING && of_view) {
        proa_group_mask_add(&g->asked, peer);
        proa_group_mask to = proa_group_mask_of(peer);
        proa_group_send(g, &to, PROA_GROUP_ASK)->purpose = g->purpose;
    }
}

static void begin_event(proa_group *g, int64_t now_us)
{
    PROA_ASSERT(g->action_count == 0); /* the shell takes all actions between two events */
    PROA_ASSERT(now_us >= g->now_us);
    g->now_us = now_us;
}

void proa_group_link_up(proa_group *g, int32_t peer, uint64_t life, int64_t now_us)
{
    PROA_ASSERT(peer >= 0 && peer < g->ranks && peer != g->self);
    begin_event(g, now_us);
    if (proa_group_mask_has(&g->up, peer)) {
        proa_group_mask_remove(&g->up, peer);
        lose(g, peer, "its link was replaced");
    }
    proa_group_mask_add(&g->up, peer);
    proa_group_mask_remove(&g->doubt, peer);
    proa_group_mask_remove(&g->viewless, peer);
    if (life != g->lives[peer]) {
        g->lives[peer] = life;
        g->misses[peer] = 0;
        proa_group_mask_remove(&g->shun, peer);
        proa_group_mask_add(&g->pending.lost, peer);
        if (proa_group_mask_has(&g->view, peer)) {
            proa_group_mask_add(&g->gone, peer);
            lose(g, peer, "it was started again");
        }
    }
    regain(g, peer);
    proa_group_mask to = proa_group_mask_of(peer);
    proa_group_tell_status(g, &to);
}

void proa_group_link_down(proa_group *g, int32_t peer, uint64_t life, int64_t now_us)
{
    PROA_ASSERT(peer >= 0 && peer < g->ranks && peer != g->self);
    begin_event(g, now_us);
    if (life != g->lives[peer] || !proa_group_mask_has(&g->up, peer))
        return;
    proa_group_mask_remove(&g->up, peer);
    proa_group_mask_remove(&g->viewless, peer);
    lose(g, peer, "its link is down");
}

void proa_group_silent(proa_group *g, int32_t peer, int64_t now_us)
{
    PROA_ASSERT(peer >= 0 && peer < g->ranks && peer != g->self);
    begin_event(g, now_us);
    if (!proa_group_mask_has(&g->up, peer))
        return;
    proa_group_mask_add(&g->doubt, peer);
    lose(g, peer, "it makes no progress");
}

void proa_group_missed(proa_group *g, const proa_group_mask *peers, const proa_group_epoch *epoch,
                       int64_t now_us)
{
    PROA_ASSERT(!proa_group_mask_has(peers, g->self));
    begin_event(g, now_us);
    proa_group_mask missed = proa_group_mask_and(peers, &g->view);
    if (g->state == PROA_GROUP_MEMBER && proa_group_epoch_equal(epoch, &g->epoch) &&
        !proa_group_mask_empty(&missed))
        proa_group_suspect(g, "an all-to-all missed it", &missed);
}

/* ---- messages ---- */

/* This rank coordinates the view of `epoch`, which it has installed or is about to. */
static bool leads(const proa_group *g, const proa_group_epoch *epoch)
{
    const proa_group_epoch *known = g->pending.there ? &g->pending.epoch : &g->epoch;
    return proa_group_epoch_equal(epoch, &g->lead.epoch) && proa_group_epoch_equal(epoch, known);
}

/* A step message of another view: its sender believes that this rank is in it. */
static void refuse_step(proa_group *g, int32_t from)
{
    proa_group_mask to = proa_group_mask_of(from);
    if (!proa_group_mask_has(&g->view, from))
        proa_group_tell_status(g, &to);
}

void proa_group_receive(proa_group *g, const proa_group_message *m, int64_t now_us)
{
    begin_event(g, now_us);
    if (m->from < 0 || m->from >= g->ranks || m->from == g->self)
        return;
    if (m->life != g->lives[m->from] || !proa_group_mask_has(&g->up, m->from))
        return; /* of an old life, or without a link */
    if (m->epoch.count > g->highest)
        g->highest = m->epoch.count;
    if (proa_group_mask_has(&g->doubt, m->from)) {
        proa_group_mask_remove(&g->doubt, m->from);
        regain(g, m->from);
    }
    switch (m->kind) {
    case PROA_GROUP_PROPOSE:
        if (leads(g, &m->epoch)) {
            proa_group_lead_proposed(g, m->from, m->step, &m->want);
            proa_group_lead_give(g);
        } else {
            refuse_step(g, m->from);
        }
        break;
    case PROA_GROUP_SHAPE:
        if (proa_group_epoch_equal(&m->epoch, &g->epoch) && m->from == g->epoch.rank)
            proa_group_steps_shaped(g, m);
        else
            refuse_step(g, m->from);
        break;
    case PROA_GROUP_ASK: proa_group_asked(g, m); break;
    case PROA_GROUP_REPORT: proa_group_reported(g, m); break;
    case PROA_GROUP_VIEW: proa_group_viewed(g, m); break;
    case PROA_GROUP_STATUS: proa_group_status(g, m); break;
    case PROA_GROUP_JOIN: proa_group_knocked(g, m); break;
    case PROA_GROUP_KINDS: break;
    }
}

/* ---- time ---- */

static void tick_state(proa_group *g)
{
    if (g->state == PROA_GROUP_COLLECTING) {
        proa_group_collect_settle(g);
    } else if (g->state == PROA_GROUP_REPORTING && g->now_us >= proa_group_view_deadline(g)) {
        proa_group_mask_add(&g->doubt, g->other);
        if (g->purpose == PROA_GROUP_FORM)
            proa_group_outside(g);
        else
            proa_group_elect(g);
    }
}

void proa_group_tick(proa_group *g, int64_t now_us)
{
    begin_event(g, now_us);
    if (now_us >= g->shun_until_us) {
        g->shun = (proa_group_mask){{0}};
        g->shun_until_us = GROUP_NEVER;
    }
    tick_state(g);
    proa_group_steps_tick(g);
    proa_group_join_tick(g);
}

int64_t proa_group_deadline(const proa_group *g)
{
    int64_t due = proa_min_i64(g->shun_until_us, g->status_us);
    switch (g->state) {
    case PROA_GROUP_OUTSIDE:
        /* its own turn first, then doubt in the one whose turn it is */
        due = proa_min_i64(due, g->now_us < g->since_us + g->limits.form_us
                                    ? g->since_us + g->limits.form_us
                                    : g->since_us + g->limits.form_us + g->limits.view_us);
        break;
    case PROA_GROUP_KNOCKING: due = proa_min_i64(due, g->since_us + g->limits.join_us); break;
    case PROA_GROUP_REPORTING:
    case PROA_GROUP_COLLECTING: due = proa_min_i64(due, proa_group_view_deadline(g)); break;
    case PROA_GROUP_MEMBER:
        if (g->growing)
            due = proa_min_i64(due, g->growing_us + g->limits.collect_us);
        break;
    }
    return proa_min_i64(due, proa_group_steps_deadline(g));
}

/* ---- questions ---- */

proa_group_state proa_group_state_of(const proa_group *g)
{
    return g->state;
}

proa_group_epoch proa_group_epoch_of(const proa_group *g)
{
    return g->epoch;
}

const proa_group_mask *proa_group_view_of(const proa_group *g)
{
    return &g->view;
}

const char *proa_group_why(const proa_group *g, int32_t *rank)
{
    *rank = g->why_rank;
    return g->why;
}
