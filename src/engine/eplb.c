/* eplb.c - the balancer: pack, replicate, and the three steps of a layer built of them. */
#include "engine/eplb.h"

#include <math.h>
#include <string.h>

static const struct {
    const char *name;
    proa_eplb_algorithm algorithm;
} algorithms[] = {
    {"auto", PROA_EPLB_AUTO},
    {"deepseek", PROA_EPLB_DEEPSEEK},
    {"deepseek_hierarchical", PROA_EPLB_DEEPSEEK_HIERARCHICAL},
};
enum { ALGORITHMS = sizeof algorithms / sizeof algorithms[0] };

static const double load_max = 1e30; /* sums stay finite in float32 */

/* Slots, nodes and ranks that one layer is placed onto; without dead ranks. */
typedef struct layer_shape {
    int32_t experts;
    int32_t physical;
    int32_t ranks;
    int32_t nodes;
    int32_t groups;
} layer_shape;

typedef struct scratch {
    float item[PROA_EXPERT_SLOTS_MAX];    /* what is packed */
    int32_t order[PROA_EXPERT_SLOTS_MAX]; /* of items, heaviest first */
    int32_t place[PROA_EXPERT_SLOTS_MAX]; /* pack * items a pack + position in it, of each item */
    int32_t holds[PROA_EXPERT_SLOTS_MAX]; /* expert of each slot of a node, before packing */
    int32_t which[PROA_EXPERT_SLOTS_MAX]; /* its replica */
    float pack_load[PROA_EXPERT_RANKS_MAX];
    int32_t pack_items[PROA_EXPERT_RANKS_MAX];
    float load[PROA_EXPERTS_MAX]; /* of experts in order of nodes */
    int32_t copies[PROA_EXPERTS_MAX];
    int32_t ordered[PROA_EXPERTS_MAX]; /* expert at each place of that order */
} scratch;

bool proa_eplb_algorithm_parse(const char *name, proa_eplb_algorithm *algorithm)
{
    for (int i = 0; i < ALGORITHMS; i++) {
        if (strcmp(name, algorithms[i].name) == 0) {
            *algorithm = algorithms[i].algorithm;
            return true;
        }
    }
    return false;
}

const char *proa_eplb_algorithm_name(proa_eplb_algorithm algorithm)
{
    return algorithms[algorithm].name;
}

proa_eplb_algorithm proa_eplb_resolve(proa_eplb_algorithm algorithm, const proa_expert_shape *shape)
{
    if (algorithm != PROA_EPLB_AUTO)
        return algorithm;
    return shape->groups > 0 && shape->groups % shape->nodes == 0 ? PROA_EPLB_DEEPSEEK_HIERARCHICAL
                                                                  : PROA_EPLB_DEEPSEEK;
}

static proa_status check_range(const char *what, int32_t value, int32_t low, int32_t high, proa_error *err)
{
    if (value >= low && value <= high)
        return PROA_OK;
    return proa_error_set(err, PROA_ERR_INVALID, "%d %s: it must be %d to %d", value, what, low, high);
}

proa_status proa_expert_shape_check(const proa_expert_shape *s, proa_error *err)
{
    const struct {
        const char *what;
        int32_t value, low, high;
    } ranges[] = {
        {"layers", s->layers, 1, PROA_EXPERT_LAYERS_MAX},
        {"experts a layer", s->experts, 1, PROA_EXPERTS_MAX},
        {"ranks", s->ranks, 1, PROA_EXPERT_RANKS_MAX},
        {"nodes", s->nodes, 1, s->ranks},
        {"groups of experts", s->groups, 0, s->experts},
        {"physical experts a layer", s->physical, s->experts, PROA_EXPERT_SLOTS_MAX},
    };
    for (size_t i = 0; i < sizeof ranges / sizeof ranges[0]; i++) {
        proa_status status = check_range(ranges[i].what, ranges[i].value, ranges[i].low, ranges[i].high, err);
        if (status != PROA_OK)
            return status;
    }
    if (s->ranks % s->nodes != 0)
        return proa_error_set(err, PROA_ERR_INVALID, "%d ranks do not divide by %d nodes", s->ranks,
                              s->nodes);
    int32_t over = s->physical % s->ranks;
    if (over != 0)
        return proa_error_set(err, PROA_ERR_INVALID,
                              "%d experts and %d redundant ones are %d, which do not divide by %d ranks: "
                              "%d redundant experts would",
                              s->experts, s->physical - s->experts, s->physical, s->ranks,
                              s->physical - s->experts + s->ranks - over);
    return PROA_OK;
}

