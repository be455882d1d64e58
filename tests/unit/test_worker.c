/* test_worker.c - a prefill worker with the proof engine, and a peer who says what it should not: each thing is refused with one log
 * line, and the worker goes on. Also a whole hand-off, seen from outside. */
#include "cluster/worker.h"

#include "link_fixture.h"
#include "proof_oracle.h"

#include "engine/proof.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCKS = 16, ROWS = 100, DIGEST = 77 };

typedef struct scene {
    proa_model_config config;
    proa_registry *registry;
    proa_kv_local_registry *local;
    proa_discovery *discovery;
    proa_proof *proof;
    proa_engine *engine;
    proa_worker *worker;
    proa_kv_layout layout; /* of the peer's cache */
    proa_kv_transfer *transfer;
    proa_kv_inbox *inbox;
    link_fixture f;
    uint64_t epoch; /* of the worker */
    proa_buf out;
    proa_arena *arena;
} scene;

static void start_engine(scene *s)
{
    proa_error err = {0};
    const proa_engine_options options = {.max_running_requests = 4,
                                         .max_queued_requests = 4,
                                         .max_total_tokens = BLOCKS * PROA_KV_BLOCK_TOKENS,
                                         .chunked_prefill_size = 64,
                                         .context_length = 512,
                                         .page_size = 1,
                                         .role = PROA_ENGINE_PREFILL};
    proa_forward_limits limits;
    s->config = (proa_model_config){
        .vocab_size = 1000, .num_hidden_layers = 2, .kv_lora_rank = 24, .qk_rope_head_dim = 8};
    assert_int_equal(proa_engine_forward_limits(&options, &limits, &err), PROA_OK);
    assert_int_equal(proa_proof_create(&s->config, &limits, PROA_PROOF_KEY_DEFAULT, &s->proof, &err),
                     PROA_OK);
    assert_int_equal(proa_proof_start(&options, &s->config, s->proof, &s->engine, &err), PROA_OK);
}

static void start_worker(scene *s)
{
    proa_error err = {0};
    proa_kv_layout layout;
    const proa_worker_options options = {
        .leg = PROA_LEG_PREFILL,
        .namespace_name = "test",
        .discovery = s->discovery,
        .security = {.key = LINK_KEY},
        .host = "127.0.0.1",
        .transfer = PROA_KV_TRANSFER_LOCAL,
        .transfer_options = {.local_registry = s->local},
        .limits = {.waiting_us = 10000000,
                   .transfer_us = 10000000,
                   .abort_us = 100000,
                   .starved_us = 10000000},
    };
    assert_int_equal(proa_worker_create(&options, &s->worker, &err), PROA_OK);
    proa_proof_layout(s->proof, &layout);
    proa_worker_model model = {.engine = s->engine, .layout = &layout, .dir = "/"};
    model.card.vocab_size = s->config.vocab_size;
    model.card.context_length = 512;
    model.card.model_digest = DIGEST;
    assert_int_equal(proa_worker_start(s->worker, &model, &err), PROA_OK);
    s->layout = layout;
    s->layout.base = calloc(1, layout.layer_bytes * (size_t)layout.layers);
    assert_non_null(s->layout.base);
}

static void connect_to(scene *s, int port)
{
    s->f.dialled.keep = true;
    link_fixture_dial_port(&s->f, "127.0.0.1", port);
    for (int i = 0; i < 100 && s->f.dialled.ups == 0; i++)
        link_fixture_run(&s->f, NULL, 0.02);
    assert_int_equal(s->f.dialled.ups, 1);
    s->epoch = proa_link_peer(s->f.dialled.link)->epoch;
}

static int open_scene(void **state)
{
    scene *s = calloc(1, sizeof *s);
    proa_error err = {0};
    s->registry = proa_registry_create();
    s->local = proa_kv_local_registry_create();
    s->arena = proa_arena_create(0);
    const proa_discovery_options discovery = {.backend = "mem", .registry = s->registry};
    assert_int_equal(proa_discovery_create(&discovery, &s->discovery, &err), PROA_OK);
    link_fixture_open(&s->f, &(proa_link_security){.key = LINK_KEY});
    start_engine(s);
    start_worker(s);
    const proa_kv_transfer_options options = {.local_registry = s->local};
    assert_int_equal(
        proa_kv_transfer_create(PROA_KV_TRANSFER_LOCAL, &s->layout, &options, &s->transfer, &err), PROA_OK);
    *state = s;
    return 0;
}

