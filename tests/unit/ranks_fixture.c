/* ranks_fixture.c - see ranks_fixture.h. A link is two queues; when one of its ranks is killed, what is under way is lost, and the other
 * end hears of it after its messages. */
#include "ranks_fixture.h"
#include "patience.h"

#include "base/clock.h"
#include "engine/rebalance_wire.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <setjmp.h>
#include <cmocka.h>
#include <unistd.h>

enum { QUEUE = 4096, TICK_US = 5000, WAIT_US = 30000000 };

typedef enum kind { UP, DOWN, MESSAGE, REBALANCE } kind;

typedef struct event {
    kind kind;
    int32_t from;
    uint64_t life;
    proa_group_message message;
    uint64_t lives[FIXTURE_RANKS_MAX];
    proa_buf bytes; /* REBALANCE; owned */
} event;

typedef struct fixture_rank {
    ranks_fixture *f;
    int32_t number;
    uint64_t life;
    atomic_bool alive; /* written under lock */
    proa_device *device;
    proa_forward *forward;
    proa_ep_group *ranks;
    proa_engine *engine;
    pthread_t control;
    bool ends;
    proa_exchange inner;
    atomic_int left; /* calls of `stage` until it breaks; 0: it does not */
    ranks_stage stage;
    bool broken, buried; /* under lock */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    proa_rebalance_tables *tables;
    event *queue; /* [QUEUE] ring */
    int32_t first, count;
    pthread_mutex_t engine_lock; /* of `engine`, for nudges from other threads */
} fixture_rank;

struct ranks_fixture {
    const proa_model_config *config;
    const proa_weights *weights;
    proa_engine_options engine;
    ranks_setup setup;
    proa_post_hub *hub;
    uint64_t lives;
    fixture_rank ranks[FIXTURE_RANKS_MAX];
};

static void post(fixture_rank *to, const event *e)
{
    pthread_mutex_lock(&to->lock);
    if (to->alive) {
        PROA_ASSERT(to->count < QUEUE);
        event *place = &to->queue[(to->first + to->count++) % QUEUE];
        *place = *e;
        if (e->kind == MESSAGE && e->message.lives != NULL)
            place->message.lives = place->lives;
        pthread_cond_signal(&to->changed);
    } else {
        proa_buf bytes = e->bytes;
        proa_buf_free(&bytes);
    }
    pthread_mutex_unlock(&to->lock);
}

static void on_send(void *context, int32_t to, const proa_group_message *message)
{
    fixture_rank *r = context;
    event e = {.kind = MESSAGE, .from = r->number, .life = r->life, .message = *message};
    if (message->lives != NULL)
        memcpy(e.lives, message->lives, (size_t)proa_group_mask_count(&message->mask) * sizeof e.lives[0]);
    if (r->alive)
        post(&r->f->ranks[to], &e);
}

static void on_send_rebalance(void *context, const proa_group_mask *to, const proa_rebalance_message *message)
{
    fixture_rank *r = context;
    proa_expert_shape shape = proa_ep_group_expert_shape(r->ranks);
    for (int32_t i = proa_group_mask_lowest(to); i >= 0 && r->alive; i = proa_group_mask_next(to, i)) {
        event e = {.kind = REBALANCE, .from = r->number, .life = r->life};
        proa_rebalance_encode(message, &shape, &e.bytes);
        post(&r->f->ranks[i], &e);
    }
}

static void on_nudge(void *context)
{
    fixture_rank *r = context;
    pthread_mutex_lock(&r->engine_lock);
    if (r->engine != NULL)
        proa_engine_nudge(r->engine);
    pthread_mutex_unlock(&r->engine_lock);
}

static void on_stuck(void *context, const char *why)
{
    fixture_rank *r = context;
    print_error("rank %d is stuck: %s\n", r->number, why);
    abort();
}

