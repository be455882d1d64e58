/* test_engine_roles.c - hand-off through the engine's calls: many threads hand requests from a prefill to a decode engine
 * and change their minds at every stage; each token must be the oracle's, each request must end once at either side,
 * all blocks must come back. Then who holds what for how long, one case after another. */
#include "engine_client.h"
#include "stand_in.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>

enum { BLOCK = PROA_KV_BLOCK_TOKENS, LONGEST = 384 };

static const proa_engine_options ordinary = {
    .max_running_requests = 8,
    .max_queued_requests = 8,
    .max_total_tokens = 16 * BLOCK,
    .chunked_prefill_size = 64,
    .context_length = LONGEST,
    .page_size = 16,
    .num_reserved_decode_tokens = -1,
};

typedef struct rank {
    stand_in model;
    proa_engine *engine;
} rank;

static void set_up(rank *r, proa_engine_options options, proa_engine_role role)
{
    options.role = role;
    r->engine = stand_in_start(&r->model, &options);
}

static void tear_down(rank *r)
{
    proa_engine_stop(r->engine);
    stand_in_free(&r->model);
}

static proa_kv_layout layout_of(rank *r)
{
    size_t block_bytes = BLOCK * sizeof *r->model.fake.rows;
    return (proa_kv_layout){
        .base = r->model.fake.rows,
        .layers = 1,
        .blocks = r->model.fake.blocks,
        .row_bytes = sizeof *r->model.fake.rows,
        .block_bytes = block_bytes,
        .layer_bytes = (size_t)r->model.fake.blocks * block_bytes,
    };
}

