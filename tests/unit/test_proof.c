/* test_proof.c - the proof model against its closed form: over chunk sizes, caches, retractions and hand-offs every token is
 * the one foretold; with one bit of the rows wrong it is another. */
#include "engine/proof.h"
#include "engine_client.h"
#include "proof_oracle.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

enum { CLIENTS = 16, KEY = 77, VOCAB = 129280, BLOCK = PROA_KV_BLOCK_TOKENS };

static const proa_model_config wide = {
    .vocab_size = VOCAB, .num_hidden_layers = 3, .kv_lora_rank = 48, .qk_rope_head_dim = 16};

static const proa_engine_options ordinary = {
    .max_running_requests = 8,
    .max_queued_requests = 32,
    .max_total_tokens = 64 * BLOCK,
    .chunked_prefill_size = 64,
    .context_length = 512,
    .page_size = 16,
    .num_reserved_decode_tokens = -1,
};

typedef struct rank {
    proa_proof *proof;
    proa_kv_layout layout;
    proa_engine *engine;
} rank;

static void rank_start(rank *r, const proa_engine_options *options, const proa_model_config *config)
{
    proa_forward_limits limits;
    proa_error err = {0};
    proa_status status = proa_engine_forward_limits(options, &limits, &err);
    if (status == PROA_OK)
        status = proa_proof_create(config, &limits, KEY, &r->proof, &err);
    if (status == PROA_OK)
        status = proa_proof_start(options, config, r->proof, &r->engine, &err);
    if (status != PROA_OK)
        fail_msg("%s", err.text);
    proa_proof_layout(r->proof, &r->layout);
}

static void rank_stop(rank *r)
{
    proa_engine_stats stats;
    proa_engine_get_stats(r->engine, &stats);
    assert_int_equal(stats.running + stats.queued + stats.kv_blocks_used + stats.kv_blocks_lent, 0);
    proa_engine_stop(r->engine);
    proa_proof_free(r->proof);
}

static uint64_t scramble(uint64_t x)
{
    x = (x + 1) * 0x9E3779B97F4A7C15u;
    x = (x ^ x >> 32) * 0xD6E8FEB86659FD93u;
    return x ^ x >> 29;
}

/* A request drawn from `seed`; prompts begin alike. */
static void draw_client(engine_client *c, const rank *r, uint64_t seed)
{
    int32_t count = 1 + (int32_t)(scramble(seed) % 250), shared = (int32_t)(scramble(seed + 100) % 250);
    engine_client_init(c, r->engine, count, 2 + (int32_t)(scramble(seed + 200) % 100));
    for (int32_t i = 0; i < count; i++)
        c->prompt[i] = (int32_t)(scramble((i < shared ? seed % 2 : seed + 5) * 1000 + (uint64_t)i) % VOCAB);
    c->asked.top_logprobs = seed % 3 == 0 ? -1 : (int32_t)(seed % 3) - 1;
    c->asked.temperature = 0.7f; /* changes nothing, as the penalty does */
    c->asked.repetition_penalty = 1.3f;
    c->asked.seed = seed;
}

/* What came is what the closed form says, after `earlier` tokens of output; `wanted` of them. */
static void check_client(const engine_client *c, int32_t earlier, int32_t wanted)
{
    proof_oracle oracle;
    proof_oracle_start(&oracle, KEY);
    for (int32_t i = 0; i < c->asked.prompt_count; i++)
        proof_oracle_feed(&oracle, c->prompt[i]);
    for (int32_t i = 0; i < earlier; i++)
        proof_oracle_feed(&oracle, c->asked.output_ids[i]);
    assert_int_equal(c->count, wanted);
    for (int32_t i = 0; i < c->count; i++) {
        const proa_sample_result *result = &c->results[i];
        float logprob;
        int32_t token = proof_oracle_next(&oracle, VOCAB, &logprob);
        assert_int_equal(result->token, token);
        assert_true(result->logprob == (c->asked.top_logprobs >= 0 ? logprob : 0));
        assert_int_equal(result->top_count, c->asked.top_logprobs > 0);
        if (result->top_count > 0) {
            assert_int_equal(result->top_ids[0], token);
            assert_true(result->top_logprobs[0] == logprob);
        }
        proof_oracle_feed(&oracle, token);
    }
    assert_int_equal(c->finishes, 1);
    assert_int_equal(c->finish.reason, PROA_FINISH_LENGTH);
    assert_int_equal(c->finish.usage.output_tokens, earlier + wanted);
}

