/* test_ranks_outside.c - one rank of a group whose others are messages that the test says: it is left outside, it leaves a view while it still
 * connects to its members, and its connections take their time. */
#include "ranks_model.h"

#include "base/clock.h"
#include "engine/ep_group.h"
#include "net/post.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <unistd.h>

enum { LIFE = 77, OTHER_LIFE = 5, RANKS_MAX = 6 };

typedef struct outsider {
    int32_t count, rank;
    proa_post_hub *hub;
    proa_device *device;
    proa_forward *forward;
    proa_ep_group *ranks;
    int joins; /* JOIN messages */
    atomic_bool stuck;
} outsider;

static void on_send(void *context, int32_t rank, const proa_group_message *message)
{
    outsider *o = context;
    (void)rank;
    o->joins += message->kind == PROA_GROUP_JOIN;
}

static void on_nudge(void *context)
{
    (void)context;
}

static void on_stuck(void *context, const char *why)
{
    outsider *o = context;
    if (!atomic_exchange(&o->stuck, true))
        print_error("%s\n", why);
}

/* `redundant` experts, so that those of the model divide among the ranks. */
static void open_outsider(outsider *o, const ranks_model *m, int32_t ranks, int32_t rank, int32_t redundant)
{
    *o = (outsider){.count = ranks, .rank = rank, .hub = proa_post_hub_create(ranks)};
    proa_error err = {0};
    proa_forward_limits limits;
    const proa_ep_group_options options = {
        .ranks = ranks,
        .rank = rank,
        .nodes = 1,
        .life = LIFE,
        .redundant_experts = redundant,
        .rows_max = 16,
        .deadline_us = 1000000,
        .outside_us = 400000,
        .hub = o->hub,
        .hooks = {.send = on_send, .nudge = on_nudge, .stuck = on_stuck, .context = o},
    };
    assert_int_equal(proa_device_create("cpu", 1, PROA_PRECISION_DEFAULT, &o->device, &err), PROA_OK);
    if (proa_ep_group_create(&options, &m->config, PROA_PRECISION_DEFAULT, &o->ranks, &err) != PROA_OK)
        fail_msg("%s", err.text);
    assert_int_equal(proa_engine_forward_limits(&ranks_model_options, &limits, &err), PROA_OK);
    proa_exchange exchange = proa_ep_group_exchange(o->ranks);
    limits.exchange = &exchange;
    assert_int_equal(proa_forward_create(&m->config, proa_checkpoint_weights(m->checkpoint), o->device,
                                         &limits, &o->forward, &err),
                     PROA_OK);
    proa_ep_group_attach(o->ranks, o->forward, limits.rows_max);
    for (int32_t i = 0; i < ranks; i++) {
        if (i != rank)
            proa_ep_group_peer_up(o->ranks, i, OTHER_LIFE, NULL, 0);
    }
}

static void close_outsider(outsider *o)
{
    assert_false(atomic_load(&o->stuck));
    proa_forward_free(o->forward);
    proa_ep_group_free(o->ranks);
    proa_device_free(o->device);
    proa_post_hub_free(o->hub);
}

/* ---- what the others say ---- */

static proa_group_message message_of(proa_group_kind kind, int32_t from, uint64_t count, uint64_t members)
{
    return (proa_group_message){
        .kind = kind,
        .from = from,
        .life = OTHER_LIFE,
        .epoch = {.count = count, .rank = from, .life = OTHER_LIFE},
        .inside = true,
        .mask = {{members}},
    };
}

/* Rank `from` is in a view with these. */
static void hear_status(outsider *o, int32_t from, uint64_t count, uint64_t members)
{
    const proa_group_message m = message_of(PROA_GROUP_STATUS, from, count, members);
    proa_ep_group_receive(o->ranks, &m);
}

/* And this rank as well. */
static void hear_view(outsider *o, int32_t from, uint64_t count, uint64_t members)
{
    uint64_t lives[RANKS_MAX];
    int32_t used = 0;
    proa_group_message m = message_of(PROA_GROUP_VIEW, from, count, members);
    for (int32_t i = 0; i < o->count; i++) {
        if (members >> i & 1)
            lives[used++] = i == o->rank ? LIFE : OTHER_LIFE;
    }
    m.lives = lives;
    proa_ep_group_receive(o->ranks, &m);
}

static int32_t live_of(outsider *o)
{
    proa_ep_group_stats stats;
    proa_ep_group_get_stats(o->ranks, &stats);
    return stats.live;
}

/* ---- connections ---- */

static struct {
    int made[RANKS_MAX];
    useconds_t each_us; /* that one takes */
    outsider *leaves;   /* at the first one, it hears of a better view */
} connecting;

proa_status __real_proa_post_connect(proa_post *post, int32_t rank, const void *address, size_t bytes,
                                     proa_error *err);