/* Heavier first, then the lower index. */
static bool before(const float *item, int32_t a, int32_t b)
{
    return item[a] > item[b] || (item[a] == item[b] && a < b);
}

static void sift(const float *item, int32_t *heap, int32_t at, int32_t count)
{
    int32_t moving = heap[at];
    for (int32_t child; (child = 2 * at + 1) < count; at = child) {
        if (child + 1 < count && before(item, heap[child], heap[child + 1]))
            child++;
        if (!before(item, moving, heap[child]))
            break;
        heap[at] = heap[child];
    }
    heap[at] = moving;
}

/* Heap sort, which needs no memory; the order is total, so it does not matter that it is not stable. */
static void sort_descending(const float *item, int32_t *order, int32_t count)
{
    for (int32_t i = 0; i < count; i++)
        order[i] = i;
    for (int32_t i = count / 2 - 1; i >= 0; i--)
        sift(item, order, i, count);
    for (int32_t last = count - 1; last > 0; last--) {
        int32_t top = order[0];
        order[0] = order[last];
        order[last] = top;
        sift(item, order, 0, last);
    }
}

/* Places s->item[0 .. count - 1] into `packs` packs of count / packs items: s->place. */
static void pack(scratch *s, int32_t count, int32_t packs)
{
    int32_t room = count / packs;
    if (room == 1) {
        for (int32_t i = 0; i < count; i++)
            s->place[i] = i;
        return;
    }
    sort_descending(s->item, s->order, count);
    for (int32_t p = 0; p < packs; p++) {
        s->pack_load[p] = 0;
        s->pack_items[p] = 0;
    }
    for (int32_t i = 0; i < count; i++) {
        int32_t best = -1;
        for (int32_t p = 0; p < packs; p++)
            if (s->pack_items[p] < room && (best < 0 || s->pack_load[p] < s->pack_load[best]))
                best = p;
        s->place[s->order[i]] = best * room + s->pack_items[best]++;
        s->pack_load[best] += s->item[s->order[i]];
    }
}

/* Gives `slots` slots to `count` experts of the loads given: s->holds, s->which, copies. */
static void replicate(scratch *s, const float *load, int32_t *copies, int32_t count, int32_t slots)
{
    for (int32_t e = 0; e < count; e++) {
        copies[e] = 1;
        s->holds[e] = e;
        s->which[e] = 0;
    }
    for (int32_t i = count; i < slots; i++) {
        int32_t most = 0;
        float most_each = load[0] / (float)copies[0];
        for (int32_t e = 1; e < count; e++) {
            float each = load[e] / (float)copies[e];
            if (each > most_each) {
                most = e;
                most_each = each;
            }
        }
        s->holds[i] = most;
        s->which[i] = copies[most]++;
    }
}

/* Packs groups onto nodes: s->ordered, the experts node by node, and s->load, their loads in that order. */
static void order_by_node(scratch *s, const layer_shape *shape, const double *load)
{
    int32_t size = shape->experts / shape->groups;
    for (int32_t g = 0; g < shape->groups; g++) {
        double sum = 0;
        for (int32_t e = g * size; e < (g + 1) * size; e++)
            sum += (double)(float)load[e];
        s->item[g] = (float)sum;
    }
    pack(s, shape->groups, shape->nodes);
    for (int32_t e = 0; e < shape->experts; e++) {
        int32_t at = s->place[e / size] * size + e % size;
        s->ordered[at] = e;
        s->load[at] = (float)load[e];
    }
}

/* Places one layer. `replica` has a number for each slot, `copies` one for each expert. */
static void place_layer(scratch *s, const layer_shape *shape, const double *load,
                        int32_t *physical_to_logical, int32_t *replica, int32_t *copies)
{
    int32_t experts = shape->experts / shape->nodes, slots = shape->physical / shape->nodes;
    order_by_node(s, shape, load);
    for (int32_t node = 0; node < shape->nodes; node++) {
        const float *node_load = s->load + node * experts;
        const int32_t *ordered = s->ordered + node * experts;
        replicate(s, node_load, s->copies, experts, slots);
        for (int32_t i = 0; i < slots; i++)
            s->item[i] = node_load[s->holds[i]] / (float)s->copies[s->holds[i]];
        pack(s, slots, shape->ranks / shape->nodes);
        for (int32_t i = 0; i < slots; i++) {
            int32_t slot = node * slots + s->place[i];
            physical_to_logical[slot] = ordered[s->holds[i]];
            replica[slot] = s->which[i];
        }
        for (int32_t e = 0; e < experts; e++)
            copies[ordered[e]] = s->copies[e];
    }
}

