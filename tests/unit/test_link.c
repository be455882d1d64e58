/* test_link.c - links between real sockets of this machine: messages, life and death, limits.
 * test_link_dial.c has addresses, test_link_strangers.c those that must not come up. */
#include "link_fixture.h"

#include "base/clock.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MIB = 1 << 20 };

static const proa_link_security KEYED = {.key = LINK_KEY};

static uint8_t *pattern(size_t bytes)
{
    uint8_t *body = malloc(bytes);
    assert_non_null(body);
    for (size_t i = 0; i < bytes; i++)
        body[i] = (uint8_t)((i * 2654435761u) >> 13);
    return body;
}

/* ---- messages ---- */

static bool echoed(const link_fixture *f)
{
    return f->dialled.messages > 0;
}

static void test_messages(void **state)
{
    (void)state;
    static const size_t sizes[] = {0, 1, 64, 4095, 65536, PROA_LINK_FRAME_BYTES_MAX};
    link_fixture f;
    link_fixture_open(&f, &KEYED);
    link_fixture_connect(&f);
    uint8_t *body = pattern(PROA_LINK_FRAME_BYTES_MAX + 8);
    f.accepted.echo = true;
    f.dialled.keep = true;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        f.dialled.messages = 0;
        uint16_t type = (uint16_t)(i == 0 ? 0xFEFF : i); /* 0xFF00 and above are the link's */
        assert_int_equal(proa_link_send(f.dialled.link, type, body + i, sizes[i]), PROA_OK);
        assert_true(link_fixture_run(&f, echoed, 5));
        assert_int_equal(f.dialled.type, type);
        assert_int_equal(f.dialled.body.length, sizes[i]);
        assert_memory_equal(proa_buf_text(&f.dialled.body), body + i, sizes[i]);
    }
    assert_int_equal(proa_link_send(f.dialled.link, 1, body, PROA_LINK_FRAME_BYTES_MAX + 1),
                     PROA_ERR_TOO_LONG);
    assert_int_equal(f.dialled.downs + f.accepted.downs, 0);
    free(body);
    link_fixture_close(&f);
}

static bool thousands(const link_fixture *f)
{
    return f->dialled.messages >= 5000 && f->accepted.messages >= 5000;
}

/* Both ways at once, of all sizes, in one burst. */
static void test_bursts(void **state)
{
    (void)state;
    link_fixture f;
    link_fixture_open(&f, &KEYED);
    link_fixture_connect(&f);
    uint8_t *body = pattern(5000);
    uint64_t bytes = 0;
    for (size_t i = 0; i < 5000; i++) {
        assert_int_equal(proa_link_send(f.dialled.link, 1, body, i), PROA_OK);
        assert_int_equal(proa_link_send(f.accepted.link, 2, body, i), PROA_OK);
        bytes += i;
    }
    assert_true(proa_link_pending(f.dialled.link) > 5000 * 2000);
    assert_true(link_fixture_run(&f, thousands, 5));
    assert_true(f.dialled.bytes == bytes && f.accepted.bytes == bytes);
    assert_int_equal(proa_link_pending(f.dialled.link), 0);
    free(body);
    link_fixture_close(&f);
}

static void test_what_ends_know(void **state)
{
    (void)state;
    link_fixture f;
    char here[32];
    link_fixture_open(&f, &KEYED);
    link_fixture_listen(&f, "127.0.0.1");
    link_fixture_dial(&f, "127.0.0.1");
    assert_false(proa_link_is_up(f.dialled.link));
    assert_int_equal(proa_link_send(f.dialled.link, 1, "x", 1), PROA_ERR_UNREACHABLE);
    assert_int_equal(proa_link_pending(f.dialled.link), 0);
    assert_true(link_fixture_run(&f, link_both_up, 2));
    assert_true(proa_link_is_up(f.dialled.link) && proa_link_is_up(f.accepted.link));
    assert_string_equal(proa_link_peer(f.dialled.link)->role, "prefill");
    assert_string_equal(proa_link_peer(f.accepted.link)->role, "decode");
    assert_int_equal(proa_link_peer(f.accepted.link)->instance, 7);
    assert_int_equal(proa_link_peer(f.accepted.link)->epoch, 9);
    assert_memory_equal(proa_link_session_key(f.dialled.link), proa_link_session_key(f.accepted.link),
                        PROA_LINK_KEY_BYTES);
    snprintf(here, sizeof here, "127.0.0.1:%d", proa_listener_port(f.listener));
    assert_string_equal(proa_link_address(f.dialled.link), here);
    assert_memory_equal(proa_link_address(f.accepted.link), "127.0.0.1:", 10);
    link_fixture_close(&f);
}