/* ---- tests ---- */

static void tokens_are_those_foretold(void **state)
{
    (void)state;
    static engine_client clients[CLIENTS];
    static const struct {
        int32_t chunk, page, blocks, kv_lora_rank;
        bool no_cache;
    } table[] = {
        {64, 16, 64, 48, false}, {1, 1, 64, 48, false},   {-1, 64, 64, 48, true}, {100, 1, 8, 48, false},
        {16, 48, 8, 48, true},   {64, 1, 64, 500, false}, {64, 1, 8, 1, false},
    };
    uint64_t retractions = 0, cached = 0;
    for (size_t k = 0; k < sizeof table / sizeof table[0]; k++) {
        proa_engine_options options = ordinary;
        proa_model_config config = wide;
        proa_engine_stats stats;
        rank r;
        options.chunked_prefill_size = table[k].chunk;
        options.page_size = table[k].page;
        options.max_total_tokens = table[k].blocks * BLOCK;
        options.disable_radix_cache = table[k].no_cache;
        config.kv_lora_rank = table[k].kv_lora_rank;
        rank_start(&r, &options, &config);
        for (int32_t i = 0; i < CLIENTS; i++) {
            draw_client(&clients[i], &r, (uint64_t)i);
            assert_int_equal(engine_client_send(&clients[i]), PROA_OK);
        }
        for (int32_t i = 0; i < CLIENTS; i++) {
            engine_client_wait_end(&clients[i]);
            check_client(&clients[i], 0, clients[i].asked.max_new_tokens);
            engine_client_free(&clients[i]);
        }
        proa_engine_get_stats(r.engine, &stats);
        retractions += stats.retractions;
        cached += stats.cached_tokens;
        rank_stop(&r);
    }
    assert_true(retractions > 0 && cached > 0);
}

/* Rows are real memory of the geometry that the configuration has. */
static void the_layout_is_the_caches(void **state)
{
    (void)state;
    static const struct {
        int32_t kv_lora_rank, rope;
        proa_kv_cache kv_cache;
        size_t row_bytes;
    } table[] = {{512, 64, PROA_KV_CACHE_AUTO, 1152},
                 {48, 16, PROA_KV_CACHE_AUTO, 128},
                 {5, 4, PROA_KV_CACHE_AUTO, 24},
                 {1, 1, PROA_KV_CACHE_AUTO, 8},
                 {512, 64, PROA_KV_CACHE_E4M3, 656}};
    for (size_t k = 0; k < sizeof table / sizeof table[0]; k++) {
        proa_model_config config = wide;
        proa_forward_limits limits = {.logit_rows_max = 1, .kv_blocks = 5, .kv_cache = table[k].kv_cache};
        proa_proof *proof = NULL;
        proa_kv_layout layout;
        config.kv_lora_rank = table[k].kv_lora_rank;
        config.qk_rope_head_dim = table[k].rope;
        assert_int_equal(proa_proof_create(&config, &limits, KEY, &proof, NULL), PROA_OK);
        proa_proof_layout(proof, &layout);
        assert_int_equal(layout.layers, 3);
        assert_int_equal(layout.blocks, 5);
        assert_int_equal(layout.dtype, proa_kv_cache_dtype(table[k].kv_cache, PROA_PRECISION_DEFAULT));
        assert_int_equal(layout.row_bytes, table[k].row_bytes);
        assert_int_equal(layout.block_bytes, 64 * layout.row_bytes);
        assert_int_equal(layout.layer_bytes, 5 * layout.block_bytes);
        memset(layout.base, 1, 3 * layout.layer_bytes);
        proa_proof_free(proof);
    }
    proa_proof_free(NULL);
}

