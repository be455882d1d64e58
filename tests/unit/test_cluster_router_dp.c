/* test_cluster_router_dp.c - which dp rank of a worker a request goes to: each method, ranks that cannot take it, several workers. */
#include "cluster/router.h"

#include "base/digest.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

enum { RANKS = 4, ROOM = 100 };

static const int32_t prompt[] = {1, 2, 3};

/* A worker's dp ranks, which have come in an order that is not theirs. */
typedef struct worker {
    int32_t number[RANKS]; /* by dp rank */
} worker;

static proa_wire_card card_of(proa_wire_leg leg, uint64_t worker_id, int32_t dp_rank,
                              proa_wire_balance balance)
{
    return (proa_wire_card){
        .leg = (uint8_t)leg,
        .running_max = ROOM,
        .kv_tokens = 1 << 20,
        .context_length = 1 << 16,
        .worker_id = worker_id,
        .dp_rank = dp_rank,
        .dp_size = RANKS,
        .balance = (uint8_t)balance,
    };
}

static worker add(proa_router *router, proa_wire_leg leg, uint64_t worker_id, proa_wire_balance balance)
{
    static const int32_t order[RANKS] = {2, 0, 3, 1};
    worker w;
    for (int i = 0; i < RANKS; i++) {
        const proa_wire_card card = card_of(leg, worker_id, order[i], balance);
        int32_t number = proa_router_join(router, 1, worker_id * RANKS + (uint64_t)order[i]);
        assert_true(number >= 0);
        proa_router_ready(router, number, &card);
        w.number[order[i]] = number;
    }
    return w;
}

static proa_router *make(proa_router_mode mode)
{
    proa_router *router =
        proa_router_create(&(proa_router_options){.mode = mode, .kv_overlap_weight = 1, .seed = 7});
    assert_non_null(router);
    return router;
}

static proa_router_pick choose(proa_router *router, uint64_t room, uint64_t refused)
{
    proa_router_ask ask = {.prompt_ids = prompt, .prompt_count = 3, .room = room};
    proa_router_pick pick;
    proa_error err = {0};
    ask.refused = &refused;
    ask.refused_count = refused != 0;
    if (proa_router_choose(router, &ask, &pick, &err) != PROA_OK)
        fail_msg("%s", err.text);
    return pick;
}

static int32_t rank_of(const worker *w, int32_t number)
{
    for (int32_t i = 0; i < RANKS; i++) {
        if (w->number[i] == number)
            return i;
    }
    return -1;
}

static void report(proa_router *router, int32_t number, int32_t requests, int32_t blocks)
{
    const proa_wire_load load = {
        .stats = {.running = requests, .kv_blocks_used = blocks, .kv_blocks_total = 1 << 14}};
    proa_router_load(router, number, &load);
}

/* ---- the methods ---- */

/* What stands at each rank before, by reports of others' requests; requests that come one after another, by length; where they go. */
typedef struct scene {
    const char *name;
    proa_wire_balance balance;
    proa_wire_leg leg;
    int32_t requests[RANKS];
    int32_t blocks[RANKS];
    int32_t lengths[8];
    uint64_t rooms[8];
    int32_t ranks[8];
} scene;

