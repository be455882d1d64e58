/* test_wire.c - messages between processes: there and back with awkward values, and each limit by name. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "wire_again.h"

/* ---- one awkward message of each kind ---- */

static const int32_t ids[] = {0, 1, INT32_MAX, 7};
static const proa_logit_bias biases[] = {{0, -FLT_MAX}, {INT32_MAX, 0x1p-149f}};

static proa_wire_submit a_submit(void)
{
    return (proa_wire_submit){.id = UINT64_MAX,
                              .epoch = 1,
                              .leg = PROA_LEG_DECODE,
                              .room = 1ull << 63,
                              .peer_instance = (1ull << 53) - 1,
                              .peer_epoch = 2,
                              .bootstrap = "[fe80::1]:65535",
                              .dp_rank = UINT32_MAX,
                              .request = {.prompt_ids = ids,
                                          .prompt_count = 4,
                                          .output_ids = ids,
                                          .output_count = 3,
                                          .max_new_tokens = 4,
                                          .min_new_tokens = INT32_MAX,
                                          .ignore_eos = true,
                                          .stop_ids = ids,
                                          .stop_count = 2,
                                          .temperature = -0.0f,
                                          .top_k = INT32_MIN,
                                          .top_p = 0x1.fffffep-1f,
                                          .min_p = 0x1p-149f,
                                          .repetition_penalty = FLT_MAX,
                                          .frequency_penalty = -2,
                                          .presence_penalty = 2,
                                          .seed = UINT64_MAX,
                                          .bias = biases,
                                          .bias_count = 2,
                                          .top_logprobs = -1,
                                          .credit = INT32_MAX}};
}

enum { CARD = 3 /* put_one's */, CARD_DP_BYTES = 17 };

static proa_wire_card a_card(void)
{
    return (proa_wire_card){.leg = PROA_LEG_PREFILL,
                            .draining = true,
                            .model_digest = UINT64_MAX,
                            .model_name = "deepseek-ai/DeepSeek-R1 \xc3\xa9",
                            .model_path = "/models/r1",
                            .context_length = 1,
                            .vocab_size = INT32_MAX,
                            .kv_tokens = 64,
                            .running_max = 1,
                            .queued_max = 0,
                            .bootstrap = "host:1",
                            .file_count = 2,
                            .files = {{"config.json", 0}, {"tokenizer.json", PROA_WIRE_FILE_BYTES_MAX}},
                            .worker_id = UINT64_MAX,
                            .dp_rank = PROA_WIRE_DP_MAX - 1,
                            .dp_size = PROA_WIRE_DP_MAX,
                            .balance = PROA_BALANCE_FOLLOW_ROOM};
}

static proa_wire_load a_load(void)
{
    return (proa_wire_load){.draining = true,
                            .transfers = 1,
                            .transfer_bytes = UINT64_MAX,
                            .transfer_us = 3,
                            .transfers_failed = 4,
                            .rooms = UINT32_MAX,
                            .quarantined = 6,
                            .stats = {.running = INT32_MAX,
                                      .queued = 1,
                                      .kv_blocks_total = 2,
                                      .kv_blocks_used = 3,
                                      .kv_blocks_cached = 4,
                                      .kv_blocks_lent = 5,
                                      .prompt_tokens = 6,
                                      .cached_tokens = 7,
                                      .output_tokens = 8,
                                      .steps = 9,
                                      .retractions = 10,
                                      .requests_finished = 11,
                                      .requests_aborted = 12,
                                      .step_us_total = UINT64_MAX,
                                      .last_step_us = INT64_MAX,
                                      .device_lost = true,
                                      .away = true}};
}

static proa_sample_result a_token(int32_t token, int32_t top_count)
{
    proa_sample_result r = {.token = token, .logprob = -0x1p-149f, .top_count = top_count};
    for (int32_t i = 0; i < top_count; i++) {
        r.top_ids[i] = INT32_MAX - i;
        r.top_logprobs[i] = i == 19 ? -INFINITY : -(float)i;
    }
    return r;
}

static proa_wire_finish a_finish(void)
{
    proa_wire_finish m = {.id = 0,
                          .finish = {.reason = PROA_FINISH_ABORT,
                                     .matched = -1,
                                     .usage = {INT32_MAX, 0, 1, 2},
                                     .error = {.status = PROA_ERR_UNREACHABLE}},
                          .blame = UINT64_MAX};
    memset(m.finish.error.text, 'x', sizeof m.finish.error.text - 1);
    return m;
}

