/* room.h - the hand-off of one request's KV rows from a prefill to a decode worker: two state machines, pure (law 3).
 *
 * A room is one attempt at one request: a random id that the frontend draws and both workers hear of with their SUBMIT. The
 * decode side reserves blocks and opens the room to the prefill side's writes (ROOM_OPEN); the prefill side writes rows while it
 * computes them, and at last says ROOM_DONE with the first token and the digests. What may go wrong at either end, at
 * the frontend or between them ends the room at both ends.
 *
 * The rule that everything here serves: **a block that a peer may still write to is not reused**. The decode side lets go of a
 * room's blocks only after DONE, FAIL or QUIET, or when the peer's process or session is known to be gone. The prefill side says
 * FAIL or QUIET only while none of the room's writes is in flight, and begins none afterwards; a room that has ended is
 * remembered (proa_graves), so that a message that comes late cannot open it again.
 *
 * Machines take events and a time and answer with actions; the worker (worker.c) carries them out, the simulator (sim/) as well.
 * Messages may be lost, repeated and reordered: each wait has a deadline, repeated messages change nothing.
 */
#ifndef PROA_CLUSTER_ROOM_H
#define PROA_CLUSTER_ROOM_H

#include "base/status.h"

#include <stdint.h>

typedef struct proa_room_limits {
    int64_t
        waiting_us; /* for the other side to be ready: memory at the decode side, compute at the prefill side */
    int64_t transfer_us; /* without any progress of the rows */
    int64_t abort_us;    /* between two ROOM_ABORTs while no answer has come */
    int64_t starved_us;  /* prefill: how long a computed request may hold memory that others wait for */
} proa_room_limits;

/* ---- prefill side ---- */

/* How a room stands at the prefill worker.
 *
 *      SUBMIT of the frontend                 ROOM_OPEN of the decode worker
 *              |                                          |
 *              v                                          v
 *            ASKED  computing, blocks unknown          OFFERED  blocks known, no request yet
 *              |                                          |
 *              +-- ROOM_OPEN --> WRITING <-- SUBMIT ------+
 *                                   |  rows are written as they are computed, one write at a time
 *                                   |
 *               all rows written and the first token known: DONE, the blocks here are free
 *                                   |
 *                                   v
 *     any failure, cancel, ----> CLOSING ----> OVER
 *     abort, lost link,             while a write is in flight: nothing is said or freed before it has ended
 *     deadline
 */
typedef enum proa_prefill_state {
    PROA_PREFILL_ASKED,
    PROA_PREFILL_OFFERED,
    PROA_PREFILL_WRITING,
    PROA_PREFILL_CLOSING,
    PROA_PREFILL_OVER,
} proa_prefill_state;

typedef struct proa_prefill_room {
    proa_prefill_state state;
    int32_t rows;       /* to be written; 0: not known yet */
    int32_t computed;   /* rows whose keys are final here */
    int32_t written;    /* rows that are in the peer's memory */
    int32_t writing;    /* rows of the write in flight; 0: none */
    bool first_known;   /* the engine has drawn the first token */
    bool asked;         /* a frontend waits for our FINISH */
    bool offered;       /* the decode side has opened the room, and waits for DONE, FAIL or QUIET */
    bool aborted;       /* by the decode side: it wants QUIET */
    bool linked;        /* the link to the decode side is there */
    proa_status status; /* why it ends badly */
    const char *why;    /* a literal */
    int64_t since_us;   /* of the last progress */
} proa_prefill_room;

/* What to do, in the order of the fields. */
typedef struct proa_prefill_actions {
    int32_t write_first; /* begin to write rows write_first .. write_first + write_count - 1 */
    int32_t write_count; /* 0: nothing */
    bool stop_writes;    /* give up the write in flight (close the peer's session): `written` must come */
    bool send_done;
    bool send_fail; /* with status and why */
    bool send_quiet;
    bool release;    /* the engine's request: cancel if it goes on, and free its blocks */
    bool tell_ok;    /* FINISH to the frontend */
    bool tell_ended; /* FINISH with ABORT, status and why */
    bool forget;     /* the room is over: bury its id */
    proa_status status;
    const char *why;
} proa_prefill_actions;

/* Begin with one of these two. `rows`: prompt and earlier output. */
void proa_prefill_asked(proa_prefill_room *room, int32_t rows, int64_t now_us);
void proa_prefill_offered(proa_prefill_room *room, int32_t rows, int64_t now_us);

/* The other one comes. A different number of rows ends the room (PROTOCOL). */
void proa_prefill_ask(proa_prefill_room *room, int32_t rows, int64_t now_us, proa_prefill_actions *actions);
void proa_prefill_offer(proa_prefill_room *room, int32_t rows, int64_t now_us, proa_prefill_actions *actions);

void proa_prefill_computed(proa_prefill_room *room, int32_t rows, int64_t now_us,
                           proa_prefill_actions *actions);
