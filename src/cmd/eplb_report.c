/* eplb_report.c - the table of `proa eplb`: how even each layer is, before and after. */
#include "cmd/eplb.h"

#include <stdio.h>

/* Sums over layers. All ranks wait in each layer, so times add up: all layers together have sum of mean / sum of max. */
typedef struct totals {
    double mean, max, utilisation;
    int32_t layers;
} totals;

static proa_expert_balance balance(const proa_eplb_study *s, const int32_t *placement, int32_t layer,
                                   totals *sum)
{
    double rank_load[PROA_EXPERT_RANKS_MAX];
    proa_expert_rank_load(&s->shape, s->load + (ptrdiff_t)layer * s->shape.experts,
                          placement + (ptrdiff_t)layer * s->shape.physical, rank_load);
    proa_expert_balance b = proa_expert_balance_of(rank_load, s->shape.ranks);
    sum->mean += b.mean;
    sum->max += b.max;
    sum->utilisation += b.utilisation;
    sum->layers++;
    return b;
}

static void print_share(double share, bool terminal)
{
    const char *colour = share >= 0.9 ? "\033[32m" : share >= 0.7 ? "\033[33m" : "\033[31m";
    printf("  %s%8.1f %%%s", terminal ? colour : "", 100 * share, terminal ? "\033[0m" : "");
}

static void print_head(const proa_eplb_study *s)
{
    const proa_expert_shape *shape = &s->shape;
    printf("%d experts and %d redundant ones on %d ranks (%d each), %d node%s; %s; load: %s\n\n",
           shape->experts, shape->physical - shape->experts, shape->ranks, shape->physical / shape->ranks,
           shape->nodes, shape->nodes == 1 ? "" : "s", proa_eplb_algorithm_name(s->algorithm), s->load_name);
    printf("%5s  %12s  %36s  %36s\n", "", "", s->before_name, "planned");
    printf("%5s  %12s  %10s  %11s  %11s  %10s  %11s  %11s\n", "layer", "mean a rank", "mean/max", "fullest",
           "its load", "mean/max", "fullest", "its load");
}

void proa_eplb_print(const proa_eplb_study *s, bool terminal)
{
    totals before = {0}, after = {0};
    print_head(s);
    for (int32_t l = 0; l < s->shape.layers; l++) {
        if (!s->moe[l])
            continue;
        proa_expert_balance was = balance(s, s->before, l, &before), is = balance(s, s->after, l, &after);
        printf("%5d  %12.1f", l, was.mean);
        print_share(was.utilisation, terminal);
        printf("  %6s %4d  %11.1f", "rank", was.hottest, was.max);
        print_share(is.utilisation, terminal);
        printf("  %6s %4d  %11.1f\n", "rank", is.hottest, is.max);
    }
    double was = before.max > 0 ? before.mean / before.max : 1,
           is = after.max > 0 ? after.mean / after.max : 1;
    printf("%5s  %12.1f", "all", before.mean);
    print_share(was, terminal);
    printf("  %11s  %11.1f", "", before.max);
    print_share(is, terminal);
    printf("  %11s  %11.1f\n\n", "", after.max);
    printf("mean of the layers (SGLang's balancedness): %.3f before, %.3f planned\n",
           before.utilisation / before.layers, after.utilisation / after.layers);
    if (after.max > 0)
        printf("where the fullest rank sets the pace, experts take %.2f of the time before\n",
               after.max / before.max);
}
