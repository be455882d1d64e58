/* test_rebalance.c - experts that move: the machines of some ranks, whose messages this test carries, loses and counts. Lives by chance
 * are test_group_sim's. */
#include "engine/rebalance_wire.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum {
    RANKS = 4,
    LAYERS = 3,
    EXPERTS = 8,
    PHYSICAL = 12,
    CELLS = LAYERS * EXPERTS,
    GATHER_US = 1000,
    RESEND_US = 500
};

static const proa_group_epoch epoch = {.count = 1, .rank = 0, .life = 1};

typedef struct world {
    proa_expert_shape shape;
    proa_rebalance_tables *tables;
    proa_rebalance *ranks[RANKS];
    int64_t now_us;
    bool deaf[RANKS];     /* what is sent to it is lost */
    bool reads_by_itself; /* PREPARE is answered at once */
    int sent[PROA_REBALANCE_KINDS];
    size_t longest;             /* message */
    uint32_t said[RANKS];       /* versions */
    proa_rebalance_action done; /* DONE or SKIPPED that came last */
    int dones, skips, differences;
} world;

static proa_rebalance_options ordinary(int32_t self)
{
    return (proa_rebalance_options){
        .self = self,
        .shape = {.layers = LAYERS, .experts = EXPERTS, .physical = PHYSICAL, .ranks = RANKS, .nodes = 1},
        .algorithm = PROA_EPLB_DEEPSEEK,
        .iterations = 10,
        .layers_per_chunk = 1,
        .threshold = 1,
        .gather_us = GATHER_US,
        .resend_us = RESEND_US};
}

static void install(world *w, const proa_group_epoch *of, int32_t differs)
{
    proa_group_mask all = {{0}};
    int32_t *placement = calloc((size_t)w->shape.layers * (size_t)w->shape.physical, sizeof *placement);
    for (int32_t i = 0; i < RANKS; i++)
        proa_group_mask_add(&all, i);
    for (int32_t i = 0; i < RANKS; i++) {
        proa_expert_place_trivially(&w->shape, placement);
        int32_t *last = placement + (ptrdiff_t)(w->shape.layers - 1) * w->shape.physical;
        if (i == differs) {
            last[0] = 1;
            last[1] = 0;
        }
        proa_rebalance_install(w->ranks[i], of, &all, w->shape.physical, placement, w->now_us);
        w->said[i] = 1;
    }
    free(placement);
}

static world *open_with(const proa_rebalance_options *of_rank_0, int32_t differs)
{
    world *w = calloc(1, sizeof *w);
    proa_rebalance_options options = *of_rank_0;
    w->shape = options.shape;
    w->tables = calloc(1, sizeof *w->tables);
    w->reads_by_itself = true;
    for (int32_t i = 0; i < RANKS; i++) {
        options.self = i;
        w->ranks[i] = proa_rebalance_create(&options);
        assert_non_null(w->ranks[i]);
    }
    install(w, &epoch, differs);
    return w;
}

static world *open_world(void)
{
    proa_rebalance_options options = ordinary(0);
    return open_with(&options, -1);
}

static void close_world(world *w)
{
    for (int32_t i = 0; i < RANKS; i++)
        proa_rebalance_free(w->ranks[i]);
    free(w->tables);
    free(w);
}

static void pump(world *w, int32_t rank);

static void carry(world *w, const proa_rebalance_action *a)
{
    proa_buf bytes = {0}, again = {0};
    proa_error err;
    proa_rebalance_encode(&a->message, &w->shape, &bytes);
    w->longest = bytes.length > w->longest ? bytes.length : w->longest;
    for (int32_t to = -1; (to = proa_group_mask_next(&a->to, to)) >= 0;) {
        proa_rebalance_message m;
        assert_int_not_equal(to, a->message.from);
        w->sent[a->message.kind]++;
        if (w->deaf[to])
            continue;
        assert_int_equal(proa_rebalance_decode(bytes.data, bytes.length, &w->shape, w->tables, &m, &err),
                         PROA_OK);
        proa_buf_clear(&again);
        proa_rebalance_encode(&m, &w->shape, &again);
        assert_int_equal(again.length, bytes.length);
        assert_memory_equal(again.data, bytes.data, bytes.length);
        proa_rebalance_receive(w->ranks[to], &m, w->now_us);
        pump(w, to);
    }
    proa_buf_free(&bytes);
    proa_buf_free(&again);
}