proa_status __wrap_proa_post_connect(proa_post *post, int32_t rank, const void *address, size_t bytes,
                                     proa_error *err);

proa_status __wrap_proa_post_connect(proa_post *post, int32_t rank, const void *address, size_t bytes,
                                     proa_error *err)
{
    outsider *leaves = connecting.leaves;
    connecting.leaves = NULL;
    connecting.made[rank]++;
    usleep(connecting.each_us);
    if (leaves != NULL)
        hear_status(leaves, 0, 1, 7);
    return __real_proa_post_connect(post, rank, address, bytes, err);
}

/* Ranks 3, 4 and 5 are a view, and while rank 3 connects to 4 it hears of that of 0, 1 and 2, which is better. */
static void a_view_is_left_while_it_is_installed(void **state)
{
    outsider o;
    open_outsider(&o, *state, 6, 3, 4);
    memset(&connecting, 0, sizeof connecting);
    connecting.leaves = &o;
    hear_view(&o, 5, 1, 0x38);
    assert_true(proa_ep_group_idle(o.ranks));
    assert_int_equal(o.joins, 1);
    assert_int_equal(connecting.made[4], 1);
    assert_int_equal(connecting.made[5], 0);
    assert_int_equal(live_of(&o), 0);
    /* All others have closed their ends: each is connected to anew. */
    memset(&connecting, 0, sizeof connecting);
    hear_view(&o, 0, 2, 0x3f);
    assert_true(proa_ep_group_idle(o.ranks));
    for (int32_t i = 0; i < 6; i++)
        assert_int_equal(connecting.made[i], i != o.rank);
    assert_int_equal(live_of(&o), 6);
    close_outsider(&o);
}

/* It is left before the engine thread has come for it: it is not installed at all. */
static void a_view_is_left_before_it_is_installed(void **state)
{
    outsider o;
    open_outsider(&o, *state, 6, 3, 4);
    memset(&connecting, 0, sizeof connecting);
    hear_view(&o, 5, 1, 0x38);
    hear_status(&o, 0, 1, 7);
    assert_int_equal(o.joins, 1);
    proa_ep_group_idle(o.ranks);
    for (int32_t i = 0; i < 6; i++)
        assert_int_equal(connecting.made[i], 0);
    assert_int_equal(live_of(&o), 0);
    close_outsider(&o);
}

static void *tick_for_a_while(void *context)
{
    for (int i = 0; i < 200; i++, usleep(10000))
        proa_ep_group_tick(context);
    return NULL;
}

/* Five connections of 0.4 s each are no engine thread that hangs, though together they take longer than its 1 s. */
static void slow_connections_are_progress(void **state)
{
    outsider o;
    pthread_t control;
    open_outsider(&o, *state, 6, 3, 4);
    memset(&connecting, 0, sizeof connecting);
    connecting.each_us = 400000;
    hear_view(&o, 0, 1, 0x3f);
    assert_int_equal(pthread_create(&control, NULL, tick_for_a_while, o.ranks), 0);
    assert_true(proa_ep_group_idle(o.ranks));
    assert_int_equal(live_of(&o), 6);
    pthread_join(control, NULL);
    close_outsider(&o);
}

/* ---- outside ---- */

/* Ranks 0 and 1 say that they are a group without this one; twice, since it may knock a while after the first time. */
static void hear_of_the_others(outsider *o)
{
    hear_status(o, 0, 1, 3);
    usleep(600000);
    hear_status(o, 0, 1, 3);
    assert_int_equal(o->joins, 1);
}

/* A rank that the others do not take in says so, and its requests end soon: they can go on elsewhere. */
static void a_rank_outside_lets_go(void **state)
{
    outsider o;
    pthread_t control;
    float *logits;
    proa_error err = {0};
    const proa_step step = {.row_count = 1};
    open_outsider(&o, *state, 3, 2, 1);
    assert_false(proa_ep_group_is_away(o.ranks));
    hear_of_the_others(&o);
    assert_int_equal(pthread_create(&control, NULL, tick_for_a_while, o.ranks), 0);
    int64_t begun = proa_clock_us();
    assert_int_equal(proa_ep_group_step(o.ranks, &step, &logits, &err), PROA_ERR_DEADLINE);
    assert_true(proa_clock_us() - begun < 15000000); /* 30 s, if it were a member */
    assert_non_null(strstr(err.text, "rank 2 has been outside of the group of 3 ranks for "));
    assert_true(proa_ep_group_is_away(o.ranks));
    pthread_join(control, NULL);
    close_outsider(&o);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_view_is_left_while_it_is_installed),
        cmocka_unit_test(a_view_is_left_before_it_is_installed),
        cmocka_unit_test(slow_connections_are_progress),
        cmocka_unit_test(a_rank_outside_lets_go),
    };
    return cmocka_run_group_tests(tests, ranks_model_load, ranks_model_unload);
}
