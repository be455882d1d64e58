/* group_view.c - views are broken, collected for, chosen and installed; "Views" in group.h.
 *
 * A fault costs two message delays at those who see it at once: REPORT to the coordinator, VIEW back. ASK is for those who do not. A
 * report also says that no step runs any more at its sender, so that an engine that hangs keeps its rank out of the next view.
 */
#include "engine/group_internal.h"

/* ---- whole no more ---- */

proa_group_mask proa_group_rest(const proa_group *g)
{
    proa_group_mask seen = proa_group_seen(g);
    proa_group_mask rest = proa_group_mask_and(&g->view, &seen);
    rest = proa_group_mask_minus(&rest, &g->gone);
    proa_group_mask_add(&rest, g->self);
    return rest;
}

/* Who is to collect for the repair, as far as this rank can see: the one who drew the view, else the lowest. */
static int32_t believed(const proa_group *g)
{
    proa_group_mask rest = proa_group_rest(g);
    return proa_group_mask_has(&rest, g->epoch.rank) ? g->epoch.rank : proa_group_mask_lowest(&rest);
}

void proa_group_elect(proa_group *g)
{
    int32_t rank = believed(g);
    if (rank != g->self) {
        proa_group_report_to(g, rank, PROA_GROUP_REPAIR);
        return;
    }
    proa_group_mask others = proa_group_rest(g);
    proa_group_mask_remove(&others, g->self);
    proa_group_collect(g, &others, PROA_GROUP_REPAIR);
}

/* Out of MEMBER, not yet into another state. */
static void dissolve(proa_group *g, const char *why, int32_t rank)
{
    PROA_ASSERT(g->state == PROA_GROUP_MEMBER);
    g->why = why;
    g->why_rank = rank;
    g->pending.there = false;
    g->growing = false;
    proa_group_steps_abandon(g);
}

void proa_group_break(proa_group *g, const char *why, int32_t rank)
{
    dissolve(g, why, rank);
    proa_group_elect(g);
}

void proa_group_suspect(proa_group *g, const char *why, const proa_group_mask *ranks)
{
    for (int32_t r = -1; (r = proa_group_mask_next(ranks, r)) >= 0;) {
        if (++g->misses[r] < GROUP_MISSES)
            continue;
        g->misses[r] = 0;
        proa_group_mask_add(&g->shun, r);
        g->shun_until_us = g->now_us + g->limits.shun_us;
    }
    proa_group_break(g, why, proa_group_mask_lowest(ranks));
}

/* ---- reporting ---- */

void proa_group_answer(proa_group *g)
{
    if (!g->word_owed || g->steps.running)
        return;
    proa_group_mask to = proa_group_mask_of(g->other);
    if (g->state == PROA_GROUP_REPORTING) {
        proa_group_message *m = proa_group_send(g, &to, PROA_GROUP_REPORT);
        m->purpose = g->purpose;
        m->mask = proa_group_seen(g);
    } else if (g->state == PROA_GROUP_KNOCKING) {
        proa_group_send(g, &to, PROA_GROUP_JOIN);
    }
    g->word_owed = false;
}

void proa_group_report_to(proa_group *g, int32_t rank, proa_group_purpose purpose)
{
    if (g->state != PROA_GROUP_REPORTING || g->other != rank)
        g->since_us = g->now_us;
    g->state = PROA_GROUP_REPORTING;
    g->purpose = purpose;
    g->other = rank;
    g->word_owed = true;
    proa_group_answer(g);
}

/* ---- collecting ---- */

void proa_group_collect(proa_group *g, const proa_group_mask *asked, proa_group_purpose purpose)
{
    g->state = PROA_GROUP_COLLECTING;
    g->since_us = g->now_us;
    g->purpose = purpose;
    g->word_owed = false;
    g->asked = *asked;
    g->reported = (proa_group_mask){{0}};
    proa_group_send(g, asked, PROA_GROUP_ASK)->purpose = purpose;
    proa_group_collect_settle(g);
}

void proa_group_collect_without(proa_group *g, int32_t rank)
{
    proa_group_mask_remove(&g->asked, rank);
    proa_group_mask_remove(&g->reported, rank);
    proa_group_collect_settle(g);
    proa_group_grow_settle(g);
}