static proa_wire_room_done a_room_done(void)
{
    static const uint64_t digests[] = {0, UINT64_MAX, 1ull << 63};
    static const uint32_t generations[] = {UINT32_MAX, 0, 1};
    return (proa_wire_room_done){.room = UINT64_MAX,
                                 .epoch = 1,
                                 .first = a_token(0, PROA_SAMPLE_MAX_TOP_LOGPROBS),
                                 .cached_tokens = 129,
                                 .tokens = 129,
                                 .bytes = UINT64_MAX,
                                 .us = INT64_MAX,
                                 .block_count = 3,
                                 .digests = digests,
                                 .generations = generations};
}

static proa_wire_room_open a_room_open(void)
{
    static const uint32_t generations[] = {UINT32_MAX, 0, 1, 2};
    return (proa_wire_room_open){.room = 1,
                                 .epoch = UINT64_MAX,
                                 .tokens = 192,
                                 .block_count = 4,
                                 .blocks = ids,
                                 .generations = generations};
}

static void put_one(size_t kind, proa_buf *out)
{
    static const uint64_t hashes[] = {0, UINT64_MAX};
    static const bool stored[] = {true, false};
    static const uint8_t data[] = {0, 255, 0};
    proa_sample_result tokens[] = {a_token(INT32_MAX, 20), a_token(0, 0), a_token(1, 1)};
    proa_wire_submit submit = a_submit();
    proa_wire_card card = a_card();
    proa_wire_load load = a_load();
    proa_wire_finish finish = a_finish();
    proa_wire_room_open open = a_room_open();
    proa_wire_room_done done = a_room_done();
    switch (kind) {
    case 0: proa_wire_put_submit(out, &submit); break;
    case 1: proa_wire_put_cancel(out, &(proa_wire_cancel){UINT64_MAX}); break;
    case 2: proa_wire_put_grant(out, &(proa_wire_grant){1, INT32_MAX}); break;
    case CARD: proa_wire_put_card(out, &card); break;
    case 4: proa_wire_put_file(out, &(proa_wire_file){15, PROA_WIRE_FILE_BYTES_MAX - 3, data, 3}); break;
    case 5: proa_wire_put_load(out, &load); break;
    case 6: proa_wire_put_kv_events(out, &(proa_wire_kv_events){true, 2, hashes, stored}); break;
    case 7: proa_wire_put_tokens(out, &(proa_wire_tokens){9, 3, tokens, true}); break;
    case 8: proa_wire_put_finish(out, &finish); break;
    case 9:
        proa_wire_put_room_hello(out,
                                 &(proa_wire_room_hello){UINT64_MAX, 1, 2, PROA_KV_BLOCK_TOKENS, data, 3});
        break;
    case 10: proa_wire_put_room_open(out, &open); break;
    case 11: proa_wire_put_room(out, &(proa_wire_room){1, UINT64_MAX}); break;
    case 12: proa_wire_put_room_done(out, &done); break;
    case 13: proa_wire_put_room_fail(out, &(proa_wire_room_fail){1, 2, {PROA_ERR_DEADLINE, "late"}}); break;
    case 14: proa_wire_put_taken(out, &(proa_wire_taken){UINT64_MAX}); break;
    default: fail_msg("no message of kind %zu", kind);
    }
    assert_false(out->failed);
}

/* Decodes `body` from memory of exactly its size, so that a sanitizer sees a read beyond it. */
static bool decode(size_t kind, const void *body, size_t length, proa_buf *out, proa_error *err)
{
    uint8_t *exact = malloc(length > 0 ? length : 1);
    proa_arena *arena = proa_arena_create(0);
    assert_non_null(exact);
    assert_non_null(arena);
    memcpy(exact, body, length);
    err->text[0] = 0;
    bool good = wire_agains[kind](exact, length, arena, out, err);
    proa_arena_free(arena);
    free(exact);
    return good;
}

static void test_round_trips(void **state)
{
    (void)state;
    for (size_t kind = 0; kind < WIRE_AGAIN_COUNT; kind++) {
        proa_buf body = {0}, again = {0};
        proa_error err;
        put_one(kind, &body);
        if (!decode(kind, body.data, body.length, &again, &err))
            fail_msg("message %zu: %s", kind, err.text);
        assert_int_equal(again.length, body.length);
        assert_memory_equal(again.data, body.data, body.length);
        proa_buf_free(&body);
        proa_buf_free(&again);
    }
}