/* Waits until the statistics say so many lent blocks. */
static void wait_for_lent(rank *r, int32_t blocks)
{
    proa_engine_stats stats;
    for (int i = 0; i < 10000; i++) {
        proa_engine_get_stats(r->engine, &stats);
        if (stats.kv_blocks_lent == blocks)
            return;
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    fail_msg("%d blocks are lent instead of %d", stats.kv_blocks_lent, blocks);
}

static void check_empty(rank *r)
{
    proa_engine_stats stats;
    wait_for_lent(r, 0);
    proa_engine_get_stats(r->engine, &stats);
    assert_int_equal(stats.running + stats.queued + stats.kv_blocks_used, 0);
}

/* ---- the truth ---- */

/* The tokens of a greedy request from `earlier` on; returns how many there are in all, with what was earlier. */
static int32_t foretell(const engine_client *c, int32_t *tokens)
{
    static const proa_sample_params greedy = {.temperature = 0};
    fake_oracle oracle = {0};
    for (int32_t i = 0; i < c->asked.prompt_count; i++)
        fake_oracle_feed(&oracle, c->prompt[i], false);
    for (int32_t i = 0;; i++) {
        bool given = i < c->asked.output_count;
        tokens[i] = given ? c->asked.output_ids[i] : stand_in_token(oracle.digest, &greedy);
        fake_oracle_feed(&oracle, tokens[i], true);
        if (!given && (tokens[i] == STAND_IN_EOS || i + 1 == c->asked.max_new_tokens))
            return i + 1;
    }
}

/* By PROA_ASSERT, since cmocka's own assertions are for the test's thread alone. `wanted`: how many tokens it must have, or -1: any beginning of what is foretold. */
static void check_client(const engine_client *c, int32_t wanted)
{
    int32_t expected[LONGEST], total = foretell(c, expected), earlier = c->asked.output_count;
    PROA_ASSERT(c->finishes == 1);
    PROA_ASSERT(wanted < 0 ? c->count + earlier <= total : c->count == wanted);
    for (int32_t i = 0; i < c->count; i++)
        PROA_ASSERT(c->results[i].token == expected[earlier + i]);
    PROA_ASSERT(c->finish.usage.output_tokens == earlier + c->count);
    bool stops = c->count > 0 && c->results[c->count - 1].token == STAND_IN_EOS;
    PROA_ASSERT(c->stopped == stops);
    if (c->finish.reason != PROA_FINISH_ABORT) {
        PROA_ASSERT(c->finish.reason == (stops ? PROA_FINISH_STOP : PROA_FINISH_LENGTH));
        PROA_ASSERT(c->finish.matched == (stops ? STAND_IN_EOS : -1));
    }
}

/* ---- many threads ---- */

typedef enum fate {
    ALL_WELL,
    CANCELLED_BEFORE_ROWS,
    CANCELLED_AT_PREFILL,
    CANCELLED_WHEN_RESERVED,
    CANCELLED_AT_ADOPTION,
    ABANDONED, /* released at both sides instead of adopted */
    FATES,
} fate;

typedef struct worker {
    rank *prefill, *decode;
    uint64_t seed;
    proa_kv_layout from, to;
    int32_t to_blocks[ENGINE_CLIENT_BLOCKS];
    engine_client first, rest;
    int32_t ended[FATES][2]; /* how often a fate ended with an abort of rest, and how often with all tokens */
} worker;

static void copy_rows(engine_client *c, const proa_engine_rows *rows)
{
    const worker *w = c->copy_context;
    engine_client_copy_rows(&w->from, rows->blocks, &w->to, w->to_blocks, c->copied, rows->rows - c->copied);
    c->copied = rows->rows;
}

/* The same request for both sides; earlier output is any. */
static void draw_clients(worker *w, uint64_t seed, int32_t *output)
{
    int32_t count = 1 + (int32_t)(fake_mix(seed, 1) % 250), shared = (int32_t)(fake_mix(seed, 2) % 250);
    int32_t max_new = 1 + (int32_t)(fake_mix(seed, 3) % 60);
    engine_client_init(&w->first, w->prefill->engine, count, max_new);
    engine_client_init(&w->rest, w->decode->engine, count, max_new);
    for (int32_t i = 0; i < count; i++)
        w->first.prompt[i] = w->rest.prompt[i] =
            (int32_t)(fake_mix(i < shared ? seed % 3 : seed, 1000 + (uint64_t)i) % STAND_IN_VOCAB);
    int32_t earlier = seed % 4 == 0 ? (int32_t)(fake_mix(seed, 4) % (uint64_t)max_new) : 0;
    for (int32_t i = 0; i < earlier; i++)
        output[i] = (int32_t)(fake_mix(seed, 5 + (uint64_t)i) % STAND_IN_VOCAB);
    w->first.asked.output_ids = w->rest.asked.output_ids = output;
    w->first.asked.output_count = w->rest.asked.output_count = earlier;
    w->first.copy = copy_rows;
    w->first.copy_context = w;
}

static void send(engine_client *c)
{
    while (proa_engine_submit(c->engine, &c->asked, &c->id, NULL) == PROA_ERR_OVERLOADED)
        nanosleep(&(struct timespec){.tv_nsec = 200000}, NULL);
}

/* Ends both sides, whatever they have come to: first whoever reads and writes, then what is read and written. */
static void end_both(worker *w)
{
    proa_engine_cancel(w->prefill->engine, w->first.id);
    engine_client_wait_end(&w->first);
    proa_engine_cancel(w->decode->engine, w->rest.id);
    engine_client_wait_end(&w->rest);
    proa_engine_release(w->prefill->engine, w->first.id);
    proa_engine_release(w->decode->engine, w->rest.id);
}

static void end_well(worker *w, fate what)
{
    proa_engine_adopt(w->decode->engine, w->rest.id, &w->first.results[0], 3);
    if (what == CANCELLED_AT_ADOPTION)
        proa_engine_cancel(w->decode->engine, w->rest.id);
    proa_engine_release(w->prefill->engine, w->first.id);
    engine_client_wait_end(&w->first);
    engine_client_wait_end(&w->rest);
    proa_engine_release(w->decode->engine, w->rest.id); /* due if the cancel came first, harmless if not */
    check_client(&w->first, 1);
    /* a cancel may have been on its way when the token came */
    PROA_ASSERT(what == CANCELLED_AT_PREFILL || w->first.finish.reason != PROA_FINISH_ABORT);
}

static void hand_off(worker *w, uint64_t seed, fate what)
{
    int32_t output[LONGEST], expected[LONGEST];
    draw_clients(w, seed, output);
    send(&w->rest);
    if (what == CANCELLED_BEFORE_ROWS)
        proa_engine_cancel(w->decode->engine, w->rest.id);
    engine_client_wait_rows(&w->rest);
    memcpy(w->to_blocks, w->rest.blocks, sizeof w->to_blocks);
    if (w->rest.row_calls > 0) {
        send(&w->first);
        if (what == CANCELLED_AT_PREFILL) {
            engine_client_wait_rows(&w->first);
            proa_engine_cancel(w->prefill->engine, w->first.id);
        }
        engine_client_wait_tokens(&w->first, 1);
        bool adoptable = w->first.count > 0 && !engine_client_ended(&w->first);
        if (what == ABANDONED) {
            proa_engine_release(w->prefill->engine, w->first.id);
            engine_client_wait_end(&w->first);
            proa_engine_release(w->decode->engine, w->rest.id);
            engine_client_wait_end(&w->rest);
        } else if (what == CANCELLED_WHEN_RESERVED || !adoptable) {
            end_both(w);
        } else {
            end_well(w, what);
        }
        check_client(&w->first, -1);
    }
    engine_client_wait_end(&w->rest);
    proa_engine_release(w->decode->engine, w->rest.id);
    bool aborted = w->rest.finish.reason == PROA_FINISH_ABORT;
    check_client(&w->rest, aborted ? -1 : foretell(&w->rest, expected) - w->rest.asked.output_count);
    if (w->rest.count > 0 && w->rest.asked.prompt_count >= 3)
        PROA_ASSERT(w->rest.finish.usage.cached_tokens == 3);
    w->ended[what][aborted ? 0 : 1]++;
    engine_client_free(&w->first);
    engine_client_free(&w->rest);
}

static void *work(void *context)
{
    worker *w = context;
    w->from = layout_of(w->prefill);
    w->to = layout_of(w->decode);
    for (uint64_t i = 0; i < 300; i++) {
        uint64_t x = fake_mix(w->seed, i);
        hand_off(w, w->seed * 1000 + i, x % 2 == 0 ? ALL_WELL : (fate)(x / 2 % FATES));
    }
    return NULL;
}

static void threads_hand_off_and_change_their_minds(void **state)
{
    (void)state;
    enum { THREADS = 6 };
    static rank prefill, decode;
    static worker workers[THREADS];
    pthread_t threads[THREADS];
    proa_engine_stats stats;
    proa_engine_options options = ordinary;
    options.page_size = 1;
    set_up(&prefill, options, PROA_ENGINE_PREFILL);
    options.num_reserved_decode_tokens = 0;
    options.max_total_tokens = 12 * BLOCK;
    set_up(&decode, options, PROA_ENGINE_DECODE);
    for (int i = 0; i < THREADS; i++) {
        workers[i] = (worker){.prefill = &prefill, .decode = &decode, .seed = (uint64_t)i + 1};
        pthread_create(&threads[i], NULL, work, &workers[i]);
    }
    int32_t ended[FATES][2] = {{0}};
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        for (int f = 0; f < FATES; f++) {
            ended[f][0] += workers[i].ended[f][0];
            ended[f][1] += workers[i].ended[f][1];
        }
    }
    check_empty(&prefill);
    check_empty(&decode);
    proa_engine_get_stats(prefill.engine, &stats);
    assert_true(stats.cached_tokens > 0 && stats.retractions == 0);
    proa_engine_get_stats(decode.engine, &stats);
    assert_int_equal(stats.cached_tokens, 0);
    for (int f = 0; f < FATES; f++)
        printf("fate %d: %d aborted, %d whole\n", f, ended[f][0], ended[f][1]);
    printf("%llu retractions at decode\n", (unsigned long long)stats.retractions);
    assert_int_equal(ended[ALL_WELL][0], 0);
    assert_true(ended[ALL_WELL][1] > 0 && ended[CANCELLED_WHEN_RESERVED][0] > 0);
    assert_true(ended[CANCELLED_AT_PREFILL][0] > 0 && ended[ABANDONED][0] > 0);
    assert_int_equal(ended[ABANDONED][1] + ended[CANCELLED_WHEN_RESERVED][1], 0);
    assert_true(prefill.model.guarded > 0 && decode.model.guarded > 0);
    tear_down(&prefill);
    tear_down(&decode);
}

