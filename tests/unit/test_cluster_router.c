/* test_cluster_router.c - which workers requests go to: modes, loads, failures, prefixes, and what is said when none can. */
#include "cluster/router.h"

#include "base/digest.h"
#include "base/random.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK = 64 };

static const proa_wire_leg P = PROA_LEG_PREFILL, D = PROA_LEG_DECODE, C = PROA_LEG_COMBINED;

static proa_router *make(proa_router_mode mode)
{
    proa_router *router =
        proa_router_create(&(proa_router_options){.mode = mode, .kv_overlap_weight = 1, .seed = 7});
    assert_non_null(router);
    return router;
}

/* A ready worker with room for `room` requests. */
static int32_t add_process(proa_router *router, proa_wire_leg leg, int32_t room, uint64_t epoch)
{
    int32_t number = proa_router_join(router, 1, epoch);
    assert_true(number >= 0);
    proa_wire_card card = {
        .leg = (uint8_t)leg, .running_max = room, .kv_tokens = 1 << 20, .context_length = 1 << 16};
    proa_router_ready(router, number, &card);
    return number;
}

static int32_t add(proa_router *router, proa_wire_leg leg, int32_t room)
{
    return add_process(router, leg, room, 1);
}

static void report(proa_router *router, int32_t worker, int32_t requests, int32_t blocks)
{
    proa_wire_load load = {
        .stats = {.running = requests, .kv_blocks_used = blocks, .kv_blocks_total = 1 << 14}};
    proa_router_load(router, worker, &load);
}

static proa_router_pick choose_at(proa_router *router, int64_t now_us)
{
    static const int32_t prompt[] = {1, 2, 3};
    proa_router_ask ask = {.prompt_ids = prompt, .prompt_count = 3, .now_us = now_us};
    proa_router_pick pick;
    proa_error err = {0};
    if (proa_router_choose(router, &ask, &pick, &err) != PROA_OK)
        fail_msg("%s", err.text);
    return pick;
}

/* Chooses and places. */
static proa_router_pick place(proa_router *router)
{
    proa_router_pick pick = choose_at(router, 0);
    if (pick.prefill >= 0)
        proa_router_placed(router, pick.prefill, BLOCK);
    proa_router_placed(router, pick.main, BLOCK);
    return pick;
}

static void test_round_robin(void **state)
{
    (void)state;
    proa_router *router = make(PROA_ROUTER_ROUND_ROBIN);
    int32_t p[3], d[2];
    for (int i = 0; i < 3; i++)
        p[i] = add(router, P, 100);
    for (int i = 0; i < 2; i++)
        d[i] = add(router, D, 100);
    for (int i = 0; i < 12; i++) {
        proa_router_pick pick = place(router);
        assert_int_equal(pick.prefill, p[i % 3]);
        assert_int_equal(pick.main, d[i % 2]);
    }
    proa_router_leave(router, p[1]);
    for (int i = 0; i < 4; i++)
        assert_int_not_equal(place(router).prefill, p[1]);
    proa_router_free(router);
}

static void test_random_repeats_and_spreads(void **state)
{
    (void)state;
    int32_t first[400], counts[4] = {0};
    for (int round = 0; round < 2; round++) {
        proa_router *router = make(PROA_ROUTER_RANDOM);
        for (int i = 0; i < 4; i++)
            add(router, C, 1000);
        for (int i = 0; i < 400; i++) {
            int32_t got = place(router).main;
            if (round == 0)
                counts[first[i] = got]++;
            else
                assert_int_equal(got, first[i]);
        }
        proa_router_free(router);
    }
    for (int i = 0; i < 4; i++)
        assert_in_range(counts[i], 70, 130);
}