/* Encoding what was decoded does not see two fields that are swapped both ways: field by field, what comes out is what went
 * in (memcmp, for -0 and infinities; not of whole structs, which have padding). */
#define SAME(field)             assert_memory_equal(&back.field, &m.field, sizeof m.field)
#define SAME_LIST(field, count) assert_memory_equal(back.field, m.field, (count) * sizeof *m.field)

static void test_submit_fields(void **state)
{
    (void)state;
    proa_wire_submit m = a_submit(), back;
    proa_arena *arena = proa_arena_create(0);
    proa_buf body = {0};
    proa_error err;
    proa_wire_put_submit(&body, &m);
    assert_true(proa_wire_get_submit(body.data, body.length, arena, &back, &err));
    SAME(id), SAME(epoch), SAME(leg), SAME(room), SAME(peer_instance), SAME(peer_epoch), SAME(dp_rank);
    assert_string_equal(back.bootstrap, m.bootstrap);
    SAME(request.prompt_count), SAME(request.output_count), SAME(request.stop_count),
        SAME(request.bias_count);
    SAME_LIST(request.prompt_ids, 4), SAME_LIST(request.output_ids, 3), SAME_LIST(request.stop_ids, 2);
    SAME_LIST(request.bias, 2);
    SAME(request.max_new_tokens), SAME(request.min_new_tokens), SAME(request.ignore_eos);
    SAME(request.temperature), SAME(request.top_k), SAME(request.top_p), SAME(request.min_p);
    SAME(request.repetition_penalty), SAME(request.frequency_penalty), SAME(request.presence_penalty);
    SAME(request.seed), SAME(request.top_logprobs), SAME(request.credit);
    proa_buf_free(&body);
    proa_arena_free(arena);
}

static void test_card_fields(void **state)
{
    (void)state;
    proa_wire_card m = a_card(), back;
    proa_buf body = {0};
    proa_error err;
    proa_wire_put_card(&body, &m);
    assert_true(proa_wire_get_card(body.data, body.length, &back, &err));
    SAME(leg), SAME(draining), SAME(model_digest), SAME(model_name), SAME(model_path), SAME(context_length);
    SAME(vocab_size), SAME(kv_tokens), SAME(running_max), SAME(queued_max), SAME(bootstrap), SAME(file_count);
    SAME(files), SAME(worker_id), SAME(dp_rank), SAME(dp_size), SAME(balance);
    proa_buf_free(&body);
}

/* A worker of one dp rank, and one that knows nothing of dp ranks, say the same. */
static void test_card_alone(void **state)
{
    (void)state;
    proa_wire_card m = a_card(), back;
    proa_buf body = {0}, alone = {0};
    proa_error err;
    proa_wire_put_card(&body, &m);
    m.worker_id = 0;
    proa_wire_put_card(&alone, &m);
    assert_int_equal(body.length - alone.length, CARD_DP_BYTES);
    assert_true(proa_wire_get_card(alone.data, alone.length, &back, &err));
    assert_int_equal(back.worker_id, 0);
    assert_int_equal(back.dp_size, 0);
    proa_buf_free(&body);
    proa_buf_free(&alone);
}

static void test_load_fields(void **state)
{
    (void)state;
    proa_wire_load m = a_load(), back;
    proa_buf body = {0};
    proa_error err;
    proa_wire_put_load(&body, &m);
    assert_true(proa_wire_get_load(body.data, body.length, &back, &err));
    SAME(draining), SAME(transfers), SAME(transfer_bytes), SAME(transfer_us), SAME(transfers_failed);
    SAME(rooms), SAME(quarantined), SAME(stats.running), SAME(stats.queued), SAME(stats.kv_blocks_total);
    SAME(stats.kv_blocks_used), SAME(stats.kv_blocks_cached), SAME(stats.kv_blocks_lent);
    SAME(stats.prompt_tokens), SAME(stats.cached_tokens), SAME(stats.output_tokens), SAME(stats.steps);
    SAME(stats.retractions), SAME(stats.requests_finished), SAME(stats.requests_aborted);
    SAME(stats.step_us_total), SAME(stats.last_step_us), SAME(stats.device_lost), SAME(stats.away);
    proa_buf_free(&body);
}

static void test_finish_fields(void **state)
{
    (void)state;
    proa_wire_finish m = a_finish(), back;
    proa_buf body = {0};
    proa_error err;
    proa_wire_put_finish(&body, &m);
    assert_true(proa_wire_get_finish(body.data, body.length, &back, &err));
    SAME(id), SAME(finish.reason), SAME(finish.matched), SAME(finish.usage), SAME(finish.error), SAME(blame);
    proa_buf_free(&body);
}

