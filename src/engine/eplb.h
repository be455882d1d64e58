/* eplb.h - where experts go: the published expert-parallelism load balancer, as a pure function of loads (law 3).
 *
 * A layer has `experts` logical experts, which the router knows, and `physical` slots, which hold copies of them: slot p
 * is on rank p / (physical / ranks), rank r on node r / (ranks / nodes). The balancer replicates what is loaded most and
 * packs the copies onto ranks, so that the fullest rank, which all others wait for, has as little as possible:
 *
 *   replicate   while slots are left: one copy more of the expert with the largest load / copies
 *   pack        in descending order of load, each item into the least loaded pack that has room; where packs have
 *               room for one item each, item i goes to pack i
 *
 *   deepseek                replicate over all slots, pack onto ranks
 *   deepseek_hierarchical   pack groups of experts onto nodes, then replicate and pack inside each node: with
 *                           group-limited routing, a token's experts are on few nodes
 *   auto                    deepseek_hierarchical when nodes divide groups, else deepseek
 *
 * Placements are those of github.com/deepseek-ai/EPLB, slot for slot: loads, quotients and the sums of packs are float32,
 * as there. Ties, everywhere: the lowest index first (expert, slot, pack), the order of a stable sort. The published code
 * leaves the order of equal loads to PyTorch's unstable one; where no two experts have the same load, that shows in the
 * numbers of replicas alone. Sums of a group's loads are rounded once; the published code's depend on the machine from
 * 2^24 tokens on.
 *
 * Any thread may call. Nothing is allocated; about 100 KiB of stack.
 */
#ifndef PROA_ENGINE_EPLB_H
#define PROA_ENGINE_EPLB_H

#include "base/status.h"

#include <stdint.h>

enum {
    PROA_EXPERT_LAYERS_MAX = 256,
    PROA_EXPERTS_MAX = 1024,      /* logical ones of a layer */
    PROA_EXPERT_SLOTS_MAX = 4096, /* physical ones of a layer */
    PROA_EXPERT_RANKS_MAX = 1024,
    PROA_EXPERT_NONE = -1, /* in a placement: this slot holds no expert (its rank is dead) */
};

/* What is placed onto what. */
typedef struct proa_expert_shape {
    int32_t layers;
    int32_t experts;
    int32_t physical; /* >= experts, a multiple of ranks */
    int32_t ranks;    /* a multiple of nodes */
    int32_t nodes;
    int32_t groups; /* of the router; 0: it has none */
} proa_expert_shape;

typedef enum proa_eplb_algorithm {
    PROA_EPLB_AUTO,
    PROA_EPLB_DEEPSEEK,
    PROA_EPLB_DEEPSEEK_HIERARCHICAL,
} proa_eplb_algorithm;

/* A placement. The caller's memory; `replica` and `copies` may be NULL. */
typedef struct proa_eplb_placement {
    int32_t *physical_to_logical; /* [layers, physical] */
    int32_t *replica; /* [layers, physical]: which copy of its expert, from 0; 0 in slots of dead ranks */
    int32_t *copies;  /* [layers, experts]: how many there are, >= 1 */
} proa_eplb_placement;

/* PROA_ERR_INVALID with the numbers when a shape contradicts itself or is over the limits. */
proa_status proa_expert_shape_check(const proa_expert_shape *shape, proa_error *err);

/* "auto", "deepseek" or "deepseek_hierarchical"; false for any other text. */
bool proa_eplb_algorithm_parse(const char *name, proa_eplb_algorithm *algorithm);
const char *proa_eplb_algorithm_name(proa_eplb_algorithm algorithm);

/* What PROA_EPLB_AUTO stands for; the other algorithms stand for themselves. */
proa_eplb_algorithm proa_eplb_resolve(proa_eplb_algorithm algorithm, const proa_expert_shape *shape);

/* Places by `load` [layers, experts] (tokens, or any measure; finite and >= 0). `live` [ranks] says which ranks get experts;
 * NULL: all. With a dead rank the algorithm is deepseek whatever was asked, since nodes are no longer alike, and the
 * slots of dead ranks hold PROA_EXPERT_NONE. Fails on a shape that does not hold, a load that is none, and when the live
 * ranks have fewer slots than there are experts. */
proa_status proa_eplb_place(const proa_expert_shape *shape, proa_eplb_algorithm algorithm, const bool *live,
                            const double *load, const proa_eplb_placement *placement, proa_error *err);

/* The placement without any knowledge: slot p holds expert p modulo experts. */
void proa_expert_place_trivially(const proa_expert_shape *shape, int32_t *physical_to_logical);

#endif
