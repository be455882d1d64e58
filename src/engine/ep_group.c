/* ep_group.c - events into the group, its actions carried out, steps and views on the engine thread.
 *
 * The engine thread sleeps on `changed` while it waits for a step. A view is installed by it alone, since the all-to-all and the
 * placement are its own: until then this rank proposes nothing, so no step of the view begins anywhere.
 */
#include "engine/ep_group_internal.h"

#include "base/clock.h"
#include "base/digest.h"
#include "base/log.h"
#include "base/stacks.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    MISSED_US = 3000000,
    FORMATION_US = 600000000,
    AGREEMENT_US = 30000000,
    OUTSIDE_US = 3000000,
    NAP_US = 1000,
};

/* ---- the group's actions ---- */

static void send(proa_ep_group *r, const proa_group_action *action)
{
    if (r->stopped)
        return;
    for (int32_t to = proa_group_mask_lowest(&action->to); to >= 0;
         to = proa_group_mask_next(&action->to, to)) {
        r->stats.messages++;
        r->options.hooks.send(r->options.hooks.context, to, &action->message);
    }
}

static void note_trouble(proa_ep_group *r)
{
    if (r->trouble_us == 0)
        r->trouble_us = proa_clock_us();
}

static void log_view(const proa_ep_group *r)
{
    int32_t about, live = proa_group_mask_count(&r->view);
    const char *why = proa_group_why(r->group, &about);
    char missing[160] = "";
    size_t used = 0;
    for (int32_t i = 0; i < r->options.ranks && used + 12 < sizeof missing; i++) {
        if (!proa_group_mask_has(&r->view, i))
            used += (size_t)snprintf(missing + used, sizeof missing - used, "%s%d", used > 0 ? ", " : "", i);
    }
    if (live == r->options.ranks)
        proa_log(PROA_LOG_INFO, "ranks", "all %d ranks step together (epoch %llu)", live,
                 (unsigned long long)r->epoch.count);
    else
        proa_log(PROA_LOG_WARN, "ranks",
                 "%d of %d ranks step together (epoch %llu), without %s: %s (rank %d)", live,
                 r->options.ranks, (unsigned long long)r->epoch.count, missing, why, about);
}

static void carry_out(proa_ep_group *r, const proa_group_action *action)
{
    switch (action->kind) {
    case PROA_GROUP_SEND: send(r, action); break;
    case PROA_GROUP_BEGIN:
        PROA_ASSERT(!r->begun);
        r->begun = true;
        r->shape = action->shape;
        r->speaks = r->speaks || action->counted;
        break;
    case PROA_GROUP_ABANDON:
        note_trouble(r);
        if (r->running)
            proa_a2a_abandon(r->a2a);
        else if (r->begun)
            r->ended_here = true;
        r->begun = false;
        break;
    case PROA_GROUP_INSTALL:
        if (!proa_group_mask_within(&r->view, &action->to))
            note_trouble(r); /* it was idle when the others lost somebody */
        r->view = action->to;
        r->epoch = action->shape.epoch;
        r->to_install = true;
        r->installed = false;
        break;
    case PROA_GROUP_RESET:
        note_trouble(r);
        proa_log(PROA_LOG_WARN, "ranks", "this rank is outside of the group, and joins it again");
        r->to_install = r->installed = false;
        r->epoch = (proa_group_epoch){0}; /* none: a view that is being installed is not wanted any more */
        for (int32_t i = 0; i < r->options.ranks; i++)
            r->peers[i].connected = 0; /* the others have closed their ends */
        break;
    case PROA_GROUP_STUCK: proa_ep_group_stuck(r, "a step that was abandoned has not ended"); break;
    }
}

static proa_group_want want(const proa_ep_group *r)
{
    return (proa_group_want){
        .windows = r->wanted,
        .extend = r->wanted > 1,
        .placement = r->ready,
    };
}

void proa_ep_group_pump(proa_ep_group *r)
{
    proa_group_action action;
    bool more;
    do {
        while (proa_group_next(r->group, &action))
            carry_out(r, &action);
        more = true;
        if (proa_ep_group_rebalance_pump(r)) {
            continue;
        } else if (r->ended_here) {
            r->ended_here = false;
            proa_group_ended(r->group, false, proa_clock_us());
        } else if (r->speaks && r->installed) {
            const proa_group_want wanted = want(r);
            r->speaks = false;
            proa_group_propose(r->group, &wanted, proa_clock_us());
        } else {
            more = false;
        }
    } while (more);
    if (!r->stopped && (r->begun || r->to_install)) {
        pthread_cond_broadcast(&r->changed);
        r->options.hooks.nudge(r->options.hooks.context);
    }
}