static void test_least_loaded(void **state)
{
    (void)state;
    proa_router *router = make(PROA_ROUTER_LEAST_LOADED);
    int32_t a = add(router, C, 100), b = add(router, C, 100), c = add(router, C, 100);
    report(router, a, 5, 10);
    report(router, b, 3, 900);
    report(router, c, 3, 10);
    assert_int_equal(place(router).main, c); /* as many as b, in less memory */
    assert_int_equal(place(router).main, b); /* our own placement counts before the next report */
    assert_int_equal(place(router).main, c);
    assert_int_equal(place(router).main, b);
    for (int i = 0; i < 6; i++) /* a burst between two reports spreads */
        place(router);
    report(router, a, 0, 0); /* a report from before it had what we sent: what we know to be there stays */
    report(router, b, 0, 0);
    report(router, c, 0, 0);
    int32_t counts[3] = {0};
    for (int i = 0; i < 20; i++)
        counts[place(router).main]++;
    for (int i = 0; i < 3; i++)
        assert_in_range(counts[i], 5, 9);
    proa_router_free(router);
}

/* The chain of names of a prompt's blocks. */
static void store(proa_router *router, int32_t worker, const int32_t *ids, int32_t blocks, bool stored,
                  bool snapshot)
{
    uint64_t hashes[64], hash = 0;
    bool flags[64];
    for (int32_t i = 0; i < blocks; i++) {
        hash = proa_digest(ids + (size_t)i * BLOCK, BLOCK * sizeof *ids, hash);
        hashes[i] = hash;
        flags[i] = stored;
    }
    proa_wire_kv_events events = {
        .snapshot = snapshot, .count = (uint32_t)blocks, .hashes = hashes, .stored = flags};
    proa_router_kv_events(router, worker, &events);
}

static proa_router_pick choose_prompt(proa_router *router, const int32_t *ids, int32_t count)
{
    proa_router_ask ask = {.prompt_ids = ids, .prompt_count = count};
    proa_router_pick pick;
    proa_error err = {0};
    assert_int_equal(proa_router_choose(router, &ask, &pick, &err), PROA_OK);
    return pick;
}

static void test_kv(void **state)
{
    (void)state;
    proa_router *router = make(PROA_ROUTER_KV);
    int32_t a = add(router, P, 100), b = add(router, P, 100), d = add(router, D, 100),
            e = add(router, D, 100);
    int32_t prompt[20 * BLOCK];
    for (int i = 0; i < 20 * BLOCK; i++)
        prompt[i] = i * 7 % 1000;
    store(router, a, prompt, 10, true, false);
    store(router, b, prompt, 4, true, false);
    store(router, b, prompt, 4, true, false); /* said twice: once */
    assert_int_equal(proa_kv_index_blocks(proa_router_kv_index(router), b), 4);
    report(router, d, 4, 0);
    proa_router_pick pick = choose_prompt(router, prompt, 20 * BLOCK);
    assert_int_equal(pick.prefill, a);
    assert_int_equal(pick.cached_blocks, 10);
    assert_int_equal(pick.main, e); /* decode by load */
    /* ten blocks are worth ten blocks of load */
    report(router, a, 1, 7);
    assert_int_equal(choose_prompt(router, prompt, 20 * BLOCK).prefill, b);
    report(router, a, 1, 5);
    assert_int_equal(choose_prompt(router, prompt, 20 * BLOCK).prefill, a);
    assert_int_equal(choose_prompt(router, prompt, 10 * BLOCK - 1).cached_blocks, 9); /* whole blocks only */
    /* a hole ends the match: what follows it is of no use */
    store(router, a, prompt, 1, false, false);
    assert_int_equal(choose_prompt(router, prompt, 20 * BLOCK).prefill, b);
    /* another beginning is another chain */
    prompt[0]++;
    assert_int_equal(choose_prompt(router, prompt, 20 * BLOCK).cached_blocks, 0);
    prompt[0]--;
    store(router, b, prompt, 2, true, true); /* a snapshot: only that is there */
    assert_int_equal(proa_kv_index_blocks(proa_router_kv_index(router), b), 2);
    proa_router_unready(router, a);
    assert_int_equal(proa_kv_index_blocks(proa_router_kv_index(router), a), 0);
    proa_router_leave(router, b);
    assert_int_equal(proa_kv_index_entries(proa_router_kv_index(router)), 0);
    proa_router_free(router);
}