static const scene scenes[] = {
    {"in turn, whatever their load",
     PROA_BALANCE_ROUND_ROBIN,
     PROA_LEG_DECODE,
     {9, 0, 0, 0},
     {99, 0, 0, 0},
     {1, 1, 1, 1, 1, 1, 1, 1},
     {5, 5, 5, 5, 5, 5, 5, 5},
     {0, 1, 2, 3, 0, 1, 2, 3}},
    {"fewest requests, however long",
     PROA_BALANCE_TOTAL_REQUESTS,
     PROA_LEG_DECODE,
     {3, 1, 2, 3},
     {0, 900, 0, 0},
     {5000, 1, 1, 1, 1, 1, 1, 1},
     {0},
     {1, 2, 1, 0, 3, 2, 1, 0}},
    {"fewest tokens, of others' requests by blocks",
     PROA_BALANCE_TOTAL_TOKENS,
     PROA_LEG_DECODE,
     {1, 9, 1, 1},
     {3, 1, 2, 4},
     {64, 63, 64, 62, 1, 1, 300, 1},
     {0},
     {1, 2, 1, 2, 0, 1, 0, 1}},
    {"tokens within a block count",
     PROA_BALANCE_TOTAL_TOKENS,
     PROA_LEG_DECODE,
     {0},
     {0},
     {40, 30, 20, 10, 5, 6, 1, 1},
     {0},
     {0, 1, 2, 3, 3, 3, 2, 3}},
    {"the room's rank",
     PROA_BALANCE_FOLLOW_ROOM,
     PROA_LEG_PREFILL,
     {9, 9, 0, 0},
     {0},
     {1, 1, 1, 1, 1, 1, 1, 1},
     {1, 1, 4, 6, UINT64_MAX, 7, 5, 8},
     {1, 1, 0, 2, 3, 3, 1, 0}},
    {"a combined worker has no room",
     PROA_BALANCE_FOLLOW_ROOM,
     PROA_LEG_COMBINED,
     {0},
     {0},
     {1, 1, 1, 1, 1, 1, 1, 1},
     {3, 3, 3, 3, 3, 3, 3, 3},
     {0, 1, 2, 3, 0, 1, 2, 3}},
};

static void test_methods(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof scenes / sizeof scenes[0]; i++) {
        const scene *s = &scenes[i];
        proa_router *router = make(PROA_ROUTER_ROUND_ROBIN);
        worker w = add(router, s->leg, 1, s->balance);
        proa_wire_leg other = s->leg == PROA_LEG_PREFILL ? PROA_LEG_DECODE : PROA_LEG_PREFILL;
        if (s->leg != PROA_LEG_COMBINED)
            add(router, other, 2, PROA_BALANCE_ROUND_ROBIN);
        for (int r = 0; r < RANKS; r++)
            report(router, w.number[r], s->requests[r], s->blocks[r]);
        for (int k = 0; k < 8; k++) {
            proa_router_pick pick = choose(router, s->rooms[k], 0);
            int32_t number = s->leg == PROA_LEG_PREFILL ? pick.prefill : pick.main;
            if (rank_of(&w, number) != s->ranks[k])
                fail_msg("%s: request %d went to rank %d, not %d", s->name, k, rank_of(&w, number),
                         s->ranks[k]);
            proa_router_placed(router, number, s->lengths[k]);
        }
        proa_router_free(router);
    }
}

/* What has ended no longer counts. */
static void test_released(void **state)
{
    (void)state;
    static const proa_wire_balance by_load[] = {PROA_BALANCE_TOTAL_REQUESTS, PROA_BALANCE_TOTAL_TOKENS};
    for (int i = 0; i < 2; i++) {
        proa_router *router = make(PROA_ROUTER_ROUND_ROBIN);
        worker w = add(router, PROA_LEG_COMBINED, 1, by_load[i]);
        for (int r = 0; r < RANKS; r++)
            proa_router_placed(router, w.number[r], 100);
        proa_router_released(router, w.number[2], 100);
        assert_int_equal(choose(router, 1, 0).main, w.number[2]);
        proa_router_free(router);
    }
}

/* ---- ranks that cannot ---- */

typedef enum cannot {
    DRAINS,
    IS_DEAD,
    IS_FULL,
    IS_GONE,
    IS_UNREADY,
    HAS_FAILED,
    HAS_REFUSED,
    UNLISTED,
    CANNOTS
} cannot;

static uint64_t hinder(proa_router *router, const worker *w, int32_t rank, cannot how)
{
    int32_t number = w->number[rank];
    proa_wire_load load = {.draining = how == DRAINS, .stats = {.device_lost = how == IS_DEAD}};
    switch (how) {
    case DRAINS:
    case IS_DEAD: proa_router_load(router, number, &load); break;
    case IS_FULL: report(router, number, ROOM, 1); break;
    case IS_GONE: proa_router_leave(router, number); break;
    case IS_UNREADY: proa_router_unready(router, number); break;
    case HAS_FAILED: proa_router_failed(router, number, 0); break;
    case UNLISTED: proa_router_listed(router, number, false); break;
    case HAS_REFUSED: return RANKS + (uint64_t)rank;
    case CANNOTS: break;
    }
    return 0;
}

