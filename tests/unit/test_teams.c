/* test_teams.c - engines that share heads and experts (tiny-r1, 4 heads): whatever the size of teams, whatever is reused, handed off or dies,
 * requests get the tokens and log probabilities that one engine alone gives them, bit for bit. */
#include "engine_client.h"
#include "patience.h"
#include "ranks_fixture.h"
#include "ranks_model.h"

#include "base/clock.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <unistd.h>

enum { CLIENTS = RANKS_MODEL_CLIENTS, BLOCK = PROA_KV_BLOCK_TOKENS };

typedef struct shape {
    int32_t ranks, team, redundant, chunk, window, brought_max;
} shape;

static ranks_fixture *open_role(const ranks_model *m, const shape *s, proa_engine_role role)
{
    const ranks_setup setup = {.ranks = s->ranks,
                               .team = s->team,
                               .redundant = s->redundant,
                               .window = s->window,
                               .brought_max = s->brought_max,
                               .kv_cache = m->kv_cache,
                               .deadline_us = 1000000};
    proa_engine_options options = ranks_model_options;
    options.chunked_prefill_size = s->chunk;
    options.role = role;
    ranks_fixture *f =
        ranks_fixture_open(&m->config, proa_checkpoint_weights(m->checkpoint), &options, &setup);
    assert_true(ranks_fixture_wait_live(f, s->ranks));
    return f;
}

static ranks_fixture *open(const ranks_model *m, const shape *s)
{
    return open_role(m, s, PROA_ENGINE_COMBINED);
}

static engine_client clients[CLIENTS];

/* Requests go to the leaders of teams, in turn. */
static int32_t leader_of(const shape *s, int32_t number)
{
    return number % (s->ranks / s->team) * s->team;
}

static void send(ranks_fixture *f, int32_t rank, int32_t number)
{
    engine_client_draw(&clients[number], ranks_fixture_engine(f, rank), (uint64_t)number + 1,
                       RANKS_MODEL_NEW);
    assert_int_equal(engine_client_send(&clients[number]), PROA_OK);
}

static void check_ended(const ranks_model *m, int32_t number)
{
    engine_client_wait_end(&clients[number]);
    ranks_model_check(m, &clients[number], number);
    engine_client_free(&clients[number]);
}

static void ask_all(const ranks_model *m, ranks_fixture *f, const shape *s)
{
    for (int32_t i = 0; i < CLIENTS; i++)
        send(f, leader_of(s, i), i);
    for (int32_t i = 0; i < CLIENTS; i++)
        check_ended(m, i);
}

/* ---- tests ---- */

/* (tp, dp) = (2, 1), (4, 2), (4, 1), (8, 2); twice, so that the second time prompts are found in the cache, some within a block. */
static void any_size_of_teams(void **state)
{
    static const shape shapes[] = {{2, 2, 0, 50, 16}, {4, 2, 8, 50, 5}, {4, 4, 0, -1, 64}, {8, 4, 8, 17, 16}};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        ranks_fixture *f = open(*state, &shapes[i]);
        ask_all(*state, f, &shapes[i]);
        ask_all(*state, f, &shapes[i]);
        proa_engine_stats stats;
        proa_engine_get_stats(ranks_fixture_engine(f, 0), &stats);
        assert_true(stats.cached_tokens > 100);
        assert_false(stats.away);
        proa_engine_get_stats(ranks_fixture_engine(f, 1), &stats);
        assert_int_equal(stats.steps, 0); /* a follower's engine has no requests */
        ranks_fixture_close(f);
    }
}

/* Teams without work take part in the steps of others. */
static void idle_teams(void **state)
{
    static const shape s = {8, 2, 0, 50, 16};
    ranks_fixture *f = open(*state, &s);
    for (int32_t i = 0; i < 4; i++)
        send(f, 4, i);
    for (int32_t i = 0; i < 4; i++)
        check_ended(*state, i);
    usleep(300000);
    proa_ep_group_stats before = ranks_fixture_stats(f, 0), after;
    usleep(300000);
    after = ranks_fixture_stats(f, 0);
    assert_int_equal(after.steps, before.steps);
    ranks_fixture_close(f);
}

static void wait_away(ranks_fixture *f, int32_t rank, bool away)
{
    int64_t deadline = proa_clock_us() + (int64_t)30000000 * test_patience();
    proa_engine_stats stats;
    do {
        assert_true(proa_clock_us() < deadline);
        usleep(2000);
        proa_engine_get_stats(ranks_fixture_engine(f, rank), &stats);
    } while (stats.away != away);
}

/* What runs at its leader ends, for others to replay; other teams go on with its experts taken over; nothing is taken until another process is
 * there, which gets what it lacks of the leader's cache. */
static void a_follower_dies_and_returns(void **state)
{
    static const shape s = {6, 2, 10, 50, 16};
    const ranks_model *m = *state;
    ranks_fixture *f = open(m, &s);
    for (int32_t round = 0; round < 2; round++) {
        int32_t victim = 2 * round + 1, leader = victim - 1;
        ask_all(m, f, &s);
        for (int32_t i = 0; i < CLIENTS; i++)
            send(f, i % 3 * 2, i);
        for (int32_t i = 0; i < CLIENTS; i++)
            engine_client_wait_tokens(&clients[i], i % 3 * 2 == leader ? 1 : 0);
        ranks_fixture_kill(f, victim);
        wait_away(f, leader, true);
        for (int32_t i = 0; i < CLIENTS; i++) {
            engine_client_wait_end(&clients[i]);
            if (i % 3 * 2 != leader)
                ranks_model_check(m, &clients[i], i);
            else if (clients[i].finish.reason == PROA_FINISH_ABORT)
                assert_int_equal(clients[i].finish.error.status, PROA_ERR_DEADLINE);
            engine_client_free(&clients[i]);
        }
        engine_client_draw(&clients[0], ranks_fixture_engine(f, leader), 1, RANKS_MODEL_NEW);
        assert_int_equal(engine_client_send(&clients[0]),
                         PROA_OK); /* of a frontend that does not know it yet */
        engine_client_wait_end(&clients[0]);
        assert_int_equal(clients[0].finish.error.status, PROA_ERR_DEADLINE);
        engine_client_free(&clients[0]);
        ranks_fixture_start(f, victim);
        assert_true(ranks_fixture_wait_live(f, s.ranks));
        wait_away(f, leader, false);
        proa_engine_stats before, after;
        proa_engine_get_stats(ranks_fixture_engine(f, leader), &before);
        ask_all(m, f, &s);
        proa_engine_get_stats(ranks_fixture_engine(f, leader), &after);
        assert_true(after.cached_tokens >
                    before.cached_tokens); /* of the cache that the new process has not seen */
    }
    ranks_fixture_close(f);
}

