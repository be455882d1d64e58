/* test_engine.c - the engine thread with the fake model in the forward's place: many threads submit, grant and cancel;
 * each token must be the oracle's, each request must end once, nothing may be allocated in a step. */
#include "stand_in.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>

enum { VOCAB = STAND_IN_VOCAB, EOS = STAND_IN_EOS, LONGEST = 512, WAIT_SECONDS = 60 };

/* ---- an engine to test ---- */

static const proa_engine_options ordinary = {
    .max_running_requests = 8,
    .max_queued_requests = 400,
    .max_total_tokens = 64 * 64,
    .chunked_prefill_size = 64,
    .context_length = LONGEST,
    .page_size = 16,
    .schedule_policy = PROA_SCHEDULE_FCFS,
};

typedef struct bench {
    stand_in model;
    proa_engine *engine;
} bench;

static void set_up(bench *b, proa_engine_options options)
{
    b->engine = stand_in_start(&b->model, &options);
}

static void tear_down(bench *b)
{
    proa_engine_stop(b->engine);
    assert_true(b->model.guarded > 0);
    stand_in_free(&b->model);
}

/* ---- a client ---- */

typedef struct client {
    int32_t prompt[LONGEST];
    proa_engine_request asked;
    uint64_t id;
    proa_engine *engine;
    int32_t auto_grant; /* given by the token callback itself, each time the credit is used up */

    pthread_mutex_t lock;
    pthread_cond_t changed;
    int32_t tokens[LONGEST];
    int32_t count;
    bool stopped;
    int finishes;
    proa_engine_finish finish;
} client;

static void on_token(void *context, const proa_sample_result *token, bool stop)
{
    client *c = context;
    pthread_mutex_lock(&c->lock);
    PROA_ASSERT(c->finishes == 0);
    PROA_ASSERT(!c->stopped);
    PROA_ASSERT(c->count < LONGEST);
    c->tokens[c->count++] = token->token;
    c->stopped = stop;
    int32_t count = c->count;
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->lock);
    if (c->auto_grant > 0 && count >= c->asked.credit && (count - c->asked.credit) % c->auto_grant == 0)
        proa_engine_grant(c->engine, c->id, c->auto_grant);
}

static void on_finish(void *context, const proa_engine_finish *finish)
{
    client *c = context;
    pthread_mutex_lock(&c->lock);
    c->finishes++;
    c->finish = *finish;
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->lock);
}

/* A request drawn from `seed`: prompts begin alike, half are greedy, some have penalties, stop ids or a minimum. */
static void draw_client(client *c, proa_engine *engine, uint64_t seed)
{
    memset(c, 0, sizeof *c);
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->changed, NULL);
    c->engine = engine;
    int32_t count = 1 + (int32_t)(fake_mix(seed, 1) % 200), shared = (int32_t)(fake_mix(seed, 2) % 250);
    for (int32_t i = 0; i < count; i++)
        c->prompt[i] = (int32_t)((i < shared ? fake_mix(seed % 3, 1000 + (uint64_t)i)
                                             : fake_mix(seed, 1000 + (uint64_t)i)) %
                                 VOCAB);
    static const int32_t stops[] = {17, 18};
    c->asked = (proa_engine_request){
        .prompt_ids = c->prompt,
        .prompt_count = count,
        .max_new_tokens = 1 + (int32_t)(fake_mix(seed, 3) % 120),
        .min_new_tokens = seed % 5 == 0 ? 30 : 0,
        .ignore_eos = seed % 7 == 0,
        .stop_ids = stops,
        .stop_count = seed % 3 == 0 ? 2 : 0,
        .temperature = seed % 2 == 0 ? 0 : 0.7f,
        .top_p = 1,
        .repetition_penalty = seed % 4 == 1 ? 1.1f : 1,
        .seed = fake_mix(seed, 4),
        .top_logprobs = -1,
        .credit = 1 << 20,
        .sink = {on_token, on_finish, c},
    };
}

static void free_client(client *c)
{
    pthread_mutex_destroy(&c->lock);
    pthread_cond_destroy(&c->changed);
}

