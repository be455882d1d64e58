/* absorbed.c - attention of generated tokens over threads, straight from the cache's blocks.
 *
 * A task is a chunk of rows of one segment and a share of the heads: it packs the queries once, then each block of
 * the segment, which all rows and heads of the task use. A step of many rows has a task for each chunk; one of few
 * rows shares the heads out too. The running output stands in o_lat.
 * Bound: 2 * (2 * kv_lora_rank + rope_dim) operations for each query, head and key: with 128 heads that is far above
 * the cache's bytes (278 operations a byte of bf16). */
#include "op/mla/mla.h"

#include "base/minmax.h"
#include "op/host.h"
#include "op/mla/attend.h"
#include "op/mla/kv_block.h"

#include <math.h>

enum {
    CHUNK_QUERIES = 256, /* (row, head) pairs of a chunk, unless one row has more heads */
    HEADS_MULTIPLE = 8,  /* of a share of the heads */
};

typedef struct absorbed_job {
    const proa_host *host;
    const proa_mla_absorbed_args *args;
    int32_t rows; /* of the step */
    int32_t chunk_rows;
    int32_t shares; /* of the heads */
} absorbed_job;

typedef struct chunk {
    const proa_segment *segment;
    int32_t first; /* rows of the segment: first .. end - 1 */
    int32_t end;
    int32_t head_first;
    int32_t head_count;
} chunk;

static int32_t chunk_rows_for(int32_t heads)
{
    return heads < CHUNK_QUERIES ? CHUNK_QUERIES / heads : 1;
}

static int32_t padded_depth(int32_t kv_lora_rank, int32_t rope_dim)
{
    return proa_mla_even(kv_lora_rank) + proa_mla_even(rope_dim);
}

static int32_t chunks_of(const absorbed_job *job, const proa_segment *segment)
{
    return segment->absorbed ? (segment->row_count + job->chunk_rows - 1) / job->chunk_rows : 0;
}

static chunk find_chunk(const absorbed_job *job, int32_t task)
{
    const proa_mla_absorbed_args *a = job->args;
    int32_t index = task / job->shares, share = task % job->shares;
    int32_t units = (a->heads + HEADS_MULTIPLE - 1) / HEADS_MULTIPLE;
    const proa_segment *segment = a->segments;
    while (index >= chunks_of(job, segment))
        index -= chunks_of(job, segment++);
    chunk c = {.segment = segment, .first = index * job->chunk_rows};
    c.end = proa_min_i32(c.first + job->chunk_rows, segment->row_count);
    c.head_first = proa_host_share(units, job->shares, share) * HEADS_MULTIPLE;
    int32_t head_end =
        proa_min_i32(proa_host_share(units, job->shares, share + 1) * HEADS_MULTIPLE, a->heads);
    c.head_count = head_end - c.head_first;
    return c;
}

static float *output_of(const proa_mla_absorbed_args *a, const chunk *c, int32_t t)
{
    int64_t query = (int64_t)(c->segment->row_first + t) * a->heads + c->head_first;
    return a->o_lat + query * a->kv->kv_lora_rank;
}

static void start(const proa_mla_work *w, const proa_mla_absorbed_args *a, const chunk *c)
{
    int32_t lora = a->kv->kv_lora_rank, n = 0;
    size_t bytes = (size_t)w->depth * w->kernels->element_bytes;
    for (int32_t t = c->first; t < c->end; t++) {
        int64_t row = c->segment->row_first + t;
        for (int32_t h = c->head_first; h < c->head_first + c->head_count; h++, n++) {
            char *to = (char *)w->queries + (size_t)n * bytes;
            w->kernels->pack_query(to, 0, a->q_lat + (row * a->heads + h) * lora, lora);
            w->kernels->pack_query(to, proa_mla_even(lora),
                                   a->q_pe + row * a->q_pe_row_stride + h * a->q_pe_head_stride,
                                   a->kv->rope_dim);
            w->max[n] = -INFINITY;
            w->sum[n] = 0;
        }
        memset(output_of(a, c, t), 0, (size_t)c->head_count * lora * sizeof(float));
    }
}

