/* fuzz_link.c - what a peer may send. The first byte picks one of
 *   0, 1  a stranger's bytes to the handshake of an accepting or a dialling end: it must never come up
 *   2, 3  two honest ends, and someone between them who changes bytes of what goes to one of them: who was lied to does not come up
 *   4     an honest handshake over a socket with a link of link.c, and then any bytes
 */
#include "net/link_internal.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define KEY "0123456789abcdef"

static void require(bool condition)
{
    if (!condition)
        abort();
}

/* ---- the pure handshake ---- */

typedef struct end {
    proa_handshake handshake;
    proa_buf in;
    size_t taken;
    proa_error error;
} end;

static proa_handshake_options options_of(bool dials)
{
    proa_handshake_options o = {.dials = dials, .key = (const uint8_t *)KEY, .key_bytes = sizeof KEY - 1};
    o.self = (proa_link_identity){.instance = 1, .epoch = dials ? 2 : 3, .role = "prefill", .name = "host:1"};
    memset(o.nonce, dials ? 0xd1 : 0xac, sizeof o.nonce);
    return o;
}

static void start(end *e, bool dials, proa_buf *out)
{
    proa_handshake_options o = options_of(dials);
    memset(e, 0, sizeof *e);
    proa_handshake_start(&e->handshake, &o, out);
}

/* One frame, as a link takes it. */
static bool step(end *e, proa_buf *out)
{
    proa_frame frame;
    const uint8_t *at = (const uint8_t *)e->in.data + e->taken;
    size_t left = e->in.length - e->taken;
    if (e->handshake.state >= PROA_HANDSHAKE_DONE || left < PROA_FRAME_HEADER_BYTES)
        return false;
    if (proa_frame_read(at, PROA_HANDSHAKE_BODY_BYTES_MAX, &frame, &e->error) != PROA_OK) {
        require(e->error.status == PROA_ERR_PROTOCOL && e->error.text[0] != 0);
        return false;
    }
    require(frame.length <= PROA_HANDSHAKE_BODY_BYTES_MAX);
    if (left < PROA_FRAME_HEADER_BYTES + frame.length)
        return false;
    e->taken += PROA_FRAME_HEADER_BYTES + frame.length;
    proa_status status = proa_handshake_take(&e->handshake, frame.type, at + PROA_FRAME_HEADER_BYTES,
                                             frame.length, out, &e->error);
    require(status == PROA_OK || (status == PROA_ERR_PROTOCOL && e->error.text[0] != 0));
    require((status != PROA_OK) == (e->handshake.state == PROA_HANDSHAKE_REFUSED));
    return status == PROA_OK;
}

static void stranger(bool dials, const uint8_t *data, size_t size)
{
    end e;
    proa_buf out = {0};
    start(&e, dials, &out);
    proa_buf_append(&e.in, data, size);
    while (step(&e, &out)) {
    }
    require(e.handshake.state != PROA_HANDSHAKE_DONE);
    require(out.length <=
            2 * (PROA_FRAME_HEADER_BYTES + PROA_HANDSHAKE_BODY_BYTES_MAX)); /* and costs little */
    proa_buf_free(&e.in);
    proa_buf_free(&out);
}

/* Takes three bytes a change: where (two) and what. */
static void between(int victim, const uint8_t *data, size_t size)
{
    end ends[2];
    proa_buf out[2] = {{0}, {0}};
    bool lied = false, moved = true;
    size_t passed = 0;
    for (int i = 0; i < 2; i++)
        start(&ends[i], i == 1, &out[1 - i]);
    while (moved) {
        moved = false;
        for (int i = 0; i < 2; i++) {
            for (size_t c = 0; i == victim && c + 3 <= size; c += 3) {
                size_t at = data[c] | (size_t)data[c + 1] << 8;
                if (at < passed || at - passed >= out[i].length || data[c + 2] == 0)
                    continue;
                out[i].data[at - passed] = (char)((uint8_t)out[i].data[at - passed] ^ data[c + 2]);
            }
            passed += i == victim ? out[i].length : 0;
            proa_buf_append(&ends[i].in, proa_buf_text(&out[i]), out[i].length);
            proa_buf_clear(&out[i]);
            moved |= step(&ends[i], &out[1 - i]);
        }
    }
    /* lied to: what it took is not what the other end believes to have said */
    const proa_hello *said = &ends[1 - victim].handshake.mine, *heard = &ends[victim].handshake.theirs;
    lied = said->length != heard->length || memcmp(said->bytes, heard->bytes, said->length) != 0;
    if (lied)
        require(ends[victim].handshake.state != PROA_HANDSHAKE_DONE);
    if (ends[0].handshake.state == PROA_HANDSHAKE_DONE && ends[1].handshake.state == PROA_HANDSHAKE_DONE)
        require(memcmp(ends[0].handshake.session_key, ends[1].handshake.session_key, PROA_LINK_KEY_BYTES) ==
                0);
    for (int i = 0; i < 2; i++) {
        proa_buf_free(&ends[i].in);
        proa_buf_free(&out[i]);
    }
}

