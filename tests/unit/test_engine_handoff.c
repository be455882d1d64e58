/* test_engine_handoff.c - law 2 with the real model (tiny-r1): a request that goes on from earlier output, and one whose
 * prompt is computed by another engine, give the tokens and log probabilities of an undisturbed run, bit for bit. */
#include "engine_client.h"
#include "model/checkpoint.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { LONGEST = 512, NEW = 40, CLIENTS = 6, BLOCK = PROA_KV_BLOCK_TOKENS };

/* ---- the model, loaded once ---- */

typedef struct model {
    proa_model_config config;
    proa_device *device;
    proa_checkpoint *checkpoint;
    proa_kv_cache kv_cache;
} model;

static int load(void **state)
{
    static model m;
    char folder[1000];
    proa_error err = {0};
    snprintf(folder, sizeof folder, "%s/../models/tiny-r1", getenv("PROA_TEST_SOURCE"));
    proa_status status = proa_model_config_load(folder, &m.config, &err);
    if (status == PROA_OK)
        status = proa_device_create("cpu", 1, PROA_PRECISION_DEFAULT, &m.device, &err);
    if (status == PROA_OK)
        status = proa_checkpoint_load(folder, PROA_LOAD_AUTO, &m.config, PROA_PRECISION_DEFAULT,
                                      m.device->host.pool, &m.checkpoint, &err);
    if (status != PROA_OK)
        printf("%s\n", err.text);
    *state = &m;
    return status != PROA_OK;
}

static int load_for_fp8_cache(void **state)
{
    int failed = load(state);
    ((model *)*state)->kv_cache = PROA_KV_CACHE_E4M3;
    return failed;
}

static int unload(void **state)
{
    model *m = *state;
    proa_checkpoint_free(m->checkpoint);
    proa_device_free(m->device);
    return 0;
}

/* An engine with a device of its own: two of them run at once. */
typedef struct rank {
    proa_device *device;
    proa_forward *forward;
    proa_engine *engine;
} rank;

static const proa_engine_options ordinary = {
    .max_running_requests = 8,
    .max_queued_requests = 8,
    .max_total_tokens = 64 * BLOCK,
    .chunked_prefill_size = 50,
    .context_length = LONGEST,
    .page_size = 16,
    .num_reserved_decode_tokens = -1,
};

static void rank_start(rank *r, const model *m, const proa_engine_options *options)
{
    proa_forward_limits limits;
    proa_error err = {0};
    proa_status status = proa_engine_forward_limits(options, &limits, &err);
    limits.kv_cache = m->kv_cache;
    if (status == PROA_OK)
        status = proa_device_create("cpu", 1, PROA_PRECISION_DEFAULT, &r->device, &err);
    if (status == PROA_OK)
        status = proa_forward_create(&m->config, proa_checkpoint_weights(m->checkpoint), r->device, &limits,
                                     &r->forward, &err);
    if (status == PROA_OK)
        status = proa_engine_start(options, &m->config, r->forward, r->device, &r->engine, &err);
    if (status != PROA_OK)
        fail_msg("%s", err.text);
}

static void rank_stop(rank *r)
{
    proa_engine_stop(r->engine);
    proa_forward_free(r->forward);
    proa_device_free(r->device);
}

static proa_kv_layout layout_of(const model *m, const rank *r)
{
    proa_forward_kv kv = proa_forward_kv_memory(r->forward);
    return (proa_kv_layout){
        .base = kv.base,
        .layers = m->config.num_hidden_layers,
        .blocks = (int32_t)(kv.layer_bytes / kv.row_bytes / BLOCK),
        .row_bytes = kv.row_bytes,
        .block_bytes = BLOCK * kv.row_bytes,
        .layer_bytes = kv.layer_bytes,
    };
}

/* ---- the undisturbed run ---- */

static void run_alone(const model *m, engine_client *clients)
{
    rank r;
    rank_start(&r, m, &ordinary);
    for (int32_t i = 0; i < CLIENTS; i++) {
        engine_client_draw(&clients[i], r.engine, (uint64_t)i + 1, NEW);
        assert_int_equal(engine_client_send(&clients[i]), PROA_OK);
        engine_client_wait_end(&clients[i]);
        assert_int_equal(clients[i].count, NEW);
        engine_client_free(&clients[i]);
    }
    rank_stop(&r);
}

/* The results of `c` are those of `alone` from number `skipped` on, bit for bit. */
static void check_results(const engine_client *c, const engine_client *alone, int32_t skipped)
{
    assert_int_equal(c->count + skipped, alone->count);
    for (int32_t i = 0; i < c->count; i++) {
        const proa_sample_result *a = &c->results[i], *b = &alone->results[skipped + i];
        assert_int_equal(a->token, b->token);
        assert_memory_equal(&a->logprob, &b->logprob, sizeof a->logprob);
        assert_int_equal(a->top_count, b->top_count);
        assert_memory_equal(a->top_ids, b->top_ids, (size_t)a->top_count * sizeof a->top_ids[0]);
        assert_memory_equal(a->top_logprobs, b->top_logprobs,
                            (size_t)a->top_count * sizeof a->top_logprobs[0]);
    }
    assert_int_equal(c->finish.reason, PROA_FINISH_LENGTH);
    assert_int_equal(c->finish.usage.prompt_tokens, alone->finish.usage.prompt_tokens);
    assert_int_equal(c->finish.usage.output_tokens, NEW);
}

