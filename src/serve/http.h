/* http.h - the HTTP/1.1 server: listener, connections, deadlines and the event loop.
 *
 * One thread, the one that calls proa_http_run, owns everything here; only proa_http_wake and proa_http_stop may be called from
 * others. An exchange is one request and its reply. The application is told of a request through hooks and
 * replies at once or later, whole or as a stream.
 *
 * Pull: a stream's writer looks at proa_http_pending before it makes more, and the `drained` hook says when a slow
 * reader has caught up. So a reader holds back only its own stream, and a stream's memory has a bound.
 */
#ifndef PROA_SERVE_HTTP_H
#define PROA_SERVE_HTTP_H

#include "base/status.h"
#include "serve/errors.h"
#include "serve/http_parse.h"

typedef struct proa_http proa_http;
typedef struct proa_http_exchange proa_http_exchange;

typedef struct proa_http_options {
    const char *host;          /* name or address */
    int port;                  /* 0: any free one, see proa_http_port */
    const char *tls_cert_path; /* PEM; with tls_key_path: HTTPS. NULL: plain */
    const char *tls_key_path;
    int connections_max;
    proa_http_limits limits;
    size_t bodies_bytes_max; /* all request bodies in memory together */
    size_t drained_bytes;    /* the `drained` hook runs when fewer bytes wait */
    double idle_s;           /* an open connection without a request is closed silently after this */
    double head_s;           /* a head, from its first byte to its last: 408 */
    double body_s;           /* a body, plus its bytes at body_bytes_per_s: 408 */
    double body_bytes_per_s;
    double write_stall_s; /* a reader that takes no byte at all for this long counts as gone */
} proa_http_options;

/* What a server of this kind wants; host and port are the caller's. */
proa_http_options proa_http_default_options(void);

typedef struct proa_http_hooks {
    /* The head is there, the body is not. May reply at once (a wrong path, no key): the body is not read then. */
    void (*head)(void *context, proa_http_exchange *exchange);
    /* The request is complete. Owes one reply: proa_http_reply, or a stream that ends or is cut. */
    void (*request)(void *context, proa_http_exchange *exchange);
    /* Fewer than `drained_bytes` of the stream wait. Comes again and again while it is so. */
    void (*drained)(void *context, proa_http_exchange *exchange);
    /* The client left before the reply was complete. The exchange is gone when this returns. */
    void (*gone)(void *context, proa_http_exchange *exchange);
    /* An exchange has got its status: for metrics and the log. */
    void (*answered)(void *context, proa_http_exchange *exchange, int status);
    void (*wake)(void *context);                 /* after proa_http_wake; several wakes may become one */
    void (*tick)(void *context);                 /* about four times a second */
    void (*signalled)(void *context, int count); /* SIGINT or SIGTERM, the count-th */
    void *context;
} proa_http_hooks;

/* Listens at once: connections queue until proa_http_run. */
proa_status proa_http_create(const proa_http_options *options, const proa_http_hooks *hooks, proa_http **http,
                             proa_error *err);
void proa_http_free(proa_http *http); /* after proa_http_run returned; accepts NULL */
int proa_http_port(const proa_http *http);

/* Runs until proa_http_stop. */
void proa_http_run(proa_http *http);
void proa_http_wake(proa_http *http); /* any thread: the `wake` hook runs soon */
void proa_http_stop(proa_http *http); /* any thread */

/* No new connections from now on, and none is kept alive after its reply. */
void proa_http_stop_accepting(proa_http *http);

typedef struct proa_http_stats {
    int connections;
    size_t bodies_bytes;
    uint64_t accepted;
    uint64_t refused; /* over connections_max */
} proa_http_stats;
proa_http_stats proa_http_get_stats(const proa_http *http);

/* --- one exchange --- */
const proa_http_request *proa_http_exchange_request(const proa_http_exchange *exchange);
/* x-request-id: the client's when it is printable and short, else one made here. Sent with every reply. */
const char *proa_http_exchange_id(const proa_http_exchange *exchange);
void proa_http_exchange_set_user(proa_http_exchange *exchange, void *user);
void *proa_http_exchange_user(const proa_http_exchange *exchange);

/* Takes the body over; it still counts against bodies_bytes_max until proa_http_release_body(its length). */
proa_buf proa_http_take_body(proa_http_exchange *exchange);
void proa_http_release_body(proa_http *http, size_t bytes);
void proa_http_charge_body(proa_http *http, size_t bytes); /* for bodies that came another way */

/* One more header for the reply that follows; `name` and `value` must have no line breaks. */
void proa_http_add_header(proa_http_exchange *exchange, const char *name, const char *value);

/* The whole reply. The exchange is over, as far as the application is concerned. */
void proa_http_reply(proa_http_exchange *exchange, int status, const char *content_type, const char *body,
                     size_t length);
void proa_http_reply_error(proa_http_exchange *exchange, const proa_api_error *error);

/* A reply in pieces (chunked; HTTP/1.0 reads until the end of the connection). */
void proa_http_stream_start(proa_http_exchange *exchange, int status, const char *content_type);
void proa_http_stream_write(proa_http_exchange *exchange, const char *bytes, size_t length);
void proa_http_stream_end(proa_http_exchange *exchange);
/* Ends the connection after what was written, without the last chunk: the client sees that something is missing. */
void proa_http_stream_cut(proa_http_exchange *exchange);

/* Bytes of the reply that the socket has not taken. */
size_t proa_http_pending(const proa_http_exchange *exchange);

#endif
