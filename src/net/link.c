/* link.c - a link's life over a connected socket: handshake, frames, heartbeats, silence, the end.
 *
 * Why a bufferevent: it owns the buffers and hides whether TLS lies between. A message is copied once on its way out, into the
 * output buffer; on its way in, once more when it has come in several pieces, since a hook gets it in one.
 *
 * Calls may come back: a hook sends, closes its own link or another one. So nothing is freed while one of the link's own
 * functions is on the stack (proa_link_enter, proa_link_leave), and everything that follows a hook looks at `state` first.
 */
#include "net/link_internal.h"

#include "base/clock.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    SOCKET_STEP_BYTES = 1 << 18, /* taken from a socket, or given to it, before others have their turn */
    LAST_READ_BYTES = 1 << 20,   /* thrown away of what a peer has sent to a link that is closed */
};

static void destroy(proa_link *link);

/* ---- depth ---- */

void proa_link_enter(proa_link *link)
{
    link->depth++;
}

void proa_link_leave(proa_link *link)
{
    PROA_ASSERT(link->depth > 0);
    if (--link->depth == 0 && link->state == PROA_LINK_DOWN)
        destroy(link);
}

/* ---- sending ---- */

static void queue(proa_link *link, const void *bytes, size_t length)
{
    bufferevent_write(link->stream, bytes, length);
    link->said_us = proa_clock_us();
}

static void queue_beat(proa_link *link)
{
    uint8_t header[PROA_FRAME_HEADER_BYTES];
    proa_frame_write(header, PROA_FRAME_BEAT, 0);
    queue(link, header, sizeof header);
}

proa_status proa_link_send(proa_link *link, uint16_t type, const void *body, size_t length)
{
    PROA_ASSERT(type < PROA_FRAME_HELLO);
    proa_loop_assert_owner(link->loop);
    if (length > PROA_LINK_FRAME_BYTES_MAX)
        return PROA_ERR_TOO_LONG;
    if (link->state != PROA_LINK_UP || link->mute)
        return PROA_ERR_UNREACHABLE;
    struct evbuffer *out = bufferevent_get_output(link->stream);
    size_t bytes = PROA_FRAME_HEADER_BYTES + length;
    if (evbuffer_get_length(out) + bytes > PROA_LINK_PENDING_BYTES_MAX)
        return PROA_BUSY;
    uint8_t header[PROA_FRAME_HEADER_BYTES];
    proa_frame_write(header, type, (uint32_t)length);
    /* room for both first: half a frame would be the end of the link */
    if (evbuffer_expand(out, bytes) != 0 || evbuffer_add(out, header, sizeof header) != 0 ||
        evbuffer_add(out, body, length) != 0)
        return PROA_ERR_MEMORY;
    link->said_us = proa_clock_us();
    return PROA_OK;
}

size_t proa_link_pending(const proa_link *link)
{
    return link->stream != NULL ? evbuffer_get_length(bufferevent_get_output(link->stream)) : 0;
}

/* ---- the end ---- */

/* The socket takes what it takes now. What has come in unread is thrown away first: closing over it would send a reset, which
 * may overtake what the peer has not read yet. */
static void flush(proa_link *link)
{
    int fd = bufferevent_getfd(link->stream);
    if (link->terms->tls != NULL)
        proa_tls_flush(link->stream);
    else {
        struct evbuffer *out = bufferevent_get_output(link->stream);
        evbuffer_unfreeze(out,
                          1); /* a bufferevent keeps others from taking bytes out; this one is at its end */
        while (evbuffer_get_length(out) > 0 && evbuffer_write(out, fd) > 0) {
        }
    }
    shutdown(fd, SHUT_WR);
    char sink[4096];
    for (size_t taken = 0; taken < LAST_READ_BYTES;) {
        ssize_t n = recv(fd, sink, sizeof sink, MSG_DONTWAIT);
        if (n <= 0)
            break;
        taken += (size_t)n;
    }
}

/* From here on libevent calls nothing of this link. */
static void silence(proa_link *link)
{
    link->state = PROA_LINK_DOWN;
    if (link->listener != NULL)
        proa_listener_forget(link);
    proa_link_dialling_free(link);
    evtimer_del(link->timer);
    if (link->stream != NULL) {
        bufferevent_setcb(link->stream, NULL, NULL, NULL, NULL);
        bufferevent_disable(link->stream, EV_READ | EV_WRITE);
    }
}

