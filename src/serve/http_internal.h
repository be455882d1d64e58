/* http_internal.h - what http.c (listener, loop) and http_connection.c share.
 *
 * Why bufferevents and not evhttp: evhttp (2.1) stops reading while a reply is under way, so that a client who
 * leaves during a long prefill is noticed only at the next write; it answers oversized heads with 400, slow ones not at all;
 * it cannot end a chunked reply without its last chunk; it has no limit on connections; its request parser takes both lengths
 * at once and bare line feeds. All five are wanted here. Bufferevents give the buffers, watermarks and
 * (later) TLS.
 */
#ifndef PROA_SERVE_HTTP_INTERNAL_H
#define PROA_SERVE_HTTP_INTERNAL_H

#include "net/event.h"
#include "net/tls.h"
#include "serve/http.h"

#include <stdatomic.h>

struct proa_http {
    proa_http_options options;
    proa_http_hooks hooks;
    struct event_base *base;
    struct evconnlistener *listener;
    proa_tls *tls; /* NULL: plain */
    struct event *wake_event;
    struct event *tick_event;
    struct event *signal_events[2];
    int listen_fd;
    int wake_fd;
    int port;
    int signal_count;
    bool accepting;
    int64_t accept_warned_us;        /* the latest accept that failed: one warning an episode */
    bool listener_paused;            /* accept failed for want of descriptors; the next tick tries again */
    _Atomic bool stopping;           /* set by proa_http_stop in any thread, read when wake_fd rings */
    proa_http_exchange *connections; /* all, doubly linked */
    proa_http_stats stats;
    uint64_t id_key[2]; /* of generated request ids */
    uint64_t id_count;
};

/* Why the connection is open just now; each has its own deadline.
 *
 *   IDLE ──first byte──> HEAD ──> BODY ──complete──> REPLY ──complete──> IDLE
 *                          └─────────└─── refused ────┴──── no keep-alive ──> FLUSH ──all sent──> LINGER ──> closed
 */
typedef enum proa_http_phase {
    PROA_HTTP_PHASE_IDLE,
    PROA_HTTP_PHASE_HEAD,
    PROA_HTTP_PHASE_BODY,
    PROA_HTTP_PHASE_REPLY, /* the application owes a reply, or streams one */
    PROA_HTTP_PHASE_FLUSH, /* the last reply is complete, its bytes are not all sent */
    PROA_HTTP_PHASE_LINGER, /* our side is shut: what the client still sends is dropped, so that no reset eats the reply */
} proa_http_phase;

struct proa_http_exchange {
    proa_http *http;
    proa_http_exchange *next;
    proa_http_exchange *previous;
    struct bufferevent *bufferevent;
    proa_http_parser parser;
    proa_http_phase phase;
    int64_t phase_us;       /* when the phase began */
    int64_t write_us;       /* when the socket last took bytes */
    size_t charged;         /* of this body, in http->stats.bodies_bytes */
    proa_buf extra_headers; /* of the next reply */
    char id[132];
    void *user;
    bool answered;    /* the head of the reply is written */
    bool owed;        /* the application has been asked and has not completed its reply */
    bool chunked;     /* the stream is chunked */
    bool close_after; /* no further request on this connection */
    bool reset;       /* close with RST: an HTTP/1.0 stream that failed has no other way to say so */
    bool processing;  /* inside process_input: replies must not recurse into it */
};

/* http_connection.c */
void proa_http_connection_create(proa_http *http, evutil_socket_t fd);
void proa_http_connection_free(proa_http_exchange *connection);
void proa_http_connection_check_deadline(proa_http_exchange *connection, int64_t now_us);
/* Stops serving: idle ones close now, others after their reply. */
void proa_http_connection_retire(proa_http_exchange *connection);

#endif
