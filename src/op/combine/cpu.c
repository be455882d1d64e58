/* cpu.c - combine over threads, in float32.
 *
 * A row is summed in runs of COLUMNS columns that stay in the first-level cache while the slots stream past. Each
 * column is its own sum in slot order, so neither the run's length nor the threads change a bit (law 2).
 * Bound: rows * top_k * cols floats read once. */
#include "op/combine/combine.h"

#include "op/host.h"

enum { COLUMNS = 1024 };

typedef struct combine_job {
    const proa_host *host;
    const proa_combine_args *args;
    int32_t runs; /* of columns, a row */
    int32_t tasks;
} combine_job;

static void combine_run(const combine_job *job, int32_t r, int32_t first, int32_t count)
{
    const proa_combine_args *a = job->args;
    const int32_t *place = a->place + (int64_t)r * a->top_k;
    const float *weights = a->weights + (int64_t)r * a->top_k;
    float *restrict y = a->y + (int64_t)r * a->cols + first;
    memset(y, 0, (size_t)count * sizeof *y);
    for (int32_t k = 0; k < a->top_k; k++) {
        const float *restrict slot = a->slots + (int64_t)place[k] * a->cols + first;
        float weight = weights[k];
        for (int32_t i = 0; i < count; i++)
            y[i] += weight * slot[i];
    }
    if (a->shared != NULL) {
        const float *restrict shared = a->shared + (int64_t)r * a->cols + first;
        for (int32_t i = 0; i < count; i++)
            y[i] += shared[i];
    }
    if (job->host->precision == PROA_PRECISION_DEFAULT)
        for (int32_t i = 0; i < count; i++)
            y[i] = proa_round_bf16(y[i]);
}

static void combine_task(void *context, int task, int thread)
{
    (void)thread;
    const combine_job *job = context;
    int32_t all = job->args->rows * job->runs;
    int32_t end = proa_host_share(all, job->tasks, task + 1);
    for (int32_t run = proa_host_share(all, job->tasks, task); run < end; run++) {
        int32_t first = run % job->runs * COLUMNS;
        int32_t left = job->args->cols - first;
        combine_run(job, run / job->runs, first, left < COLUMNS ? left : COLUMNS);
    }
}

void proa_combine_cpu(const proa_host *host, const proa_combine_args *args)
{
    combine_job job = {host, args, (args->cols + COLUMNS - 1) / COLUMNS, 0};
    job.tasks = proa_host_row_tasks(host, args->rows * job.runs, (int64_t)COLUMNS * (args->top_k + 1));
    proa_pool_run(host->pool, combine_task, &job, job.tasks);
}
