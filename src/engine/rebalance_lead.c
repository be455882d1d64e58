/* rebalance_lead.c - the coordinator: gathers loads, plans, and moves layers chunk by chunk. */
#include "engine/rebalance_internal.h"

#include "engine/expert_balance.h"

#include <string.h>

void proa_rebalance_lead_install(proa_rebalance *r)
{
    rebalance_lead *lead = &r->lead;
    lead->state = REBALANCE_RESTS;
    lead->round = 0;
    lead->told = r->next.total;
}

static void rest(proa_rebalance *r)
{
    r->lead.state = REBALANCE_RESTS;
}

/* ---- moving ---- */

static void tell(proa_rebalance *r, const proa_group_mask *to)
{
    r->lead.to = *to;
    r->lead.told = proa_group_mask_empty(to) ? r->next.total : 0;
    r->lead.paced = false;
    r->lead.since_us = r->now_us;
}

/* The next chunk of layers becomes the next version, here and in what is sent. */
static void begin_chunk(proa_rebalance *r)
{
    rebalance_lead *lead = &r->lead;
    rebalance_next *next = &r->next;
    int32_t left = lead->moving_count - lead->moved, chunk = r->options.layers_per_chunk;
    proa_group_mask self = proa_group_mask_of(r->options.self);
    lead->state = REBALANCE_MOVES;
    lead->ready = (proa_group_mask){{0}};
    next->total = chunk > 0 && chunk < left ? chunk : left;
    for (int32_t i = 0; i < next->total; i++) {
        int32_t layer = lead->moving[lead->moved + i];
        next->layers[i] = layer;
        memcpy(next->placement + (ptrdiff_t)i * r->physical, lead->target + (ptrdiff_t)layer * r->physical,
               (size_t)r->physical * sizeof *next->placement);
    }
    next->digest = proa_rebalance_digest_after(r);
    proa_rebalance_complete(r);
    proa_group_mask others = proa_group_mask_minus(&r->members, &self);
    tell(r, &others);
}

/* ---- planning ---- */

/* Of the fullest rank's load: a smaller gain may be no more than the rounding of sums in another order. */
static const double least_gain = 1e-6;

/* Of all layers: the sums of mean and largest loads of ranks under what is in force. */
static void measure(const proa_rebalance *r, const double *load, const int32_t *placement, double sums[2])
{
    const proa_expert_shape *s = &r->options.shape;
    proa_expert_shape shape = *s;
    double of_rank[PROA_EXPERT_RANKS_MAX];
    shape.physical = r->physical;
    proa_expert_rank_load(&shape, load, placement, of_rank);
    int32_t live = 0;
    for (int32_t i = 0; i < s->ranks; i++) /* the dead have nothing and count for nothing */
        if (r->live[i])
            of_rank[live++] = of_rank[i];
    proa_expert_balance b = proa_expert_balance_of(of_rank, live);
    sums[0] += b.mean;
    sums[1] += b.max;
}

static double share(const double sums[2])
{
    return sums[1] > 0 ? sums[0] / sums[1] : 1;
}

/* One layer: where its experts would go, and whether that is better. */
static void plan_layer(proa_rebalance *r, int32_t layer)
{
    rebalance_lead *lead = &r->lead;
    const double *load = lead->sum + (ptrdiff_t)layer * r->options.shape.experts;
    const int32_t *now = r->current + (ptrdiff_t)layer * r->physical;
    int32_t *target = lead->target + (ptrdiff_t)layer * r->physical;
    const proa_eplb_placement to = {.physical_to_logical = target};
    proa_expert_shape shape = r->options.shape;
    double before[2] = {0, 0}, after[2] = {0, 0};
    proa_error err;
    shape.layers = 1;
    shape.physical = r->physical;
    measure(r, load, now, before);
    bool better = false;
    if (before[1] > before[0] &&
        proa_eplb_place(&shape, r->options.algorithm, r->live_count < shape.ranks ? r->live : NULL, load, &to,
                        &err) == PROA_OK) {
        measure(r, load, target, after);
        better = after[1] < before[1] * (1 - least_gain);
    }
    if (better)
        lead->moving[lead->moving_count++] = layer;
    lead->after[0] += better ? after[0] : before[0];
    lead->after[1] += better ? after[1] : before[1];
}

