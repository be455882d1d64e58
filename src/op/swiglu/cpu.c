/* cpu.c - swiglu over threads, in float32, in runs that need not end with a row. Bound: three floats of memory an
 * element. */
#include "op/swiglu/swiglu.h"

#include "op/host.h"
#include "op/swiglu/run.h"
#include "op/vector.h"

enum { RUN = 1024 };

typedef struct swiglu_job {
    const proa_swiglu_args *args;
    proa_swiglu_run run;
    bool round;
    int32_t runs;
    int32_t tasks;
} swiglu_job;

#if defined(__x86_64__)
PROA_TARGET_AVX2 static void run_avx2(const float *gate, const float *up, float *y, int32_t count, bool round)
{
    for (int32_t i = 0; i < count; i += 8) {
        __m256 g = proa_load_8(gate + i, count - i), u = proa_load_8(up + i, count - i);
        __m256 e = proa_exp_8(_mm256_sub_ps(_mm256_setzero_ps(), g));
        __m256 value = _mm256_mul_ps(_mm256_div_ps(g, _mm256_add_ps(_mm256_set1_ps(1), e)), u);
        proa_store_8(y + i, count - i, round ? proa_round_bf16_8(value) : value);
    }
}

PROA_TARGET_AVX512 static void run_avx512(const float *gate, const float *up, float *y, int32_t count,
                                          bool round)
{
    for (int32_t i = 0; i < count; i += 16) {
        __mmask16 mask = proa_mask_16(count - i);
        __m512 g = _mm512_maskz_loadu_ps(mask, gate + i), u = _mm512_maskz_loadu_ps(mask, up + i);
        __m512 e = proa_exp_16(_mm512_sub_ps(_mm512_setzero_ps(), g));
        __m512 value = _mm512_mul_ps(_mm512_div_ps(g, _mm512_add_ps(_mm512_set1_ps(1), e)), u);
        _mm512_mask_storeu_ps(y + i, mask, round ? proa_round_bf16_16(value) : value);
    }
}
#endif

static proa_swiglu_run pick_run(proa_isa isa)
{
#if defined(__x86_64__)
    if (isa >= PROA_ISA_AVX512)
        return run_avx512;
    if (isa >= PROA_ISA_AVX2)
        return run_avx2;
#endif
    (void)isa;
    return proa_swiglu_run_portable();
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
        job->run(a->gate + at, a->up + at, a->y + at, count, job->round);
    }
}

void proa_swiglu_cpu(const proa_host *host, const proa_swiglu_args *args)
{
    int64_t all = (int64_t)args->rows * args->cols;
    swiglu_job job = {args, pick_run(host->isa), host->precision == PROA_PRECISION_DEFAULT,
                      (int32_t)((all + RUN - 1) / RUN), 0};
    job.tasks = proa_host_row_tasks(host, job.runs, RUN);
    proa_pool_run(host->pool, swiglu_task, &job, job.tasks);
}
