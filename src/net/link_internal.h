/* link_internal.h - what the files of the link share.
 *
 *   link.c            a link's life over a connected socket: handshake, frames, heartbeats, silence, the end
 *   link_dial.c       from "host:port" to a connected socket
 *   link_listener.c   accepting, and what strangers may cost
 *   link_terms.c      key, TLS and times: what all links of a listener have in common
 *   link_handshake.c  frames and the handshake's machine, pure
 *   link_tls.c        TLS; crypto.c: HMAC
 */
#ifndef PROA_NET_LINK_INTERNAL_H
#define PROA_NET_LINK_INTERNAL_H

#include "net/link_handshake.h"
#include "net/loop_internal.h"
#include "net/tls.h"

/* ---- link_terms.c ---- */

typedef struct proa_link_terms {
    int holders;  /* a listener and its links, or a dialled link; all on the loop's thread */
    uint8_t *key; /* NULL: none */
    size_t key_bytes;
    proa_tls *tls; /* NULL: plain */
    proa_link_identity self;
    int64_t beat_us;
    int64_t silence_us;
    int64_t connect_us;
} proa_link_terms;

proa_status proa_link_terms_create(const proa_link_security *security, const proa_link_identity *self,
                                   proa_link_terms **terms, proa_error *err);
void proa_link_terms_release(proa_link_terms *terms); /* accepts NULL */

/* ---- link.c ---- */

/*   dialled                      accepted
 *      │                            │
 *   LOOKUP ──> CONNECT ──> TLS ──> HANDSHAKE ──> UP ──> DOWN
 *                           ^ with TLS only              ^ from anywhere: nothing more is sent, received or called
 */
typedef enum proa_link_state {
    PROA_LINK_LOOKUP,
    PROA_LINK_CONNECT,
    PROA_LINK_TLS,
    PROA_LINK_HANDSHAKE,
    PROA_LINK_UP,
    PROA_LINK_DOWN,
} proa_link_state;

/* The way to a connected socket; gone after that. */
typedef struct proa_link_dialling {
    proa_lookup *lookup; /* NULL: the address was numeric */
    proa_addresses addresses;
    int next;            /* of the addresses */
    int fd;              /* that connects; -1: none */
    struct event *event; /* of fd */
    int64_t try_until_us;
    proa_error latest; /* why the latest address did not do */
} proa_link_dialling;

struct proa_link {
    proa_loop *loop;
    proa_link_terms *terms;
    proa_link_hooks hooks;
    void *user;
    proa_link_state state;
    bool dials;
    int depth; /* of the link's own functions on the stack: it is freed when they have returned */
    proa_listener *listener;      /* accepted and not up: it counts among the listener's */
    proa_link *next, *previous;   /* there */
    proa_link_dialling *dialling; /* LOOKUP and CONNECT */
    struct bufferevent *stream;   /* from TLS or HANDSHAKE on */
    struct event *timer;          /* deadline of what comes before UP; then heartbeats and silence */
    int64_t deadline_us;          /* for UP */
    int64_t due_us;               /* of the timer */
    int64_t heard_us, said_us;    /* when something last came, or was queued */
    bool heard_any;
    bool mute; /* the socket takes nothing more; what the peer has said before its end is still read */
    proa_handshake handshake;
    char address[PROA_HOST_BYTES + 16];
};

/* A link in LOOKUP (dials) or TLS; takes a hold of the terms. NULL when memory is out. */
proa_link *proa_link_new(proa_loop *loop, proa_link_terms *terms, const proa_link_hooks *hooks, bool dials);
/* The socket is connected: TLS or the handshake begins. The descriptor is the link's, also when this fails: then the
 * link goes down. */
void proa_link_begin(proa_link *link, int fd);
/* Ends the link: one `down` or one line of the listener. */
void proa_link_fail(proa_link *link, const proa_error *why);
void proa_link_arm(proa_link *link, int64_t in_us);
/* Around everything that libevent calls: the last leave frees a link that is down. */
void proa_link_enter(proa_link *link);
void proa_link_leave(proa_link *link);

/* ---- link_dial.c ---- */

/* The timer has run out before the socket was connected: the next address, if it is not too late. */
void proa_link_dial_next(proa_link *link);
void proa_link_dialling_free(proa_link *link);

/* ---- link_listener.c ---- */

/* The link is up or gone: it no longer counts among those that are neither. */
void proa_listener_forget(proa_link *link);
/* One line for an accepted link that does not come up. */
void proa_listener_refused(proa_link *link, const proa_error *why);

#endif