/* ---- one case after another ---- */

/* A prompt of so many tokens. */
static void ask_with(engine_client *c, rank *r, int32_t prompt_count, int32_t credit)
{
    engine_client_init(c, r->engine, prompt_count, 20);
    for (int32_t i = 0; i < prompt_count; i++)
        c->prompt[i] = (int32_t)(fake_mix(7, (uint64_t)i) % STAND_IN_VOCAB);
    c->asked.ignore_eos = true;
    c->asked.credit = credit;
    assert_int_equal(engine_client_send(c), PROA_OK);
}

static void ask(engine_client *c, rank *r, int32_t prompt_count)
{
    ask_with(c, r, prompt_count, LONGEST);
}

static void a_prefilled_request_ends_with_its_release(void **state)
{
    (void)state;
    static rank r;
    static engine_client c, other;
    proa_engine_stats stats;
    set_up(&r, ordinary, PROA_ENGINE_PREFILL);
    ask(&c, &r, 150);
    engine_client_wait_tokens(&c, 1);
    assert_int_equal(c.rows, 150);
    assert_int_equal(c.row_calls, 3); /* 64, 128, all */
    ask(&other, &r, 150);             /* steps go on beside it, with no row of it */
    engine_client_wait_tokens(&other, 1);
    assert_int_equal(other.rows, 150);
    assert_int_equal(other.row_calls, 1);
    proa_engine_get_stats(r.engine, &stats);
    assert_int_equal(stats.running, 2);
    assert_int_equal(stats.requests_finished, 0);
    assert_int_equal(c.finishes + other.finishes, 0);
    proa_engine_release(r.engine, c.id);
    engine_client_wait_end(&c);
    assert_int_equal(c.finish.reason, PROA_FINISH_LENGTH);
    assert_int_equal(c.finish.usage.output_tokens, 1);
    assert_int_equal(c.count, 1);
    proa_engine_cancel(r.engine, other.id); /* a held one that is cancelled is lent */
    engine_client_wait_end(&other);
    assert_int_equal(other.finish.error.status, PROA_ERR_CANCELLED);
    wait_for_lent(&r, 3);
    proa_engine_grant(r.engine, other.id, 5);
    proa_engine_cancel(r.engine, other.id);
    proa_engine_adopt(r.engine, other.id, &c.results[0], 0);      /* nothing but release moves it */
    assert_int_equal(proa_engine_flush_cache(r.engine), PROA_OK); /* nobody runs or waits */
    wait_for_lent(&r, 3);
    proa_engine_release(r.engine, other.id);
    check_empty(&r);
    proa_engine_release(r.engine, other.id);
    proa_engine_release(r.engine, c.id);
    engine_client_free(&c);
    engine_client_free(&other);
    tear_down(&r);
}

