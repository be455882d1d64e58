/* nats_plane.h - the connection to nats-server: publishes sealed requests to workers, or receives them for one.
 *
 * The library blocks (it connects, resolves names and writes to its socket on the caller's thread), so a plane has a thread of its own
 * for that. Sending queues; what arrives is queued for the owner, who is woken and takes it on its own thread.
 *
 * nats-server may be absent, go and come back: the plane tries again for ever, logs one line when it is lost and one when it is
 * back, and says UNREACHABLE meanwhile: requests then go over the request links. Nothing is kept for later: a request that was
 * queued and could not be published comes back as an event, and so does one for which there is no subscriber. What is lost
 * on the way beyond that is noticed by its missing acknowledgement (nats_message.h).
 *
 * Threads: create and free by the owner; is_up, publish and take by any thread; `wake` is called on threads of the library and of the
 * plane, must not block and must not call into the plane. The broker sees requests in clear unless the URL begins with tls://.
 */
#ifndef PROA_CLUSTER_NATS_PLANE_H
#define PROA_CLUSTER_NATS_PLANE_H

#include "base/buf.h"
#include "base/status.h"

#include <stdint.h>

enum {
    PROA_NATS_CONNECT_MS = 1000,           /* one attempt to reach a server */
    PROA_NATS_RETRY_US = 250000,           /* between two attempts */
    PROA_NATS_QUEUED_MAX = 4096,           /* messages that wait in either direction */
    PROA_NATS_QUEUED_BYTES_MAX = 64 << 20, /* and their bytes */
};

typedef struct proa_nats proa_nats;

typedef struct proa_nats_options {
    const char *server;  /* "nats://host:4222"; several with commas between */
    const char *name;    /* shown by nats-server among its connections */
    const char *subject; /* a worker's: what comes there is taken; NULL: a frontend, which publishes */
    void (*wake)(void *context); /* there is something to take */
    void *context;
} proa_nats_options;

/* What was taken. */
typedef struct proa_nats_event {
    bool
        undelivered; /* a message that was to be published and reached nobody, named by worker and sequence */
    uint64_t worker;
    uint64_t sequence;
    uint8_t *message; /* else: one that has come, malloc'd, the taker's; untrusted */
    size_t length;
} proa_nats_event;

/* PROA_ERR_INVALID: the URL or the subject is malformed. A server that does not answer is no error. */
proa_status proa_nats_create(const proa_nats_options *options, proa_nats **nats, proa_error *err);
/* After it returns `wake` is not called any more. Waits for an attempt to connect or a write that is under way (seconds at
 * most). Accepts NULL. */
void proa_nats_free(proa_nats *nats);

bool proa_nats_is_up(const proa_nats *nats);

/* Queues a message. Not queued: PROA_ERR_UNREACHABLE (no server), PROA_ERR_TOO_LONG (over the server's max_payload),
 * PROA_ERR_INVALID (the subject), PROA_BUSY (the queue is full), PROA_ERR_MEMORY: send it another way. */
proa_status proa_nats_publish(proa_nats *nats, const char *subject, uint64_t worker, uint64_t sequence,
                              const void *message, size_t length);

/* The next event; false when there is none. */
bool proa_nats_take(proa_nats *nats, proa_nats_event *event);

/* One attempt to reach a server, for `proa doctor`. Waits 2 s at most (and for the name service). */
typedef struct proa_nats_check {
    int64_t round_trip_us;
    int64_t max_payload;
} proa_nats_check;
proa_status proa_nats_probe(const char *server, proa_nats_check *check, proa_error *err);

/* Of the library. */
const char *proa_nats_library_version(void);

#endif
