/* ep_group_placement.c - which experts a view's ranks hold, and where rows go. */
#include "engine/ep_group_internal.h"

#include <stdlib.h>
#include <string.h>

/* Row and rank: a number that no other row of the step has, at any rank. */
static uint64_t token_key(const proa_ep_group *r, int32_t row)
{
    return (uint64_t)(uint32_t)r->options.rank << 32 | (uint32_t)row;
}

/* The slot of the row's k-th expert `id`; `fake` [top_k] are the experts that the row has instead. */
static int32_t slot_of(const proa_ep_group *r, int32_t layer, int32_t row, int32_t k, int32_t id,
                       const int32_t *fake)
{
    switch (r->options.dispatch) {
    case PROA_EP_DISPATCH_DYNAMIC: return proa_expert_map_dynamic(r->map, layer, id, token_key(r, row), k);
    case PROA_EP_DISPATCH_FAKE: return proa_expert_map_static(r->map, layer, fake[k]);
    case PROA_EP_DISPATCH_STATIC: break;
    }
    return proa_expert_map_static(r->map, layer, id);
}

void proa_ep_group_place(void *context, int32_t layer, int32_t first_row, int32_t rows, const int32_t *ids,
                         int32_t *physical)
{
    const proa_ep_group *r = context;
    int32_t top_k = r->config.num_experts_per_tok, fake[PROA_ROUTER_MAX_TOP_K] = {0};
    for (int32_t i = 0; i < rows * top_k; i++) {
        int32_t row = first_row + i / top_k, k = i % top_k;
        if (k == 0 && r->options.dispatch == PROA_EP_DISPATCH_FAKE)
            proa_expert_fake(layer, token_key(r, row), 1, top_k, r->config.n_routed_experts, fake);
        int32_t slot = slot_of(r, layer, row, k, ids[i], fake);
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

/* What is left of the given placement on the ranks that live has all experts of the layer: takes it. */
static bool keep_layer(const proa_ep_group *r, int32_t layer)
{
    const proa_expert_shape *s = &r->map_shape;
    const int32_t *from = r->given + (int64_t)layer * s->physical;
    int32_t *to = r->scratch + (int64_t)layer * s->physical, count = 0;
    bool found[PROA_EXPERTS_MAX] = {false};
    for (int32_t p = 0; p < s->physical; p++) {
        to[p] = r->live[proa_expert_rank(s, p)] ? from[p] : PROA_EXPERT_NONE;
        if (to[p] == PROA_EXPERT_NONE)
            continue;
        count += !found[to[p]];
        found[to[p]] = true;
    }
    return count == s->experts;
}

/* Into r->scratch; the same at all members, of whatever views they come. */
static proa_status place_experts(proa_ep_group *r, int32_t live, proa_error *err)
{
    const proa_expert_shape *s = &r->map_shape;
    bool given = r->given != NULL && s->physical == proa_ep_group_slots(r, r->options.ranks) * s->ranks;
    bool trivial = live == s->ranks && !given && r->options.algorithm == PROA_EPLB_AUTO && !r->load_given;
    proa_expert_shape one = *s;
    one.layers = 1;
    if (trivial)
        proa_expert_place_trivially(s, r->scratch);
    proa_status status = PROA_OK;
    for (int32_t l = 0; l < s->layers && !trivial && status == PROA_OK; l++) {
        const proa_eplb_placement to = {.physical_to_logical = r->scratch + (int64_t)l * s->physical};
        if (!given || !keep_layer(r, l))
            status = proa_eplb_place(&one, r->options.algorithm, live < s->ranks ? r->live : NULL,
                                     r->load + (int64_t)l * s->experts, &to, err);
    }
    return status;
}

proa_status proa_ep_group_make_placement(proa_ep_group *r, int32_t live, proa_error *err)
{
    int32_t slots = proa_ep_group_slots(r, live);
    if (slots > r->capacity)
        return proa_error_set(err, PROA_ERR_TOO_LONG,
                              "%d ranks that live have no room for %d experts: %d a rank at most", live,
                              r->config.n_routed_experts, r->capacity);
    r->map_shape.physical = slots * r->options.ranks;
    proa_status status = place_experts(r, live, err);
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

proa_status proa_ep_group_take_location(proa_ep_group *r, const proa_expert_location *location,
                                        proa_error *err)
{
    size_t experts = (size_t)r->map_shape.layers * (size_t)r->map_shape.experts,
           slots = (size_t)r->map_shape.layers * (size_t)r->map_shape.physical;
    for (size_t i = 0; i < experts; i++)
        r->load[i] = 1; /* nothing is known of loads: all alike */
    if (location == NULL || location->kind == PROA_EXPERT_LOCATION_TRIVIAL)
        return PROA_OK;
    if (location->kind == PROA_EXPERT_LOCATION_COUNT) {
        r->load_given = true;
        memcpy(r->load, location->load, experts * sizeof *r->load);
        return PROA_OK;
    }
    r->given = calloc(slots, sizeof *r->given);
    if (r->given == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for the placement of %zu experts", slots);
    memcpy(r->given, location->map, slots * sizeof *r->given);
    return PROA_OK;
}

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
