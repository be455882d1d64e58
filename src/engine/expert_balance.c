/* expert_balance.c - loads of ranks, and how even they are. */
#include "engine/expert_balance.h"

void proa_expert_rank_load(const proa_expert_shape *shape, const double *load, const int32_t *placement,
                           double *rank_load)
{
    int32_t copies[PROA_EXPERTS_MAX] = {0}, each = shape->physical / shape->ranks;
    for (int32_t p = 0; p < shape->physical; p++)
        if (placement[p] != PROA_EXPERT_NONE)
            copies[placement[p]]++;
    for (int32_t r = 0; r < shape->ranks; r++) {
        rank_load[r] = 0;
        for (int32_t p = r * each; p < (r + 1) * each; p++)
            if (placement[p] != PROA_EXPERT_NONE)
                rank_load[r] += load[placement[p]] / copies[placement[p]];
    }
}

proa_expert_balance proa_expert_balance_of(const double *rank_load, int32_t ranks)
{
    proa_expert_balance b = {.max = rank_load[0]};
    for (int32_t r = 0; r < ranks; r++) {
        b.mean += rank_load[r] / ranks;
        if (rank_load[r] > b.max) {
            b.max = rank_load[r];
            b.hottest = r;
        }
    }
    b.utilisation = b.max > 0 ? b.mean / b.max : 1;
    return b;
}