static void take_rebalance(fixture_rank *r, event *e)
{
    proa_expert_shape shape = proa_ep_group_expert_shape(r->ranks);
    proa_rebalance_message message;
    proa_error err;
    if (proa_rebalance_decode(e->bytes.data, e->bytes.length, &shape, r->tables, &message, &err) != PROA_OK) {
        print_error("rank %d sends rank %d: %s\n", e->from, r->number, err.text);
        abort();
    }
    proa_ep_group_receive_rebalance(r->ranks, &message);
    proa_buf_free(&e->bytes);
}

static void take(fixture_rank *r, event *e)
{
    switch (e->kind) {
    case UP: proa_ep_group_peer_up(r->ranks, e->from, e->life, NULL, 0); break;
    case DOWN: proa_ep_group_peer_down(r->ranks, e->from, e->life); break;
    case MESSAGE: proa_ep_group_receive(r->ranks, &e->message); break;
    case REBALANCE: take_rebalance(r, e); break;
    }
}

static void *run_control(void *context)
{
    fixture_rank *r = context;
    event e;
    int64_t ticked_us = 0;
    pthread_mutex_lock(&r->lock);
    while (!r->ends) {
        struct timespec deadline = proa_clock_deadline(TICK_US);
        if (r->count == 0)
            pthread_cond_timedwait(&r->changed, &r->lock, &deadline);
        bool any = r->count > 0;
        if (any) {
            e = r->queue[r->first];
            if (e.kind == MESSAGE && e.message.lives != NULL)
                e.message.lives = e.lives;
            r->first = (r->first + 1) % QUEUE;
            r->count--;
        }
        pthread_mutex_unlock(&r->lock);
        if (any)
            take(r, &e);
        if (!any || proa_clock_us() - ticked_us >= TICK_US) {
            proa_ep_group_tick(r->ranks);
            ticked_us = proa_clock_us();
        }
        pthread_mutex_lock(&r->lock);
    }
    pthread_mutex_unlock(&r->lock);
    return NULL;
}

/* ---- breaking in the middle of a step ---- */

static void tell(ranks_fixture *f, int32_t rank, kind what);

static void break_here(fixture_rank *r)
{
    pthread_mutex_lock(&r->lock);
    r->alive = false;
    r->count = 0;
    pthread_mutex_unlock(&r->lock);
    tell(r->f, r->number, DOWN);
    pthread_mutex_lock(&r->lock);
    r->broken = true;
    pthread_cond_broadcast(&r->changed);
    while (!r->buried)
        pthread_cond_wait(&r->changed, &r->lock);
    pthread_mutex_unlock(&r->lock);
}

static void pass(fixture_rank *r, ranks_stage stage)
{
    if (atomic_load(&r->left) > 0 && r->stage == stage && atomic_fetch_sub(&r->left, 1) == 1)
        break_here(r);
}

static proa_status on_dispatch(void *context, int32_t lane, const proa_dispatch_args *args, proa_error *err)
{
    fixture_rank *r = context;
    pass(r, AT_DISPATCH);
    return r->inner.dispatch(r->inner.context, lane, args, err);
}

static proa_status on_receive(void *context, int32_t lane, proa_dispatched *work, proa_error *err)
{
    fixture_rank *r = context;
    pass(r, AT_RECEIVE);
    return r->inner.receive(r->inner.context, lane, work, err);
}

static void on_put(void *context, int32_t lane, int32_t count, const int32_t *slots, const float *y)
{
    fixture_rank *r = context;
    pass(r, AT_PUT);
    r->inner.put(r->inner.context, lane, count, slots, y);
}

static proa_status on_give_back(void *context, int32_t lane, proa_error *err)
{
    fixture_rank *r = context;
    pass(r, AT_GIVE_BACK);
    return r->inner.give_back(r->inner.context, lane, err);
}

static proa_status on_collect(void *context, int32_t lane, proa_collected *out, proa_error *err)
{
    fixture_rank *r = context;
    pass(r, AT_COLLECT);
    return r->inner.collect(r->inner.context, lane, out, err);
}

static void on_progress(void *context)
{
    const fixture_rank *r = context;
    r->inner.progress(r->inner.context);
}

