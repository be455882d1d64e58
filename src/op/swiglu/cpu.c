/* cpu.c - swiglu over threads, in float32. Bound: three floats of memory an element. */
#include "op/swiglu/swiglu.h"

#include "op/host.h"

enum { RUN = 1024 };

typedef struct swiglu_job {
    const proa_host *host;
    const proa_swiglu_args *args;
    int32_t runs;
    int32_t tasks;
} swiglu_job;

static void swiglu_run(const proa_host *host, const float *gate, const float *up, float *y, int32_t count)
{
    for (int32_t i = 0; i < count; i++) {
        float g = gate[i];
        y[i] = proa_host_round(host, g / (1 + expf(-g)) * up[i]);
    }
}

static void swiglu_task(void *context, int task, int thread)
{
    (void)thread;
    const swiglu_job *job = context;
    const proa_swiglu_args *a = job->args;
    int64_t all = (int64_t)a->rows * a->cols;
    int32_t end = proa_host_share(job->runs, job->tasks, task + 1);
    for (int32_t run = proa_host_share(job->runs, job->tasks, task); run < end; run++) {
        int64_t at = (int64_t)run * RUN;
        int32_t count = all - at < RUN ? (int32_t)(all - at) : RUN;
        swiglu_run(job->host, a->gate + at, a->up + at, a->y + at, count);
    }
}

void proa_swiglu_cpu(const proa_host *host, const proa_swiglu_args *args)
{
    int64_t all = (int64_t)args->rows * args->cols;
    swiglu_job job = {host, args, (int32_t)((all + RUN - 1) / RUN), 0};
    job.tasks = proa_host_row_tasks(host, job.runs, RUN);
    proa_pool_run(host->pool, swiglu_task, &job, job.tasks);
}