/* An FP8 block becomes bf16 first, which it does once for all queries of the task. */
static void pack_block(const proa_mla_work *w, proa_isa isa, const proa_kv_layer *kv, int32_t block,
                       int32_t keys)
{
    int64_t row_dim = kv->kv_lora_rank + kv->rope_dim;
    const unsigned char *base = proa_kv_layer_at(kv, &block, 0);
    proa_dtype dtype = kv->dtype;
    if (dtype == PROA_DTYPE_E4M3) {
        proa_kv_block_to_bf16(isa, kv, base, keys, w->rows);
        base = (const unsigned char *)w->rows;
        dtype = PROA_DTYPE_BF16;
    }
    size_t element = proa_dtype_bytes(dtype);
    proa_mla_source lora = {base, dtype, row_dim, kv->kv_lora_rank};
    proa_mla_source rope = {base + kv->kv_lora_rank * element, dtype, row_dim, kv->rope_dim};
    w->kernels->pack_keys(w->keys, 0, &lora, keys);
    w->kernels->pack_keys(w->keys, proa_mla_even(kv->kv_lora_rank), &rope, keys);
    w->kernels->pack_values(w->values, w->cols, &lora, keys);
}

static void walk(const proa_mla_work *w, proa_isa isa, const proa_mla_absorbed_args *a, const chunk *c)
{
    size_t bytes = (size_t)w->depth * w->kernels->element_bytes;
    int32_t end_position = c->segment->position_first + c->end;
    for (int32_t first = 0; first < end_position; first += PROA_MLA_SPLIT) {
        pack_block(w, isa, a->kv, c->segment->blocks[first / PROA_MLA_SPLIT],
                   proa_min_i32(end_position - first, PROA_MLA_SPLIT));
        for (int32_t t = c->first; t < c->end; t++) {
            int32_t count = c->segment->position_first + t - first + 1;
            int32_t n = (t - c->first) * c->head_count;
            if (count <= 0)
                continue;
            proa_mla_queries queries = {
                .packed = (char *)w->queries + (size_t)n * bytes,
                .n = c->head_count,
                .count_first = count,
                .max = w->max + n,
                .sum = w->sum + n,
                .out = output_of(a, c, t),
                .out_stride = a->kv->kv_lora_rank,
            };
            proa_mla_attend(w, &queries);
        }
    }
}

static void finish_chunk(const absorbed_job *job, const proa_mla_work *w, const chunk *c)
{
    const proa_mla_absorbed_args *a = job->args;
    int32_t lora = a->kv->kv_lora_rank, n = 0;
    for (int32_t t = c->first; t < c->end; t++) {
        float *out = output_of(a, c, t);
        for (int32_t h = 0; h < c->head_count; h++, n++, out += lora) {
            w->kernels->finish(out, w->sum[n], w->round, lora, out);
            if (a->lse != NULL)
                a->lse[(int64_t)(c->head_first + h) * job->rows + c->segment->row_first + t] =
                    w->max[n] + logf(w->sum[n]);
        }
    }
}

static void absorbed_task(void *context, int task, int thread)
{
    const absorbed_job *job = context;
    const proa_mla_absorbed_args *a = job->args;
    chunk c = find_chunk(job, task);
    if (c.head_count == 0)
        return;
    proa_mla_work work =
        proa_mla_work_at(job->host, thread, job->chunk_rows * a->heads,
                         padded_depth(a->kv->kv_lora_rank, a->kv->rope_dim), a->kv->kv_lora_rank, a->scale);
    start(&work, a, &c);
    walk(&work, job->host->isa, a, &c);
    finish_chunk(job, &work, &c);
}

void proa_mla_absorbed_cpu(const proa_host *host, const proa_mla_absorbed_args *args)
{
    absorbed_job job = {.host = host, .args = args, .chunk_rows = chunk_rows_for(args->heads), .shares = 1};
    int32_t chunks = 0, threads = proa_pool_threads(host->pool);
    for (int32_t i = 0; i < args->segment_count; i++) {
        const proa_segment *segment = &args->segments[i];
        chunks += chunks_of(&job, segment);
        if (segment->row_first + segment->row_count > job.rows)
            job.rows = segment->row_first + segment->row_count;
    }
    if (chunks == 0)
        return;
    PROA_ASSERT(host->scratch_bytes >= proa_mla_absorbed_scratch_bytes(host, job.rows, args->heads,
                                                                       args->kv->kv_lora_rank,
                                                                       args->kv->rope_dim));
    if (threads > 1 && chunks < 2 * threads)
        job.shares = proa_min_i32((2 * threads + chunks - 1) / chunks,
                                  (args->heads + HEADS_MULTIPLE - 1) / HEADS_MULTIPLE);
    proa_pool_run(host->pool, absorbed_task, &job, chunks * job.shares);
}

size_t proa_mla_absorbed_scratch_bytes(const proa_host *host, int32_t rows, int32_t heads,
                                       int32_t kv_lora_rank, int32_t rope_dim)
{
    (void)rows;
    return (size_t)proa_pool_threads(host->pool) * proa_mla_work_bytes(chunk_rows_for(heads) * heads,
                                                                       padded_depth(kv_lora_rank, rope_dim),
                                                                       kv_lora_rank);
}