/* Ranks of `pool` that all see each other, this one first. Greedy: those with most mutual sight in the pool first, of equal ones the
 * lowest. (The largest such set is NP-hard to find. Where one link is cut, or one rank from several, this finds it.) */
static proa_group_mask choose(proa_group *g, const proa_group_mask *pool)
{
    for (int32_t r = -1; (r = proa_group_mask_next(pool, r)) >= 0;) {
        proa_group_mask row = proa_group_mask_and(&g->reports[r], pool);
        g->degree[r] = 0;
        for (int32_t s = -1; (s = proa_group_mask_next(&row, s)) >= 0;)
            g->degree[r] += proa_group_mask_has(&g->reports[s], r);
    }
    proa_group_mask chosen = proa_group_mask_of(g->self), left = *pool, allowed = g->reports[g->self];
    proa_group_mask_remove(&left, g->self);
    for (;;) {
        int32_t best = -1;
        left = proa_group_mask_and(&left, &allowed);
        for (int32_t r = -1; (r = proa_group_mask_next(&left, r)) >= 0;)
            if (best < 0 || g->degree[r] > g->degree[best])
                best = r;
        if (best < 0)
            return chosen;
        proa_group_mask_remove(&left, best);
        if (!proa_group_mask_within(&chosen, &g->reports[best]))
            continue;
        proa_group_mask_add(&chosen, best);
        allowed = proa_group_mask_and(&allowed, &g->reports[best]);
    }
}

proa_group_epoch proa_group_draw(proa_group *g, const proa_group_mask *mask, const proa_group_epoch *before,
                                 uint64_t step)
{
    proa_group_epoch epoch = {.count = ++g->highest, .rank = g->self, .life = g->life};
    int32_t count = 0;
    for (int32_t i = 0; i < g->action_count;
         i++) { /* else its lives would be overwritten before they are sent */
        const proa_group_action *queued = &g->actions[(g->action_first + i) % GROUP_ACTIONS];
        PROA_ASSERT(queued->kind != PROA_GROUP_SEND || queued->message.kind != PROA_GROUP_VIEW);
    }
    for (int32_t r = -1; (r = proa_group_mask_next(mask, r)) >= 0;)
        g->drawn_lives[count++] = g->lives[r];
    proa_group_mask to = *mask;
    proa_group_mask_remove(&to, g->self);
    proa_group_message *m = proa_group_send(g, &to, PROA_GROUP_VIEW);
    m->epoch = epoch;
    m->mask = *mask;
    m->before = *before;
    m->step = step;
    m->lives = g->drawn_lives;
    proa_group_lead_begin(g, &epoch, mask);
    return epoch;
}

/* A first view waits longer, for all ranks to see each other: links come up one by one then. */
static int64_t patience_us(const proa_group *g)
{
    return g->purpose == PROA_GROUP_FORM ? g->limits.form_us : g->limits.collect_us;
}

void proa_group_collect_settle(proa_group *g)
{
    if (g->state != PROA_GROUP_COLLECTING || g->steps.running)
        return;
    bool late = g->now_us - g->since_us >= patience_us(g);
    proa_group_mask missing = proa_group_mask_minus(&g->asked, &g->reported);
    if (!late && !proa_group_mask_empty(&missing))
        return;
    proa_group_mask seen = proa_group_seen(g);
    proa_group_mask pool = proa_group_mask_and(&g->reported, &seen);
    proa_group_mask_add(&pool, g->self);
    g->reports[g->self] = seen;
    proa_group_mask mask = choose(g, &pool), nobody = {{0}};
    if (!late && g->purpose == PROA_GROUP_FORM && !proa_group_mask_equal(&mask, &pool))
        return;
    g->doubt = proa_group_mask_or(&g->doubt, &missing);
    proa_group_epoch none = {0}, epoch = proa_group_draw(g, &mask, &none, 0);
    proa_group_install(g, &epoch, &mask, &nobody);
}

