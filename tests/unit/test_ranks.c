/* test_ranks.c - engines that share their experts (tiny-r1): whatever their number, and while ranks die, come back or stall, each request
 * gets the tokens and log probabilities that one engine alone gives it, bit for bit. */
#include "engine_client.h"
#include "ranks_fixture.h"
#include "ranks_model.h"

#include "base/clock.h"
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

static ranks_fixture *open(const ranks_model *m, int32_t ranks, int32_t redundant,
                           proa_ep_group_dispatch dispatch, bool overlap)
{
    const ranks_setup setup = {.ranks = ranks,
                               .redundant = redundant,
                               .window = 16,
                               .overlap = overlap,
                               .dispatch = dispatch,
                               .deadline_us = 1000000};
    ranks_fixture *f =
        ranks_fixture_open(&m->config, proa_checkpoint_weights(m->checkpoint), &ranks_model_options, &setup);
    assert_true(ranks_fixture_wait_live(f, ranks));
    return f;
}

static engine_client clients[RANKS_MODEL_CLIENTS];

/* ---- tests ---- */

static void any_number_of_ranks(void **state)
{
    const ranks_model *m = *state;
    static const struct {
        int32_t ranks, redundant;
        proa_ep_group_dispatch dispatch;
        bool overlap;
    } table[] = {
        {1, 0, PROA_EP_DISPATCH_STATIC},  {2, 0, PROA_EP_DISPATCH_STATIC},
        {2, 6, PROA_EP_DISPATCH_DYNAMIC}, {8, 0, PROA_EP_DISPATCH_STATIC},
        {8, 8, PROA_EP_DISPATCH_DYNAMIC}, {4, 8, PROA_EP_DISPATCH_DYNAMIC, .overlap = true},
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        ranks_fixture *f = open(m, table[i].ranks, table[i].redundant, table[i].dispatch, table[i].overlap);
        ranks_model_send(clients, f, table[i].ranks, -1);
        ranks_model_check_all(m, clients);
        ranks_fixture_close(f);
    }
}

/* When nobody has work, no step is made. */
static void idle_ranks_are_quiet(void **state)
{
    const ranks_model *m = *state;
    ranks_fixture *f = open(m, 4, 0, PROA_EP_DISPATCH_STATIC, false);
    usleep(300000);
    proa_ep_group_stats before = ranks_fixture_stats(f, 0), after;
    usleep(300000);
    after = ranks_fixture_stats(f, 0);
    assert_int_equal(after.steps, before.steps);
    assert_int_equal(after.messages, before.messages);
    ranks_model_send(clients, f, 4, -1);
    ranks_model_check_all(m, clients);
    ranks_fixture_close(f);
}

/* A rank that has no requests dies while others compute, and comes back. */
static void a_rank_dies_and_returns(void **state)
{
    const ranks_model *m = *state;
    static const int32_t victims[] = {3, 0, 7};
    ranks_fixture *f = open(m, 8, 8, PROA_EP_DISPATCH_STATIC, false);
    for (size_t i = 0; i < sizeof victims / sizeof victims[0]; i++) {
        ranks_model_send(clients, f, 8, victims[i]);
        engine_client_wait_tokens(&clients[0], 3);
        ranks_fixture_kill(f, victims[i]);
        ranks_model_check_all(m, clients);
        assert_true(ranks_fixture_wait_live(f, 7));
        proa_ep_group_stats stats = ranks_fixture_stats(f, victims[i] == 1 ? 2 : 1);
        print_message("rank %d of 8 dies: steps go on after %.0f ms\n", victims[i],
                      (double)stats.recovery_us / 1e3);
        ranks_fixture_start(f, victims[i]);
        assert_true(ranks_fixture_wait_live(f, 8));
        ranks_model_send(clients, f, 8, -1);
        ranks_model_check_all(m, clients);
    }
    ranks_fixture_close(f);
}