/* ---- control thread ---- */

void proa_ep_group_peer_up(proa_ep_group *r, int32_t number, uint64_t life, const void *address, size_t bytes)
{
    PROA_ASSERT(number >= 0);
    PROA_ASSERT(number < r->options.ranks);
    if (bytes > PROA_POST_ADDRESS_BYTES_MAX)
        return; /* it will not be reached, and is missed */
    pthread_mutex_lock(&r->lock);
    ep_peer *p = &r->peers[number];
    p->life = life;
    p->address_bytes = bytes;
    if (bytes > 0)
        memcpy(p->address, address, bytes);
    proa_group_link_up(r->group, number, life, proa_clock_us());
    proa_ep_group_pump(r);
    pthread_mutex_unlock(&r->lock);
}

void proa_ep_group_peer_down(proa_ep_group *r, int32_t number, uint64_t life)
{
    pthread_mutex_lock(&r->lock);
    if (proa_group_mask_has(&r->view, number))
        note_trouble(r);
    proa_group_link_down(r->group, number, life, proa_clock_us());
    proa_ep_group_pump(r);
    pthread_mutex_unlock(&r->lock);
}

void proa_ep_group_receive(proa_ep_group *r, const proa_group_message *message)
{
    if (message->want.windows > r->windows_max) {
        proa_log(PROA_LOG_WARN, "ranks", "refused a message of rank %d: %d windows, a step has %d at most",
                 message->from, message->want.windows, r->windows_max);
        return;
    }
    pthread_mutex_lock(&r->lock);
    proa_group_receive(r->group, message, proa_clock_us());
    proa_ep_group_pump(r);
    pthread_mutex_unlock(&r->lock);
}

void proa_ep_group_tick(proa_ep_group *r)
{
    pthread_mutex_lock(&r->lock);
    int64_t now = proa_clock_us(); /* the group's times must not go back: under the lock, everywhere */
    if (now >= proa_group_deadline(r->group)) {
        proa_group_tick(r->group, now);
        proa_ep_group_pump(r);
    }
    proa_ep_group_rebalance_tick(r, now);
    proa_ep_group_watch(r, now);
    proa_ep_group_note_outside(r, now);
    pthread_mutex_unlock(&r->lock);
}

void proa_ep_group_stop(proa_ep_group *r)
{
    pthread_mutex_lock(&r->lock);
    r->stopped = true;
    proa_a2a_abandon(r->a2a);
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->lock);
}

/* ---- views ---- */

static uint64_t number_of(const proa_group_epoch *epoch)
{
    const uint64_t parts[] = {epoch->count, (uint64_t)(int64_t)epoch->rank, epoch->life};
    return proa_digest(parts, sizeof parts, 0) | 1;
}

/* No other view has come since this one did, nor was it left. Under lock. */
static bool is_wanted(const proa_ep_group *r, const proa_group_epoch *epoch)
{
    return !r->to_install && proa_group_epoch_equal(epoch, &r->epoch);
}

/* Connects to members that have come; false: the view is not wanted any more. Not under lock, but for a look at each: connections to dozens
 * of ranks take seconds where processors are few, and so long the control thread would not beat. */
static bool connect_members(proa_ep_group *r, const proa_group_mask *members, const proa_group_epoch *epoch)
{
    proa_post *post = proa_a2a_post(r->a2a);
    uint8_t address[PROA_POST_ADDRESS_BYTES_MAX];
    for (int32_t i = 0; i < r->options.ranks; i++) {
        ep_peer *p = &r->peers[i];
        proa_error err;
        if (i == r->options.rank)
            continue;
        pthread_mutex_lock(&r->lock);
        bool wanted = is_wanted(r, epoch), is_member = proa_group_mask_has(members, i);
        bool known = !is_member || (p->connected == p->life && proa_post_is_connected(post, i));
        uint64_t life = p->life;
        size_t bytes = p->address_bytes;
        memcpy(address, p->address, bytes);
        if (wanted)
            p->connected = is_member ? life : 0; /* already: a reset that comes meanwhile undoes it */
        r->connections++;
        pthread_mutex_unlock(&r->lock);
        if (!wanted)
            return false;
        if (known || proa_post_connect(post, i, address, bytes, &err) == PROA_OK)
            continue;
        proa_log(PROA_LOG_ERROR, "ranks", "%s", err.text);
        pthread_mutex_lock(&r->lock);
        if (p->connected == life)
            p->connected = 0;
        pthread_mutex_unlock(&r->lock);
    }
    return true;
}