static void a_failed_step_leaves_what_was_told_lent(void **state)
{
    (void)state;
    static rank r;
    static engine_client c, later;
    set_up(&r, ordinary, PROA_ENGINE_PREFILL);
    r.model.fail_at = 3;
    r.model.fail_with = PROA_ERR_TOO_LONG;
    ask(&c, &r, 200);
    engine_client_wait_end(&c);
    assert_int_equal(c.rows, 128);
    assert_int_equal(c.finish.error.status, PROA_ERR_TOO_LONG);
    wait_for_lent(&r, 4);
    proa_engine_release(r.engine, c.id);
    check_empty(&r);
    pthread_mutex_lock(&r.model.gate);
    r.model.no_token_at = r.model.steps + 2;
    pthread_mutex_unlock(&r.model.gate);
    ask(&later, &r, 200); /* what was computed before the failure is found, its last token is not drawn */
    engine_client_wait_end(&later);
    assert_int_equal(later.finish.usage.cached_tokens, 128);
    assert_int_equal(later.rows, 192);
    assert_int_equal(later.count, 0);
    wait_for_lent(&r, 4);
    proa_engine_release(r.engine, later.id);
    check_empty(&r);
    engine_client_free(&c);
    engine_client_free(&later);
    tear_down(&r);
}

