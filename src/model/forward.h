/* forward.h - the layer graph: one step over a batch of rows, for prefill and decode, on any device.
 *
 * A forward owns its buffers and its KV cache, sized at creation; a step allocates nothing. One owner thread (the
 * engine's). Results depend on each row's tokens and positions alone (law 2).
 */
#ifndef PROA_MODEL_FORWARD_H
#define PROA_MODEL_FORWARD_H

#include "model/config.h"
#include "model/exchange.h"
#include "model/team.h"
#include "model/weights.h"
#include "op/device.h"
#include "op/mla/kv_row.h"

typedef struct proa_forward proa_forward;

typedef struct proa_forward_limits {
    int32_t rows_max;       /* rows of one step */
    int32_t logit_rows_max; /* rows of one step that need logits */
    int32_t positions_max;  /* context length */
    int32_t kv_blocks;      /* blocks of 64 tokens, for all sequences */
    proa_kv_cache kv_cache; /* what they hold; PROA_KV_CACHE_E4M3 where proa_forward_check_kv says so */
    const proa_exchange
        *exchange; /* with the ranks that share the experts; copied. NULL: all experts are here. With two
                      lanes, each step runs in two halves (overlap.h). */
    double
        overlap_threshold; /* of two halves, the smaller one's least share of the rows: 0 .. 0.5; 0: a segment is not cut */
    const proa_team *
        team; /* ranks that share the heads; copied. NULL: all heads are here. Needs an exchange with one lane. */
} proa_forward_limits;

/* Of a team's messages for steps within the limits. PROA_ERR_INVALID: the heads do not divide. */
proa_status proa_forward_team_bytes(const proa_model_config *config, proa_precision precision,
                                    const proa_forward_limits *limits, int32_t size, proa_team_bytes *bytes,
                                    proa_error *err);

/* Can this model's keys be kept so? PROA_ERR_INVALID says what stands against it, and what to ask for instead. */
proa_status proa_forward_check_kv(const proa_model_config *config, proa_precision precision,
                                  proa_kv_cache kv_cache, proa_error *err);

/* Bytes of KV cache that one block of 64 tokens takes over all layers. */
size_t proa_forward_kv_block_bytes(const proa_model_config *config, proa_precision precision,
                                   proa_kv_cache kv_cache);

proa_status proa_forward_create(const proa_model_config *config, const proa_weights *weights,
                                proa_device *device, const proa_forward_limits *limits,
                                proa_forward **forward, proa_error *err);
void proa_forward_free(proa_forward *forward); /* accepts NULL */

/* That it was created with; exchange and team NULL. */
const proa_forward_limits *proa_forward_limits_of(const proa_forward *forward);

/* One step. Rows of a segment are consecutive; segments cover all rows in order. Each segment's blocks hold (or
 * receive) its keys. */
typedef struct proa_step {
    int32_t row_count;
    const int32_t *token_ids; /* [row_count], 0 <= id < vocab */
    const proa_segment *segments;
    int32_t segment_count;
    const int32_t
        *logit_rows; /* [logit_count] rows whose next-token logits are wanted; with a team ascending */
    int32_t logit_count;
    int32_t
        windows; /* with an exchange: of each MoE layer, the same at all ranks, enough for the rows of each of them.
                      * A rank without rows (row_count 0) takes part. */
} proa_step;

/* Windows of the exchange that so many rows need; of each half, where there are two; of a slice, where a team shares them. */
int32_t proa_forward_windows(const proa_forward *forward, int32_t rows);

/* `logits` [logit_count, vocab] float32 belongs to the forward and stays valid (and writable: sampling overwrites
 * it) until the next step; of a team, the leader's alone. Without an exchange it cannot fail on the host; exchange.h has the errors of one.
 * All members of a team make the same step. */
proa_status proa_forward_step(proa_forward *forward, const proa_step *step, float **logits, proa_error *err);

/* Does this forward keep its logits to itself, and draw tokens from those of the last step? Then `logits` of a step and of
 * proa_sample_args is NULL; row i of args is logit row i of the step. The results are there on return. */
bool proa_forward_samples(const proa_forward *forward);
proa_status proa_forward_sample(proa_forward *forward, const proa_sample_args *args, proa_error *err);

/* Rows 0 .. tokens - 1 of block `from`, in every layer, go to block `to`: a prompt that shares the beginning of a
 * cached block continues in a block of its own. */
typedef struct proa_kv_copy {
    int32_t from;
    int32_t to;
    int32_t tokens; /* 1 .. 64 */
} proa_kv_copy;

/* Does the copies one after another (a later one may overwrite what an earlier one has read), before the next step. */
proa_status proa_forward_kv_copy(proa_forward *forward, const proa_kv_copy *copies, int32_t count,
                                 proa_error *err);

/* Where the KV cache lies, for transfers: layer l, block b, row r at base + l * layer_bytes + (b * 64 + r) * row_bytes. base NULL: where
 * no transfer reaches. */
typedef struct proa_forward_kv {
    void *base;
    size_t row_bytes;
    size_t layer_bytes;
} proa_forward_kv;
proa_forward_kv proa_forward_kv_memory(const proa_forward *forward);

/* Which experts a rank of several holds, and where its rows go. Between steps, for all MoE layers before the first one.
 * logical [exchange.local_experts]: what the physical experts of this rank are in this layer. `place` (the same for all layers)
 * finds the physical expert for each slot: ids and physical are [rows, num_experts_per_tok]; first_row tells rows of a step apart. */
void proa_forward_set_experts(proa_forward *forward, int32_t layer, const int32_t *logical);
/* The gate, up and down projections of a logical expert, wherever it is held. Any thread. */
void proa_forward_get_expert(const proa_forward *forward, int32_t layer, int32_t expert,
                             proa_weight projections[3]);
typedef void (*proa_forward_place)(void *context, int32_t layer, int32_t first_row, int32_t rows,
                                   const int32_t *ids, int32_t *physical);
void proa_forward_set_place(proa_forward *forward, proa_forward_place place, void *context);

/* For comparison with a reference: called with hidden [rows, hidden] after the embedding (index 0), after each
 * layer (index i), the last one after the final norm (which is computed for all rows then). NULL: off. Not for steps in two
 * halves, nor of a team. */
typedef void (*proa_forward_tap)(void *context, int32_t index, int32_t rows, const float *hidden);
void proa_forward_set_tap(proa_forward *forward, proa_forward_tap tap, void *context);

/* For counting the load of experts: called for each MoE layer, in their order, with what the router has chosen, expert_ids
 * [rows, num_experts_per_tok]. A step of many rows calls several times a layer. A GPU's are told of once they are here, when the step's logits
 * or tokens are. NULL: off. Before the first step: takes memory where the device is not the host. */
typedef void (*proa_forward_expert_tap)(void *context, int32_t layer, int32_t rows,
                                        const int32_t *expert_ids);
proa_status proa_forward_set_expert_tap(proa_forward *forward, proa_forward_expert_tap tap, void *context,
                                        proa_error *err);

#endif