static void test_room_open_fields(void **state)
{
    (void)state;
    proa_wire_room_open m = a_room_open(), back;
    proa_arena *arena = proa_arena_create(0);
    proa_buf body = {0};
    proa_error err;
    proa_wire_put_room_open(&body, &m);
    assert_true(proa_wire_get_room_open(body.data, body.length, arena, &back, &err));
    SAME(room), SAME(epoch), SAME(tokens), SAME(block_count);
    SAME_LIST(blocks, 4), SAME_LIST(generations, 4);
    proa_buf_free(&body);
    proa_arena_free(arena);
}

static void test_room_done_fields(void **state)
{
    (void)state;
    proa_wire_room_done m = a_room_done(), back;
    proa_arena *arena = proa_arena_create(0);
    proa_buf body = {0};
    proa_error err;
    proa_wire_put_room_done(&body, &m);
    assert_true(proa_wire_get_room_done(body.data, body.length, arena, &back, &err));
    SAME(room), SAME(epoch), SAME(first), SAME(cached_tokens), SAME(tokens), SAME(bytes), SAME(us),
        SAME(block_count);
    SAME_LIST(digests, 3), SAME_LIST(generations, 3);
    proa_buf_free(&body);
    proa_arena_free(arena);
}

static void test_truncated(void **state)
{
    (void)state;
    for (size_t kind = 0; kind < WIRE_AGAIN_COUNT; kind++) {
        proa_buf body = {0}, again = {0};
        proa_error err;
        put_one(kind, &body);
        for (size_t length = 0; length < body.length; length++) {
            if (kind == CARD && length == body.length - CARD_DP_BYTES)
                continue; /* a whole one of a worker of one dp rank */
            if (decode(kind, body.data, length, &again, &err))
                fail_msg("message %zu: %zu of its %zu bytes were taken for a whole one", kind, length,
                         body.length);
            assert_int_equal(err.status, PROA_ERR_PROTOCOL);
            assert_true(err.text[0] != 0);
        }
        proa_buf_append_char(&body, 0);
        assert_false(decode(kind, body.data, body.length, &again, &err));
        assert_non_null(strstr(err.text, "too many"));
        proa_buf_free(&body);
        proa_buf_free(&again);
    }
}

/* ---- limits: a message with one thing wrong is refused by the name of that thing ---- */

static void refused(size_t kind, const proa_buf *body, const char *names)
{
    proa_buf again = {0};
    proa_error err;
    if (decode(kind, body->data, body->length, &again, &err))
        fail_msg("a message of kind %zu was taken that should be refused for: %s", kind, names);
    if (strstr(err.text, names) == NULL)
        fail_msg("\"%s\" does not say: %s", err.text, names);
    proa_buf_free(&again);
}

static void submit_refused(const proa_wire_submit *m, const char *names)
{
    proa_buf body = {0};
    proa_wire_put_submit(&body, m);
    refused(0, &body, names);
    proa_buf_free(&body);
}

#define SUBMIT_WITH(member, value, names)                                                                    \
    do {                                                                                                     \
        proa_wire_submit m = a_submit();                                                                     \
        m.member = value;                                                                                    \
        submit_refused(&m, names);                                                                           \
    } while (0)