/* The index against a plain table, over random events. */
static void test_kv_index_random(void **state)
{
    (void)state;
    enum { WORKERS = 70, HASHES = 3000, EVENTS = 60000, MOST = 1500 };
    proa_kv_index *index = proa_kv_index_create();
    bool(*held)[HASHES] = calloc(WORKERS, sizeof *held);
    int32_t counts[WORKERS] = {0};
    for (int32_t w = 0; w < WORKERS; w++)
        proa_kv_index_reset(index, w, MOST);
    for (uint64_t i = 0; i < EVENTS; i++) {
        uint32_t r[4];
        proa_random_philox(3, i, 0, r);
        int32_t w = (int32_t)(r[0] % WORKERS), h = (int32_t)(r[1] % HASHES);
        uint64_t hash = (uint64_t)h << 32 | 5; /* names that differ in their high halves only */
        if (r[2] % 1000 == 0) {
            proa_kv_index_forget(index, w);
            memset(held[w], 0, sizeof held[w]);
            counts[w] = 0;
        } else if (r[2] % 3 != 0) {
            proa_kv_index_store(index, w, hash);
            counts[w] += !held[w][h];
            held[w][h] = true;
        } else {
            proa_kv_index_remove(index, w, hash);
            counts[w] -= held[w][h];
            held[w][h] = false;
        }
        assert_true(counts[w] <= MOST);
        assert_int_equal(proa_kv_index_blocks(index, w), counts[w]);
    }
    int32_t known = 0;
    for (int32_t h = 0; h < HASHES; h++) {
        bool any = false;
        for (int32_t w = 0; w < WORKERS; w++)
            any |= held[w][h];
        known += any;
    }
    assert_int_equal(proa_kv_index_entries(index), known);
    free(held);
    proa_kv_index_free(index);
}

static void test_kv_index_bounds(void **state)
{
    (void)state;
    proa_kv_index *index = proa_kv_index_create();
    proa_kv_index_reset(index, 3, 5);
    for (uint64_t h = 1; h <= 100; h++)
        proa_kv_index_store(index, 3, h);
    assert_int_equal(proa_kv_index_blocks(index, 3), 5); /* a worker names no more than it can hold */
    proa_kv_index_reset(index, 4, INT32_MAX);
    for (uint64_t h = 1; h <= PROA_KV_INDEX_ENTRIES_MAX + 1000; h++)
        proa_kv_index_store(index, 4, h * 0x9E3779B97F4A7C15u);
    assert_int_equal(proa_kv_index_entries(index), PROA_KV_INDEX_ENTRIES_MAX);
    proa_kv_index_forget(index, 4);
    assert_int_equal(proa_kv_index_entries(index), 5);
    proa_kv_index_store(index, 4, 77); /* there is room again */
    assert_int_equal(proa_kv_index_blocks(index, 4), 1);
    proa_kv_index_free(index);
}

static void test_failures_back_off(void **state)
{
    (void)state;
    proa_router *router = make(PROA_ROUTER_LEAST_LOADED);
    int32_t a = add(router, C, 100), b = add(router, C, 100);
    report(router, b, 50, 0);
    int64_t now = 1000000, wait = PROA_ROUTER_BACKOFF_US_MIN;
    for (int i = 0; i < 10; i++) { /* though b has more to do */
        proa_router_failed(router, a, now);
        proa_router_failed(router, a, now + 1); /* the same incident */
        assert_int_equal(choose_at(router, now + wait - 1).main, b);
        assert_int_equal(choose_at(router, now + wait).main, a);
        now += wait;
        wait = 2 * wait < PROA_ROUTER_BACKOFF_US_MAX ? 2 * wait : PROA_ROUTER_BACKOFF_US_MAX;
    }
    proa_router_failed(router, a, now);
    proa_router_failed(router, b, now);
    assert_int_equal(choose_at(router, now).main, a); /* all in trouble: better than nothing */
    proa_router_worked(router, a);
    proa_router_failed(router, a, now + 1);
    assert_int_equal(choose_at(router, now + 1 + PROA_ROUTER_BACKOFF_US_MIN).main, a); /* begins anew */
    proa_router_free(router);
}

