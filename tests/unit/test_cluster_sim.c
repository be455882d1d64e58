/* test_cluster_sim.c - lives of whole clusters in virtual time (sim/cluster_sim.h).
 *
 * test_cluster_sim [LIVES [FIRST_SEED]]: a finding names its seed; `test_cluster_sim 1 SEED` repeats it. */
#include "sim/cluster_sim.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>

static long lives = 2000, first_seed = 1;

static void add(proa_cluster_sim_result *sum, const proa_cluster_sim_result *one)
{
    sum->calls += one->calls;
    sum->clean += one->clean;
    sum->cancelled += one->cancelled;
    sum->failed += one->failed;
    sum->replays += one->replays;
    sum->crashes += one->crashes;
    sum->stalls += one->stalls;
    sum->breaks += one->breaks;
    sum->events += one->events;
    sum->late_writes += one->late_writes;
}

static proa_cluster_sim_result run(bool trouble, long count)
{
    proa_cluster_sim_result sum = {0}, one;
    for (long i = 0; i < count; i++) {
        proa_cluster_sim_run((uint64_t)(first_seed + i), trouble, &one);
        if (one.finding[0] != 0)
            fail_msg("seed %ld%s: %s", first_seed + i, trouble ? "" : " without trouble", one.finding);
        assert_int_equal(one.clean + one.cancelled + one.failed, one.calls);
        add(&sum, &one);
    }
    printf("%ld lives: %d calls, %d clean, %d cancelled, %d failed; %d replays, %d crashes, %d stalls, %d "
           "breaks, "
           "%d late writes, %lld events\n",
           count, sum.calls, sum.clean, sum.cancelled, sum.failed, sum.replays, sum.crashes, sum.stalls,
           sum.breaks, sum.late_writes, (long long)sum.events);
    return sum;
}

static void test_quiet(void **state)
{
    (void)state;
    proa_cluster_sim_result sum = run(false, lives / 10 + 1);
    assert_int_equal(sum.clean, sum.calls);
}

static void test_trouble(void **state)
{
    (void)state;
    proa_cluster_sim_result sum = run(true, lives);
    if (lives < 100)
        return;
    /* the test is void if nothing went wrong */
    assert_true(sum.replays > 0 && sum.crashes > 0 && sum.stalls > 0 && sum.breaks > 0 &&
                sum.late_writes > 0);
    assert_true(sum.clean > sum.calls / 2);
}

int main(int argc, char **argv)
{
    if (argc > 1)
        lives = atol(argv[1]);
    if (argc > 2)
        first_seed = atol(argv[2]);
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_quiet), cmocka_unit_test(test_trouble)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