int64_t proa_group_view_deadline(const proa_group *g)
{
    if (g->state == PROA_GROUP_REPORTING)
        return g->since_us + g->limits.view_us + (g->purpose == PROA_GROUP_FORM ? g->limits.form_us : 0);
    if (g->state != PROA_GROUP_COLLECTING)
        return GROUP_NEVER;
    int64_t due = g->since_us + patience_us(g);
    /* past it, the end of this rank's own step decides, which abandon_us bounds */
    return g->steps.running && g->now_us >= due ? GROUP_NEVER : due;
}

/* ---- installing ---- */

void proa_group_install(proa_group *g, const proa_group_epoch *epoch, const proa_group_mask *mask,
                        const proa_group_mask *lost)
{
    proa_group_steps_abandon(g); /* of an earlier epoch: BEGIN waits for its end */
    g->state = PROA_GROUP_MEMBER;
    g->since_us = g->now_us;
    g->epoch = g->floor = *epoch;
    g->view = *mask;
    g->gone = *lost;
    g->pending.there = false;
    g->growing = false;
    g->word_owed = false;
    g->joiners = proa_group_mask_minus(&g->joiners, mask);
    if (epoch->count > g->highest)
        g->highest = epoch->count;
    proa_group_steps_install(g);
    proa_group_action *action = proa_group_push(g, PROA_GROUP_INSTALL);
    action->to = *mask;
    action->shape = (proa_group_shape){.epoch = *epoch};
    proa_group_mask outside = proa_group_mask_minus(&g->up, mask);
    proa_group_tell_status(g, &outside);
    g->status_us = g->now_us + g->limits.status_us;
    proa_group_mask rest = proa_group_rest(g);
    if (!proa_group_mask_equal(&rest, mask)) {
        rest = proa_group_mask_minus(mask, &rest);
        proa_group_break(g, "it was lost before the view came", proa_group_mask_lowest(&rest));
        return;
    }
    proa_group_grow(g);
}

/* Is it meant for this process? `lost`: members that are in another life here than at the one who drew it. */
static bool view_fits(const proa_group *g, const proa_group_message *m, proa_group_mask *lost)
{
    if (m->epoch.count == 0 || m->epoch.rank != m->from || m->epoch.life != m->life || m->lives == NULL)
        return false;
    if (!proa_group_mask_has(&m->mask, g->self) || !proa_group_mask_has(&m->mask, m->from) ||
        proa_group_mask_next(&m->mask, g->ranks - 1) >= 0)
        return false;
    int32_t i = 0;
    *lost = (proa_group_mask){{0}};
    for (int32_t r = -1; (r = proa_group_mask_next(&m->mask, r)) >= 0; i++) {
        if (m->lives[i] == g->lives[r])
            continue;
        if (r == g->self)
            return false;
        proa_group_mask_add(lost, r);
    }
    return true;
}

void proa_group_viewed(proa_group *g, const proa_group_message *m)
{
    proa_group_mask lost, from = proa_group_mask_of(m->from);
    if (!view_fits(g, m, &lost))
        return;
    if (proa_group_epoch_compare(&m->epoch, &g->floor) <= 0) {
        proa_group_tell_status(g, &from); /* this rank is in a later one */
        return;
    }
    if (g->state == PROA_GROUP_MEMBER && proa_group_epoch_equal(&m->before, &g->epoch) &&
        m->step == proa_group_steps_last(g)) {
        g->growing = false;
        g->floor = m->epoch;
        g->pending = (group_pending){
            .there = true, .epoch = m->epoch, .mask = m->mask, .lost = lost, .after = m->step};
        proa_group_steps_go(g);
        return;
    }
    if (g->state == PROA_GROUP_MEMBER)
        dissolve(g, "a later view came", m->from);
    proa_group_install(g, &m->epoch, &m->mask, &lost);
}

/* ---- questions and answers ---- */

static void asked_to_grow(proa_group *g, const proa_group_message *m)
{
    const proa_group_epoch *known = g->pending.there ? &g->pending.epoch : &g->epoch;
    proa_group_mask to = proa_group_mask_of(m->from);
    bool member = g->state == PROA_GROUP_MEMBER && proa_group_epoch_equal(&m->epoch, known);
    bool knocking = g->state == PROA_GROUP_KNOCKING && g->other == m->from && !g->word_owed;
    if (!member && !knocking) {
        proa_group_tell_status(g, &to);
        return;
    }
    proa_group_message *answer = proa_group_send(g, &to, PROA_GROUP_REPORT);
    answer->purpose = PROA_GROUP_GROW;
    answer->mask = proa_group_seen(g);
}