static void pump(world *w, int32_t rank)
{
    proa_rebalance_action a;
    while (proa_rebalance_next(w->ranks[rank], &a)) {
        switch (a.kind) {
        case PROA_REBALANCE_SEND: carry(w, &a); break;
        case PROA_REBALANCE_PREPARE:
            if (w->reads_by_itself)
                proa_rebalance_prepared(w->ranks[rank], a.version);
            break;
        case PROA_REBALANCE_SAY: w->said[rank] = a.version; break;
        case PROA_REBALANCE_SKIPPED:
            w->skips++;
            w->done = a;
            break;
        case PROA_REBALANCE_DONE:
            w->dones++;
            w->done = a;
            break;
        case PROA_REBALANCE_DIFFERS: w->differences++; break;
        }
    }
}

/* All ranks make the step, with the least that any has said; rows choose expert 0 at rank 0, 1 at rank 1 ... in each layer. */
static uint32_t step(world *w, uint64_t number, bool rows)
{
    uint32_t version = UINT32_MAX,
             *counts = calloc((size_t)w->shape.layers * (size_t)w->shape.experts, sizeof *counts);
    for (int32_t i = 0; i < RANKS; i++)
        version = w->said[i] < version ? w->said[i] : version;
    for (int32_t i = 0; i < RANKS; i++)
        (void)proa_rebalance_begin(w->ranks[i], version);
    for (int32_t i = 1; i < RANKS; i++) {
        size_t bytes = (size_t)w->shape.layers * (size_t)w->shape.physical * sizeof(int32_t);
        assert_memory_equal(proa_rebalance_placement(w->ranks[i]), proa_rebalance_placement(w->ranks[0]),
                            bytes);
    }
    for (int32_t i = 0; i < RANKS; i++) {
        memset(counts, 0, (size_t)w->shape.layers * (size_t)w->shape.experts * sizeof *counts);
        for (int32_t l = 0; l < w->shape.layers; l++)
            counts[l * w->shape.experts + i] = 10;
        proa_rebalance_ended(w->ranks[i], number, rows ? counts : NULL, w->now_us);
        pump(w, i);
    }
    free(counts);
    return version;
}

static void steps(world *w, uint64_t first, uint64_t last, bool rows)
{
    for (uint64_t n = first; n <= last; n++)
        step(w, n, rows);
}

static void tick(world *w, int64_t us)
{
    w->now_us += us;
    for (int32_t i = 0; i < RANKS; i++) {
        proa_rebalance_tick(w->ranks[i], w->now_us);
        pump(w, i);
    }
}

/* ---- tests ---- */

/* Expert 0 and 1 of the trivial placement are both at rank 0. */
static void a_plan_moves_a_layer_a_step(void **state)
{
    (void)state;
    world *w = open_world();
    assert_int_equal(step(w, 1, true), 1);
    assert_int_equal(w->sent[PROA_REBALANCE_LOAD], RANKS - 1);
    assert_int_equal(w->sent[PROA_REBALANCE_PLAN], RANKS - 1); /* of the first layer alone */
    assert_int_equal(step(w, 2, true), 2);
    assert_int_equal(step(w, 3, true), 3);
    assert_int_equal(w->dones, 0);
    assert_int_equal(step(w, 4, true), 4);
    assert_int_equal(w->dones, 1);
    assert_int_equal(w->done.layers, LAYERS);
    assert_true(w->done.before < 0.67 && w->done.after > 0.99);
    assert_true(proa_rebalance_rests(w->ranks[0]));
    steps(w, 5, 10, true); /* the next round: as even as it gets */
    assert_int_equal(w->sent[PROA_REBALANCE_LOAD], 2 * (RANKS - 1));
    assert_int_equal(w->dones + w->skips, 2);
    close_world(w);
}

