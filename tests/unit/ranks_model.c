/* ranks_model.c - see ranks_model.h. */
#include "ranks_model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

const proa_engine_options ranks_model_options = {
    .max_running_requests = 8,
    .max_queued_requests = 64,
    .max_total_tokens = 64 * PROA_KV_BLOCK_TOKENS,
    .chunked_prefill_size = 50,
    .context_length = 512,
    .page_size = 16,
    .num_reserved_decode_tokens = -1,
};

static void ask_alone(ranks_model *m)
{
    proa_device *device;
    proa_forward *forward;
    proa_engine *engine;
    proa_forward_limits limits;
    proa_error err = {0};
    assert_int_equal(proa_device_create("cpu", 1, PROA_PRECISION_DEFAULT, &device, &err), PROA_OK);
    assert_int_equal(proa_engine_forward_limits(&ranks_model_options, &limits, &err), PROA_OK);
    limits.kv_cache = m->kv_cache;
    assert_int_equal(proa_forward_create(&m->config, proa_checkpoint_weights(m->checkpoint), device, &limits,
                                         &forward, &err),
                     PROA_OK);
    assert_int_equal(proa_engine_start(&ranks_model_options, &m->config, forward, device, &engine, &err),
                     PROA_OK);
    for (int32_t i = 0; i < RANKS_MODEL_CLIENTS; i++) {
        engine_client_draw(&m->alone[i], engine, (uint64_t)i + 1, RANKS_MODEL_NEW);
        assert_int_equal(engine_client_send(&m->alone[i]), PROA_OK);
        engine_client_wait_end(&m->alone[i]);
        assert_int_equal(m->alone[i].count, RANKS_MODEL_NEW);
        engine_client_free(&m->alone[i]);
    }
    proa_engine_stop(engine);
    proa_forward_free(forward);
    proa_device_free(device);
}

static int load(void **state, proa_kv_cache kv_cache)
{
    static ranks_model m;
    char folder[1000];
    proa_error err = {0};
    *state = &m;
    m.kv_cache = kv_cache;
    snprintf(folder, sizeof folder, "%s/../models/tiny-r1", getenv("PROA_TEST_SOURCE"));
    proa_status status = proa_model_config_load(folder, &m.config, &err);
    if (status == PROA_OK)
        status = proa_checkpoint_load(folder, PROA_LOAD_AUTO, &m.config, PROA_PRECISION_DEFAULT, NULL,
                                      &m.checkpoint, &err);
    if (status != PROA_OK) {
        printf("%s\n", err.text);
        return 1;
    }
    ask_alone(&m);
    return 0;
}

int ranks_model_load(void **state)
{
    return load(state, PROA_KV_CACHE_AUTO);
}

int ranks_model_load_for_fp8_cache(void **state)
{
    return load(state, PROA_KV_CACHE_E4M3);
}

int ranks_model_unload(void **state)
{
    proa_checkpoint_free(((ranks_model *)*state)->checkpoint);
    return 0;
}

/* ---- requests ---- */

static bool same_result(const proa_sample_result *a, const proa_sample_result *b)
{
    bool same = a->token == b->token && memcmp(&a->logprob, &b->logprob, sizeof a->logprob) == 0 &&
                a->top_count == b->top_count;
    for (int32_t i = 0; i < a->top_count && same; i++)
        same = a->top_ids[i] == b->top_ids[i] &&
               memcmp(&a->top_logprobs[i], &b->top_logprobs[i], sizeof a->top_logprobs[i]) == 0;
    return same;
}

void ranks_model_check(const ranks_model *m, const engine_client *c, int32_t number)
{
    if (c->finish.reason == PROA_FINISH_ABORT)
        fail_msg("request %d failed: %s", number, c->finish.error.text);
    assert_int_equal(c->count, RANKS_MODEL_NEW);
    for (int32_t i = 0; i < RANKS_MODEL_NEW; i++) {
        if (!same_result(&c->results[i], &m->alone[number].results[i]))
            fail_msg("request %d: token %d differs from that of one rank", number, i);
    }
}

int32_t ranks_model_home(int32_t number, int32_t ranks, int32_t spared)
{
    int32_t home = number * 5 % ranks;
    return home == spared ? (home + 1) % ranks : home;
}

void ranks_model_send(engine_client *clients, ranks_fixture *f, int32_t ranks, int32_t spared)
{
    for (int32_t i = 0; i < RANKS_MODEL_CLIENTS; i++) {
        engine_client_draw(&clients[i], ranks_fixture_engine(f, ranks_model_home(i, ranks, spared)),
                           (uint64_t)i + 1, RANKS_MODEL_NEW);
        assert_int_equal(engine_client_send(&clients[i]), PROA_OK);
    }
}

void ranks_model_check_all(const ranks_model *m, engine_client *clients)
{
    for (int32_t i = 0; i < RANKS_MODEL_CLIENTS; i++) {
        engine_client_wait_end(&clients[i]);
        ranks_model_check(m, &clients[i], i);
        engine_client_free(&clients[i]);
    }
}