static proa_status check_load(const proa_expert_shape *shape, const double *load, proa_error *err)
{
    for (int32_t i = 0; i < shape->layers * shape->experts; i++)
        if (!(load[i] >= 0 && load[i] <= load_max))
            return proa_error_set(err, PROA_ERR_INVALID,
                                  "layer %d, expert %d: a load of %g; it must be 0 to %g", i / shape->experts,
                                  i % shape->experts, load[i], load_max);
    return PROA_OK;
}

/* The shape of a layer on the live ranks alone. */
static proa_status shape_layer(const proa_expert_shape *shape, proa_eplb_algorithm algorithm, int32_t live,
                               layer_shape *out, proa_error *err)
{
    int32_t each = shape->physical / shape->ranks;
    *out = (layer_shape){shape->experts, each * live, live, 1, 1};
    if (each * live < shape->experts)
        return proa_error_set(
            err, PROA_ERR_INVALID,
            "%d live ranks of %d have %d slots, %d each, for %d experts: %d ranks must live, "
            "or each needs %d slots",
            live, shape->ranks, each * live, each, shape->experts, (shape->experts + each - 1) / each,
            live > 0 ? (shape->experts + live - 1) / live : shape->experts);
    if (live < shape->ranks || proa_eplb_resolve(algorithm, shape) == PROA_EPLB_DEEPSEEK)
        return PROA_OK;
    if (shape->groups == 0 || shape->groups % shape->nodes != 0 || shape->experts % shape->groups != 0)
        return proa_error_set(
            err, PROA_ERR_INVALID,
            "deepseek_hierarchical: %d experts in %d groups on %d nodes: groups must divide the "
            "experts, and nodes the groups; else take deepseek",
            shape->experts, shape->groups, shape->nodes);
    out->nodes = shape->nodes;
    out->groups = shape->groups;
    return PROA_OK;
}

/* Moves the slots of live ranks apart, to where those ranks are; from the last on, in place. */
static void spread(const proa_expert_shape *shape, const bool *live, int32_t live_count,
                   int32_t *physical_to_logical, int32_t *replica)
{
    int32_t each = shape->physical / shape->ranks, from = live_count;
    for (int32_t rank = shape->ranks - 1; rank >= 0; rank--) {
        if (live[rank])
            from--;
        for (int32_t i = each - 1; i >= 0; i--) {
            int32_t to = rank * each + i;
            physical_to_logical[to] = live[rank] ? physical_to_logical[from * each + i] : PROA_EXPERT_NONE;
            replica[to] = live[rank] ? replica[from * each + i] : 0;
        }
    }
}

proa_status proa_eplb_place(const proa_expert_shape *shape, proa_eplb_algorithm algorithm, const bool *live,
                            const double *load, const proa_eplb_placement *placement, proa_error *err)
{
    scratch s;
    layer_shape layer;
    int32_t replica[PROA_EXPERT_SLOTS_MAX], copies[PROA_EXPERTS_MAX], live_count = 0;
    proa_status status = proa_expert_shape_check(shape, err);
    if (status == PROA_OK)
        status = check_load(shape, load, err);
    if (status != PROA_OK)
        return status;
    for (int32_t r = 0; r < shape->ranks; r++)
        live_count += live == NULL || live[r];
    status = shape_layer(shape, algorithm, live_count, &layer, err);
    if (status != PROA_OK)
        return status;
    for (int32_t l = 0; l < shape->layers; l++) {
        int32_t *slots = placement->physical_to_logical + (ptrdiff_t)l * shape->physical;
        place_layer(&s, &layer, load + (ptrdiff_t)l * shape->experts, slots, replica, copies);
        if (live_count < shape->ranks)
            spread(shape, live, live_count, slots, replica);
        if (placement->replica != NULL)
            memcpy(placement->replica + (ptrdiff_t)l * shape->physical, replica,
                   (size_t)shape->physical * sizeof *replica);
        if (placement->copies != NULL)
            memcpy(placement->copies + (ptrdiff_t)l * shape->experts, copies,
                   (size_t)shape->experts * sizeof *copies);
    }
    return PROA_OK;
}

void proa_expert_place_trivially(const proa_expert_shape *shape, int32_t *physical_to_logical)
{
    for (int32_t l = 0; l < shape->layers; l++)
        for (int32_t p = 0; p < shape->physical; p++)
            physical_to_logical[(ptrdiff_t)l * shape->physical + p] = p % shape->experts;
}