void proa_prefill_first(proa_prefill_room *room, int64_t now_us, proa_prefill_actions *actions);
/* The write in flight has ended. */
void proa_prefill_written(proa_prefill_room *room, proa_status status, int64_t now_us,
                          proa_prefill_actions *actions);
/* The engine has given the request up. */
void proa_prefill_engine_ended(proa_prefill_room *room, proa_status status, const char *why,
                               proa_prefill_actions *actions);
void proa_prefill_cancel(proa_prefill_room *room, proa_prefill_actions *actions); /* by the frontend */
void proa_prefill_abort(proa_prefill_room *room, proa_prefill_actions *actions);  /* by the decode side */
/* The link to the decode side is gone; its session's writes are being given up. */
void proa_prefill_link_lost(proa_prefill_room *room, proa_prefill_actions *actions);
/* Deadlines. `starved`: requests wait here for memory. */
void proa_prefill_tick(proa_prefill_room *room, const proa_room_limits *limits, bool starved, int64_t now_us,
                       proa_prefill_actions *actions);

/* ---- decode side ---- */

/* How a room stands at the decode worker.
 *
 *      SUBMIT of the frontend: the engine is asked for blocks, the prefill worker is dialled
 *              |
 *              v
 *          RESERVING --- blocks reserved and link up ---> OPEN  (ROOM_OPEN sent)
 *              |                                           |
 *              |                                           +-- DONE, digests right --> ADOPTED: the engine goes on, the room
 *              |                                           |                           is over
 *              |                                           +-- FAIL: the peer is quiet ---------> OVER
 *              |                                           |
 *              | failure, cancel, deadline                 | failure, cancel, deadline, wrong digest, lost link
 *              v                                           v
 *            OVER                                       CLOSING  the frontend has heard; the blocks are lent until QUIET,
 *                                                          |     or FAIL or DONE, or the peer is known to be gone
 *                                                          v
 *                                                        OVER
 */
typedef enum proa_decode_state {
    PROA_DECODE_RESERVING,
    PROA_DECODE_OPEN,
    PROA_DECODE_ADOPTED,
    PROA_DECODE_CLOSING,
    PROA_DECODE_OVER,
} proa_decode_state;

typedef struct proa_decode_room {
    proa_decode_state state;
    bool reserved; /* the engine has lent the blocks */
    bool linked;   /* the link to the prefill side is up, and greeted */
    bool told;     /* the frontend has heard the end */
    int64_t since_us;
    int64_t abort_us; /* when ROOM_ABORT was sent last */
} proa_decode_room;

/* What to do, in the order of the fields. */
typedef struct proa_decode_actions {
    bool send_open;
    bool adopt;      /* the first token goes to the engine */
    bool tell_ended; /* FINISH with ABORT, status and why; `blame`: the prefill worker's fault */
    bool blame;
    bool cancel; /* the engine's request ends (its blocks stay lent when they were reserved) */
    bool send_abort;
    bool release; /* the blocks are free */
    bool forget;
    proa_status status;
    const char *why;
} proa_decode_actions;

void proa_decode_begin(proa_decode_room *room, int64_t now_us);
void proa_decode_reserved(proa_decode_room *room, int64_t now_us, proa_decode_actions *actions);
void proa_decode_linked(proa_decode_room *room, int64_t now_us, proa_decode_actions *actions);
/* DONE came; `intact`: all its digests are those of the rows here. */
void proa_decode_done(proa_decode_room *room, bool intact, proa_decode_actions *actions);
void proa_decode_fail(proa_decode_room *room, proa_status status, const char *why,
                      proa_decode_actions *actions);
void proa_decode_quiet(proa_decode_room *room, proa_decode_actions *actions);
void proa_decode_cancel(proa_decode_room *room, int64_t now_us,
                        proa_decode_actions *actions); /* by the frontend */
/* The engine has ended the request before it was adopted (it keeps reserved blocks lent). */
void proa_decode_engine_ended(proa_decode_room *room, proa_status status, const char *why, int64_t now_us,
                              proa_decode_actions *actions);
/* The link to the prefill side is gone. `quiet`: and so is whatever could write (its process, its session). */
void proa_decode_link_lost(proa_decode_room *room, bool quiet, int64_t now_us, proa_decode_actions *actions);
void proa_decode_tick(proa_decode_room *room, const proa_room_limits *limits, int64_t now_us,
                      proa_decode_actions *actions);

/* ---- rooms that are over ---- */

/* Ids of rooms that have ended lately: a ring over an open hash table, fixed in size. An id is remembered until `capacity` more
 * have ended; capacity is chosen so that this takes longer than any message lives. */
typedef struct proa_graves proa_graves;

proa_graves *proa_graves_create(int32_t capacity); /* NULL when memory is out */
void proa_graves_free(proa_graves *graves);        /* accepts NULL */
void proa_graves_add(proa_graves *graves, uint64_t room);
bool proa_graves_has(const proa_graves *graves, uint64_t room);

#endif
