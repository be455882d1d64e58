/* expert_map.c - the tables of a source rank.
 *
 * For each layer: the slots sorted by expert (a counting sort, slots ascending), the first of each expert, and the static
 * choice of the source. What a layer's tables take is fixed, so that it can be placed anew in its own memory.
 */
#include "engine/expert_map.h"

#include "base/random.h"

#include <stdlib.h>
#include <string.h>

typedef struct layer_map {
    int32_t *placement; /* [physical] */
    int32_t *slots;     /* [physical] those on live ranks, sorted by expert */
    int32_t *first;     /* [experts + 1] where an expert's slots begin */
    int32_t *chosen;    /* [experts] static */
} layer_map;

struct proa_expert_map {
    proa_expert_shape shape;
    int32_t source;
    bool live[PROA_EXPERT_RANKS_MAX];
    layer_map layers[PROA_EXPERT_LAYERS_MAX];
    int32_t *memory; /* of all layers */
};

static size_t layer_words(const proa_expert_shape *shape)
{
    return 2 * (size_t)shape->physical + 2 * (size_t)shape->experts + 1;
}

static int32_t node_of(const proa_expert_shape *shape, int32_t rank)
{
    return rank / (shape->ranks / shape->nodes);
}

/* Each expert needs a copy on a live rank. */
static proa_status check_layer(const proa_expert_map *map, int32_t layer, const int32_t *placement,
                               const bool *live, proa_error *err)
{
    const proa_expert_shape *shape = &map->shape;
    bool found[PROA_EXPERTS_MAX] = {false};
    for (int32_t p = 0; p < shape->physical; p++) {
        int32_t expert = placement[p];
        if (expert != PROA_EXPERT_NONE && (expert < 0 || expert >= shape->experts))
            return proa_error_set(err, PROA_ERR_INVALID, "layer %d, slot %d: expert %d of %d", layer, p,
                                  expert, shape->experts);
        if (expert != PROA_EXPERT_NONE && live[proa_expert_rank(shape, p)])
            found[expert] = true;
    }
    for (int32_t e = 0; e < shape->experts; e++)
        if (!found[e])
            return proa_error_set(err, PROA_ERR_INVALID,
                                  "layer %d: expert %d has no copy on a live rank; place the experts anew on "
                                  "the ranks that live",
                                  layer, e);
    return PROA_OK;
}

static void sort_by_expert(proa_expert_map *map, layer_map *m)
{
    const proa_expert_shape *shape = &map->shape;
    int32_t next[PROA_EXPERTS_MAX];
    memset(m->first, 0, ((size_t)shape->experts + 1) * sizeof *m->first);
    for (int32_t p = 0; p < shape->physical; p++)
        if (m->placement[p] != PROA_EXPERT_NONE && map->live[proa_expert_rank(shape, p)])
            m->first[m->placement[p] + 1]++;
    for (int32_t e = 0; e < shape->experts; e++) {
        m->first[e + 1] += m->first[e];
        next[e] = m->first[e];
    }
    for (int32_t p = 0; p < shape->physical; p++)
        if (m->placement[p] != PROA_EXPERT_NONE && map->live[proa_expert_rank(shape, p)])
            m->slots[next[m->placement[p]]++] = p;
}

/* How near a slot is to a rank: 0 there, 1 on its node, 2 elsewhere. */
static int32_t distance(const proa_expert_shape *shape, int32_t slot, int32_t rank)
{
    int32_t other = proa_expert_rank(shape, slot);
    if (other == rank)
        return 0;
    return node_of(shape, other) == node_of(shape, rank) ? 1 : 2;
}

/* The copy for `rank` among those at its least distance: the one with the fewest sources; `turn` is where ties begin. */
static int32_t nearest(const proa_expert_shape *shape, proa_expert_copies copies, const int32_t *sources,
                       int32_t rank, int32_t turn)
{
    int32_t best = -1, best_distance = 3;
    for (int32_t i = 0; i < copies.count; i++) {
        int32_t c = (turn + i) % copies.count;
        int32_t d = distance(shape, copies.slots[c], rank);
        if (d < best_distance || (d == best_distance && sources[c] < sources[best])) {
            best = c;
            best_distance = d;
        }
    }
    return best;
}

/* The static choice of the source, found by choosing for all ranks: first those that have a copy of their own or on
 * their node, so that the rest fills up what these leave. */
static int32_t choose(const proa_expert_map *map, int32_t layer, int32_t expert, proa_expert_copies copies)
{
    const proa_expert_shape *shape = &map->shape;
    int32_t sources[PROA_EXPERT_SLOTS_MAX], turn = (layer + expert) % copies.count;
    int32_t chosen = copies.slots[0];
    if (copies.count == 1)
        return chosen;
    memset(sources, 0, (size_t)copies.count * sizeof *sources);
    for (int32_t far = 0; far <= 2; far++) {
        for (int32_t rank = 0; rank < shape->ranks; rank++) {
            if (!map->live[rank])
                continue;
            int32_t c = nearest(shape, copies, sources, rank, turn);
            if (distance(shape, copies.slots[c], rank) != far)
                continue;
            sources[c]++;
            if (rank == map->source)
                chosen = copies.slots[c];
        }
    }
    return chosen;
}