static void test_submit_refused(void **state)
{
    (void)state;
    static const int32_t negative[] = {0, -1, 0, 0};
    static const proa_logit_bias bad_bias[] = {{0, 0}, {1, NAN}};
    SUBMIT_WITH(epoch, 0, "epoch is 0");
    SUBMIT_WITH(leg, 3, "leg is 3");
    SUBMIT_WITH(room, 0, "room is 0");
    SUBMIT_WITH(peer_instance, 0, "peer_instance is 0");
    SUBMIT_WITH(peer_epoch, 0, "peer_epoch is 0");
    SUBMIT_WITH(leg, PROA_LEG_COMBINED, "room is");
    SUBMIT_WITH(leg, PROA_LEG_PREFILL, "bootstrap is");
    SUBMIT_WITH(bootstrap[0], 0, "host:port");
    SUBMIT_WITH(bootstrap[9], ' ', "host:port");
    SUBMIT_WITH(bootstrap[0], '\n', "0x0a");
    SUBMIT_WITH(bootstrap[11], '7', "host:port"); /* port 75535 */
    SUBMIT_WITH(request.prompt_count, 0, "prompt_count is 0");
    SUBMIT_WITH(request.prompt_ids, negative, "prompt_ids has -1 at place 1");
    SUBMIT_WITH(request.output_ids, negative, "output_ids has -1 at place 1");
    SUBMIT_WITH(request.stop_ids, negative, "stop_ids has -1 at place 1");
    SUBMIT_WITH(request.max_new_tokens, 0, "max_new_tokens is 0");
    SUBMIT_WITH(request.max_new_tokens, 3, "output_count is 3");
    SUBMIT_WITH(request.min_new_tokens, -1, "min_new_tokens is -1");
    SUBMIT_WITH(request.temperature, NAN, "temperature is");
    SUBMIT_WITH(request.top_p, INFINITY, "top_p is inf");
    SUBMIT_WITH(request.min_p, -INFINITY, "min_p is -inf");
    SUBMIT_WITH(request.repetition_penalty, NAN, "repetition_penalty");
    SUBMIT_WITH(request.frequency_penalty, NAN, "frequency_penalty");
    SUBMIT_WITH(request.presence_penalty, INFINITY, "presence_penalty");
    SUBMIT_WITH(request.bias, bad_bias, "bias.bias");
    SUBMIT_WITH(request.top_logprobs, -2, "top_logprobs is -2");
    SUBMIT_WITH(request.top_logprobs, 21, "top_logprobs is 21");
    SUBMIT_WITH(request.credit, 0, "credit is 0");
}

static void test_card_refused(void **state)
{
    (void)state;
    proa_wire_card good = a_card();
    enum { BAD = 16 };
    proa_wire_card bad[BAD];
    for (size_t i = 0; i < BAD; i++)
        bad[i] = good;
    bad[0].leg = 3;
    bad[1].model_name[0] = '\x1b';
    bad[2].context_length = 0;
    bad[3].vocab_size = 0;
    bad[4].kv_tokens = 0;
    bad[5].running_max = 0;
    bad[6].queued_max = -1;
    bad[7].leg = PROA_LEG_DECODE;
    strcpy(bad[8].files[0].name, "../x");
    strcpy(bad[9].files[0].name, "a/b");
    strcpy(bad[10].files[1].name, "config.json");
    bad[11].files[1].bytes++;
    bad[12].dp_size = 1;
    bad[13].dp_size = PROA_WIRE_DP_MAX + 1;
    bad[14].dp_rank = PROA_WIRE_DP_MAX;
    bad[15].balance = PROA_BALANCE_COUNT;
    static const char *const names[] = {"leg is 3",        "0x1b",
                                        "context_length",  "vocab_size",
                                        "kv_tokens",       "running_max",
                                        "queued_max",      "bootstrap is",
                                        "\"../x\"",        "\"a/b\"",
                                        "comes twice",     "tokenizer.json is",
                                        "dp_size is 1",    "dp_size is 1025",
                                        "dp_rank is 1024", "balance is 4"};
    for (size_t i = 0; i < BAD; i++) {
        proa_buf body = {0};
        proa_wire_put_card(&body, &bad[i]);
        refused(3, &body, names[i]);
        proa_buf_free(&body);
    }
}

