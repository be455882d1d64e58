/* link.h - an authenticated connection between two processes of a cluster, on which framed messages travel both ways.
 *
 *   dial / accept ──TCP──> (TLS) ──> handshake ──up──> messages, heartbeats ──down──> freed
 *
 * Frame, little-endian: u32 magic "PROA", u16 version, u16 type, u32 length, then `length` bytes; length is at most
 * PROA_LINK_FRAME_BYTES_MAX. A wrong magic, version, type of the handshake or length ends the link. So long as an accepted link is
 * not up, nobody hears of its end: the listener logs one line with address and reason (at most ten a second, then a count). All
 * other links have `down`, whose owner logs.
 *
 * Handshake: mutual challenge. Each end sends 32 random bytes and what it says of itself (proa_link_identity); each
 * proves the cluster key by HMAC-SHA256 over its role, both nonces and both identities. So a recorded handshake is
 * worth nothing, and an identity cannot be changed on the way. The end that dials proves first: who does not know the key learns
 * nothing from a listener that could be searched for it. Without a key both ends must be loopback addresses; a listener
 * without a key refuses to bind anything else. What follows the handshake is not encrypted unless TLS is on
 * (security.tls_*): the network between hosts is then trusted not to forge packets. With TLS, the proof covers the TLS session
 * too. Any certificate of the authority is a member of the cluster: names in certificates are not looked at.
 *
 * Liveness is what arrives: an end that has sent nothing for PROA_LINK_BEAT_US sends a heartbeat, an end that has heard
 * nothing for PROA_LINK_SILENCE_US, while it ran itself, calls `down` with PROA_ERR_DEADLINE. The end of the stream or a reset is
 * PROA_ERR_UNREACHABLE: the peer's process has closed it or is gone. What the network alone has to say (no route, TCP's own
 * time-out) is PROA_ERR_DEADLINE, since the peer may live on. A violation is PROA_ERR_PROTOCOL. A dial that the host itself
 * refuses, nobody listens there, is PROA_ERR_NOT_FOUND.
 *
 * Everything here runs on the loop's thread (loop.h). `down` comes exactly once for each link that was dialled or announced by
 * `up`, also after a failed dial or handshake (a dial has PROA_LINK_CONNECT_US); not after proa_link_close. The link is
 * freed when `down` returns or proa_link_close is called (also from inside a hook).
 */
#ifndef PROA_NET_LINK_H
#define PROA_NET_LINK_H

#include "base/buf.h"
#include "net/loop.h"

enum {
    PROA_LINK_VERSION = 1,
    PROA_LINK_FRAME_BYTES_MAX = 16 << 20,
    PROA_LINK_PENDING_BYTES_MAX = 64 << 20, /* unsent bytes beyond which send says PROA_BUSY */
    PROA_LINK_BEAT_US = 250000,
    PROA_LINK_SILENCE_US = 2500000,
    PROA_LINK_CONNECT_US = 2000000, /* TCP, TLS and handshake together */
    PROA_LINK_KEY_BYTES = 32,
};

typedef struct proa_link proa_link;
typedef struct proa_listener proa_listener;

/* What an end says of itself, covered by the handshake's proof. */
typedef struct proa_link_identity {
    uint64_t instance; /* its instance id; 0: none */
    uint64_t epoch;    /* random, another one each time the process starts; never 0 */
    char role[32];     /* "frontend", "prefill", "decode", "backend" */
    char name[64];     /* for logs: host and process id */
} proa_link_identity;

/* A new process's: random ids (the instance of 53 bits, so that JSON readers keep it whole), name "<host>:<process id>". */
proa_link_identity proa_link_identity_draw(const char *role);

