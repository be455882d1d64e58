/* cpu.c - combine over threads, in float32.
 *
 * A row is summed in runs of COLUMNS columns that stay in the first-level cache while the slots stream past. Each
 * column is its own sum in slot order, so neither the run's length nor the threads change a bit (law 2).
 * Bound: rows * top_k * cols floats read once. */
#include "op/combine/combine.h"

#include "op/host.h"
#include "op/lanes.h"

enum { COLUMNS = 1024 };

/* Columns first .. first + count - 1 of row r. */
typedef void (*combine_kernel)(const proa_combine_args *args, int32_t r, int32_t first, int32_t count,
                               bool round);

typedef struct combine_job {
    const proa_host *host;
    const proa_combine_args *args;
    combine_kernel kernel;
    int32_t runs; /* of columns, a row */
    int32_t tasks;
} combine_job;

PROA_BODY void combine_body(const proa_combine_args *a, int32_t r, int32_t first, int32_t count, bool round)
{
    const int32_t *place = a->place + (int64_t)r * a->top_k;
    const float *weights = a->weights + (int64_t)r * a->top_k;
    float *y = a->y + (int64_t)r * a->cols + first;
    memset(y, 0, (size_t)count * sizeof *y);
    for (int32_t k = 0; k < a->top_k; k++) {
        const float *slot = a->slots + (int64_t)place[k] * a->cols + first;
        float weight = weights[k];
        PROA_VECTORISED
        for (int32_t i = 0; i < count; i++)
            y[i] += weight * slot[i];
    }
    if (a->shared != NULL) {
        const float *shared = a->shared + (int64_t)r * a->cols + first;
        PROA_VECTORISED
        for (int32_t i = 0; i < count; i++)
            y[i] += shared[i];
    }
    if (!round)
        return;
    PROA_VECTORISED
    for (int32_t i = 0; i < count; i++)
        y[i] = proa_lane_round_bf16(y[i]);
}

static void combine_portable(const proa_combine_args *args, int32_t r, int32_t first, int32_t count,
                             bool round)
{
    combine_body(args, r, first, count, round);
}

PROA_TARGET_AVX2 static void combine_avx2(const proa_combine_args *args, int32_t r, int32_t first,
                                          int32_t count, bool round)
{
    combine_body(args, r, first, count, round);
}

PROA_TARGET_AVX512 static void combine_avx512(const proa_combine_args *args, int32_t r, int32_t first,
                                              int32_t count, bool round)
{
    combine_body(args, r, first, count, round);
}

static const combine_kernel kernels[] = {combine_portable, combine_avx2, combine_avx512,
                                         combine_avx512}; /* by proa_isa */

static void combine_task(void *context, int task, int thread)
{
    (void)thread;
    const combine_job *job = context;
    int32_t all = job->args->rows * job->runs;
    int32_t end = proa_host_share(all, job->tasks, task + 1);
    for (int32_t run = proa_host_share(all, job->tasks, task); run < end; run++) {
        int32_t first = run % job->runs * COLUMNS;
        int32_t left = job->args->cols - first;
        job->kernel(job->args, run / job->runs, first, left < COLUMNS ? left : COLUMNS,
                    job->host->precision == PROA_PRECISION_DEFAULT);
    }
}

void proa_combine_cpu(const proa_host *host, const proa_combine_args *args)
{
    combine_job job = {host, args, kernels[host->isa], (args->cols + COLUMNS - 1) / COLUMNS, 0};
    job.tasks = proa_host_row_tasks(host, args->rows * job.runs, (int64_t)COLUMNS * (args->top_k + 1));
    proa_pool_run(host->pool, combine_task, &job, job.tasks);
}