/* The next rank takes it, of the same worker, by every method. */
static void test_the_next_rank(void **state)
{
    (void)state;
    for (int balance = 0; balance < PROA_BALANCE_COUNT; balance++) {
        for (int how = 0; how < CANNOTS; how++) {
            proa_router *router = make(PROA_ROUTER_ROUND_ROBIN);
            worker w = add(router, PROA_LEG_PREFILL, 1, (proa_wire_balance)balance);
            add(router, PROA_LEG_DECODE, 2, PROA_BALANCE_ROUND_ROBIN);
            for (int r = 0; r < RANKS; r++)
                report(router, w.number[r], 3 - r % 3, 3 - r % 3); /* rank 2 is best */
            proa_router_placed(router, w.number[0], 1);
            proa_router_placed(router, w.number[1], 1);
            uint64_t room = 4 * RANKS + 2;
            assert_int_equal(rank_of(&w, choose(router, room, 0).prefill), 2);
            uint64_t refused = hinder(router, &w, 2, (cannot)how);
            int32_t next = rank_of(&w, choose(router, room, refused).prefill);
            int32_t wanted = balance == PROA_BALANCE_TOTAL_TOKENS ? 1 : 3; /* least loaded; else the next */
            if (next != wanted)
                fail_msg("method %d, hindrance %d: rank %d", balance, how, next);
            proa_router_free(router);
        }
    }
}

/* ---- several workers ---- */

/* By turns between workers, whatever the number of their ranks; each has its own method. */
static void test_workers_first(void **state)
{
    (void)state;
    proa_router *router = make(PROA_ROUTER_ROUND_ROBIN);
    worker a = add(router, PROA_LEG_COMBINED, 1, PROA_BALANCE_ROUND_ROBIN);
    worker b = add(router, PROA_LEG_COMBINED, 2, PROA_BALANCE_TOTAL_REQUESTS);
    int32_t alone = proa_router_join(router, 9, 99);
    proa_wire_card card = card_of(PROA_LEG_COMBINED, 0, 0, PROA_BALANCE_ROUND_ROBIN);
    proa_router_ready(router, alone, &card);
    report(router, b.number[0], 50, 50);
    int32_t at_a = 0, at_b = 0, at_alone = 0, at_b0 = 0;
    for (int i = 0; i < 30; i++) {
        int32_t number = choose(router, 1, 0).main;
        at_a += rank_of(&a, number) >= 0;
        at_b += rank_of(&b, number) >= 0;
        at_b0 += rank_of(&b, number) == 0;
        at_alone += number == alone;
        proa_router_placed(router, number, 1);
    }
    assert_int_equal(at_a, 10);
    assert_int_equal(at_b, 10);
    assert_int_equal(at_alone, 10);
    assert_int_equal(at_b0, 0);
    proa_router_free(router);
}

/* A worker of which no rank can take it is passed over, and has its turn when one can again. */
static void test_a_worker_that_cannot(void **state)
{
    (void)state;
    proa_router *router = make(PROA_ROUTER_ROUND_ROBIN);
    worker a = add(router, PROA_LEG_COMBINED, 1, PROA_BALANCE_ROUND_ROBIN);
    worker b = add(router, PROA_LEG_COMBINED, 2, PROA_BALANCE_ROUND_ROBIN);
    for (int r = 0; r < RANKS; r++)
        report(router, a.number[r], ROOM, 1);
    for (int i = 0; i < 8; i++) {
        int32_t number = choose(router, 1, 0).main;
        assert_int_equal(rank_of(&b, number), i % RANKS);
        proa_router_placed(router, number, 1);
    }
    report(router, a.number[3], 0, 0);
    assert_int_equal(choose(router, 1, 0).main, a.number[3]);
    proa_router_free(router);
}

