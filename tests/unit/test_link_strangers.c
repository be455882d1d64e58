/* test_link_strangers.c - who must not come up, what it may cost, and the one line that says so. */
#include "link_fixture.h"

#include "base/clock.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { STRANGERS = 300, PLACES = 256 };

static const proa_link_security KEYED = {.key = LINK_KEY};

/* The raw peer is refused: closed, never up, one line with its address and the reason. */
static void expect_refusal(link_fixture *f, int fd, const char *reason)
{
    char line[200];
    struct sockaddr_in here;
    socklen_t length = sizeof here;
    assert_int_equal(getsockname(fd, (struct sockaddr *)&here, &length), 0);
    assert_true(link_raw_closed(f, fd, NULL, 1));
    close(fd);
    snprintf(line, sizeof line, "warn  link: refused 127.0.0.1:%d: %s", ntohs(here.sin_port), reason);
    assert_int_equal(f->accepted.ups, 0);
    assert_int_equal(f->accepted.downs, 0);
    if (link_fixture_logged(f, line) != 1 || link_fixture_logged(f, "\n") != 1)
        fail_msg("\"%s\" was logged %d times, and %d lines in all", line, link_fixture_logged(f, line),
                 link_fixture_logged(f, "\n"));
}

static void test_garbage(void **state)
{
    (void)state;
    static const struct {
        const char *name, *bytes;
        size_t length;
        const char *reason;
    } cases[] = {
        {"HTTP", "GET /metrics HTTP/1.1\r\n\r\n", 25,
         "it does not speak Proa's protocol: a message begins with 47 45 54 20"},
        {"TLS", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x01\x02", 13,
         "it does not speak Proa's protocol"},
        {"zeros", "\0\0\0\0\0\0\0\0\0\0\0\0", 12, "it does not speak Proa's protocol"},
        {"another version", "PROA\x02\0\0\xff\0\0\0\0", 12,
         "it speaks version 2 of the protocol, this process version 1"},
        {"a large frame", "PROA\x01\0\0\xff\x01\x01\0\0", 12, "it announces a message of 257 bytes"},
        {"a huge frame", "PROA\x01\0\0\xff\xff\xff\xff\xff", 12,
         "it announces a message of 4294967295 bytes"},
        {"a message", "PROA\x01\0\x01\0\0\0\0\0", 12, "it sends type 0x0001 where HELLO is due"},
        {"an empty HELLO", "PROA\x01\0\0\xff\0\0\0\0", 12, "its HELLO is malformed"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        link_fixture f;
        link_fixture_open(&f, &KEYED);
        link_fixture_listen(&f, "127.0.0.1");
        int fd = link_raw_connect(&f);
        link_raw_send(fd, cases[i].bytes, cases[i].length);
        expect_refusal(&f, fd, cases[i].reason);
        link_fixture_close(&f);
    }
}

/* The acceptor's words reach the dialler, so that whoever looks at either end knows. */
static void test_keys_that_differ(void **state)
{
    (void)state;
    static const struct {
        const char *acceptor, *dialler, *logged, *heard;
    } cases[] = {
        {LINK_KEY, "another key of 16 bytes", "its proof is wrong", "its cluster key is another one"},
        {LINK_KEY, NULL, "it has no cluster key, this process has one",
         "it has a cluster key, this process has none"},
        {NULL, LINK_KEY, "it has a cluster key, this process has none",
         "it has no cluster key, this process has one"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        link_fixture f;
        link_fixture_open(&f, &(proa_link_security){.key = cases[i].acceptor});
        link_fixture_listen(&f, "127.0.0.1");
        f.security.key = cases[i].dialler;
        link_fixture_dial(&f, "127.0.0.1");
        assert_true(link_fixture_run(&f, link_dialled_down, 1));
        assert_int_equal(f.dialled.why.status, PROA_ERR_PROTOCOL);
        if (strstr(f.dialled.why.text, cases[i].heard) == NULL)
            fail_msg("the dialler hears: %s", f.dialled.why.text);
        assert_int_equal(f.dialled.ups + f.accepted.ups + f.accepted.downs, 0);
        assert_int_equal(link_fixture_logged(&f, cases[i].logged), 1);
        assert_int_equal(link_fixture_logged(&f, "\n"), 1);
        link_fixture_close(&f);
    }
}

static void test_no_epoch(void **state)
{
    (void)state;
    link_fixture f;
    proa_handshake handshake;
    proa_link_identity self = link_identity("decode");
    self.epoch = 0;
    link_fixture_open(&f, &KEYED);
    link_fixture_listen(&f, "127.0.0.1");
    int fd = link_raw_connect(&f);
    assert_false(link_raw_handshake(&f, fd, &handshake, &self));
    expect_refusal(&f, fd, "it shows an identity without an epoch (0)");
    link_fixture_close(&f);
}

/* ---- a recorded handshake ---- */

/* Between a dialler and the listener: passes on, and keeps what the dialler says. */
typedef struct proxy {
    link_fixture *fixture;
    proa_watch *watches[3]; /* of the following */
    int listen_fd, dialler_fd, listener_fd;
    proa_buf recorded;
} proxy;

static void pass(int from, int to, proa_buf *record)
{
    char bytes[4096];
    ssize_t n = recv(from, bytes, sizeof bytes, MSG_DONTWAIT);
    if (n <= 0) {
        shutdown(to, SHUT_WR);
        return;
    }
    link_raw_send(to, bytes, (size_t)n);
    if (record != NULL)
        proa_buf_append(record, bytes, (size_t)n);
}

static void from_dialler(void *context)
{
    proxy *p = context;
    pass(p->dialler_fd, p->listener_fd, &p->recorded);
}

static void from_listener(void *context)
{
    proxy *p = context;
    pass(p->listener_fd, p->dialler_fd, NULL);
}

static void on_dialler(void *context)
{
    proxy *p = context;
    p->dialler_fd = accept(p->listen_fd, NULL, NULL);
    p->listener_fd = link_raw_connect(p->fixture);
    assert_true(p->dialler_fd >= 0);
    p->watches[1] = proa_loop_add_watch(p->fixture->loop, p->dialler_fd, from_dialler, p);
    p->watches[2] = proa_loop_add_watch(p->fixture->loop, p->listener_fd, from_listener, p);
}

static int open_proxy(proxy *p, link_fixture *f)
{
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof here;
    *p = (proxy){.fixture = f, .listen_fd = socket(AF_INET, SOCK_STREAM, 0)};
    assert_int_equal(bind(p->listen_fd, (struct sockaddr *)&here, sizeof here), 0);
    assert_int_equal(listen(p->listen_fd, 1), 0);
    assert_int_equal(getsockname(p->listen_fd, (struct sockaddr *)&here, &length), 0);
    p->watches[0] = proa_loop_add_watch(f->loop, p->listen_fd, on_dialler, p);
    return ntohs(here.sin_port);
}

static void close_proxy(proxy *p)
{
    for (int i = 0; i < 3; i++)
        proa_watch_free(p->watches[i]);
    close(p->listen_fd);
    close(p->dialler_fd);
    close(p->listener_fd);
    proa_buf_free(&p->recorded);
}

static void test_replay(void **state)
{
    (void)state;
    link_fixture f;
    proxy p;
    link_fixture_open(&f, &KEYED);
    link_fixture_listen(&f, "127.0.0.1");
    link_fixture_dial_port(&f, "127.0.0.1", open_proxy(&p, &f));
    assert_true(link_fixture_run(&f, link_both_up, 2)); /* the record is of a good handshake */
    assert_int_equal(link_fixture_logged(&f, "\n"), 0);
    assert_true(p.recorded.length > 100);
    f.accepted.ups = 0;
    int fd = link_raw_connect(&f);
    link_raw_send(fd, p.recorded.data, p.recorded.length);
    expect_refusal(
        &f, fd,
        "its proof is wrong: its cluster key is another one, or a recorded handshake is played again");
    close_proxy(&p);
    link_fixture_close(&f);
}

/* ---- violations of an end that is up ---- */

static void test_violations_when_up(void **state)
{
    (void)state;
    static const struct {
        const char *bytes, *text;
    } cases[] = {
        {"PROA\x01\0\x05\0\x01\0\0\x01", "16777217 bytes"}, /* one more than fits */
        {"PROB\x01\0\x05\0\0\0\0\0", "50 52 4f 42"},
        {"PROA\x03\0\x05\0\0\0\0\0", "version 3"},
        {"PROA\x01\0\0\xff\0\0\0\0", "type 0xff00"}, /* a second handshake */
        {"PROA\x01\0\x77\xff\0\0\0\0", "type 0xff77"},
        {"PROA\x01\0\x03\xff\x01\0\0\0x", "type 0xff03 with 1 bytes"}, /* a heartbeat with something in it */
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        link_fixture f;
        proa_handshake handshake;
        proa_link_identity self = link_identity("decode");
        link_fixture_open(&f, &KEYED);
        link_fixture_listen(&f, "127.0.0.1");
        int fd = link_raw_connect(&f);
        assert_true(link_raw_handshake(&f, fd, &handshake, &self));
        link_raw_send(fd, cases[i].bytes, PROA_FRAME_HEADER_BYTES + (i == 5));
        assert_true(link_fixture_run(&f, link_accepted_down, 1));
        assert_int_equal(f.accepted.why.status, PROA_ERR_PROTOCOL);
        if (strstr(f.accepted.why.text, cases[i].text) == NULL)
            fail_msg("case %zu: %s", i, f.accepted.why.text);
        assert_int_equal(f.accepted.messages, 0);
        assert_int_equal(link_fixture_logged(&f, "\n"), 0); /* `down` has it */
        close(fd);
        link_fixture_close(&f);
    }
}

/* ---- what strangers may cost ---- */

static void test_time_of_a_stranger(void **state)
{
    (void)state;
    link_fixture f;
    link_fixture_open(&f, &(proa_link_security){.key = LINK_KEY, .connect_us = 150000});
    link_fixture_listen(&f, "127.0.0.1");
    int fd = link_raw_connect(&f);
    int64_t start = proa_clock_us();
    link_raw_send(fd, "PROA", 4); /* and then nothing; nor does it help to go on slowly */
    link_fixture_run(&f, NULL, 0.1);
    link_raw_send(fd, "\1", 1);
    expect_refusal(&f, fd, "no link within 0.15 s: the handshake does not come to an end");
    assert_in_range(proa_clock_us() - start, 140000, 600000);
    link_fixture_close(&f);
}

/* A port that is only looked at is no news. */
static void test_probes_are_quiet(void **state)
{
    (void)state;
    link_fixture f;
    link_fixture_open(&f, &KEYED);
    link_fixture_listen(&f, "127.0.0.1");
    for (int i = 0; i < 20; i++) {
        close(link_raw_connect(&f));
        link_fixture_run(&f, NULL, 0.002);
    }
    assert_int_equal(link_fixture_logged(&f, "\n"), 0);
    link_fixture_close(&f);
}

/* More of them than places: the oldest go, a friend still comes up, and the log has ten lines and a count. */
static void test_crowd(void **state)
{
    (void)state;
    link_fixture f;
    int fds[STRANGERS], gone = 0;
    link_fixture_open(&f, &KEYED);
    link_fixture_listen(&f, "127.0.0.1");
    for (int i = 0; i < STRANGERS; i++) {
        fds[i] = link_raw_connect(&f);
        if (i % 50 == 49)
            link_fixture_run(&f, NULL, 0.005);
    }
    link_fixture_dial(&f, "127.0.0.1");
    assert_true(link_fixture_run(&f, link_both_up, 1));
    for (int i = 0; i < STRANGERS; i++) {
        char byte;
        bool closed = recv(fds[i], &byte, 1, MSG_DONTWAIT) == 0;
        assert_true(closed == (i < STRANGERS - PLACES + 1)); /* the friend took a place too */
        gone += closed;
        close(fds[i]);
    }
    link_fixture_run(&f, NULL, 1.1);
    char count[80];
    snprintf(count, sizeof count, "refused %d more on port %d", gone - 10, proa_listener_port(f.listener));
    assert_int_equal(link_fixture_logged(&f, "and this one is the oldest"), 10);
    assert_int_equal(link_fixture_logged(&f, count), 1);
    assert_int_equal(link_fixture_logged(&f, "\n"), 11);
    link_fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_garbage),
        cmocka_unit_test(test_keys_that_differ),
        cmocka_unit_test(test_no_epoch),
        cmocka_unit_test(test_replay),
        cmocka_unit_test(test_violations_when_up),
        cmocka_unit_test(test_time_of_a_stranger),
        cmocka_unit_test(test_probes_are_quiet),
        cmocka_unit_test(test_crowd),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
