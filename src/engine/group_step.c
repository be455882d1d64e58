/* group_step.c - one shape a step: proposals at the coordinator, steps at each rank. "Steps" in group.h has the rules. */
#include "engine/group_internal.h"

/* ---- the coordinator ---- */

void proa_group_lead_begin(proa_group *g, const proa_group_epoch *epoch, const proa_group_mask *members)
{
    group_lead *lead = &g->lead;
    lead->epoch = *epoch;
    lead->members = *members;
    lead->next = 1;
    lead->awaited = proa_group_mask_count(members);
    lead->active = 0;
    lead->waiting_us = GROUP_NEVER;
    for (int32_t r = 0; r < g->ranks; r++) {
        lead->standing[r] = GROUP_AWAITED;
        lead->want[r] = (proa_group_want){0};
    }
}

void proa_group_lead_proposed(proa_group *g, int32_t from, uint64_t step, const proa_group_want *want)
{
    group_lead *lead = &g->lead;
    if (want->windows < 0 || !proa_group_mask_has(&lead->members, from))
        return;
    group_standing before = lead->standing[from];
    if (before == GROUP_AWAITED && step != lead->next)
        return; /* said before the shape that used its proposal up had arrived there */
    lead->awaited -= before == GROUP_AWAITED;
    lead->active -= before == GROUP_ACTIVE;
    uint32_t placement = lead->want[from].placement;
    lead->want[from] = *want;
    if (placement > want->placement)
        lead->want[from].placement = placement; /* never falls */
    lead->standing[from] = want->windows > 0 ? GROUP_ACTIVE : GROUP_IDLE;
    lead->active += want->windows > 0;
    if (lead->active > 0 && lead->waiting_us == GROUP_NEVER)
        lead->waiting_us = g->now_us;
}

/* The most, the any and the least of what is wanted. */
static proa_group_want merge(const group_lead *lead)
{
    proa_group_want all = {.placement = UINT32_MAX};
    for (int32_t r = -1; (r = proa_group_mask_next(&lead->members, r)) >= 0;) {
        const proa_group_want *one = &lead->want[r];
        if (one->windows > all.windows)
            all.windows = one->windows;
        all.extend |= one->windows > 0 && one->extend;
        if (one->placement < all.placement)
            all.placement = one->placement;
    }
    return all;
}

void proa_group_lead_give(proa_group *g)
{
    group_lead *lead = &g->lead;
    if (g->state != PROA_GROUP_MEMBER || !proa_group_epoch_equal(&lead->epoch, &g->epoch))
        return; /* not installed yet, or not any more */
    if (lead->awaited > 0 || lead->active == 0)
        return;
    proa_group_want shape = merge(lead);
    if (shape.placement == 0)
        return; /* somebody has no placement of this epoch */
    proa_group_mask counted = {{0}};
    for (int32_t r = -1; (r = proa_group_mask_next(&lead->members, r)) >= 0;) {
        if (lead->standing[r] != GROUP_ACTIVE)
            continue;
        proa_group_mask_add(&counted, r);
        lead->standing[r] = GROUP_AWAITED;
    }
    lead->awaited = lead->active;
    lead->active = 0;
    lead->waiting_us = GROUP_NEVER;
    proa_group_message own = {.kind = PROA_GROUP_SHAPE,
                              .from = g->self,
                              .epoch = lead->epoch,
                              .step = lead->next++,
                              .want = shape,
                              .counted = proa_group_mask_has(&counted, g->self)};
    for (int used_up = 1; used_up >= 0; used_up--) {
        proa_group_mask to = used_up ? counted : proa_group_mask_minus(&lead->members, &counted);
        proa_group_message *m = proa_group_send(g, &to, PROA_GROUP_SHAPE);
        m->step = own.step;
        m->want = shape;
        m->counted = used_up;
    }
    proa_group_steps_shaped(g, &own);
}