static void give_output(engine_client *c, const engine_client *alone, int32_t count, int32_t *ids)
{
    for (int32_t i = 0; i < count; i++)
        ids[i] = alone->results[i].token;
    c->asked.output_ids = ids;
    c->asked.output_count = count;
}

/* ---- tests ---- */

static void earlier_output_is_gone_on_from(void **state)
{
    static engine_client alone[CLIENTS], again[CLIENTS];
    static const int32_t counts[] = {1, 2, 17, NEW - 1};
    int32_t ids[NEW];
    rank r;
    run_alone(*state, alone);
    for (size_t k = 0; k < sizeof counts / sizeof counts[0]; k++) {
        proa_engine_options options = ordinary;
        options.chunked_prefill_size = k % 2 == 0 ? 16 : -1;
        options.disable_radix_cache = k == 1;
        rank_start(&r, *state, &options);
        for (int32_t i = 0; i < CLIENTS; i++) {
            engine_client_draw(&again[i], r.engine, (uint64_t)i + 1, NEW);
            give_output(&again[i], &alone[i], counts[k], ids);
            assert_int_equal(engine_client_send(&again[i]), PROA_OK);
            memset(ids, -1, sizeof ids); /* it was copied */
        }
        for (int32_t i = 0; i < CLIENTS; i++) {
            engine_client_wait_end(&again[i]);
            check_results(&again[i], &alone[i], counts[k]);
            engine_client_free(&again[i]);
        }
        rank_stop(&r);
    }
}

typedef struct way {
    proa_kv_layout from, to;
    const int32_t *to_blocks;
} way;

/* New rows go to the other engine at once, while this one goes on computing. */
static void copy_rows(engine_client *c, const proa_engine_rows *rows)
{
    const way *w = c->copy_context;
    engine_client_copy_rows(&w->from, rows->blocks, &w->to, w->to_blocks, c->copied, rows->rows - c->copied);
    c->copied = rows->rows;
}

/* The prompt is computed by `prefill`, the rest by `decode`. */
static void hand_off(const model *m, const rank *prefill, const rank *decode, engine_client *first,
                     engine_client *rest)
{
    assert_int_equal(engine_client_send(rest), PROA_OK);
    engine_client_wait_rows(rest);
    assert_int_equal(rest->rows, rest->asked.prompt_count + rest->asked.output_count);
    way w = {layout_of(m, prefill), layout_of(m, decode), rest->blocks};
    first->copy = copy_rows;
    first->copy_context = &w;
    assert_int_equal(engine_client_send(first), PROA_OK);
    engine_client_wait_tokens(first, 1);
    assert_int_equal(first->copied, rest->rows);
    proa_engine_adopt(decode->engine, rest->id, &first->results[0], 0);
    proa_engine_release(prefill->engine, first->id);
    engine_client_wait_end(first);
    assert_int_equal(first->finish.reason, PROA_FINISH_LENGTH);
    assert_int_equal(first->count, 1);
}

static void check_empty(const rank *r, proa_engine_stats *stats)
{
    proa_engine_get_stats(r->engine, stats);
    assert_int_equal(stats->running + stats->queued + stats->kv_blocks_used + stats->kv_blocks_lent, 0);
    assert_int_equal(stats->requests_finished, CLIENTS);
}

static void what_is_handed_off_goes_on(void **state)
{
    static engine_client alone[CLIENTS], first[CLIENTS], rest[CLIENTS];
    static const int32_t counts[] = {0, 1, 30};
    int32_t ids[NEW];
    rank prefill, decode;
    proa_engine_stats stats;
    run_alone(*state, alone);
    for (size_t k = 0; k < sizeof counts / sizeof counts[0]; k++) {
        proa_engine_options options = ordinary;
        options.role = PROA_ENGINE_PREFILL;
        rank_start(&prefill, *state, &options);
        options.role = PROA_ENGINE_DECODE;
        if (k == 0) { /* too little for all: some are retracted after they were adopted */
            options.max_total_tokens = 15 * BLOCK;
            options.num_reserved_decode_tokens = 0;
        }
        rank_start(&decode, *state, &options);
        for (int32_t i = 0; i < CLIENTS; i++) {
            engine_client_draw(&first[i], prefill.engine, (uint64_t)i + 1, NEW);
            engine_client_draw(&rest[i], decode.engine, (uint64_t)i + 1, NEW);
            give_output(&first[i], &alone[i], counts[k], ids);
            give_output(&rest[i], &alone[i], counts[k], ids);
            rest[i].asked.credit = 2; /* none is done before all are there */
            hand_off(*state, &prefill, &decode, &first[i], &rest[i]);
        }
        for (int32_t i = 0; i < CLIENTS; i++)
            proa_engine_grant(decode.engine, rest[i].id, NEW);
        for (int32_t i = 0; i < CLIENTS; i++) {
            engine_client_wait_end(&rest[i]);
            check_results(&rest[i], &alone[i], counts[k]);
            engine_client_free(&first[i]);
            engine_client_free(&rest[i]);
        }
        check_empty(&prefill, &stats);
        check_empty(&decode, &stats);
        assert_true((stats.retractions > 0) == (k == 0));
        rank_stop(&prefill);
        rank_stop(&decode);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(earlier_output_is_gone_on_from),
        cmocka_unit_test(what_is_handed_off_goes_on),
    };
    int failed = cmocka_run_group_tests_name("engine_handoff", tests, load, unload);
    return failed +
           cmocka_run_group_tests_name("engine_handoff, FP8 KV cache", tests, load_for_fp8_cache, unload);
}
