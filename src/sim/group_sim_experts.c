/* group_sim_experts.c - the machine of engine/rebalance.h at each rank: loads by chance, plans that take their time to be read in, messages
 * that are lost; and what must hold of placements. */
#include "sim/group_sim_internal.h"

#include "base/digest.h"
#include "engine/rebalance_wire.h"

#include <stdlib.h>
#include <string.h>

enum {
    LAYERS = 4,
    EXPERTS = 6,
    CELLS = LAYERS * EXPERTS,
    GATHER_US = 300000,
    RESEND_US = 200000,
    READ_US = 300000, /* to be ready for a version, at most */
};

static proa_expert_shape shape_of(const gsim_world *w, int32_t live)
{
    int32_t least = (EXPERTS + live - 1) / live, own = (EXPERTS + w->ranks) / w->ranks;
    return (proa_expert_shape){.layers = LAYERS,
                               .experts = EXPERTS,
                               .physical = (own > least ? own : least) * w->ranks,
                               .ranks = w->ranks,
                               .nodes = 1};
}

void proa_gsim_experts_plan(gsim_world *w)
{
    w->iterations = 1 + (int32_t)proa_gsim_random(w, proa_gsim_chance(w, 500) ? 8 : 80);
    w->layers_per_chunk = (int32_t)proa_gsim_random(w, LAYERS);
    w->lossy = w->trouble != PROA_GROUP_SIM_CRASH && proa_gsim_chance(w, 300);
}

void proa_gsim_experts_start(gsim_world *w, int32_t rank)
{
    gsim_rank *r = &w->rank[rank];
    const proa_rebalance_options options = {.self = rank,
                                            .shape = shape_of(w, 1),
                                            .algorithm = PROA_EPLB_DEEPSEEK,
                                            .iterations = w->iterations,
                                            .layers_per_chunk = w->layers_per_chunk,
                                            .threshold = 1,
                                            .gather_us = GATHER_US,
                                            .resend_us = RESEND_US};
    r->experts = proa_rebalance_create(&options);
    if (r->experts == NULL)
        abort();
}

/* ---- views and steps ---- */

/* The rank has read what version 1 of its view gives it. */
void proa_gsim_experts_install(gsim_world *w, int32_t rank)
{
    gsim_rank *r = &w->rank[rank];
    int32_t live_count = proa_group_mask_count(&r->view);
    proa_expert_shape shape = shape_of(w, live_count);
    int32_t *placement = calloc((size_t)LAYERS * (size_t)shape.physical, sizeof *placement);
    const proa_eplb_placement to = {.physical_to_logical = placement};
    double load[CELLS];
    bool live[GSIM_RANKS_MAX];
    proa_error err;
    for (int32_t i = 0; i < CELLS; i++)
        load[i] = 1;
    for (int32_t i = 0; i < w->ranks; i++)
        live[i] = proa_group_mask_has(&r->view, i);
    if (placement == NULL || proa_eplb_place(&shape, PROA_EPLB_DEEPSEEK, live, load, &to, &err) != PROA_OK)
        abort();
    proa_rebalance_install(r->experts, &r->epoch, &r->view, shape.physical, placement, w->now_us);
    r->placed = r->epoch;
    free(placement);
}

static uint64_t digest_of(const gsim_world *w, const gsim_rank *r)
{
    proa_expert_shape shape = shape_of(w, proa_group_mask_count(&r->view));
    return proa_digest(proa_rebalance_placement(r->experts),
                       (size_t)LAYERS * (size_t)shape.physical * sizeof(int32_t), 0);
}

void proa_gsim_experts_begin(gsim_world *w, int32_t rank, gsim_view *v, const proa_group_shape *s)
{
    gsim_rank *r = &w->rank[rank];
    if (!proa_group_epoch_equal(&r->placed, &s->epoch)) {
        proa_gsim_find(w, "rank %d begins step %d without experts", rank, (int)s->step);
        return;
    }
    if (s->placement > proa_rebalance_version(r->experts) + 1) {
        proa_gsim_find(w, "rank %d is to pass from version %u to %u", rank,
                       proa_rebalance_version(r->experts), s->placement);
        return;
    }
    w->result->moved += proa_rebalance_begin(r->experts, s->placement).count;
    uint64_t digest = digest_of(w, r), *of_others = &v->experts[s->step % 2];
    if (*of_others == 0)
        *of_others = digest;
    if (*of_others != digest)
        proa_gsim_find(w, "rank %d has experts elsewhere than others in step %d, version %u", rank,
                       (int)s->step, s->placement);
}

void proa_gsim_experts_ended(gsim_world *w, int32_t rank, const proa_group_shape *s, bool rows)
{
    gsim_rank *r = &w->rank[rank];
    uint32_t counts[CELLS] = {0};
    for (int32_t i = 0; i < LAYERS && rows; i++) /* some experts are loved more, others now and then */
        counts[i * EXPERTS + (int32_t)(s->epoch.count + proa_gsim_random(w, 3)) % EXPERTS] = 5;
    proa_rebalance_ended(r->experts, s->step, rows ? counts : NULL, w->now_us);
    proa_gsim_experts_acted(w, rank);
}

