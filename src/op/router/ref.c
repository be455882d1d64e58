/* ref.c - the router, scalar in double: the specification. */
#include "op/router/router.h"

#include "op/host.h"

#include <math.h>

/* Index of the greatest value among those not taken, ties to the lower; NaN counts as -inf. */
static int32_t best_of(const double *value, const bool *taken, int32_t count)
{
    int32_t best = -1;
    for (int32_t i = 0; i < count; i++)
        if (!taken[i] && (best < 0 || value[i] > value[best]))
            best = i;
    PROA_ASSERT(best >= 0);
    return best;
}

static double group_score(const double *choice, int32_t count)
{
    double first = -INFINITY, second = -INFINITY;
    for (int32_t i = 0; i < count; i++) {
        if (choice[i] > first) {
            second = first;
            first = choice[i];
        } else if (choice[i] > second) {
            second = choice[i];
        }
    }
    return count > 1 ? first + second : first;
}

/* Marks the experts of the groups that do not stay. */
static void drop_groups(const proa_router_args *a, const double *choice, bool *taken)
{
    double score[PROA_ROUTER_MAX_EXPERTS];
    bool stays[PROA_ROUTER_MAX_EXPERTS] = {false};
    int32_t size = a->experts / a->n_group;
    for (int32_t g = 0; g < a->n_group; g++)
        score[g] = group_score(choice + g * size, size);
    for (int32_t i = 0; i < a->topk_group; i++)
        stays[best_of(score, stays, a->n_group)] = true;
    for (int32_t e = 0; e < a->experts; e++)
        taken[e] = !stays[e / size];
}

static void route_row(const proa_router_args *a, const float *logits, int32_t *ids, float *weights)
{
    double s[PROA_ROUTER_MAX_EXPERTS], choice[PROA_ROUTER_MAX_EXPERTS] = {0};
    bool taken[PROA_ROUTER_MAX_EXPERTS] = {false};
    PROA_ASSERT(a->experts >= a->n_group);
    PROA_ASSERT(a->experts > 0);
    for (int32_t e = 0; e < a->experts; e++) {
        s[e] = 1 / (1 + exp(-(double)logits[e]));
        choice[e] = s[e] + (a->bias != NULL ? a->bias[e] : 0);
        if (isnan(choice[e]))
            choice[e] = -INFINITY;
    }
    if (a->n_group > 1)
        drop_groups(a, choice, taken);
    double sum = 0;
    for (int32_t k = 0; k < a->top_k; k++) {
        ids[k] = best_of(choice, taken, a->experts);
        taken[ids[k]] = true;
        sum += s[ids[k]];
    }
    for (int32_t k = 0; k < a->top_k; k++) {
        double share = a->norm_topk_prob ? s[ids[k]] / (sum + 1e-20) : s[ids[k]];
        weights[k] = (float)(share * a->routed_scaling_factor);
    }
}

void proa_router_ref(const proa_host *host, const proa_router_args *args)
{
    (void)host;
    PROA_ASSERT(args->experts <= PROA_ROUTER_MAX_EXPERTS);
    PROA_ASSERT(args->top_k <= PROA_ROUTER_MAX_TOP_K);
    PROA_ASSERT(args->n_group >= 1);
    PROA_ASSERT(args->experts % args->n_group == 0);
    PROA_ASSERT(args->topk_group <= args->n_group);
    PROA_ASSERT(args->top_k <= args->experts / args->n_group * args->topk_group);
    for (int32_t r = 0; r < args->rows; r++)
        route_row(args, args->logits + (int64_t)r * args->experts, args->ids + (int64_t)r * args->top_k,
                  args->weights + (int64_t)r * args->top_k);
}
