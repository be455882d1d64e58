/* ep_group_rebalance.c - the machine of rebalance.h in its shell: what rows choose is counted, plans are read in and carried out. */
#include "base/clock.h"
#include "base/log.h"
#include "engine/ep_group_internal.h"

#include <stdlib.h>
#include <string.h>

enum {
    GATHER_US = 2000000,
    RESEND_US = 1000000,
};

/* ---- counting ---- */

static void count_choices(void *context, int32_t layer, int32_t rows, const int32_t *expert_ids)
{
    proa_ep_group *r = context;
    uint32_t *counts = r->counts + (ptrdiff_t)layer * r->config.n_routed_experts;
    for (int32_t i = 0; i < rows * r->config.num_experts_per_tok; i++)
        counts[expert_ids[i]]++;
}

static size_t count_bytes(const proa_ep_group *r)
{
    return (size_t)r->config.num_hidden_layers * (size_t)r->config.n_routed_experts * sizeof *r->counts;
}

/* ---- the reader's hooks ---- */

static int find_expert(void *context, int32_t layer, int32_t expert, proa_expert_range *ranges)
{
    const proa_ep_group *r = context;
    proa_weight projections[3];
    int count = 0;
    proa_forward_get_expert(r->forward, layer, expert, projections);
    for (int i = 0; i < 3; i++) {
        const proa_weight *w = &projections[i];
        ranges[count++] =
            (proa_expert_range){w->data, (size_t)w->n * (size_t)w->k * proa_dtype_bytes(w->dtype)};
        if (w->scale != NULL)
            ranges[count++] = (proa_expert_range){
                w->scale, (size_t)((w->n + w->block_n - 1) / w->block_n) *
                              (size_t)((w->k + w->block_k - 1) / w->block_k) * sizeof *w->scale};
    }
    return count;
}

static void on_read(void *context, uint64_t job)
{
    proa_ep_group *r = context;
    pthread_mutex_lock(&r->lock);
    if (job == r->reading && !r->stopped) {
        proa_rebalance_prepared(r->rebalance, r->reading_version);
        proa_ep_group_pump(r);
    }
    pthread_mutex_unlock(&r->lock);
}

/* ---- the machine's actions ---- */

static bool holds(const int32_t *slots, int32_t count, int32_t expert)
{
    int32_t i = 0;
    while (i < count && slots[i] != expert)
        i++;
    return i < count;
}

/* What this rank would hold and does not. */
static void prepare(proa_ep_group *r, const proa_rebalance_action *a)
{
    const proa_rebalance_moves *moves = &a->moves;
    int32_t each = moves->physical / r->options.ranks, first = each * r->options.rank, count = 0;
    int32_t *pairs = proa_expert_reader_begin(r->reader);
    for (int32_t i = 0; i < moves->count; i++) {
        ptrdiff_t row = (ptrdiff_t)moves->layers[i] * moves->physical;
        const int32_t *held = proa_rebalance_placement(r->rebalance) + row + first;
        const int32_t *wanted = moves->placement + (ptrdiff_t)i * moves->physical + first;
        for (int32_t s = 0; s < each; s++) {
            if (wanted[s] == PROA_EXPERT_NONE || holds(held, each, wanted[s]))
                continue;
            pairs[2 * count] = moves->layers[i];
            pairs[2 * count++ + 1] = wanted[s];
        }
    }
    r->reading_version = a->version;
    r->stats.experts_read += (uint64_t)count;
    proa_expert_reader_start(r->reader, ++r->reading, count);
}

static void send(proa_ep_group *r, const proa_rebalance_action *a)
{
    if (r->stopped)
        return;
    r->stats.messages += (uint64_t)proa_group_mask_count(&a->to);
    r->options.hooks.send_rebalance(r->options.hooks.context, &a->to, &a->message);
}

static void carry_out(proa_ep_group *r, const proa_rebalance_action *a)
{
    switch (a->kind) {
    case PROA_REBALANCE_SEND: send(r, a); break;
    case PROA_REBALANCE_PREPARE: prepare(r, a); break;
    case PROA_REBALANCE_SAY:
        r->ready = a->version;
        r->speaks = true;
        break;
    case PROA_REBALANCE_SKIPPED:
        r->stats.utilisation = a->before;
        proa_log(PROA_LOG_DEBUG, "ranks", "experts stay where they are: utilisation %.1f %%",
                 100 * a->before);
        break;
    case PROA_REBALANCE_DONE:
        r->stats.rebalances++;
        r->stats.utilisation = a->after;
        proa_log(PROA_LOG_INFO, "ranks", "rebalanced %d layers: utilisation %.1f %% -> %.1f %% (version %u)",
                 a->layers, 100 * a->before, 100 * a->after, a->version);
        break;
    case PROA_REBALANCE_DIFFERS:
        proa_log(
            PROA_LOG_ERROR, "ranks",
            "rank %d plans from a placement of experts that is not the one here (version %u): nothing is "
            "moved before the view changes",
            r->epoch.rank, a->version);
        break;
    }
}

bool proa_ep_group_rebalance_pump(proa_ep_group *r)
{
    proa_rebalance_action action;
    bool any = false;
    if (r->rebalance == NULL)
        return false;
    while (proa_rebalance_next(r->rebalance, &action)) {
        carry_out(r, &action);
        any = true;
    }
    return any;
}

