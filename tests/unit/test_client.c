/* test_client.c - the client against fake workers over real links: whatever workers do, the sink sees the tokens that one
 * undisturbed worker would give, or an error that says why not.
 */
#include "cluster/client.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/random.h"
#include "cluster/instance.h"
#include "fake_worker.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { WINDOW = 64, SECOND = 1000000, OUTPUT_MAX = 400, PROMPT_MAX = 300 };

/* ---- requests ---- */

/* One request and what its sink has seen. */
typedef struct ask {
    proa_client *client;
    uint64_t id;
    int32_t prompt[PROMPT_MAX];
    int32_t prompt_count;
    int32_t max_new_tokens;
    int32_t window;         /* credit at first */
    _Atomic bool no_grants; /* the reader does not read */
    int32_t output[OUTPUT_MAX];
    bool stop; /* of the last token */
    _Atomic int32_t credit;
    _Atomic int32_t count;
    _Atomic int finishes;
    int64_t finish_us;
    proa_engine_finish finish;
} ask;

static void on_token(void *context, const proa_sample_result *token, bool stop)
{
    ask *a = context;
    int32_t count = atomic_load(&a->count);
    if (atomic_load(&a->finishes) != 0 || a->stop || count >= OUTPUT_MAX || a->credit <= 0)
        abort(); /* said after the end, or more than was granted */
    if (token->logprob > 0 || token->top_count != 2)
        abort();
    a->credit--;
    a->output[count] = token->token;
    a->stop = stop;
    atomic_store(&a->count, count + 1);
    if (!a->no_grants && ((count + 1) % 3 == 0 || a->credit == 0)) {
        a->credit += 3;
        proa_client_grant(a->client, a->id, 3);
    }
}

static void on_finish(void *context, const proa_engine_finish *finish)
{
    ask *a = context;
    a->finish = *finish;
    a->finish_us = proa_clock_us();
    atomic_fetch_add(&a->finishes, 1);
}

static void fill_prompt(ask *a, uint64_t seed)
{
    uint32_t w[4];
    proa_random_philox(seed, 0, 9, w);
    a->prompt_count = 1 + (int32_t)(w[0] % PROMPT_MAX);
    a->max_new_tokens = 1 + (int32_t)(w[1] % 100);
    a->window = 1 + (int32_t)(w[2] % WINDOW);
    for (int32_t i = 0; i < a->prompt_count; i++) {
        proa_random_philox(seed, (uint64_t)i, 8, w);
        a->prompt[i] = 1 + (int32_t)(w[0] % (FAKE_VOCAB - 1));
    }
}

static proa_status submit(proa_client *client, ask *a, proa_error *err)
{
    a->client = client;
    a->credit = a->window;
    proa_engine_request request = {
        .prompt_ids = a->prompt,
        .prompt_count = a->prompt_count,
        .max_new_tokens = a->max_new_tokens,
        .top_p = 1,
        .repetition_penalty = 1,
        .top_logprobs = 2,
        .credit = a->window,
        .sink = {.token = on_token, .finish = on_finish, .context = a},
    };
    return proa_client_submit(client, &request, &a->id, err);
}

/* As soon as it is accepted: a report of a worker may be older than what has ended there. */
static void begin_when_possible(proa_client *client, ask *a, uint64_t seed)
{
    int64_t until = proa_clock_us() + 20 * SECOND;
    proa_error err = {0};
    fill_prompt(a, seed);
    while (submit(client, a, &err) != PROA_OK) {
        if (proa_clock_us() > until)
            fail_msg("%s", err.text);
        usleep(1000);
    }
}

/* A request that must be accepted. */
static void begin(proa_client *client, ask *a, uint64_t seed)
{
    proa_error err = {0};
    fill_prompt(a, seed);
    if (submit(client, a, &err) != PROA_OK)
        fail_msg("%s", err.text);
}

