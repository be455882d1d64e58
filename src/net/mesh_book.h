/* mesh_book.h - what a rank knows of the others, and what follows from it: whom to dial and when, whom to turn away, whether the
 * world is complete. Pure: no socket and no clock; `now_us` comes as an argument.
 *
 * A peer, for a rank that is higher (and so dials):
 *
 *            TABLE names its place            due              linked: WELCOME
 *   UNKNOWN ───────────────────────> WANTED ──────> DIALLING ──────────────────> UP
 *      ^                               ^ ^             │                         │
 *      │       nobody listens there    │ └─ later ─────┤                         │
 *      └───────────────────────────────┼───────────────┘                         │
 *                                      └───────────────────── link down ─────────┘
 *
 * Rank 0 is WANTED from the beginning, and always again. For a rank that is lower, there are UNKNOWN and UP: the other end dials.
 */
#ifndef PROA_NET_MESH_BOOK_H
#define PROA_NET_MESH_BOOK_H

#include "net/mesh_wire.h"

typedef enum proa_mesh_peer_state {
    PROA_MESH_UNKNOWN,
    PROA_MESH_WANTED,
    PROA_MESH_DIALLING,
    PROA_MESH_UP,
} proa_mesh_peer_state;

typedef struct proa_mesh_peer {
    proa_mesh_peer_state state;
    uint64_t incarnation;  /* of the process that it is linked to, or was last; 0: none yet */
    proa_mesh_place place; /* where that listens, or whoever the latest table names; port 0: not known */
    bool seen;             /* was UP once */
    bool listed;           /* in the latest table */
    bool moved;            /* DIALLING: a table has named another place meanwhile */
    int64_t due_us;        /* WANTED: when to dial */
    int64_t backoff_us;
    int64_t lost_us; /* when it went down; 0: it was never up */
} proa_mesh_peer;

typedef struct proa_mesh_book {
    int32_t rank;
    int32_t world;
    int32_t up_count;
    int32_t seen_count;
    bool ready;
    bool formed;       /* others have seen the world complete */
    int64_t formed_us; /* when that was heard */
    int64_t began_us;
    proa_mesh_peer *peers; /* [world]; the own row is unused */
} proa_mesh_book;

/* NULL when memory is out. */
proa_mesh_book *proa_mesh_book_create(int32_t rank, int32_t world, int64_t now_us);
void proa_mesh_book_free(proa_mesh_book *book); /* accepts NULL */

typedef enum proa_mesh_verdict {
    PROA_MESH_ADMIT,
    PROA_MESH_REFUSE_NOW,      /* it may try again */
    PROA_MESH_REFUSE_FOR_GOOD, /* it is of another worker */
} proa_mesh_verdict;

/* Whether the rank that dialled with this greeting may be linked; `mine` is the own greeting (rank, world, terms). Otherwise `why` is what
 * it is told. */
proa_mesh_verdict proa_mesh_book_judge(const proa_mesh_book *book, const proa_mesh_hello *mine,
                                       const proa_mesh_hello *hello, uint64_t incarnation,
                                       char why[PROA_MESH_REASON_BYTES]);

/* Linked. It must not be UP. `place` is where others reach it. */
void proa_mesh_book_up(proa_mesh_book *book, int32_t rank, uint64_t incarnation, const proa_mesh_place *place,
                       bool formed, int64_t now_us);
void proa_mesh_book_down(proa_mesh_book *book, int32_t rank, int64_t now_us); /* it was UP */

/* The next rank that is WANTED and due becomes DIALLING; -1: none is due. */
int32_t proa_mesh_book_dial(proa_mesh_book *book, int64_t now_us);
/* It is DIALLING no more. `gone`: nobody listens there. */
void proa_mesh_book_dial_failed(proa_mesh_book *book, int32_t rank, bool gone, int64_t now_us);

/* Of rank 0. A table of another world is PROA_ERR_PROTOCOL. */
proa_status proa_mesh_book_take_table(proa_mesh_book *book, proa_mesh_table *table, int64_t now_us,
                                      proa_error *err);
void proa_mesh_book_put_table(const proa_mesh_book *book, proa_buf *out); /* at rank 0 */

/* True once: from now on the book is ready. */
bool proa_mesh_book_settle(proa_mesh_book *book, int64_t now_us);

/* The ranks that have not been seen: "rank 3", "ranks 3, 7-9"; at most a dozen numbers and ranges, then "and 50 more". */
void proa_mesh_book_missing(const proa_mesh_book *book, char *text, size_t bytes);

#endif