/* ---- death ---- */

/* How long the other end takes to know of a close by `dialler` or acceptor. */
static int64_t time_of_close(bool dialler)
{
    link_fixture f;
    link_fixture_open(&f, &KEYED);
    link_fixture_connect(&f);
    link_end *closer = dialler ? &f.dialled : &f.accepted, *other = dialler ? &f.accepted : &f.dialled;
    int64_t start = proa_clock_us();
    proa_link_close(closer->link);
    closer->link = NULL;
    assert_true(link_fixture_run(&f, dialler ? link_accepted_down : link_dialled_down, 1));
    int64_t us = other->down_us - start;
    assert_int_equal(other->why.status, PROA_ERR_UNREACHABLE);
    assert_int_equal(closer->downs, 0);
    assert_int_equal(other->downs, 1);
    link_fixture_close(&f);
    return us;
}

static void test_close_is_seen_at_once(void **state)
{
    (void)state;
    for (int dialler = 0; dialler < 2; dialler++) {
        int64_t best_us =
            INT64_MAX; /* of some: a loaded machine may take the processor away at that moment */
        for (int i = 0; i < 5 && best_us >= 50000; i++) {
            int64_t us = time_of_close(dialler);
            best_us = us < best_us ? us : best_us;
        }
        assert_true(best_us < 50000);
    }
}

/* What was sent just before a close arrives, though the closer has unread messages in its socket. */
static void test_last_words(void **state)
{
    (void)state;
    link_fixture f;
    link_fixture_open(&f, &KEYED);
    link_fixture_connect(&f);
    for (int i = 0; i < 100; i++)
        assert_int_equal(proa_link_send(f.accepted.link, 1, "noise", 5), PROA_OK);
    assert_int_equal(proa_link_send(f.dialled.link, 3, "farewell", 8), PROA_OK);
    f.accepted.keep = true;
    proa_link_close(f.dialled.link);
    f.dialled.link = NULL;
    assert_true(link_fixture_run(&f, link_accepted_down, 1));
    assert_int_equal(f.accepted.messages, 1);
    assert_string_equal(proa_buf_text(&f.accepted.body), "farewell");
    assert_int_equal(f.accepted.why.status, PROA_ERR_UNREACHABLE);
    link_fixture_close(&f);
}

/* Nor does what is unread in the socket at that moment cost the peer any of what the socket had taken: closing over it would be a
 * reset, which throws away what is still on its way. */
static void test_last_words_over_unread_ones(void **state)
{
    (void)state;
    enum { QUESTION = 200000, NOISE = 100000 };
    link_fixture f;
    proa_handshake handshake;
    proa_link_identity self = link_identity("decode");
    proa_buf heard = {0};
    link_fixture_open(&f, &KEYED);
    f.accepted.echo = f.accepted.close_on_first = true;
    link_fixture_listen(&f, "127.0.0.1");
    int fd = link_raw_connect(&f);
    assert_true(link_raw_handshake(&f, fd, &handshake, &self));
    uint8_t *bytes = pattern(PROA_FRAME_HEADER_BYTES + QUESTION + NOISE);
    proa_frame_write(bytes, 5, QUESTION);
    link_raw_send(fd, bytes, PROA_FRAME_HEADER_BYTES + QUESTION + NOISE);
    assert_true(link_raw_closed(&f, fd, &heard, 2));
    assert_true(heard.length >= PROA_FRAME_HEADER_BYTES + QUESTION);
    assert_memory_equal(heard.data + heard.length - QUESTION, bytes + PROA_FRAME_HEADER_BYTES, QUESTION);
    free(bytes);
    proa_buf_free(&heard);
    close(fd);
    link_fixture_close(&f);
}