static void a_reserved_request_waits_for_adoption(void **state)
{
    (void)state;
    static rank r;
    static engine_client c;
    static const proa_sample_result foreign = {.token = STAND_IN_VOCAB}, good = {.token = 5};
    set_up(&r, ordinary, PROA_ENGINE_DECODE);
    ask(&c, &r, 128);
    engine_client_wait_rows(&c);
    assert_int_equal(c.rows, 128);
    assert_int_equal(c.block_count, 3);
    proa_engine_adopt(r.engine, c.id, &foreign, 0);
    engine_client_wait_end(&c);
    assert_int_equal(c.finish.error.status, PROA_ERR_PROTOCOL);
    assert_non_null(strstr(c.finish.error.text, "the first token is 211"));
    assert_int_equal(c.count, 0);
    wait_for_lent(&r, 3);
    proa_engine_adopt(r.engine, c.id, &good, 0); /* too late */
    proa_engine_release(r.engine, c.id);
    check_empty(&r);
    engine_client_free(&c);
    ask_with(&c, &r, 128, 3);
    engine_client_wait_rows(&c);
    proa_engine_adopt(r.engine, c.id, &good, 200); /* more cached than there is: not believed */
    engine_client_wait_tokens(&c, 3);
    proa_engine_adopt(r.engine, c.id, &good, 1); /* once is enough */
    proa_engine_grant(r.engine, c.id, 20);
    engine_client_wait_end(&c);
    assert_int_equal(c.count, 20);
    assert_int_equal(c.results[0].token, 5);
    assert_int_equal(c.finish.reason, PROA_FINISH_LENGTH);
    assert_int_equal(c.finish.usage.cached_tokens, 0);
    check_empty(&r);
    engine_client_free(&c);
    tear_down(&r);
}

/* Law 4: the end of an engine waits for no peer. */
static void stopping_waits_for_no_release(void **state)
{
    (void)state;
    static rank prefill, decode;
    static engine_client held, lent, reserved, waiting;
    set_up(&prefill, ordinary, PROA_ENGINE_PREFILL);
    ask(&held, &prefill, 100);
    engine_client_wait_tokens(&held, 1);
    ask(&lent, &prefill, 100);
    engine_client_wait_tokens(&lent, 1);
    proa_engine_cancel(prefill.engine, lent.id);
    engine_client_wait_end(&lent);
    wait_for_lent(&prefill, 2);
    tear_down(&prefill);
    assert_int_equal(held.finishes, 1);
    assert_int_equal(held.finish.reason, PROA_FINISH_ABORT);
    proa_engine_options options = ordinary;
    options.max_running_requests = 1;
    set_up(&decode, options, PROA_ENGINE_DECODE);
    ask(&reserved, &decode, 100);
    engine_client_wait_rows(&reserved);
    ask(&waiting, &decode, 100);
    tear_down(&decode);
    assert_int_equal(reserved.finishes + waiting.finishes, 2);
    assert_int_equal(waiting.row_calls, 0);
    engine_client_free(&held);
    engine_client_free(&lent);
    engine_client_free(&reserved);
    engine_client_free(&waiting);
}

static void a_lost_device_needs_no_release_either(void **state)
{
    (void)state;
    static rank r;
    static engine_client held, c;
    set_up(&r, ordinary, PROA_ENGINE_PREFILL);
    ask(&held, &r, 100);
    engine_client_wait_tokens(&held, 1);
    pthread_mutex_lock(&r.model.gate);
    r.model.fail_at = r.model.steps + 1;
    r.model.fail_with = PROA_ERR_DEVICE;
    pthread_mutex_unlock(&r.model.gate);
    ask(&c, &r, 100);
    engine_client_wait_end(&c);
    engine_client_wait_end(&held);
    assert_int_equal(held.finish.error.status, PROA_ERR_DEVICE);
    proa_engine_release(r.engine, held.id);
    proa_engine_release(r.engine, c.id);
    engine_client_free(&held);
    engine_client_free(&c);
    tear_down(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(threads_hand_off_and_change_their_minds),
        cmocka_unit_test(a_prefilled_request_ends_with_its_release),
        cmocka_unit_test(a_failed_step_leaves_what_was_told_lent),
        cmocka_unit_test(a_reserved_request_waits_for_adoption),
        cmocka_unit_test(stopping_waits_for_no_release),
        cmocka_unit_test(a_lost_device_needs_no_release_either),
    };
    return cmocka_run_group_tests_name("engine_roles", tests, NULL, NULL);
}
