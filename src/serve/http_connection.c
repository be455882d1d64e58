/* http_connection.c - one connection: requests in, replies out, deadlines. The phases are drawn in http_internal.h.
 *
 * While a reply is under way the connection goes on reading (up to a watermark), so that a client who leaves is
 * noticed at once; a half-closed connection counts as left, as in most servers.
 */
#include "serve/http_internal.h"

#include "base/clock.h"
#include "base/random.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <time.h>

enum {
    INPUT_BYTES_MAX = 65536,   /* read ahead of what is processed */
    NOT_SENT_BYTES_MAX = 32768 /* in the kernel: what a slow reader has not taken stays visible to us */
};
static const double linger_s = 2;

/* --- small things --- */

static size_t output_length(const proa_http_exchange *c)
{
    return evbuffer_get_length(bufferevent_get_output(c->bufferevent));
}

static size_t input_length(const proa_http_exchange *c)
{
    return evbuffer_get_length(bufferevent_get_input(c->bufferevent));
}

static void set_phase(proa_http_exchange *c, proa_http_phase phase)
{
    c->phase = phase;
    c->phase_us = proa_clock_us();
}

/* Runs the read or write callback from the loop, never from inside the caller. */
static void run_later(proa_http_exchange *c, short what)
{
    bufferevent_trigger(c->bufferevent, what, BEV_TRIG_IGNORE_WATERMARKS | BEV_TRIG_DEFER_CALLBACKS);
}

/* Bodies are charged as they arrive; `bytes` is what this one holds now. */
static void charge(proa_http_exchange *c, size_t bytes)
{
    c->http->stats.bodies_bytes += bytes - c->charged;
    c->charged = bytes;
}

static bool is_request_id_char(unsigned char c)
{
    return c > 0x20 && c < 0x7f && c != '"' && c != '\\';
}

static void choose_id(proa_http_exchange *c)
{
    const char *given = proa_http_request_header(&c->parser.request, "x-request-id");
    size_t length = given != NULL ? strlen(given) : 0;
    bool good = length > 0 && length <= 128;
    for (size_t i = 0; good && i < length; i++)
        good = is_request_id_char((unsigned char)given[i]);
    if (good) {
        snprintf(c->id, sizeof c->id, "%s", given);
        return;
    }
    uint32_t w[4];
    proa_random_philox(c->http->id_key[0], c->http->id_count++, c->http->id_key[1], w);
    snprintf(c->id, sizeof c->id, "%08x%08x%08x%08x", w[0], w[1], w[2], w[3]);
}

/* --- life --- */

static void on_output_change(struct evbuffer *buffer, const struct evbuffer_cb_info *info, void *context)
{
    (void)buffer;
    proa_http_exchange *c = context;
    if (info->n_deleted > 0 || info->orig_size == 0)
        c->write_us = proa_clock_us();
}

static void set_socket_options(evutil_socket_t fd)
{
    const struct {
        int level;
        int name;
        int value;
    } options[] = {
        {IPPROTO_TCP, TCP_NODELAY, 1},   {IPPROTO_TCP, TCP_NOTSENT_LOWAT, NOT_SENT_BYTES_MAX},
        {SOL_SOCKET, SO_KEEPALIVE, 1}, /* a dead peer is noticed though nothing is sent to it */
        {IPPROTO_TCP, TCP_KEEPIDLE, 30}, {IPPROTO_TCP, TCP_KEEPINTVL, 10},
        {IPPROTO_TCP, TCP_KEEPCNT, 3},
    };
    for (size_t i = 0; i < sizeof options / sizeof options[0]; i++)
        setsockopt(fd, options[i].level, options[i].name, &options[i].value, sizeof(int));
}

static void on_read(struct bufferevent *bufferevent, void *context);
static void on_written(struct bufferevent *bufferevent, void *context);
static void on_event(struct bufferevent *bufferevent, short what, void *context);

void proa_http_connection_create(proa_http *http, evutil_socket_t fd)
{
    proa_http_exchange *c = calloc(1, sizeof *c);
    struct bufferevent *bufferevent = NULL;
    if (c != NULL)
        bufferevent = http->tls != NULL ? proa_tls_wrap(http->tls, http->base, fd, false)
                                        : bufferevent_socket_new(http->base, fd, BEV_OPT_CLOSE_ON_FREE);
    if (bufferevent == NULL) {
        if (c == NULL || http->tls == NULL) /* else it is closed */
            evutil_closesocket(fd);
        free(c);
        return;
    }

    set_socket_options(fd);
    c->http = http;
    c->bufferevent = bufferevent;
    proa_http_parser_init(&c->parser, &http->options.limits);
    set_phase(c, PROA_HTTP_PHASE_IDLE);
    c->next = http->connections;
    if (c->next != NULL)
        c->next->previous = c;
    http->connections = c;
    http->stats.connections++;
    bufferevent_setcb(bufferevent, on_read, on_written, on_event, c);
    bufferevent_setwatermark(bufferevent, EV_READ, 0, INPUT_BYTES_MAX);
    bufferevent_setwatermark(bufferevent, EV_WRITE, http->options.drained_bytes, 0);
    evbuffer_add_cb(bufferevent_get_output(bufferevent), on_output_change, c);
    bufferevent_enable(bufferevent, EV_READ | EV_WRITE);
}

