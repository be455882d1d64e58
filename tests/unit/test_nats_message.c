/* test_nats_message.c - sealed requests: what is believed, what is refused, and that none is lost or taken twice. */
#include "cluster/nats_message.h"

#include "base/random.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const uint8_t key[PROA_LINK_KEY_BYTES] = "0123456789abcdef0123456789abcde";
static const uint8_t other_key[PROA_LINK_KEY_BYTES] = "another key, of another link....";
enum { FRONTEND = 77 };

static void test_subjects(void **state)
{
    (void)state;
    char text[192];
    proa_instance instance = {
        .namespace_name = "dynamo", .component = "backend", .endpoint = "generate", .id = 0x1f};
    proa_nats_subject(&instance, text, sizeof text);
    assert_string_equal(text, "dynamo_backend.generate-1f");
    assert_true(proa_nats_subject_valid(text));
    static const char *const bad[] = {"",    ".",   "a.",  ".a",           "a..b",
                                      "a b", "a.*", "a.>", "a\r\nPUB b 0", "\xc3\xa9"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        if (proa_nats_subject_valid(bad[i]))
            fail_msg("\"%s\" was taken for a subject", bad[i]);
}

static void test_servers(void **state)
{
    (void)state;
    static const char *const good[] = {"nats://host:4222",      "host",  "127.0.0.1:1",
                                       "[::1]:65535",           "[::1]", "nats://user:p:w@host:4222",
                                       "tls://a:1,nats://b,c:2"};
    static const char *const bad[] = {"",        ",",           "a,",   "nats://", "http://a:1", "a:0",
                                      "a:65536", "a:1:2",       "a:",   ":1",      "a:x",        "a/b",
                                      "[::1]1",  "nats://u:p@", "[::1", "a:1 ,b",  "a:000001"};
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++)
        if (!proa_nats_server_valid(good[i]))
            fail_msg("\"%s\" was refused", good[i]);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        if (proa_nats_server_valid(bad[i]))
            fail_msg("\"%s\" was taken for a server", bad[i]);
}

static void test_passwords_are_hidden(void **state)
{
    (void)state;
    static const char *const table[][2] = {
        {"nats://host:4222", "nats://host:4222"},
        {"nats://user:secret@host:4222", "nats://host:4222"},
        {"secret@host", "host"},
        {"nats://a:1,tls://u:p@b:2,c", "nats://a:1,tls://b:2,c"},
        {"", ""},
        {",,", ",,"},
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        char shown[64];
        proa_nats_hide_password(table[i][0], shown, sizeof shown);
        assert_string_equal(shown, table[i][1]);
        for (size_t bytes = 1; bytes < sizeof shown; bytes++) { /* cut, and never longer than its place */
            char small[64];
            memset(small, '!', sizeof small);
            proa_nats_hide_password(table[i][0], small, bytes);
            assert_true(strnlen(small, sizeof small) < bytes);
            assert_true(small[bytes] == '!' || bytes == sizeof small);
        }
    }
}

static proa_status open_sealed(proa_nats_inbox *inbox, bool relay, const proa_buf *sealed, proa_error *err)
{
    proa_nats_letter letter;
    uint8_t *exact = malloc(sealed->length);
    assert_non_null(exact);
    memcpy(exact, sealed->data, sealed->length);
    proa_status status = proa_nats_inbox_open(inbox, relay, exact, sealed->length, &letter, err);
    if (status == PROA_OK)
        assert_memory_equal(letter.body, "body", letter.length);
    free(exact);
    return status;
}

static proa_status open_number(proa_nats_inbox *inbox, bool relay, uint64_t sequence, proa_error *err)
{
    proa_buf sealed = {0};
    proa_nats_seal(key, FRONTEND, sequence, "body", 4, &sealed);
    proa_status status = open_sealed(inbox, relay, &sealed, err);
    proa_buf_free(&sealed);
    return status;
}

static void test_every_bit_is_sealed(void **state)
{
    (void)state;
    proa_nats_inbox inbox;
    proa_error err;
    proa_buf sealed = {0};
    uint64_t frontend;
    proa_nats_inbox_init(&inbox, key, FRONTEND);
    proa_nats_seal(key, FRONTEND, 5, "body", 4, &sealed);
    assert_int_equal(sealed.length, 4 + PROA_NATS_SEAL_BYTES);
    assert_true(proa_nats_peek(sealed.data, sealed.length, &frontend, &err));
    assert_int_equal(frontend, FRONTEND);
    for (size_t bit = 0; bit < sealed.length * 8; bit++) {
        sealed.data[bit / 8] = (char)(sealed.data[bit / 8] ^ 1 << bit % 8);
        assert_int_equal(open_sealed(&inbox, false, &sealed, &err), PROA_ERR_PROTOCOL);
        sealed.data[bit / 8] = (char)(sealed.data[bit / 8] ^ 1 << bit % 8);
    }
    for (size_t length = 0; length < sealed.length; length++) {
        proa_buf cut = {.data = sealed.data, .length = length};
        if (length > 0)
            assert_int_equal(open_sealed(&inbox, false, &cut, &err), PROA_ERR_PROTOCOL);
        assert_false(proa_nats_peek(sealed.data, length, &frontend, &err));
    }
    assert_int_equal(open_sealed(&inbox, false, &sealed, &err),
                     PROA_OK); /* refused ones have used nothing up */
    proa_buf_free(&sealed);
}

