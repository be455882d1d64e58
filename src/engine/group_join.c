/* group_join.c - ranks that are outside a view: how they hear of it, yield to it, and are taken in; "Views" in group.h. */
#include "engine/group_internal.h"

void proa_group_tell_status(proa_group *g, const proa_group_mask *to)
{
    proa_group_message *m = proa_group_send(g, to, PROA_GROUP_STATUS);
    m->inside = !proa_group_mask_empty(&g->view);
    m->epoch = m->inside ? g->epoch : g->floor;
    m->mask = g->view;
}

void proa_group_outside(proa_group *g)
{
    PROA_ASSERT(proa_group_mask_empty(&g->view));
    g->state = PROA_GROUP_OUTSIDE;
    g->since_us = g->now_us;
    g->knock_us = g->now_us + g->limits.status_us;
    g->word_owed = false;
}

/* ---- yielding ---- */

static bool better(const proa_group_mask *a, const proa_group_epoch *a_epoch, const proa_group_mask *b,
                   const proa_group_epoch *b_epoch)
{
    int32_t counts[] = {proa_group_mask_count(a), proa_group_mask_count(b)};
    int32_t lowest[] = {proa_group_mask_lowest(a), proa_group_mask_lowest(b)};
    if (counts[0] != counts[1])
        return counts[0] > counts[1];
    if (lowest[0] != lowest[1])
        return lowest[0] < lowest[1];
    return proa_group_epoch_compare(a_epoch, b_epoch) > 0;
}

/* The sender's view is one that this rank should be in rather than in its own, and could be. */
static bool attracts(const proa_group *g, const proa_group_message *m)
{
    proa_group_mask seen = proa_group_seen(g);
    if (!m->inside || proa_group_mask_has(&m->mask, g->self) || !proa_group_mask_within(&m->mask, &seen))
        return false;
    if (proa_group_mask_empty(&g->view))
        return g->state == PROA_GROUP_OUTSIDE;
    proa_group_mask mine = g->view;
    if (g->state != PROA_GROUP_MEMBER)
        mine = proa_group_rest(g);
    /* a view that shares members with this one is either past here or past there: `gone` tells */
    return !proa_group_mask_meets(&m->mask, &mine) && better(&m->mask, &m->epoch, &mine, &g->epoch);
}

static void leave_view(proa_group *g, int32_t for_rank)
{
    g->why = "a better view is there";
    g->why_rank = for_rank;
    g->pending.there = false;
    g->growing = false;
    g->view = g->gone = g->joiners = (proa_group_mask){{0}};
    proa_group_steps_abandon(g);
    proa_group_push(g, PROA_GROUP_RESET);
    proa_group_tell_status(g, &g->up);
}

static void knock(proa_group *g, int32_t rank)
{
    if (!proa_group_mask_empty(&g->view))
        leave_view(g, rank);
    g->state = PROA_GROUP_KNOCKING;
    g->since_us = g->now_us;
    g->other = rank;
    g->word_owed = true;
    proa_group_answer(g);
}

/* ---- status ---- */

/* Members of this view that are in another one now, by what one of them says. */
static proa_group_mask departed(const proa_group *g, const proa_group_message *m)
{
    proa_group_mask nobody = {{0}};
    if (!proa_group_mask_has(&g->view, m->from))
        return nobody;
    int order = proa_group_epoch_compare(&m->epoch, &g->epoch);
    if (order < 0 || (order == 0 && m->inside))
        return nobody; /* it has not heard of this view yet; or it is in it */
    if (!m->inside)
        return proa_group_mask_of(m->from);
    if (proa_group_mask_has(&m->mask, g->self))
        return nobody; /* VIEW is on its way, or whoever sent it learns that it is lost */
    return proa_group_mask_and(&m->mask, &g->view);
}

