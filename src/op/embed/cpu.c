/* cpu.c - embed over threads. Bound: the rows' bytes, read once and written once as floats. */
#include "op/embed/embed.h"

#include "op/host.h"
#include "op/lanes.h"

typedef struct embed_job {
    const proa_host *host;
    const proa_embed_args *args;
    int32_t tasks;
} embed_job;

static void embed_row(const proa_host *host, const proa_weight *table, int32_t id, float *y)
{
    PROA_ASSERT(id >= 0);
    PROA_ASSERT(id < table->n);
    int32_t k = table->k;
    if (table->dtype == PROA_DTYPE_BF16) {
        const uint16_t *row = (const uint16_t *)table->data + (int64_t)id * k;
        PROA_VECTORISED
        for (int32_t i = 0; i < k; i++)
            y[i] = proa_lane_load_bf16(row[i]);
        return;
    }
    PROA_ASSERT(table->dtype == PROA_DTYPE_F32);
    const float *row = (const float *)table->data + (int64_t)id * k;
    memcpy(y, row, (size_t)k * sizeof *y);
    if (host->precision != PROA_PRECISION_DEFAULT)
        return;
    PROA_VECTORISED
    for (int32_t i = 0; i < k; i++)
        y[i] = proa_lane_round_bf16(y[i]);
}

static void embed_task(void *context, int task, int thread)
{
    (void)thread;
    const embed_job *job = context;
    const proa_embed_args *a = job->args;
    int32_t end = proa_host_share(a->rows, job->tasks, task + 1);
    for (int32_t r = proa_host_share(a->rows, job->tasks, task); r < end; r++)
        embed_row(job->host, a->table, a->ids[r], a->y + (int64_t)r * a->table->k);
}

void proa_embed_cpu(const proa_host *host, const proa_embed_args *args)
{
    embed_job job = {host, args, proa_host_row_tasks(host, args->rows, args->table->k)};
    proa_pool_run(host->pool, embed_task, &job, job.tasks);
}
