/* test_stacks.c - threads that hang are found in the dump, by the function in which they do; those that cannot answer cost their time. */
#include "base/stacks.h"

#include "base/clock.h"

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <unistd.h>

enum { EACH_US = 5000000, SHORT_US = 100000 };

typedef struct hanger {
    pthread_t thread;
    atomic_int id;
    atomic_bool ends;
    bool deaf;
    void (*hangs)(struct hanger *h);
} hanger;

/* Seen by the linker, so that the dump has their names. */
void test_stacks_hang_in_a_wait(hanger *h);
void test_stacks_hang_in_a_loop(hanger *h);
void test_stacks_hang_in_a_file(hanger *h);

static int closed_pipe[2]; /* nothing ever comes */

__attribute__((noinline)) void test_stacks_hang_in_a_wait(hanger *h)
{
    while (!atomic_load(&h->ends))
        usleep(1000000);
}

__attribute__((noinline)) void test_stacks_hang_in_a_loop(hanger *h)
{
    while (!atomic_load(&h->ends)) {
    }
}

__attribute__((noinline)) void test_stacks_hang_in_a_file(hanger *h)
{
    char byte;
    while (read(closed_pipe[0], &byte, 1) < 0) {
    }
    atomic_store(&h->ends, true);
}

static void *run(void *context)
{
    hanger *h = context;
    sigset_t all;
    sigfillset(&all);
    if (h->deaf)
        pthread_sigmask(SIG_BLOCK, &all, NULL);
    proa_stacks_name_thread("hanger");
    atomic_store(&h->id, proa_stacks_thread());
    h->hangs(h);
    return NULL;
}

static void start(hanger *h, void (*hangs)(hanger *), bool deaf)
{
    *h = (hanger){.hangs = hangs, .deaf = deaf};
    assert_int_equal(pthread_create(&h->thread, NULL, run, h), 0);
    while (atomic_load(&h->id) == 0)
        usleep(1000);
}

static void stop(hanger *h)
{
    atomic_store(&h->ends, true);
    pthread_join(h->thread, NULL);
}

/* The dump as text, freed by the caller. */
static char *dump(int64_t each_us)
{
    FILE *file = tmpfile();
    char *text = calloc(1, 1 << 20);
    assert_true(file != NULL && text != NULL);
    proa_stacks_write(fileno(file), each_us);
    rewind(file);
    size_t length = fread(text, 1, (1 << 20) - 1, file);
    text[length] = 0;
    fclose(file);
    return text;
}

static bool is_in(const char *dumped, const char *word)
{
    if (strstr(dumped, word) == NULL)
        print_message("no \"%s\" in\n%s", word, dumped);
    return strstr(dumped, word) != NULL;
}

static void hanging_threads_are_named(void **state)
{
    (void)state;
    hanger waits, loops;
    start(&waits, test_stacks_hang_in_a_wait, false);
    start(&loops, test_stacks_hang_in_a_loop, false);
    for (int i = 0; i < 20; i++) {
        char *text = dump(EACH_US);
        assert_true(is_in(text, "test_stacks_hang_in_a_wait+"));
        assert_true(is_in(text, "test_stacks_hang_in_a_loop+"));
        assert_true(is_in(text, " (hanger), state "));
        assert_true(is_in(text, ", which writes this\n"));
        assert_true(is_in(text, "proa_stacks_write+")); /* the caller's own */
        assert_null(strstr(text, "does not answer"));
        free(text);
    }
    stop(&loops);
    stop(&waits);
}

static void a_deaf_thread_costs_its_time_alone(void **state)
{
    (void)state;
    hanger deaf, waits;
    start(&deaf, test_stacks_hang_in_a_loop, true);
    start(&waits, test_stacks_hang_in_a_wait, false);
    int64_t begun = proa_clock_us();
    char *text = dump(SHORT_US);
    assert_true(proa_clock_us() - begun < 100 * SHORT_US);
    assert_true(is_in(text, "does not answer; in the kernel it is in "));
    assert_null(strstr(text, "test_stacks_hang_in_a_loop"));
    free(text);
    stop(&deaf);
    stop(&waits);
}

/* Polls: threads need a moment to get where they hang. */
static bool comes_to(pid_t thread, bool asleep)
{
    for (int64_t deadline = proa_clock_us() + 10000000; proa_clock_us() < deadline;) {
        if (proa_stacks_is_asleep(thread) == asleep)
            return true;
        usleep(1000);
    }
    return false;
}

static void sleep_is_told_from_work(void **state)
{
    (void)state;
    hanger h;
    start(&h, test_stacks_hang_in_a_wait, false);
    bool told = access("/proc/self/syscall", R_OK) == 0;
    if (told)
        assert_true(comes_to(atomic_load(&h.id), true));
    else
        assert_false(proa_stacks_is_asleep(atomic_load(&h.id)));
    stop(&h);
    start(&h, test_stacks_hang_in_a_loop, false);
    for (int i = 0; i < 50; i++)
        assert_false(proa_stacks_is_asleep(atomic_load(&h.id)));
    stop(&h);
    assert_int_equal(pipe(closed_pipe), 0);
    start(&h, test_stacks_hang_in_a_file, false);
    for (int i = 0; i < 50; i++, usleep(1000))
        assert_false(proa_stacks_is_asleep(atomic_load(&h.id)));
    close(closed_pipe[1]);
    pthread_join(h.thread, NULL);
    close(closed_pipe[0]);
    assert_false(proa_stacks_is_asleep(1 << 30));
    if (!told)
        skip();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hanging_threads_are_named),
        cmocka_unit_test(a_deaf_thread_costs_its_time_alone),
        cmocka_unit_test(sleep_is_told_from_work),
    };
    proa_stacks_prepare();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