/* A peer that resets the connection has been heard to its end, though this end was writing. */
static void test_what_came_before_a_reset(void **state)
{
    (void)state;
    link_fixture f;
    proa_handshake handshake;
    uint8_t frame[PROA_FRAME_HEADER_BYTES];
    proa_link_identity self = link_identity("decode");
    struct linger reset = {.l_onoff = 1, .l_linger = 0};
    link_fixture_open(&f, &KEYED);
    link_fixture_listen(&f, "127.0.0.1");
    int fd = link_raw_connect(&f);
    assert_true(link_raw_handshake(&f, fd, &handshake, &self));
    proa_frame_write(frame, 5, 0);
    link_raw_send(fd, frame, sizeof frame);
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    close(fd);
    assert_int_equal(proa_link_send(f.accepted.link, 1, "into the void", 13), PROA_OK);
    assert_true(link_fixture_run(&f, link_accepted_down, 1));
    assert_int_equal(f.accepted.messages, 1);
    assert_int_equal(f.accepted.why.status, PROA_ERR_UNREACHABLE);
    link_fixture_close(&f);
}

/* Closing from inside every hook, with more messages behind the one that is being looked at. */
static void test_close_inside_hooks(void **state)
{
    (void)state;
    for (int where = 0; where < 3; where++) {
        link_fixture f;
        link_fixture_open(&f, &KEYED);
        f.accepted.close_on_up = where == 0;
        f.dialled.close_on_up = where == 1;
        f.accepted.close_on_first = where == 2;
        link_fixture_listen(&f, "127.0.0.1");
        link_fixture_dial(&f, "127.0.0.1");
        if (where == 2) {
            assert_true(link_fixture_run(&f, link_both_up, 2));
            for (int i = 0; i < 10; i++)
                assert_int_equal(proa_link_send(f.dialled.link, 1, "x", 1), PROA_OK);
        }
        assert_true(link_fixture_run(&f, where == 1 ? link_accepted_down : link_dialled_down, 2));
        assert_int_equal(f.accepted.messages, where == 2);
        assert_int_equal(f.accepted.downs + f.dialled.downs, 1);
        link_fixture_close(&f);
    }
}

/* Heartbeats keep an idle link up; a peer that is there and mute is down after silence_us, neither sooner nor much later (a
 * stall is to be known within 3 s). */
static void test_heartbeats(void **state)
{
    (void)state;
    link_fixture f;
    link_fixture_open(&f, &(proa_link_security){.key = LINK_KEY, .beat_us = 50000, .silence_us = 500000});
    link_fixture_connect(&f);
    link_fixture_run(&f, NULL, 1);
    assert_int_equal(f.dialled.downs + f.accepted.downs, 0);
    link_fixture_close(&f);
}

static void expect_silence(const proa_link_security *security, double seconds)
{
    link_fixture f;
    proa_handshake handshake;
    proa_link_identity self = link_identity("decode");
    link_fixture_open(&f, security);
    link_fixture_listen(&f, "127.0.0.1");
    int fd = link_raw_connect(&f);
    assert_true(link_raw_handshake(&f, fd, &handshake, &self));
    int64_t start = proa_clock_us();
    assert_true(link_fixture_run(&f, link_accepted_down, seconds + 1));
    double took = (double)(f.accepted.down_us - start) / 1e6;
    assert_int_equal(f.accepted.why.status, PROA_ERR_DEADLINE);
    assert_non_null(strstr(f.accepted.why.text, "nothing was heard"));
    if (took < seconds - 0.05 || took > seconds + 0.5)
        fail_msg("a silence of %.2f s was noticed after %.3f s", seconds, took);
    /* meanwhile it was told that this end lives */
    char bytes[4096];
    ssize_t n = recv(fd, bytes, sizeof bytes, MSG_DONTWAIT);
    assert_true(n >= PROA_FRAME_HEADER_BYTES);
    assert_memory_equal(bytes, "PROA\1\0\3\xff\0\0\0\0", PROA_FRAME_HEADER_BYTES);
    close(fd);
    link_fixture_close(&f);
}

