/* nats_message.h - requests that travel through a broker which nobody trusts: sealed, numbered, acknowledged, relayed.
 *
 * NATS delivers at most once, and whoever reaches nats-server may publish to any subject. So a frontend seals each SUBMIT body
 * with the session key of its request link to that worker, numbers it, and keeps it until the worker has said TAKEN over the
 * link. What is not acknowledged in time goes over the link as RELAY, in the same seal, so that the worker can tell a
 * second copy from a new request:
 *
 *   frontend  outbox ──sealed──> nats-server ──> worker  inbox: new: begin, answer TAKEN; seen: nothing; foreign: refuse
 *                └──── after PROA_NATS_ACK_US, RELAY over the link ──────┘
 *
 * Before anything else about a request goes over the link (CANCEL), its letter is relayed first if it is still in the outbox:
 * so the worker never hears of a request whose beginning is still under way.
 *
 * Sealed, little-endian: u32 magic "PNAT", u16 version, u64 frontend, u64 sequence, u32 length, body, 32 bytes HMAC-SHA256 of all
 * before. frontend is the instance in the identity that the frontend gave on its link. Pure; the owner's thread.
 */
#ifndef PROA_CLUSTER_NATS_MESSAGE_H
#define PROA_CLUSTER_NATS_MESSAGE_H

#include "cluster/instance.h"
#include "net/link.h"

enum {
    PROA_NATS_ACK_US = 250000,   /* a letter waits so long for TAKEN */
    PROA_NATS_REST_US = 2000000, /* after one that waited in vain, the link is used for so long */
    PROA_NATS_WINDOW = 4096,     /* sequence numbers that an inbox remembers */
    PROA_NATS_OUTBOX_MAX =
        1024,                  /* letters of an outbox; below the window, so that none grows too old for it */
    PROA_NATS_SEAL_BYTES = 58, /* what a seal adds to a body */
    PROA_NATS_LOG_US = 1000000, /* between two lines about refused messages */
};

/* ---- names ---- */

/* "{namespace}_{component}.{endpoint}-{instance id in hex}", as Dynamo names them. */
void proa_nats_subject(const proa_instance *instance, char *subject, size_t bytes);
/* Letters, digits, '_', '-', '$' and single dots between: nothing that a broker reads as a wildcard or as a command. */
bool proa_nats_subject_valid(const char *subject);
/* [nats://|tls://][user:password@]host[:port], several with commas between. */
bool proa_nats_server_valid(const char *server);
/* Addresses of servers as people may see them: without the user and password that stand before an @. */
void proa_nats_hide_password(const char *server, char *shown, size_t bytes);

/* ---- seals ---- */

/* Appends the sealed body. sequence >= 1, never used before with this key. */
void proa_nats_seal(const uint8_t key[PROA_LINK_KEY_BYTES], uint64_t frontend, uint64_t sequence,
                    const void *body, size_t length, proa_buf *out);

/* ---- the frontend's side: one outbox a request link ---- */

typedef struct proa_nats_outbox proa_nats_outbox;

/* Copies the key. NULL when memory is out. */
proa_nats_outbox *proa_nats_outbox_create(const uint8_t key[PROA_LINK_KEY_BYTES], uint64_t frontend);
void proa_nats_outbox_free(proa_nats_outbox *outbox); /* accepts NULL */

/* Whether the next SUBMIT should be tried by NATS: there is place, and the last ones were acknowledged. */
bool proa_nats_outbox_ready(const proa_nats_outbox *outbox, int64_t now_us);
/* Seals the body of request `id` and keeps it; only when ready. The letter, valid until the next call; NULL when memory is
 * out (then nothing is kept). */
const proa_buf *proa_nats_outbox_seal(proa_nats_outbox *outbox, uint64_t id, const void *body, size_t length,
                                      int64_t now_us, uint64_t *sequence);
/* TAKEN, or it was never published: forgets it. Unknown numbers are ignored. */
void proa_nats_outbox_forget(proa_nats_outbox *outbox, uint64_t sequence);

/* What must go over the link as RELAY now, into `letter` (the caller frees it): false when there is none. It is forgotten.
 * due: a letter that waited too long; by sequence: one that the broker could not deliver; by id: before a CANCEL. */
bool proa_nats_outbox_take_due(proa_nats_outbox *outbox, int64_t now_us, proa_buf *letter);
bool proa_nats_outbox_take(proa_nats_outbox *outbox, uint64_t sequence, int64_t now_us, proa_buf *letter);
bool proa_nats_outbox_take_id(proa_nats_outbox *outbox, uint64_t id, proa_buf *letter);

/* ---- the worker's side: one inbox a request link ---- */

typedef struct proa_nats_inbox {
    uint8_t key[PROA_LINK_KEY_BYTES];
    uint64_t frontend;
    uint64_t newest;                      /* 0: none yet */
    uint64_t seen[PROA_NATS_WINDOW / 64]; /* bit (sequence % window) of the last window of numbers */
    uint64_t
        relayed[PROA_NATS_WINDOW / 64]; /* of those, came over the link: one copy by NATS may still come */
} proa_nats_inbox;

void proa_nats_inbox_init(proa_nats_inbox *inbox, const uint8_t key[PROA_LINK_KEY_BYTES], uint64_t frontend);

/* Whose a message says it is, to find the link and its inbox. Not authenticated by this. False: malformed. */
bool proa_nats_peek(const void *message, size_t length, uint64_t *frontend, proa_error *err);

typedef struct proa_nats_letter {
    uint64_t sequence;
    const uint8_t *body; /* in the message */
    size_t length;
} proa_nats_letter;

/* PROA_OK: new and authentic, `letter` has it; when it came by NATS, TAKEN must be sent. PROA_END: it is here already, by the other
 * way: nothing to do. PROA_ERR_PROTOCOL: malformed, foreign, not authentic, replayed or too old; `err` says which. */
proa_status proa_nats_inbox_open(proa_nats_inbox *inbox, bool by_relay, const void *message, size_t length,
                                 proa_nats_letter *letter, proa_error *err);

/* ---- complaints, at most one a PROA_NATS_LOG_US ---- */

typedef struct proa_nats_complaints {
    int64_t next_us;
    uint64_t silent; /* since the last line */
} proa_nats_complaints;

/* Logs "area: refused a message by NATS: TEXT", or counts it. */
void proa_nats_complain(proa_nats_complaints *complaints, int64_t now_us, const char *text);

#endif
