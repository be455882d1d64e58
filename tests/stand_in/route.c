/* route.c - op/router/cuda.h: experts of rows, and rows in the order of experts. Within an expert, rows stand last to first: nothing may
 * depend on it. */
#include "stand_in.h"

#include "op/router/cuda.h"

#include <math.h>
#include <string.h>

enum { EXPERTS_MAX = 1024, LANES = 32 };

/* The greatest of those not taken, ties to the lower. */
static int32_t best_of(const float *value, const bool *taken, int32_t count)
{
    int32_t best = -1;
    for (int32_t i = 0; i < count; i++)
        if (!taken[i] && (best < 0 || value[i] > value[best]))
            best = i;
    PROA_ASSERT(best >= 0);
    return best;
}

/* -inf to the experts of groups that do not stay. */
static void drop_groups(const proa_cuda_router_args *a, float *choice)
{
    const int32_t size = a->experts / a->n_group;
    float score[LANES];
    bool stays[LANES] = {false};
    for (int32_t g = 0; g < a->n_group; g++) {
        float first = -INFINITY, second = -INFINITY;
        for (int32_t i = 0; i < size; i++) {
            const float c = choice[g * size + i];
            if (c > first) {
                second = first;
                first = c;
            } else if (c > second) {
                second = c;
            }
        }
        score[g] = size > 1 ? first + second : first;
    }
    for (int32_t i = 0; i < a->topk_group; i++)
        stays[best_of(score, stays, a->n_group)] = true;
    for (int32_t e = 0; e < a->experts; e++)
        if (!stays[e / size])
            choice[e] = -INFINITY;
}

static void route_row(const proa_gpu *gpu, const proa_cuda_router_args *a, int64_t row)
{
    float s[EXPERTS_MAX], choice[EXPERTS_MAX], sum = 0;
    bool taken[EXPERTS_MAX] = {false};
    int32_t mine[LANES];
    for (int32_t e = 0; e < a->experts; e++) {
        float logit = 0;
        for (int64_t p = 0; p < a->parts; p++)
            logit += a->logits[(p * a->rows + row) * a->experts + e];
        s[e] = 1.0f / (1.0f + expf(-logit));
        const float c = a->bias != NULL ? s[e] + a->bias[e] : s[e];
        choice[e] = isnan(c) ? -INFINITY : c;
    }
    if (a->n_group > 1)
        drop_groups(a, choice);
    for (int32_t k = 0; k < a->top_k; k++) {
        mine[k] = best_of(choice, taken, a->experts);
        taken[mine[k]] = true;
        sum += s[mine[k]];
    }
    for (int32_t k = 0; k < a->top_k; k++) {
        const int32_t id = a->where != NULL ? a->where[mine[k]] : mine[k];
        const float share = a->norm_topk_prob ? s[mine[k]] / (sum + 1e-20f) : s[mine[k]];
        a->ids[row * a->top_k + k] = id;
        a->weights[row * a->top_k + k] = share * a->routed_scaling_factor;
        if (a->counts == NULL)
            continue;
        PROA_ASSERT(id >= 0);
        stand_in_check(gpu, a->counts + id, sizeof *a->counts, 4, "counts of a router");
        a->counts[id]++;
    }
}

static void run_router(proa_gpu *gpu, const void *args)
{
    const proa_cuda_router_args *a = args;
    const int64_t slots = (int64_t)a->rows * a->top_k, word = 4;
    PROA_ASSERT(a->experts % a->n_group == 0);
    PROA_ASSERT(a->topk_group <= a->n_group);
    PROA_ASSERT(a->top_k <= a->experts);
    stand_in_check(gpu, a->logits, word * a->parts * a->rows * a->experts, 4, "logits of a router");
    stand_in_check(gpu, a->ids, word * slots, 4, "ids of a router");
    stand_in_check(gpu, a->weights, word * slots, 4, "weights of a router");
    if (a->bias != NULL)
        stand_in_check(gpu, a->bias, word * a->experts, 4, "the bias of a router");
    if (a->where != NULL)
        stand_in_check(gpu, a->where, word * a->experts, 4, "places of a router's experts");
    for (int32_t r = 0; r < a->rows; r++)
        route_row(gpu, a, r);
}

