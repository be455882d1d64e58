/* team.h - what attention wants of the ranks that share the heads of the same requests, a team: swaps. net/swap.h makes them.
 *
 * A team is the ranks of a dp group (attention_tp_size of rank_world.h); member 0 leads: the requests are its own. All members compute
 * the same step together, each its heads of all rows and all heads' use of its slice of the rows; each has all rows of the KV cache, of
 * which MLA has one for all heads.
 *
 *   rows of the step      0                                 R
 *   slices                |  member 0  |  member 1  |  ...  |
 *
 *   own slice           input norm, q_a, kv_a            ══ latents ══>  to all members
 *   all rows, own heads q_b, keys into the cache, attention
 *                                                        ══ heads ════>  rows of a slice to its member
 *   own slice           o_proj, norms, experts or MLP
 *   after the last layer: last norm of rows with logits  ══ last ═════>  to the leader, who computes the logits
 *
 * Nothing is added up across ranks: a row's sums run in one place, in one order, so that results are those of one rank with all heads, bit for
 * bit (law 2). The price is that each member reads the whole of o_proj, q_a and kv_a.
 *
 * A swap: each member sends one message to each other one, maybe an empty one, and waits for theirs. So nobody is more than one swap
 * ahead of another. Errors as in exchange.h.
 */
#ifndef PROA_MODEL_TEAM_H
#define PROA_MODEL_TEAM_H

#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

enum { PROA_TEAM_MAX = 64 };
#define PROA_TEAM_ANY_BYTES SIZE_MAX

typedef struct proa_team_swap {
    const char *what; /* for errors: "heads" */
    int32_t layer;    /* for errors; -1: none */
    /* by member; the own entries are unused */
    const void *send[PROA_TEAM_MAX]; /* in the buffer of `prepare`; the same piece may go to several */
    size_t send_bytes[PROA_TEAM_MAX];
    size_t receive_bytes[PROA_TEAM_MAX]; /* what must come; ANY_BYTES: set to what came */
    const void *received[PROA_TEAM_MAX]; /* out, valid until the next swap; aligned to 64 */
} proa_team_swap;

typedef struct proa_team {
    void *context;
    int32_t size; /* 2 .. PROA_TEAM_MAX */
    int32_t member;
    /* Room for what the next swap sends; waits until nobody needs what the last one has sent. */
    proa_status (*prepare)(void *context, uint8_t **buffer, proa_error *err);
    proa_status (*swap)(void *context, proa_team_swap *swap, proa_error *err);
} proa_team;

/* What a team's messages and the buffer of `prepare` must hold. */
typedef struct proa_team_bytes {
    size_t message_max;
    size_t buffer;
} proa_team_bytes;

/* The first row of a member's slice, of member `size` the end. The leader's slice has rows where the step has any. */
static inline int32_t proa_team_slice(int32_t rows, int32_t size, int32_t member)
{
    return (int32_t)(((int64_t)rows * member + size - 1) / size);
}

static inline int32_t proa_team_slice_max(int32_t rows, int32_t size)
{
    return proa_team_slice(rows, size, 1);
}

#endif