static int close_scene(void **state)
{
    scene *s = *state;
    link_fixture_close(&s->f);
    proa_kv_inbox_close(s->inbox);
    proa_kv_transfer_free(s->transfer);
    proa_worker_stop(s->worker);
    proa_engine_stop(s->engine);
    proa_worker_free(s->worker);
    proa_proof_free(s->proof);
    proa_discovery_free(s->discovery);
    proa_kv_local_registry_free(s->local);
    proa_registry_free(s->registry);
    proa_arena_free(s->arena);
    proa_buf_free(&s->out);
    free(s->layout.base);
    free(s);
    return 0;
}

/* ---- speaking ---- */

/* Sends what is in `out` and waits for a message of type `answer`, or the link's end; 0: a little, for none. In short steps: on
 * request links loads come in between, and only the latest message is kept. */
static void say(scene *s, uint16_t type, uint16_t answer)
{
    assert_int_equal(proa_link_send(s->f.dialled.link, type, s->out.data, s->out.length), PROA_OK);
    proa_buf_clear(&s->out);
    s->f.dialled.type = 0;
    if (answer == 0)
        link_fixture_run(&s->f, NULL, 0.15);
    for (int i = 0; i < 1000 && answer != 0 && s->f.dialled.type != answer && s->f.dialled.downs == 0; i++)
        link_fixture_run(&s->f, NULL, 0.004);
    if (s->f.dialled.downs == 0 && answer != 0)
        assert_int_equal(s->f.dialled.type, answer);
}

static void greet_as(scene *s, uint64_t digest, proa_dtype kv_dtype)
{
    proa_error err = {0};
    proa_buf descriptor = {0};
    connect_to(s, proa_worker_bootstrap_port(s->worker));
    assert_int_equal(proa_kv_inbox_open(s->transfer, &descriptor, &s->inbox, &err), PROA_OK);
    proa_wire_put_room_hello(&s->out,
                             &(proa_wire_room_hello){.model_digest = digest,
                                                     .kv_dtype = (uint8_t)kv_dtype,
                                                     .transfer = PROA_KV_TRANSFER_LOCAL,
                                                     .block_tokens = PROA_KV_BLOCK_TOKENS,
                                                     .descriptor = (const uint8_t *)descriptor.data,
                                                     .descriptor_bytes = (uint32_t)descriptor.length});
    proa_buf_free(&descriptor);
    say(s, PROA_WIRE_ROOM_HELLO, PROA_WIRE_ROOM_HELLO);
}

static void greet(scene *s, uint64_t digest)
{
    greet_as(s, digest, PROA_DTYPE_BF16);
}

static void put_open(scene *s, uint64_t room, uint64_t epoch, int32_t second_block)
{
    const int32_t blocks[] = {3, second_block};
    const uint32_t generations[] = {5, 6};
    proa_wire_put_room_open(&s->out, &(proa_wire_room_open){.room = room,
                                                            .epoch = epoch,
                                                            .tokens = ROWS,
                                                            .block_count = 2,
                                                            .blocks = blocks,
                                                            .generations = generations});
}

static void expect_fail(scene *s, uint64_t room, const char *why)
{
    proa_wire_room_fail fail;
    proa_error err = {0};
    assert_int_equal(s->f.dialled.type, PROA_WIRE_ROOM_FAIL);
    assert_true(proa_wire_get_room_fail(s->f.dialled.body.data, s->f.dialled.body.length, &fail, &err));
    assert_int_equal(fail.room, room);
    assert_non_null(strstr(fail.error.text, why));
    assert_int_equal(link_fixture_logged(&s->f, why), 1);
}