static proa_status send(client *c, proa_error *err)
{
    return proa_engine_submit(c->engine, &c->asked, &c->id, err);
}

/* Waits until the client has `count` tokens or its end. */
static void wait_for(client *c, int32_t count)
{
    struct timespec deadline;
    clock_gettime(CLOCK_REALTIME, &deadline);
    deadline.tv_sec += WAIT_SECONDS;
    pthread_mutex_lock(&c->lock);
    while (c->count < count && c->finishes == 0)
        PROA_ASSERT(pthread_cond_timedwait(&c->changed, &c->lock, &deadline) == 0); /* else: it hangs */
    pthread_mutex_unlock(&c->lock);
}

static void wait_for_end(client *c)
{
    wait_for(c, INT32_MAX);
}

/* ---- the truth ---- */

static int32_t occurrences(const int32_t *ids, int32_t count, int32_t id)
{
    int32_t n = 0;
    for (int32_t i = 0; i < count; i++)
        n += ids[i] == id;
    return n;
}

/* All tokens that the client must get, by tokens alone; `reason` how it must end. */
static int32_t foretell(const client *c, int32_t *tokens, proa_finish_reason *reason)
{
    const proa_engine_request *asked = &c->asked;
    fake_oracle oracle = {0};
    int32_t count = 0;
    for (int32_t i = 0; i < asked->prompt_count; i++)
        fake_oracle_feed(&oracle, c->prompt[i], false);
    for (;;) {
        proa_token_count counts[VOCAB];
        int32_t banned[3] = {17, 18, EOS}, first = asked->stop_count > 0 ? 0 : 2;
        int32_t ends = asked->ignore_eos ? 2 - first : 3 - first, distinct = 0;
        for (int32_t id = 0; id < VOCAB && asked->repetition_penalty != 1; id++) {
            counts[distinct] = (proa_token_count){id, occurrences(c->prompt, asked->prompt_count, id),
                                                  occurrences(tokens, count, id)};
            distinct += counts[distinct].prompt + counts[distinct].output > 0;
        }
        const proa_sample_params params = {
            .temperature = asked->temperature,
            .seed = asked->seed,
            .position = asked->prompt_count + count,
            .counts = counts,
            .count_count = distinct,
            .banned = banned + first,
            .banned_count = count < asked->min_new_tokens ? ends : 0,
        };
        int32_t token = stand_in_token(oracle.digest, &params);
        tokens[count++] = token;
        fake_oracle_feed(&oracle, token, true);
        *reason = PROA_FINISH_STOP;
        if (occurrences(banned + first, ends, token) > 0)
            return count;
        *reason = PROA_FINISH_LENGTH;
        if (count == asked->max_new_tokens || asked->prompt_count + count == LONGEST)
            return count;
    }
}

/* `whole`: it must have come to its own end. */
static void check_client(client *c, bool whole)
{
    int32_t expected[LONGEST];
    proa_finish_reason reason;
    int32_t count = foretell(c, expected, &reason);
    pthread_mutex_lock(&c->lock);
    assert_int_equal(c->finishes, 1);
    assert_true(c->count <= count);
    assert_memory_equal(c->tokens, expected, (size_t)c->count * sizeof expected[0]);
    assert_int_equal(c->finish.usage.prompt_tokens, c->asked.prompt_count);
    assert_int_equal(c->finish.usage.output_tokens, c->count);
    if (whole || c->finish.reason != PROA_FINISH_ABORT) {
        assert_int_equal(c->count, count);
        assert_int_equal(c->finish.reason, reason);
        assert_int_equal(c->stopped, reason == PROA_FINISH_STOP);
        assert_int_equal(c->finish.matched, reason == PROA_FINISH_STOP ? expected[count - 1] : -1);
        assert_int_equal(c->finish.error.status, PROA_OK);
    }
    pthread_mutex_unlock(&c->lock);
}

/* ---- tests ---- */