/* Under lock, which is left meanwhile: what is found when it is taken again may be another view, or that this one was left. */
static void install(proa_ep_group *r)
{
    uint64_t lives[PROA_TEAM_MAX];
    proa_error err = {0};
    proa_group_mask members = r->view;
    proa_group_epoch epoch = r->epoch;
    int32_t live = proa_group_mask_count(&members);
    r->to_install = false;
    for (int32_t i = 0; i < r->options.ranks; i++)
        r->live[i] = proa_group_mask_has(&members, i);
    proa_ep_group_team_lives(r, lives);
    r->installing = true;
    pthread_mutex_unlock(&r->lock);
    if (!connect_members(r, &members, &epoch)) {
        pthread_mutex_lock(&r->lock);
        r->installing = false;
        return;
    }
    if (r->team != NULL)
        proa_ep_team_leave(r->team);
    proa_status status = proa_a2a_begin(r->a2a, number_of(&epoch), r->live, &err);
    if (status == PROA_OK)
        status = proa_ep_group_make_placement(r, live, &err);
    if (status == PROA_OK)
        proa_ep_group_take_experts(r);
    if (status == PROA_OK && r->team != NULL)
        proa_ep_group_team_begin(r, number_of(&epoch), lives);
    pthread_mutex_lock(&r->lock);
    r->installing = false;
    if (!is_wanted(r, &epoch)) /* left meanwhile: what failed may have done so for that */
        return;
    if (status == PROA_ERR_TOO_LONG) {
        proa_log(PROA_LOG_ERROR, "ranks", "%s: no step is made until more ranks are back", err.text);
        return;
    }
    if (status != PROA_OK) {
        if (!r->stopped)
            proa_ep_group_stuck(r, err.text);
        r->stopped = true;
        return;
    }
    proa_ep_group_rebalance_install(r);
    r->installed = r->speaks = r->unproven = true;
    r->stats.views++;
    log_view(r);
    proa_ep_group_pump(r);
}

/* ---- steps ---- */

/* Those that the step which has just ended is blamed on. */
static proa_group_mask missing_ranks(const proa_ep_group *r)
{
    proa_group_mask missing = {{0}};
    const bool *suspects = proa_a2a_suspects(r->a2a);
    for (int32_t i = 0; i < r->options.ranks; i++) {
        if (suspects[i])
            proa_group_mask_add(&missing, i);
    }
    return missing;
}

/* Runs the step that has begun; `step` NULL or too large for its shape: without rows. True: `step` is computed. Under lock, which is left. */
static bool run(proa_ep_group *r, const proa_step *step, float **logits)
{
    const proa_group_shape shape = r->shape;
    bool fits = step != NULL && proa_forward_windows(r->forward, step->row_count) <= shape.windows, computed;
    proa_step rows = fits ? *step : (proa_step){0};
    float *unused;
    proa_error err;
    rows.windows = shape.windows;
    r->begun = false;
    r->running = true;
    proa_ep_group_rebalance_begin(r, shape.placement);
    pthread_mutex_unlock(&r->lock);
    proa_status status = proa_ep_group_team_step(r, &rows, fits ? logits : &unused, &computed, &err);
    pthread_mutex_lock(&r->lock);
    r->running = false;
    proa_group_mask missed = missing_ranks(r);
    int64_t now = proa_clock_us();
    proa_a2a_get_stats(r->a2a, &r->stats.a2a);
    if (status == PROA_OK) {
        r->unproven = false;
        r->stats.steps++;
        r->stats.idle_steps += !fits;
        if (r->trouble_us != 0) {
            r->stats.recovery_us = now - r->trouble_us;
            proa_log(PROA_LOG_INFO, "ranks", "steps go on, %.1f ms after the first sign of trouble",
                     (double)r->stats.recovery_us / 1e3);
        }
        r->trouble_us = 0;
        proa_ep_group_rebalance_ended(r, shape.step, fits);
    } else if (r->stopped) {
        return false; /* to the group, this rank is as good as dead */
    } else {
        r->stats.abandoned++;
        note_trouble(r);
        proa_log(PROA_LOG_INFO, "ranks", "a step is broken off: %s", err.text);
    }
    if (status != PROA_OK && status != PROA_ERR_CANCELLED && !proa_group_mask_empty(&missed)) {
        proa_group_missed(r->group, &missed, &shape.epoch, now);
        proa_ep_group_pump(r);
    }
    proa_group_ended(r->group, status == PROA_OK, proa_clock_us());
    proa_ep_group_pump(r);
    return status == PROA_OK && fits && computed;
}

