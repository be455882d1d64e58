/* a2a.h - the all-to-all of a group of ranks that share experts, by messages (net/post.h): an implementation of model/exchange.h.
 *
 *   home rank                                        expert's rank
 *   pack rows once a destination  ── dispatch ──>    region of that home: counts, experts, rows, scales
 *                                                    all live homes' regions -> rows together, (row, expert) slots
 *   outputs, one a (row, slot)    <── give back ──   outputs in the order of the home's slots
 *
 * A region belongs to one home, and a home sends the next window's rows only when all outputs of the last one are with it; so one region a
 * lane and home is enough, and a fast rank is at most one window ahead. Each message names epoch, lane and turn (a count of windows since
 * the epoch began, the same at all ranks); what does not fit is dropped, so that a rank which was given up changes nothing when it wakes.
 * An outputs' message is only sent where there are slots; a dispatch always, for the receiver must know.
 *
 * Nothing is allocated after creation. One owner thread, but for proa_a2a_abandon.
 */
#ifndef PROA_NET_A2A_H
#define PROA_NET_A2A_H

#include "model/exchange.h"
#include "net/post.h"

enum { PROA_A2A_RANKS_MAX = 1024 };

typedef struct proa_a2a proa_a2a;

typedef struct proa_a2a_options {
    int32_t ranks;
    int32_t rank;
    int32_t local_experts; /* physical experts of a rank */
    int32_t hidden;        /* channels of a row */
    int32_t top_k;
    int32_t rows_max; /* rows of a window of a rank */
    int32_t lanes;    /* 1 or 2 */
    proa_exchange_format format;
    proa_precision precision; /* EXACT: outputs travel as F32 */
    int64_t deadline_us;      /* a rank that is silent for so long in a wait is suspected; 0: 3 s */
    int64_t spin_us;          /* waits look so long without sleeping: where ranks have cores of their own */
} proa_a2a_options;

/* `hub` for ranks that are threads of this process, NULL for UCX. */
proa_status proa_a2a_create(const proa_a2a_options *options, proa_post_hub *hub, proa_a2a **a2a,
                            proa_error *err);
void proa_a2a_free(proa_a2a *a2a); /* accepts NULL */

proa_post *proa_a2a_post(proa_a2a *a2a);
size_t proa_a2a_bytes(const proa_a2a *a2a); /* of its buffers */
proa_exchange proa_a2a_exchange(proa_a2a *a2a);

/* From now on these ranks take part (live [ranks], the own one included), all from turn 0 of this epoch. Not during a step. What is being
 * written here by a step that was broken off is waited for. PROA_ERR_DEADLINE: it does not end; the process must not go on with these
 * buffers. What such a step has left to send is waited for by the next dispatch, when its receivers wait too and so take it. */
proa_status proa_a2a_begin(proa_a2a *a2a, uint64_t epoch, const bool *live, proa_error *err);

/* Between steps of a group that is not whole: lets others get rid of what a broken step has left. True when anything was done. */
bool proa_a2a_progress(proa_a2a *a2a);

/* Something that was sent is still needed: its receiver may fetch it from here, with this rank's help. */
bool proa_a2a_owes(const proa_a2a *a2a);

/* Waits of the current step end with PROA_ERR_CANCELLED, until the next begin. Any thread. */
void proa_a2a_abandon(proa_a2a *a2a);

/* [ranks] The ranks that the latest failed wait, send or message is blamed on: all that were missing. Owner. */
const bool *proa_a2a_suspects(const proa_a2a *a2a);

/* What its owner does, for a watchdog. Any thread; the fields may be of different moments. */
typedef struct proa_a2a_look {
    uint64_t
        moves; /* grows with each piece of work that the exchange sees, and each rank that a wait has got */
    const char *waits_for; /* of other ranks, a literal ("rows"); NULL: it does not wait */
    int64_t since_us;      /* when that wait began */
    int32_t layer;         /* of the latest window */
    uint64_t window;       /* its number in its lane, since the epoch began */
} proa_a2a_look;
void proa_a2a_get_look(const proa_a2a *a2a, proa_a2a_look *look);
bool proa_a2a_misses(const proa_a2a *a2a, int32_t rank); /* the wait, if there is one */

/* For who shares the post (PROA_POST_CHANNEL of its headers is not 0): land and landed of its messages go to these hooks, from live ranks. They are
 * copied; land NULL ends it. Not during a step. */
void proa_a2a_set_beside(proa_a2a *a2a, const proa_post_hooks *hooks);

typedef struct proa_a2a_stats {
    uint64_t windows;
    uint64_t messages;       /* sent */
    uint64_t dispatch_bytes; /* sent to others */
    uint64_t output_bytes;
    uint64_t wait_us; /* in receive and collect */
    uint64_t dropped; /* messages that did not fit */
} proa_a2a_stats;
void proa_a2a_get_stats(const proa_a2a *a2a, proa_a2a_stats *stats); /* owner */

#endif