/* A rank with requests of its own dies in the middle of a step, at each point of it, early and late: those of the others go on. */
static void a_rank_breaks_at_every_stage(void **state)
{
    const ranks_model *m = *state;
    static const int counts[STAGES] = {1, 14, 3, 1, 40}; /* in the first layer of a step, and later */
    ranks_fixture *f = open(m, 4, 0, PROA_EP_DISPATCH_STATIC, false);
    for (int32_t i = 0; i < STAGES; i++) {
        int32_t victim = (i + 1) % 4;
        ranks_model_send(clients, f, 4, -1);
        ranks_fixture_break_at(f, victim, (ranks_stage)i, counts[i]);
        if (!ranks_fixture_bury(f, victim))
            fail_msg("rank %d has not come to stage %d", victim, i);
        for (int32_t k = 0; k < RANKS_MODEL_CLIENTS; k++) {
            engine_client_wait_end(&clients[k]);
            if (ranks_model_home(k, 4, -1) != victim)
                ranks_model_check(m, &clients[k], k);
            engine_client_free(&clients[k]);
        }
        assert_true(ranks_fixture_wait_live(f, 3));
        ranks_fixture_start(f, victim);
        assert_true(ranks_fixture_wait_live(f, 4));
    }
    ranks_fixture_close(f);
}

/* Half of the ranks die at once: experts without a copy are read by those that are left. */
static void lose_half(const ranks_model *m, bool overlap)
{
    ranks_fixture *f = open(m, 4, 0, PROA_EP_DISPATCH_STATIC, overlap);
    for (int32_t i = 0; i < RANKS_MODEL_CLIENTS; i++) {
        engine_client_draw(&clients[i], ranks_fixture_engine(f, 2 + i % 2), (uint64_t)i + 1, RANKS_MODEL_NEW);
        assert_int_equal(engine_client_send(&clients[i]), PROA_OK);
    }
    engine_client_wait_tokens(&clients[0], 3);
    ranks_fixture_kill(f, 0);
    ranks_fixture_kill(f, 1);
    ranks_model_check_all(m, clients);
    assert_true(ranks_fixture_wait_live(f, 2));
    ranks_fixture_close(f);
}

static void half_of_the_ranks_die(void **state)
{
    lose_half(*state, false);
}

static void half_of_the_ranks_die_in_halves_of_steps(void **state)
{
    lose_half(*state, true);
}

/* ---- connections that take their time ---- */

/* A look at the first connection to rank 1, which rank 0 or 2 makes. */
static struct {
    atomic_bool wanted, answered;
    atomic_int held_up, made;
    ranks_fixture *f;
    pthread_t asker;
} look;

proa_status __real_proa_post_connect(proa_post *post, int32_t rank, const void *address, size_t bytes,
                                     proa_error *err);
proa_status __wrap_proa_post_connect(proa_post *post, int32_t rank, const void *address, size_t bytes,
                                     proa_error *err);

/* Takes the locks that control threads take. */
static void *ask(void *context)
{
    (void)context;
    ranks_fixture_stats(look.f, 0);
    ranks_fixture_stats(look.f, 2);
    atomic_store(&look.answered, true);
    return NULL;
}

proa_status __wrap_proa_post_connect(proa_post *post, int32_t rank, const void *address, size_t bytes,
                                     proa_error *err)
{
    const int64_t patience_us = 5000000;
    if (rank == 1 && atomic_exchange(&look.wanted, false)) {
        int64_t until_us = proa_clock_us() + patience_us;
        bool asked = pthread_create(&look.asker, NULL, ask, NULL) == 0;
        while (asked && !atomic_load(&look.answered) && proa_clock_us() < until_us)
            usleep(1000);
        atomic_store(&look.held_up, !atomic_load(&look.answered));
        atomic_store(&look.made, asked);
    }
    return __real_proa_post_connect(post, rank, address, bytes, err);
}

/* While a rank connects to others, its control thread goes on: else many connections on few processors would look like silence. */
static void connections_hold_nobody_up(void **state)
{
    ranks_fixture *f = open(*state, 3, 1, PROA_EP_DISPATCH_STATIC, false);
    look.f = f;
    ranks_fixture_kill(f, 1);
    assert_true(ranks_fixture_wait_live(f, 2));
    atomic_store(&look.wanted, true);
    ranks_fixture_start(f, 1);
    assert_true(ranks_fixture_wait_live(f, 3));
    assert_true(atomic_load(&look.made));
    pthread_join(look.asker, NULL);
    assert_false(atomic_load(&look.held_up));
    ranks_fixture_close(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_number_of_ranks),
        cmocka_unit_test(idle_ranks_are_quiet),
        cmocka_unit_test(a_rank_dies_and_returns),
        cmocka_unit_test(a_rank_breaks_at_every_stage),
        cmocka_unit_test(half_of_the_ranks_die),
        cmocka_unit_test(half_of_the_ranks_die_in_halves_of_steps),
        cmocka_unit_test(connections_hold_nobody_up),
    };
    return cmocka_run_group_tests(tests, ranks_model_load, ranks_model_unload);
}
