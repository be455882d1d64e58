/* cpu.c - rmsnorm over threads. Bound: the rows' bytes. */
#include "op/rmsnorm/rmsnorm.h"

#include "op/host.h"

enum { LANES = 16 };

typedef struct rmsnorm_job {
    const proa_host *host;
    const proa_rmsnorm_args *args;
    int32_t tasks;
} rmsnorm_job;

static void add_row(const proa_host *host, float *restrict x, const float *restrict delta, int32_t cols)
{
    for (int32_t i = 0; i < cols; i++)
        x[i] += delta[i];
    if (host->precision == PROA_PRECISION_DEFAULT)
        for (int32_t i = 0; i < cols; i++)
            x[i] = proa_round_bf16(x[i]);
}

/* Lane i % 16 sums its own elements; the lanes are added in order. */
static float sum_of_squares(const float *x, int32_t cols)
{
    float lanes[LANES] = {0};
    int32_t i = 0;
    for (; i + LANES <= cols; i += LANES)
        for (int32_t lane = 0; lane < LANES; lane++)
            lanes[lane] += x[i + lane] * x[i + lane];
    for (; i < cols; i++)
        lanes[i % LANES] += x[i] * x[i];
    float sum = 0;
    for (int32_t lane = 0; lane < LANES; lane++)
        sum += lanes[lane];
    return sum;
}

static void norm_row(const proa_host *host, const proa_rmsnorm_args *a, const float *x, float *y)
{
    float mean = sum_of_squares(x, a->cols) / (float)a->cols;
    float factor = 1 / sqrtf(mean + (float)a->eps);
    if (a->w->dtype == PROA_DTYPE_BF16) {
        const uint16_t *w = a->w->data;
        for (int32_t i = 0; i < a->cols; i++)
            y[i] = x[i] * factor * proa_bf16_to_f32(w[i]);
    } else {
        const float *w = a->w->data;
        for (int32_t i = 0; i < a->cols; i++)
            y[i] = x[i] * factor * w[i];
    }
    if (host->precision == PROA_PRECISION_DEFAULT)
        for (int32_t i = 0; i < a->cols; i++)
            y[i] = proa_round_bf16(y[i]);
}

static void rmsnorm_task(void *context, int task, int thread)
{
    (void)thread;
    const rmsnorm_job *job = context;
    const proa_rmsnorm_args *a = job->args;
    int32_t end = proa_host_share(a->rows, job->tasks, task + 1);
    for (int32_t r = proa_host_share(a->rows, job->tasks, task); r < end; r++) {
        float *x = a->x + r * a->x_stride;
        if (a->delta != NULL)
            add_row(job->host, x, a->delta + (int64_t)r * a->cols, a->cols);
        if (a->y != NULL)
            norm_row(job->host, a, x, a->y + r * a->y_stride);
    }
}

void proa_rmsnorm_cpu(const proa_host *host, const proa_rmsnorm_args *args)
{
    if (args->y != NULL) {
        PROA_ASSERT(args->w->k == args->cols);
        PROA_ASSERT(args->w->dtype == PROA_DTYPE_F32 || args->w->dtype == PROA_DTYPE_BF16);
    }
    rmsnorm_job job = {host, args, proa_host_row_tasks(host, args->rows, args->cols)};
    proa_pool_run(host->pool, rmsnorm_task, &job, job.tasks);
}