static void set_wanted(proa_ep_group *r, int32_t windows)
{
    if (r->wanted == windows)
        return;
    r->wanted = windows;
    r->speaks = true;
    proa_ep_group_pump(r);
}

/* Something has changed, or so much time has passed. While the group is not whole, others may need this rank to take what a broken step
 * has left; and to give what the last step has sent. Under lock, which is left meanwhile. */
static void await(proa_ep_group *r, int64_t most_us)
{
    bool whole = r->installed && !r->unproven && !proa_a2a_owes(r->a2a);
    if (!whole) {
        pthread_mutex_unlock(&r->lock);
        proa_a2a_progress(r->a2a);
        pthread_mutex_lock(&r->lock);
    }
    if (r->begun || r->to_install || r->stopped)
        return;
    int64_t nap = whole || most_us < NAP_US ? most_us : NAP_US;
    struct timespec deadline = proa_clock_deadline(nap);
    pthread_cond_timedwait(&r->changed, &r->lock, &deadline);
}

/* The engine has rows that cannot be computed; but others may need this rank's experts. PROA_BUSY: not failed yet. Under lock, which is left
 * meanwhile. */
static proa_status fail_step(proa_ep_group *r, proa_error *err)
{
    int64_t left = proa_ep_group_team_patience_us(r);
    if (r->begun)
        run(r, NULL, NULL);
    else if (left > 0)
        await(r, left);
    return left > 0 ? PROA_BUSY
                    : proa_error_set(err, PROA_ERR_DEADLINE,
                                     "a rank that computes a part of the attention heads of rank %d is gone",
                                     r->options.rank);
}

proa_status proa_ep_group_step(proa_ep_group *r, const proa_step *step, float **logits, proa_error *err)
{
    int64_t first = proa_clock_us(), begun = first;
    int32_t windows = proa_forward_windows(r->forward, step->row_count);
    proa_status status = PROA_BUSY;
    bool done = false;
    pthread_mutex_lock(&r->lock);
    r->engine_thread = r->engine_thread != 0 ? r->engine_thread : proa_stacks_thread();
    while (!done && status == PROA_BUSY) {
        int64_t now = proa_clock_us();
        bool broken = proa_ep_group_team_is_broken(r);
        set_wanted(r, broken ? r->unproven : windows);
        if (r->stopped) {
            status = proa_error_set(err, PROA_ERR_CANCELLED, "the rank stops");
        } else if (r->to_install) {
            install(r);
        } else if (broken) {
            status = fail_step(r, err);
        } else if (r->begun) {
            uint64_t before = r->stats.steps;
            r->stats.agree_us += (uint64_t)(now - begun);
            done = run(r, step, logits);
            begun = proa_clock_us();
            first = r->stats.steps > before ? begun : first; /* it may have brought blocks */
        } else if (now - first >= r->options.agreement_us) {
            status =
                proa_error_set(err, PROA_ERR_DEADLINE, "the %d ranks have not agreed on a step for %.1f s",
                               r->options.ranks, (double)(now - first) / 1e6);
        } else if (proa_ep_group_outside_us(r) >= r->options.outside_us) {
            status = proa_error_set(
                err, PROA_ERR_DEADLINE, "rank %d has been outside of the group of %d ranks for %.1f s",
                r->options.rank, r->options.ranks, (double)proa_ep_group_outside_us(r) / 1e6);
        } else {
            int64_t left = r->options.agreement_us - (now - first);
            await(r, left < r->options.outside_us / 2 ? left : r->options.outside_us / 2);
        }
    }
    pthread_mutex_unlock(&r->lock);
    return done ? PROA_OK : status;
}