#define WAIT_FOR(condition)                                                                                  \
    do {                                                                                                     \
        int64_t until = proa_clock_us() + 20 * SECOND;                                                       \
        while (!(condition) && proa_clock_us() < until)                                                      \
            usleep(500);                                                                                     \
        if (!(condition))                                                                                    \
            fail_msg("in vain: %s (line %d)", #condition, __LINE__);                                         \
    } while (0)

static void wait_finish(ask *a)
{
    WAIT_FOR(a->finishes > 0);
}

/* The whole of what the model says, and nothing else. */
static void check_whole(ask *a)
{
    wait_finish(a);
    if (a->finish.reason == PROA_FINISH_ABORT)
        fail_msg("%s", a->finish.error.text);
    int32_t count = 0;
    bool stop = false;
    for (; count < a->max_new_tokens && !stop; count++) {
        stop = fake_token_stops(a->prompt, a->prompt_count, count);
        if (count >= a->count || a->output[count] != fake_token(a->prompt, a->prompt_count, a->output, count))
            fail_msg("token %d of %d is wrong or absent", count, a->count);
    }
    assert_int_equal(a->count, count);
    assert_int_equal(a->stop, stop);
    assert_int_equal(a->finish.reason, stop ? PROA_FINISH_STOP : PROA_FINISH_LENGTH);
    assert_int_equal(a->finish.matched, stop ? a->output[count - 1] : -1);
    assert_int_equal(a->finish.usage.output_tokens, count);
    assert_int_equal(a->finish.usage.prompt_tokens, a->prompt_count);
    assert_int_equal(a->finishes, 1);
}

static void check_error(ask *a, proa_status status, const char *says)
{
    wait_finish(a);
    assert_int_equal(a->finish.reason, PROA_FINISH_ABORT);
    if (a->finish.error.status != status || strstr(a->finish.error.text, says) == NULL)
        fail_msg("%s: %s", proa_status_name(a->finish.error.status), a->finish.error.text);
}

/* ---- the world ---- */

typedef struct world {
    proa_registry *registry;
    proa_discovery *discovery;
    proa_client *client;
    fake_worker *workers[16];
    int worker_count;
    ask *asks;
    _Atomic int models;
    char dir[4096];
    char cache[64];
} world;

static void on_model(void *context, const proa_wire_card *card, const char *dir)
{
    world *w = context;
    assert_int_equal(card->model_digest, FAKE_DIGEST);
    snprintf(w->dir, sizeof w->dir, "%s", dir != NULL ? dir : "");
    atomic_fetch_add(&w->models, 1);
}

static fake_worker *add(world *w, fake_options options)
{
    fake_worker *worker = fake_worker_start(w->registry, &options);
    w->workers[w->worker_count++] = worker;
    return worker;
}

static fake_worker *add_leg(world *w, proa_wire_leg leg)
{
    return add(w, (fake_options){.leg = leg});
}

static int ready(world *w)
{
    proa_buf out = {0};
    int count = 0;
    proa_client_write_instances(w->client, &out);
    for (const char *at = proa_buf_text(&out); (at = strstr(at, "\"status\":\"ready\"")) != NULL; at++)
        count++;
    proa_buf_free(&out);
    return count;
}

static void start_with(world *w, proa_client_options options)
{
    proa_error err = {0};
    const proa_discovery_options discovery = {.backend = "mem", .registry = w->registry};
    if (proa_discovery_create(&discovery, &w->discovery, &err) != PROA_OK)
        fail_msg("%s", err.text);
    options.namespace_name = "test";
    options.discovery = w->discovery;
    options.identity = (proa_link_identity){.instance = 7, .epoch = 8, .role = "frontend", .name = "test"};
    options.on_model = on_model;
    options.context = w;
    if (proa_client_create(&options, &w->client, &err) != PROA_OK)
        fail_msg("%s", err.text);
}

/* A client, when all workers are known to it. */
static void start(world *w)
{
    start_with(w, (proa_client_options){.router_mode = PROA_ROUTER_LEAST_LOADED, .migration_limit = 3});
    WAIT_FOR(ready(w) == w->worker_count);
}

static int setup(void **state)
{
    world *w = calloc(1, sizeof *w);
    w->registry = proa_registry_create();
    w->asks = calloc(400, sizeof *w->asks);
    *state = w;
    return 0;
}

static void end_client(world *w)
{
    proa_discovery_free(w->discovery);
    proa_client_free(w->client);
    w->discovery = NULL;
    w->client = NULL;
}

static int teardown(void **state)
{
    world *w = *state;
    end_client(w);
    for (int i = 0; i < w->worker_count; i++) {
        if (fake_worker_counts(w->workers[i])->rooms_wrong != 0)
            return -1;
        fake_worker_free(w->workers[i]);
    }
    proa_registry_free(w->registry);
    free(w->asks);
    free(w);
    return 0;
}

/* Nothing is left at the workers. */
static void check_idle(world *w)
{
    for (int i = 0; i < w->worker_count; i++)
        WAIT_FOR(fake_worker_counts(w->workers[i])->running == 0);
}

static double metric(world *w, const char *name)
{
    proa_buf out = {0};
    char wanted[128];
    snprintf(wanted, sizeof wanted, "\nproa:%s ", name);
    proa_client_write_metrics(w->client, &out);
    const char *at = strstr(proa_buf_text(&out), wanted);
    if (at == NULL)
        fail_msg("no metric %s in %s", name, proa_buf_text(&out));
    double value = strtod(at + strlen(wanted), NULL);
    proa_buf_free(&out);
    return value;
}

/* ---- undisturbed ---- */

static void test_combined(void **state)
{
    world *w = *state;
    add_leg(w, PROA_LEG_COMBINED);
    start(w);
    for (int i = 0; i < 60; i++)
        begin(w->client, &w->asks[i], (uint64_t)i);
    for (int i = 0; i < 60; i++)
        check_whole(&w->asks[i]);
    assert_int_equal(w->models, 1);
    check_idle(w);
}

static void test_pairs(void **state)
{
    world *w = *state;
    for (int i = 0; i < 4; i++)
        add_leg(w, i < 2 ? PROA_LEG_PREFILL : PROA_LEG_DECODE);
    start(w);
    for (int i = 0; i < 60; i++)
        begin(w->client, &w->asks[i], (uint64_t)i);
    for (int i = 0; i < 60; i++)
        check_whole(&w->asks[i]);
    for (int i = 0; i < 4; i++) /* all had their share */
        assert_in_range(fake_worker_counts(w->workers[i])->submits, 20, 40);
    assert_true(metric(w, "cluster_requests_total") == 60);
    assert_true(metric(w, "cluster_migrations_total") == 0);
    check_idle(w);
}

static void test_report(void **state)
{
    world *w = *state;
    for (int i = 0; i < 2; i++)
        add_leg(w, i == 0 ? PROA_LEG_PREFILL : PROA_LEG_DECODE);
    start_with(w, (proa_client_options){.router_mode = PROA_ROUTER_KV});
    proa_buf out = {0};
    WAIT_FOR(ready(w) == 2);
    proa_engine_stats stats = {0};
    for (int i = 0; i < 200 && stats.output_tokens < 2; i++, usleep(10000))
        proa_client_get_stats(w->client, &stats);
    assert_int_equal(stats.output_tokens, 2); /* one of each worker */
    assert_int_equal(stats.kv_blocks_total, 2000);
    assert_true(proa_client_write_instances(w->client, &out));
    char expected[128];
    snprintf(
        expected, sizeof expected,
        "{\"component\":\"prefill\",\"endpoint\":\"generate\",\"instance_id\":%llu,\"namespace\":\"test\","
        "\"transport\":{\"tcp\":\"127",
        (unsigned long long)fake_worker_instance(w->workers[0]));
    assert_non_null(strstr(proa_buf_text(&out), expected));
    assert_non_null(strstr(proa_buf_text(&out), "{\"component\":\"backend\""));
    proa_buf_clear(&out);
    fake_worker_kill(w->workers[1]);
    WAIT_FOR(ready(w) == 1);
    assert_false(proa_client_write_instances(w->client, &out));
    proa_buf_free(&out);
}

/* ---- refused at once ---- */

static void refused(world *w, proa_status status, const char *says)
{
    ask *a = &w->asks[399];
    proa_error err = {0};
    fill_prompt(a, 1);
    if (submit(w->client, a, &err) != status || strstr(err.text, says) == NULL)
        fail_msg("%s: %s", proa_status_name(err.status), err.text);
}

static void test_refused_at_submit(void **state)
{
    world *w = *state;
    start(w);
    refused(w, PROA_ERR_UNREACHABLE, "no worker is known");
    add(w, (fake_options){.leg = PROA_LEG_PREFILL});
    WAIT_FOR(ready(w) == 1);
    refused(w, PROA_ERR_UNREACHABLE, "1 prefill, 0 decode");
    add(w, (fake_options){.leg = PROA_LEG_DECODE, .running_max = 2, .queued_max = 1, .token_us = SECOND});
    WAIT_FOR(ready(w) == 2);
    for (int i = 0; i < 3; i++) { /* long ones */
        fill_prompt(&w->asks[i], 77);
        w->asks[i].max_new_tokens = 100;
        proa_error err = {0};
        assert_int_equal(submit(w->client, &w->asks[i], &err), PROA_OK);
    }
    refused(w, PROA_ERR_OVERLOADED, ""); /* whether the loop has sent them or not */
    usleep(100000);
    refused(w, PROA_ERR_OVERLOADED, "all decode workers are full");
    proa_client_cancel(w->client, w->asks[0].id);
    check_error(&w->asks[0], PROA_ERR_CANCELLED, "cancelled");
    begin_when_possible(w->client, &w->asks[3], 5);
    proa_client_cancel(w->client, w->asks[0].id); /* an old id is harmless */
    proa_client_grant(w->client, w->asks[0].id, 5);
    proa_client_cancel(w->client, 0);
    proa_client_cancel(w->client, UINT64_MAX);
    end_client(w);
    for (int i = 1; i < 4; i++)
        check_error(&w->asks[i], PROA_ERR_CANCELLED, "stopping");
    check_idle(w);
}

/* ---- workers that fail ---- */

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
        setup(&own);
        world *w = own;
        if (table[i].bad != PROA_LEG_COMBINED) {
            add_leg(w, PROA_LEG_PREFILL);
            add_leg(w, PROA_LEG_DECODE);
        } else {
            add_leg(w, PROA_LEG_COMBINED);
        }
        add(w, (fake_options){.leg = table[i].bad, .mood = table[i].mood});
        start(w);
        for (int k = 0; k < 20; k++)
            begin(w->client, &w->asks[k], (uint64_t)k + 1000);
        for (int k = 0; k < 20; k++)
            check_whole(&w->asks[k]);
        fake_worker *bad = w->workers[w->worker_count - 1];
        bool migrated = metric(w, "cluster_migrations_total") > 0;
        bool lost = metric(w, "cluster_links_lost_total") > 0; /* by a mood, or on a busy machine */
        bool may = table[i].bad == PROA_LEG_PREFILL; /* where decode had begun, nothing was to be done */
        if (fake_worker_counts(bad)->submits == 0 || (migrated && !table[i].migrates && !lost) ||
            (!migrated && table[i].migrates && !may))
            fail_msg("%s, leg %d: %g migrations", table[i].name, table[i].bad,
                     metric(w, "cluster_migrations_total"));
        check_idle(w);
        assert_int_equal(teardown(&own), 0);
    }
}