/* ---- events ---- */

void proa_ep_group_rebalance_install(proa_ep_group *r)
{
    r->ready = 1;
    if (r->rebalance == NULL)
        return;
    r->reading++; /* what is read for the view before is not wanted any more */
    proa_rebalance_install(r->rebalance, &r->epoch, &r->view, r->map_shape.physical, r->scratch,
                           proa_clock_us());
}

void proa_ep_group_rebalance_begin(proa_ep_group *r, uint32_t version)
{
    proa_error err;
    if (r->counts != NULL)
        memset(r->counts, 0, count_bytes(r));
    if (r->rebalance == NULL)
        return;
    proa_rebalance_moves moves = proa_rebalance_begin(r->rebalance, version);
    for (int32_t i = 0; i < moves.count; i++) {
        proa_status status = proa_expert_map_set_layer(r->map, moves.layers[i],
                                                       moves.placement + (ptrdiff_t)i * moves.physical, &err);
        PROA_ASSERT(status == PROA_OK); /* the machine has looked at it */
        proa_ep_group_take_layer(r, moves.layers[i]);
    }
    r->stats.layers_moved += (uint64_t)moves.count;
    r->stats.version = version;
}

void proa_ep_group_rebalance_ended(proa_ep_group *r, uint64_t step, bool rows)
{
    for (size_t i = 0; r->recording && rows && i < count_bytes(r) / sizeof *r->counts; i++)
        r->record[i] += r->counts[i];
    if (r->rebalance != NULL)
        proa_rebalance_ended(r->rebalance, step, rows ? r->counts : NULL, proa_clock_us());
}

void proa_ep_group_rebalance_tick(proa_ep_group *r, int64_t now_us)
{
    if (r->rebalance == NULL || now_us < proa_rebalance_deadline(r->rebalance))
        return;
    proa_rebalance_tick(r->rebalance, now_us);
    proa_ep_group_pump(r);
}

void proa_ep_group_receive_rebalance(proa_ep_group *r, const proa_rebalance_message *message)
{
    pthread_mutex_lock(&r->lock);
    if (r->rebalance != NULL) {
        proa_rebalance_receive(r->rebalance, message, proa_clock_us());
        proa_ep_group_pump(r);
    }
    pthread_mutex_unlock(&r->lock);
}

/* ---- the record ---- */

static void forget(proa_ep_group *r)
{
    memset(r->record, 0, count_bytes(r) / sizeof *r->counts * sizeof *r->record);
}

void proa_ep_group_record(proa_ep_group *r, bool on)
{
    PROA_ASSERT(r->record != NULL);
    pthread_mutex_lock(&r->lock);
    if (on)
        forget(r);
    r->recording = on;
    pthread_mutex_unlock(&r->lock);
}

void proa_ep_group_take_record(proa_ep_group *r, uint64_t *counts)
{
    PROA_ASSERT(r->record != NULL);
    pthread_mutex_lock(&r->lock);
    memcpy(counts, r->record, count_bytes(r) / sizeof *r->counts * sizeof *r->record);
    forget(r);
    pthread_mutex_unlock(&r->lock);
}

/* ---- life ---- */

proa_expert_shape proa_ep_group_expert_shape(const proa_ep_group *r)
{
    return r->most;
}

proa_status proa_ep_group_rebalance_create(proa_ep_group *r, proa_error *err)
{
    const proa_ep_group_rebalance *o = &r->options.rebalance;
    bool moves = o->iterations > 0 && r->options.ranks > 1;
    if (!moves && !r->options.record)
        return PROA_OK;
    r->counts = calloc(1, count_bytes(r));
    if (r->options.record)
        r->record = calloc(count_bytes(r) / sizeof *r->counts, sizeof *r->record);
    if (r->counts == NULL || (r->options.record && r->record == NULL))
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory to count what %d experts do",
                              r->config.n_routed_experts);
    if (!moves)
        return PROA_OK;
    const proa_rebalance_options options = {
        .self = r->options.rank,
        .shape = r->most,
        .algorithm = r->options.algorithm,
        .iterations = o->iterations,
        .window = o->window,
        .layers_per_chunk = o->layers_per_chunk,
        .threshold = o->threshold,
        .gather_us = GATHER_US,
        .resend_us = RESEND_US,
    };
    const proa_expert_reader_hooks hooks = {.find = find_expert, .done = on_read, .context = r};
    r->rebalance = proa_rebalance_create(&options);
    if (r->rebalance == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for plans of %d experts",
                              r->config.n_routed_experts);
    return proa_expert_reader_create(r->config.num_hidden_layers * r->capacity, &hooks, &r->reader, err);
}

void proa_ep_group_rebalance_attach(proa_ep_group *r)
{
    proa_error err;
    proa_status status =
        r->counts != NULL ? proa_forward_set_expert_tap(r->forward, count_choices, r, &err) : PROA_OK;
    PROA_ASSERT(status ==
                PROA_OK); /* ranks that share experts compute on the host, which needs no memory for it */
}

void proa_ep_group_rebalance_free(proa_ep_group *r)
{
    proa_expert_reader_free(r->reader);
    proa_rebalance_free(r->rebalance);
    free(r->counts);
    free(r->record);
}