/* The load of a worker is that of its mean rank. */
static void test_least_loaded_worker(void **state)
{
    (void)state;
    proa_router *router = make(PROA_ROUTER_LEAST_LOADED);
    worker a = add(router, PROA_LEG_COMBINED, 1, PROA_BALANCE_ROUND_ROBIN);
    worker b = add(router, PROA_LEG_COMBINED, 2, PROA_BALANCE_ROUND_ROBIN);
    int32_t alone = proa_router_join(router, 9, 99);
    proa_wire_card card = card_of(PROA_LEG_COMBINED, 0, 0, PROA_BALANCE_ROUND_ROBIN);
    proa_router_ready(router, alone, &card);
    for (int r = 0; r < RANKS; r++) {
        report(router, a.number[r], 3, 1);
        report(router, b.number[r], r == 0 ? 0 : 5, 1);
    }
    report(router, alone, 4, 1);
    assert_true(rank_of(&a, choose(router, 1, 0).main) >=
                0); /* 3 a rank against 3.75 and 4, though b has the idlest rank */
    report(router, alone, 2, 1);
    assert_int_equal(choose(router, 1, 0).main, alone);
    proa_router_free(router);
}

/* A prefix that one rank has brings the request there, past the method and the turn. */
static void test_prefixes_pick_the_rank(void **state)
{
    (void)state;
    enum { BLOCK = 64 };
    int32_t ids[2 * BLOCK + 1];
    for (int i = 0; i < 2 * BLOCK + 1; i++)
        ids[i] = i;
    proa_router *router = make(PROA_ROUTER_KV);
    worker a = add(router, PROA_LEG_COMBINED, 1, PROA_BALANCE_FOLLOW_ROOM);
    worker b = add(router, PROA_LEG_COMBINED, 2, PROA_BALANCE_TOTAL_REQUESTS);
    uint64_t hashes[2] = {proa_digest(ids, BLOCK * sizeof *ids, 0), 0};
    hashes[1] = proa_digest(ids + BLOCK, BLOCK * sizeof *ids, hashes[0]);
    const bool stored[] = {true, true};
    proa_router_kv_events(router, b.number[3], &(proa_wire_kv_events){false, 2, hashes, stored});
    report(router, b.number[3], 20, 1);
    proa_router_ask ask = {.prompt_ids = ids, .prompt_count = 2 * BLOCK + 1, .room = 1};
    proa_router_pick pick;
    proa_error err;
    for (int i = 0; i < 3; i++) {
        assert_int_equal(proa_router_choose(router, &ask, &pick, &err), PROA_OK);
        assert_int_equal(pick.main, b.number[3]);
        assert_int_equal(pick.cached_blocks, 2);
    }
    proa_router_unready(router, b.number[3]);
    assert_int_equal(proa_router_choose(router, &ask, &pick, &err), PROA_OK);
    assert_int_equal(pick.cached_blocks, 0);
    assert_true(rank_of(&a, pick.main) >= 0 || rank_of(&b, pick.main) >= 0);
    proa_router_free(router);
}

/* A rank that comes again, as another process, is of its worker as before; and for a while beside the old one. */
static void test_a_rank_comes_again(void **state)
{
    (void)state;
    proa_router *router = make(PROA_ROUTER_ROUND_ROBIN);
    worker a = add(router, PROA_LEG_PREFILL, 1, PROA_BALANCE_FOLLOW_ROOM);
    add(router, PROA_LEG_DECODE, 2, PROA_BALANCE_ROUND_ROBIN);
    int32_t again = proa_router_join(router, 1, 77);
    const proa_wire_card card = card_of(PROA_LEG_PREFILL, 1, 2, PROA_BALANCE_FOLLOW_ROOM);
    proa_router_ready(router, again, &card);
    proa_router_ready(router, again, &card); /* a card that comes twice changes nothing */
    int32_t old = 0, new = 0;
    for (int i = 0; i < 10; i++) {
        int32_t number = choose(router, 2, 0).prefill;
        old += number == a.number[2];
        new += number == again;
        proa_router_placed(router, number, 1);
    }
    assert_int_equal(old, 5);
    assert_int_equal(new, 5);
    proa_router_leave(router, a.number[2]);
    assert_int_equal(choose(router, 2, 0).prefill, again);
    proa_router_free(router);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_methods),
        cmocka_unit_test(test_released),
        cmocka_unit_test(test_the_next_rank),
        cmocka_unit_test(test_workers_first),
        cmocka_unit_test(test_a_worker_that_cannot),
        cmocka_unit_test(test_least_loaded_worker),
        cmocka_unit_test(test_prefixes_pick_the_rank),
        cmocka_unit_test(test_a_rank_comes_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
