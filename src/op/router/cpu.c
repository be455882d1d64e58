/* cpu.c - the router over threads, in float32. */
#include "op/router/router.h"

#include "op/host.h"

#include <math.h>

typedef struct router_job {
    const proa_router_args *args;
    int32_t tasks;
} router_job;

/* Position of the greatest value, ties to the lower position. */
static int32_t best_of(const float *value, int32_t count)
{
    int32_t best = 0;
    for (int32_t i = 1; i < count; i++)
        if (value[i] > value[best])
            best = i;
    return best;
}

static float group_score(const float *choice, int32_t count)
{
    float first = -INFINITY, second = -INFINITY;
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

/* Moves the choices of the topk_group best groups to the front, groups in ascending order, and notes which expert
 * each belongs to; returns how many there are. Groups that do not stay are gone, which is what -inf means. */
static int32_t keep_groups(const proa_router_args *a, float *choice, int32_t *expert)
{
    float score[PROA_ROUTER_MAX_EXPERTS];
    bool stays[PROA_ROUTER_MAX_EXPERTS] = {false};
    int32_t size = a->experts / a->n_group;
    for (int32_t g = 0; g < a->n_group; g++)
        score[g] = group_score(choice + g * size, size);
    for (int32_t i = 0; i < a->topk_group; i++) {
        int32_t best = -1;
        for (int32_t g = 0; g < a->n_group; g++)
            if (!stays[g] && (best < 0 || score[g] > score[best]))
                best = g;
        stays[best] = true;
    }
    int32_t kept = 0;
    for (int32_t g = 0; g < a->n_group; g++) {
        if (!stays[g])
            continue;
        for (int32_t e = g * size; e < (g + 1) * size; e++) {
            choice[kept] = choice[e];
            expert[kept++] = e;
        }
    }
    return kept;
}

/* The top_k best of the kept choices. A chosen one leaves the list, which keeps its order (ties). */
static void choose(const proa_router_args *a, float *choice, int32_t *expert, int32_t kept, int32_t *ids)
{
    for (int32_t k = 0; k < a->top_k; k++) {
        int32_t best = best_of(choice, kept);
        ids[k] = expert[best];
        kept--;
        memmove(choice + best, choice + best + 1, (size_t)(kept - best) * sizeof *choice);
        memmove(expert + best, expert + best + 1, (size_t)(kept - best) * sizeof *expert);
    }
}

static void route_row(const proa_router_args *a, const float *logits, int32_t *ids, float *weights)
{
    float s[PROA_ROUTER_MAX_EXPERTS], choice[PROA_ROUTER_MAX_EXPERTS];
    int32_t expert[PROA_ROUTER_MAX_EXPERTS], kept = a->experts;
    PROA_ASSERT(a->experts >= a->n_group);
    PROA_ASSERT(a->experts > 0);
    for (int32_t e = 0; e < a->experts; e++) {
        s[e] = 1 / (1 + expf(-logits[e]));
        float c = s[e] + (a->bias != NULL ? a->bias[e] : 0);
        choice[e] = c == c ? c : -INFINITY;
    }
    if (a->n_group > 1)
        kept = keep_groups(a, choice, expert);
    else
        for (int32_t e = 0; e < kept; e++)
            expert[e] = e;
    choose(a, choice, expert, kept, ids);
    float sum = 0;
    for (int32_t k = 0; k < a->top_k; k++)
        sum += s[ids[k]];
    for (int32_t k = 0; k < a->top_k; k++) {
        float share = a->norm_topk_prob ? s[ids[k]] / (sum + 1e-20f) : s[ids[k]];
        weights[k] = share * (float)a->routed_scaling_factor;
    }
}

static void router_task(void *context, int task, int thread)
{
    (void)thread;
    const router_job *job = context;
    const proa_router_args *a = job->args;
    int32_t end = proa_host_share(a->rows, job->tasks, task + 1);
    for (int32_t r = proa_host_share(a->rows, job->tasks, task); r < end; r++)
        route_row(a, a->logits + (int64_t)r * a->experts, a->ids + (int64_t)r * a->top_k,
                  a->weights + (int64_t)r * a->top_k);
}

void proa_router_cpu(const proa_host *host, const proa_router_args *args)
{
    PROA_ASSERT(args->experts <= PROA_ROUTER_MAX_EXPERTS);
    PROA_ASSERT(args->top_k <= PROA_ROUTER_MAX_TOP_K);
    PROA_ASSERT(args->n_group >= 1);
    PROA_ASSERT(args->experts % args->n_group == 0);
    PROA_ASSERT(args->topk_group <= args->n_group);
    PROA_ASSERT(args->top_k <= args->experts / args->n_group * args->topk_group);
    /* an expert costs about as much as 16 elements of a simple loop */
    router_job job = {args, proa_host_row_tasks(host, args->rows, 16 * (int64_t)args->experts)};
    proa_pool_run(host->pool, router_task, &job, job.tasks);
}