static void test_all_refuse(void **state)
{
    world *w = *state;
    for (int i = 0; i < 3; i++)
        add(w, (fake_options){.leg = PROA_LEG_COMBINED, .mood = FAKE_REFUSES});
    start(w);
    begin(w->client, &w->asks[0], 1);
    check_error(&w->asks[0], PROA_ERR_OVERLOADED, "mood");
    for (int i = 0; i < 3; i++)
        assert_int_equal(fake_worker_counts(w->workers[i])->submits, 1);
}

/* A request that ends every worker that it meets fails alone. */
static void test_poison(void **state)
{
    world *w = *state;
    for (int i = 0; i < 3; i++)
        add(w, (fake_options){.leg = PROA_LEG_COMBINED, .poison = 4242, .token_us = 3000});
    start(w);
    for (int i = 1; i < 10; i++) {
        fill_prompt(&w->asks[i], (uint64_t)i);
        begin(w->client, &w->asks[i], (uint64_t)i);
    }
    fill_prompt(&w->asks[0], 0);
    w->asks[0].prompt[0] = 4242;
    proa_error err = {0};
    assert_int_equal(submit(w->client, &w->asks[0], &err), PROA_OK);
    check_error(&w->asks[0], PROA_ERR_UNREACHABLE, "given up after 3 replays");
    int hung_up = 0;
    for (int i = 1; i < 10; i++) {
        wait_finish(&w->asks[i]);
        hung_up += w->asks[i].finish.reason == PROA_FINISH_ABORT; /* met it more than three times */
    }
    assert_true(hung_up <= 3);
}