static void test_silence(void **state)
{
    (void)state;
    expect_silence(&(proa_link_security){.key = LINK_KEY, .beat_us = 30000, .silence_us = 200000}, 0.2);
    expect_silence(&KEYED, 2.5);
}

/* A raw end that does nothing but say that it lives, from a thread of its own. After each heartbeat it wakes the loop to something
 * else. */
typedef struct pulse {
    int fd;
    int wake_fd;      /* an eventfd */
    atomic_bool over; /* relaxed: no data goes with it */
} pulse;

static void *beat(void *context)
{
    pulse *p = context;
    uint64_t one = 1;
    uint8_t frame[PROA_FRAME_HEADER_BYTES];
    proa_frame_write(frame, PROA_FRAME_BEAT, 0);
    while (!atomic_load_explicit(&p->over, memory_order_relaxed)) {
        ssize_t n = send(p->fd, frame, sizeof frame, MSG_NOSIGNAL | MSG_DONTWAIT);
        n += write(p->wake_fd, &one, sizeof one);
        (void)n; /* whether the link lives is what the test looks at */
        usleep(5000);
    }
    return NULL;
}

static void stall(void *context)
{
    pulse *p = context;
    uint64_t count;
    ssize_t n = read(p->wake_fd, &count, sizeof count);
    (void)n;
    usleep(450000);
}

/* A process that was held up itself does not blame its peers, whose heartbeats wait in its sockets: here after the link was read, before
 * its timer runs. */