proa_status proa_cuda_router(proa_gpu *gpu, const proa_cuda_router_args *a, proa_error *err)
{
    if (a->experts > EXPERTS_MAX || a->n_group > LANES || a->top_k > LANES)
        return proa_error_set(
            err, PROA_ERR_UNSUPPORTED,
            "a router of %d experts in %d groups, %d chosen: the GPU takes up to %d in %d, %d chosen",
            a->experts, a->n_group, a->top_k, EXPERTS_MAX, LANES, LANES);
    return stand_in_queue(gpu, run_router, a, sizeof *a, err);
}

/* ---- spread ---- */

static void copy_row(const proa_gpu *gpu, const proa_cuda_spread_args *a, int64_t row, int64_t place)
{
    const int64_t cols = a->cols;
    if (a->q.q == NULL) {
        uint16_t *to = (uint16_t *)a->x_out + place * cols;
        stand_in_check(gpu, to, 2 * cols, 16, "a row that is spread");
        memcpy(to, (const uint16_t *)a->x + row * cols, 2 * (size_t)cols);
        return;
    }
    PROA_ASSERT(place < a->q_out.stride);
    stand_in_check(gpu, a->q_out.q + place * cols, cols, 16, "a row that is spread");
    memcpy(a->q_out.q + place * cols, a->q.q + row * cols, (size_t)cols);
    for (int64_t g = 0; g < (cols + 127) / 128; g++) {
        float *to = a->q_out.scale + g * a->q_out.stride + place;
        stand_in_check(gpu, to, sizeof *to, 4, "scales that are spread");
        *to = a->q.scale[g * a->q.stride + row];
    }
}

static void check_spread(const proa_gpu *gpu, const proa_cuda_spread_args *a)
{
    const int64_t slots = (int64_t)a->rows * a->top_k, word = 4;
    stand_in_check(gpu, a->ids, word * slots, 4, "ids of a spread");
    stand_in_check(gpu, a->place, word * slots, 4, "places of a spread");
    stand_in_check(gpu, a->counts, word * a->experts, 4, "counts of a spread");
    stand_in_check(gpu, a->filled, word * a->experts, 4, "what is filled of a spread");
    stand_in_check(gpu, a->first, word * a->experts, 4, "first rows of a spread");
    stand_in_check(gpu, a->count, word * a->experts, 4, "rows of a spread");
    stand_in_check_fp8(gpu, &a->q, a->rows, a->cols, "q of a spread");
    if (a->q.q == NULL)
        stand_in_check_rows(gpu, a->x, a->rows, a->cols, a->cols, 2, "x of a spread");
    if (a->clear != NULL)
        stand_in_check(gpu, a->clear, word * a->clear_count, 4, "what a spread clears");
    for (int32_t e = 0; e < a->experts; e++)
        PROA_ASSERT(a->filled[e] == 0);
}

static void run_spread(proa_gpu *gpu, const void *args)
{
    const proa_cuda_spread_args *a = args;
    int32_t end = 0;
    check_spread(gpu, a);
    if (a->clear != NULL)
        memset(a->clear, 0, sizeof *a->clear * (size_t)a->clear_count);
    for (int32_t e = 0; e < a->experts; e++) {
        PROA_ASSERT(a->counts[e] >= 0);
        a->first[e] = end;
        a->count[e] = a->counts[e];
        end += (a->counts[e] + PROA_CUDA_GROUP_ALIGN - 1) / PROA_CUDA_GROUP_ALIGN * PROA_CUDA_GROUP_ALIGN;
    }
    for (int64_t slot = (int64_t)a->rows * a->top_k; slot-- > 0;) {
        const int32_t id = a->ids[slot];
        PROA_ASSERT(id >= 0);
        PROA_ASSERT(id < a->experts);
        a->place[slot] = a->first[id] + a->filled[id]++;
        copy_row(gpu, a, slot / a->top_k, a->place[slot]);
    }
    for (int32_t e = 0; e < a->experts; e++) /* the counts were of these rows, and of no others */
        PROA_ASSERT(a->filled[e] == a->counts[e]);
}

proa_status proa_cuda_spread(proa_gpu *gpu, const proa_cuda_spread_args *a, proa_error *err)
{
    if (a->experts > EXPERTS_MAX || a->top_k > LANES || a->cols % 16 != 0)
        return proa_error_set(
            err, PROA_ERR_UNSUPPORTED,
            "rows of %d values to %d of %d experts: the GPU takes multiples of 16, %d of %d", a->cols,
            a->top_k, a->experts, LANES, EXPERTS_MAX);
    return a->rows > 0 ? stand_in_queue(gpu, run_spread, a, sizeof *a, err) : PROA_OK;
}
