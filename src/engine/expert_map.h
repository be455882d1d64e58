/* expert_map.h - where a rank sends a token: which copy of a logical expert, for each layer.
 *
 * A map belongs to one source rank and is built from a placement (eplb.h) and a mask of live ranks; a copy on a dead rank
 * is never chosen. Two ways to choose among live copies:
 *
 *   static    one copy for each (source rank, expert). On the source's own rank when there is one, else on its node, else
 *             anywhere; among those, the copy with the fewest sources so far, sources in order of rank, where the tie
 *             goes round with layer and expert. All ranks compute the same table and read their own part of it.
 *   dynamic   a copy drawn for each (layer, token, slot) by a counter-based generator, all copies alike. Who asks again
 *             for the same token gets the same copy.
 *
 * Which copy is chosen moves no result (law 2): copies are equal and outputs return per (token, slot).
 *
 * Memory is taken at creation alone. A layer may be set anew between steps, while other layers keep their placement.
 * Owner: the engine thread.
 */
#ifndef PROA_ENGINE_EXPERT_MAP_H
#define PROA_ENGINE_EXPERT_MAP_H

#include "engine/eplb.h"

typedef struct proa_expert_map proa_expert_map;

/* The copies of an expert on live ranks, by number of slot. */
typedef struct proa_expert_copies {
    const int32_t *slots;
    int32_t count; /* >= 1 once the layer is set */
} proa_expert_copies;

/* The map of rank `source`, with all ranks alive and each layer placed trivially. The shape holds
 * (proa_expert_shape_check). NULL when memory is out. */
proa_expert_map *proa_expert_map_create(const proa_expert_shape *shape, int32_t source);
void proa_expert_map_free(proa_expert_map *map); /* accepts NULL */

/* Places a layer anew: physical_to_logical [physical], PROA_EXPERT_NONE where a slot holds nothing. Fails, and leaves the
 * map as it was, when a slot names no expert or an expert has no copy on a live rank. */
proa_status proa_expert_map_set_layer(proa_expert_map *map, int32_t layer, const int32_t *physical_to_logical,
                                      proa_error *err);

/* Says which ranks live, live [ranks]. Fails, and leaves the map as it was, when some expert would be lost; the error
 * names the first one. Then place all layers on the ranks that live, and say it again. */
proa_status proa_expert_map_set_live(proa_expert_map *map, const bool *live, proa_error *err);

bool proa_expert_map_live(const proa_expert_map *map, int32_t rank);

/* The placement of a layer, [physical]. Valid until it is set anew. */
const int32_t *proa_expert_map_layer(const proa_expert_map *map, int32_t layer);

proa_expert_copies proa_expert_map_copies(const proa_expert_map *map, int32_t layer, int32_t expert);

/* The slot that the source's tokens for this expert go to. */
int32_t proa_expert_map_static(const proa_expert_map *map, int32_t layer, int32_t expert);

/* The slot for slot `k` (of the router's top-k) of the token that `token_key` names in the whole system. */
int32_t proa_expert_map_dynamic(const proa_expert_map *map, int32_t layer, int32_t expert, uint64_t token_key,
                                int32_t k);

/* The rank of a slot, and its number among the slots there. */
static inline int32_t proa_expert_rank(const proa_expert_shape *shape, int32_t slot)
{
    return slot / (shape->physical / shape->ranks);
}
static inline int32_t proa_expert_local(const proa_expert_shape *shape, int32_t slot)
{
    return slot % (shape->physical / shape->ranks);
}

/* In the router's place, to measure with loads that are balanced by construction: expert_ids [rows, top_k] of rows
 * row_first .. of a layer, top_k <= experts. Of any run of rows, each expert gets equally many slots but for one; the
 * experts of a row are different and far apart, so that its copies go to many ranks. */
void proa_expert_fake(int32_t layer, uint64_t row_first, int32_t rows, int32_t top_k, int32_t experts,
                      int32_t *expert_ids);

#endif
