/* rank_world.h - which rank of a worker a process is, and what of the worker's limits is its: SGLang's arithmetic. Pure.
 *
 *   --tp-size 8 --dp-size 4 --enable-dp-attention --nnodes 2
 *
 *     node            0               1
 *     rank            0   1   2   3   4   5   6   7
 *     dp rank         0   0   1   1   2   2   3   3     requests of its own, a KV cache of its own
 *     attention tp    0   1   0   1   0   1   0   1     heads of the same requests; 0 has these, and is what frontends see
 *     expert rank     0   1   2   3   4   5   6   7     experts of every MoE layer
 *
 * Without --enable-dp-attention all ranks share the heads of the same requests: one dp rank. --dp-size 1 turns it off.
 */
#ifndef PROA_MODEL_RANK_WORLD_H
#define PROA_MODEL_RANK_WORLD_H

#include "base/status.h"

#include <stdint.h>

/* The flags of these names. */
typedef struct proa_rank_flags {
    int64_t tp_size;
    int64_t dp_size;
    int64_t nnodes;
    int64_t node_rank;
    bool enable_dp_attention;
    int64_t chunked_prefill_size; /* of the worker; -1: prompts are not cut */
    int64_t max_running_requests; /* of the worker; 0: not given, so that each rank has its default */
} proa_rank_flags;

typedef struct proa_rank_world {
    int32_t rank;
    int32_t world; /* ranks of the worker */
    int32_t node;
    int32_t nnodes;
    int32_t local_rank; /* among those of the node */
    int32_t local_size;
    int32_t dp_rank;
    int32_t dp_size;
    int32_t attention_tp_rank;
    int32_t attention_tp_size;
    int32_t moe_ep_rank;
    int32_t moe_ep_size;
    int32_t chunked_prefill_size; /* of the rank */
    int32_t max_running_requests; /* of the rank; 0: not given */
} proa_rank_world;

/* Whether it has the requests of its dp rank. The others of its attention ranks compute their heads of these. */
static inline bool proa_rank_world_leads(const proa_rank_world *world)
{
    return world->attention_tp_rank == 0;
}

/* Of `rank`, 0 <= rank < tp_size, on whatever node; -1: of the node's first rank. PROA_ERR_INVALID and PROA_ERR_UNSUPPORTED name
 * the flags that contradict each other. */
proa_status proa_rank_world_make(const proa_rank_flags *flags, int64_t rank, proa_rank_world *world,
                                 proa_error *err);

#endif