/* ---- hand-off ---- */

typedef struct way {
    const rank *from, *to;
    const int32_t *to_blocks;
} way;

static void copy_rows(engine_client *c, const proa_engine_rows *rows)
{
    const way *w = c->copy_context;
    engine_client_copy_rows(&w->from->layout, rows->blocks, &w->to->layout, w->to_blocks, c->copied,
                            rows->rows - c->copied);
    c->copied = rows->rows;
}

/* The rows of `rest` are computed at another engine; adoption is up to the caller. */
static void fill_rows(const rank *prefill, const rank *decode, engine_client *first, engine_client *rest)
{
    way w = {prefill, decode, rest->blocks};
    assert_int_equal(engine_client_send(rest), PROA_OK);
    engine_client_wait_rows(rest);
    first->copy = copy_rows;
    first->copy_context = &w;
    assert_int_equal(engine_client_send(first), PROA_OK);
    engine_client_wait_tokens(first, 1);
    assert_int_equal(first->copied, rest->rows);
    proa_engine_release(prefill->engine, first->id);
    engine_client_wait_end(first);
}

static void handed_off_tokens_are_those_foretold(void **state)
{
    (void)state;
    static engine_client first[CLIENTS], rest[CLIENTS];
    static int32_t tokens[CLIENTS][ENGINE_CLIENT_LONGEST];
    proa_engine_stats stats;
    rank prefill, decode;
    proa_engine_options options = ordinary;
    options.role = PROA_ENGINE_PREFILL;
    options.page_size = 1;
    rank_start(&prefill, &options, &wide);
    options.role = PROA_ENGINE_DECODE;
    options.max_total_tokens = 9 * BLOCK;
    options.num_reserved_decode_tokens = 0;
    rank_start(&decode, &options, &wide);
    for (int32_t i = 0; i < CLIENTS; i++) {
        draw_client(&first[i], &prefill, (uint64_t)i);
        draw_client(&rest[i], &decode, (uint64_t)i);
        int32_t earlier = i % 3 * (rest[i].asked.max_new_tokens - 1) / 2, prompt = rest[i].asked.prompt_count;
        memcpy(tokens[i], rest[i].prompt, (size_t)prompt * sizeof tokens[i][0]);
        proof_closed_form(KEY, VOCAB, tokens[i], prompt, earlier);
        first[i].asked.output_ids = rest[i].asked.output_ids = tokens[i] + prompt;
        first[i].asked.output_count = rest[i].asked.output_count = earlier;
        rest[i].asked.credit = 1;
        fill_rows(&prefill, &decode, &first[i], &rest[i]);
        check_client(&first[i], earlier, 1);
        proa_engine_adopt(decode.engine, rest[i].id, &first[i].results[0], 0);
        if (i % 4 == 3) {
            for (int32_t k = i - 3; k <= i; k++)
                proa_engine_grant(decode.engine, rest[k].id, 1000);
        }
    }
    for (int32_t i = 0; i < CLIENTS; i++) {
        engine_client_wait_end(&rest[i]);
        check_client(&rest[i], rest[i].asked.output_count,
                     rest[i].asked.max_new_tokens - rest[i].asked.output_count);
        engine_client_free(&first[i]);
        engine_client_free(&rest[i]);
    }
    proa_engine_get_stats(decode.engine, &stats);
    assert_true(stats.retractions > 0);
    rank_stop(&prefill);
    rank_stop(&decode);
}

/* ---- what must be noticed ---- */

typedef enum fault { BIT, LOST_ROW, SWAPPED_BLOCKS, FOREIGN_BLOCK, SHIFTED_ROW, FAULTS } fault;

static char *row_of(const rank *r, const int32_t *blocks, int32_t layer, int32_t position)
{
    return (char *)r->layout.base + (size_t)layer * r->layout.layer_bytes +
           (size_t)blocks[position / BLOCK] * r->layout.block_bytes +
           (size_t)(position % BLOCK) * r->layout.row_bytes;
}

