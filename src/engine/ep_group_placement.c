/* ep_group_placement.c - which experts a view's ranks hold, and where rows go. */
#include "engine/ep_group_internal.h"

void proa_ep_group_place(void *context, int32_t layer, int32_t first_row, int32_t rows, const int32_t *ids,
                         int32_t *physical)
{
    const proa_ep_group *r = context;
    int32_t top_k = r->config.num_experts_per_tok;
    for (int32_t i = 0; i < rows * top_k; i++) {
        int32_t slot = r->options.dispatch == PROA_EP_DISPATCH_DYNAMIC
                           ? proa_expert_map_dynamic(r->map, layer, ids[i],
                                                     (uint64_t)(uint32_t)r->options.rank << 32 |
                                                         (uint32_t)(first_row + i / top_k),
                                                     i % top_k)
                           : proa_expert_map_static(r->map, layer, ids[i]);
        physical[i] =
            proa_expert_rank(&r->map_shape, slot) * r->capacity + proa_expert_local(&r->map_shape, slot);
    }
}

int32_t proa_ep_group_slots(const proa_ep_group *r, int32_t live)
{
    int32_t experts = r->config.n_routed_experts;
    int32_t own = (experts + r->options.redundant_experts) / r->options.ranks;
    int32_t least = (experts + live - 1) / live;
    return own > least ? own : least;
}

proa_status proa_ep_group_make_placement(proa_ep_group *r, int32_t live, proa_error *err)
{
    int32_t slots = proa_ep_group_slots(r, live);
    if (slots > r->capacity)
        return proa_error_set(err, PROA_ERR_TOO_LONG,
                              "%d ranks that live have no room for %d experts: %d a rank at most", live,
                              r->config.n_routed_experts, r->capacity);
    r->map_shape.physical = slots * r->options.ranks;
    const proa_eplb_placement to = {.physical_to_logical = r->scratch};
    proa_status status = PROA_OK;
    if (live == r->options.ranks && r->options.algorithm == PROA_EPLB_AUTO)
        proa_expert_place_trivially(&r->map_shape, r->scratch);
    else
        status = proa_eplb_place(&r->map_shape, r->options.algorithm,
                                 live < r->options.ranks ? r->live : NULL, r->load, &to, err);
    if (status != PROA_OK)
        return status;
    proa_expert_map_free(r->map);
    r->map = proa_expert_map_create(&r->map_shape, r->options.rank);
    if (r->map == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for the experts' map");
    for (int32_t i = 0; i < r->map_shape.layers && status == PROA_OK; i++)
        status = proa_expert_map_set_layer(r->map, i, r->scratch + (int64_t)i * r->map_shape.physical, err);
    return status == PROA_OK ? proa_expert_map_set_live(r->map, r->live, err) : status;
}

/* The experts of this rank, for each MoE layer; what a slot does not hold is expert 0, to which nobody sends. */
/* What a slot does not hold is expert 0, to which nobody sends. */
void proa_ep_group_take_layer(proa_ep_group *r, int32_t layer)
{
    int32_t per_rank = r->map_shape.physical / r->options.ranks;
    const int32_t *own = proa_expert_map_layer(r->map, layer) + (int64_t)r->options.rank * per_rank;
    for (int32_t i = 0; i < r->capacity; i++)
        r->local[i] = i < per_rank && own[i] != PROA_EXPERT_NONE ? own[i] : 0;
    proa_forward_set_experts(r->forward, layer, r->local);
}

void proa_ep_group_take_experts(proa_ep_group *r)
{
    for (int32_t layer = 0; layer < r->map_shape.layers; layer++)
        if (proa_model_config_is_moe(&r->config, layer))
            proa_ep_group_take_layer(r, layer);
}