void proa_http_connection_free(proa_http_exchange *connection)
{
    proa_http_exchange *c = connection;
    if (c->owed) {
        c->owed = false;
        c->http->hooks.gone(c->http->hooks.context, c);
    }
    if (c->previous != NULL)
        c->previous->next = c->next;
    else
        c->http->connections = c->next;
    if (c->next != NULL)
        c->next->previous = c->previous;
    c->http->stats.connections--;
    charge(c, 0);
    if (c->reset) {
        const struct linger hard = {.l_onoff = 1, .l_linger = 0};
        setsockopt(bufferevent_getfd(c->bufferevent), SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
    }
    bufferevent_free(c->bufferevent);
    proa_http_parser_free(&c->parser);
    proa_buf_free(&c->extra_headers);
    free(c);
}

void proa_http_connection_retire(proa_http_exchange *connection)
{
    connection->close_after = true;
    if (connection->phase == PROA_HTTP_PHASE_IDLE && output_length(connection) == 0)
        proa_http_connection_free(connection);
    else if (connection->phase == PROA_HTTP_PHASE_IDLE)
        set_phase(connection, PROA_HTTP_PHASE_FLUSH);
}

/* --- replying --- */

const proa_http_request *proa_http_exchange_request(const proa_http_exchange *exchange)
{
    return &exchange->parser.request;
}

const char *proa_http_exchange_id(const proa_http_exchange *exchange)
{
    return exchange->id;
}

void proa_http_exchange_set_user(proa_http_exchange *exchange, void *user)
{
    exchange->user = user;
}

void *proa_http_exchange_user(const proa_http_exchange *exchange)
{
    return exchange->user;
}

proa_buf proa_http_take_body(proa_http_exchange *exchange)
{
    proa_buf body = exchange->parser.request.body;
    exchange->parser.request.body = (proa_buf){.limit = body.limit};
    exchange->charged = 0; /* the charge goes with the body */
    return body;
}

void proa_http_charge_body(proa_http *http, size_t bytes)
{
    http->stats.bodies_bytes += bytes;
}

void proa_http_release_body(proa_http *http, size_t bytes)
{
    PROA_ASSERT(http->stats.bodies_bytes >= bytes);
    http->stats.bodies_bytes -= bytes;
}

void proa_http_add_header(proa_http_exchange *exchange, const char *name, const char *value)
{
    proa_buf_append_format(&exchange->extra_headers, "%s: %s\r\n", name, value);
}

/* Bytes for the client. Without memory for them the reply would have a hole: the connection ends instead. */
static void put(proa_http_exchange *c, const char *bytes, size_t length)
{
    if (evbuffer_add(bufferevent_get_output(c->bufferevent), bytes, length) != 0)
        bufferevent_trigger_event(c->bufferevent, BEV_EVENT_ERROR, BEV_TRIG_DEFER_CALLBACKS);
}

/* `framing` is the Content-Length or Transfer-Encoding line. */
static void write_head(proa_http_exchange *c, int status, const char *content_type, const char *framing)
{
    PROA_ASSERT(!c->answered);
    c->answered = true;
    const proa_http_request *r = &c->parser.request;
    if (!r->keep_alive || !c->http->accepting || (c->phase == PROA_HTTP_PHASE_BODY && r->has_body))
        c->close_after = true; /* the last: the rest of the body is not read */
    char date[40];
    time_t now = time(NULL);
    struct tm utc;
    strftime(date, sizeof date, "%a, %d %b %Y %H:%M:%S GMT", gmtime_r(&now, &utc));
    char head[1024];
    int n = snprintf(head, sizeof head, "HTTP/1.1 %d %s\r\nDate: %s\r\n%sx-request-id: %s\r\n", status,
                     proa_http_reason(status), date, framing, c->id);
    if (content_type != NULL)
        n += snprintf(head + n, sizeof head - (size_t)n, "Content-Type: %s\r\n", content_type);
    if (c->close_after || r->version_minor == 0)
        n += snprintf(head + n, sizeof head - (size_t)n, "Connection: %s\r\n",
                      c->close_after ? "close" : "keep-alive");
    PROA_ASSERT((size_t)n < sizeof head);
    put(c, head, (size_t)n);
    put(c, proa_buf_text(&c->extra_headers), c->extra_headers.length);
    put(c, "\r\n", 2);
    proa_buf_free(&c->extra_headers);
    c->http->hooks.answered(c->http->hooks.context, c, status);
}

/* The reply is complete: on to the next request, or out. */
static void finish_reply(proa_http_exchange *c)
{
    c->owed = false;
    c->user = NULL;
    c->answered = false;
    c->chunked = false;
    charge(c, 0);
    if (c->close_after) {
        set_phase(c, PROA_HTTP_PHASE_FLUSH);
        run_later(c, EV_WRITE);
        return;
    }
    proa_http_parser_reset(&c->parser);
    c->id[0] = 0;
    set_phase(c, PROA_HTTP_PHASE_IDLE);
    if (input_length(c) > 0 && !c->processing)
        run_later(c, EV_READ);
}

void proa_http_reply(proa_http_exchange *exchange, int status, const char *content_type, const char *body,
                     size_t length)
{
    char framing[64] = "";
    if (status != 204)
        snprintf(framing, sizeof framing, "Content-Length: %zu\r\n", length);
    write_head(exchange, status, content_type, framing);
    if (exchange->parser.request.method != PROA_HTTP_HEAD)
        put(exchange, body, length);
    finish_reply(exchange);
}

void proa_http_reply_error(proa_http_exchange *exchange, const proa_api_error *error)
{
    proa_buf body = {0};
    proa_api_error_write(error, &body);
    if (error->status == 503 || error->status == 429 || error->status == 529)
        proa_http_add_header(exchange, "Retry-After", "1");
    if (error->status == 500)
        proa_http_add_header(exchange, "x-should-retry", "false");
    proa_http_reply(exchange, error->status, "application/json", proa_buf_text(&body), body.length);
    proa_buf_free(&body);
}

void proa_http_stream_start(proa_http_exchange *exchange, int status, const char *content_type)
{
    exchange->chunked = exchange->parser.request.version_minor == 1;
    if (!exchange->chunked)
        exchange->close_after = true;
    write_head(exchange, status, content_type, exchange->chunked ? "Transfer-Encoding: chunked\r\n" : "");
}

void proa_http_stream_write(proa_http_exchange *exchange, const char *bytes, size_t length)
{
    PROA_ASSERT(exchange->answered);
    if (length == 0)
        return; /* an empty chunk would be the last */
    char size[24];
    int n = snprintf(size, sizeof size, "%zx\r\n", length);
    if (exchange->chunked)
        put(exchange, size, (size_t)n);
    put(exchange, bytes, length);
    if (exchange->chunked)
        put(exchange, "\r\n", 2);
}

void proa_http_stream_end(proa_http_exchange *exchange)
{
    PROA_ASSERT(exchange->answered);
    if (exchange->chunked)
        put(exchange, "0\r\n\r\n", 5);
    finish_reply(exchange);
}

void proa_http_stream_cut(proa_http_exchange *exchange)
{
    exchange->reset = exchange->answered && !exchange->chunked;
    exchange->close_after = true;
    finish_reply(exchange);
}

size_t proa_http_pending(const proa_http_exchange *exchange)
{
    return output_length(exchange);
}

/* --- reading --- */

/* An error that this layer finds itself; the connection cannot go on. */
static void refuse(proa_http_exchange *c, int status, const char *message)
{
    proa_api_error error = {0};
    proa_api_error_set(&error, status, NULL, NULL, "%s", message);
    c->close_after = true;
    if (c->id[0] == 0)
        choose_id(c);
    proa_http_reply_error(c, &error);
}

static void head_ready(proa_http_exchange *c)
{
    set_phase(c, PROA_HTTP_PHASE_BODY);
    choose_id(c);
    c->http->hooks.head(c->http->hooks.context, c);
    const proa_http_request *r = &c->parser.request;
    if (c->phase == PROA_HTTP_PHASE_BODY && r->expect_continue && r->has_body && r->version_minor == 1 &&
        input_length(c) == 0)
        put(c, "HTTP/1.1 100 Continue\r\n\r\n", 25);
}

/* Parses what is there. True when there may be more to do. */
static bool advance(proa_http_exchange *c)
{
    if (c->phase == PROA_HTTP_PHASE_LINGER)
        evbuffer_drain(bufferevent_get_input(c->bufferevent), input_length(c));
    if (c->phase > PROA_HTTP_PHASE_BODY)
        return false;
    if (c->phase == PROA_HTTP_PHASE_IDLE && output_length(c) > c->http->options.drained_bytes)
        return false; /* a client that pipelines without reading waits for its replies */
    struct evbuffer *in = bufferevent_get_input(c->bufferevent);
    struct evbuffer_iovec piece = {0};
    bool any = evbuffer_peek(in, -1, NULL, &piece, 1) > 0;
    size_t used = 0;
    proa_http_progress progress =
        proa_http_parser_push(&c->parser, any ? piece.iov_base : "", any ? piece.iov_len : 0, &used);
    evbuffer_drain(in, used);
    charge(c, c->parser.request.body.length);
    if (c->phase == PROA_HTTP_PHASE_IDLE && proa_http_parser_started(&c->parser))
        set_phase(c, PROA_HTTP_PHASE_HEAD);
    switch (progress) {
    case PROA_HTTP_BAD: refuse(c, c->parser.status, c->parser.message); return false;
    case PROA_HTTP_READY: head_ready(c); return true;
    case PROA_HTTP_DONE:
        set_phase(c, PROA_HTTP_PHASE_REPLY);
        c->owed = true;
        c->http->hooks.request(c->http->hooks.context, c);
        return true;
    case PROA_HTTP_MORE: break;
    }
    if (c->http->stats.bodies_bytes > c->http->options.bodies_bytes_max) {
        refuse(c, 503, "too many request bodies at once: try again later");
        return false;
    }
    return input_length(c) > 0;
}

static void process_input(proa_http_exchange *c)
{
    c->processing = true;
    while (advance(c))
        ;
    c->processing = false;
}

static void on_read(struct bufferevent *bufferevent, void *context)
{
    (void)bufferevent;
    proa_http_exchange *c = context;
    if (!c->processing)
        process_input(c);
}

/* --- writing and ending --- */

static void on_written(struct bufferevent *bufferevent, void *context)
{
    proa_http_exchange *c = context;
    if (c->phase == PROA_HTTP_PHASE_REPLY && c->owed && c->answered) {
        c->http->hooks.drained(c->http->hooks.context, c);
    } else if (c->phase == PROA_HTTP_PHASE_IDLE && input_length(c) > 0) {
        process_input(c);
    } else if (c->phase == PROA_HTTP_PHASE_FLUSH && output_length(c) == 0) {
        if (c->reset) {
            proa_http_connection_free(c);
            return;
        }
        if (c->http->tls != NULL)
            proa_tls_end(bufferevent);
        shutdown(bufferevent_getfd(bufferevent), SHUT_WR);
        set_phase(c, PROA_HTTP_PHASE_LINGER);
        process_input(c);
    }
}

static void on_event(struct bufferevent *bufferevent, short what, void *context)
{
    (void)bufferevent;
    proa_http_exchange *c = context;
    if (what == BEV_EVENT_CONNECTED) /* TLS is agreed on */
        return;
    bool replying = c->phase == PROA_HTTP_PHASE_FLUSH || c->phase == PROA_HTTP_PHASE_IDLE;
    if ((what & BEV_EVENT_EOF) != 0 && replying && output_length(c) > 0) {
        c->close_after = true; /* half closed after its last request: it still gets the reply */
        set_phase(c, PROA_HTTP_PHASE_FLUSH);
        return;
    }
    proa_http_connection_free(c);
}

/* --- deadlines --- */

static double seconds_since(int64_t then_us, int64_t now_us)
{
    return (double)(now_us - then_us) / 1e6;
}

void proa_http_connection_check_deadline(proa_http_exchange *connection, int64_t now_us)
{
    proa_http_exchange *c = connection;
    const proa_http_options *o = &c->http->options;
    double in_phase = seconds_since(c->phase_us, now_us);
    bool stalled = output_length(c) > 0 && seconds_since(c->write_us, now_us) > o->write_stall_s;
    switch (c->phase) {
    case PROA_HTTP_PHASE_IDLE: stalled = stalled || (output_length(c) == 0 && in_phase > o->idle_s); break;
    case PROA_HTTP_PHASE_HEAD:
        if (in_phase > o->head_s)
            refuse(c, 408, "the request's head took too long to arrive");
        break;
    case PROA_HTTP_PHASE_BODY:
        if (in_phase > o->body_s + (double)c->parser.request.body.length / o->body_bytes_per_s)
            refuse(c, 408, "the request's body took too long to arrive");
        break;
    case PROA_HTTP_PHASE_LINGER: stalled = in_phase > linger_s; break;
    case PROA_HTTP_PHASE_REPLY:
    case PROA_HTTP_PHASE_FLUSH: break;
    }
    if (stalled)
        proa_http_connection_free(c);
}
