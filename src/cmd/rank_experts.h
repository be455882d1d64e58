/* rank_experts.h - what the flags of group "Ranks" say about experts: where they are at first, and when they move. */
#ifndef PROA_CMD_RANK_EXPERTS_H
#define PROA_CMD_RANK_EXPERTS_H

#include "base/option.h"
#include "engine/ep_group.h"
#include "model/rank_world.h"

typedef struct proa_rank_experts {
    proa_expert_location location; /* fitted to the model and the ranks */
    uint64_t digest;               /* of it: must be equal at all ranks */
    proa_ep_group_rebalance rebalance;
} proa_rank_experts;

/* For a worker of several ranks. */
proa_status proa_rank_experts_read(const proa_options *options, const proa_rank_world *world,
                                   const proa_model_config *config, proa_rank_experts *experts,
                                   proa_error *err);
void proa_rank_experts_free(proa_rank_experts *experts);

#endif
