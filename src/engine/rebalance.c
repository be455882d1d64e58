/* rebalance.c - events, the version that comes next, and what is said of the own load; drawn in rebalance.h. */
#include "engine/rebalance_internal.h"

#include "base/digest.h"

#include <stdlib.h>
#include <string.h>

static bool make_tables(proa_rebalance *r)
{
    const proa_expert_shape *s = &r->options.shape;
    size_t layers = (size_t)s->layers, ranks = (size_t)s->ranks, slots = layers * (size_t)s->physical;
    r->live = calloc(ranks, sizeof *r->live);
    r->current = calloc(slots, sizeof *r->current);
    r->digests = calloc(layers, sizeof *r->digests);
    r->next.layers = calloc(layers, sizeof *r->next.layers);
    r->next.there = calloc(layers, sizeof *r->next.there);
    r->next.placement = calloc(slots, sizeof *r->next.placement);
    r->lead.heard = calloc(ranks, sizeof *r->lead.heard);
    r->lead.heard_step = calloc(ranks, sizeof *r->lead.heard_step);
    r->lead.sum = calloc(rebalance_cells(r), sizeof *r->lead.sum);
    r->lead.target = calloc(slots, sizeof *r->lead.target);
    r->lead.moving = calloc(layers, sizeof *r->lead.moving);
    r->window = calloc(rebalance_cells(r), sizeof *r->window);
    r->own = calloc(rebalance_cells(r), sizeof *r->own);
    return r->live != NULL && r->current != NULL && r->digests != NULL && r->next.layers != NULL &&
           r->next.there != NULL && r->next.placement != NULL && r->lead.heard != NULL &&
           r->lead.heard_step != NULL && r->lead.sum != NULL && r->lead.target != NULL &&
           r->lead.moving != NULL && r->window != NULL && r->own != NULL;
}

proa_rebalance *proa_rebalance_create(const proa_rebalance_options *options)
{
    PROA_ASSERT(options->iterations >= 1);
    PROA_ASSERT(options->layers_per_chunk >= 0);
    PROA_ASSERT(options->self >= 0 && options->self < options->shape.ranks);
    PROA_ASSERT(options->shape.ranks <= PROA_GROUP_RANKS_MAX);
    proa_rebalance *r = calloc(1, sizeof *r);
    if (r == NULL)
        return NULL;
    r->options = *options;
    r->said = options->shape.layers;
    if (!make_tables(r)) {
        proa_rebalance_free(r);
        return NULL;
    }
    return r;
}

void proa_rebalance_free(proa_rebalance *r)
{
    if (r == NULL)
        return;
    free(r->live);
    free(r->current);
    free(r->digests);
    free(r->next.layers);
    free(r->next.there);
    free(r->next.placement);
    free(r->lead.heard);
    free(r->lead.heard_step);
    free(r->lead.sum);
    free(r->lead.target);
    free(r->lead.moving);
    free(r->window);
    free(r->own);
    free(r);
}

/* ---- the view and its placement ---- */

static uint64_t layer_digest(const proa_rebalance *r, int32_t layer, const int32_t *placement)
{
    return proa_digest(placement, (size_t)r->physical * sizeof *placement, (uint64_t)layer);
}

uint64_t proa_rebalance_digest_after(const proa_rebalance *r)
{
    uint64_t sum = 0;
    for (int32_t l = 0; l < r->options.shape.layers; l++)
        sum += r->digests[l];
    for (int32_t i = 0; i < r->next.total; i++)
        sum += layer_digest(r, r->next.layers[i], r->next.placement + (ptrdiff_t)i * r->physical) -
               r->digests[r->next.layers[i]];
    return sum;
}

void proa_rebalance_install(proa_rebalance *r, const proa_group_epoch *epoch, const proa_group_mask *members,
                            int32_t physical, const int32_t *placement, int64_t now_us)
{
    PROA_ASSERT(physical <= r->options.shape.physical);
    r->now_us = now_us;
    r->epoch = *epoch;
    r->members = *members;
    r->live_count = proa_group_mask_count(members);
    for (int32_t i = 0; i < r->options.shape.ranks; i++)
        r->live[i] = proa_group_mask_has(members, i);
    r->physical = physical;
    r->version = 1;
    memcpy(r->current, placement, (size_t)r->options.shape.layers * (size_t)physical * sizeof *r->current);
    for (int32_t l = 0; l < r->options.shape.layers; l++)
        r->digests[l] = layer_digest(r, l, placement + (ptrdiff_t)l * physical);
    r->next.state = REBALANCE_NONE;
    r->said = r->options.shape.layers;
    r->says_nothing = false;
    r->due_prepare = r->due_say = r->due_ready = r->due_done = r->due_skipped = r->due_differs = false;
    proa_rebalance_lead_install(r);
}