/* Law 2 in the small: the same requests, alone and together, with and without cache, in chunks of any size. */
static void tokens_depend_on_the_request_alone(void **state)
{
    (void)state;
    enum { CLIENTS = 24 };
    static bench b;
    static client clients[CLIENTS];
    static const struct {
        bool together, no_cache;
        int32_t chunk, page, blocks;
    } table[] = {
        {false, true, 64, 64, 64}, {false, false, 16, 1, 64}, {true, true, 16, 1, 64},
        {true, false, 64, 16, 64}, {true, false, 4096, 1, 9}, {true, true, -1, 64, 8},
        {true, false, 16, 1, 8},
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        proa_engine_options options = ordinary;
        proa_engine_stats stats;
        options.disable_radix_cache = table[i].no_cache;
        options.chunked_prefill_size = table[i].chunk;
        options.page_size = table[i].page;
        options.max_total_tokens = table[i].blocks * 64;
        options.schedule_policy = i % 2 == 0 ? PROA_SCHEDULE_LPM : PROA_SCHEDULE_FCFS;
        set_up(&b, options);
        for (int k = 0; k < CLIENTS; k++) {
            draw_client(&clients[k], b.engine, (uint64_t)k + 1);
            assert_int_equal(send(&clients[k], NULL), PROA_OK);
            if (!table[i].together)
                wait_for_end(&clients[k]);
        }
        for (int k = 0; k < CLIENTS; k++) {
            wait_for_end(&clients[k]);
            check_client(&clients[k], true);
            assert_true(!table[i].no_cache || clients[k].finish.usage.cached_tokens == 0);
            free_client(&clients[k]);
        }
        proa_engine_get_stats(b.engine, &stats);
        assert_int_equal(stats.requests_finished, CLIENTS);
        assert_int_equal(stats.running + stats.queued + stats.kv_blocks_used, 0);
        assert_int_equal(stats.kv_blocks_total, table[i].blocks);
        assert_true(table[i].no_cache == (stats.cached_tokens == 0));
        assert_true(stats.steps > 0 && stats.last_step_us > 0);
        tear_down(&b);
    }
}

/* ---- many threads ---- */

typedef struct crowd {
    bench *b;
    uint64_t seed;
    client clients[40];
} crowd;

/* Grants in spurts to the first `count` clients, as slow readers do. Returns how many have not ended. */
static int32_t grant_round(crowd *w, int32_t count)
{
    int32_t open = 0;
    for (int32_t i = 0; i < count; i++) {
        client *c = &w->clients[i];
        pthread_mutex_lock(&c->lock);
        bool ended = c->finishes > 0;
        pthread_mutex_unlock(&c->lock);
        open += !ended;
        if (!ended && c->auto_grant == 0)
            proa_engine_grant(c->engine, c->id, 11);
    }
    nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
    return open;
}

static void *crowd_run(void *context)
{
    crowd *w = context;
    int32_t count = (int32_t)(sizeof w->clients / sizeof w->clients[0]);
    for (int32_t i = 0; i < count; i++) {
        client *c = &w->clients[i];
        uint64_t seed = w->seed * 1000 + (uint64_t)i;
        draw_client(c, w->b->engine, seed);
        c->asked.credit = 1 + (int32_t)(fake_mix(seed, 9) % 20);
        c->auto_grant = i % 2 == 0 ? 1 + (int32_t)(fake_mix(seed, 10) % 7) : 0;
        while (send(c, NULL) == PROA_ERR_OVERLOADED)
            grant_round(w, i);
        if (i % 5 == 4)
            proa_engine_cancel(w->b->engine, w->clients[i - (int32_t)(fake_mix(seed, 11) % 4)].id);
    }
    while (grant_round(w, count) > 0) {
    }
    return NULL;
}