static void test_stalled_worker(void **state)
{
    world *w = *state;
    add(w, (fake_options){.leg = PROA_LEG_COMBINED, .token_us = 20000});
    start(w);
    ask *a = &w->asks[0];
    fill_prompt(a, 3);
    a->max_new_tokens = 60;
    proa_error err = {0};
    assert_int_equal(submit(w->client, a, &err), PROA_OK);
    WAIT_FOR(a->count > 0);
    add_leg(w, PROA_LEG_COMBINED);
    WAIT_FOR(ready(w) == 2);
    int64_t from = proa_clock_us();
    fake_worker_stop(w->workers[0], true);
    check_whole(a);
    print_message("went on elsewhere after %.2f s\n", (double)(a->finish_us - from) / SECOND);
    begin(w->client, &w->asks[1], 4); /* it is avoided */
    check_whole(&w->asks[1]);
    fake_worker_stop(w->workers[0], false);
}

static void test_waits_for_another(void **state)
{
    world *w = *state;
    add(w, (fake_options){.leg = PROA_LEG_COMBINED, .token_us = 5000});
    start(w);
    ask *a = &w->asks[0];
    fill_prompt(a, 3);
    a->max_new_tokens = 60;
    proa_error err = {0};
    assert_int_equal(submit(w->client, a, &err), PROA_OK);
    WAIT_FOR(a->count > 3);
    fake_worker_kill(w->workers[0]); /* the only one: a new process comes a little later */
    usleep(500000);
    assert_int_equal(a->finishes, 0);
    add(w, (fake_options){.leg = PROA_LEG_COMBINED});
    check_whole(a);
    assert_true(metric(w, "cluster_migrations_total") == 1);
}