static proa_exchange exchange_of(fixture_rank *r)
{
    r->inner = proa_ep_group_exchange(r->ranks);
    proa_exchange outer = r->inner;
    outer.context = r;
    outer.dispatch = on_dispatch;
    outer.receive = on_receive;
    outer.put = on_put;
    outer.give_back = on_give_back;
    outer.collect = on_collect;
    outer.progress = on_progress;
    return outer;
}

static void open_rank(fixture_rank *r)
{
    ranks_fixture *f = r->f;
    proa_error err = {0};
    proa_forward_limits limits;
    proa_ep_group_options options = {
        .ranks = f->setup.ranks,
        .rank = r->number,
        .nodes = 1,
        .life = r->life,
        .redundant_experts = f->setup.redundant,
        .dispatch = f->setup.dispatch,
        .rebalance = f->setup.rebalance,
        .location = f->setup.location,
        .two_batch_overlap = f->setup.overlap,
        .rows_max = f->setup.window,
        .team_size = f->setup.team,
        .team_brought_max = f->setup.brought_max,
        .deadline_us = f->setup.deadline_us * test_patience(),
        .hub = f->hub,
        .hooks = {.send = on_send,
                  .send_rebalance = on_send_rebalance,
                  .nudge = on_nudge,
                  .stuck = on_stuck,
                  .context = r},
    };
    proa_team team;
    proa_status status = proa_engine_forward_limits(&f->engine, &limits, &err);
    limits.kv_cache = f->setup.kv_cache;
    options.step_limits = limits;
    if (status == PROA_OK)
        status = proa_device_create("cpu", 1, PROA_PRECISION_DEFAULT, &r->device, &err);
    if (status == PROA_OK)
        status = proa_ep_group_create(&options, f->config, PROA_PRECISION_DEFAULT, &r->ranks, &err);
    if (status == PROA_OK) {
        proa_exchange exchange = exchange_of(r);
        limits.exchange = &exchange;
        limits.team = proa_ep_group_team(r->ranks, &team) ? &team : NULL;
        limits.overlap_threshold = 0.48;
        status = proa_forward_create(f->config, f->weights, r->device, &limits, &r->forward, &err);
    }
    proa_engine *engine = NULL;
    if (status == PROA_OK)
        status =
            proa_engine_start_ranks(&f->engine, f->config, r->forward, r->device, r->ranks, &engine, &err);
    if (status != PROA_OK)
        fail_msg("rank %d: %s", r->number, err.text);
    pthread_mutex_lock(&r->engine_lock);
    r->engine = engine;
    pthread_mutex_unlock(&r->engine_lock);
    r->ends = r->broken = r->buried = false;
    pthread_mutex_lock(&r->lock);
    r->alive = true;
    pthread_mutex_unlock(&r->lock);
    assert_int_equal(pthread_create(&r->control, NULL, run_control, r), 0);
}

static void close_rank(fixture_rank *r)
{
    pthread_mutex_lock(&r->lock);
    r->alive = false;
    r->ends = true;
    for (; r->count > 0; r->count--) {
        proa_buf_free(&r->queue[r->first].bytes);
        r->first = (r->first + 1) % QUEUE;
    }
    pthread_cond_signal(&r->changed);
    pthread_mutex_unlock(&r->lock);
    proa_ep_group_stop(r->ranks);
    pthread_mutex_lock(&r->lock);
    r->buried = true; /* its waits end now: the engine may go on to its end */
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->lock);
    pthread_join(r->control, NULL);
    pthread_mutex_lock(&r->engine_lock);
    proa_engine *engine = r->engine;
    r->engine = NULL;
    pthread_mutex_unlock(&r->engine_lock);
    proa_engine_stop(engine);
    proa_forward_free(r->forward);
    proa_ep_group_free(r->ranks);
    proa_device_free(r->device);
}

/* Both ends hear that the link is there, or that it is gone. */
static void tell(ranks_fixture *f, int32_t rank, kind what)
{
    for (int32_t i = 0; i < f->setup.ranks; i++) {
        if (i == rank || !f->ranks[i].alive)
            continue;
        post(&f->ranks[i], &(event){.kind = what, .from = rank, .life = f->ranks[rank].life});
        if (what == UP)
            post(&f->ranks[rank], &(event){.kind = what, .from = i, .life = f->ranks[i].life});
    }
}