static void test_refusals_say_why(void **state)
{
    (void)state;
    proa_nats_inbox inbox;
    proa_error err;
    proa_buf sealed = {0};
    proa_nats_inbox_init(&inbox, key, FRONTEND);
    proa_nats_seal(other_key, FRONTEND, 1, "body", 4, &sealed);
    assert_int_equal(open_sealed(&inbox, false, &sealed, &err), PROA_ERR_PROTOCOL);
    assert_non_null(strstr(err.text, "not authenticated"));
    proa_buf_clear(&sealed);
    proa_nats_seal(key, FRONTEND + 1, 1, "body", 4, &sealed);
    assert_int_equal(open_sealed(&inbox, false, &sealed, &err), PROA_ERR_PROTOCOL);
    assert_non_null(strstr(err.text, "of frontend 4e"));
    proa_buf_clear(&sealed);
    proa_nats_seal(key, FRONTEND, 0, "body", 4, &sealed);
    assert_int_equal(open_sealed(&inbox, false, &sealed, &err), PROA_ERR_PROTOCOL);
    assert_non_null(strstr(err.text, "sequence number 0"));
    proa_buf_free(&sealed);
}

static void test_copies(void **state)
{
    (void)state;
    proa_nats_inbox inbox;
    proa_error err;
    proa_nats_inbox_init(&inbox, key, FRONTEND);
    assert_int_equal(open_number(&inbox, false, 1, &err), PROA_OK);
    assert_int_equal(open_number(&inbox, false, 1, &err), PROA_ERR_PROTOCOL); /* a replay */
    assert_non_null(strstr(err.text, "replay"));
    assert_int_equal(open_number(&inbox, true, 1, &err), PROA_END); /* its TAKEN was under way */
    assert_int_equal(open_number(&inbox, true, 3, &err), PROA_OK);  /* NATS was too slow for it */
    assert_int_equal(open_number(&inbox, false, 2, &err), PROA_OK); /* late, and overtaken */
    assert_int_equal(open_number(&inbox, false, 3, &err), PROA_END);
    assert_int_equal(open_number(&inbox, false, 3, &err), PROA_ERR_PROTOCOL);
    /* the window: as far back as it says, no further; numbers that were jumped over are still new */
    assert_int_equal(open_number(&inbox, false, 2 + PROA_NATS_WINDOW, &err), PROA_OK);
    assert_int_equal(open_number(&inbox, false, 3, &err), PROA_ERR_PROTOCOL);
    assert_int_equal(open_number(&inbox, false, 2, &err), PROA_ERR_PROTOCOL);
    assert_non_null(strstr(err.text, "too old"));
    assert_int_equal(open_number(&inbox, false, 4, &err), PROA_OK);
    assert_int_equal(open_number(&inbox, false, UINT64_MAX, &err), PROA_OK);
    assert_int_equal(open_number(&inbox, false, UINT64_MAX - PROA_NATS_WINDOW + 1, &err), PROA_OK);
    assert_int_equal(open_number(&inbox, false, UINT64_MAX - PROA_NATS_WINDOW, &err), PROA_ERR_PROTOCOL);
}

static void test_outbox(void **state)
{
    (void)state;
    proa_nats_outbox *outbox = proa_nats_outbox_create(key, FRONTEND);
    proa_buf letter, none;
    uint64_t sequence;
    for (uint64_t i = 0; i < PROA_NATS_OUTBOX_MAX; i++) {
        assert_true(proa_nats_outbox_ready(outbox, 0));
        assert_non_null(proa_nats_outbox_seal(outbox, 1000 + i, "body", 4, (int64_t)i, &sequence));
        assert_int_equal(sequence, i + 1);
    }
    assert_false(proa_nats_outbox_ready(outbox, 0)); /* full */
    proa_nats_outbox_forget(outbox, 2);              /* the first still stands before it */
    assert_false(proa_nats_outbox_ready(outbox, 0));
    proa_nats_outbox_forget(outbox, 1);
    proa_nats_outbox_forget(outbox, 1);
    proa_nats_outbox_forget(outbox, 99999);
    assert_true(proa_nats_outbox_ready(outbox, 0));
    assert_false(proa_nats_outbox_take_due(outbox, PROA_NATS_ACK_US + 1, &letter)); /* 3 was sealed at 2 */
    assert_true(proa_nats_outbox_take_due(outbox, PROA_NATS_ACK_US + 2, &letter));
    proa_buf_free(&letter);
    assert_false(proa_nats_outbox_ready(outbox, PROA_NATS_ACK_US + 2)); /* it rests */
    assert_true(proa_nats_outbox_ready(outbox, PROA_NATS_ACK_US + 2 + PROA_NATS_REST_US));
    assert_false(proa_nats_outbox_take(outbox, 3, 0, &letter));
    assert_true(proa_nats_outbox_take(outbox, 4, 0, &letter));
    proa_buf_free(&letter);
    assert_true(proa_nats_outbox_take_id(outbox, 1000 + 9, &letter)); /* number 10 */
    assert_false(proa_nats_outbox_take(outbox, 10, 0, &none));
    assert_false(proa_nats_outbox_take_id(outbox, 7, &none));
    proa_buf_free(&letter);
    proa_nats_outbox_free(outbox);
    proa_nats_outbox_free(NULL);
}