bool proa_ep_group_idle(proa_ep_group *r)
{
    pthread_mutex_lock(&r->lock);
    r->engine_thread = r->engine_thread != 0 ? r->engine_thread : proa_stacks_thread();
    set_wanted(r, r->unproven);
    bool any = !r->stopped &&
               (r->to_install || r->begun || r->unproven || r->trouble_us != 0 || proa_a2a_owes(r->a2a));
    if (any && r->to_install)
        install(r);
    else if (any && r->begun)
        run(r, NULL, NULL);
    else if (any)
        await(r, NAP_US);
    pthread_mutex_unlock(&r->lock);
    return any;
}

/* ---- life ---- */

static proa_status check_experts(const proa_ep_group_options *o, const proa_model_config *m, proa_error *err)
{
    int32_t all = m->n_routed_experts + o->redundant_experts;
    if (m->n_routed_experts == 0 || o->ranks == 1 || all % o->ranks == 0)
        return PROA_OK;
    int32_t fitting = (all + o->ranks - 1) / o->ranks * o->ranks - m->n_routed_experts;
    return proa_error_set(
        err, PROA_ERR_INVALID,
        "%d experts and --ep-num-redundant-experts %d do not divide among %d ranks: %d redundant ones would",
        m->n_routed_experts, o->redundant_experts, o->ranks, fitting);
}

static proa_status make_tables(proa_ep_group *r, proa_error *err)
{
    const proa_ep_group_options *o = &r->options;
    size_t ranks = (size_t)o->ranks, layers = (size_t)r->config.num_hidden_layers,
           experts = (size_t)r->config.n_routed_experts;
    r->peers = calloc(ranks, sizeof *r->peers);
    r->live = calloc(ranks, sizeof *r->live);
    r->scratch = calloc(layers * (size_t)r->capacity * ranks, sizeof *r->scratch);
    r->load = calloc(layers * experts, sizeof *r->load);
    r->local = calloc((size_t)r->capacity, sizeof *r->local);
    bool good =
        r->peers != NULL && r->live != NULL && r->scratch != NULL && r->load != NULL && r->local != NULL;
    for (size_t i = 0; i < ranks && good; i++) {
        r->peers[i].address = malloc(PROA_POST_ADDRESS_BYTES_MAX);
        good = r->peers[i].address != NULL;
    }
    return good ? PROA_OK
                : proa_error_set(err, PROA_ERR_MEMORY, "no memory for the tables of %d ranks", o->ranks);
}

static proa_status make_a2a(proa_ep_group *r, proa_precision precision, proa_error *err)
{
    const proa_ep_group_options *o = &r->options;
    bool fp8 = r->config.fp8 && precision == PROA_PRECISION_DEFAULT;
    const proa_a2a_options options = {
        .ranks = o->ranks,
        .rank = o->rank,
        .local_experts = r->capacity,
        .hidden = r->config.hidden_size,
        .top_k = r->config.num_experts_per_tok,
        .rows_max = o->rows_max,
        .lanes = o->two_batch_overlap ? 2 : 1,
        .format = fp8                                 ? PROA_EXCHANGE_FP8
                  : precision == PROA_PRECISION_EXACT ? PROA_EXCHANGE_F32
                                                      : PROA_EXCHANGE_BF16,
        .precision = precision,
        .deadline_us = o->deadline_us,
        .spin_us = o->spin_us,
    };
    return proa_a2a_create(&options, o->hub, &r->a2a, err);
}

static proa_status make_group(proa_ep_group *r, proa_error *err)
{
    const proa_group_limits limits = {
        .collect_us = 1500000,
        .view_us = 3000000,
        .join_us = 10000000,
        .form_us = r->options.formation_us,
        .status_us = 500000,
        .proposal_us = 60000000 + r->options.deadline_us,
        .placement_us = 120000000 + r->options.deadline_us,
        .shun_us = 10000000,
        .abandon_us = 60000000 + r->options.deadline_us,
    };
    r->group =
        proa_group_create(r->options.ranks, r->options.rank, r->options.life, &limits, proa_clock_us());
    return r->group != NULL ? PROA_OK
                            : proa_error_set(err, PROA_ERR_MEMORY, "no memory for the group of ranks");
}