ranks_fixture *ranks_fixture_open(const proa_model_config *config, const proa_weights *weights,
                                  const proa_engine_options *engine, const ranks_setup *setup)
{
    ranks_fixture *f = calloc(1, sizeof *f);
    f->config = config;
    f->weights = weights;
    f->engine = *engine;
    f->setup = *setup;
    f->hub = proa_post_hub_create(setup->ranks);
    for (int32_t i = 0; i < setup->ranks; i++) {
        fixture_rank *r = &f->ranks[i];
        *r = (fixture_rank){.f = f, .number = i, .life = ++f->lives};
        pthread_mutex_init(&r->lock, NULL);
        pthread_mutex_init(&r->engine_lock, NULL);
        proa_clock_cond_init(&r->changed);
        r->queue = calloc(QUEUE, sizeof *r->queue);
        r->tables = calloc(1, sizeof *r->tables);
        open_rank(r);
        tell(f, i, UP);
    }
    return f;
}

void ranks_fixture_close(ranks_fixture *f)
{
    for (int32_t i = 0; i < f->setup.ranks; i++) {
        if (f->ranks[i].alive)
            close_rank(&f->ranks[i]);
    }
    for (int32_t i = 0; i < f->setup.ranks; i++) { /* nobody posts to them any more */
        fixture_rank *r = &f->ranks[i];
        pthread_mutex_destroy(&r->lock);
        pthread_mutex_destroy(&r->engine_lock);
        pthread_cond_destroy(&r->changed);
        free(r->queue);
        free(r->tables);
    }
    proa_post_hub_free(f->hub);
    free(f);
}

proa_engine *ranks_fixture_engine(ranks_fixture *f, int32_t rank)
{
    return f->ranks[rank].engine;
}

proa_forward *ranks_fixture_forward(ranks_fixture *f, int32_t rank)
{
    return f->ranks[rank].forward;
}

proa_ep_group_stats ranks_fixture_stats(ranks_fixture *f, int32_t rank)
{
    proa_ep_group_stats stats;
    proa_ep_group_get_stats(f->ranks[rank].ranks, &stats);
    return stats;
}

bool ranks_fixture_wait_live(ranks_fixture *f, int32_t live)
{
    int64_t deadline = proa_clock_us() + (int64_t)WAIT_US * test_patience();
    while (proa_clock_us() < deadline) {
        bool all = true;
        for (int32_t i = 0; i < f->setup.ranks && all; i++) {
            if (!f->ranks[i].alive)
                continue;
            proa_ep_group_stats stats = ranks_fixture_stats(f, i);
            all = stats.live == live && stats.steps > 0;
        }
        if (all)
            return true;
        usleep(2000);
    }
    return false;
}

void ranks_fixture_kill(ranks_fixture *f, int32_t rank)
{
    close_rank(&f->ranks[rank]);
    tell(f, rank, DOWN);
}

void ranks_fixture_break_at(ranks_fixture *f, int32_t rank, ranks_stage stage, int count)
{
    fixture_rank *r = &f->ranks[rank];
    r->stage = stage;
    atomic_store(&r->left, count);
}

bool ranks_fixture_bury(ranks_fixture *f, int32_t rank)
{
    fixture_rank *r = &f->ranks[rank];
    int64_t deadline = proa_clock_us() + (int64_t)WAIT_US * test_patience();
    bool broken = false;
    while (!broken && proa_clock_us() < deadline) {
        pthread_mutex_lock(&r->lock);
        broken = r->broken;
        pthread_mutex_unlock(&r->lock);
        usleep(1000);
    }
    if (broken)
        close_rank(r);
    return broken;
}

void ranks_fixture_start(ranks_fixture *f, int32_t rank)
{
    f->ranks[rank].life = ++f->lives;
    open_rank(&f->ranks[rank]);
    tell(f, rank, UP);
}