static void asked_to_form(proa_group *g, const proa_group_message *m)
{
    proa_group_mask to = proa_group_mask_of(m->from);
    if (g->state == PROA_GROUP_KNOCKING || !proa_group_mask_empty(&g->view)) {
        proa_group_tell_status(g, &to);
        return;
    }
    int32_t present = g->state == PROA_GROUP_REPORTING    ? g->other
                      : g->state == PROA_GROUP_COLLECTING ? g->self
                                                          : g->ranks;
    if (m->from <= present) /* else that one is asked too, and yields */
        proa_group_report_to(g, m->from, PROA_GROUP_FORM);
}

static void asked_to_repair(proa_group *g, const proa_group_message *m)
{
    proa_group_mask to = proa_group_mask_of(m->from);
    bool of_view = proa_group_mask_has(&g->view, m->from) && !proa_group_mask_has(&g->gone, m->from);
    bool later = proa_group_epoch_compare(&m->epoch, &g->epoch) > 0;
    if (proa_group_mask_empty(&g->view) || (!of_view && !later)) {
        proa_group_tell_status(g, &to);
        return;
    }
    if (g->state == PROA_GROUP_MEMBER)
        dissolve(g, "its view is being repaired", m->from);
    if (!of_view) /* a view that has this rank in it was installed there, and never came here */
        proa_group_report_to(g, m->from, PROA_GROUP_REPAIR);
    else if (believed(g) == m->from)
        proa_group_report_to(g, m->from, PROA_GROUP_REPAIR);
    else if (g->state == PROA_GROUP_MEMBER)
        proa_group_elect(g);
}

void proa_group_asked(proa_group *g, const proa_group_message *m)
{
    switch (m->purpose) {
    case PROA_GROUP_REPAIR: asked_to_repair(g, m); break;
    case PROA_GROUP_GROW: asked_to_grow(g, m); break;
    case PROA_GROUP_FORM: asked_to_form(g, m); break;
    case PROA_GROUP_PURPOSES: break;
    }
}

static void take_report(proa_group *g, const proa_group_message *m)
{
    g->reports[m->from] = m->mask;
    proa_group_mask_add(&g->reported, m->from);
    proa_group_collect_settle(g);
    proa_group_grow_settle(g);
}

static void reported_to_repair(proa_group *g, const proa_group_message *m)
{
    proa_group_mask to = proa_group_mask_of(m->from);
    if (!proa_group_mask_has(&g->view, m->from) || proa_group_mask_has(&g->gone, m->from)) {
        proa_group_tell_status(g, &to);
        return;
    }
    if (g->state == PROA_GROUP_MEMBER) {
        if (proa_group_epoch_compare(&m->epoch, &g->epoch) < 0)
            return; /* said before this view had arrived there */
        proa_group_break(g, "it says that the view is not whole", m->from);
    }
    if (g->state == PROA_GROUP_COLLECTING) {
        proa_group_mask_add(&g->asked, m->from);
        take_report(g, m);
    }
}

void proa_group_reported(proa_group *g, const proa_group_message *m)
{
    bool asked = proa_group_mask_has(&g->asked, m->from);
    proa_group_mask to = proa_group_mask_of(m->from);
    switch (m->purpose) {
    case PROA_GROUP_REPAIR: reported_to_repair(g, m); break;
    case PROA_GROUP_GROW:
        if (g->growing && asked)
            take_report(g, m);
        break;
    case PROA_GROUP_FORM:
        if (g->state == PROA_GROUP_COLLECTING && g->purpose == PROA_GROUP_FORM && asked)
            take_report(g, m);
        else if (!proa_group_mask_has(&g->view, m->from))
            proa_group_tell_status(g, &to);
        break;
    case PROA_GROUP_PURPOSES: break;
    }
}
