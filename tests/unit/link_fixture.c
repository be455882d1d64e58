#define _GNU_SOURCE /* memfd_create */
#include "link_fixture.h"

#include "patience.h"

#include "base/clock.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

/* ---- hooks ---- */

static link_end *end_of(link_fixture *f, proa_link *link)
{
    return proa_link_user(link) == &f->dialled ? &f->dialled : &f->accepted;
}

static void on_up(void *context, proa_link *link)
{
    link_end *end = end_of(context, link);
    end->ups++;
    end->link = link;
    if (!end->close_on_up)
        return;
    end->link = NULL;
    proa_link_close(link);
}

static void on_message(void *context, proa_link *link, uint16_t type, const uint8_t *body, size_t length)
{
    link_end *end = end_of(context, link);
    end->messages++;
    end->bytes += length;
    end->type = type;
    if (end->keep) {
        proa_buf_clear(&end->body);
        proa_buf_append(&end->body, body, length);
        end->broken |= end->body.failed;
    }
    if (end->echo)
        end->broken |= proa_link_send(link, type, body, length) != PROA_OK;
    if (end->close_on_first) {
        end->link = NULL;
        proa_link_close(link);
    }
}

static void on_down(void *context, proa_link *link, const proa_error *why)
{
    link_end *end = end_of(context, link);
    end->downs++;
    end->link = NULL;
    end->why = *why;
    end->down_us = proa_clock_us();
}

/* ---- the loop ---- */

typedef struct wait {
    link_fixture *fixture;
    link_condition condition;
    int64_t until_us;
    bool met;
} wait;

static void look(void *context)
{
    wait *w = context;
    w->met = w->condition != NULL && w->condition(w->fixture);
    if (w->met || proa_clock_us() >= w->until_us)
        proa_loop_stop(w->fixture->loop);
}

/* Only while the loop runs: what a failing test says must be seen. */
static void divert_log(link_fixture *f)
{
    fflush(stderr);
    dup2(f->log_fd, 2);
}

static void restore_log(link_fixture *f)
{
    dup2(f->saved_stderr, 2);
}

bool link_fixture_run(link_fixture *f, link_condition condition, double seconds)
{
    double most = condition != NULL ? seconds * test_patience() : seconds;
    wait w = {.fixture = f, .condition = condition, .until_us = proa_clock_us() + (int64_t)(most * 1e6)};
    proa_timer *timer = proa_loop_add_timer(f->loop, 500, look, &w);
    assert_non_null(timer);
    divert_log(f);
    proa_loop_run(f->loop);
    restore_log(f);
    proa_timer_free(timer);
    assert_false(f->accepted.broken || f->dialled.broken);
    return w.met;
}

/* ---- life ---- */

proa_link_identity link_identity(const char *role)
{
    proa_link_identity self = {.instance = 7, .epoch = 9};
    snprintf(self.role, sizeof self.role, "%s", role);
    snprintf(self.name, sizeof self.name, "here:%d", (int)getpid());
    return self;
}

void link_fixture_open(link_fixture *f, const proa_link_security *security)
{
    *f = (link_fixture){.security = *security};
    f->saved_stderr = dup(2);
    f->log_fd = memfd_create("log", MFD_CLOEXEC);
    assert_true(f->saved_stderr >= 0 && f->log_fd >= 0);
    assert_int_equal(proa_loop_create(NULL, NULL, &f->loop, NULL), PROA_OK);
}

static proa_link_hooks hooks_of(link_fixture *f)
{
    return (proa_link_hooks){.up = on_up, .message = on_message, .down = on_down, .context = f};
}

void link_fixture_listen(link_fixture *f, const char *host)
{
    proa_error err = {0};
    proa_link_identity self = link_identity("prefill");
    proa_link_hooks hooks = hooks_of(f);
    if (proa_listener_create(f->loop, &f->security, &self, host, 0, &hooks, &f->listener, &err) != PROA_OK)
        fail_msg("listening on %s: %s", host, err.text);
}

void link_fixture_dial_port(link_fixture *f, const char *host, int port)
{
    char address[300];
    proa_error err = {0};
    proa_link_identity self = link_identity("decode");
    proa_link_hooks hooks = hooks_of(f);
    snprintf(address, sizeof address, "%s:%d", host, port);
    if (proa_link_dial(f->loop, &f->security, &self, address, &hooks, &f->dialled, &f->dialled.link, &err) !=
        PROA_OK)
        fail_msg("dialling %s: %s", address, err.text);
}

void link_fixture_dial(link_fixture *f, const char *host)
{
    link_fixture_dial_port(f, host, proa_listener_port(f->listener));
}

