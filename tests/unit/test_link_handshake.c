/* test_link_handshake.c - frames and the handshake as bytes: who is believed, and that no byte of it can be changed. */
#include "net/link_handshake.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const uint8_t KEY[] = "0123456789abcdef";

/* ---- two ends and what lies between them ---- */

typedef struct talk {
    proa_handshake ends[2]; /* acceptor, dialler */
    proa_buf to[2];         /* bytes on the way to each */
    size_t taken[2];        /* of those */
    proa_error error[2];
} talk;

static proa_handshake_options options_of(bool dials)
{
    proa_handshake_options o = {.dials = dials, .key = KEY, .key_bytes = sizeof KEY - 1};
    o.self = (proa_link_identity){
        .instance = dials ? 5 : 6, .epoch = dials ? 0x1234 : 0x5678, .name = "node-0:4711"};
    snprintf(o.self.role, sizeof o.self.role, dials ? "decode" : "prefill");
    memset(o.nonce, dials ? 0xd1 : 0xac, sizeof o.nonce);
    return o;
}

/* Lets one end take the next frame that waits for it. False: there is none, or the end is over. */
static bool step(talk *t, int end)
{
    proa_handshake *h = &t->ends[end];
    proa_frame frame;
    if (h->state >= PROA_HANDSHAKE_DONE || t->to[end].length - t->taken[end] < PROA_FRAME_HEADER_BYTES)
        return false;
    const uint8_t *at = (const uint8_t *)t->to[end].data + t->taken[end];
    if (proa_frame_read(at, PROA_HANDSHAKE_BODY_BYTES_MAX, &frame, &t->error[end]) != PROA_OK) {
        h->state = PROA_HANDSHAKE_REFUSED;
        return false;
    }
    if (t->to[end].length - t->taken[end] < PROA_FRAME_HEADER_BYTES + frame.length)
        return false;
    t->taken[end] += PROA_FRAME_HEADER_BYTES + frame.length;
    return proa_handshake_take(h, frame.type, at + PROA_FRAME_HEADER_BYTES, frame.length, &t->to[1 - end],
                               &t->error[end]) == PROA_OK;
}

static void begin(talk *t, const proa_handshake_options *acceptor, const proa_handshake_options *dialler)
{
    *t = (talk){0};
    proa_handshake_start(&t->ends[0], acceptor, &t->to[1]);
    proa_handshake_start(&t->ends[1], dialler, &t->to[0]);
}

/* To the end; byte `flip` of what goes to `victim` is changed by `mask`. */
static void converse(talk *t, const proa_handshake_options *acceptor, const proa_handshake_options *dialler,
                     int victim, size_t flip, uint8_t mask)
{
    begin(t, acceptor, dialler);
    bool moved = true, flipped = false;
    while (moved) {
        moved = false;
        for (int end = 0; end < 2; end++) {
            if (end == victim && !flipped && t->to[end].length > flip) {
                t->to[end].data[flip] = (char)((uint8_t)t->to[end].data[flip] ^ mask);
                flipped = true;
            }
            moved |= step(t, end);
        }
    }
}

static void end_talk(talk *t)
{
    proa_buf_free(&t->to[0]);
    proa_buf_free(&t->to[1]);
}

static bool done(const talk *t, int end)
{
    return t->ends[end].state == PROA_HANDSHAKE_DONE;
}

/* ---- HMAC ---- */