proa_rebalance_moves proa_rebalance_begin(proa_rebalance *r, uint32_t version)
{
    proa_rebalance_moves moves = {0};
    rebalance_next *next = &r->next;
    if (version == r->version)
        return moves;
    PROA_ASSERT(version == r->version + 1); /* the coordinator sends none before the last one is in force */
    PROA_ASSERT(next->state == REBALANCE_READY);
    for (int32_t i = 0; i < next->total; i++) {
        const int32_t *from = next->placement + (ptrdiff_t)i * r->physical;
        int32_t layer = next->layers[i];
        memcpy(r->current + (ptrdiff_t)layer * r->physical, from, (size_t)r->physical * sizeof *from);
        r->digests[layer] = layer_digest(r, layer, from);
    }
    r->version = version;
    next->state = REBALANCE_NONE;
    return (proa_rebalance_moves){next->total, r->physical, next->layers, next->placement};
}

/* ---- the own load ---- */

static void count_step(proa_rebalance *r, uint64_t step, const uint32_t *counts)
{
    const proa_rebalance_options *o = &r->options;
    uint64_t left =
        (uint64_t)o->iterations - 1 - (step + (uint64_t)o->iterations - 1) % (uint64_t)o->iterations;
    if (counts == NULL || (o->window > 0 && left >= (uint64_t)o->window))
        return;
    r->any = true;
    for (size_t i = 0; i < rebalance_cells(r); i++)
        r->window[i] += counts[i];
}

/* What was counted becomes what is said. After the first step of a view what was said in an earlier one counts too. */
static void close_window(proa_rebalance *r, bool keep)
{
    for (size_t i = 0; i < rebalance_cells(r); i++) {
        uint64_t sum = r->window[i] + (keep ? r->own[i] : 0);
        r->own[i] = sum < UINT32_MAX ? (uint32_t)sum : UINT32_MAX;
        r->window[i] = 0;
    }
    r->own_any = r->any || (keep && r->own_any);
    r->any = false;
}

/* The coordinator's own goes no way. */
static void say_load(proa_rebalance *r, uint64_t step)
{
    int32_t layers = r->options.shape.layers;
    r->own_step = step;
    if (rebalance_leads(r)) {
        proa_rebalance_lead_load(r, &(proa_rebalance_message){.kind = PROA_REBALANCE_LOAD,
                                                              .from = r->options.self,
                                                              .step = step,
                                                              .count = r->own_any ? layers : 0,
                                                              .total = r->own_any ? layers : 0,
                                                              .load = r->own});
        return;
    }
    r->said = r->own_any ? 0 : layers;
    r->says_nothing = !r->own_any;
}

void proa_rebalance_ended(proa_rebalance *r, uint64_t step, const uint32_t *counts, int64_t now_us)
{
    r->now_us = now_us;
    if (r->epoch.count == 0)
        return;
    count_step(r, step, counts);
    proa_rebalance_lead_ended(r);
    if (step != 1 && step % (uint64_t)r->options.iterations != 0)
        return;
    close_window(r, step == 1);
    say_load(r, step);
}

static void load_part(proa_rebalance *r, proa_rebalance_message *m)
{
    int32_t layers = r->options.shape.layers, experts = r->options.shape.experts;
    int32_t most = PROA_REBALANCE_PART_BYTES / (int32_t)(sizeof *r->own * (size_t)experts);
    int32_t count = layers - r->said < most ? layers - r->said : most < 1 ? 1 : most;
    m->kind = PROA_REBALANCE_LOAD;
    m->step = r->own_step;
    if (r->says_nothing) {
        r->says_nothing = false;
        return;
    }
    m->total = layers;
    m->first = r->said;
    m->count = count;
    m->load = r->own + (ptrdiff_t)r->said * experts;
    r->said += count;
}

/* ---- the version that comes next ---- */

/* Each expert has a slot at a live rank, and no slot anything else. */
static bool is_placement(const proa_rebalance *r, const int32_t *placement)
{
    const proa_expert_shape *s = &r->options.shape;
    bool found[PROA_EXPERTS_MAX] = {false};
    int32_t each = r->physical / s->ranks, count = 0;
    for (int32_t p = 0; p < r->physical; p++) {
        int32_t expert = placement[p];
        if (expert == PROA_EXPERT_NONE)
            continue;
        if (expert < 0 || expert >= s->experts || !r->live[p / each])
            return false;
        count += !found[expert];
        found[expert] = true;
    }
    return count == s->experts;
}

void proa_rebalance_complete(proa_rebalance *r)
{
    rebalance_next *next = &r->next;
    bool good = proa_rebalance_digest_after(r) == next->digest;
    for (int32_t i = 0; i < next->total && good; i++)
        good = is_placement(r, next->placement + (ptrdiff_t)i * r->physical);
    next->state = good ? REBALANCE_PREPARING : REBALANCE_REFUSED;
    r->due_prepare = good;
    r->due_differs = !good;
}

static void begin_receiving(proa_rebalance *r, const proa_rebalance_message *m)
{
    rebalance_next *next = &r->next;
    next->state = REBALANCE_RECEIVING;
    next->total = m->total;
    next->received = 0;
    next->digest = m->digest;
    memset(next->there, 0, (size_t)r->options.shape.layers * sizeof *next->there);
}