static void threads_submit_grant_and_cancel(void **state)
{
    (void)state;
    enum { THREADS = 4 };
    static bench b;
    static crowd crowds[THREADS];
    pthread_t threads[THREADS];
    proa_engine_options options = ordinary;
    proa_engine_stats stats;
    options.max_total_tokens = 12 * 64;
    options.max_queued_requests = 30;
    options.page_size = 1;
    set_up(&b, options);
    for (int i = 0; i < THREADS; i++) {
        crowds[i].b = &b;
        crowds[i].seed = (uint64_t)i + 1;
        pthread_create(&threads[i], NULL, crowd_run, &crowds[i]);
    }
    int aborted = 0;
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        for (size_t k = 0; k < 40; k++) {
            client *c = &crowds[i].clients[k];
            check_client(c, false);
            aborted += c->finish.reason == PROA_FINISH_ABORT;
            if (c->finish.reason == PROA_FINISH_ABORT)
                assert_int_equal(c->finish.error.status, PROA_ERR_CANCELLED);
            free_client(c);
        }
    }
    proa_engine_get_stats(b.engine, &stats);
    assert_int_equal(stats.requests_finished, THREADS * 40 - aborted);
    assert_int_equal(stats.requests_aborted, aborted);
    assert_int_equal(stats.running + stats.queued + stats.kv_blocks_used, 0);
    printf("%d cancelled in time, %llu retractions, %llu of %llu prompt tokens cached, %llu steps\n", aborted,
           (unsigned long long)stats.retractions, (unsigned long long)stats.cached_tokens,
           (unsigned long long)stats.prompt_tokens, (unsigned long long)stats.steps);
    assert_true(aborted > 0 && stats.retractions > 0 && stats.cached_tokens > 0);
    tear_down(&b);
}

static void a_request_without_credit_waits(void **state)
{
    (void)state;
    static bench b;
    static client c, other;
    set_up(&b, ordinary);
    draw_client(&c, b.engine, 14); /* ignores eos, no stop ids */
    c.asked.max_new_tokens = 50;
    c.asked.credit = 3;
    assert_int_equal(send(&c, NULL), PROA_OK);
    wait_for(&c, 3);
    draw_client(&other, b.engine, 28);
    assert_int_equal(send(&other, NULL), PROA_OK);
    wait_for_end(&other); /* the others go on */
    assert_int_equal(c.count, 3);
    proa_engine_grant(b.engine, c.id, 5);
    wait_for(&c, 8);
    proa_engine_grant(b.engine, c.id + 1, 5); /* nobody's */
    proa_engine_grant(b.engine, 0, 5);
    proa_engine_grant(b.engine, c.id, 1);
    wait_for(&c, 9);
    free_client(&other);
    draw_client(&other, b.engine, 29);
    assert_int_equal(send(&other, NULL), PROA_OK);
    wait_for_end(&other);
    assert_int_equal(c.count, 9);
    proa_engine_cancel(b.engine, c.id);
    wait_for_end(&c);
    assert_int_equal(c.count, 9);
    assert_int_equal(c.finish.reason, PROA_FINISH_ABORT);
    assert_int_equal(c.finish.error.status, PROA_ERR_CANCELLED);
    check_client(&c, false);
    free_client(&other);
    draw_client(&other, b.engine, 28);
    other.asked.credit = 1;
    assert_int_equal(send(&other, NULL), PROA_OK); /* in the same place */
    wait_for(&other, 1);
    proa_engine_cancel(b.engine, c.id); /* that one has left: ignored */
    proa_engine_grant(b.engine, other.id, 1000);
    wait_for_end(&other);
    check_client(&other, true);
    free_client(&c);
    free_client(&other);
    tear_down(&b);
}

static void a_full_queue_refuses(void **state)
{
    (void)state;
    static bench b;
    static client clients[3], late;
    proa_error err = {0};
    proa_engine_options options = ordinary;
    options.max_running_requests = 1;
    options.max_queued_requests = 2;
    set_up(&b, options);
    pthread_mutex_lock(&b.model.gate);
    for (int i = 0; i < 3; i++) {
        draw_client(&clients[i], b.engine, (uint64_t)i + 1);
        assert_int_equal(send(&clients[i], NULL), PROA_OK);
    }
    draw_client(&late, b.engine, 9);
    assert_int_equal(send(&late, &err), PROA_ERR_OVERLOADED);
    assert_non_null(strstr(err.text, "--max-queued-requests 2"));
    assert_int_equal(proa_engine_flush_cache(b.engine), PROA_BUSY);
    pthread_mutex_unlock(&b.model.gate);
    for (int i = 0; i < 3; i++) {
        wait_for_end(&clients[i]);
        check_client(&clients[i], true);
        free_client(&clients[i]);
    }
    assert_int_equal(late.finishes, 0);
    assert_int_equal(send(&late, &err), PROA_OK);
    wait_for_end(&late);
    check_client(&late, true);
    free_client(&late);
    tear_down(&b);
}