static void without_gone(proa_group *g, int32_t from)
{
    switch (g->state) {
    case PROA_GROUP_MEMBER: proa_group_break(g, "it is in another view", from); break;
    case PROA_GROUP_COLLECTING:
        g->asked = proa_group_mask_minus(&g->asked, &g->gone);
        g->reported = proa_group_mask_minus(&g->reported, &g->gone);
        proa_group_collect_settle(g);
        break;
    case PROA_GROUP_REPORTING:
        if (proa_group_mask_has(&g->gone, g->other))
            proa_group_elect(g);
        break;
    case PROA_GROUP_OUTSIDE:
    case PROA_GROUP_KNOCKING: break;
    }
}

/* What the view's rest hears, when the rank is in none. */
static void status_outside(proa_group *g, const proa_group_message *m)
{
    bool leads = m->inside && m->epoch.rank == m->from;
    if (g->state == PROA_GROUP_KNOCKING && g->other == m->from && !leads) {
        proa_group_outside(g); /* refused */
    } else if (g->state == PROA_GROUP_COLLECTING && m->inside) {
        proa_group_collect_without(g, m->from);
    } else if (g->state == PROA_GROUP_OUTSIDE && attracts(g, m)) {
        g->since_us = g->now_us; /* there is something to wait for */
        if (g->now_us >= g->knock_us)
            knock(g, m->epoch.rank);
    }
    proa_group_form(g);
}

void proa_group_status(proa_group *g, const proa_group_message *m)
{
    if (m->inside && (m->epoch.rank < 0 || !proa_group_mask_has(&m->mask, m->from) ||
                      proa_group_mask_next(&m->mask, g->ranks - 1) >= 0 || m->epoch.rank >= g->ranks ||
                      !proa_group_mask_has(&m->mask, m->epoch.rank)))
        return;
    proa_group_mask_remove(&g->viewless, m->from);
    if (!m->inside)
        proa_group_mask_add(&g->viewless, m->from);
    if (proa_group_mask_empty(&g->view)) {
        status_outside(g, m);
        return;
    }
    proa_group_mask left = departed(g, m);
    left = proa_group_mask_minus(&left, &g->gone);
    g->gone = proa_group_mask_or(&g->gone, &left);
    /* A broken view is weighed by what is left of it. */
    bool parted = !proa_group_mask_empty(&left);
    if (parted && g->state == PROA_GROUP_MEMBER && m->inside) {
        proa_group_mask rest = proa_group_rest(g), seen = proa_group_seen(g);
        if (proa_group_mask_within(&m->mask, &seen) && better(&m->mask, &m->epoch, &rest, &g->epoch)) {
            knock(g, m->epoch.rank);
            return;
        }
    }
    if (attracts(g, m))
        knock(g, m->epoch.rank);
    else if (parted)
        without_gone(g, m->from);
}

/* ---- the first view ---- */

void proa_group_form(proa_group *g)
{
    if (g->state != PROA_GROUP_OUTSIDE)
        return;
    proa_group_mask seen = proa_group_seen(g);
    proa_group_mask others = proa_group_mask_and(&g->viewless, &seen), all = others;
    proa_group_mask_add(&all, g->self);
    int32_t lowest = proa_group_mask_lowest(&all);
    int64_t waited = g->now_us - g->since_us;
    if (lowest == g->self && (proa_group_mask_count(&all) == g->ranks || waited >= g->limits.form_us)) {
        proa_group_collect(g, &others, PROA_GROUP_FORM);
    } else if (lowest != g->self && waited >= g->limits.form_us + g->limits.view_us) {
        proa_group_mask_add(&g->doubt, lowest);
        g->since_us = g->now_us;
    }
}

/* ---- growing ---- */