static void test_restart_with_another_epoch(void **state)
{
    world *w = *state;
    add(w, (fake_options){.leg = PROA_LEG_COMBINED, .instance = 99});
    start(w);
    fake_worker_free(w->workers[0]);
    w->workers[0] = fake_worker_start(w->registry, &(fake_options){.instance = 99});
    ask *a = &w->asks[0];
    begin_when_possible(w->client, a, 1);
    check_whole(a);
}

/* A reader that does not read holds back its own request, also over a replay. */
static void test_slow_reader(void **state)
{
    world *w = *state;
    add_leg(w, PROA_LEG_COMBINED);
    start(w);
    ask *a = &w->asks[0];
    fill_prompt(a, 3);
    a->max_new_tokens = 60;
    a->window = 5;
    a->no_grants = true;
    proa_error err = {0};
    assert_int_equal(submit(w->client, a, &err), PROA_OK);
    WAIT_FOR(a->count == 5);
    fake_worker_hang_up(w->workers[0]);
    usleep(300000);
    assert_int_equal(fake_worker_counts(w->workers[0])->submits, 1); /* nothing to be had: not sent yet */
    a->no_grants = false;
    a->credit += 7;
    proa_client_grant(w->client, a->id, 7);
    check_whole(a);
    assert_int_equal(fake_worker_counts(w->workers[0])->submits, 2);
}

static void test_drain(void **state)
{
    world *w = *state;
    add(w, (fake_options){.leg = PROA_LEG_COMBINED, .token_us = 5000});
    add_leg(w, PROA_LEG_COMBINED);
    start(w);
    for (int i = 0; i < 10; i++)
        begin(w->client, &w->asks[i], (uint64_t)i);
    WAIT_FOR(fake_worker_counts(w->workers[0])->submits == 5);
    fake_worker_drain(w->workers[0]);
    WAIT_FOR(ready(w) == 1);
    for (int i = 10; i < 20; i++)
        begin(w->client, &w->asks[i], (uint64_t)i);
    for (int i = 0; i < 20; i++)
        check_whole(&w->asks[i]);
    assert_int_equal(fake_worker_counts(w->workers[0])->submits, 5);
    assert_true(metric(w, "cluster_migrations_total") == 0); /* what ran there ended there */
}

static void test_cancel(void **state)
{
    world *w = *state;
    for (int i = 0; i < 2; i++)
        add(w, (fake_options){.leg = i == 0 ? PROA_LEG_PREFILL : PROA_LEG_DECODE, .token_us = 1000});
    start(w);
    for (int i = 0; i < 40; i++) {
        begin(w->client, &w->asks[i], (uint64_t)i + 50);
        usleep((useconds_t)(i % 4) * 1000);
        proa_client_cancel(w->client, w->asks[i].id);
        proa_client_cancel(w->client, w->asks[i].id);
    }
    for (int i = 0; i < 40; i++) {
        wait_finish(&w->asks[i]);
        assert_true(w->asks[i].finish_us > 0);
    }
    usleep(20000);
    for (int i = 0; i < 40; i++)
        assert_int_equal(w->asks[i].finishes, 1);
    check_idle(w);
    begin(w->client, &w->asks[50], 1);
    check_whole(&w->asks[50]);
}