/* Somebody keeps the others waiting. */
static void lead_tick(proa_group *g)
{
    group_lead *lead = &g->lead;
    if (g->state != PROA_GROUP_MEMBER || lead->waiting_us == GROUP_NEVER ||
        !proa_group_epoch_equal(&lead->epoch, &g->epoch))
        return;
    int64_t waited = g->now_us - lead->waiting_us;
    proa_group_mask silent = {{0}}, unready = {{0}};
    for (int32_t r = -1; (r = proa_group_mask_next(&lead->members, r)) >= 0;) {
        if (r != g->self && lead->standing[r] == GROUP_AWAITED && waited >= g->limits.proposal_us)
            proa_group_mask_add(&silent, r);
        else if (r != g->self && lead->want[r].placement == 0 && waited >= g->limits.placement_us)
            proa_group_mask_add(&unready, r);
    }
    if (!proa_group_mask_empty(&silent) || !proa_group_mask_empty(&unready)) {
        bool mute = !proa_group_mask_empty(&silent);
        proa_group_mask both = proa_group_mask_or(&silent, &unready);
        proa_group_suspect(
            g, mute ? "it does not say what it wants" : "it is not ready for a placement of the experts",
            &both);
        return;
    }
    if (waited >= (lead->awaited > 0 ? g->limits.proposal_us : g->limits.placement_us))
        lead->waiting_us = g->now_us; /* it is this rank itself: its own watchdog's affair */
}

/* ---- each rank ---- */

uint64_t proa_group_steps_last(const proa_group *g)
{
    const group_steps *s = &g->steps;
    bool running = s->running && proa_group_epoch_equal(&s->shape.epoch, &g->epoch);
    return s->done + (running ? 1 : 0) + (uint64_t)s->held;
}

void proa_group_steps_install(proa_group *g)
{
    group_steps *s = &g->steps;
    s->done = 0;
    s->held = 0;
    s->owed = true;
    s->sent = (proa_group_want){0};
    s->waiting_us = GROUP_NEVER;
}

void proa_group_steps_shaped(proa_group *g, const proa_group_message *m)
{
    group_steps *s = &g->steps;
    if (g->state != PROA_GROUP_MEMBER || m->step != proa_group_steps_last(g) + 1 || s->held == GROUP_HELD)
        return;
    s->counted[s->held] = m->counted;
    s->ahead[s->held++] = (proa_group_shape){.epoch = m->epoch,
                                             .step = m->step,
                                             .windows = m->want.windows,
                                             .extend = m->want.extend,
                                             .placement = m->want.placement};
    if (s->waiting_us != GROUP_NEVER)
        s->waiting_us = m->counted ? GROUP_NEVER : g->now_us;
    proa_group_steps_go(g);
}

void proa_group_steps_go(proa_group *g)
{
    group_steps *s = &g->steps;
    if (g->state != PROA_GROUP_MEMBER || s->running)
        return;
    if (s->held > 0) {
        proa_group_action *action = proa_group_push(g, PROA_GROUP_BEGIN);
        action->shape = s->shape = s->ahead[0];
        action->counted = s->counted[0];
        s->owed |= s->counted[0];
        s->running = true;
        s->abandoned = false;
        s->ahead[0] = s->ahead[1];
        s->counted[0] = s->counted[1];
        s->held--;
    } else if (g->pending.there && s->done == g->pending.after) {
        group_pending next = g->pending;
        proa_group_install(g, &next.epoch, &next.mask, &next.lost);
    }
}

void proa_group_steps_abandon(proa_group *g)
{
    group_steps *s = &g->steps;
    s->held = 0;
    s->waiting_us = GROUP_NEVER;
    if (!s->running || s->abandoned)
        return;
    s->abandoned = true;
    s->abandoned_us = g->now_us;
    proa_group_push(g, PROA_GROUP_ABANDON)->shape = s->shape;
}

static bool same_want(const proa_group_want *a, const proa_group_want *b)
{
    return a->windows == b->windows && a->extend == b->extend && a->placement == b->placement;
}