/* ---- a link over a socket ---- */

typedef struct scene {
    proa_loop *loop;
    proa_link_terms *terms;
    int fd; /* the fuzzer's end */
    proa_buf out;
    end peer; /* accepts */
    int ups, downs;
    const uint8_t *data;
    size_t size, heard;
} scene;

static void send_all(int fd, const void *bytes, size_t length)
{
    ssize_t n = send(fd, bytes, length, MSG_NOSIGNAL);
    (void)n; /* the link may have closed already */
}

static void on_up(void *context, proa_link *link)
{
    scene *s = context;
    (void)link;
    s->ups++;
    send_all(s->fd, s->data, s->size);
    shutdown(s->fd, SHUT_WR);
}

static void on_message(void *context, proa_link *link, uint16_t type, const uint8_t *body, size_t length)
{
    scene *s = context;
    uint8_t beat[PROA_FRAME_HEADER_BYTES];
    proa_frame_write(beat, PROA_FRAME_BEAT, 0);
    require(s->ups == 1 && s->downs == 0 && type < PROA_FRAME_HELLO);
    while (s->size - s->heard >= sizeof beat && memcmp(s->data + s->heard, beat, sizeof beat) == 0)
        s->heard += sizeof beat; /* which no hook is told of */
    require(s->heard + PROA_FRAME_HEADER_BYTES + length <= s->size);
    s->heard += PROA_FRAME_HEADER_BYTES;
    if (length > 0)
        require(memcmp(body, s->data + s->heard, length) == 0);
    s->heard += length;
    if (type == 7)
        proa_link_send(link, type, body, length);
    if (type == 8) {
        proa_link_close(link);
        proa_loop_stop(s->loop);
    }
}

static void on_down(void *context, proa_link *link, const proa_error *why)
{
    scene *s = context;
    (void)link;
    require(why->text[0] != 0);
    require(why->status == PROA_ERR_PROTOCOL || why->status == PROA_ERR_UNREACHABLE);
    s->downs++;
    proa_loop_stop(s->loop);
}

/* The fuzzer's end of the handshake. */
static void on_readable(void *context)
{
    scene *s = context;
    char bytes[1024];
    ssize_t n = recv(s->fd, bytes, sizeof bytes, MSG_DONTWAIT);
    if (n <= 0)
        return;
    if (s->peer.handshake.state == PROA_HANDSHAKE_DONE)
        return;
    proa_buf_append(&s->peer.in, bytes, (size_t)n);
    while (step(&s->peer, &s->out)) {
    }
    send_all(s->fd, proa_buf_text(&s->out), s->out.length);
    proa_buf_clear(&s->out);
}

static void link_over_socket(const uint8_t *data, size_t size)
{
    static proa_loop *loop; /* one for all inputs: its set-up costs more than an input */
    scene s = {.data = data, .size = size};
    int fds[2];
    proa_link_identity self = {.epoch = 5, .role = "decode"};
    if (loop == NULL)
        require(proa_loop_create(NULL, NULL, &loop, NULL) == PROA_OK);
    s.loop = loop;
    require(proa_link_terms_create(
                &(proa_link_security){.key = KEY, .silence_us = 600000000, .connect_us = 600000000}, &self,
                &s.terms, NULL) == PROA_OK);
    require(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) == 0);
    s.fd = fds[0];
    start(&s.peer, false, &s.out);
    proa_link_hooks hooks = {.up = on_up, .message = on_message, .down = on_down, .context = &s};
    proa_link *link = proa_link_new(loop, s.terms, &hooks, true);
    proa_watch *watch = proa_loop_add_watch(loop, s.fd, on_readable, &s);
    require(link != NULL && watch != NULL);
    proa_link_begin(link, fds[1]);
    proa_loop_run(loop);
    require(s.ups == 1);
    proa_watch_free(watch);
    proa_link_terms_release(s.terms);
    proa_buf_free(&s.out);
    proa_buf_free(&s.peer.in);
    close(s.fd);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1 || size > 65536)
        return 0;
    switch (data[0] % 5) {
    case 0:
    case 1: stranger(data[0] % 5 == 1, data + 1, size - 1); break;
    case 2:
    case 3: between(data[0] % 5 - 2, data + 1, size - 1); break;
    default: link_over_socket(data + 1, size - 1); break;
    }
    return 0;
}
