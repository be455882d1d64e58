/* test_loop.c - timers, watches, wakes from other threads, and addresses. */
#include "base/clock.h"
#include "net/loop.h"
#include "net/resolve.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { THREADS = 4, POSTS = 20000, GUARD_US = 5000000 };

typedef struct scene {
    proa_loop *loop;
    proa_timer *timer;
    proa_watch *watch;
    int ticks, reads, wakes;
    int fds[2];
    pthread_mutex_t lock;
    int posted, taken;
    proa_lookup *lookup;
    proa_addresses found;
    proa_error error;
} scene;

static void open_scene(scene *s, proa_loop_hook woken)
{
    *s = (scene){.fds = {-1, -1}};
    pthread_mutex_init(&s->lock, NULL);
    assert_int_equal(proa_loop_create(woken, s, &s->loop, NULL), PROA_OK);
}

static void close_scene(scene *s)
{
    proa_loop_free(s->loop);
    for (int i = 0; i < 2; i++) {
        if (s->fds[i] >= 0)
            close(s->fds[i]);
    }
    pthread_mutex_destroy(&s->lock);
}

static void give_up(void *context)
{
    scene *s = context;
    snprintf(s->error.text, sizeof s->error.text, "the test waits for too long");
    proa_loop_stop(s->loop);
}

static void run(scene *s)
{
    proa_timer *guard = proa_loop_add_timer(s->loop, GUARD_US, give_up, s);
    assert_non_null(guard);
    proa_loop_run(s->loop);
    proa_timer_free(guard);
    assert_string_equal(s->error.text, "");
}

/* ---- timers ---- */

static void tick(void *context)
{
    scene *s = context;
    if (++s->ticks < 50)
        return;
    proa_timer_free(s->timer); /* inside its own hook */
    s->timer = NULL;
    proa_loop_stop(s->loop);
}

static void test_timer(void **state)
{
    (void)state;
    scene s;
    open_scene(&s, NULL);
    int64_t start = proa_clock_us();
    s.timer = proa_loop_add_timer(s.loop, 2000, tick, &s);
    assert_non_null(s.timer);
    run(&s);
    int64_t us = proa_clock_us() - start;
    print_message("50 ticks of 2 ms took %.1f ms\n", (double)us / 1e3);
    assert_int_equal(s.ticks, 50);
    assert_true(us >= 100000 - 2000);
    close_scene(&s);
}

/* Slows down inside its own hook, and is made fast again by another one. */
static void slow_tick(void *context)
{
    scene *s = context;
    if (++s->ticks == 5)
        proa_timer_set_period(s->timer, 3600000000);
    else if (s->ticks == 10)
        proa_loop_stop(s->loop);
}

static void hurry(void *context)
{
    scene *s = context;
    proa_timer_set_period(s->timer, 10000);
}

static void test_period(void **state)
{
    (void)state;
    scene s;
    open_scene(&s, NULL);
    s.timer = proa_loop_add_timer(s.loop, 1000, slow_tick, &s);
    proa_timer *other = proa_loop_add_timer(
        s.loop, 3000, hurry, &s); /* more often than 10 ms: the same period pushes nothing off */
    assert_non_null(other);
    run(&s);
    assert_int_equal(s.ticks, 10);
    proa_timer_free(other);
    close_scene(&s);
}

/* ---- watches ---- */

static void readable(void *context)
{
    scene *s = context;
    char byte;
    assert_int_equal(read(s->fds[0], &byte, 1), 1);
    if (++s->reads < 3)
        return;
    proa_watch_free(s->watch);
    s->watch = NULL;
    proa_loop_stop(s->loop);
}

static void test_watch(void **state)
{
    (void)state;
    scene s;
    open_scene(&s, NULL);
    assert_int_equal(pipe(s.fds), 0);
    assert_int_equal(write(s.fds[1], "abcd", 4), 4); /* readable again after each byte that the hook takes */
    s.watch = proa_loop_add_watch(s.loop, s.fds[0], readable, &s);
    assert_non_null(s.watch);
    run(&s);
    assert_int_equal(s.reads, 3);
    close_scene(&s);
}

/* ---- wakes ---- */

static void *post(void *context)
{
    scene *s = context;
    for (int i = 0; i < POSTS; i++) {
        pthread_mutex_lock(&s->lock);
        s->posted++;
        pthread_mutex_unlock(&s->lock);
        proa_loop_wake(s->loop);
    }
    return NULL;
}

static void take(void *context)
{
    scene *s = context;
    s->wakes++;
    pthread_mutex_lock(&s->lock);
    s->taken = s->posted;
    pthread_mutex_unlock(&s->lock);
    if (s->taken == THREADS * POSTS)
        proa_loop_stop(s->loop);
}

/* No post stays unseen, though many wakes become one. */
static void test_wakes_from_threads(void **state)
{
    (void)state;
    scene s;
    pthread_t threads[THREADS];
    open_scene(&s, take);
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, post, &s), 0);
    run(&s);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    print_message("%d posts, %d calls of the hook\n", THREADS * POSTS, s.wakes);
    assert_int_equal(s.taken, THREADS * POSTS);
    close_scene(&s);
}

static void *stop_soon(void *context)
{
    usleep(20000);
    proa_loop_stop(context);
    return NULL;
}

