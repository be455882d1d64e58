/* expert_balance.h - how evenly a placement spreads a load over ranks: pure arithmetic, in double.
 *
 * The copies of an expert share its load evenly. In each layer all ranks wait for the fullest one, so the share of their
 * time in which ranks compute experts is at most mean / max: the utilisation, SGLang's "balancedness".
 */
#ifndef PROA_ENGINE_EXPERT_BALANCE_H
#define PROA_ENGINE_EXPERT_BALANCE_H

#include "engine/eplb.h"

typedef struct proa_expert_balance {
    double mean; /* load of a rank */
    double max;
    double utilisation; /* mean / max; 1 without any load */
    int32_t hottest;    /* the first rank with the largest load */
} proa_expert_balance;

/* The load of each rank, rank_load [ranks], of a layer: load [experts], placement [physical]. */
void proa_expert_rank_load(const proa_expert_shape *shape, const double *load, const int32_t *placement,
                           double *rank_load);

proa_expert_balance proa_expert_balance_of(const double *rank_load, int32_t ranks);

#endif
