/* exchange.h - what the MoE layers want of the ranks that share their experts: an all-to-all. net/a2a.h is one.
 *
 * A layer passes its rows in windows. For each window every live rank of the group calls, in this order and whether it has rows or not,
 *
 *   dispatch   sends each row once to every rank that hosts one of its experts; does not wait
 *   receive    waits for the rows of all ranks: the work of the experts here
 *   put        leaves outputs of that work, in any order and in pieces, each slot once
 *   give_back  sends them to the rows' homes; does not wait
 *   collect    waits for the outputs of the own rows, one a (row, slot): their home adds them up in slot order (law 2)
 *
 * What lies between dispatch and receive, and between give_back and collect, overlaps with the transfer. A lane is one window under way;
 * lanes are independent and used alike by all ranks. An implementation belongs to the thread of its forward.
 *
 * Errors: a peer is lost or silent (PROA_ERR_UNREACHABLE, PROA_ERR_DEADLINE), or the group has changed (PROA_ERR_CANCELLED). The step is
 * over then, at this rank, and may be done again from its beginning once the group is whole: rows of the KV cache that it has written are
 * written once more with the same values.
 */
#ifndef PROA_MODEL_EXCHANGE_H
#define PROA_MODEL_EXCHANGE_H

#include "op/tensor.h"

/* How rows travel to the experts: as these take them. Outputs travel as BF16, in the exact precision as F32; both hold them exactly. */
typedef enum proa_exchange_format {
    PROA_EXCHANGE_F32,
    PROA_EXCHANGE_BF16,
    PROA_EXCHANGE_FP8, /* e4m3 and a float32 scale for 128 channels */
} proa_exchange_format;

typedef struct proa_dispatch_args {
    int32_t layer;
    proa_rows x;             /* at most rows_max rows; x, or q and s when the format is FP8. Copied. */
    int32_t top_k;           /* of the model */
    const int32_t *physical; /* [rows, top_k] physical expert: rank * local_experts + number there. Copied. */
} proa_dispatch_args;

/* The work of the local experts. Valid until collect. */
typedef struct proa_dispatched {
    proa_rows x; /* rows of all ranks, by rank */
    int32_t slots;
    const int32_t *slot_row;    /* [slots] row of x, ascending */
    const int32_t *slot_expert; /* [slots] 0 .. local_experts - 1 */
} proa_dispatched;

/* The outputs of the own rows. Valid until the next dispatch of the lane. */
typedef struct proa_collected {
    const float *slots;   /* [rows * top_k, hidden] */
    const int32_t *place; /* [rows * top_k]: slot -> row of slots */
} proa_collected;

typedef struct proa_exchange {
    void *context;
    proa_exchange_format format;
    int32_t rows_max; /* rows of a window */
    int32_t lanes;
    int32_t local_experts;
    int32_t received_max; /* rows that receive may give */
    proa_status (*dispatch)(void *context, int32_t lane, const proa_dispatch_args *args, proa_error *err);
    proa_status (*receive)(void *context, int32_t lane, proa_dispatched *work, proa_error *err);
    /* y [count, hidden] of the slots `slots` [count] */
    void (*put)(void *context, int32_t lane, int32_t count, const int32_t *slots, const float *y);
    proa_status (*give_back)(void *context, int32_t lane, proa_error *err);
    proa_status (*collect)(void *context, int32_t lane, proa_collected *out, proa_error *err);
    /* Moves on what is under way, and does not wait: called between ops while a lane travels, since on the CPU the thread that computes is the
     * one that moves. */
    void (*progress)(void *context);
} proa_exchange;

#endif