static void nothing_to_do_is_skipped(void **state)
{
    (void)state;
    world *w = open_world();
    steps(w, 1, 20, false); /* no rows anywhere */
    assert_int_equal(w->sent[PROA_REBALANCE_PLAN] + w->dones + w->skips, 0);
    assert_true(w->sent[PROA_REBALANCE_LOAD] == 3 * (RANKS - 1) && w->longest < 64);
    close_world(w);
    proa_rebalance_options options = ordinary(0);
    options.threshold = 0.2;
    w = open_with(&options, -1);
    steps(w, 1, 20, true);
    assert_true(w->skips == 3 && w->dones == 0 && w->sent[PROA_REBALANCE_PLAN] == 0);
    close_world(w);
}

/* No rank passes to a version before all are ready; who has not heard of it hears again, nobody else. */
static void what_is_lost_is_said_again(void **state)
{
    (void)state;
    world *w = open_world();
    w->deaf[2] = true;
    step(w, 1, true);
    assert_true(w->said[1] == 2 && w->said[2] == 1);
    assert_int_equal(step(w, 2, true), 1);
    w->sent[PROA_REBALANCE_PLAN] = 0;
    tick(w, RESEND_US);
    assert_int_equal(w->sent[PROA_REBALANCE_PLAN], 1);
    w->deaf[2] = false;
    tick(w, RESEND_US);
    assert_int_equal(w->sent[PROA_REBALANCE_PLAN], 2);
    assert_int_equal(step(w, 3, true), 2);
    close_world(w);
    w = open_world();
    w->reads_by_itself = false;
    step(w, 1, true);
    w->deaf[0] = true; /* READY of rank 1 is lost: it answers what is said again, and is not told any more */
    proa_rebalance_prepared(w->ranks[1], 2);
    pump(w, 1);
    w->deaf[0] = false;
    w->sent[PROA_REBALANCE_PLAN] = 0;
    tick(w, RESEND_US);
    assert_int_equal(w->sent[PROA_REBALANCE_PLAN], RANKS - 1);
    tick(w, RESEND_US);
    assert_int_equal(w->sent[PROA_REBALANCE_PLAN], 2 * (RANKS - 1) - 1);
    close_world(w);
}

/* A load that does not come is missed after a while; without half of the ranks nothing is planned. */
static void rounds_end(void **state)
{
    (void)state;
    world *w = open_world();
    w->deaf[0] = true; /* the coordinator */
    step(w, 1, true);
    tick(w, GATHER_US);
    assert_int_equal(w->sent[PROA_REBALANCE_PLAN], 0);
    assert_true(proa_rebalance_rests(w->ranks[0]));
    close_world(w);
    w = open_world();
    w->reads_by_itself = false;
    for (int32_t i = 0; i < RANKS; i++) { /* rank 3 alone is late */
        uint32_t counts[CELLS] = {0};
        counts[0] = counts[1] = 5;
        w->deaf[0] = i == 3;
        proa_rebalance_ended(w->ranks[i], 1, counts, w->now_us);
        pump(w, i);
    }
    assert_int_equal(w->sent[PROA_REBALANCE_PLAN], 0);
    tick(w, GATHER_US);
    assert_int_equal(w->sent[PROA_REBALANCE_PLAN], RANKS - 1);
    close_world(w);
}

/* A rank whose placement is another one never says that it is ready (the plan moves the first layer, the last one differs). */
static void a_difference_is_seen(void **state)
{
    (void)state;
    proa_rebalance_options options = ordinary(0);
    world *w = open_with(&options, 3);
    uint32_t counts[CELLS] = {0};
    counts[0] = counts[1] = 5;
    for (int32_t i = 0; i < RANKS; i++) {
        proa_rebalance_ended(w->ranks[i], 1, counts, w->now_us);
        pump(w, i);
    }
    assert_true(w->differences == 1 && w->said[3] == 1 && w->said[2] == 2);
    close_world(w);
}

