/* cpu.c - rmsnorm over threads. Bound: the rows' bytes. */
#include "op/rmsnorm/rmsnorm.h"

#include "op/host.h"
#include "op/lanes.h"

#include <math.h>

enum { LANES = 64 };

/* delta, w_f32 or w_bf16, and y may be NULL. */
typedef struct norm_row {
    float *x;
    const float *delta;
    const float *w_f32;
    const uint16_t *w_bf16;
    float *y;
    int32_t cols;
    float eps;
    bool round;
} norm_row;

typedef void (*norm_kernel)(const norm_row *row);

typedef struct rmsnorm_job {
    const proa_host *host;
    const proa_rmsnorm_args *args;
    norm_kernel kernel;
    int32_t tasks;
} rmsnorm_job;

PROA_BODY void round_row(float *y, int32_t cols)
{
    PROA_VECTORISED
    for (int32_t i = 0; i < cols; i++)
        y[i] = proa_lane_round_bf16(y[i]);
}

/* Lane i % LANES sums its own elements, then the lanes are added in pairs: an order that cols alone decides. */
PROA_BODY float sum_of_squares(const float *x, int32_t cols)
{
    float lane[LANES] = {0};
    int32_t i = 0;
    for (; i + LANES <= cols; i += LANES) {
        PROA_VECTORISED
        for (int32_t j = 0; j < LANES; j++)
            lane[j] += x[i + j] * x[i + j];
    }
    for (; i < cols; i++)
        lane[i % LANES] += x[i] * x[i];
    for (int32_t width = LANES / 2; width > 0; width /= 2)
        for (int32_t j = 0; j < width; j++)
            lane[j] += lane[j + width];
    return lane[0];
}

PROA_BODY void norm_body(const norm_row *row)
{
    float *x = row->x, *y = row->y;
    int32_t cols = row->cols;
    if (row->delta != NULL) {
        const float *delta = row->delta;
        PROA_VECTORISED
        for (int32_t i = 0; i < cols; i++)
            x[i] += delta[i];
        if (row->round)
            round_row(x, cols);
    }
    if (y == NULL)
        return;
    float factor = 1 / sqrtf(sum_of_squares(x, cols) / (float)cols + row->eps);
    if (row->w_bf16 != NULL) {
        const uint16_t *w = row->w_bf16;
        PROA_VECTORISED
        for (int32_t i = 0; i < cols; i++)
            y[i] = x[i] * factor * proa_lane_load_bf16(w[i]);
    } else {
        const float *w = row->w_f32;
        PROA_VECTORISED
        for (int32_t i = 0; i < cols; i++)
            y[i] = x[i] * factor * w[i];
    }
    if (row->round)
        round_row(y, cols);
}

static void norm_portable(const norm_row *row)
{
    norm_body(row);
}

PROA_TARGET_AVX2 static void norm_avx2(const norm_row *row)
{
    norm_body(row);
}

PROA_TARGET_AVX512 static void norm_avx512(const norm_row *row)
{
    norm_body(row);
}

static const norm_kernel kernels[] = {norm_portable, norm_avx2, norm_avx512, norm_avx512}; /* by proa_isa */

static void rmsnorm_task(void *context, int task, int thread)
{
    (void)thread;
    const rmsnorm_job *job = context;
    const proa_rmsnorm_args *a = job->args;
    norm_row row = {
        .cols = a->cols,
        .eps = (float)a->eps,
        .round = job->host->precision == PROA_PRECISION_DEFAULT,
    };
    if (a->y != NULL && a->w->dtype == PROA_DTYPE_BF16)
        row.w_bf16 = a->w->data;
    else if (a->y != NULL)
        row.w_f32 = a->w->data;
    int32_t end = proa_host_share(a->rows, job->tasks, task + 1);
    for (int32_t r = proa_host_share(a->rows, job->tasks, task); r < end; r++) {
        row.x = a->x + r * a->x_stride;
        row.delta = a->delta != NULL ? a->delta + (int64_t)r * a->cols : NULL;
        row.y = a->y != NULL ? a->y + r * a->y_stride : NULL;
        job->kernel(&row);
    }
}

void proa_rmsnorm_cpu(const proa_host *host, const proa_rmsnorm_args *args)
{
    if (args->y != NULL) {
        PROA_ASSERT(args->w->k == args->cols);
        PROA_ASSERT(args->w->dtype == PROA_DTYPE_F32 || args->w->dtype == PROA_DTYPE_BF16);
    }
    rmsnorm_job job = {host, args, kernels[host->isa], proa_host_row_tasks(host, args->rows, args->cols)};
    proa_pool_run(host->pool, rmsnorm_task, &job, job.tasks);
}