static void test_pairs_back_off(void **state)
{
    (void)state;
    proa_router *router = make(PROA_ROUTER_LEAST_LOADED);
    int32_t p = add(router, P, 100), q = add(router, P, 100), d = add(router, D, 100),
            e = add(router, D, 100);
    report(router, q, 20, 0);
    report(router, e, 20, 0);
    proa_router_pick pick = choose_at(router, 0);
    assert_true(pick.prefill == p && pick.main == d);
    proa_router_pair_failed(router, p, d, 0); /* neither is condemned: p goes on with e */
    pick = choose_at(router, 1);
    assert_true(pick.prefill == p && pick.main == e);
    proa_router_pair_failed(router, p, e, 1); /* p reaches nobody: q takes over */
    pick = choose_at(router, 2);
    assert_true(pick.prefill == q && pick.main == d);
    proa_router_pair_failed(router, q, d, 2);
    proa_router_pair_failed(router, q, e, 2);
    pick = choose_at(router, 3);
    assert_true(pick.prefill == p && pick.main == d); /* the best of the bad */
    int32_t c = add(router, C, 100);
    report(router, c, 90, 0);
    assert_int_equal(choose_at(router, 3).main, c); /* one without trouble comes first */
    proa_router_pair_worked(router, p, d);
    assert_int_equal(choose_at(router, 3).main, d);
    for (int i = 0; i < 2 * PROA_ROUTER_PAIRS_MAX; i++) { /* more pairs than are remembered */
        int32_t x = add(router, D, 1);
        proa_router_pair_failed(router, p, x, 4 + i);
        proa_router_leave(router, x);
    }
    assert_int_equal(choose_at(router, 3).main, d);
    proa_router_free(router);
}

static void test_listing(void **state)
{
    (void)state;
    proa_router *router = make(PROA_ROUTER_LEAST_LOADED);
    int32_t a = add(router, C, 10), b = add(router, C, 10);
    report(router, b, 5, 0);
    proa_router_listed(router, a, false);
    assert_int_equal(choose_at(router, 0).main, b);
    proa_router_listed(router, b, false); /* discovery lists nobody: the connections are believed */
    assert_int_equal(choose_at(router, 0).main, a);
    proa_router_free(router);
}

typedef struct refusal_case {
    const char *workers; /* p, d, c: ready; P, D, C: full; x: draining d; X: dead c; -: not connected */
    proa_status status;
    int32_t room;
    const char *says;
} refusal_case;

static void add_letter(proa_router *router, char letter)
{
    if (letter == '-') {
        assert_true(proa_router_join(router, 1, 1) >= 0);
        return;
    }
    proa_wire_leg leg = letter == 'p' || letter == 'P'                    ? P
                        : letter == 'd' || letter == 'D' || letter == 'x' ? D
                                                                          : C;
    int32_t worker = add(router, leg, 4);
    proa_wire_load load = {
        .draining = letter == 'x', .stats.device_lost = letter == 'X', .stats.away = letter == 'o'};
    if (letter == 'P' || letter == 'D' || letter == 'C')
        load.stats.running = load.stats.queued = 2;
    proa_router_load(router, worker, &load);
}