static void build(proa_expert_map *map, int32_t layer)
{
    layer_map *m = &map->layers[layer];
    sort_by_expert(map, m);
    for (int32_t e = 0; e < map->shape.experts; e++)
        m->chosen[e] = choose(map, layer, e, proa_expert_map_copies(map, layer, e));
}

proa_expert_map *proa_expert_map_create(const proa_expert_shape *shape, int32_t source)
{
    proa_expert_map *map = calloc(1, sizeof *map);
    size_t words = layer_words(shape);
    PROA_ASSERT(source >= 0);
    PROA_ASSERT(source < shape->ranks);
    if (map == NULL || (map->memory = calloc((size_t)shape->layers * words, sizeof *map->memory)) == NULL) {
        proa_expert_map_free(map);
        return NULL;
    }
    map->shape = *shape;
    map->source = source;
    for (int32_t r = 0; r < shape->ranks; r++)
        map->live[r] = true;
    for (int32_t l = 0; l < shape->layers; l++) {
        int32_t *memory = map->memory + (size_t)l * words;
        map->layers[l] = (layer_map){.placement = memory,
                                     .slots = memory + shape->physical,
                                     .first = memory + 2 * (ptrdiff_t)shape->physical,
                                     .chosen = memory + 2 * (ptrdiff_t)shape->physical + shape->experts + 1};
        for (int32_t p = 0; p < shape->physical; p++)
            map->layers[l].placement[p] = p % shape->experts;
        build(map, l);
    }
    return map;
}

void proa_expert_map_free(proa_expert_map *map)
{
    if (map == NULL)
        return;
    free(map->memory);
    free(map);
}

proa_status proa_expert_map_set_layer(proa_expert_map *map, int32_t layer, const int32_t *physical_to_logical,
                                      proa_error *err)
{
    proa_status status = check_layer(map, layer, physical_to_logical, map->live, err);
    if (status != PROA_OK)
        return status;
    memcpy(map->layers[layer].placement, physical_to_logical,
           (size_t)map->shape.physical * sizeof *physical_to_logical);
    build(map, layer);
    return PROA_OK;
}

proa_status proa_expert_map_set_live(proa_expert_map *map, const bool *live, proa_error *err)
{
    for (int32_t l = 0; l < map->shape.layers; l++) {
        proa_status status = check_layer(map, l, map->layers[l].placement, live, err);
        if (status != PROA_OK)
            return status;
    }
    memcpy(map->live, live, (size_t)map->shape.ranks * sizeof *live);
    for (int32_t l = 0; l < map->shape.layers; l++)
        build(map, l);
    return PROA_OK;
}

bool proa_expert_map_live(const proa_expert_map *map, int32_t rank)
{
    return map->live[rank];
}

const int32_t *proa_expert_map_layer(const proa_expert_map *map, int32_t layer)
{
    return map->layers[layer].placement;
}

proa_expert_copies proa_expert_map_copies(const proa_expert_map *map, int32_t layer, int32_t expert)
{
    const layer_map *m = &map->layers[layer];
    return (proa_expert_copies){m->slots + m->first[expert], m->first[expert + 1] - m->first[expert]};
}

int32_t proa_expert_map_static(const proa_expert_map *map, int32_t layer, int32_t expert)
{
    return map->layers[layer].chosen[expert];
}

int32_t proa_expert_map_dynamic(const proa_expert_map *map, int32_t layer, int32_t expert, uint64_t token_key,
                                int32_t k)
{
    proa_expert_copies copies = proa_expert_map_copies(map, layer, expert);
    uint32_t words[4];
    if (copies.count == 1)
        return copies.slots[0];
    proa_random_philox(token_key, (uint64_t)k, (uint64_t)layer, words);
    return copies.slots[(uint64_t)words[0] * (uint64_t)copies.count >> 32];
}

static int32_t greatest_common_divisor(int32_t a, int32_t b)
{
    while (b != 0) {
        int32_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

/* Slots are numbered on through rows; slot n takes expert n * stride modulo experts. With a stride that has no divisor in
 * common with the experts, each run of `experts` slots meets each expert once; near the golden section, neighbours in
 * that order lie far apart. */
void proa_expert_fake(int32_t layer, uint64_t row_first, int32_t rows, int32_t top_k, int32_t experts,
                      int32_t *expert_ids)
{
    int32_t stride = (int32_t)((int64_t)experts * 618 / 1000);
    while (greatest_common_divisor(stride, experts) != 1)
        stride++;
    uint64_t start = (row_first % (uint64_t)experts * (uint64_t)top_k + (uint64_t)layer) % (uint64_t)experts;
    for (int64_t i = 0; i < (int64_t)rows * top_k; i++)
        expert_ids[i] =
            (int32_t)((start + (uint64_t)i) % (uint64_t)experts * (uint64_t)stride % (uint64_t)experts);
}
