/* cpu.c - the rotation over threads, in float32. Bound: the vectors' bytes, read and written once. */
#include "op/rope/rope.h"

#include "op/host.h"

typedef struct rope_job {
    const proa_host *host;
    const proa_rope_args *args;
    int32_t tasks;
} rope_job;

static void rotate(float *restrict x, const float *restrict c, const float *restrict s, int32_t pairs)
{
    for (int32_t i = 0; i < pairs; i++) {
        float re = x[2 * i], im = x[2 * i + 1];
        x[2 * i] = re * c[i] - im * s[i];
        x[2 * i + 1] = re * s[i] + im * c[i];
    }
}

static void rope_task(void *context, int task, int thread)
{
    (void)thread;
    const rope_job *job = context;
    const proa_rope_args *a = job->args;
    int32_t pairs = a->dim / 2;
    int32_t end = proa_host_share(a->rows, job->tasks, task + 1);
    for (int32_t r = proa_host_share(a->rows, job->tasks, task); r < end; r++) {
        const float *c = a->cos_table + (int64_t)a->positions[r] * pairs;
        const float *s = a->sin_table + (int64_t)a->positions[r] * pairs;
        for (int32_t h = 0; h < a->heads; h++) {
            float *x = a->x + r * a->row_stride + h * a->head_stride;
            rotate(x, c, s, pairs);
            if (job->host->precision == PROA_PRECISION_DEFAULT)
                for (int32_t i = 0; i < a->dim; i++)
                    x[i] = proa_round_bf16(x[i]);
        }
    }
}

void proa_rope_cpu(const proa_host *host, const proa_rope_args *args)
{
    PROA_ASSERT(args->dim % 2 == 0);
    rope_job job = {host, args, proa_host_row_tasks(host, args->rows, (int64_t)args->heads * args->dim)};
    proa_pool_run(host->pool, rope_task, &job, job.tasks);
}
