/* mesh.h - the control links among the ranks of one worker: each pair of ranks has one, over net/link.h; and the rendezvous
 * that makes them.
 *
 *   rank 3 ──dial, HELLO──> rank 0 at --dist-init-addr      a rank knows one address: rank 0's
 *   rank 3 <──WELCOME, TABLE── rank 0                       rank 0 says who is there, and where, whenever that changes
 *   rank 3 ──dial, HELLO──> ranks 1, 2                      the higher rank dials the lower one: one link a pair
 *   ranks 4, 5 ... ──dial, HELLO──> rank 3                  they have heard of it by their tables
 *
 * HELLO and WELCOME say rank, world size, terms and blob, and where the sender listens. The terms are what must be equal at all ranks
 * of a worker (model, flags): a rank with other ones is refused, and told which differ. The blob is the owner's, handed to
 * `peer_up` (a transport's address, for example).
 *
 * A process is told from the one that had its rank before by its incarnation (the epoch of its link identity, random). A
 * second process with the same rank is turned away so long as the link to the first one lives; it tries again until its
 * time is over. So a process that is started again in place of a dead one joins as at the beginning. When rank 0 dies the others keep
 * their links, and dial its address until it is back; from their greetings it knows again who is there. What is impossible without
 * rank 0 is that others come back.
 *
 * Ready: every rank has been linked once. A rank that joins a worker which was complete before is ready when it is linked to all
 * that live now, since a dead rank must not keep another one out. Who dies is `peer_down`: at once when the process
 * ends, after the link's silence (PROA_LINK_SILENCE_US) when it stalls or the network is cut. A cut that heals is `peer_up`
 * again with the same incarnation.
 *
 * One owner thread, the loop's; hooks run there. The mesh must not be freed from inside a hook.
 */
#ifndef PROA_NET_MESH_H
#define PROA_NET_MESH_H

#include "net/link.h"

enum {
    PROA_MESH_RANKS_MAX = 1024,
    PROA_MESH_BLOB_BYTES_MAX = 4096,
    PROA_MESH_TERMS_MAX = 32,
    PROA_MESH_TERM_NAME_BYTES = 48,   /* with the zero byte */
    PROA_MESH_TERM_VALUE_BYTES = 208, /* with the zero byte */
    PROA_MESH_TYPE_FIRST = 0xFE00,    /* message types from here on are the mesh's own */
    PROA_MESH_MESSAGE_BYTES_MAX = 1 << 20,
    PROA_MESH_PENDING_BYTES_MAX = 4 << 20, /* unsent bytes to a rank beyond which send says PROA_BUSY */
};

typedef struct proa_mesh proa_mesh;

/* Something that must be equal at all ranks: printable ASCII. For flags, the name is "--page-size". */
typedef struct proa_mesh_term {
    const char *name;
    const char *value;
} proa_mesh_term;

typedef struct proa_mesh_hooks {
    /* The rank can be sent to. The blob is valid during the call. */
    void (*peer_up)(void *context, int rank, uint64_t incarnation, const uint8_t *blob, size_t blob_bytes);
    /* It no longer can. Once after each peer_up, but for the mesh's own end. */
    void (*peer_down)(void *context, int rank, const proa_error *why);
    /* Types below PROA_MESH_TYPE_FIRST; the body is valid during the call. */
    void (*message)(void *context, int rank, uint16_t type, const uint8_t *body, size_t length);
    void (*ready)(void *context); /* once */
    /* This rank cannot be part of the worker: it was refused for good, or the rendezvous took too long. All links are closed and
     * nothing is called any more. */
    void (*failed)(void *context, const proa_error *why);
    void *context;
} proa_mesh_hooks;

typedef struct proa_mesh_options {
    int rank;
    int world;                /* ranks, 1 to PROA_MESH_RANKS_MAX */
    const char *init_address; /* "host:port" of rank 0, where rank 0 listens */
    const char *
        listen_host; /* NULL: at rank 0 the host of init_address, else any address, without a key 127.0.0.1 */
    const char *advertise_host;  /* what others dial; NULL: this rank's address as rank 0 sees it */
    proa_link_security security; /* connect_us 0: 5 s; a greeting may take as long again */
    const proa_mesh_term *terms;
    int term_count;
    const void *blob;
    size_t blob_bytes;
    int64_t rendezvous_us; /* until ready; then `failed`. 0: 600 s */
    int64_t report_us;     /* between log lines that say what is waited for. 0: 10 s */
    proa_mesh_hooks hooks;
} proa_mesh_options;

/* Everything is copied but the strings of `security`, which are used until the mesh is freed; nothing but the listener's socket happens
 * before the loop runs. Raises the soft limit of descriptors as far
 * as the world needs it: PROA_ERR_INVALID when the hard limit forbids. */
proa_status proa_mesh_create(proa_loop *loop, const proa_mesh_options *options, proa_mesh **mesh,
                             proa_error *err);
void proa_mesh_free(proa_mesh *mesh); /* closes all links; no hook is called; accepts NULL */

/* Queues a message. PROA_BUSY: too much is unsent, nothing was queued; PROA_ERR_TOO_LONG; PROA_ERR_UNREACHABLE: the rank is not up. */
proa_status proa_mesh_send(proa_mesh *mesh, int rank, uint16_t type, const void *body, size_t length);

/* Ends the link to a rank, if it is up: `peer_down` is called here and at the other end, then they are linked anew. For an owner that could
 * not send, and whose messages mean nothing with a gap. */
void proa_mesh_break(proa_mesh *mesh, int rank, const proa_error *why);

bool proa_mesh_ready(const proa_mesh *mesh);
bool proa_mesh_is_up(const proa_mesh *mesh, int rank); /* false for the own rank */
int proa_mesh_up_count(const proa_mesh *mesh);         /* other ranks that are up */
uint64_t proa_mesh_incarnation(const proa_mesh *mesh);

/* What the rendezvous waits for: "waiting for ranks 3, 7-9 of 32 at 10.0.0.1:29500 for 12 s"; "" when ready. */
void proa_mesh_describe_wait(const proa_mesh *mesh, char *text, size_t bytes);

#endif