static void test_flush(void **state)
{
    world *w = *state;
    add(w, (fake_options){.leg = PROA_LEG_COMBINED, .token_us = 2000});
    start(w);
    begin(w->client, &w->asks[0], 1);
    assert_int_equal(proa_client_flush_cache(w->client), PROA_BUSY);
    check_whole(&w->asks[0]);
    assert_int_equal(fake_worker_counts(w->workers[0])->flushes, 0);
    assert_int_equal(proa_client_flush_cache(w->client), PROA_OK);
    WAIT_FOR(fake_worker_counts(w->workers[0])->flushes == 1);
}

/* ---- discovery ---- */

static void test_unlisted_and_connected(void **state)
{
    world *w = *state;
    add_leg(w, PROA_LEG_COMBINED);
    start(w);
    fake_worker_unlist(w->workers[0]);
    usleep(100000);
    begin(w->client, &w->asks[0], 1); /* nobody else: the connection is believed */
    check_whole(&w->asks[0]);
    add_leg(w, PROA_LEG_COMBINED);
    WAIT_FOR(ready(w) == 2);
    for (int i = 1; i < 10; i++)
        begin(w->client, &w->asks[i], (uint64_t)i);
    for (int i = 1; i < 10; i++)
        check_whole(&w->asks[i]);
    assert_int_equal(fake_worker_counts(w->workers[0])->submits, 1); /* what left is left alone */
    fake_worker_hang_up(w->workers[0]);
    WAIT_FOR(ready(w) == 1);
    WAIT_FOR(ready(w) == 2); /* and is dialled again */
}

static void test_strange_records(void **state)
{
    world *w = *state;
    add_leg(w, PROA_LEG_COMBINED);
    start(w);
    static const char *const records[][2] = {
        {"v1/instances/test/backend/generate/0000000000000005", "{"},
        {"v1/instances/test/backend/generate/0000000000000006", "{\"component\":1}"},
        {"v1/instances/test/backend/generate/0000000000000007",
         "{\"component\":\"backend\",\"endpoint\":\"generate\",\"namespace\":\"test\",\"instance_id\":7,"
         "\"transport\":{\"tcp\":\"nonsense\"},\"epoch\":\"0000000000000001\"}"},
        {"v1/instances/test/backend/generate/0000000000000008",
         "{\"component\":\"backend\",\"endpoint\":\"generate\",\"namespace\":\"test\",\"instance_id\":8,"
         "\"transport\":{\"tcp\":\"127.0.0.1:1\"},\"epoch\":\"0000000000000001\"}"},
        {"v1/instances/test/backend/clear/0000000000000009",
         "{\"component\":\"backend\",\"endpoint\":\"clear\",\"namespace\":\"test\",\"instance_id\":9,"
         "\"transport\":{\"tcp\":\"127.0.0.1:1\"},\"epoch\":\"0000000000000001\"}"},
    };
    proa_error err = {0};
    for (size_t i = 0; i < sizeof records / sizeof records[0]; i++)
        assert_int_equal(proa_discovery_register(w->discovery, records[i][0], records[i][1], &err), PROA_OK);
    /* and one whose address is another process's */
    proa_instance liar = {
        .component = "backend", .endpoint = "generate", .namespace_name = "test", .id = 10, .epoch = 11};
    proa_buf out = {0};
    proa_client_write_instances(w->client, &out);
    const char *at = strstr(proa_buf_text(&out), "127.0.0.1:");
    snprintf(liar.address, sizeof liar.address, "%.*s", (int)strcspn(at, "\""), at);
    proa_buf_clear(&out);
    char key[512];
    proa_instance_key(&liar, key, sizeof key);
    proa_instance_write(&liar, &out);
    assert_int_equal(proa_discovery_register(w->discovery, key, proa_buf_text(&out), &err), PROA_OK);
    proa_buf_free(&out);
    usleep(300000);
    assert_int_equal(ready(w), 1);
    begin(w->client, &w->asks[0], 1);
    check_whole(&w->asks[0]);
}

/* ---- the model ---- */

static void check_files(world *w)
{
    for (int f = 0; f < FAKE_FILES; f++) {
        char path[4200];
        proa_buf content = {0};
        proa_error err = {0};
        snprintf(path, sizeof path, "%s/%s", w->dir, fake_files[f].name);
        if (proa_file_read(path, 1 << 24, &content, &err) != PROA_OK)
            fail_msg("%s", err.text);
        assert_int_equal(content.length, fake_files[f].bytes);
        for (size_t i = 0; i < content.length; i++)
            assert_int_equal((uint8_t)content.data[i], fake_file_byte(f, i));
        proa_buf_free(&content);
    }
}