static void planned(proa_rebalance *r, const proa_rebalance_message *m)
{
    rebalance_next *next = &r->next;
    const proa_expert_shape *s = &r->options.shape;
    if (m->version == r->version || (m->version == r->version + 1 && next->state == REBALANCE_READY)) {
        r->due_ready = m->version > 1; /* its coordinator has not heard so */
        return;
    }
    if (m->version != r->version + 1 || m->physical != r->physical || m->total < 1 || m->total > s->layers ||
        m->first < 0 || m->count < 0 || m->count > m->total - m->first)
        return;
    if (next->state == REBALANCE_NONE)
        begin_receiving(r, m);
    if (next->state != REBALANCE_RECEIVING || m->total != next->total || m->digest != next->digest)
        return;
    for (int32_t i = 0; i < m->count; i++) {
        int32_t at = m->first + i;
        if (next->there[at] || m->layers[i] < 0 || m->layers[i] >= s->layers)
            continue;
        next->there[at] = true;
        next->received++;
        next->layers[at] = m->layers[i];
        memcpy(next->placement + (ptrdiff_t)at * r->physical, m->placement + (ptrdiff_t)i * r->physical,
               (size_t)r->physical * sizeof *next->placement);
    }
    if (next->received == next->total)
        proa_rebalance_complete(r);
}

void proa_rebalance_prepared(proa_rebalance *r, uint32_t version)
{
    if (r->next.state != REBALANCE_PREPARING || version != r->version + 1)
        return; /* of a view that is gone */
    r->next.state = REBALANCE_READY;
    r->due_say = true;
    if (rebalance_leads(r))
        proa_rebalance_lead_ready(r, r->options.self, version);
    else
        r->due_ready = true;
}

void proa_rebalance_receive(proa_rebalance *r, const proa_rebalance_message *m, int64_t now_us)
{
    r->now_us = now_us;
    if (r->epoch.count == 0 || !proa_group_epoch_equal(&m->epoch, &r->epoch) || m->from < 0 ||
        m->from >= r->options.shape.ranks || m->from == r->options.self ||
        !proa_group_mask_has(&r->members, m->from))
        return;
    bool leads = rebalance_leads(r);
    switch (m->kind) {
    case PROA_REBALANCE_LOAD:
        if (leads)
            proa_rebalance_lead_load(r, m);
        break;
    case PROA_REBALANCE_PLAN:
        if (!leads && m->from == r->epoch.rank)
            planned(r, m);
        break;
    case PROA_REBALANCE_READY:
        if (leads)
            proa_rebalance_lead_ready(r, m->from, m->version);
        break;
    case PROA_REBALANCE_KINDS: break;
    }
}

void proa_rebalance_tick(proa_rebalance *r, int64_t now_us)
{
    r->now_us = now_us;
    if (rebalance_leads(r))
        proa_rebalance_lead_tick(r);
}

/* ---- actions ---- */

static bool take(bool *due)
{
    bool was = *due;
    *due = false;
    return was;
}

/* Messages to the coordinator. */
static bool next_word(proa_rebalance *r, proa_rebalance_action *a)
{
    a->kind = PROA_REBALANCE_SEND;
    a->to = proa_group_mask_of(r->epoch.rank);
    if (r->says_nothing || r->said < r->options.shape.layers) {
        load_part(r, &a->message);
    } else if (take(&r->due_ready)) {
        a->message.kind = PROA_REBALANCE_READY;
        a->message.version = r->next.state == REBALANCE_READY ? r->version + 1 : r->version;
    } else {
        return false;
    }
    return true;
}

bool proa_rebalance_next(proa_rebalance *r, proa_rebalance_action *a)
{
    if (r->epoch.count == 0)
        return false;
    *a = (proa_rebalance_action){
        .version = r->version,
        .message = {.from = r->options.self, .epoch = r->epoch},
    };
    if (take(&r->due_prepare)) {
        a->kind = PROA_REBALANCE_PREPARE;
        a->version = r->version + 1;
        a->moves = (proa_rebalance_moves){r->next.total, r->physical, r->next.layers, r->next.placement};
        return true;
    }
    if (take(&r->due_say)) {
        a->kind = PROA_REBALANCE_SAY;
        a->version = r->version + 1;
        return true;
    }
    if (take(&r->due_differs)) {
        a->kind = PROA_REBALANCE_DIFFERS;
        a->version = r->version + 1;
        return true;
    }
    return rebalance_leads(r) ? proa_rebalance_lead_next(r, a) : next_word(r, a);
}

int64_t proa_rebalance_deadline(const proa_rebalance *r)
{
    return rebalance_leads(r) ? proa_rebalance_lead_deadline(r) : REBALANCE_NEVER;
}

/* ---- questions ---- */

uint32_t proa_rebalance_version(const proa_rebalance *r)
{
    return r->version;
}

const int32_t *proa_rebalance_placement(const proa_rebalance *r)
{
    return r->current;
}

bool proa_rebalance_rests(const proa_rebalance *r)
{
    return !rebalance_leads(r) || r->lead.state == REBALANCE_RESTS;
}