proa_status proa_ep_group_create(const proa_ep_group_options *options, const proa_model_config *config,
                                 proa_precision precision, proa_ep_group **ranks, proa_error *err)
{
    *ranks = NULL;
    proa_status status = check_experts(options, config, err);
    if (status != PROA_OK)
        return status;
    proa_ep_group *r = calloc(1, sizeof *r);
    if (r == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for the ranks");
    r->options = *options;
    r->options.location = NULL;
    r->options.team_size = options->team_size > 1 ? options->team_size : 1;
    r->options.deadline_us = options->deadline_us > 0 ? options->deadline_us : MISSED_US;
    r->options.formation_us = options->formation_us > 0 ? options->formation_us : FORMATION_US;
    r->options.agreement_us = options->agreement_us > 0 ? options->agreement_us : AGREEMENT_US;
    r->options.outside_us = options->outside_us > 0 ? options->outside_us : OUTSIDE_US;
    r->config = *config;
    r->windows_max = 1;
    int32_t most = PROA_EXPERT_SLOTS_MAX / options->ranks;
    r->capacity = proa_ep_group_slots(r, 1) < most ? proa_ep_group_slots(r, 1) : most;
    r->map_shape = (proa_expert_shape){.layers = config->num_hidden_layers,
                                       .experts = config->n_routed_experts,
                                       .physical = proa_ep_group_slots(r, options->ranks) * options->ranks,
                                       .ranks = options->ranks,
                                       .nodes = options->nodes,
                                       .groups = config->n_group};
    r->most = r->map_shape;
    r->most.physical = r->capacity * options->ranks;
    pthread_mutex_init(&r->lock, NULL);
    proa_clock_cond_init(&r->changed);
    status = proa_expert_shape_check(&r->map_shape, err);
    if (status == PROA_OK)
        status = make_tables(r, err);
    if (status == PROA_OK)
        status = proa_ep_group_take_location(r, options->location, err);
    if (status == PROA_OK)
        status = make_a2a(r, precision, err);
    if (status == PROA_OK)
        status = proa_ep_group_team_create(r, precision, err);
    if (status == PROA_OK)
        status = make_group(r, err);
    if (status == PROA_OK)
        status = proa_ep_group_rebalance_create(r, err);
    if (status != PROA_OK) {
        proa_ep_group_free(r);
        return status;
    }
    *ranks = r;
    return PROA_OK;
}

void proa_ep_group_free(proa_ep_group *r)
{
    if (r == NULL)
        return;
    proa_ep_group_rebalance_free(r);
    proa_group_free(r->group);
    proa_ep_team_free(r->team);
    proa_a2a_free(r->a2a);
    proa_expert_map_free(r->map);
    for (int32_t i = 0; i < r->options.ranks && r->peers != NULL; i++)
        free(r->peers[i].address);
    free(r->peers);
    free(r->live);
    free(r->scratch);
    free(r->load);
    free(r->given);
    free(r->local);
    pthread_mutex_destroy(&r->lock);
    pthread_cond_destroy(&r->changed);
    free(r);
}

proa_exchange proa_ep_group_exchange(proa_ep_group *r)
{
    return proa_a2a_exchange(r->a2a);
}

size_t proa_ep_group_exchange_bytes(const proa_ep_group *r)
{
    return proa_a2a_bytes(r->a2a) + (r->team != NULL ? proa_ep_team_bytes(r->team) : 0);
}

void proa_ep_group_attach(proa_ep_group *r, proa_forward *forward, int32_t step_rows_max)
{
    r->forward = forward;
    r->windows_max = proa_forward_windows(forward, step_rows_max);
    if (r->team != NULL)
        proa_ep_team_attach(r->team, forward);
    proa_forward_set_place(forward, proa_ep_group_place, r);
    proa_ep_group_rebalance_attach(r);
}

proa_forward *proa_ep_group_forward(const proa_ep_group *r)
{
    return r->forward;
}

const void *proa_ep_group_address(const proa_ep_group *r, size_t *bytes)
{
    return proa_post_address(proa_a2a_post(r->a2a), bytes);
}

void proa_ep_group_get_stats(proa_ep_group *r, proa_ep_group_stats *stats)
{
    pthread_mutex_lock(&r->lock);
    *stats = r->stats;
    stats->live = r->installed ? proa_group_mask_count(&r->view) : 0;
    pthread_mutex_unlock(&r->lock);
}