/* A view that comes in the middle of a plan: version 1 again, and a plan at once, by what is known. */
static void a_new_view_begins_anew(void **state)
{
    (void)state;
    world *w = open_world();
    step(w, 1, true);
    step(w, 2, true);
    const proa_group_epoch next = {.count = 2, .rank = 1, .life = 1};
    install(w, &next, -1);
    w->sent[PROA_REBALANCE_PLAN] = 0;
    assert_int_equal(step(w, 1, false), 1);
    assert_int_equal(w->sent[PROA_REBALANCE_PLAN], RANKS - 1);
    assert_int_equal(step(w, 2, false), 2);
    close_world(w);
}

/* Messages of a large model come in parts, of a plan one a tick. */
static void long_tables_come_in_parts(void **state)
{
    (void)state;
    proa_rebalance_options options = ordinary(0);
    options.shape =
        (proa_expert_shape){.layers = 61, .experts = 256, .physical = 1280, .ranks = RANKS, .nodes = 1};
    options.layers_per_chunk = 0;
    world *w = open_with(&options, -1);
    step(w, 1, true);
    int ticks = 0;
    for (; w->said[0] < 2 || w->said[3] < 2; ticks++) {
        assert_true(ticks < 100);
        tick(w, 1);
    }
    assert_true(ticks >= 3 && w->longest <= PROA_REBALANCE_PART_BYTES + 64);
    assert_int_equal(step(w, 2, true), 2);
    assert_true(w->dones == 1 && w->done.layers == 61);
    close_world(w);
}

static void refuses(const proa_buf *bytes, size_t length, const proa_expert_shape *shape)
{
    proa_rebalance_tables *tables = calloc(1, sizeof *tables);
    proa_rebalance_message m;
    proa_error err = {0};
    assert_int_equal(proa_rebalance_decode(bytes->data, length, shape, tables, &m, &err), PROA_ERR_PROTOCOL);
    assert_true(err.text[0] != 0);
    free(tables);
}

static void bytes_that_do_not_fit_are_refused(void **state)
{
    (void)state;
    const proa_expert_shape shape = ordinary(0).shape;
    static const int32_t layers[] = {1, 2};
    static const uint32_t load[2 * EXPERTS] = {9, 8, 7};
    int32_t placement[2 * PHYSICAL];
    for (int32_t i = 0; i < 2 * PHYSICAL; i++)
        placement[i] = i % (EXPERTS + 1) - 1;
    const proa_rebalance_message messages[] = {
        {.kind = PROA_REBALANCE_LOAD,
         .from = 3,
         .epoch = epoch,
         .step = 7,
         .first = 1,
         .count = 2,
         .total = LAYERS,
         .load = load},
        {.kind = PROA_REBALANCE_PLAN,
         .from = 3,
         .epoch = epoch,
         .version = 2,
         .count = 2,
         .total = 3,
         .physical = PHYSICAL,
         .layers = layers,
         .placement = placement},
        {.kind = PROA_REBALANCE_READY, .from = 3, .epoch = epoch, .version = 2},
    };
    for (size_t i = 0; i < sizeof messages / sizeof messages[0]; i++) {
        proa_buf bytes = {0};
        proa_expert_shape narrow = shape;
        proa_rebalance_encode(&messages[i], &shape, &bytes);
        for (size_t length = 0; length < bytes.length; length++)
            refuses(&bytes, length, &shape);
        narrow.ranks = 3; /* there is no rank 3 */
        refuses(&bytes, bytes.length, &narrow);
        if (i == 1) {
            bytes.data[bytes.length - 2] = EXPERTS; /* the last slot */
            refuses(&bytes, bytes.length, &shape);
        }
        proa_buf_append_char(&bytes, 0);
        refuses(&bytes, bytes.length, &shape);
        proa_buf_free(&bytes);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_plan_moves_a_layer_a_step), cmocka_unit_test(nothing_to_do_is_skipped),
        cmocka_unit_test(what_is_lost_is_said_again),  cmocka_unit_test(rounds_end),
        cmocka_unit_test(a_difference_is_seen),        cmocka_unit_test(a_new_view_begins_anew),
        cmocka_unit_test(long_tables_come_in_parts),   cmocka_unit_test(bytes_that_do_not_fit_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