/* Called on the engine thread; read when it is idle. */
static void on_kv_event(void *context, bool stored, uint64_t hash)
{
    (void)hash;
    free(malloc(1)); /* not within a step: the hook may do what other callbacks may */
    *(_Atomic int *)context += stored ? 1 : -1;
}

static void the_cache_is_flushed(void **state)
{
    (void)state;
    static bench b;
    static client c;
    static _Atomic int told;
    proa_engine_stats stats;
    proa_engine_options options = ordinary;
    options.kv_event = on_kv_event;
    options.kv_event_context = &told;
    set_up(&b, options);
    for (int round = 0; round < 3; round++) {
        draw_client(&c, b.engine, 4);
        c.asked.prompt_count = 150;
        assert_int_equal(send(&c, NULL), PROA_OK);
        wait_for_end(&c);
        assert_int_equal(c.finish.usage.cached_tokens, round == 1 ? 144 : 0);
        check_client(&c, true);
        free_client(&c);
        proa_engine_get_stats(b.engine, &stats);
        assert_true(stats.kv_blocks_cached >= 2);
        assert_int_equal(told, 2); /* whole blocks; the tail is nobody else's to know */
        if (round == 1) {
            assert_int_equal(proa_engine_flush_cache(b.engine), PROA_OK);
            proa_engine_get_stats(b.engine, &stats);
            assert_int_equal(stats.kv_blocks_cached, 0);
            assert_int_equal(told, 0);
        }
    }
    tear_down(&b);
}

/* Law 4: when the device is lost, everything ends, and what comes later is told why. */
static void a_lost_device_ends_everything(void **state)
{
    (void)state;
    static bench b;
    static client clients[20], late;
    proa_error err = {0};
    set_up(&b, ordinary);
    pthread_mutex_lock(&b.model.gate);
    b.model.fail_at = 5;
    b.model.fail_with = PROA_ERR_DEVICE;
    for (int i = 0; i < 20; i++) {
        draw_client(&clients[i], b.engine, (uint64_t)i * 14 + 14);
        clients[i].asked.max_new_tokens = 100;
        assert_int_equal(send(&clients[i], NULL), PROA_OK);
    }
    pthread_mutex_unlock(&b.model.gate);
    for (int i = 0; i < 20; i++) {
        wait_for_end(&clients[i]);
        assert_int_equal(clients[i].finish.reason, PROA_FINISH_ABORT);
        assert_int_equal(clients[i].finish.error.status, PROA_ERR_DEVICE);
        assert_string_equal(clients[i].finish.error.text, "the test pulled a cable at step 5");
        check_client(&clients[i], false);
        free_client(&clients[i]);
    }
    draw_client(&late, b.engine, 9);
    assert_int_equal(send(&late, &err), PROA_ERR_DEVICE);
    assert_non_null(strstr(err.text, "pulled a cable"));
    assert_int_equal(proa_engine_flush_cache(b.engine), PROA_ERR_CANCELLED);
    proa_engine_stats stats;
    proa_engine_get_stats(b.engine, &stats);
    assert_true(stats.device_lost);
    proa_engine_cancel(b.engine, clients[3].id);
    free_client(&late);
    tear_down(&b);
}