/* Counts and other numbers that an encoder of ours would not write: patched into the bytes. */
static void test_patched(void **state)
{
    (void)state;
    static const struct {
        size_t kind, at;
        uint32_t value;
        size_t bytes;
        const char *names;
    } table[] = {
        /* SUBMIT: prompt_count at 62, 4 ids, output_count, 3 ids, 9 bytes, stop_count, 2 ids, 36 bytes, bias_count */
        {0, 62, PROA_WIRE_PROMPT_MAX + 1, 4, "prompt_count is 2097153"},
        {0, 62, PROA_WIRE_PROMPT_MAX, 4, "prompt_count is cut short"},
        {0, 82, PROA_WIRE_PROMPT_MAX + 1, 4, "output_count is 2097153"},
        {0, 106, 2, 1, "ignore_eos is 2"},
        {0, 107, PROA_WIRE_STOPS_MAX + 1, 4, "stop_count is 4097"},
        {0, 155, PROA_WIRE_BIAS_MAX + 1, 4, "bias_count is 4097"},
        {0, 159, UINT32_MAX, 4, "bias.id is -1"},
        {2, 8, 0, 4, "tokens is 0"},
        {2, 8, 1u << 31, 4, "tokens is 2147483648"},
        {4, 0, 16, 4, "index is 16"},
        {4, 4, PROA_WIRE_FILE_BYTES_MAX - 2, 4, "offset is"},
        {4, 12, PROA_WIRE_CHUNK_MAX + 1, 4, "length is 262145"},
        {4, 12, PROA_WIRE_CHUNK_MAX, 4, "cut short"},
        {5, 0, 2, 1, "draining is 2"},
        {5, 42, UINT32_MAX, 4, "stats.running is -1"},
        {6, 0, 2, 1, "snapshot is 2"},
        {6, 1, PROA_WIRE_EVENTS_MAX + 1, 4, "count is 65537"},
        {6, 21, 2, 1, "stored is 2"},
        {7, 8, 0, 4, "count is 0"},
        {7, 8, PROA_WIRE_TOKENS_MAX + 1, 4, "count is 1025"},
        {7, 12, UINT32_MAX, 4, "tokens is -1"},
        {7, 16, 0x7fc00000, 4, "log probability"},
        {7, 16, 0x7f800000, 4, "log probability inf"},
        {7, 20, 21, 4, "tokens is 21"},
        {8, 8, 3, 1, "reason is 3"},
        {8, 8, PROA_FINISH_STOP, 1, "status -100"},
        {8, 9, (uint32_t)-2, 4, "matched is -2"},
        {8, 13, UINT32_MAX, 4, "usage.prompt_tokens"},
        {8, 29, (uint32_t)-8, 4, "unknown status -8"},
        {8, 29, 3, 4, "unknown status 3"},
        {8, 29, 0, 4, "status 0 (ok)"},
        {8, 33, 1000, 2, "longer than 999"},
        {9, 8, 3, 1, "kv_dtype is 3"},
        {9, 9, 3, 1, "transfer is 3"},
        {9, 10, 32, 4, "block_tokens is 32"},
        {9, 14, 65537, 4, "descriptor_bytes is 65537"},
        {10, 16, 0, 4, "tokens is 0"},
        {10, 16, PROA_WIRE_PROMPT_MAX + 1, 4, "tokens is 2097153"},
        {10, 16, 4 * 64 + 1, 4, "too few for 257"},
        {10, 20, PROA_WIRE_BLOCKS_MAX + 1, 4, "block_count is 32770"},
        {10, 24, UINT32_MAX, 4, "blocks has -1"},
        {12, 16, UINT32_MAX, 4, "first is -1"},
        {12, 28 + 160, UINT32_MAX, 4, "cached_tokens is -1"},
        {12, 28 + 160, 130, 4, "cached_tokens is 130"},
        {12, 28 + 164, 193, 4, "too few for 193"},
        {12, 28 + 180, UINT32_MAX, 4, "us is"},
        {13, 16, 0, 4, "no failure"},
        {14, 0, 0, 8, "sequence is 0"},
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        proa_buf body = {0};
        put_one(table[i].kind, &body);
        assert_true(table[i].at + table[i].bytes <= body.length);
        for (size_t b = 0; b < table[i].bytes; b++)
            body.data[table[i].at + b] = (char)((uint64_t)table[i].value >> (8 * b));
        refused(table[i].kind, &body, table[i].names);
        proa_buf_free(&body);
    }
}

static void test_digest_hint(void **state)
{
    (void)state;
    const uint64_t digest = 0x123456789abcdef0;
    assert_string_equal(proa_wire_digest_hint(digest, digest), "");
    assert_string_equal(proa_wire_digest_hint(digest, digest ^ 16), "");
    assert_string_equal(proa_wire_digest_hint(digest, digest ^ 24), "");
    assert_non_null(strstr(proa_wire_digest_hint(digest, digest ^ 8), "--kv-cache-dtype"));
    assert_non_null(strstr(proa_wire_digest_hint(digest ^ 5, digest), "--activation-dtype"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trips),      cmocka_unit_test(test_submit_fields),
        cmocka_unit_test(test_card_fields),      cmocka_unit_test(test_card_alone),
        cmocka_unit_test(test_load_fields),      cmocka_unit_test(test_finish_fields),
        cmocka_unit_test(test_room_open_fields), cmocka_unit_test(test_room_done_fields),
        cmocka_unit_test(test_truncated),        cmocka_unit_test(test_submit_refused),
        cmocka_unit_test(test_card_refused),     cmocka_unit_test(test_patched),
        cmocka_unit_test(test_digest_hint),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