static void put_submit(scene *s, uint64_t id, uint64_t epoch, uint8_t leg, uint64_t room)
{
    static const int32_t prompt[ROWS] = {7, 8, 9};
    proa_wire_submit submit = {.id = id,
                               .epoch = epoch,
                               .leg = leg,
                               .room = room,
                               .peer_instance = 5,
                               .peer_epoch = 5,
                               .request = {.prompt_ids = prompt,
                                           .prompt_count = ROWS,
                                           .max_new_tokens = 8,
                                           .top_p = 1,
                                           .repetition_penalty = 1,
                                           .top_logprobs = -1,
                                           .credit = 4}};
    snprintf(submit.bootstrap, sizeof submit.bootstrap, "%s", leg == PROA_LEG_DECODE ? "127.0.0.1:1" : "");
    proa_wire_put_submit(&s->out, &submit);
}

static void expect_refusal(scene *s, uint64_t id, const char *why)
{
    proa_wire_finish finish;
    proa_error err = {0};
    assert_int_equal(s->f.dialled.type, PROA_WIRE_FINISH);
    assert_true(proa_wire_get_finish(s->f.dialled.body.data, s->f.dialled.body.length, &finish, &err));
    assert_int_equal(finish.id, id);
    assert_int_equal(finish.finish.reason, PROA_FINISH_ABORT);
    assert_non_null(strstr(finish.finish.error.text, why));
    assert_int_equal(link_fixture_logged(&s->f, why), 1);
}

/* ---- room links ---- */

static void test_rooms_refused(void **state)
{
    scene *s = *state;
    greet(s, DIGEST);
    assert_int_equal(s->f.dialled.type, PROA_WIRE_ROOM_HELLO);
    put_open(s, 11, s->epoch + 1, 4);
    say(s, PROA_WIRE_ROOM_OPEN, PROA_WIRE_ROOM_FAIL);
    expect_fail(s, 11, "is meant for epoch");
    put_open(s, 12, s->epoch, BLOCKS);
    say(s, PROA_WIRE_ROOM_OPEN, PROA_WIRE_ROOM_FAIL);
    expect_fail(s, 12, "is opened with block 16 of 16");
    put_open(s, 13, s->epoch, 4);
    say(s, PROA_WIRE_ROOM_OPEN, 0);
    put_open(s, 13, s->epoch, 9); /* again, to other blocks: ignored */
    say(s, PROA_WIRE_ROOM_OPEN, 0);
    assert_int_equal(link_fixture_logged(&s->f, "is opened twice"), 1);
    proa_wire_put_room(&s->out, &(proa_wire_room){.room = 13, .epoch = s->epoch});
    say(s, PROA_WIRE_ROOM_ABORT, PROA_WIRE_ROOM_QUIET);
    put_open(s, 13, s->epoch, 4); /* it is over, and stays so */
    say(s, PROA_WIRE_ROOM_OPEN, PROA_WIRE_ROOM_QUIET);
    assert_int_equal(s->f.dialled.downs, 0);
}

static void test_room_link_ends(void **state)
{
    scene *s = *state;
    greet(s, DIGEST + 1);
    assert_int_equal(s->f.dialled.downs, 1);
    assert_int_equal(link_fixture_logged(&s->f, "it serves another model"), 1);
}

/* The digests of the two differ then too: which flag it is must show. */
static void test_other_kv_cache(void **state)
{
    scene *s = *state;
    greet_as(s, DIGEST ^ 8, PROA_DTYPE_E4M3);
    assert_int_equal(s->f.dialled.downs, 1);
    assert_int_equal(link_fixture_logged(&s->f, "it keeps its KV cache in fp8_e4m3, this worker in bf16: "
                                                "give both the same --kv-cache-dtype"),
                     1);
}

static void test_room_link_malformed(void **state)
{
    scene *s = *state;
    connect_to(s, proa_worker_bootstrap_port(s->worker));
    put_open(s, 1, s->epoch, 4);
    say(s, PROA_WIRE_ROOM_OPEN, PROA_WIRE_ROOM_QUIET); /* before a greeting */
    assert_int_equal(s->f.dialled.downs, 1);
    assert_int_equal(link_fixture_logged(&s->f, "does not greet first"), 1);
}

