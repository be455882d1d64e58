/* test_client_faults.c - the client against fake workers that fail, stall, lie and vanish: the sink sees the tokens that one
 * undisturbed worker would give, or an error that says why not. */
#include "client_fixture.h"

#include "base/log.h"
#include "base/random.h"

typedef struct failing {
    const char *name;
    proa_wire_leg bad; /* of the worker that fails; the others are well */
    fake_mood mood;
    bool migrates;
} failing;

/* One bad worker of each kind beside a good one: nobody notices. */
static void test_bad_workers(void **state)
{
    static const failing table[] = {
        {"refuses", PROA_LEG_COMBINED, FAKE_REFUSES, false},
        {"refuses", PROA_LEG_PREFILL, FAKE_REFUSES, false},
        {"refuses", PROA_LEG_DECODE, FAKE_REFUSES, false},
        {"fails", PROA_LEG_COMBINED, FAKE_FAILS, true},
        {"fails", PROA_LEG_DECODE, FAKE_FAILS, true},
        {"blames", PROA_LEG_DECODE, FAKE_BLAMES, true},
        {"babbles", PROA_LEG_COMBINED, FAKE_BABBLES, true},
        {"babbles", PROA_LEG_DECODE, FAKE_BABBLES, true},
        {"overspends", PROA_LEG_COMBINED, FAKE_OVERSPENDS, true},
        {"cuts short", PROA_LEG_DECODE, FAKE_CUTS_SHORT, true},
        {"hangs up", PROA_LEG_COMBINED, FAKE_HANGS_UP, true},
        {"hangs up", PROA_LEG_DECODE, FAKE_HANGS_UP, true},
        {"hangs up at once", PROA_LEG_PREFILL, FAKE_HANGS_UP_NOW, true},
        {"hangs up at once", PROA_LEG_DECODE, FAKE_HANGS_UP_NOW, true},
    };
    (void)state;
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        void *own;
        world_setup(&own);
        world *w = own;
        if (table[i].bad != PROA_LEG_COMBINED) {
            world_add_leg(w, PROA_LEG_PREFILL);
            world_add_leg(w, PROA_LEG_DECODE);
        } else {
            world_add_leg(w, PROA_LEG_COMBINED);
        }
        world_add(w, (fake_options){.leg = table[i].bad, .mood = table[i].mood});
        world_start(w);
        for (int k = 0; k < 20; k++)
            ask_begin(w->client, &w->asks[k], (uint64_t)k + 1000);
        for (int k = 0; k < 20; k++)
            ask_check_whole(&w->asks[k]);
        fake_worker *bad = w->workers[w->worker_count - 1];
        bool migrated = world_metric(w, "cluster_migrations_total") > 0;
        bool lost = world_metric(w, "cluster_links_lost_total") > 0; /* by a mood, or on a busy machine */
        bool may = table[i].bad == PROA_LEG_PREFILL; /* where decode had begun, nothing was to be done */
        if (fake_worker_counts(bad)->submits == 0 || (migrated && !table[i].migrates && !lost) ||
            (!migrated && table[i].migrates && !may))
            fail_msg("%s, leg %d: %g migrations", table[i].name, table[i].bad,
                     world_metric(w, "cluster_migrations_total"));
        world_check_idle(w);
        assert_int_equal(world_teardown(&own), 0);
    }
}

static void test_all_refuse(void **state)
{
    world *w = *state;
    for (int i = 0; i < 3; i++)
        world_add(w, (fake_options){.leg = PROA_LEG_COMBINED, .mood = FAKE_REFUSES});
    world_start(w);
    ask_begin(w->client, &w->asks[0], 1);
    ask_check_error(&w->asks[0], PROA_ERR_OVERLOADED, "mood");
    for (int i = 0; i < 3; i++)
        assert_int_equal(fake_worker_counts(w->workers[i])->submits, 1);
}

/* A request that ends every worker that it meets fails alone. */
static void test_poison(void **state)
{
    world *w = *state;
    for (int i = 0; i < 3; i++)
        world_add(w, (fake_options){.leg = PROA_LEG_COMBINED, .poison = 4242, .token_us = 3000});
    world_start(w);
    for (int i = 1; i < 10; i++) {
        ask_fill(&w->asks[i], (uint64_t)i);
        ask_begin(w->client, &w->asks[i], (uint64_t)i);
    }
    ask_fill(&w->asks[0], 0);
    w->asks[0].prompt[0] = 4242;
    proa_error err = {0};
    assert_int_equal(ask_submit(w->client, &w->asks[0], &err), PROA_OK);
    ask_check_error(&w->asks[0], PROA_ERR_UNREACHABLE, "given up after 3 replays");
    int hung_up = 0;
    for (int i = 1; i < 10; i++) {
        ask_wait(&w->asks[i]);
        hung_up += w->asks[i].finish.reason == PROA_FINISH_ABORT; /* met it more than three times */
    }
    assert_true(hung_up <= 3);
}