/* What the balancer does in a layer, about. */
static int64_t layer_cost(const proa_rebalance *r)
{
    const proa_expert_shape *s = &r->options.shape;
    return (int64_t)r->physical * r->live_count + (int64_t)(r->physical - s->experts + 1) * s->experts;
}

/* A piece of the plan. */
static void plan_some(proa_rebalance *r)
{
    rebalance_lead *lead = &r->lead;
    int32_t layers = r->options.shape.layers;
    for (int64_t cost = 0; lead->planned < layers && cost < REBALANCE_PLAN_COST; cost += layer_cost(r))
        plan_layer(r, lead->planned++);
    if (lead->planned < layers)
        return;
    if (lead->moving_count > 0) {
        begin_chunk(r);
        return;
    }
    r->due_skipped = true;
    rest(r);
}

/* ---- gathering ---- */

static void begin_round(proa_rebalance *r, uint64_t step)
{
    rebalance_lead *lead = &r->lead;
    lead->state = REBALANCE_GATHERS;
    lead->round = step;
    lead->since_us = r->now_us;
    lead->missing = r->live_count;
    memset(lead->heard, 0, (size_t)r->options.shape.ranks * sizeof *lead->heard);
    memset(lead->sum, 0, rebalance_cells(r) * sizeof *lead->sum);
}

/* All that will come has come. */
static void decide(proa_rebalance *r)
{
    rebalance_lead *lead = &r->lead;
    const proa_expert_shape *s = &r->options.shape;
    lead->before[0] = lead->before[1] = 0;
    for (int32_t l = 0; l < s->layers; l++)
        measure(r, lead->sum + (ptrdiff_t)l * s->experts, r->current + (ptrdiff_t)l * r->physical,
                lead->before);
    if (lead->before[1] <= 0 || 2 * lead->missing > r->live_count) {
        rest(r);
        return;
    }
    if (r->options.threshold < 1 && share(lead->before) > r->options.threshold) {
        memcpy(lead->after, lead->before, sizeof lead->after);
        r->due_skipped = true;
        rest(r);
        return;
    }
    lead->state = REBALANCE_PLANS;
    lead->planned = lead->moving_count = lead->moved = 0;
    lead->after[0] = lead->after[1] = 0;
    plan_some(r);
}

/* Of each member its first load since the round began counts, also one of a later step: with rounds that are short, members are not all
 * in the same one. */
void proa_rebalance_lead_load(proa_rebalance *r, const proa_rebalance_message *m)
{
    rebalance_lead *lead = &r->lead;
    const proa_expert_shape *s = &r->options.shape;
    if (lead->state == REBALANCE_RESTS && m->step > lead->round && m->first == 0)
        begin_round(r, m->step);
    if (lead->state != REBALANCE_GATHERS || m->step < lead->round)
        return;
    int32_t *heard = &lead->heard[m->from];
    bool fits = m->total == s->layers ? m->count > 0 && m->count <= s->layers - *heard
                                      : m->total == 0 && m->count == 0;
    if (*heard < 0 || m->first != *heard || !fits || (*heard > 0 && m->step != lead->heard_step[m->from]))
        return; /* said twice, or after something that was lost */
    lead->heard_step[m->from] = m->step;
    double *to = lead->sum + (ptrdiff_t)m->first * s->experts;
    for (int64_t i = 0; i < (int64_t)m->count * s->experts; i++)
        to[i] += m->load[i];
    *heard += m->count;
    if (*heard < m->total)
        return;
    *heard = -1;
    if (--lead->missing == 0)
        decide(r);
}

/* ---- while it moves ---- */

