/* test_link_dial.c - where links are dialled and listened for: hosts and names, several addresses, what fails at once and what
 * later. */
#include "link_fixture.h"

#include "base/clock.h"
#include "net/link_internal.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <arpa/inet.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static const proa_link_security KEYED = {.key = LINK_KEY};

static void test_hosts(void **state)
{
    (void)state;
    static const char *const pairs[][2] = {
        {"127.0.0.1", "127.0.0.1"}, {"127.0.0.1", "localhost"}, /* whose ::1 is refused */
        {"localhost", "localhost"}, {"::1", "[::1]"},
        {"0.0.0.0", "127.0.0.1"},   {"::", "127.0.0.1"}, /* any address, of both families */
        {"", "127.0.0.1"},
    };
    for (size_t i = 0; i < 2 * sizeof pairs / sizeof pairs[0]; i++) {
        const char *const *pair = pairs[i / 2];
        bool keyed = i % 2 == 0;
        if (!keyed && (pair[0][0] == 0 || strchr("0:", pair[0][0]) != NULL))
            continue; /* without a key, loopback alone */
        link_fixture f;
        link_fixture_open(&f, keyed ? &KEYED : &(proa_link_security){0});
        link_fixture_listen(&f, pair[0]);
        link_fixture_dial(&f, pair[1]);
        if (!link_fixture_run(&f, link_both_up, 2))
            fail_msg("from %s to %s: %s", pair[1], pair[0], f.dialled.why.text);
        link_fixture_close(&f);
    }
}

static void no_hooks(void *context, proa_link *link)
{
    (void)context;
    (void)link;
    fail_msg("a hook was called");
}

/* What shows at once is returned, and no hook is called. */
static void test_dials_that_fail_at_once(void **state)
{
    (void)state;
    static const struct {
        const char *address, *key, *text;
        uint64_t epoch;
    } cases[] = {
        {"127.0.0.1", LINK_KEY, "host:port", 9},      {"127.0.0.1:http", LINK_KEY, "host:port", 9},
        {"10.0.0.1:80", NULL, "PROA_CLUSTER_KEY", 9}, {"[fe80::1]:80", NULL, "PROA_CLUSTER_KEY", 9},
        {"127.0.0.1:80", LINK_KEY, "epoch", 0},
    };
    link_fixture f;
    link_fixture_open(&f, &KEYED);
    proa_link_hooks hooks = {.up = no_hooks};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        proa_link_security security = {.key = cases[i].key};
        proa_link_identity self = link_identity("decode");
        proa_link *link = NULL;
        proa_error err = {0};
        self.epoch = cases[i].epoch;
        assert_int_equal(
            proa_link_dial(f.loop, &security, &self, cases[i].address, &hooks, NULL, &link, &err),
            PROA_ERR_INVALID);
        assert_null(link);
        assert_non_null(strstr(err.text, cases[i].text));
    }
    link_fixture_run(&f, NULL, 0.05);
    link_fixture_close(&f);
}

static void expect_down(link_fixture *f, proa_status status, const char *text, double seconds)
{
    assert_true(link_fixture_run(f, link_dialled_down, seconds));
    if (f->dialled.why.status != status || strstr(f->dialled.why.text, text) == NULL)
        fail_msg("%s: %s", proa_status_name(f->dialled.why.status), f->dialled.why.text);
    assert_int_equal(f->dialled.ups, 0);
    assert_int_equal(f->dialled.downs, 1);
}

static void test_dials_that_fail_later(void **state)
{
    (void)state;
    link_fixture f;
    link_fixture_open(&f, &(proa_link_security){.key = LINK_KEY, .connect_us = 300000});
    link_fixture_listen(&f, "127.0.0.1");
    proa_listener *listener = f.listener;
    int fd = link_raw_connect(&f);

    link_fixture_dial(&f, "no-such-host.invalid"); /* or its servers are silent: then the time is over */
    assert_true(link_fixture_run(&f, link_dialled_down, 1));
    assert_true(f.dialled.why.status == PROA_ERR_UNREACHABLE || f.dialled.why.status == PROA_ERR_DEADLINE);
    assert_non_null(strstr(f.dialled.why.text, "name"));

    f.dialled = (link_end){0};
    link_fixture_dial(&f, "no-such-host.invalid"); /* and closed while it is looked up */
    proa_link_close(f.dialled.link);

    f.dialled = (link_end){0};
    link_fixture_dial(&f, "127.0.0.2"); /* nobody listens there */
    expect_down(&f, PROA_ERR_NOT_FOUND, "refused", 1);
    assert_true(f.listener == listener);
    close(fd);
    link_fixture_close(&f);
}