/* ---- request links ---- */

static void test_requests_refused(void **state)
{
    scene *s = *state;
    connect_to(s, proa_worker_port(s->worker));
    link_fixture_run(&s->f, NULL, 0.2); /* card, load, events */
    put_submit(s, 1, s->epoch ^ 2, PROA_LEG_PREFILL, 21);
    say(s, PROA_WIRE_SUBMIT, PROA_WIRE_FINISH);
    expect_refusal(s, 1, "is meant for epoch");
    put_submit(s, 2, s->epoch, PROA_LEG_DECODE, 22);
    say(s, PROA_WIRE_SUBMIT, PROA_WIRE_FINISH);
    expect_refusal(s, 2, "asks for leg");
    put_submit(s, 3, s->epoch, PROA_LEG_PREFILL, 23);
    say(s, PROA_WIRE_SUBMIT, 0);
    put_submit(s, 4, s->epoch, PROA_LEG_PREFILL, 23);
    say(s, PROA_WIRE_SUBMIT, PROA_WIRE_FINISH);
    expect_refusal(s, 4, "which was used before");
    proa_buf_append(&s->out, "nonsense", 8);
    say(s, PROA_WIRE_SUBMIT, 0);
    assert_int_equal(link_fixture_logged(&s->f, "refused a message"), 1);
    assert_int_equal(s->f.dialled.downs, 0);
}

/* ---- a hand-off ---- */

static void test_hand_off(void **state)
{
    scene *s = *state;
    link_fixture g; /* the frontend's link, beside the decode worker's */
    proa_wire_room_done done;
    proa_error err = {0};
    greet(s, DIGEST);
    put_open(s, 31, s->epoch, 4);
    say(s, PROA_WIRE_ROOM_OPEN, 0);
    link_fixture_open(&g, &(proa_link_security){.key = LINK_KEY});
    link_fixture_dial_port(&g, "127.0.0.1", proa_worker_port(s->worker));
    for (int i = 0; i < 100 && g.dialled.ups == 0; i++)
        link_fixture_run(&g, NULL, 0.02);
    put_submit(s, 1, s->epoch, PROA_LEG_PREFILL, 31);
    assert_int_equal(proa_link_send(g.dialled.link, PROA_WIRE_SUBMIT, s->out.data, s->out.length), PROA_OK);
    proa_buf_clear(&s->out);
    for (int i = 0; i < 200 && s->f.dialled.type != PROA_WIRE_ROOM_DONE; i++) {
        link_fixture_run(&g, NULL, 0.01);
        link_fixture_run(&s->f, NULL, 0.01);
        proa_kv_transfer_progress(s->transfer);
    }
    link_fixture_close(&g);
    assert_int_equal(s->f.dialled.type, PROA_WIRE_ROOM_DONE);
    assert_true(
        proa_wire_get_room_done(s->f.dialled.body.data, s->f.dialled.body.length, s->arena, &done, &err));
    assert_int_equal(done.tokens, ROWS);
    assert_int_equal(done.digests[0], proa_kv_digest(&s->layout, 3, 64, 31));
    assert_int_equal(done.digests[1], proa_kv_digest(&s->layout, 4, ROWS - 64, 31));
    assert_int_equal(done.generations[0], 5);
    int32_t tokens[ROWS + 1] = {7, 8, 9};
    proof_closed_form(PROA_PROOF_KEY_DEFAULT, s->config.vocab_size, tokens, ROWS, 1);
    assert_int_equal(done.first.token, tokens[ROWS]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_rooms_refused, open_scene, close_scene),
        cmocka_unit_test_setup_teardown(test_room_link_ends, open_scene, close_scene),
        cmocka_unit_test_setup_teardown(test_other_kv_cache, open_scene, close_scene),
        cmocka_unit_test_setup_teardown(test_room_link_malformed, open_scene, close_scene),
        cmocka_unit_test_setup_teardown(test_requests_refused, open_scene, close_scene),
        cmocka_unit_test_setup_teardown(test_hand_off, open_scene, close_scene),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