/* Does harm to rows 0 .. rows - 1 that a client of at least two blocks has been lent; `other` belongs to another. */
static void spoil(const rank *r, const engine_client *c, const engine_client *other, fault what,
                  uint64_t random)
{
    int32_t position = (int32_t)(random % (uint64_t)c->rows), layer = (int32_t)(random / 1000 % 3);
    size_t bytes = r->layout.row_bytes;
    char *row = row_of(r, c->blocks, layer, position);
    switch (what) {
    case BIT: row[random / 5000 % bytes] ^= (char)(1 << random / 7000 % 8); break;
    case LOST_ROW: memset(row, 0, bytes); break;
    case SWAPPED_BLOCKS:
        for (int32_t l = 0; l < r->layout.layers; l++) {
            char *a = row_of(r, c->blocks, l, 0), *b = row_of(r, c->blocks, l, BLOCK);
            for (size_t i = 0; i < r->layout.block_bytes; i++) {
                char swapped = a[i];
                a[i] = b[i];
                b[i] = swapped;
            }
        }
        break;
    case FOREIGN_BLOCK:
        engine_client_copy_rows(&r->layout, other->blocks, &r->layout, c->blocks, 0, BLOCK);
        break;
    case SHIFTED_ROW:
    default: memcpy(row, row_of(r, c->blocks, layer, position > 0 ? position - 1 : 1), bytes); break;
    }
}

static void whatever_is_wrong_shows(void **state)
{
    (void)state;
    enum { ROUNDS = 400 };
    static engine_client first, rest, other_first, other;
    rank prefill, decode;
    proa_engine_options options = ordinary;
    options.role = PROA_ENGINE_PREFILL;
    rank_start(&prefill, &options, &wide);
    options.role = PROA_ENGINE_DECODE;
    rank_start(&decode, &options, &wide);
    draw_client(&other_first, &prefill, 3);
    draw_client(&other, &decode, 3);
    assert_true(other.asked.prompt_count > BLOCK);
    fill_rows(&prefill, &decode, &other_first, &other);
    for (int32_t i = 0; i < ROUNDS; i++) {
        draw_client(&first, &prefill, 10);
        draw_client(&rest, &decode, 10);
        assert_true(rest.asked.prompt_count > 2 * BLOCK);
        first.asked.max_new_tokens = rest.asked.max_new_tokens = 2;
        fill_rows(&prefill, &decode, &first, &rest);
        check_client(&first, 0, 1);
        bool spoiled = i % 4 > 0;
        if (spoiled)
            spoil(&decode, &rest, &other, i % 4 == 1 ? (fault)(i / 4 % FAULTS) : BIT, scramble((uint64_t)i));
        proa_engine_adopt(decode.engine, rest.id, &first.results[0], 0);
        engine_client_wait_end(&rest);
        assert_int_equal(rest.count, 2);
        proof_oracle oracle;
        proof_oracle_start(&oracle, KEY);
        for (int32_t t = 0; t < rest.asked.prompt_count; t++)
            proof_oracle_feed(&oracle, rest.prompt[t]);
        proof_oracle_feed(&oracle, first.results[0].token);
        if ((rest.results[1].token != proof_oracle_next(&oracle, VOCAB, NULL)) != spoiled)
            fail_msg("round %d", i);
        engine_client_free(&first);
        engine_client_free(&rest);
    }
    proa_engine_cancel(decode.engine, other.id);
    engine_client_wait_end(&other);
    proa_engine_stats stats;
    proa_engine_get_stats(decode.engine, &stats);
    assert_int_equal(stats.kv_blocks_lent, other.block_count);
    proa_engine_release(decode.engine, other.id);
    while (stats.kv_blocks_lent > 0)
        proa_engine_get_stats(decode.engine, &stats);
    engine_client_free(&other_first);
    engine_client_free(&other);
    rank_stop(&prefill);
    rank_stop(&decode);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tokens_are_those_foretold),
        cmocka_unit_test(the_layout_is_the_caches),
        cmocka_unit_test(handed_off_tokens_are_those_foretold),
        cmocka_unit_test(whatever_is_wrong_shows),
    };
    return cmocka_run_group_tests_name("proof", tests, NULL, NULL);
}