static void destroy(proa_link *link)
{
    event_free(link->timer);
    if (link->stream != NULL)
        bufferevent_free(link->stream);
    proa_link_terms_release(link->terms);
    free(link);
}

void proa_link_close(proa_link *link)
{
    if (link == NULL)
        return;
    proa_loop_assert_owner(link->loop);
    if (link->state == PROA_LINK_DOWN) { /* inside a hook, `down` for example: freed when that returns */
        PROA_ASSERT(link->depth > 0);
        return;
    }
    if (link->stream != NULL)
        flush(link);
    proa_link_enter(link);
    silence(link);
    proa_link_leave(link);
}

void proa_link_fail(proa_link *link, const proa_error *why)
{
    if (link->state == PROA_LINK_DOWN)
        return;
    proa_link_enter(link);
    bool told = link->dials || link->state == PROA_LINK_UP;
    if (!told)
        proa_listener_refused(link, why);
    if (link->state == PROA_LINK_HANDSHAKE)
        flush(link); /* its last word says why */
    silence(link);
    if (told)
        link->hooks.down(link->hooks.context, link, why);
    proa_link_leave(link);
}

static void fail(proa_link *link, proa_status status, const char *text)
{
    proa_error why;
    proa_error_set(&why, status, "%s", text);
    proa_link_fail(link, &why);
}

/* ---- receiving ---- */

static void come_up(proa_link *link)
{
    link->state = PROA_LINK_UP;
    if (link->listener != NULL)
        proa_listener_forget(link);
    link->heard_us = proa_clock_us();
    proa_link_arm(link, link->terms->beat_us);
    link->hooks.up(link->hooks.context, link);
}

static void take_handshake(proa_link *link, uint16_t type, const uint8_t *body, size_t length)
{
    proa_buf out = {0};
    proa_error why;
    proa_status status = proa_handshake_take(&link->handshake, type, body, length, &out, &why);
    if (out.length > 0)
        queue(link, out.data, out.length);
    bool failed = out.failed;
    proa_buf_free(&out);
    if (status != PROA_OK)
        proa_link_fail(link, &why);
    else if (failed)
        fail(link, PROA_ERR_MEMORY, "no memory for the handshake");
    else if (link->handshake.state == PROA_HANDSHAKE_DONE)
        come_up(link);
}

static void take_frame(proa_link *link, const proa_frame *frame, const uint8_t *body)
{
    if (link->state == PROA_LINK_HANDSHAKE)
        take_handshake(link, frame->type, body, frame->length);
    else if (frame->type < PROA_FRAME_HELLO)
        link->hooks.message(link->hooks.context, link, frame->type, body, frame->length);
    else if (frame->type != PROA_FRAME_BEAT || frame->length != 0) {
        proa_error why;
        proa_error_set(&why, PROA_ERR_PROTOCOL,
                       "it sends type 0x%04x with %u bytes, which belongs to no open link", frame->type,
                       frame->length);
        proa_link_fail(link, &why);
    }
}

/* All frames that are there whole. */
static void read_frames(proa_link *link)
{
    struct evbuffer *in = bufferevent_get_input(link->stream);
    while (link->state == PROA_LINK_HANDSHAKE || link->state == PROA_LINK_UP) {
        const uint8_t *header = evbuffer_get_length(in) >= PROA_FRAME_HEADER_BYTES
                                    ? evbuffer_pullup(in, PROA_FRAME_HEADER_BYTES)
                                    : NULL;
        if (header == NULL)
            return;
        proa_frame frame;
        proa_error why;
        uint32_t length_max =
            link->state == PROA_LINK_UP ? PROA_LINK_FRAME_BYTES_MAX : PROA_HANDSHAKE_BODY_BYTES_MAX;
        if (proa_frame_read(header, length_max, &frame, &why) != PROA_OK) {
            proa_link_fail(link, &why);
            return;
        }
        size_t bytes = PROA_FRAME_HEADER_BYTES + frame.length;
        if (evbuffer_get_length(in) < bytes)
            return;
        const uint8_t *whole = evbuffer_pullup(in, (ev_ssize_t)bytes);
        if (whole == NULL) {
            fail(link, PROA_ERR_MEMORY, "no memory for a message");
            return;
        }
        take_frame(link, &frame, whole + PROA_FRAME_HEADER_BYTES);
        evbuffer_drain(in, bytes);
    }
}