static void test_files(void **state)
{
    world *w = *state;
    add_leg(w, PROA_LEG_COMBINED);
    start_with(w, (proa_client_options){.wants_files = true});
    WAIT_FOR(w->models == 1);
    check_files(w);
    end_client(w);
    assert_false(proa_file_exists(w->dir)); /* the folder was the client's own */
}

static void test_files_from_the_next_one(void **state)
{
    world *w = *state;
    snprintf(w->cache, sizeof w->cache, "/tmp/proa-client-XXXXXX");
    assert_non_null(mkdtemp(w->cache));
    add(w, (fake_options){.leg = PROA_LEG_COMBINED, .mood = FAKE_SLOW_FILES});
    add(w, (fake_options){.leg = PROA_LEG_COMBINED, .mood = FAKE_WRONG_FILES});
    start_with(w, (proa_client_options){.wants_files = true, .cache_dir = w->cache});
    usleep(600000);
    assert_int_equal(w->models, 0);
    add(w, (fake_options){.leg = PROA_LEG_COMBINED, .mood = FAKE_WELL});
    WAIT_FOR(w->models == 1);
    assert_int_equal(strncmp(w->dir, w->cache, strlen(w->cache)), 0);
    check_files(w);
    end_client(w);
    check_files(w); /* kept */
    char command[128];
    snprintf(command, sizeof command, "ls %s/* | grep -c part; rm -rf %s", w->cache, w->cache);
    FILE *left = popen(command, "r");
    int parts = -1;
    assert_int_equal(fscanf(left, "%d", &parts), 1);
    pclose(left);
    assert_int_equal(parts, 0);
}

static void test_another_model_is_refused(void **state)
{
    world *w = *state;
    add_leg(w, PROA_LEG_COMBINED);
    start(w);
    WAIT_FOR(w->models == 1);
    fake_worker *other = add(w, (fake_options){.leg = PROA_LEG_COMBINED, .model_digest = 5});
    usleep(300000);
    assert_int_equal(ready(w), 1);
    assert_int_equal(fake_worker_counts(other)->links, 0);
    for (int i = 0; i < 10; i++) {
        begin(w->client, &w->asks[i], (uint64_t)i);
        check_whole(&w->asks[i]);
    }
    assert_int_equal(w->models, 1);
}

/* ---- all at once ---- */

/* Workers hang up, stop, refuse and restart while requests run; one of each kind is well: every request ends whole. */
static void test_churn(void **state)
{
    world *w = *state;
    for (int i = 0; i < 6; i++)
        add(w, (fake_options){
                   .leg = i < 3 ? PROA_LEG_PREFILL : PROA_LEG_DECODE, .running_max = 1000, .token_us = 1000});
    start_with(w, (proa_client_options){.router_mode = PROA_ROUTER_RANDOM, .migration_limit = 50});
    WAIT_FOR(ready(w) == 6);
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
            begin(w->client, &w->asks[asked], (uint64_t)asked + 7000);
        usleep(15000);
    }
    for (int i = 0; i < asked; i++)
        check_whole(&w->asks[i]);
    print_message("%d requests, %g migrations, %g links lost\n", asked, metric(w, "cluster_migrations_total"),
                  metric(w, "cluster_links_lost_total"));
    assert_true(metric(w, "cluster_migrations_total") > 20);
    check_idle(w);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    proa_log_set_level("warn");
    const struct CMUnitTest tests[] = {
        TEST(test_combined),
        TEST(test_pairs),
        TEST(test_report),
        TEST(test_refused_at_submit),
        cmocka_unit_test(test_bad_workers),
        TEST(test_all_refuse),
        TEST(test_poison),
        TEST(test_stalled_worker),
        TEST(test_waits_for_another),
        TEST(test_restart_with_another_epoch),
        TEST(test_slow_reader),
        TEST(test_drain),
        TEST(test_cancel),
        TEST(test_flush),
        TEST(test_unlisted_and_connected),
        TEST(test_strange_records),
        TEST(test_files),
        TEST(test_files_from_the_next_one),
        TEST(test_another_model_is_refused),
        TEST(test_churn),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
