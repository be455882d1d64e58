/* test_group_cost.c - what a step costs: messages, counted exactly, and processor time of the machines alone, printed.
 *
 * test_group_cost [STEPS]: whole workers in one process, messages handed over by pointer, steps that take no time. */
#include "engine/group.h"

#include "base/clock.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>

static long steps_wanted = 500;

static const proa_group_limits limits = {.collect_us = 1000,
                                         .view_us = 3000,
                                         .join_us = 3000,
                                         .form_us = 10000,
                                         .status_us = 3000,
                                         .proposal_us = 100000,
                                         .placement_us = 100000,
                                         .shun_us = 10000,
                                         .abandon_us = 10000};

static const uint64_t ones[] = {[0 ... PROA_GROUP_RANKS_MAX - 1] = 1};

typedef struct worker {
    int32_t ranks;
    int32_t active; /* the first so many always want a step */
    proa_group **groups;
    bool *running, *owes;
    proa_group_action *queue; /* of messages: a ring */
    int32_t first, count, room;
    int64_t messages;
    int64_t steps; /* begun at rank 0 */
} worker;

/* Takes the rank's actions: steps are noted, messages queued. */
static void collect(worker *w, int32_t rank)
{
    proa_group_action a;
    while (proa_group_next(w->groups[rank], &a)) {
        w->owes[rank] |= a.kind == PROA_GROUP_INSTALL || (a.kind == PROA_GROUP_BEGIN && a.counted);
        w->running[rank] |= a.kind == PROA_GROUP_BEGIN;
        w->steps += a.kind == PROA_GROUP_BEGIN && rank == 0;
        if (a.kind != PROA_GROUP_SEND)
            continue;
        assert_true(w->count < w->room);
        w->queue[(w->first + w->count++) % w->room] = a;
    }
}

static void hand_over(worker *w, int64_t now_us)
{
    while (w->count > 0) {
        proa_group_action *a = &w->queue[w->first];
        w->first = (w->first + 1) % w->room;
        w->count--;
        a->message.lives = ones;
        proa_group_action passed = *a; /* its place may be taken while it is handed over */
        for (int32_t to = -1; (to = proa_group_mask_next(&passed.to, to)) >= 0;) {
            w->messages++;
            proa_group_receive(w->groups[to], &passed.message, now_us);
            collect(w, to);
        }
    }
}

/* Every rank ends its step, and says what it wants of the next. */
static void turn(worker *w)
{
    for (int32_t r = 0; r < w->ranks; r++) {
        if (w->running[r]) {
            w->running[r] = false;
            proa_group_ended(w->groups[r], true, limits.status_us);
            collect(w, r);
        }
        if (w->owes[r]) {
            w->owes[r] = false;
            proa_group_want want = {.windows = r < w->active ? 2 : 0, .placement = 1};
            proa_group_propose(w->groups[r], &want, limits.status_us);
            collect(w, r);
        }
    }
    hand_over(w, limits.status_us);
}

static void start(worker *w)
{
    w->room = 16 * w->ranks;
    w->groups = calloc((size_t)w->ranks, sizeof *w->groups);
    w->running = calloc((size_t)w->ranks, sizeof *w->running);
    w->owes = calloc((size_t)w->ranks, sizeof *w->owes);
    w->queue = calloc((size_t)w->room, sizeof *w->queue);
    assert_true(w->groups != NULL && w->running != NULL && w->owes != NULL && w->queue != NULL);
    for (int32_t r = 0; r < w->ranks; r++) {
        w->groups[r] = proa_group_create(w->ranks, r, 1, &limits, 0);
        assert_non_null(w->groups[r]);
    }
    proa_group_action
        unsent; /* all links come up at once: what is said meanwhile is said again by the timer */
    for (int32_t a = 0; a < w->ranks; a++) {
        for (int32_t b = 0; b < w->ranks; b++) {
            if (a == b)
                continue;
            proa_group_link_up(w->groups[a], b, 1, 0);
            while (proa_group_next(w->groups[a], &unsent))
                ;
        }
    }
    for (int32_t r = 0; r < w->ranks; r++) {
        proa_group_tick(w->groups[r], limits.status_us);
        collect(w, r);
    }
    hand_over(w, limits.status_us);
    for (int32_t r = 0; r < w->ranks; r++)
        assert_int_equal(proa_group_state_of(w->groups[r]), PROA_GROUP_MEMBER);
    turn(w);
}

static void stop(worker *w)
{
    for (int32_t r = 0; r < w->ranks; r++)
        proa_group_free(w->groups[r]);
    free(w->groups);
    free(w->running);
    free(w->owes);
    free(w->queue);
}

/* Nanoseconds of all machines together for a step. */
static double measure(int32_t ranks, int32_t active, int32_t expected)
{
    worker w = {.ranks = ranks, .active = active};
    start(&w);
    int64_t messages = w.messages, steps = w.steps, begun_ns = proa_clock_thread_ns();
    for (long i = 0; i < steps_wanted; i++)
        turn(&w);
    int64_t ns = proa_clock_thread_ns() - begun_ns;
    assert_int_equal(w.steps - steps, steps_wanted);
    assert_int_equal(w.messages - messages, steps_wanted * expected);
    stop(&w);
    return (double)ns / (double)steps_wanted;
}

/* The coordinator's share: its machine alone, with the others' proposals. */
static double measure_coordinator(int32_t ranks)
{
    worker w = {.ranks = ranks, .active = ranks};
    start(&w);
    proa_group *group = w.groups[0];
    proa_group_action a;
    proa_group_message m = {
        .kind = PROA_GROUP_PROPOSE, .life = 1, .epoch = proa_group_epoch_of(group), .want = {2, false, 1}};
    int64_t begun_ns = proa_clock_thread_ns();
    for (long i = 0; i < steps_wanted; i++) {
        m.step = (uint64_t)(i + 2);
        proa_group_propose(group, &m.want, limits.status_us);
        for (m.from = 1; m.from < ranks; m.from++)
            proa_group_receive(group, &m, limits.status_us);
        while (proa_group_next(group, &a))
            ;
        proa_group_ended(group, true, limits.status_us);
        assert_true(proa_group_next(group, &a) && a.kind == PROA_GROUP_BEGIN);
    }
    int64_t ns = proa_clock_thread_ns() - begun_ns;
    stop(&w);
    return (double)ns / (double)steps_wanted;
}

static void test_cost(void **state)
{
    (void)state;
    static const int32_t sizes[] = {2, 4, 8, 16, 32, 64, 256};
    printf(
        "ranks  messages a step: all busy / one busy   us a step and rank   us a step at the coordinator\n");
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        int32_t n = sizes[i];
        double all_ns = measure(n, n, 2 * (n - 1));
        measure(n, 1, n - 1); /* the coordinator alone has work: nobody proposes */
        printf("%5d  %24d / %8d   %18.3f   %27.2f\n", n, 2 * (n - 1), n - 1, all_ns / n / 1000,
               measure_coordinator(n) / 1000);
    }
}

int main(int argc, char **argv)
{
    if (argc > 1)
        steps_wanted = atol(argv[1]);
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_cost)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
