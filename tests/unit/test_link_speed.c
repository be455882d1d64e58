/* test_link_speed.c - a link between two threads of this machine, each with its loop: round trips of 64 bytes, messages a second, bytes
 * a second; plain and with TLS. The floors are far below what an idle machine does, and one try of some has to be over them: they
 * catch a wait that should not be there (Nagle's 40 ms, a poll's millisecond), not a slow day. */
#include "link_certificates.h"
#include "link_fixture.h"

#include "base/clock.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    TRIES = 3,
    ROUND_TRIPS = 2000,
    MESSAGES = 20000,
    BULK_MESSAGES = 64,
    BULK_BYTES = 1 << 20,
    QUESTION = 1,
    ONE_WAY,
    LAST
};

typedef struct side {
    proa_loop *loop;
    proa_link *link;
    proa_status failed;
    /* the dialler's */
    uint8_t *body;
    size_t body_bytes;
    int left; /* of the current measurement, to send or to hear of */
} side;

static void on_up(void *context, proa_link *link)
{
    side *s = context;
    s->link = link;
    proa_loop_stop(s->loop);
}

static void on_down(void *context, proa_link *link, const proa_error *why)
{
    side *s = context;
    (void)link;
    print_message("down: %s\n", why->text);
    s->link = NULL;
    s->failed = why->status;
    proa_loop_stop(s->loop);
}

static void answer(void *context, proa_link *link, uint16_t type, const uint8_t *body, size_t length)
{
    side *s = context;
    if (type != ONE_WAY && proa_link_send(link, type, body, type == LAST ? 0 : length) != PROA_OK)
        s->failed = PROA_ERR_INTERNAL;
}

static void hear(void *context, proa_link *link, uint16_t type, const uint8_t *body, size_t length)
{
    side *s = context;
    (void)body;
    (void)length;
    if (type == LAST || --s->left == 0)
        proa_loop_stop(s->loop);
    else if (proa_link_send(link, QUESTION, s->body, s->body_bytes) != PROA_OK)
        s->failed = PROA_ERR_INTERNAL;
}

/* Sends while there is room, then waits to be called again. */
static void pour(void *context)
{
    side *s = context;
    while (s->left > 0 && s->failed == PROA_OK && proa_link_pending(s->link) < 4 << 20) {
        uint16_t type = s->left == 1 ? LAST : ONE_WAY;
        if (proa_link_send(s->link, type, s->body, s->body_bytes) != PROA_OK)
            s->failed = PROA_ERR_INTERNAL;
        s->left--;
    }
}

static double measure(side *s, int count, size_t bytes, bool one_way)
{
    int64_t start = proa_clock_us();
    s->body_bytes = bytes;
    s->left = count;
    proa_timer *timer = NULL;
    if (one_way) {
        timer = proa_loop_add_timer(s->loop, 500, pour, s);
        pour(s);
    } else
        assert_int_equal(proa_link_send(s->link, QUESTION, s->body, bytes), PROA_OK);
    proa_loop_run(s->loop);
    proa_timer_free(timer);
    assert_int_equal(s->failed, PROA_OK);
    return (double)(proa_clock_us() - start) / 1e6;
}

/* Whether it is faster than the floors. */
static bool measure_once(const char *name, side *client)
{
    double trips = ROUND_TRIPS / measure(client, ROUND_TRIPS, 64, false);
    double messages = MESSAGES / measure(client, MESSAGES, 64, true);
    double mb = BULK_MESSAGES * (BULK_BYTES / 1e6) / measure(client, BULK_MESSAGES, BULK_BYTES, true);
    print_message(
        "%s: %.0f round trips/s of 64 bytes, %.0f messages/s of 64 bytes, %.0f MB/s in messages of 1 MiB\n",
        name, trips, messages, mb);
    return trips > 500 && messages > 10000 && mb > 20;
}

static void *serve(void *context)
{
    proa_loop_run(context);
    proa_loop_run(context); /* `up` has ended the first */
    return NULL;
}

static void measure_all(const char *name, const proa_link_security *security)
{
    side server = {0}, client = {.body = calloc(1, BULK_BYTES)};
    proa_listener *listener;
    proa_link *link;
    pthread_t thread;
    char address[40];
    proa_link_identity self = link_identity("decode");
    proa_link_hooks answers = {.up = on_up, .message = answer, .down = on_down, .context = &server};
    proa_link_hooks hears = {.up = on_up, .message = hear, .down = on_down, .context = &client};
    assert_non_null(client.body);
    assert_int_equal(proa_loop_create(NULL, NULL, &server.loop, NULL), PROA_OK);
    assert_int_equal(proa_loop_create(NULL, NULL, &client.loop, NULL), PROA_OK);
    assert_int_equal(
        proa_listener_create(server.loop, security, &self, "127.0.0.1", 0, &answers, &listener, NULL),
        PROA_OK);
    snprintf(address, sizeof address, "127.0.0.1:%d", proa_listener_port(listener));
    assert_int_equal(pthread_create(&thread, NULL, serve, server.loop), 0);
    assert_int_equal(proa_link_dial(client.loop, security, &self, address, &hears, NULL, &link, NULL),
                     PROA_OK);
    proa_loop_run(client.loop);
    assert_non_null(client.link);

    bool fast = false;
    for (int i = 0; i < TRIES && !fast; i++)
        fast = measure_once(name, &client);
    proa_loop_stop(server.loop);
    pthread_join(thread, NULL);
    assert_int_equal(server.failed, PROA_OK);
    proa_link_close(client.link);
    proa_link_close(server.link);
    proa_listener_free(listener);
    proa_loop_free(client.loop);
    proa_loop_free(server.loop);
    free(client.body);
    assert_true(fast);
}

static void test_plain(void **state)
{
    (void)state;
    measure_all("plain", &(proa_link_security){.key = LINK_KEY});
}

static void test_tls(void **state)
{
    (void)state;
    link_paths place;
    char folder[] = "/tmp/proa-speed-XXXXXX";
    assert_non_null(mkdtemp(folder));
    link_certificates_make(folder);
    proa_link_security security = link_certificates_security(folder, "a", "ca", &place);
    measure_all("TLS", &security);
    link_certificates_remove(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plain),
        cmocka_unit_test(test_tls),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