/* RFC 4231, cases 1, 2 and 6 (a key longer than a block). */
static void test_hmac(void **state)
{
    (void)state;
    static const struct {
        uint8_t key_byte;
        size_t key_bytes;
        const char *key, *data, *hex;
    } cases[] = {
        {0x0b, 20, NULL, "Hi There", "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"},
        {0, 4, "Jefe", "what do ya want for nothing?",
         "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"},
        {0xaa, 131, NULL, "Test Using Larger Than Block-Size Key - Hash Key First",
         "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint8_t key[131], mac[32], again[32];
        char hex[65];
        memset(key, cases[i].key_byte, sizeof key);
        if (cases[i].key != NULL)
            memcpy(key, cases[i].key, cases[i].key_bytes);
        proa_hmac(key, cases[i].key_bytes, cases[i].data, strlen(cases[i].data), mac);
        for (int j = 0; j < 32; j++)
            snprintf(hex + 2 * j, 3, "%02x", mac[j]);
        assert_string_equal(hex, cases[i].hex);
        memcpy(again, mac, sizeof again);
        assert_true(proa_hmac_equal(mac, again));
        again[31] ^= 1;
        assert_false(proa_hmac_equal(mac, again));
    }
    uint8_t none[32], empty[32];
    proa_hmac(NULL, 0, "x", 1, none); /* no key is the empty key, not the key of before */
    proa_hmac(KEY, 0, "x", 1, empty);
    assert_true(proa_hmac_equal(none, empty));
}

/* ---- frames ---- */

static void test_frames(void **state)
{
    (void)state;
    static const uint8_t expected[] = {'P', 'R', 'O', 'A', 1, 0, 0x34, 0x12, 0x78, 0x56, 0x04, 0};
    uint8_t header[PROA_FRAME_HEADER_BYTES];
    proa_frame frame;
    proa_error err;
    proa_frame_write(header, 0x1234, 0x45678);
    assert_memory_equal(header, expected, sizeof expected);
    assert_int_equal(proa_frame_read(header, 0x45678, &frame, &err), PROA_OK);
    assert_int_equal(frame.type, 0x1234);
    assert_int_equal(frame.length, 0x45678);

    assert_int_equal(proa_frame_read(header, 0x45677, &frame, &err), PROA_ERR_PROTOCOL);
    assert_non_null(strstr(err.text, "284280 bytes"));
    header[4] = 2;
    assert_int_equal(proa_frame_read(header, 0x45678, &frame, &err), PROA_ERR_PROTOCOL);
    assert_non_null(strstr(err.text, "version 2"));
    assert_int_equal(proa_frame_read((const uint8_t *)"GET / HTTP/1.1", 1000, &frame, &err),
                     PROA_ERR_PROTOCOL);
    assert_non_null(strstr(err.text, "47 45 54 20"));
}

/* ---- who is believed ---- */

static void test_both_believe(void **state)
{
    (void)state;
    for (int keyed = 0; keyed < 2; keyed++) {
        proa_handshake_options a = options_of(false), d = options_of(true);
        if (!keyed)
            a.key = d.key = NULL, a.key_bytes = d.key_bytes = 0;
        talk t, other;
        converse(&t, &a, &d, -1, 0, 0);
        assert_true(done(&t, 0) && done(&t, 1));
        assert_int_equal(t.ends[0].peer.instance, 5);
        assert_int_equal(t.ends[0].peer.epoch, 0x1234);
        assert_string_equal(t.ends[0].peer.role, "decode");
        assert_int_equal(t.ends[1].peer.epoch, 0x5678);
        assert_string_equal(t.ends[1].peer.role, "prefill");
        assert_string_equal(t.ends[1].peer.name, "node-0:4711");
        assert_memory_equal(t.ends[0].session_key, t.ends[1].session_key, PROA_LINK_KEY_BYTES);
        a.nonce[0] ^= 1; /* another link has another key */
        converse(&other, &a, &d, -1, 0, 0);
        assert_memory_not_equal(t.ends[0].session_key, other.ends[0].session_key, PROA_LINK_KEY_BYTES);
        end_talk(&t);
        end_talk(&other);
    }
}

/* Every bit of everything that travels: whoever was lied to does not come up, and the acceptor proves nothing to a liar. */
static void test_no_bit_can_be_changed(void **state)
{
    (void)state;
    proa_handshake_options a = options_of(false), d = options_of(true);
    talk t;
    converse(&t, &a, &d, -1, 0, 0);
    size_t lengths[2] = {t.to[0].length, t.to[1].length}, proof_at = lengths[1] - PROA_HANDSHAKE_PROOF_BYTES;
    end_talk(&t);
    assert_true(lengths[0] > 100 && lengths[1] > 100);
    for (int victim = 0; victim < 2; victim++) {
        for (size_t at = 0; at < lengths[victim]; at++) {
            for (int bit = 0; bit < 8; bit++) {
                converse(&t, &a, &d, victim, at, (uint8_t)(1 << bit));
                /* the acceptor is rightly up when only its own proof, the last thing sent, was spoilt on its way */
                bool last = victim == 1 && at >= proof_at - PROA_FRAME_HEADER_BYTES;
                if (done(&t, victim) || (done(&t, 0) && !last))
                    fail_msg("byte %zu, bit %d to end %d was changed and not noticed", at, bit, victim);
                end_talk(&t);
            }
        }
    }
}

static void test_who_is_refused(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        int change;
        const char *acceptor_says, *dialler_hears;
    } cases[] = {
        {"another key", 0, "its proof is wrong", "another one than this process's"},
        {"no key, the acceptor has one", 1, "it has no cluster key", "it has a cluster key"},
        {"a key, the acceptor has none", 2, "it has a cluster key", "it has no cluster key"},
        {"no epoch", 3, "without an epoch", "does not take this process's identity"},
        {"a name with a line feed", 4, "not printable", "does not take this process's identity"},
        {"another TLS session", 5, "its proof is wrong", "another one than this process's"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        proa_handshake_options a = options_of(false), d = options_of(true);
        switch (cases[i].change) {
        case 0: d.key = (const uint8_t *)"0123456789abcdeF"; break;
        case 1: d.key = NULL; break;
        case 2: a.key = NULL; break;
        case 3: d.self.epoch = 0; break;
        case 4: snprintf(d.self.name, sizeof d.self.name, "node\n12:00:00 error"); break;
        default: d.binding[31] = 1; break;
        }
        talk t;
        converse(&t, &a, &d, -1, 0, 0);
        assert_false(done(&t, 0) || done(&t, 1));
        if (strstr(t.error[0].text, cases[i].acceptor_says) == NULL ||
            strstr(t.error[1].text, cases[i].dialler_hears) == NULL)
            fail_msg("%s: the acceptor says \"%s\", the dialler hears \"%s\"", cases[i].name, t.error[0].text,
                     t.error[1].text);
        end_talk(&t);
    }
}

/* A listener shows a stranger no proof that the key could be searched with, and nothing at all before a good HELLO. */
static void test_the_acceptor_proves_last(void **state)
{
    (void)state;
    proa_handshake_options a = options_of(false), d = options_of(true);
    d.key = (const uint8_t *)"another key of 16";
    d.key_bytes = 17;
    talk t;
    begin(&t, &a, &d);
    assert_int_equal(t.to[1].length, 0);
    end_talk(&t);
    converse(&t, &a, &d, -1, 0, 0);
    for (size_t at = 0; at < t.to[1].length;) {
        proa_frame frame;
        assert_int_equal(proa_frame_read((const uint8_t *)t.to[1].data + at, 256, &frame, NULL), PROA_OK);
        assert_int_not_equal(frame.type, PROA_FRAME_PROOF);
        at += PROA_FRAME_HEADER_BYTES + frame.length;
    }
    end_talk(&t);
}

/* What was recorded of a good handshake is worth nothing at an end that draws another nonce. */
static void test_replay(void **state)
{
    (void)state;
    proa_handshake_options a = options_of(false), d = options_of(true);
    for (int victim = 0; victim < 2; victim++) {
        talk good, again = {0};
        converse(&good, &a, &d, -1, 0, 0);
        proa_handshake_options fresh = victim == 0 ? a : d;
        fresh.nonce[7] ^= 0x10;
        proa_handshake_start(&again.ends[victim], &fresh, &again.to[1 - victim]);
        proa_buf_append(&again.to[victim], good.to[victim].data, good.to[victim].length);
        while (step(&again, victim)) {
        }
        assert_int_equal(again.ends[victim].state, PROA_HANDSHAKE_REFUSED);
        assert_non_null(strstr(again.error[victim].text, "its proof is wrong"));
        end_talk(&good);
        end_talk(&again);
    }
}

/* An end that is shown its own messages does not take them for a peer's. */
static void test_mirror(void **state)
{
    (void)state;
    proa_handshake_options d = options_of(true);
    talk t = {0};
    proa_handshake_start(&t.ends[1], &d, &t.to[0]);
    for (int i = 0; i < 3; i++) {
        proa_buf_append(&t.to[1], t.to[0].data + t.to[1].length, t.to[0].length - t.to[1].length);
        step(&t, 1);
    }
    assert_int_equal(t.ends[1].state, PROA_HANDSHAKE_REFUSED);
    end_talk(&t);
}

static void test_what_is_out_of_place(void **state)
{
    (void)state;
    static const struct {
        uint16_t type;
        size_t length;
    } cases[] = {
        {PROA_FRAME_PROOF, 32}, {PROA_FRAME_BEAT, 0},    {1, 10},
        {PROA_FRAME_HELLO, 0},  {PROA_FRAME_HELLO, 53},  {PROA_FRAME_HELLO, 256},
        {0xffff, 256},          {PROA_FRAME_REFUSAL, 0}, {PROA_FRAME_REFUSAL, 1},
    };
    static const uint8_t zeros[256] = {0};
    for (int dials = 0; dials < 2; dials++) {
        for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
            proa_handshake h;
            proa_buf out = {0};
            proa_error err = {0};
            proa_handshake_options o = options_of(dials);
            proa_handshake_start(&h, &o, &out);
            assert_int_equal(proa_handshake_take(&h, cases[i].type, zeros, cases[i].length, &out, &err),
                             PROA_ERR_PROTOCOL);
            assert_int_equal(h.state, PROA_HANDSHAKE_REFUSED);
            assert_true(strlen(err.text) > 10);
            proa_buf_free(&out);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hmac),
        cmocka_unit_test(test_frames),
        cmocka_unit_test(test_both_believe),
        cmocka_unit_test(test_no_bit_can_be_changed),
        cmocka_unit_test(test_who_is_refused),
        cmocka_unit_test(test_the_acceptor_proves_last),
        cmocka_unit_test(test_replay),
        cmocka_unit_test(test_mirror),
        cmocka_unit_test(test_what_is_out_of_place),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