static void test_stop(void **state)
{
    (void)state;
    scene s;
    pthread_t thread;
    open_scene(&s, NULL);
    proa_loop_stop(s.loop); /* before it runs: it returns at once */
    run(&s);
    assert_int_equal(pthread_create(&thread, NULL, stop_soon, s.loop), 0);
    run(&s); /* and it can run again */
    pthread_join(thread, NULL);
    close_scene(&s);
}

/* ---- addresses ---- */

static void test_split(void **state)
{
    (void)state;
    static const struct {
        const char *text, *host;
        int port; /* 0: refused */
    } cases[] = {
        {"127.0.0.1:80", "127.0.0.1", 80},
        {"[::1]:65535", "::1", 65535},
        {"node-0.cluster:5757", "node-0.cluster", 5757},
        {"localhost", NULL, 0},
        {"", NULL, 0},
        {":80", NULL, 0},
        {"host:", NULL, 0},
        {"host:0", NULL, 0},
        {"host:65536", NULL, 0},
        {"host:99999999999", NULL, 0},
        {"host:-1", NULL, 0},
        {"host: 80", NULL, 0},
        {"host:80x", NULL, 0},
        {"::1:80", NULL, 0},
        {"[::1]", NULL, 0},
        {"[]:80", NULL, 0},
        {"[::1:80", NULL, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char host[PROA_HOST_BYTES];
        uint16_t port = 0;
        proa_error err = {0};
        proa_status status = proa_address_split(cases[i].text, host, &port, &err);
        if ((status == PROA_OK) != (cases[i].port != 0))
            fail_msg("\"%s\" is %s", cases[i].text, status == PROA_OK ? "taken" : err.text);
        if (status == PROA_OK) {
            assert_string_equal(host, cases[i].host);
            assert_int_equal(port, cases[i].port);
        } else
            assert_non_null(strstr(err.text, "host:port"));
    }
    char host[PROA_HOST_BYTES], text[PROA_HOST_BYTES + 4];
    uint16_t port;
    memset(text, 'a', PROA_HOST_BYTES);
    memcpy(text + PROA_HOST_BYTES, ":80", 4);
    assert_int_equal(proa_address_split(text, host, &port, NULL), PROA_ERR_INVALID);
    assert_int_equal(proa_address_split(text + 1, host, &port, NULL), PROA_OK);
}

static void test_loopback(void **state)
{
    (void)state;
    static const struct {
        const char *host, *text;
        bool loopback;
    } cases[] = {
        {"127.0.0.1", "127.0.0.1:9", true},
        {"127.9.8.7", "127.9.8.7:9", true},
        {"::1", "[::1]:9", true},
        {"::ffff:127.0.0.1", "[::ffff:127.0.0.1]:9", true},
        {"::ffff:10.0.0.1", "[::ffff:10.0.0.1]:9", false},
        {"0.0.0.0", "0.0.0.0:9", false},
        {"::", "[::]:9", false},
        {"128.0.0.1", "128.0.0.1:9", false},
        {"fe80::1", "[fe80::1]:9", false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        proa_addresses found;
        char text[80];
        assert_true(proa_address_numeric(cases[i].host, 9, &found));
        assert_int_equal(found.count, 1);
        proa_address_write(&found.list[0], text, sizeof text);
        assert_string_equal(text, cases[i].text);
        assert_int_equal(proa_address_is_loopback(&found.list[0]), cases[i].loopback);
    }
    proa_addresses found;
    assert_false(proa_address_numeric("localhost", 9, &found));
}

static void on_found(void *context)
{
    scene *s = context;
    assert_int_equal(proa_lookup_result(s->lookup, &s->found, NULL), PROA_OK);
    proa_lookup_free(s->lookup);
    proa_loop_stop(s->loop);
}

static void test_lookup(void **state)
{
    (void)state;
    scene s;
    open_scene(&s, NULL);
    assert_int_equal(proa_lookup_start(s.loop, "localhost", 80, on_found, &s, &s.lookup, NULL), PROA_OK);
    run(&s);
    assert_true(s.found.count >= 1);
    for (int i = 0; i < s.found.count; i++)
        assert_true(proa_address_is_loopback(&s.found.list[i]));
    close_scene(&s);
}

/* Let go of at once, many times: no hook comes, threads are bounded, and they outlive loop and look-up. */
static void test_lookups_let_go(void **state)
{
    (void)state;
    scene s;
    int refused = 0;
    open_scene(&s, NULL);
    for (int i = 0; i < 200; i++) {
        proa_error err = {0};
        proa_lookup *lookup = NULL;
        proa_status status = proa_lookup_start(s.loop, "localhost", 80, give_up, &s, &lookup, &err);
        if (status == PROA_ERR_OVERLOADED)
            refused++;
        else
            assert_int_equal(status, PROA_OK);
        proa_lookup_free(lookup);
    }
    print_message("%d of 200 were refused\n", refused);
    assert_string_equal(s.error.text, "");
    close_scene(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_timer),          cmocka_unit_test(test_period),
        cmocka_unit_test(test_watch),          cmocka_unit_test(test_wakes_from_threads),
        cmocka_unit_test(test_stop),           cmocka_unit_test(test_split),
        cmocka_unit_test(test_loopback),       cmocka_unit_test(test_lookup),
        cmocka_unit_test(test_lookups_let_go),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