static void on_read(struct bufferevent *stream, void *context)
{
    (void)stream;
    proa_link *link = context;
    proa_link_enter(link);
    link->heard_us = proa_clock_us();
    link->heard_any = true;
    read_frames(link);
    proa_link_leave(link);
}

/* ---- what becomes of the socket ---- */

/* What errno means for a connection that stood: only these say that the peer's system has ended it. */
static proa_status status_of(int cause)
{
    return cause == 0 || cause == ECONNRESET || cause == EPIPE ? PROA_ERR_UNREACHABLE : PROA_ERR_DEADLINE;
}

static void on_error(proa_link *link, short what, int cause)
{
    char text[300];
    if (link->terms->tls != NULL && proa_tls_explain(link->stream, text, sizeof text)) {
        proa_error why;
        proa_error_set(&why, PROA_ERR_PROTOCOL, "TLS: %s", text);
        proa_link_fail(link, &why);
    } else if ((what & BEV_EVENT_WRITING) != 0 && link->state == PROA_LINK_UP && link->terms->tls == NULL &&
               status_of(cause) == PROA_ERR_UNREACHABLE) {
        /* the peer is gone, but what it said before may still be in the socket: reading on comes to its end soon */
        link->mute = true;
        bufferevent_disable(link->stream, EV_WRITE);
        bufferevent_enable(link->stream, EV_READ);
    } else
        fail(link, status_of(cause), cause != 0 ? strerror(cause) : "the connection broke off");
}

static void begin_handshake(proa_link *link)
{
    proa_handshake_options options = {
        .dials = link->dials,
        .key = link->terms->key,
        .key_bytes = link->terms->key_bytes,
        .self = link->terms->self,
    };
    proa_buf out = {0};
    link->state = PROA_LINK_HANDSHAKE;
    proa_random_bytes(options.nonce, sizeof options.nonce);
    if (link->terms->tls != NULL && !proa_tls_binding(link->stream, options.binding)) {
        fail(link, PROA_ERR_PROTOCOL, "the TLS session gives no key to bind the handshake to");
        return;
    }
    proa_handshake_start(&link->handshake, &options, &out);
    if (out.failed)
        fail(link, PROA_ERR_MEMORY, "no memory for the handshake");
    else if (out.length > 0)
        queue(link, out.data, out.length);
    proa_buf_free(&out);
}

static void on_event(struct bufferevent *stream, short what, void *context)
{
    (void)stream;
    int cause = errno;
    proa_link *link = context;
    proa_link_enter(link);
    if ((what & BEV_EVENT_CONNECTED) != 0)
        begin_handshake(link);
    else if ((what & BEV_EVENT_EOF) != 0)
        fail(link, PROA_ERR_UNREACHABLE,
             link->state == PROA_LINK_UP ? "it has closed the connection"
             : link->state == PROA_LINK_TLS
                 ? "it has closed the connection before TLS was set up (is TLS on at "
                   "both ends?)"
                 : "it has closed the connection before the handshake was over");
    else
        on_error(link, what, cause);
    proa_link_leave(link);
}

/* ---- time ---- */

void proa_link_arm(proa_link *link, int64_t in_us)
{
    struct timeval in = proa_loop_timeval(in_us);
    link->due_us = proa_clock_us() + in_us;
    evtimer_add(link->timer, &in);
}

static void too_late(proa_link *link)
{
    static const char *const waits[] = {
        [PROA_LINK_LOOKUP] = "its name is not resolved",
        [PROA_LINK_CONNECT] = "it does not take the connection",
        [PROA_LINK_TLS] = "TLS does not come to an end",
        [PROA_LINK_HANDSHAKE] = "the handshake does not come to an end",
    };
    proa_error why;
    proa_error_set(&why, PROA_ERR_DEADLINE, "no link within %.2f s: %s",
                   (double)link->terms->connect_us / 1e6, waits[link->state]);
    proa_link_fail(link, &why);
}

/* A timer that comes late shows that this thread was held up: in another link's hook, stopped, without a processor, or with the whole
 * machine, and then its peers there too. In that time nobody could be heard, so it is no silence of theirs. */
