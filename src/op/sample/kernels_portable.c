/* kernels_portable.c - the passes over a row in plain C. */
#include "op/lanes.h"
#include "op/sample/kernels.h"

#include <float.h>

enum { LANES = 16 };

/* The greatest of each lane; `dirty` gathers whether a logit is NaN or +inf. */
static void scan_lanes(const float *logits, float *max, uint32_t *dirty)
{
    PROA_VECTORISED
    for (int32_t j = 0; j < LANES; j++) {
        float x = logits[j];
        dirty[j] |= (uint32_t) !(x <= FLT_MAX);
        max[j] = x > max[j] ? x : max[j];
    }
}

static int32_t find_best(const float *logits, int32_t vocab, bool *clean)
{
    float max[LANES], tail[LANES], best = -INFINITY;
    uint32_t dirty[LANES] = {0}, any = 0;
    int32_t id = 0;
    for (int32_t j = 0; j < LANES; j++)
        max[j] = tail[j] = -INFINITY;
    for (; id + LANES <= vocab; id += LANES)
        scan_lanes(logits + id, max, dirty);
    memcpy(tail, logits + id, (size_t)(vocab - id) * sizeof *tail);
    scan_lanes(tail, max, dirty);
    for (int32_t j = 0; j < LANES; j++) {
        any |= dirty[j];
        best = max[j] > best ? max[j] : best;
    }
    *clean = any == 0;
    for (id = 0; id < vocab; id++)
        if (logits[id] == best)
            return id;
    return 0;
}

static double sum_exp(const float *logits, int32_t vocab, float max)
{
    double sum = 0;
    for (int32_t id = 0; id < vocab; id++)
        sum += expf(logits[id] - max);
    return sum;
}

static bool any_above(const float *logits, float bound)
{
    uint32_t above[LANES], any = 0;
    PROA_VECTORISED
    for (int32_t j = 0; j < LANES; j++)
        above[j] = logits[j] > bound;
    for (int32_t j = 0; j < LANES; j++)
        any |= above[j];
    return any != 0;
}

static int32_t next_above(const float *logits, int32_t from, int32_t vocab, float bound)
{
    while (from + LANES <= vocab && !any_above(logits + from, bound))
        from += LANES;
    while (from < vocab && !(logits[from] > bound))
        from++;
    return from;
}

static void fill(const proa_sample_span *span, proa_sample_bucket *buckets)
{
    for (int32_t id = 0; id < span->vocab; id++) {
        if (span->logits[id] == -INFINITY)
            continue;
        float z = proa_sample_distance(span, span->logits[id]);
        proa_sample_bucket *b = &buckets[proa_sample_bucket_of(z)];
        b->count++;
        b->weight += expf(-z);
    }
}

static int32_t collect(const proa_sample_span *span, int32_t bucket, proa_sample_item *items)
{
    int32_t count = 0;
    for (int32_t id = 0; id < span->vocab; id++) {
        if (span->logits[id] == -INFINITY)
            continue;
        float z = proa_sample_distance(span, span->logits[id]);
        if (proa_sample_bucket_of(z) == bucket)
            items[count++] = (proa_sample_item){z, id};
    }
    return count;
}

const proa_sample_kernels proa_sample_kernels_portable = {
    .find_best = find_best,
    .sum_exp = sum_exp,
    .next_above = next_above,
    .fill = fill,
    .collect = collect,
};