void proa_group_knocked(proa_group *g, const proa_group_message *m)
{
    proa_group_mask from = proa_group_mask_of(m->from);
    if (proa_group_mask_has(&g->view, m->from) && !proa_group_mask_has(&g->gone, m->from)) {
        if (proa_group_epoch_compare(&m->epoch, &g->epoch) < 0)
            return; /* said before this view had arrived there */
        g->gone = proa_group_mask_or(&g->gone, &from);
        without_gone(g, m->from);
    }
    bool leads = g->state == PROA_GROUP_MEMBER && g->epoch.rank == g->self;
    bool will_lead = g->state == PROA_GROUP_COLLECTING && g->purpose == PROA_GROUP_REPAIR;
    if (!leads && !will_lead) {
        proa_group_tell_status(g, &from);
        return;
    }
    proa_group_mask_add(&g->joiners, m->from);
    proa_group_grow(g);
}

void proa_group_grow(proa_group *g)
{
    proa_group_mask seen = proa_group_seen(g);
    proa_group_mask joiners = proa_group_mask_and(&g->joiners, &seen);
    joiners = proa_group_mask_minus(&joiners, &g->view);
    if (g->state != PROA_GROUP_MEMBER || g->epoch.rank != g->self || g->growing || g->pending.there ||
        proa_group_mask_empty(&joiners))
        return;
    g->growing = true;
    g->growing_us = g->now_us;
    g->reported = (proa_group_mask){{0}};
    g->asked = proa_group_mask_or(&g->view, &joiners);
    proa_group_mask_remove(&g->asked, g->self);
    proa_group_send(g, &g->asked, PROA_GROUP_ASK)->purpose = PROA_GROUP_GROW;
}

/* The view, with those who see all of it and are seen by all. */
static proa_group_mask grown(proa_group *g)
{
    proa_group_mask mask = g->view, allowed = proa_group_seen(g);
    proa_group_mask joiners = proa_group_mask_and(&g->joiners, &g->reported);
    g->reports[g->self] = allowed;
    for (int32_t r = -1; (r = proa_group_mask_next(&g->view, r)) >= 0;) {
        if (r != g->self && !proa_group_mask_has(&g->reported, r))
            return mask;
        allowed = proa_group_mask_and(&allowed, &g->reports[r]);
    }
    if (!proa_group_mask_within(&mask, &allowed))
        return mask; /* it is not whole: somebody will say so */
    for (int32_t r = -1; (r = proa_group_mask_next(&joiners, r)) >= 0;) {
        if (!proa_group_mask_has(&allowed, r) || !proa_group_mask_within(&mask, &g->reports[r]))
            continue;
        proa_group_mask_add(&mask, r);
        allowed = proa_group_mask_and(&allowed, &g->reports[r]);
    }
    return mask;
}

void proa_group_grow_settle(proa_group *g)
{
    if (g->state != PROA_GROUP_MEMBER || !g->growing)
        return;
    if (!proa_group_mask_within(&g->asked, &g->reported) && g->now_us - g->growing_us < g->limits.collect_us)
        return;
    proa_group_mask mask = grown(g);
    g->growing = false;
    g->joiners = proa_group_mask_minus(&g->joiners, &g->asked); /* who is not taken in knocks again */
    if (!proa_group_mask_equal(&mask, &g->view)) {
        uint64_t after = proa_group_steps_last(g);
        proa_group_epoch before = g->epoch;
        g->pending = (group_pending){.there = true, .mask = mask, .after = after};
        g->pending.epoch = g->floor = proa_group_draw(g, &mask, &before, after);
        proa_group_steps_go(g);
    }
    proa_group_grow(g);
}

/* ---- time ---- */

void proa_group_join_tick(proa_group *g)
{
    if (g->state == PROA_GROUP_KNOCKING && g->now_us - g->since_us >= g->limits.join_us)
        proa_group_outside(g);
    proa_group_form(g);
    proa_group_grow_settle(g);
    if (g->now_us >= g->status_us) {
        g->status_us = g->now_us + g->limits.status_us;
        proa_group_mask others = proa_group_mask_minus(&g->up, &g->view);
        proa_group_tell_status(g, &others);
    }
}