static void test_refusals(void **state)
{
    (void)state;
    static const refusal_case table[] = {
        {"", PROA_ERR_UNREACHABLE, 0, "no worker is known"},
        {"--", PROA_ERR_UNREACHABLE, 0, "of 2 known 0 are connected"},
        {"pp-", PROA_ERR_UNREACHABLE, 0, "2 prefill, 0 decode and 0 combined ones are left"},
        {"px", PROA_ERR_UNREACHABLE, 0, "1 of these draining"},
        {"X", PROA_ERR_UNREACHABLE, 0, "1 out of order"},
        {"o", PROA_ERR_UNREACHABLE, 0, "1 out of order or away"},
        {"pD", PROA_ERR_OVERLOADED, 0, "all decode workers are full"},
        {"Pd", PROA_ERR_OVERLOADED, 0, "all prefill workers are full"},
        {"PD", PROA_ERR_OVERLOADED, 0, "all prefill and all decode workers are full"},
        {"C-", PROA_ERR_OVERLOADED, 0, "all combined workers are full"},
        {"PDc", PROA_OK, 4, NULL},
        {"ppd", PROA_OK, 4, NULL},
        {"ppddc", PROA_OK, 12, NULL},
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        proa_router *router = make(PROA_ROUTER_LEAST_LOADED);
        for (const char *w = table[i].workers; *w != 0; w++)
            add_letter(router, *w);
        proa_router_ask ask = {.prompt_ids = (const int32_t[]){1}, .prompt_count = 1};
        proa_router_pick pick;
        proa_error err = {0}, room_err = {0};
        int32_t room = proa_router_room(router, &room_err);
        if (proa_router_choose(router, &ask, &pick, &err) != table[i].status || room != table[i].room)
            fail_msg("%s: %d, %s", table[i].workers, room, err.text);
        if (table[i].says != NULL) {
            assert_string_equal(err.text, room_err.text);
            if (strstr(err.text, table[i].says) == NULL)
                fail_msg("%s: %s", table[i].workers, err.text);
        }
        proa_router_free(router);
    }
}

static void test_refused_are_not_asked_again(void **state)
{
    (void)state;
    proa_router *router = make(PROA_ROUTER_LEAST_LOADED);
    add_process(router, C, 4, 100);
    add_process(router, C, 4, 101);
    uint64_t refused[2] = {100, 101};
    proa_router_ask ask = {.prompt_ids = (const int32_t[]){1}, .prompt_count = 1, .refused = refused};
    proa_router_pick pick;
    proa_error err = {0};
    ask.refused_count = 1;
    assert_int_equal(proa_router_choose(router, &ask, &pick, &err), PROA_OK);
    assert_int_equal(pick.main, 1);
    ask.refused_count = 2;
    assert_int_equal(proa_router_choose(router, &ask, &pick, &err), PROA_ERR_OVERLOADED);
    assert_non_null(strstr(err.text, "2 of them refused"));
    proa_router_free(router);
}

static void test_full_and_free_again(void **state)
{
    (void)state;
    proa_router *router = make(PROA_ROUTER_LEAST_LOADED);
    int32_t a = add(router, C, 3);
    report(router, a, 1, 1); /* another frontend's */
    place(router), place(router);
    proa_error err = {0};
    assert_int_equal(proa_router_room(router, &err), 0);
    proa_router_released(router, a, BLOCK); /* is free at once, before the next report */
    assert_int_equal(proa_router_room(router, &err), 1);
    proa_router_unready(router, a);
    proa_router_released(router, a, BLOCK); /* comes late: forgotten with the link */
    proa_router_ready(router, a, &(proa_wire_card){.leg = C, .running_max = 3});
    assert_int_equal(proa_router_room(router, &err), 3);
    proa_router_free(router);
}

static void test_as_many_as_there_is_room_for(void **state)
{
    (void)state;
    proa_router *router = make(PROA_ROUTER_LEAST_LOADED);
    for (int i = 0; i < PROA_ROUTER_WORKERS_MAX; i++)
        add(router, C, 1);
    assert_int_equal(proa_router_join(router, 1, 1), -1);
    for (int i = 0; i < PROA_ROUTER_WORKERS_MAX; i++)
        place(router);
    proa_error err = {0};
    assert_int_equal(proa_router_room(router, &err), 0);
    proa_router_free(router);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_robin),
        cmocka_unit_test(test_random_repeats_and_spreads),
        cmocka_unit_test(test_least_loaded),
        cmocka_unit_test(test_kv),
        cmocka_unit_test(test_kv_index_random),
        cmocka_unit_test(test_kv_index_bounds),
        cmocka_unit_test(test_failures_back_off),
        cmocka_unit_test(test_pairs_back_off),
        cmocka_unit_test(test_listing),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_refused_are_not_asked_again),
        cmocka_unit_test(test_full_and_free_again),
        cmocka_unit_test(test_as_many_as_there_is_room_for),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