static void test_a_stall_of_ones_own(void **state)
{
    (void)state;
    link_fixture f;
    proa_handshake handshake;
    pthread_t thread;
    proa_link_identity self = link_identity("decode");
    link_fixture_open(&f, &(proa_link_security){.key = LINK_KEY, .beat_us = 10000, .silence_us = 300000});
    link_fixture_listen(&f, "127.0.0.1");
    pulse p = {.fd = link_raw_connect(&f), .wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
    assert_true(link_raw_handshake(&f, p.fd, &handshake, &self));
    assert_int_equal(pthread_create(&thread, NULL, beat, &p), 0);
    proa_watch *watch = proa_loop_add_watch(f.loop, p.wake_fd, stall, &p);
    assert_non_null(watch);
    bool lost = link_fixture_run(&f, link_accepted_down, 1.5);
    atomic_store_explicit(&p.over, true, memory_order_relaxed);
    pthread_join(thread, NULL);
    if (lost)
        fail_msg("%s", f.accepted.why.text);
    proa_watch_free(watch);
    close(p.wake_fd);
    close(p.fd);
    link_fixture_close(&f);
}

/* Both ends stand still, as when a whole machine is halted or frozen: neither has said anything, and neither is to blame. A hold-up that
 * is longer than the silence is no silence; what comes after it is. */
static void test_a_stall_of_both(void **state)
{
    (void)state;
    link_fixture f;
    const uint64_t one = 1;
    link_fixture_open(&f, &(proa_link_security){.key = LINK_KEY, .beat_us = 30000, .silence_us = 300000});
    link_fixture_connect(&f);
    pulse p = {.wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
    proa_watch *watch = proa_loop_add_watch(f.loop, p.wake_fd, stall, &p);
    assert_non_null(watch);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(write(p.wake_fd, &one, sizeof one), sizeof one);
        if (link_fixture_run(&f, link_dialled_down, 0.7) || f.accepted.downs > 0)
            fail_msg("stall %d: %s%s", i, f.dialled.why.text, f.accepted.why.text);
    }
    proa_watch_free(watch);
    close(p.wake_fd);
    link_fixture_close(&f);
}

/* ---- limits ---- */

static void test_pending_limit(void **state)
{
    (void)state;
    link_fixture f;
    proa_handshake handshake;
    proa_link_identity self = link_identity("decode");
    link_fixture_open(&f, &KEYED);
    link_fixture_listen(&f, "127.0.0.1");
    int fd = link_raw_connect(&f); /* which reads nothing after the handshake */
    assert_true(link_raw_handshake(&f, fd, &handshake, &self));
    uint8_t *body = calloc(1, 8 * MIB);
    assert_non_null(body);
    int sent = 0;
    proa_status status;
    while ((status = proa_link_send(f.accepted.link, 1, body, 8 * MIB)) == PROA_OK && sent < 100)
        sent++;
    assert_int_equal(status, PROA_BUSY);
    assert_int_equal(sent, 7); /* eight with their headers are over 64 MiB */
    assert_true(proa_link_pending(f.accepted.link) <= PROA_LINK_PENDING_BYTES_MAX);
    assert_int_equal(proa_link_send(f.accepted.link, 2, "x", 1), PROA_OK); /* smaller ones still fit */
    free(body);
    close(fd);
    assert_true(link_fixture_run(&f, link_accepted_down, 1));
    link_fixture_close(&f);
}

/* Links that are up stay when their listener goes; those that are not go with it. */
static void test_listener_goes(void **state)
{
    (void)state;
    link_fixture f;
    link_fixture_open(&f, &KEYED);
    link_fixture_connect(&f);
    int fd = link_raw_connect(&f);
    link_fixture_run(&f, NULL, 0.01);
    proa_listener_free(f.listener);
    f.listener = NULL;
    assert_true(link_raw_closed(&f, fd, NULL, 1));
    close(fd);
    f.accepted.echo = true;
    assert_int_equal(proa_link_send(f.dialled.link, 1, "still", 5), PROA_OK);
    assert_true(link_fixture_run(&f, echoed, 1));
    link_fixture_close(&f);
}

/* ---- the key ---- */

static void test_read_key(void **state)
{
    (void)state;
    char path[] = "/tmp/proa-key-XXXXXX", *key;
    int fd = mkstemp(path);
    proa_error err = {0};
    assert_true(fd >= 0);
    assert_int_equal(write(fd, "secret of a file \n\n", 19), 19);

    assert_int_equal(proa_link_read_key(NULL, NULL, &key, &err), PROA_OK);
    assert_null(key);
    assert_int_equal(proa_link_read_key(NULL, path, &key, &err), PROA_OK);
    assert_string_equal(key, "secret of a file");
    free(key);
    assert_int_equal(proa_link_read_key(LINK_KEY, path, &key, &err), PROA_OK);
    assert_string_equal(key, LINK_KEY);
    free(key);
    assert_int_equal(proa_link_read_key("fifteen letters", NULL, &key, &err), PROA_ERR_INVALID);
    assert_null(key);
    assert_non_null(strstr(err.text, "15 bytes"));
    assert_null(strstr(err.text, "fifteen"));
    assert_int_equal(pwrite(fd, "\0", 1, 4), 1);
    assert_int_equal(proa_link_read_key(NULL, path, &key, &err), PROA_ERR_INVALID);
    assert_non_null(strstr(err.text, "zero byte"));
    assert_int_equal(ftruncate(fd, 5000), 0);
    assert_int_equal(proa_link_read_key(NULL, path, &key, &err), PROA_ERR_TOO_LONG);
    unlink(path);
    assert_int_equal(proa_link_read_key(NULL, path, &key, &err), PROA_ERR_NOT_FOUND);
    assert_non_null(strstr(err.text, path));
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_messages),
        cmocka_unit_test(test_bursts),
        cmocka_unit_test(test_what_ends_know),
        cmocka_unit_test(test_close_is_seen_at_once),
        cmocka_unit_test(test_last_words),
        cmocka_unit_test(test_last_words_over_unread_ones),
        cmocka_unit_test(test_what_came_before_a_reset),
        cmocka_unit_test(test_close_inside_hooks),
        cmocka_unit_test(test_heartbeats),
        cmocka_unit_test(test_silence),
        cmocka_unit_test(test_a_stall_of_ones_own),
        cmocka_unit_test(test_a_stall_of_both),
        cmocka_unit_test(test_pending_limit),
        cmocka_unit_test(test_listener_goes),
        cmocka_unit_test(test_read_key),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
