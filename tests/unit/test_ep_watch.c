/* test_ep_watch.c - when an engine thread hangs: what the control thread sees, tick by tick. */
#include "engine/ep_watch.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

enum { TICK_US = 20000, LIMIT_US = 300000000 };

typedef struct scene {
    proa_ep_watch watch;
    proa_ep_look look;
    bool asleep;
    int asked;
} scene;

static bool asleep(void *context)
{
    scene *s = context;
    s->asked++;
    return s->asleep;
}

/* Ticks until it is said to hang, or that time is over: how long it took; -1: it does not hang. */
static int64_t run(scene *s, int64_t us, const char **why)
{
    for (int64_t begun = s->look.now_us; s->look.now_us - begun < us;) {
        s->look.now_us += TICK_US;
        *why = proa_ep_watch_tick(&s->watch, &s->look, LIMIT_US, asleep, s);
        if (*why != NULL)
            return s->look.now_us - begun;
    }
    return -1;
}

static void verdicts(void **state)
{
    (void)state;
    static const struct {
        bool wanted, busy, waits, asleep;
        int64_t least_us, most_us; /* -1: never */
        const char *why;
    } rows[] = {
        {false, false, false, true, -1, -1, NULL}, /* nothing to do */
        {false, true, true, true, -1, -1, NULL},   /* for others */
        {false, true, false, false, LIMIT_US, LIMIT_US + 100000, "makes no progress"},
        {true, false, false, false, LIMIT_US, LIMIT_US + 100000, "does not come"},
        {false, true, false, true, 2000000, 2500000, "sleeps"},
        {true, false, false, true, 2000000, 2500000, "sleeps"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const char *why;
        scene s = {.look = {.now_us = 1000000000}, .asleep = rows[i].asleep};
        assert_int_equal(run(&s, 1000000, &why), -1);
        s.look.wanted = rows[i].wanted;
        s.look.busy = rows[i].busy;
        s.look.waits = rows[i].waits;
        int64_t took = run(&s, 2 * (int64_t)LIMIT_US, &why);
        assert_true(rows[i].why == NULL ? took == -1 : took >= rows[i].least_us && took <= rows[i].most_us);
        assert_true(rows[i].why == NULL || strstr(why, rows[i].why) != NULL);
        assert_true(rows[i].why != NULL || s.asked == 0);
    }
}

/* Each sign of life begins the count anew. */
static void progress_is_life(void **state)
{
    (void)state;
    const char *why;
    scene s = {.look = {.busy = true}, .asleep = true};
    for (int i = 0; i < 100; i++) {
        assert_int_equal(run(&s, 1900000, &why), -1);
        switch (i % 4) {
        case 0: s.look.moves++; break;
        case 1: s.look.waits = true; break;
        case 2: s.look.waits = false; break;
        default: /* once awake */
            s.asleep = false;
            assert_int_equal(run(&s, 200000, &why), -1);
            s.asleep = true;
        }
    }
    assert_true(run(&s, 3000000, &why) > 0);
}

/* A process that was stopped, and its clock with it, has not slept. */
static void a_stop_is_no_sleep(void **state)
{
    (void)state;
    const char *why;
    scene s = {.look = {.busy = true}, .asleep = true};
    assert_int_equal(run(&s, 500000, &why), -1);
    s.look.now_us += 60000000;
    assert_int_equal(run(&s, 1000000, &why), -1);
    assert_true(run(&s, 3000000, &why) > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(verdicts),
        cmocka_unit_test(progress_is_life),
        cmocka_unit_test(a_stop_is_no_sleep),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
