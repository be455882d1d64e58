/* attend.c - one split against a run of queries: scores, probabilities, values, in batches that stay in the
 * first-level cache. Queries that see equally many keys weigh the values together. */
#include "op/mla/attend.h"

#include "op/host.h"

#include <string.h>

enum { ALIGNMENT = 64 };

const proa_mla_kernels *proa_mla_pick_kernels(const proa_host *host)
{
#if defined(__x86_64__)
    if (host->isa >= PROA_ISA_AVX512_BF16 && host->precision == PROA_PRECISION_DEFAULT)
        return &proa_mla_kernels_avx512_bf16;
    if (host->isa >= PROA_ISA_AVX512)
        return &proa_mla_kernels_avx512;
    if (host->isa >= PROA_ISA_AVX2)
        return &proa_mla_kernels_avx2;
#endif
    (void)host;
    return &proa_mla_kernels_portable;
}

void proa_mla_pack_query_f32(void *packed, int32_t at, const float *query, int32_t dim)
{
    float *to = (float *)packed + at;
    memcpy(to, query, (size_t)dim * sizeof *to);
    if (dim & 1)
        to[dim] = 0;
}

static size_t aligned(size_t bytes)
{
    return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

static int32_t padded_cols(int32_t dim)
{
    return (dim + PROA_MLA_COLS - 1) / PROA_MLA_COLS * PROA_MLA_COLS;
}

typedef struct layout {
    size_t queries, keys, values, batch, rows, state, total;
} layout;

/* Sized for floats, the larger element. */
static layout lay_out(int32_t queries, int32_t depth, int32_t dim)
{
    layout l = {
        .queries = aligned((size_t)queries * depth * sizeof(float)),
        .keys = aligned((size_t)depth * PROA_MLA_SPLIT * sizeof(float)),
        .values = aligned((size_t)padded_cols(dim) * PROA_MLA_SPLIT * sizeof(float)),
        .batch = aligned((size_t)PROA_MLA_BATCH * PROA_MLA_SPLIT * sizeof(float)),
        .rows = aligned((size_t)depth * PROA_MLA_SPLIT * sizeof(uint16_t)),
        .state = aligned((size_t)queries * sizeof(float)),
    };
    l.total = l.queries + l.keys + l.values + 2 * l.batch + l.rows + 2 * l.state;
    return l;
}

size_t proa_mla_work_bytes(int32_t queries, int32_t depth, int32_t dim)
{
    return lay_out(queries, depth, dim).total;
}

proa_mla_work proa_mla_work_at(const proa_host *host, int thread, int32_t queries, int32_t depth, int32_t dim,
                               float scale)
{
    layout l = lay_out(queries, depth, dim);
    PROA_ASSERT(depth % 2 == 0);
    PROA_ASSERT((uintptr_t)host->scratch % ALIGNMENT == 0);
    PROA_ASSERT(host->scratch_bytes >= l.total * (size_t)(thread + 1));
    char *at = (char *)host->scratch + l.total * (size_t)thread;
    proa_mla_work work = {
        .kernels = proa_mla_pick_kernels(host),
        .depth = depth,
        .dim = dim,
        .cols = padded_cols(dim),
        .scale = scale,
        .round = host->precision == PROA_PRECISION_DEFAULT,
    };
    work.queries = at;
    work.keys = at += l.queries;
    work.values = at += l.keys;
    work.scores = (float *)(at += l.values);
    work.p = at += l.batch;
    work.rows = (uint16_t *)(at += l.batch);
    work.max = (float *)(at += l.rows);
    work.sum = (float *)(at + l.state);
    return work;
}

static int32_t key_count(const proa_mla_queries *q, int32_t i)
{
    int32_t count = q->count_first + i * q->count_step;
    return count < PROA_MLA_SPLIT ? count : PROA_MLA_SPLIT;
}

/* Queries first .. first + n - 1, n <= PROA_MLA_BATCH. */
static void attend_batch(const proa_mla_work *w, const proa_mla_queries *q, int32_t first, int32_t n)
{
    const proa_mla_kernels *k = w->kernels;
    size_t p_bytes = PROA_MLA_SPLIT * k->element_bytes;
    float shrink[PROA_MLA_BATCH];
    const char *packed = (const char *)q->packed + (size_t)first * w->depth * k->element_bytes;
    k->scores(packed, n, w->keys, w->depth, w->scale, w->scores);
    for (int32_t i = 0; i < n; i++) {
        shrink[i] = k->weigh(w->scores + i * PROA_MLA_SPLIT, key_count(q, first + i), w->round,
                             &q->max[first + i], &q->sum[first + i], (char *)w->p + i * p_bytes);
    }
    for (int32_t i = 0, run; i < n; i += run) {
        int32_t count = key_count(q, first + i);
        for (run = 1; i + run < n && key_count(q, first + i + run) == count; run++)
            ;
        k->accumulate((char *)w->p + i * p_bytes, shrink + i, run, count, w->values, w->dim, w->cols,
                      q->out + (first + i) * q->out_stride, q->out_stride);
    }
}

void proa_mla_attend(const proa_mla_work *work, const proa_mla_queries *queries)
{
    for (int32_t first = 0; first < queries->n; first += PROA_MLA_BATCH) {
        int32_t left = queries->n - first;
        attend_batch(work, queries, first, left < PROA_MLA_BATCH ? left : PROA_MLA_BATCH);
    }
}