static void forgive(proa_link *link, int64_t now_us)
{
    int64_t late_us = now_us - link->due_us;
    if (late_us < link->terms->beat_us)
        return;
    link->heard_us += late_us;
    if (link->heard_us > now_us)
        link->heard_us = now_us;
}

/* The timer is set for when a heartbeat or silence would be due if nothing more happened; what did happen puts it off here,
 * so that a busy link costs no timer a message. */
static void keep_alive(proa_link *link, int64_t now_us)
{
    const proa_link_terms *t = link->terms;
    forgive(link, now_us);
    if (now_us - link->heard_us >= t->silence_us) {
        proa_error why;
        proa_error_set(&why, PROA_ERR_DEADLINE, "nothing was heard of it for %.2f s",
                       (double)(now_us - link->heard_us) / 1e6);
        proa_link_fail(link, &why);
        return;
    }
    if (now_us - link->said_us >= t->beat_us) {
        if (proa_link_pending(link) == 0 && !link->mute)
            queue_beat(link);
        link->said_us = now_us; /* with bytes pending, those are the sign of life */
    }
    int64_t silent_us = link->heard_us + t->silence_us, beat_us = link->said_us + t->beat_us;
    proa_link_arm(link, (silent_us < beat_us ? silent_us : beat_us) - now_us);
}

static void on_timer(evutil_socket_t fd, short what, void *context)
{
    (void)fd;
    (void)what;
    proa_link *link = context;
    int64_t now = proa_clock_us();
    proa_link_enter(link);
    if (link->state == PROA_LINK_UP)
        keep_alive(link, now);
    else if (now >= link->deadline_us)
        too_late(link);
    else if (link->state == PROA_LINK_CONNECT)
        proa_link_dial_next(link);
    else
        proa_link_arm(link, link->deadline_us - now);
    proa_link_leave(link);
}

/* ---- life ---- */

proa_link *proa_link_new(proa_loop *loop, proa_link_terms *terms, const proa_link_hooks *hooks, bool dials)
{
    proa_link *link = calloc(1, sizeof *link);
    if (link == NULL)
        return NULL;
    link->timer = evtimer_new(proa_loop_base(loop), on_timer, link);
    if (link->timer == NULL) {
        free(link);
        return NULL;
    }
    link->loop = loop;
    link->terms = terms;
    terms->holders++;
    link->hooks = *hooks;
    link->dials = dials;
    link->state = dials ? PROA_LINK_LOOKUP : PROA_LINK_TLS;
    link->deadline_us = proa_clock_us() + terms->connect_us;
    return link;
}

void proa_link_begin(proa_link *link, int fd)
{
    int on = 1;
    struct event_base *base = proa_loop_base(link->loop);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (link->terms->tls != NULL)
        link->stream = proa_tls_wrap(link->terms->tls, base, fd, link->dials);
    else {
        link->stream = bufferevent_socket_new(base, fd, BEV_OPT_CLOSE_ON_FREE);
        if (link->stream == NULL)
            close(fd);
    }
    if (link->stream == NULL) {
        fail(link, PROA_ERR_MEMORY, "no memory for a link");
        return;
    }
    link->state = PROA_LINK_TLS;
    proa_link_arm(link, link->deadline_us - proa_clock_us());
    bufferevent_set_max_single_read(link->stream, SOCKET_STEP_BYTES);
    bufferevent_set_max_single_write(link->stream, SOCKET_STEP_BYTES);
    bufferevent_setcb(link->stream, on_read, NULL, on_event, link);
    bufferevent_enable(link->stream, EV_READ | EV_WRITE);
    if (link->terms->tls == NULL)
        begin_handshake(link);
}

bool proa_link_is_up(const proa_link *link)
{
    return link->state == PROA_LINK_UP;
}

const proa_link_identity *proa_link_peer(const proa_link *link)
{
    return &link->handshake.peer;
}

const char *proa_link_address(const proa_link *link)
{
    return link->address;
}

const uint8_t *proa_link_session_key(const proa_link *link)
{
    return link->handshake.session_key;
}

void proa_link_set_user(proa_link *link, void *user)
{
    link->user = user;
}

void *proa_link_user(const proa_link *link)
{
    return link->user;
}