static void test_stalled_worker(void **state)
{
    world *w = *state;
    world_add(w, (fake_options){.leg = PROA_LEG_COMBINED, .token_us = 20000});
    world_start(w);
    ask *a = &w->asks[0];
    ask_fill(a, 3);
    a->max_new_tokens = 60;
    proa_error err = {0};
    assert_int_equal(ask_submit(w->client, a, &err), PROA_OK);
    WAIT_FOR(a->count > 0);
    world_add_leg(w, PROA_LEG_COMBINED);
    WAIT_FOR(world_ready(w) == 2);
    int64_t from = proa_clock_us();
    fake_worker_stop(w->workers[0], true);
    ask_check_whole(a);
    print_message("went on elsewhere after %.2f s\n", (double)(a->finish_us - from) / SECOND);
    ask_begin(w->client, &w->asks[1], 4); /* it is avoided */
    ask_check_whole(&w->asks[1]);
    fake_worker_stop(w->workers[0], false);
}

static void test_waits_for_another(void **state)
{
    world *w = *state;
    world_add(w, (fake_options){.leg = PROA_LEG_COMBINED, .token_us = 5000});
    world_start(w);
    ask *a = &w->asks[0];
    ask_fill(a, 3);
    a->max_new_tokens = 60;
    proa_error err = {0};
    assert_int_equal(ask_submit(w->client, a, &err), PROA_OK);
    WAIT_FOR(a->count > 3);
    fake_worker_kill(w->workers[0]); /* the only one: a new process comes a little later */
    usleep(500000);
    assert_int_equal(a->finishes, 0);
    world_add(w, (fake_options){.leg = PROA_LEG_COMBINED});
    ask_check_whole(a);
    assert_true(world_metric(w, "cluster_migrations_total") == 1);
}

static void test_restart_with_another_epoch(void **state)
{
    world *w = *state;
    world_add(w, (fake_options){.leg = PROA_LEG_COMBINED, .instance = 99});
    world_start(w);
    fake_worker_free(w->workers[0]);
    w->workers[0] = fake_worker_start(w->registry, &(fake_options){.instance = 99});
    ask *a = &w->asks[0];
    ask_begin_when_possible(w->client, a, 1);
    ask_check_whole(a);
    WAIT_FOR(world_metric(w, "cluster_workers{leg=\"any\",status=\"down\"}") ==
             0); /* the old one is forgotten */
}

/* A reader that does not read holds back its own request, also over a replay. */
static void test_slow_reader(void **state)
{
    world *w = *state;
    world_add_leg(w, PROA_LEG_COMBINED);
    world_start(w);
    ask *a = &w->asks[0];
    ask_fill(a, 3);
    a->max_new_tokens = 60;
    a->window = 5;
    a->no_grants = true;
    proa_error err = {0};
    assert_int_equal(ask_submit(w->client, a, &err), PROA_OK);
    WAIT_FOR(a->count == 5);
    fake_worker_hang_up(w->workers[0]);
    usleep(300000);
    assert_int_equal(fake_worker_counts(w->workers[0])->submits, 1); /* nothing to be had: not sent yet */
    a->no_grants = false;
    a->credit += 7;
    proa_client_grant(w->client, a->id, 7);
    ask_check_whole(a);
    assert_int_equal(fake_worker_counts(w->workers[0])->submits, 2);
}

/* Workers hang up, stop, refuse and restart while requests run; one of each kind is well: every request ends whole. */
static void test_churn(void **state)
{
    world *w = *state;
    for (int i = 0; i < 6; i++)
        world_add(w, (fake_options){.leg = i < 3 ? PROA_LEG_PREFILL : PROA_LEG_DECODE,
                                    .running_max = 1000,
                                    .token_us = 1000});
    world_start_with(w, (proa_client_options){.router_mode = PROA_ROUTER_RANDOM, .migration_limit = 50});
    WAIT_FOR(world_ready(w) == 6);
    static const fake_mood moods[] = {FAKE_WELL, FAKE_FAILS, FAKE_BLAMES, FAKE_HANGS_UP, FAKE_REFUSES};
    int asked = 0;
    for (int round = 0; round < 60; round++) {
        uint32_t r[4];
        proa_random_philox(11, (uint64_t)round, 0, r);
        int which = (int)(r[0] % 4);
        int bad = which < 2 ? which + 1 : which + 2; /* 0 and 3 are always well */
        if (r[1] % 3 == 0) {
            fake_worker_hang_up(w->workers[bad]);
        } else if (r[1] % 3 == 1) {
            fake_worker_set_mood(w->workers[bad], moods[r[2] % 5]);
        } else {
            proa_wire_leg leg = bad < 3 ? PROA_LEG_PREFILL : PROA_LEG_DECODE;
            fake_worker_free(w->workers[bad]);
            w->workers[bad] = fake_worker_start(
                w->registry, &(fake_options){.leg = leg, .running_max = 1000, .token_us = 1000});
        }
        for (int i = 0; i < 5; i++, asked++)
            ask_begin(w->client, &w->asks[asked], (uint64_t)asked + 7000);
        usleep(15000);
    }
    for (int i = 0; i < asked; i++)
        ask_check_whole(&w->asks[i]);
    print_message("%d requests, %g migrations, %g links lost\n", asked,
                  world_metric(w, "cluster_migrations_total"), world_metric(w, "cluster_links_lost_total"));
    assert_true(world_metric(w, "cluster_migrations_total") > 20);
    world_check_idle(w);
}

int main(void)
{
    proa_log_set_level("error");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bad_workers),
        TEST(test_all_refuse),
        TEST(test_poison),
        TEST(test_stalled_worker),
        TEST(test_waits_for_another),
        TEST(test_restart_with_another_epoch),
        TEST(test_slow_reader),
        TEST(test_churn),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