void link_fixture_connect(link_fixture *f)
{
    link_fixture_listen(f, "127.0.0.1");
    link_fixture_dial(f, "127.0.0.1");
    if (!link_fixture_run(f, link_both_up, 2))
        fail_msg("the link does not come up: %s", f->dialled.why.text);
}

void link_fixture_close(link_fixture *f)
{
    if (f->dialled.link != NULL)
        proa_link_close(f->dialled.link);
    if (f->accepted.link != NULL)
        proa_link_close(f->accepted.link);
    proa_listener_free(f->listener);
    proa_loop_free(f->loop);
    proa_buf_free(&f->dialled.body);
    proa_buf_free(&f->accepted.body);
    close(f->saved_stderr);
    close(f->log_fd);
}

/* ---- conditions ---- */

bool link_both_up(const link_fixture *f)
{
    return f->dialled.ups > 0 && f->accepted.ups > 0;
}

bool link_dialled_down(const link_fixture *f)
{
    return f->dialled.downs > 0;
}

bool link_accepted_down(const link_fixture *f)
{
    return f->accepted.downs > 0;
}

int link_fixture_logged(link_fixture *f, const char *text)
{
    char all[65536];
    ssize_t n = pread(f->log_fd, all, sizeof all - 1, 0);
    int count = 0;
    assert_true(n >= 0);
    all[n] = 0;
    for (const char *at = all; (at = strstr(at, text)) != NULL; at++)
        count++;
    return count;
}

/* ---- raw sockets ---- */

int link_raw_connect(const link_fixture *f)
{
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)proa_listener_port(f->listener)),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof to), 0);
    assert_int_equal(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
    return fd;
}

void link_raw_send(int fd, const void *bytes, size_t length)
{
    assert_int_equal(send(fd, bytes, length, MSG_NOSIGNAL), (ssize_t)length);
}

bool link_raw_closed(link_fixture *f, int fd, proa_buf *out, double seconds)
{
    int64_t until_us = proa_clock_us() + (int64_t)(seconds * 1e6);
    do {
        char bytes[4096];
        ssize_t n = recv(fd, bytes, sizeof bytes, MSG_DONTWAIT);
        if (n == 0 || (n < 0 && errno != EAGAIN))
            return true;
        if (n > 0 && out != NULL)
            proa_buf_append(out, bytes, (size_t)n);
        link_fixture_run(f, NULL, 0.002);
    } while (proa_clock_us() < until_us);
    return false;
}

/* Takes the frames of `in` that are whole. */
static void take_frames(proa_handshake *h, proa_buf *in, proa_buf *out)
{
    proa_frame frame;
    while (h->state < PROA_HANDSHAKE_DONE && in->length >= PROA_FRAME_HEADER_BYTES &&
           proa_frame_read((const uint8_t *)in->data, 256, &frame, NULL) == PROA_OK &&
           in->length >= PROA_FRAME_HEADER_BYTES + frame.length) {
        proa_handshake_take(h, frame.type, (const uint8_t *)in->data + PROA_FRAME_HEADER_BYTES, frame.length,
                            out, NULL);
        proa_buf_drop_front(in, PROA_FRAME_HEADER_BYTES + frame.length);
    }
}

bool link_raw_handshake(link_fixture *f, int fd, proa_handshake *handshake, const proa_link_identity *self)
{
    proa_handshake_options options = {
        .dials = true, .key = (const uint8_t *)LINK_KEY, .key_bytes = strlen(LINK_KEY), .self = *self};
    proa_buf in = {0}, out = {0};
    int64_t until_us = proa_clock_us() + 2000000;
    int ups = f->accepted.ups;
    proa_random_bytes(options.nonce, sizeof options.nonce);
    proa_handshake_start(handshake, &options, &out);
    while (handshake->state < PROA_HANDSHAKE_DONE && proa_clock_us() < until_us) {
        for (size_t i = 0; i < out.length; i++)
            link_raw_send(fd, out.data + i, 1);
        proa_buf_clear(&out);
        link_fixture_run(f, NULL, 0.001);
        char bytes[512];
        ssize_t n = recv(fd, bytes, sizeof bytes, MSG_DONTWAIT);
        if (n == 0)
            break;
        if (n > 0)
            proa_buf_append(&in, bytes, (size_t)n);
        take_frames(handshake, &in, &out);
    }
    proa_buf_free(&in);
    proa_buf_free(&out);
    return handshake->state == PROA_HANDSHAKE_DONE && f->accepted.ups == ups + 1;
}