/* ---- the machine's actions ---- */

static void send(gsim_world *w, int32_t rank, const proa_rebalance_action *a)
{
    proa_expert_shape shape = shape_of(w, 1);
    proa_buf bytes = {0};
    proa_rebalance_encode(&a->message, &shape, &bytes);
    for (int32_t to = -1; (to = proa_group_mask_next(&a->to, to)) >= 0;) {
        if (to == rank)
            proa_gsim_find(w, "rank %d sends a message about experts to itself", rank);
        else if (!w->lossy || !proa_gsim_chance(w, 150))
            proa_gsim_send_experts(w, rank, to, bytes.data, bytes.length);
    }
    proa_buf_free(&bytes);
}

static void act(gsim_world *w, int32_t rank, const proa_rebalance_action *a)
{
    gsim_rank *r = &w->rank[rank];
    switch (a->kind) {
    case PROA_REBALANCE_SEND: send(w, rank, a); break;
    case PROA_REBALANCE_PREPARE:
        proa_gsim_post(
            w,
            &(gsim_event){
                .kind = GSIM_LOADED, .rank = rank, .life = r->life, .epoch = r->placed, .number = a->version},
            proa_gsim_random(w, proa_gsim_chance(w, 500) ? 2000 : READ_US));
        break;
    case PROA_REBALANCE_SAY:
        if (proa_group_epoch_equal(&r->placed, &r->epoch))
            r->ready = a->version;
        proa_gsim_propose(w, rank);
        break;
    case PROA_REBALANCE_SKIPPED: break;
    case PROA_REBALANCE_DONE:
        w->result->plans++;
        if (a->after <= a->before)
            proa_gsim_find(w, "a plan of rank %d makes %.3f of %.3f", rank, a->after, a->before);
        break;
    case PROA_REBALANCE_DIFFERS:
        proa_gsim_find(w, "rank %d refuses version %u of rank %d", rank, a->version, r->placed.rank);
        break;
    }
}

void proa_gsim_experts_acted(gsim_world *w, int32_t rank)
{
    gsim_rank *r = &w->rank[rank];
    proa_rebalance_action action;
    while (r->alive && proa_rebalance_next(r->experts, &action))
        act(w, rank, &action);
    if (!r->alive)
        return;
    int64_t due = proa_rebalance_deadline(r->experts);
    if (due == INT64_MAX || (r->experts_tick_us > w->now_us && r->experts_tick_us <= due))
        return;
    r->experts_tick_us = due > w->now_us ? due : w->now_us + 1;
    proa_gsim_post(w, &(gsim_event){.kind = GSIM_EXPERTS_TICK, .rank = rank, .life = r->life},
                   r->experts_tick_us - w->now_us);
}

/* ---- events ---- */

void proa_gsim_experts_tick(gsim_world *w, int32_t rank)
{
    w->rank[rank].experts_tick_us = 0;
    proa_rebalance_tick(w->rank[rank].experts, w->now_us);
    proa_gsim_experts_acted(w, rank);
}

void proa_gsim_experts_receive(gsim_world *w, int32_t rank, const void *bytes, size_t length)
{
    static const size_t most = sizeof(proa_rebalance_tables);
    proa_expert_shape shape = shape_of(w, 1);
    proa_rebalance_tables *tables = malloc(most);
    proa_rebalance_message message;
    proa_error err;
    if (tables == NULL)
        abort();
    if (proa_rebalance_decode(bytes, length, &shape, tables, &message, &err) == PROA_OK)
        proa_rebalance_receive(w->rank[rank].experts, &message, w->now_us);
    else
        proa_gsim_find(w, "%s", err.text);
    proa_gsim_experts_acted(w, rank);
    free(tables);
}

/* Version `number` of the view's placement is read in. */
void proa_gsim_experts_loaded(gsim_world *w, int32_t rank, uint64_t number)
{
    gsim_rank *r = &w->rank[rank];
    if (number == 1) {
        if (r->ready > 0 || proa_group_mask_empty(&r->view)) /* it has left the view meanwhile */
            return;
        proa_gsim_experts_install(w, rank);
        r->ready = 1;
        proa_gsim_propose(w, rank);
    } else if (proa_group_epoch_equal(&r->placed, &r->epoch)) {
        proa_rebalance_prepared(r->experts, (uint32_t)number);
    }
    proa_gsim_experts_acted(w, rank);
}

/* Once nothing runs any more: no plan is left half said. */
void proa_gsim_experts_check_end(gsim_world *w)
{
    for (int32_t i = 0; i < w->ranks; i++) {
        const gsim_rank *r = &w->rank[i];
        if (proa_rebalance_rests(r->experts))
            continue;
        for (int32_t m = 0; m < w->ranks; m++) /* it waits for a step alone */
            if (w->rank[m].ready != proa_rebalance_version(r->experts) + 1)
                proa_gsim_find(w, "rank %d's plan of version %u does not end: rank %d is ready for %u", i,
                               proa_rebalance_version(r->experts) + 1, m, w->rank[m].ready);
    }
}
