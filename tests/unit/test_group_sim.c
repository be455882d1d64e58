/* test_group_sim.c - lives of a worker's ranks in virtual time (sim/group_sim.h).
 *
 * test_group_sim [LIVES [FIRST_SEED]]: a finding names its seed and prints what led to it; `test_group_sim 1 SEED` repeats it. */
#include "sim/group_sim.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

static long lives = 2000, first_seed = 1;

static const char *const names[] = {"calm", "crash", "trouble"};

/* The end of the finding's log. */
static void show(uint64_t seed, proa_group_sim_trouble trouble, int32_t ranks)
{
    enum { TAIL = 60000 };
    char *text = NULL;
    size_t length = 0;
    proa_group_sim_result again;
    FILE *log = open_memstream(&text, &length);
    assert_non_null(log);
    proa_group_sim_run(seed, trouble, ranks, log, &again);
    fclose(log);
    fputs(length > TAIL ? strchr(text + length - TAIL, '\n') + 1 : text, stderr);
    free(text);
}

static void add(proa_group_sim_result *sum, const proa_group_sim_result *one)
{
    int64_t *to = &sum->views;
    const int64_t *from = &one->views;
    for (; from <= &one->events; from++)
        *to++ += *from;
    if (one->recovery_us > sum->recovery_us)
        sum->recovery_us = one->recovery_us;
    if (one->converged_us > sum->converged_us)
        sum->converged_us = one->converged_us;
}

static proa_group_sim_result run(proa_group_sim_trouble trouble, int32_t ranks, long count)
{
    proa_group_sim_result sum = {0}, one;
    for (long i = 0; i < count; i++) {
        uint64_t seed = (uint64_t)(first_seed + i);
        proa_group_sim_run(seed, trouble, ranks, NULL, &one);
        if (one.finding[0] != 0) {
            show(seed, trouble, ranks);
            fail_msg("seed %ld, %s, %d ranks: %s", first_seed + i, names[trouble], one.ranks, one.finding);
        }
        add(&sum, &one);
    }
    printf("%ld lives (%s): %lld views, %lld steps, %lld left, %lld switches, %lld plans, %lld layers moved, "
           "%lld resets; %lld crashes, "
           "%lld stalls, %lld breaks, %lld partitions, %lld hangs, %lld ghosts; %lld messages, %lld events; "
           "at most %.1f ms to recover, %.1f s to converge\n",
           count, names[trouble], (long long)sum.views, (long long)sum.steps, (long long)sum.abandoned,
           (long long)sum.switches, (long long)sum.plans, (long long)sum.moved, (long long)sum.resets,
           (long long)sum.crashes, (long long)sum.stalls, (long long)sum.breaks, (long long)sum.partitions,
           (long long)sum.hangs, (long long)sum.ghosts, (long long)sum.messages, (long long)sum.events,
           (double)sum.recovery_us / 1000, (double)sum.converged_us / 1e6);
    return sum;
}

static void test_calm(void **state)
{
    (void)state;
    proa_group_sim_result sum = run(PROA_GROUP_SIM_CALM, 0, lives / 10 + 1);
    assert_int_equal(sum.views, lives / 10 + 1);
    assert_int_equal(sum.abandoned + sum.resets, 0);
    assert_true(sum.plans > lives / 10);
}

/* Links tell within 0.3 ms, a step is left within 1 ms; nothing waits for a deadline. */
static void test_crash(void **state)
{
    (void)state;
    proa_group_sim_result sum = run(PROA_GROUP_SIM_CRASH, 0, lives / 10 + 1);
    assert_int_equal(sum.resets, 0);
    assert_true(sum.recovery_us < 4000);
}

static void test_trouble(void **state)
{
    (void)state;
    proa_group_sim_result sum = run(PROA_GROUP_SIM_TROUBLE, 0, lives);
    if (lives < 100)
        return;
    /* the test is void if nothing went wrong */
    assert_true(sum.views > 2 * lives && sum.steps > 50 * lives && sum.abandoned > lives);
    assert_true(sum.switches > lives && sum.plans > lives && sum.resets > 0 && sum.crashes > 0 &&
                sum.stalls > 0 && sum.breaks > 0 && sum.partitions > 0 && sum.hangs > 0 && sum.ghosts > 0);
}

/* Lives that were not good once. */
static void test_found_before(void **state)
{
    static const uint64_t seeds[] = {7008169 /* a plan whose only gain was a sum's rounding */};
    proa_group_sim_result one;
    (void)state;
    for (size_t i = 0; i < sizeof seeds / sizeof *seeds; i++) {
        proa_group_sim_run(seeds[i], PROA_GROUP_SIM_TROUBLE, 0, NULL, &one);
        assert_string_equal(one.finding, "");
    }
}

static void test_wide(void **state)
{
    (void)state;
    run(PROA_GROUP_SIM_TROUBLE, 64, lives / 1000 + 1);
}

int main(int argc, char **argv)
{
    if (argc > 1)
        lives = atol(argv[1]);
    if (argc > 2)
        first_seed = atol(argv[2]);
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_calm), cmocka_unit_test(test_crash),
                                       cmocka_unit_test(test_trouble), cmocka_unit_test(test_wide),
                                       cmocka_unit_test(test_found_before)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
