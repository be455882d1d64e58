/* test_ranks_experts.c - experts that move between engines while requests run: every token and log probability is that of one engine alone,
 * before, during and after. */
#include "engine_client.h"
#include "ranks_fixture.h"
#include "ranks_model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

static engine_client clients[RANKS_MODEL_CLIENTS];

typedef struct moving {
    int32_t ranks, redundant;
    proa_ep_group_dispatch dispatch;
    bool overlap;
    proa_ep_group_rebalance rebalance;
} moving;

static ranks_fixture *open_moving(const ranks_model *m, const moving *how)
{
    const ranks_setup setup = {.ranks = how->ranks,
                               .redundant = how->redundant,
                               .window = 16,
                               .overlap = how->overlap,
                               .dispatch = how->dispatch,
                               .rebalance = how->rebalance,
                               .deadline_us = 1000000};
    ranks_fixture *f =
        ranks_fixture_open(&m->config, proa_checkpoint_weights(m->checkpoint), &ranks_model_options, &setup);
    assert_true(ranks_fixture_wait_live(f, how->ranks));
    return f;
}

/* Plans that were carried out, whoever coordinated them. */
static uint64_t rebalances(ranks_fixture *f, int32_t ranks)
{
    uint64_t sum = 0;
    for (int32_t i = 0; i < ranks; i++)
        sum += ranks_fixture_stats(f, i).rebalances;
    return sum;
}

/* ---- tests ---- */

/* Every third step a new plan, a layer or all of them at a time, in the middle of requests. */
static void experts_move_while_requests_run(void **state)
{
    const ranks_model *m = *state;
    static const moving table[] = {
        {4, 8, PROA_EP_DISPATCH_STATIC, false, {.iterations = 3, .layers_per_chunk = 1, .threshold = 1}},
        {8, 8, PROA_EP_DISPATCH_DYNAMIC, false, {.iterations = 3, .layers_per_chunk = 2, .threshold = 1}},
        {4, 0, PROA_EP_DISPATCH_STATIC, false, {.iterations = 3, .threshold = 1}},
        {4, 8, PROA_EP_DISPATCH_DYNAMIC, true, {.iterations = 5, .window = 2, .threshold = 1}},
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        ranks_fixture *f = open_moving(m, &table[i]);
        for (int round = 0; round < 2; round++) {
            ranks_model_send(clients, f, table[i].ranks, -1);
            ranks_model_check_all(m, clients);
        }
        uint64_t plans = rebalances(f, table[i].ranks);
        proa_ep_group_stats stats = ranks_fixture_stats(f, 1);
        print_message(
            "%d ranks, %d copies: %llu plans, %llu layers moved, %llu experts read here, version %u\n",
            table[i].ranks, table[i].redundant, (unsigned long long)plans,
            (unsigned long long)stats.layers_moved, (unsigned long long)stats.experts_read, stats.version);
        assert_true(plans >= 3 && stats.layers_moved >= 3 && stats.version > 3);
        ranks_fixture_close(f);
    }
}

/* Loads are even by construction, whatever the router says: all ranks send about as many outputs. */
static void fake_dispatch_is_even(void **state)
{
    const ranks_model *m = *state;
    static const moving how = {4, 0, PROA_EP_DISPATCH_FAKE, false, {0}};
    ranks_fixture *f = open_moving(m, &how);
    uint64_t least = UINT64_MAX, most = 0;
    ranks_model_send(clients, f, 4, -1);
    for (int32_t i = 0; i < RANKS_MODEL_CLIENTS; i++) {
        engine_client_wait_end(&clients[i]); /* the tokens mean nothing */
        engine_client_free(&clients[i]);
    }
    for (int32_t i = 0; i < 4; i++) {
        uint64_t bytes = ranks_fixture_stats(f, i).a2a.output_bytes;
        least = bytes < least ? bytes : least;
        most = bytes > most ? bytes : most;
    }
    print_message("outputs sent by a rank: %llu to %llu bytes\n", (unsigned long long)least,
                  (unsigned long long)most);
    assert_true(least > 0);
    assert_true(most <= least * 3 / 2);
    ranks_fixture_close(f);
}

/* The coordinator of the view dies while plans are made, and the rank comes back. */
static void ranks_die_while_experts_move(void **state)
{
    const ranks_model *m = *state;
    static const moving how = {
        8, 8, PROA_EP_DISPATCH_STATIC, false, {.iterations = 3, .layers_per_chunk = 1, .threshold = 1}};
    static const int32_t victims[] = {0, 5, 1};
    ranks_fixture *f = open_moving(m, &how);
    for (size_t i = 0; i < sizeof victims / sizeof victims[0]; i++) {
        ranks_model_send(clients, f, 8, victims[i]);
        engine_client_wait_tokens(&clients[0], 8);
        ranks_fixture_kill(f, victims[i]);
        ranks_model_check_all(m, clients);
        assert_true(ranks_fixture_wait_live(f, 7));
        ranks_fixture_start(f, victims[i]);
        assert_true(ranks_fixture_wait_live(f, 8));
    }
    ranks_model_send(clients, f, 8, -1);
    ranks_model_check_all(m, clients);
    assert_true(rebalances(f, 8) > 0);
    ranks_fixture_close(f);
}

/* Above the threshold nothing moves. */
static void what_is_even_stays(void **state)
{
    const ranks_model *m = *state;
    static const moving how = {
        4, 8, PROA_EP_DISPATCH_STATIC, false, {.iterations = 3, .layers_per_chunk = 1, .threshold = 0.01}};
    ranks_fixture *f = open_moving(m, &how);
    ranks_model_send(clients, f, 4, -1);
    ranks_model_check_all(m, clients);
    assert_int_equal(rebalances(f, 4), 0);
    for (int32_t i = 0; i < 4; i++)
        assert_int_equal(ranks_fixture_stats(f, i).layers_moved, 0);
    ranks_fixture_close(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(experts_move_while_requests_run),
        cmocka_unit_test(ranks_die_while_experts_move),
        cmocka_unit_test(fake_dispatch_is_even),
        cmocka_unit_test(what_is_even_stays),
    };
    return cmocka_run_group_tests(tests, ranks_model_load, ranks_model_unload);
}
