/* kv.c - rows into the blocked cache and back, over threads. Bound: the rows' bytes. */
#include "op/mla/mla.h"

#include "base/number.h"

#include "op/host.h"
#include "op/lanes.h"

static void store_bf16(const float *from, int32_t count, void *memory)
{
    uint16_t *to = memory;
    PROA_VECTORISED
    for (int32_t i = 0; i < count; i++)
        to[i] = proa_lane_to_bf16(from[i]);
}

static void load_bf16(const void *memory, int32_t count, float *to)
{
    const uint16_t *from = memory;
    PROA_VECTORISED
    for (int32_t i = 0; i < count; i++)
        to[i] = proa_lane_load_bf16(from[i]);
}

/* The bits of the largest magnitude; floats of one sign are in the order of their bits, NaNs last. */
static uint32_t largest_bits(const float *values, int32_t count)
{
    uint32_t most = 0;
    for (int32_t i = 0; i < count; i++) {
        uint32_t bits = proa_f32_to_bits(proa_lane_round_bf16(values[i])) & 0x7fffffffu;
        most = bits > most ? bits : most;
    }
    return most;
}

static void quantise_group(const float *from, int32_t count, uint8_t *to, float *scale)
{
    uint32_t bits = proa_kv_scale_bits(largest_bits(from, count));
    *scale = proa_bits_to_f32(bits);
    if (bits == PROA_KV_SCALE_INFINITE) {
        memset(to, PROA_KV_CODE_ONE, (size_t)count);
        return;
    }
    float inverse = proa_bits_to_f32(proa_kv_inverse_bits(bits));
    PROA_VECTORISED
    for (int32_t i = 0; i < count; i++)
        to[i] = proa_lane_to_e4m3(proa_lane_round_bf16(from[i]) * inverse);
}

static void store_row(const proa_kv_layer *kv, const proa_kv_row *row, const float *kv_lora,
                      const float *k_pe, unsigned char *to)
{
    if (kv->dtype == PROA_DTYPE_F32) {
        memcpy(to, kv_lora, (size_t)kv->kv_lora_rank * sizeof *kv_lora);
        memcpy(to + row->k_pe, k_pe, (size_t)kv->rope_dim * sizeof *k_pe);
        return;
    }
    store_bf16(k_pe, kv->rope_dim, to + row->k_pe);
    if (kv->dtype == PROA_DTYPE_BF16) {
        store_bf16(kv_lora, kv->kv_lora_rank, to);
        return;
    }
    float *scales = (float *)(void *)(to + row->scales);
    for (int32_t g = 0; g < row->groups; g++) {
        int32_t first = g * PROA_KV_SCALE_GROUP, left = kv->kv_lora_rank - first;
        quantise_group(kv_lora + first, left < PROA_KV_SCALE_GROUP ? left : PROA_KV_SCALE_GROUP, to + first,
                       &scales[g]);
    }
    int32_t end = row->k_pe + kv->rope_dim * 2;
    memset(to + end, 0, (size_t)(row->bytes - end));
}

static void load_row(const proa_kv_layer *kv, const proa_kv_row *row, const unsigned char *from,
                     float *kv_lora, float *k_pe)
{
    if (kv->dtype == PROA_DTYPE_F32) {
        memcpy(kv_lora, from, (size_t)kv->kv_lora_rank * sizeof *kv_lora);
        memcpy(k_pe, from + row->k_pe, (size_t)kv->rope_dim * sizeof *k_pe);
        return;
    }
    load_bf16(from + row->k_pe, kv->rope_dim, k_pe);
    if (kv->dtype == PROA_DTYPE_BF16) {
        load_bf16(from, kv->kv_lora_rank, kv_lora);
        return;
    }
    const float *scales = (const float *)(const void *)(from + row->scales);
    for (int32_t g = 0; g < row->groups; g++) {
        int32_t first = g * PROA_KV_SCALE_GROUP, left = kv->kv_lora_rank - first;
        int32_t count = left < PROA_KV_SCALE_GROUP ? left : PROA_KV_SCALE_GROUP;
        float scale = scales[g];
        PROA_VECTORISED
        for (int32_t i = 0; i < count; i++)
            kv_lora[first + i] = proa_lane_load_e4m3(from[first + i]) * scale;
    }
}

typedef struct append_job {
    const proa_kv_append_args *args;
    proa_kv_row row;
    int32_t rows;
    int32_t tasks;
} append_job;

/* Rows begin .. end - 1, counted over all segments. */
static void append_task(void *context, int task, int thread)
{
    (void)thread;
    const append_job *job = context;
    const proa_kv_append_args *a = job->args;
    int32_t begin = proa_host_share(job->rows, job->tasks, task);
    int32_t end = proa_host_share(job->rows, job->tasks, task + 1);
    for (int32_t i = 0, before = 0; i < a->segment_count && before < end; i++) {
        const proa_segment *segment = &a->segments[i];
        int32_t from = begin > before ? begin - before : 0;
        int32_t to = end - before < segment->row_count ? end - before : segment->row_count;
        for (int32_t t = from; t < to; t++) {
            int64_t row = segment->row_first + t;
            store_row(a->kv, &job->row, a->kv_lora + row * a->kv_lora_stride, a->k_pe + row * a->k_pe_stride,
                      proa_kv_layer_at(a->kv, segment->blocks, segment->position_first + t));
        }
        before += segment->row_count;
    }
}

void proa_kv_append_cpu(const proa_host *host, const proa_kv_append_args *args)
{
    const proa_kv_layer *kv = args->kv;
    PROA_ASSERT(proa_kv_row_fits(kv->dtype, kv->kv_lora_rank, kv->rope_dim));
    append_job job = {.args = args, .row = proa_kv_layer_row(kv)};
    for (int32_t i = 0; i < args->segment_count; i++)
        job.rows += args->segments[i].row_count;
    job.tasks = proa_host_row_tasks(host, job.rows, kv->kv_lora_rank + kv->rope_dim);
    proa_pool_run(host->pool, append_task, &job, job.tasks);
}

typedef struct gather_job {
    const proa_kv_gather_args *args;
    proa_kv_row row;
    int32_t tasks;
} gather_job;

static void gather_task(void *context, int task, int thread)
{
    (void)thread;
    const gather_job *job = context;
    const proa_kv_gather_args *a = job->args;
    const proa_kv_layer *kv = a->kv;
    int32_t end = proa_host_share(a->count, job->tasks, task + 1);
    for (int32_t t = proa_host_share(a->count, job->tasks, task); t < end; t++)
        load_row(kv, &job->row, proa_kv_layer_at(kv, a->blocks, a->first + t),
                 a->kv_lora + (int64_t)t * kv->kv_lora_rank, a->k_pe + (int64_t)t * kv->rope_dim);
}

void proa_kv_gather_cpu(const proa_host *host, const proa_kv_gather_args *args)
{
    const proa_kv_layer *kv = args->kv;
    gather_job job = {args, proa_kv_layer_row(kv),
                      proa_host_row_tasks(host, args->count, kv->kv_lora_rank + kv->rope_dim)};
    proa_pool_run(host->pool, gather_task, &job, job.tasks);
}