static void a_failed_step_ends_its_requests_alone(void **state)
{
    (void)state;
    static bench b;
    static client paused, hit, later;
    set_up(&b, ordinary);
    draw_client(&paused, b.engine, 14);
    paused.asked.credit = 1;
    assert_int_equal(send(&paused, NULL), PROA_OK);
    wait_for(&paused, 1);
    pthread_mutex_lock(&b.model.gate);
    b.model.fail_at = b.model.steps + 1;
    b.model.fail_with = PROA_ERR_TOO_LONG;
    pthread_mutex_unlock(&b.model.gate);
    draw_client(&hit, b.engine, 28);
    assert_int_equal(send(&hit, NULL), PROA_OK);
    wait_for_end(&hit);
    assert_int_equal(hit.finish.error.status, PROA_ERR_TOO_LONG);
    pthread_mutex_lock(&b.model.gate);
    b.model.no_token_at = b.model.steps + 1;
    pthread_mutex_unlock(&b.model.gate);
    draw_client(&later, b.engine, 28);
    later.asked.prompt_count = 10;
    assert_int_equal(send(&later, NULL), PROA_OK);
    wait_for_end(&later);
    assert_int_equal(later.finish.reason, PROA_FINISH_ABORT);
    assert_non_null(strstr(later.finish.error.text, "NaN"));
    proa_engine_grant(b.engine, paused.id, 1000);
    wait_for_end(&paused);
    check_client(&paused, true);
    free_client(&paused);
    free_client(&hit);
    free_client(&later);
    tear_down(&b);
}

static void stopping_ends_everything(void **state)
{
    (void)state;
    static bench b;
    static client clients[20];
    set_up(&b, ordinary);
    for (int i = 0; i < 20; i++) {
        draw_client(&clients[i], b.engine, (uint64_t)i + 1);
        clients[i].asked.credit = 1;
        assert_int_equal(send(&clients[i], NULL), PROA_OK);
    }
    wait_for(&clients[0], 1);
    tear_down(&b);
    for (int i = 0; i < 20; i++) {
        assert_int_equal(clients[i].finishes, 1);
        free_client(&clients[i]);
    }
    proa_engine_stop(NULL);
}

static void bad_options_are_refused(void **state)
{
    (void)state;
    proa_engine_options table[6];
    static const char *const words[] = {"--max-running-requests is 0", "--max-queued-requests is -1",
                                        "--max-total-tokens is 100",   "--context-length is 1",
                                        "--page-size is 65",           "--decode-log-interval is -1"};
    for (int i = 0; i < 6; i++)
        table[i] = ordinary;
    table[0].max_running_requests = 0;
    table[1].max_queued_requests = -1;
    table[2].max_total_tokens = 100;
    table[3].context_length = 1;
    table[4].page_size = 65;
    table[5].decode_log_interval = -1;
    for (int i = 0; i < 6; i++) {
        proa_forward_limits limits;
        proa_error err = {0};
        assert_int_equal(proa_engine_forward_limits(&table[i], &limits, &err), PROA_ERR_INVALID);
        assert_non_null(strstr(err.text, words[i]));
    }
}

static void the_forward_is_sized_by_the_options(void **state)
{
    (void)state;
    static const struct {
        int32_t running, tokens, chunk, context;
        proa_forward_limits expected;
    } table[] = {
        {8, 4096, 64, 512, {72, 8, 512, 64}},
        {8, 4096, -1, 512, {520, 8, 512, 64}},
        {8, 4096, 100000, 512, {520, 8, 512, 64}},
        {100, 256, 64, 512, {68, 4, 256, 4}},
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        proa_engine_options options = ordinary;
        proa_forward_limits limits;
        options.max_running_requests = table[i].running;
        options.max_total_tokens = table[i].tokens;
        options.chunked_prefill_size = table[i].chunk;
        options.context_length = table[i].context;
        assert_int_equal(proa_engine_forward_limits(&options, &limits, NULL), PROA_OK);
        assert_memory_equal(&limits, &table[i].expected, sizeof limits);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tokens_depend_on_the_request_alone),
        cmocka_unit_test(threads_submit_grant_and_cancel),
        cmocka_unit_test(a_request_without_credit_waits),
        cmocka_unit_test(a_full_queue_refuses),
        cmocka_unit_test(the_cache_is_flushed),
        cmocka_unit_test(a_lost_device_ends_everything),
        cmocka_unit_test(a_failed_step_ends_its_requests_alone),
        cmocka_unit_test(stopping_ends_everything),
        cmocka_unit_test(bad_options_are_refused),
        cmocka_unit_test(the_forward_is_sized_by_the_options),
    };
    return cmocka_run_group_tests_name("engine", tests, NULL, NULL);
}