/* ---- a broker that loses, delays, repeats and reorders: each request begins exactly once ---- */

enum { REQUESTS = 3000, FLIGHT_MAX = 64, STEP_US = 20000 };

typedef struct flight {
    proa_buf sealed;
    bool by_link;
} flight;

typedef struct world {
    uint64_t seed, draws;
    proa_nats_outbox *outbox;
    proa_nats_inbox inbox;
    flight flights[FLIGHT_MAX];
    size_t flying;
    int32_t begun[REQUESTS];
    int32_t relays, replays;
} world;

static uint32_t draw(world *w, uint32_t below)
{
    uint32_t words[4];
    proa_random_philox(w->seed, w->draws++, 1, words);
    return words[0] % below;
}

static void arrive(world *w, const proa_buf *sealed, bool by_link)
{
    proa_nats_letter letter;
    proa_error err;
    proa_status status =
        proa_nats_inbox_open(&w->inbox, by_link, sealed->data, sealed->length, &letter, &err);
    if (status == PROA_OK) {
        int32_t request;
        assert_int_equal(letter.length, sizeof request);
        memcpy(&request, letter.body, sizeof request);
        w->begun[request]++;
        if (!by_link && draw(w, 4) != 0) /* the link's TAKEN; a quarter comes too late to matter */
            proa_nats_outbox_forget(w->outbox, letter.sequence);
    } else if (status == PROA_ERR_PROTOCOL) {
        assert_false(by_link);
        w->replays++;
    }
}

static void publish(world *w, const proa_buf *sealed)
{
    uint32_t luck = draw(w, 10);
    for (uint32_t copies = luck < 2 ? 0 : luck == 9 ? 2 : 1; copies > 0 && w->flying < FLIGHT_MAX; copies--) {
        flight *f = &w->flights[w->flying++];
        *f = (flight){0};
        proa_buf_append(&f->sealed, sealed->data, sealed->length);
    }
}

static void land_one(world *w)
{
    if (w->flying == 0)
        return;
    size_t i = draw(w, (uint32_t)w->flying);
    flight f = w->flights[i];
    w->flights[i] = w->flights[--w->flying];
    arrive(w, &f.sealed, false);
    proa_buf_free(&f.sealed);
}

static void relay_due(world *w, int64_t now)
{
    proa_buf sealed;
    while (proa_nats_outbox_take_due(w->outbox, now, &sealed)) {
        w->relays++;
        arrive(w, &sealed, true);
        proa_buf_free(&sealed);
    }
}

static void test_bad_broker(void **state)
{
    (void)state;
    world *w = calloc(1, sizeof *w);
    w->seed = 3;
    w->outbox = proa_nats_outbox_create(key, FRONTEND);
    proa_nats_inbox_init(&w->inbox, key, FRONTEND);
    int64_t now = 0;
    for (int32_t request = 0; request < REQUESTS;) {
        now += draw(w, STEP_US);
        if (proa_nats_outbox_ready(w->outbox, now)) {
            uint64_t sequence;
            const proa_buf *sealed =
                proa_nats_outbox_seal(w->outbox, (uint64_t)request, &request, sizeof request, now, &sequence);
            publish(w, sealed);
            request++;
        }
        if (draw(w, 2) == 0)
            land_one(w);
        relay_due(w, now);
    }
    relay_due(w, now + PROA_NATS_ACK_US);
    while (w->flying > 0)
        land_one(w);
    for (int32_t request = 0; request < REQUESTS; request++)
        if (w->begun[request] != 1)
            fail_msg("request %d was begun %d times", request, w->begun[request]);
    assert_true(w->relays > REQUESTS / 10);
    assert_true(w->replays > REQUESTS / 100);
    proa_nats_outbox_free(w->outbox);
    free(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_subjects),
        cmocka_unit_test(test_servers),
        cmocka_unit_test(test_passwords_are_hidden),
        cmocka_unit_test(test_every_bit_is_sealed),
        cmocka_unit_test(test_refusals_say_why),
        cmocka_unit_test(test_copies),
        cmocka_unit_test(test_outbox),
        cmocka_unit_test(test_bad_broker),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
