/* a2a_internal.h - the state of an all-to-all, shared by a2a.c (life, messages, waits), a2a_dispatch.c, a2a_outputs.c and
 * swap.c, whose waits are watched like its own. */
#ifndef PROA_NET_A2A_INTERNAL_H
#define PROA_NET_A2A_INTERNAL_H

#include "net/a2a.h"

#include <stdatomic.h>

typedef enum a2a_kind { A2A_DISPATCH = 1, A2A_OUTPUTS = 2 } a2a_kind;

/* The header of a message. */
typedef struct a2a_header {
    uint64_t epoch;
    uint64_t turn;
    uint32_t rows;  /* dispatch: rows; outputs: 0 */
    uint32_t slots; /* (row, expert) pairs */
    uint16_t layer;
    uint8_t kind;
    uint8_t lane;
} a2a_header;
_Static_assert(sizeof(a2a_header) <= PROA_POST_CHANNEL, "a header travels in that of a message");

/* What a region of a home holds: of turn `turn`, when `there`. */
typedef struct a2a_region {
    uint8_t
        *data; /* [payload_max] counts [rows] u8, experts [slots] u16, rows, scales; each part aligned to 8 */
    a2a_header header;
    bool landing;
    bool there;
} a2a_region;

/* A destination's payload while it is filled; see a2a_region's data. */
typedef struct a2a_packer {
    uint8_t *counts;
    uint16_t *experts;
    uint8_t *rows;
    uint8_t *scales;
    size_t row_count, slot_count;
    int64_t row; /* that was put in last; -1: none */
} a2a_packer;

/* Drawn in exchange.h:
 *
 *   IDLE ── dispatch ──> SENT ── receive ──> WORKING ── give_back ──> RETURNED ── collect ──> IDLE
 *
 * Any wait that fails leaves the lane BROKEN until proa_a2a_begin. */
typedef enum a2a_state { A2A_IDLE, A2A_SENT, A2A_WORKING, A2A_RETURNED, A2A_BROKEN } a2a_state;

typedef struct a2a_lane {
    a2a_state state;
    uint64_t turn; /* of the latest dispatch; 0: none in this epoch */
    int32_t layer;
    int32_t rows;
    /* as an expert's rank */
    a2a_region
        *regions; /* [ranks][2] by the turn's lowest bit: a header may be one turn early, its rows not */
    uint8_t *region_data;
    float *x;              /* [ranks * rows_max, hidden] unless FP8 */
    uint8_t *q;            /* the same for FP8 */
    float *s;              /* [ranks * rows_max, groups] */
    int32_t *slot_row;     /* [work_max] */
    int32_t *slot_expert;  /* [work_max] */
    int32_t *slot_offsets; /* [ranks + 1] slots of each home in the work */
    uint8_t *out;          /* [work_max, hidden] outputs in their format, in the order of the work */
    /* as a home */
    uint8_t *packed;         /* [ranks][payload_max] */
    a2a_packer *packers;     /* [ranks] */
    int32_t *sent_slots;     /* [ranks] slots that went there */
    int32_t *output_offsets; /* [ranks] where their outputs begin in `outputs` */
    bool *output_there;      /* [ranks] */
    bool *output_landing;    /* [ranks] */
    uint8_t *outputs;        /* [rows_max * top_k, hidden] in their format */
    float *slots;            /* [rows_max * top_k, hidden] */
    int32_t *place;          /* [rows_max * top_k] */
} a2a_lane;

/* What proa_a2a_get_look reads. All relaxed: nothing else is told by them. */
typedef struct a2a_watch {
    _Atomic(uint64_t) moves;
    _Atomic(const char *) waits_for;
    _Atomic(int64_t) since_us;
    _Atomic(int32_t) layer;
    _Atomic(uint64_t) window;
    atomic_bool *missing; /* [ranks] */
} a2a_watch;

struct proa_a2a {
    proa_a2a_options options;
    proa_post *post;
    proa_post_hooks beside; /* of who shares the post */
    int32_t groups;         /* scales of a row */
    size_t row_bytes;       /* of a row that is dispatched, scales included */
    size_t output_bytes;    /* of a row of outputs */
    int64_t most;           /* slots of a row at one rank */
    int64_t work_max;       /* slots of the work */
    size_t payload_max;
    uint64_t epoch;
    bool *live; /* [ranks] */
    atomic_bool abandoned;
    bool *suspects; /* [ranks] */
    int32_t lost;   /* a live rank that the post has lost in this epoch; -1: none */
    proa_error lost_why;
    a2a_lane lanes[2];
    proa_a2a_stats stats;
    a2a_watch watch;
    void *memory;
    size_t memory_bytes;
};

/* Where the parts of a payload with so many rows and slots begin. */
typedef struct a2a_parts {
    size_t experts; /* counts are at 0 */
    size_t rows;
    size_t scales;
    size_t bytes;
} a2a_parts;
a2a_parts proa_a2a_parts(const proa_a2a *a2a, size_t rows, size_t slots);

static inline uint8_t *proa_a2a_packed(const proa_a2a *a2a, const a2a_lane *lane, int32_t rank)
{
    return lane->packed + (size_t)rank * a2a->payload_max;
}

static inline a2a_region *proa_a2a_region(const a2a_lane *lane, int32_t rank, uint64_t turn)
{
    return &lane->regions[2 * rank + (int32_t)(turn & 1)];
}

/* The lane is BROKEN from now on, and `suspect` (-1: nobody) is to blame. Returns the status. */
proa_status proa_a2a_break(proa_a2a *a2a, a2a_lane *lane, int32_t suspect, proa_status status);

/* ---- a2a_watch.c ---- */

void proa_a2a_moved(proa_a2a *a2a);
void proa_a2a_wait_begins(proa_a2a *a2a, const char *what);
void proa_a2a_wait_ends(proa_a2a *a2a);

/* ---- a2a.c ---- */

/* proa_a2a_abandon was called: waits end. */
bool proa_a2a_is_abandoned(const proa_a2a *a2a);

/* Sends to another rank. PROA_ERR_UNREACHABLE makes the lane BROKEN and the rank the suspect. */
proa_status proa_a2a_send(proa_a2a *a2a, a2a_lane *lane, int32_t to, const a2a_header *header,
                          const void *data, size_t bytes, proa_error *err);

/* Waits until ready(a2a, lane, rank) for all live ranks; `what` is what comes from them. Fails as exchange.h says. */
proa_status proa_a2a_wait(proa_a2a *a2a, a2a_lane *lane,
                          bool (*ready)(const proa_a2a *, const a2a_lane *, int32_t), const char *what,
                          proa_error *err);

/* The exchange's functions. */
proa_status proa_a2a_dispatch(void *context, int32_t lane, const proa_dispatch_args *args, proa_error *err);
proa_status proa_a2a_receive(void *context, int32_t lane, proa_dispatched *work, proa_error *err);
void proa_a2a_put(void *context, int32_t lane, int32_t count, const int32_t *slots, const float *y);
proa_status proa_a2a_give_back(void *context, int32_t lane, proa_error *err);
proa_status proa_a2a_collect(void *context, int32_t lane, proa_collected *out, proa_error *err);

#endif