/* A port that the kernel takes connections for, `backlog` of them, and nobody else. */
static int open_mute(struct sockaddr_in *here, int backlog)
{
    socklen_t length = sizeof *here;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    *here = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    assert_int_equal(bind(fd, (struct sockaddr *)here, sizeof *here), 0);
    assert_int_equal(listen(fd, backlog), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)here, &length), 0);
    return fd;
}

static void test_dial_has_a_deadline(void **state)
{
    (void)state;
    link_fixture f;
    struct sockaddr_in here;
    int fd = open_mute(&here, 1);
    link_fixture_open(&f, &(proa_link_security){.key = LINK_KEY, .connect_us = 200000});
    link_fixture_dial_port(&f, "127.0.0.1", ntohs(here.sin_port));
    int64_t start = proa_clock_us();
    expect_down(&f, PROA_ERR_DEADLINE, "no link within 0.20 s: the handshake", 1);
    assert_in_range(f.dialled.down_us - start, 190000, 600000);
    close(fd);
    link_fixture_close(&f);
}

/* A name's addresses are tried in turn: past one that refuses, and past one that does not answer, in its share of the time. The
 * addresses are put in place of the dialled one, before the loop runs. */
static void test_several_addresses(void **state)
{
    (void)state;
    link_fixture f;
    struct sockaddr_in full;
    int fd = open_mute(&full, 0), others[4];
    for (int i = 0; i < 4; i++) { /* nobody accepts: from the second or third on, the kernel lets them wait */
        others[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        int failed = connect(others[i], (struct sockaddr *)&full, sizeof full);
        (void)failed;
    }
    link_fixture_open(&f, &(proa_link_security){.key = LINK_KEY, .connect_us = 900000});
    link_fixture_listen(&f, "127.0.0.1");
    link_fixture_dial(&f, "127.0.0.1");
    proa_addresses *a = &f.dialled.link->dialling->addresses;
    a->list[2] = a->list[0];
    a->list[0].v4.sin_addr.s_addr =
        htonl(INADDR_LOOPBACK + 1); /* refused: this port is open on 127.0.0.1 alone */
    a->list[1].v4 = full;
    a->count = 3;
    int64_t start = proa_clock_us();
    if (!link_fixture_run(&f, link_both_up, 2))
        fail_msg("%s", f.dialled.why.text);
    assert_in_range(proa_clock_us() - start, 400000,
                    700000); /* the second one's share: half of what was left */
    for (int i = 0; i < 4; i++)
        close(others[i]);
    close(fd);
    link_fixture_close(&f);
}

static void test_listeners_that_fail(void **state)
{
    (void)state;
    static const struct {
        const char *host, *key, *text;
        int port;
    } cases[] = {
        {"0.0.0.0", NULL, "PROA_CLUSTER_KEY", 0},    {"::", NULL, "PROA_CLUSTER_KEY", 0},
        {"", NULL, "PROA_CLUSTER_KEY", 0},           {"127.0.0.1", NULL, "there is no port 65536", 65536},
        {"192.0.2.1", LINK_KEY, "cannot listen", 0}, {"no such host", LINK_KEY, "has no address", 0},
    };
    link_fixture f;
    link_fixture_open(&f, &KEYED);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        proa_link_security security = {.key = cases[i].key};
        proa_link_identity self = link_identity("prefill");
        proa_link_hooks hooks = {.up = no_hooks};
        proa_listener *listener = NULL;
        proa_error err = {0};
        assert_true(proa_failed(proa_listener_create(f.loop, &security, &self, cases[i].host, cases[i].port,
                                                     &hooks, &listener, &err)));
        assert_null(listener);
        if (strstr(err.text, cases[i].text) == NULL)
            fail_msg("%s: %s", cases[i].host, err.text);
    }
    link_fixture_listen(&f, "127.0.0.1");
    proa_link_identity self = link_identity("prefill");
    proa_link_hooks hooks = {.up = no_hooks};
    proa_listener *second = NULL;
    proa_error err = {0};
    assert_int_equal(proa_listener_create(f.loop, &KEYED, &self, "127.0.0.1", proa_listener_port(f.listener),
                                          &hooks, &second, &err),
                     PROA_ERR_IO);
    assert_non_null(strstr(err.text, "in use"));
    link_fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hosts),
        cmocka_unit_test(test_dials_that_fail_at_once),
        cmocka_unit_test(test_dials_that_fail_later),
        cmocka_unit_test(test_dial_has_a_deadline),
        cmocka_unit_test(test_several_addresses),
        cmocka_unit_test(test_listeners_that_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
