/* The processors that this process may use, split among others. */
#define _GNU_SOURCE /* sched_getaffinity */
#include "base/cpu.h"

#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

/* The processors of a share, as a process sees them that took it; and how many cores it counts. */
static void take_in_a_process(const proa_cpu_shares *shares, int index, cpu_set_t *cpus, int *cores)
{
    int ends[2], status;
    assert_int_equal(pipe(ends), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct {
            cpu_set_t cpus;
            int cores;
        } seen;
        bool done =
            proa_cpu_shares_take(shares, index) && sched_getaffinity(0, sizeof seen.cpus, &seen.cpus) == 0;
        seen.cores = proa_cpu_core_count();
        done = done && write(ends[1], &seen.cpus, sizeof seen.cpus) > 0 &&
               write(ends[1], &seen.cores, sizeof seen.cores) > 0;
        _exit(done ? 0 : 1);
    }
    assert_int_equal(read(ends[0], cpus, sizeof *cpus), sizeof *cpus);
    assert_int_equal(read(ends[0], cores, sizeof *cores), sizeof *cores);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    close(ends[0]);
    close(ends[1]);
}

static void shares_are_even_and_disjoint(void **state)
{
    (void)state;
    int all_cores = proa_cpu_core_count();
    cpu_set_t all;
    assert_int_equal(sched_getaffinity(0, sizeof all, &all), 0);
    for (int count = 1; count <= all_cores && count <= 5; count++) {
        proa_cpu_shares *shares = proa_cpu_shares_create(count);
        assert_non_null(shares);
        cpu_set_t together, common;
        CPU_ZERO(&together);
        int cores_together = 0;
        for (int i = 0; i < count; i++) {
            cpu_set_t cpus;
            int cores;
            take_in_a_process(shares, i, &cpus, &cores);
            assert_true(cores == all_cores / count || cores == all_cores / count + 1);
            cores_together += cores;
            CPU_AND(&common, &together, &cpus);
            assert_int_equal(CPU_COUNT(&common), 0);
            CPU_OR(&together, &together, &cpus);
        }
        assert_int_equal(cores_together, all_cores);
        assert_true(CPU_EQUAL(&together, &all));
        proa_cpu_shares_free(shares);
    }
}

static void more_processes_than_cores_share_all(void **state)
{
    (void)state;
    assert_null(proa_cpu_shares_create(proa_cpu_core_count() + 1));
    proa_cpu_shares_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shares_are_even_and_disjoint),
        cmocka_unit_test(more_processes_than_cores_share_all),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