void proa_group_propose(proa_group *g, const proa_group_want *want, int64_t now_us)
{
    PROA_ASSERT(want->windows >= 0);
    PROA_ASSERT(g->action_count == 0);
    PROA_ASSERT(now_us >= g->now_us);
    g->now_us = now_us;
    group_steps *s = &g->steps;
    if (g->state != PROA_GROUP_MEMBER || g->pending.there)
        return; /* to be said after INSTALL */
    for (int32_t i = 0; i < s->held; i++)
        if (s->counted[i])
            return; /* to be said when that step has begun */
    if (!s->owed && same_want(want, &s->sent))
        return;
    PROA_ASSERT(want->placement >= s->sent.placement);
    s->owed = false;
    s->sent = *want;
    if (want->windows == 0)
        s->waiting_us = GROUP_NEVER;
    else if (s->waiting_us == GROUP_NEVER)
        s->waiting_us = now_us;
    uint64_t step = proa_group_steps_last(g) + 1;
    if (g->epoch.rank == g->self) {
        proa_group_lead_proposed(g, g->self, step, want);
        proa_group_lead_give(g);
        return;
    }
    proa_group_mask to = proa_group_mask_of(g->epoch.rank);
    proa_group_message *m = proa_group_send(g, &to, PROA_GROUP_PROPOSE);
    m->step = step;
    m->want = *want;
}

void proa_group_ended(proa_group *g, bool completed, int64_t now_us)
{
    PROA_ASSERT(g->action_count == 0);
    PROA_ASSERT(now_us >= g->now_us);
    g->now_us = now_us;
    group_steps *s = &g->steps;
    PROA_ASSERT(s->running);
    PROA_ASSERT(completed || s->abandoned);
    s->running = false;
    if (g->state != PROA_GROUP_MEMBER || !proa_group_epoch_equal(&s->shape.epoch, &g->epoch)) {
        proa_group_answer(g);
        proa_group_collect_settle(g);
        proa_group_steps_go(g);
        return;
    }
    s->done++;
    for (int32_t r = 0; r < g->ranks; r++)
        g->misses[r] = 0;
    proa_group_steps_go(g);
}

/* This rank wants a step, none runs, and the coordinator gives none. */
static bool starved(const proa_group *g)
{
    const group_steps *s = &g->steps;
    return g->state == PROA_GROUP_MEMBER && g->epoch.rank != g->self && !s->running && s->held == 0 &&
           s->waiting_us != GROUP_NEVER;
}

void proa_group_steps_tick(proa_group *g)
{
    group_steps *s = &g->steps;
    if (s->running && s->abandoned && s->abandoned_us != GROUP_NEVER &&
        g->now_us - s->abandoned_us >= g->limits.abandon_us) {
        s->abandoned_us = GROUP_NEVER;
        proa_group_push(g, PROA_GROUP_STUCK)->shape = s->shape;
    }
    lead_tick(g);
    if (starved(g) &&
        g->now_us - s->waiting_us >= g->limits.proposal_us + g->limits.placement_us + g->limits.view_us) {
        proa_group_mask coordinator = proa_group_mask_of(g->epoch.rank);
        proa_group_suspect(g, "it gives no steps", &coordinator);
    }
}

int64_t proa_group_steps_deadline(const proa_group *g)
{
    const group_steps *s = &g->steps;
    const group_lead *lead = &g->lead;
    int64_t due = GROUP_NEVER;
    if (s->running && s->abandoned && s->abandoned_us != GROUP_NEVER)
        due = s->abandoned_us + g->limits.abandon_us;
    if (starved(g)) {
        int64_t at = s->waiting_us + g->limits.proposal_us + g->limits.placement_us + g->limits.view_us;
        due = at < due ? at : due;
    }
    if (g->state == PROA_GROUP_MEMBER && lead->waiting_us != GROUP_NEVER &&
        proa_group_epoch_equal(&lead->epoch, &g->epoch)) {
        int64_t at = lead->waiting_us + (lead->awaited > 0 ? g->limits.proposal_us : g->limits.placement_us);
        due = at < due ? at : due;
    }
    return due;
}
