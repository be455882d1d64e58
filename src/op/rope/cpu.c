/* cpu.c - the rotation over threads, in float32. Bound: the vectors' bytes, read and written once. */
#include "op/rope/rope.h"

#include "op/host.h"
#include "op/lanes.h"

/* `heads` vectors of one row. */
typedef void (*rotate_kernel)(const proa_rope_args *args, float *x, const float *c, const float *s,
                              bool round);

typedef struct rope_job {
    const proa_host *host;
    const proa_rope_args *args;
    rotate_kernel kernel;
    int32_t tasks;
} rope_job;

PROA_BODY void rotate_body(const proa_rope_args *args, float *first, const float *c, const float *s,
                           bool round)
{
    for (int32_t h = 0; h < args->heads; h++) {
        float *x = first + h * args->head_stride;
        PROA_VECTORISED
        for (int32_t i = 0; i < args->dim / 2; i++) {
            float re = x[2 * i], im = x[2 * i + 1];
            x[2 * i] = re * c[i] - im * s[i];
            x[2 * i + 1] = re * s[i] + im * c[i];
        }
        if (!round)
            continue;
        PROA_VECTORISED
        for (int32_t i = 0; i < args->dim; i++)
            x[i] = proa_lane_round_bf16(x[i]);
    }
}

static void rotate_portable(const proa_rope_args *args, float *x, const float *c, const float *s, bool round)
{
    rotate_body(args, x, c, s, round);
}

PROA_TARGET_AVX2 static void rotate_avx2(const proa_rope_args *args, float *x, const float *c, const float *s,
                                         bool round)
{
    rotate_body(args, x, c, s, round);
}

PROA_TARGET_AVX512 static void rotate_avx512(const proa_rope_args *args, float *x, const float *c,
                                             const float *s, bool round)
{
    rotate_body(args, x, c, s, round);
}

static const rotate_kernel kernels[] = {rotate_portable, rotate_avx2, rotate_avx512,
                                        rotate_avx512}; /* by proa_isa */

static void rope_task(void *context, int task, int thread)
{
    (void)thread;
    const rope_job *job = context;
    const proa_rope_args *a = job->args;
    bool round = job->host->precision == PROA_PRECISION_DEFAULT;
    int32_t end = proa_host_share(a->rows, job->tasks, task + 1);
    for (int32_t r = proa_host_share(a->rows, job->tasks, task); r < end; r++) {
        int64_t at = (int64_t)a->positions[r] * (a->dim / 2);
        job->kernel(a, a->x + r * a->row_stride, a->cos_table + at, a->sin_table + at, round);
    }
}

void proa_rope_cpu(const proa_host *host, const proa_rope_args *args)
{
    PROA_ASSERT(args->dim % 2 == 0);
    rope_job job = {host, args, kernels[host->isa],
                    proa_host_row_tasks(host, args->rows, (int64_t)args->heads * args->dim)};
    proa_pool_run(host->pool, rope_task, &job, job.tasks);
}