/* Copied by dial and listen; paths and key are read once. All zero: no key, no TLS. */
typedef struct proa_link_security {
    const char *key;           /* the cluster key, any bytes without zero; NULL: none */
    const char *tls_cert_path; /* PEM; with tls_key_path: TLS on, both ends show a certificate */
    const char *tls_key_path;
    const char *tls_ca_path; /* PEM of the authority that must have signed the peer's certificate */
    int64_t beat_us;         /* 0: PROA_LINK_BEAT_US */
    int64_t silence_us;      /* 0: PROA_LINK_SILENCE_US; over twice beat_us of the other end */
    int64_t connect_us;      /* 0: PROA_LINK_CONNECT_US */
} proa_link_security;

typedef struct proa_link_hooks {
    void (*up)(void *context, proa_link *link);
    /* `body` is valid during the call. Types are the application's, below 0xFF00. */
    void (*message)(void *context, proa_link *link, uint16_t type, const uint8_t *body, size_t length);
    void (*down)(void *context, proa_link *link, const proa_error *why);
    void *context;
} proa_link_hooks;

/* Reads the cluster key from `text` (PROA_CLUSTER_KEY) or else from the file at `path` (its content without trailing
 * white space). NULL for both: no key. Shorter than 16 bytes is PROA_ERR_INVALID. The result is malloc'd. */
proa_status proa_link_read_key(const char *text, const char *path, char **key, proa_error *err);

/* Listens on host:port (port 0: any free one). PROA_ERR_INVALID for an address that is not loopback without a key. */
proa_status proa_listener_create(proa_loop *loop, const proa_link_security *security,
                                 const proa_link_identity *self, const char *host, int port,
                                 const proa_link_hooks *hooks, proa_listener **listener, proa_error *err);
void proa_listener_free(proa_listener *listener); /* its links stay; accepts NULL */
int proa_listener_port(const proa_listener *listener);

/* Begins to connect to "host:port" ("[v6]:port"). Errors that show at once (a malformed address, no key for a numeric
 * address that is not loopback, TLS files that cannot be read) are returned and no hook is called; all others come by `down`.
 * A host name is looked up on a thread (resolve.h) and its addresses are tried in turn, within PROA_LINK_CONNECT_US. */
proa_status proa_link_dial(proa_loop *loop, const proa_link_security *security,
                           const proa_link_identity *self, const char *address, const proa_link_hooks *hooks,
                           void *user, proa_link **link, proa_error *err);

/* Queues a message. PROA_BUSY: too much is unsent (the peer does not read), nothing was queued; PROA_ERR_TOO_LONG;
 * PROA_ERR_UNREACHABLE before `up`. */
proa_status proa_link_send(proa_link *link, uint16_t type, const void *body, size_t length);

size_t proa_link_pending(const proa_link *link); /* unsent bytes */
bool proa_link_is_up(const proa_link *link);
/* Of an end that is up. */
const proa_link_identity *proa_link_peer(const proa_link *link);
/* Numeric "host:port" of the other end, for logs; as dialled, until it is connected. */
const char *proa_link_address(const proa_link *link);
/* A secret of this link alone, from key and nonces (HMAC): to authenticate what travels another way (NATS). */
const uint8_t *proa_link_session_key(const proa_link *link); /* [PROA_LINK_KEY_BYTES] */

void proa_link_set_user(proa_link *link, void *user);
void *proa_link_user(const proa_link *link);

/* Sends what is queued as far as the socket takes it now, closes and frees; no hook is called. Accepts NULL. */
void proa_link_close(proa_link *link);

/* HMAC-SHA256 of `length` bytes; here so that one file wraps the library. */
void proa_hmac(const uint8_t *key, size_t key_bytes, const void *data, size_t length, uint8_t out[32]);
/* Compares in constant time. */
bool proa_hmac_equal(const uint8_t a[32], const uint8_t b[32]);
/* Random bytes for ids, epochs and rooms; aborts when the system has none. */
void proa_random_bytes(void *out, size_t length);

/* Of OpenSSL: "OpenSSL 3.0.19 27 Jan 2026". */
const char *proa_crypto_library_version(void);

#endif
