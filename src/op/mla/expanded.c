/* expanded.c - attention of prompt tokens over threads.
 *
 * A task is one head and a run of query rows: it packs its queries once, then each split of the tile (a head's keys
 * are rows of nope_dim floats, heads * (nope + v) apart) and walks it. Packing a split costs as much as about ten
 * queries' arithmetic, so runs are long.
 * Bound: 2 * (nope + rope + v) operations for each query, head and visible key; memory is read once a run. */
#include "op/mla/mla.h"

#include "base/minmax.h"
#include "op/host.h"
#include "op/mla/attend.h"

#include <math.h>

enum { RUN_ROWS = 256 };

typedef struct expanded_job {
    const proa_host *host;
    const proa_mla_expanded_args *args;
    int32_t depth;
    int32_t runs; /* of rows, a head */
} expanded_job;

static int32_t padded_depth(int32_t nope_dim, int32_t rope_dim)
{
    return proa_mla_even(nope_dim) + proa_mla_even(rope_dim);
}

static void initialise(const proa_mla_expanded_args *a, int32_t head, int32_t first, int32_t end)
{
    for (int64_t row = first; row < end; row++) {
        int64_t state = (int64_t)head * a->rows + row;
        a->state_max[state] = -INFINITY;
        a->state_sum[state] = 0;
        memset(a->state_out + state * a->v_dim, 0, (size_t)a->v_dim * sizeof(float));
    }
}

static void pack_queries(const proa_mla_work *w, const proa_mla_expanded_args *a, int32_t head, int32_t first,
                         int32_t end)
{
    size_t bytes = (size_t)w->depth * w->kernels->element_bytes;
    for (int32_t row = first; row < end; row++) {
        const float *q = a->q + row * a->q_row_stride + (int64_t)head * (a->nope_dim + a->rope_dim);
        char *to = (char *)w->queries + (size_t)(row - first) * bytes;
        w->kernels->pack_query(to, 0, q, a->nope_dim);
        w->kernels->pack_query(to, proa_mla_even(a->nope_dim), q + a->nope_dim, a->rope_dim);
    }
}

/* Keys first .. first + count - 1 of the tile. */
static void pack_split(const proa_mla_work *w, const proa_mla_expanded_args *a, int32_t head, int64_t first,
                       int32_t count)
{
    int64_t head_dim = a->nope_dim + a->v_dim, stride = a->heads * head_dim;
    const float *kv = a->kv + first * stride + head * head_dim;
    proa_mla_source nope = {kv, PROA_DTYPE_F32, stride, a->nope_dim};
    proa_mla_source rope = {a->k_pe + first * a->rope_dim, PROA_DTYPE_F32, a->rope_dim, a->rope_dim};
    proa_mla_source values = {kv + a->nope_dim, PROA_DTYPE_F32, stride, a->v_dim};
    w->kernels->pack_keys(w->keys, 0, &nope, count);
    w->kernels->pack_keys(w->keys, proa_mla_even(a->nope_dim), &rope, count);
    w->kernels->pack_values(w->values, w->cols, &values, count);
}

/* Rows begin .. end - 1 against the splits of the tile that any of them sees. */
static void walk(const proa_mla_work *w, const proa_mla_expanded_args *a, int32_t head, int32_t begin,
                 int32_t end)
{
    int32_t visible = proa_min_i32(a->tile_count, a->position_first + end - a->tile_first);
    for (int32_t first = 0; first < visible; first += PROA_MLA_SPLIT) {
        int32_t split_position = a->tile_first + first;
        int32_t row = split_position - a->position_first; /* the first row that sees the split */
        if (row < begin)
            row = begin;
        int64_t state = (int64_t)head * a->rows + row;
        pack_split(w, a, head, first, proa_min_i32(visible - first, PROA_MLA_SPLIT));
        proa_mla_queries queries = {
            .packed = (char *)w->queries + (size_t)(row - begin) * w->depth * w->kernels->element_bytes,
            .n = end - row,
            .count_first = a->position_first + row - split_position + 1,
            .count_step = 1,
            .max = a->state_max + state,
            .sum = a->state_sum + state,
            .out = a->state_out + state * a->v_dim,
            .out_stride = a->v_dim,
        };
        proa_mla_attend(w, &queries);
    }
}

static void finish_rows(const proa_mla_work *w, const proa_mla_expanded_args *a, int32_t head, int32_t first,
                        int32_t end)
{
    for (int64_t row = first; row < end; row++) {
        int64_t state = (int64_t)head * a->rows + row;
        w->kernels->finish(a->state_out + state * a->v_dim, a->state_sum[state], w->round, a->v_dim,
                           a->out + row * a->out_row_stride + (int64_t)head * a->v_dim);
        if (a->lse != NULL)
            a->lse[(int64_t)head * a->rows + row] = a->state_max[state] + logf(a->state_sum[state]);
    }
}

static void expanded_task(void *context, int task, int thread)
{
    const expanded_job *job = context;
    const proa_mla_expanded_args *a = job->args;
    int32_t head = task / job->runs, run = task % job->runs;
    int32_t first = run * RUN_ROWS, end = proa_min_i32(first + RUN_ROWS, a->rows);
    if (a->first)
        initialise(a, head, first, end);
    proa_mla_work work =
        proa_mla_work_at(job->host, thread, proa_min_i32(a->rows, RUN_ROWS), job->depth, a->v_dim, a->scale);
    if (a->position_first + end > a->tile_first) {
        pack_queries(&work, a, head, first, end);
        walk(&work, a, head, first, end);
    }
    if (a->last)
        finish_rows(&work, a, head, first, end);
}

void proa_mla_expanded_cpu(const proa_host *host, const proa_mla_expanded_args *args)
{
    PROA_ASSERT(args->tile_first % PROA_MLA_SPLIT == 0);
    PROA_ASSERT(args->last || args->tile_count % PROA_MLA_SPLIT == 0);
    PROA_ASSERT(host->scratch_bytes >= proa_mla_expanded_scratch_bytes(host, args->rows, args->heads,
                                                                       args->tile_count, args->nope_dim,
                                                                       args->rope_dim, args->v_dim));
    expanded_job job = {host, args, padded_depth(args->nope_dim, args->rope_dim),
                        (args->rows + RUN_ROWS - 1) / RUN_ROWS};
    proa_pool_run(host->pool, expanded_task, &job, job.runs * args->heads);
}

size_t proa_mla_expanded_scratch_bytes(const proa_host *host, int32_t rows, int32_t heads, int32_t tile_count,
                                       int32_t nope_dim, int32_t rope_dim, int32_t v_dim)
{
    (void)heads;
    (void)tile_count;
    return (size_t)proa_pool_threads(host->pool) *
           proa_mla_work_bytes(proa_min_i32(rows, RUN_ROWS), padded_depth(nope_dim, rope_dim), v_dim);
}