static void a_leader_dies_and_returns(void **state)
{
    static const shape s = {4, 2, 8, 50, 16};
    ranks_fixture *f = open(*state, &s);
    for (int32_t i = 0; i < 4; i++)
        send(f, 2, i);
    engine_client_wait_tokens(&clients[0], 3);
    ranks_fixture_kill(f, 0);
    for (int32_t i = 0; i < 4; i++)
        check_ended(*state, i);
    assert_true(ranks_fixture_wait_live(f, 3));
    ranks_fixture_start(f, 0);
    assert_true(ranks_fixture_wait_live(f, 4));
    ask_all(*state, f, &s);
    ranks_fixture_close(f);
}

/* ---- hand-off ---- */

static proa_kv_layout layout_of(const ranks_model *m, ranks_fixture *f, int32_t rank)
{
    proa_forward_kv kv = proa_forward_kv_memory(ranks_fixture_forward(f, rank));
    return (proa_kv_layout){
        .base = kv.base,
        .layers = m->config.num_hidden_layers,
        .blocks = (int32_t)(kv.layer_bytes / kv.row_bytes / BLOCK),
        .row_bytes = kv.row_bytes,
        .block_bytes = BLOCK * kv.row_bytes,
        .layer_bytes = kv.layer_bytes,
    };
}

typedef struct way {
    proa_kv_layout from, to;
    const int32_t *to_blocks;
} way;

static void copy_rows(engine_client *c, const proa_engine_rows *rows)
{
    const way *w = c->copy_context;
    engine_client_copy_rows(&w->from, rows->blocks, &w->to, w->to_blocks, c->copied, rows->rows - c->copied);
    c->copied = rows->rows;
}

/* The prompt is computed by rank 0 of `prefill`, the rest by a leader of `decode`, to whose followers the rows must be brought. */
static void hand_off(const ranks_model *m, ranks_fixture *prefill, ranks_fixture *decode, int32_t to,
                     int32_t number)
{
    static engine_client first;
    engine_client *rest = &clients[number];
    engine_client_draw(&first, ranks_fixture_engine(prefill, 0), (uint64_t)number + 1, RANKS_MODEL_NEW);
    send(decode, to, number);
    engine_client_wait_rows(rest);
    way w = {layout_of(m, prefill, 0), layout_of(m, decode, to), rest->blocks};
    first.copy = copy_rows;
    first.copy_context = &w;
    assert_int_equal(engine_client_send(&first), PROA_OK);
    engine_client_wait_tokens(&first, 1);
    assert_int_equal(first.copied, rest->rows);
    proa_engine_adopt(ranks_fixture_engine(decode, to), rest->id, &first.results[0], 0);
    proa_engine_release(ranks_fixture_engine(prefill, 0), first.id);
    engine_client_wait_end(&first);
    assert_int_equal(first.finish.reason, PROA_FINISH_LENGTH);
    engine_client_free(&first);
}

static void what_is_handed_off_goes_on(void **state)
{
    static const shape shapes[][2] = {{{4, 2, 0, 50, 16}, {4, 2, 0, 50, 16}},
                                      {{2, 1, 0, 50, 16}, {4, 4, 0, 50, 16, 1}}, /* a block a step */
                                      {{2, 2, 0, 50, 16}, {2, 1, 0, 50, 16}}};
    for (size_t k = 0; k < sizeof shapes / sizeof shapes[0]; k++) {
        ranks_fixture *prefill = open_role(*state, &shapes[k][0], PROA_ENGINE_PREFILL);
        ranks_fixture *decode = open_role(*state, &shapes[k][1], PROA_ENGINE_DECODE);
        for (int32_t round = 0; round < 2; round++) { /* the second time in blocks that were used before */
            for (int32_t i = 0; i < CLIENTS; i++)
                hand_off(*state, prefill, decode, leader_of(&shapes[k][1], i), i);
            for (int32_t i = 0; i < CLIENTS; i++)
                check_ended(*state, i);
        }
        ranks_fixture_close(prefill);
        ranks_fixture_close(decode);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_size_of_teams),           cmocka_unit_test(idle_teams),
        cmocka_unit_test(a_follower_dies_and_returns), cmocka_unit_test(a_leader_dies_and_returns),
        cmocka_unit_test(what_is_handed_off_goes_on),
    };
    const struct CMUnitTest fp8_tests[] = {
        cmocka_unit_test(any_size_of_teams),
        cmocka_unit_test(what_is_handed_off_goes_on),
    };
    int failed = cmocka_run_group_tests(tests, ranks_model_load, ranks_model_unload);
    return failed + cmocka_run_group_tests_name("teams, FP8 KV cache", fp8_tests,
                                                ranks_model_load_for_fp8_cache, ranks_model_unload);
}
