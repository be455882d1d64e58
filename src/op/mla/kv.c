/* kv.c - rows into the blocked cache and back, over threads. Bound: the rows' bytes. */
#include "op/mla/mla.h"

#include "op/host.h"
#include "op/lanes.h"

static void store(void *base, proa_dtype dtype, int64_t at, const float *from, int32_t count)
{
    if (dtype == PROA_DTYPE_F32) {
        memcpy((float *)base + at, from, (size_t)count * sizeof *from);
        return;
    }
    uint16_t *to = (uint16_t *)base + at;
    PROA_VECTORISED
    for (int32_t i = 0; i < count; i++)
        to[i] = proa_lane_to_bf16(from[i]);
}

static void load(const void *base, proa_dtype dtype, int64_t at, float *to, int32_t count)
{
    if (dtype == PROA_DTYPE_F32) {
        memcpy(to, (const float *)base + at, (size_t)count * sizeof *to);
        return;
    }
    const uint16_t *from = (const uint16_t *)base + at;
    PROA_VECTORISED
    for (int32_t i = 0; i < count; i++)
        to[i] = proa_lane_load_bf16(from[i]);
}

/* Element of the cache at which the row of `position` starts. */
static int64_t row_start(const proa_kv_layer *kv, const int32_t *blocks, int32_t position)
{
    int64_t block = blocks[position / PROA_KV_BLOCK_TOKENS];
    return (block * PROA_KV_BLOCK_TOKENS + position % PROA_KV_BLOCK_TOKENS) *
           (kv->kv_lora_rank + kv->rope_dim);
}

typedef struct append_job {
    const proa_kv_append_args *args;
    int32_t rows;
    int32_t tasks;
} append_job;

/* Rows begin .. end - 1, counted over all segments. */
static void append_task(void *context, int task, int thread)
{
    (void)thread;
    const append_job *job = context;
    const proa_kv_append_args *a = job->args;
    const proa_kv_layer *kv = a->kv;
    int32_t begin = proa_host_share(job->rows, job->tasks, task);
    int32_t end = proa_host_share(job->rows, job->tasks, task + 1);
    for (int32_t i = 0, before = 0; i < a->segment_count && before < end; i++) {
        const proa_segment *segment = &a->segments[i];
        int32_t from = begin > before ? begin - before : 0;
        int32_t to = end - before < segment->row_count ? end - before : segment->row_count;
        for (int32_t t = from; t < to; t++) {
            int64_t row = segment->row_first + t;
            int64_t at = row_start(kv, segment->blocks, segment->position_first + t);
            store(kv->base, kv->dtype, at, a->kv_lora + row * a->kv_lora_stride, kv->kv_lora_rank);
            store(kv->base, kv->dtype, at + kv->kv_lora_rank, a->k_pe + row * a->k_pe_stride, kv->rope_dim);
        }
        before += segment->row_count;
    }
}

void proa_kv_append_cpu(const proa_host *host, const proa_kv_append_args *args)
{
    const proa_kv_layer *kv = args->kv;
    PROA_ASSERT(kv->dtype == PROA_DTYPE_F32 || kv->dtype == PROA_DTYPE_BF16);
    append_job job = {.args = args};
    for (int32_t i = 0; i < args->segment_count; i++)
        job.rows += args->segments[i].row_count;
    job.tasks = proa_host_row_tasks(host, job.rows, kv->kv_lora_rank + kv->rope_dim);
    proa_pool_run(host->pool, append_task, &job, job.tasks);
}

typedef struct gather_job {
    const proa_kv_gather_args *args;
    int32_t tasks;
} gather_job;

static void gather_task(void *context, int task, int thread)
{
    (void)thread;
    const gather_job *job = context;
    const proa_kv_gather_args *a = job->args;
    const proa_kv_layer *kv = a->kv;
    int32_t end = proa_host_share(a->count, job->tasks, task + 1);
    for (int32_t t = proa_host_share(a->count, job->tasks, task); t < end; t++) {
        int64_t at = row_start(kv, a->blocks, a->first + t);
        load(kv->base, kv->dtype, at, a->kv_lora + (int64_t)t * kv->kv_lora_rank, kv->kv_lora_rank);
        load(kv->base, kv->dtype, at + kv->kv_lora_rank, a->k_pe + (int64_t)t * kv->rope_dim, kv->rope_dim);
    }
}

void proa_kv_gather_cpu(const proa_host *host, const proa_kv_gather_args *args)
{
    const proa_kv_layer *kv = args->kv;
    PROA_ASSERT(kv->dtype == PROA_DTYPE_F32 || kv->dtype == PROA_DTYPE_BF16);
    gather_job job = {args, proa_host_row_tasks(host, args->count, kv->kv_lora_rank + kv->rope_dim)};
    proa_pool_run(host->pool, gather_task, &job, job.tasks);
}