void proa_rebalance_lead_ready(proa_rebalance *r, int32_t from, uint32_t version)
{
    if (r->lead.state == REBALANCE_MOVES && version == r->version + 1)
        proa_group_mask_add(&r->lead.ready, from);
}

/* A step has ended: one with the chunk's version, if that is in force. */
void proa_rebalance_lead_ended(proa_rebalance *r)
{
    rebalance_lead *lead = &r->lead;
    if (!rebalance_leads(r) || lead->state != REBALANCE_MOVES || r->next.state != REBALANCE_NONE)
        return;
    lead->moved += r->next.total;
    if (lead->moved < lead->moving_count) {
        begin_chunk(r);
        return;
    }
    r->due_done = true;
    rest(r);
}

/* ---- time ---- */

void proa_rebalance_lead_tick(proa_rebalance *r)
{
    rebalance_lead *lead = &r->lead;
    switch (lead->state) {
    case REBALANCE_RESTS: break;
    case REBALANCE_GATHERS:
        if (r->now_us - lead->since_us >= r->options.gather_us)
            decide(r);
        break;
    case REBALANCE_PLANS: plan_some(r); break;
    case REBALANCE_MOVES:
        lead->paced = false;
        if (lead->told == r->next.total && r->now_us - lead->since_us >= r->options.resend_us &&
            r->next.state != REBALANCE_NONE) {
            proa_group_mask late = proa_group_mask_minus(&r->members, &lead->ready);
            proa_group_mask_remove(&late, r->options.self);
            tell(r, &late);
        }
        break;
    }
}

int64_t proa_rebalance_lead_deadline(const proa_rebalance *r)
{
    const rebalance_lead *lead = &r->lead;
    switch (lead->state) {
    case REBALANCE_RESTS: return REBALANCE_NEVER;
    case REBALANCE_GATHERS: return lead->since_us + r->options.gather_us;
    case REBALANCE_PLANS: return r->now_us;
    case REBALANCE_MOVES:
        if (r->next.state == REBALANCE_NONE)
            return REBALANCE_NEVER; /* in force: the step's end is waited for */
        return lead->told < r->next.total ? r->now_us : lead->since_us + r->options.resend_us;
    }
    return REBALANCE_NEVER;
}

/* ---- actions ---- */

/* A part of the chunk: one a tick, so that links keep up. */
static bool next_part(proa_rebalance *r, proa_rebalance_action *a)
{
    rebalance_lead *lead = &r->lead;
    const rebalance_next *next = &r->next;
    int32_t left = next->total - lead->told;
    if (lead->state != REBALANCE_MOVES || next->state == REBALANCE_NONE || left == 0 || lead->paced)
        return false;
    int32_t most = PROA_REBALANCE_PART_BYTES / (2 * r->physical + 2);
    int32_t count = most < 1 ? 1 : most < left ? most : left;
    a->kind = PROA_REBALANCE_SEND;
    a->to = lead->to;
    a->message.kind = PROA_REBALANCE_PLAN;
    a->message.version = r->version + 1;
    a->message.first = lead->told;
    a->message.count = count;
    a->message.total = next->total;
    a->message.digest = next->digest;
    a->message.physical = r->physical;
    a->message.layers = next->layers + lead->told;
    a->message.placement = next->placement + (ptrdiff_t)lead->told * r->physical;
    lead->told += count;
    lead->paced = true;
    return true;
}

bool proa_rebalance_lead_next(proa_rebalance *r, proa_rebalance_action *a)
{
    if (next_part(r, a))
        return true;
    if (!r->due_done && !r->due_skipped)
        return false;
    a->kind = r->due_done ? PROA_REBALANCE_DONE : PROA_REBALANCE_SKIPPED;
    a->before = share(r->lead.before);
    a->after = share(r->lead.after);
    a->layers = r->due_done ? r->lead.moving_count : 0;
    r->due_done = r->due_skipped = false;
    return true;
}
