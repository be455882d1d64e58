/* cpu.c - sampling over threads, a row a task, without sorting the vocabulary.
 *
 * Tokens fall into buckets by their distance from the best one, z = (max - logit) / temperature, 1/64 wide: bucket
 * after bucket is the descending order, coarsely. Count and weight (e^-z) of each bucket are enough to find the
 * bucket in which top_k, top_p, min_p or the draw ends, and only that bucket is sorted.
 * All sums are in double and in an order that depends on the row alone (law 2).
 * Bound: the row's bytes, read twice (maximum; weights); greedy reads it once. */
#include "op/sample/sample.h"

#include "base/random.h"
#include "op/host.h"
#include "op/sample/row.h"

enum {
    BUCKETS_PER_UNIT = 64,
    BUCKETS = 64 * 32 + 1, /* the last one takes all z >= 32: e^-32 of the best token's weight each */
};

typedef struct bucket {
    double weight;
    int32_t count;
} bucket;

typedef struct item {
    float z;
    int32_t id;
} item;

/* One thread's part of the scratch. */
typedef struct work {
    bucket *buckets; /* [BUCKETS] */
    item *items;     /* [vocab], of one bucket */
    item *spare;     /* [vocab], for sorting */
    float *raw;      /* [vocab] */
} work;

typedef struct row {
    const work *work;
    const float *logits;
    int32_t vocab;
    float max;
    float inverse_temperature;
    int32_t loaded; /* the bucket that stands sorted in work->items, -1: none */
} row;

/* The first `count` tokens of bucket `index` in order, and all of the buckets before it. */
typedef struct cut {
    int32_t index;
    int32_t count;
} cut;

typedef struct sample_job {
    const proa_host *host;
    const proa_sample_args *args;
} sample_job;

static size_t aligned(size_t bytes)
{
    return (bytes + 63) / 64 * 64;
}

static size_t work_bytes(int32_t vocab)
{
    return aligned(BUCKETS * sizeof(bucket)) + 2 * aligned((size_t)vocab * sizeof(item)) +
           aligned((size_t)vocab * sizeof(float));
}

static work work_at(const proa_host *host, int32_t vocab, int thread)
{
    char *at = (char *)host->scratch + work_bytes(vocab) * (size_t)thread;
    work w = {.buckets = (bucket *)at};
    w.items = (item *)(at += aligned(BUCKETS * sizeof(bucket)));
    w.spare = (item *)(at += aligned((size_t)vocab * sizeof(item)));
    w.raw = (float *)(at + aligned((size_t)vocab * sizeof(item)));
    return w;
}

static void clean_row(float *logits, int32_t vocab)
{
    for (int32_t id = 0; id < vocab; id++)
        logits[id] = proa_sample_clean(logits[id]);
}

/* The first id of the greatest logit. */
static int32_t find_best(const float *logits, int32_t vocab)
{
    int32_t best = 0;
    for (int32_t id = 1; id < vocab; id++)
        if (logits[id] > logits[best])
            best = id;
    return best;
}

/* Keeps result's alternatives sorted, `wanted` at most; equal ones stand in order of arrival, which is id order. */
static void offer(proa_sample_result *result, int32_t wanted, int32_t id, float logit)
{
    int32_t at = result->top_count;
    while (at > 0 && logit > result->top_logprobs[at - 1])
        at--;
    if (at == wanted)
        return;
    if (result->top_count < wanted)
        result->top_count++;
    for (int32_t i = result->top_count - 1; i > at; i--) {
        result->top_ids[i] = result->top_ids[i - 1];
        result->top_logprobs[i] = result->top_logprobs[i - 1];
    }
    result->top_ids[at] = id;
    result->top_logprobs[at] = logit;
}

/* Fills in the alternatives; returns the log of the sum of e^logit. */
static double report_alternatives(const float *logits, int32_t vocab, int32_t wanted,
                                  proa_sample_result *result)
{
    float max = logits[find_best(logits, vocab)];
    double sum = 0;
    if (max == -INFINITY)
        return 0;
    for (int32_t id = 0; id < vocab; id++) {
        sum += expf(logits[id] - max);
        if (logits[id] > -INFINITY)
            offer(result, wanted, id, logits[id]);
    }
    double log_sum = max + log(sum);
    for (int32_t i = 0; i < result->top_count; i++)
        result->top_logprobs[i] = (float)(result->top_logprobs[i] - log_sum);
    return log_sum;
}

static inline float distance(const row *r, float logit)
{
    return (r->max - logit) * r->inverse_temperature;
}

static inline int32_t bucket_of(float z)
{
    float index = z * BUCKETS_PER_UNIT;
    return index < BUCKETS - 1 ? (int32_t)index : BUCKETS - 1;
}

static void fill_buckets(const row *r)
{
    bucket *buckets = r->work->buckets;
    memset(buckets, 0, BUCKETS * sizeof *buckets);
    for (int32_t id = 0; id < r->vocab; id++) {
        if (r->logits[id] == -INFINITY)
            continue;
        float z = distance(r, r->logits[id]);
        bucket *b = &buckets[bucket_of(z)];
        b->count++;
        b->weight += expf(-z);
    }
}

/* A stable radix sort by z >= 0, whose bits order like integers; ids ascend already. */
static void sort_items(const work *w, int32_t count)
{
    enum { DIGIT_BITS = 11, DIGITS = 3 };
    item *from = w->items, *to = w->spare;
    for (int32_t digit = 0; digit < DIGITS; digit++) {
        int32_t next[1 << DIGIT_BITS] = {0}, shift = digit * DIGIT_BITS, sum = 0;
        for (int32_t i = 0; i < count; i++) {
            uint32_t bits;
            memcpy(&bits, &from[i].z, sizeof bits);
            next[bits >> shift & ((1 << DIGIT_BITS) - 1)]++;
        }
        for (int32_t d = 0; d < 1 << DIGIT_BITS; d++) {
            int32_t here = next[d];
            next[d] = sum;
            sum += here;
        }
        for (int32_t i = 0; i < count; i++) {
            uint32_t bits;
            memcpy(&bits, &from[i].z, sizeof bits);
            to[next[bits >> shift & ((1 << DIGIT_BITS) - 1)]++] = from[i];
        }
        item *swapped = from;
        from = to;
        to = swapped;
    }
    memcpy(w->items, w->spare, (size_t)count * sizeof *w->items); /* three passes end in spare */
}

/* Brings bucket `index` into work->items, sorted. */
static void load_bucket(row *r, int32_t index)
{
    int32_t count = 0;
    if (r->loaded == index)
        return;
    for (int32_t id = 0; id < r->vocab; id++) {
        if (r->logits[id] == -INFINITY)
            continue;
        float z = distance(r, r->logits[id]);
        if (bucket_of(z) == index)
            r->work->items[count++] = (item){z, id};
    }
    PROA_ASSERT(count == r->work->buckets[index].count);
    sort_items(r->work, count);
    r->loaded = index;
}

static cut cut_by_count(const row *r, int32_t top_k)
{
    for (int32_t b = 0; b < BUCKETS; b++) {
        int32_t count = r->work->buckets[b].count;
        if (top_k <= count)
            return (cut){b, top_k};
        top_k -= count;
    }
    return (cut){BUCKETS, 0};
}

/* The smallest set whose weights reach `target`. */
static cut cut_by_weight(row *r, double target)
{
    double sum = 0;
    for (int32_t b = 0; b < BUCKETS; b++) {
        const bucket *here = &r->work->buckets[b];
        if (here->count == 0 || sum + here->weight < target) {
            sum += here->weight;
            continue;
        }
        load_bucket(r, b);
        for (int32_t i = 0; i < here->count; i++) {
            sum += expf(-r->work->items[i].z);
            if (sum >= target)
                return (cut){b, i + 1};
        }
        return (cut){b, here->count}; /* reached but for rounding */
    }
    return (cut){BUCKETS, 0};
}

static cut cut_by_distance(row *r, float z_max)
{
    int32_t b = bucket_of(z_max), count = 0;
    load_bucket(r, b);
    while (count < r->work->buckets[b].count && r->work->items[count].z <= z_max)
        count++;
    return (cut){b, count};
}

static cut nearer(cut a, cut b)
{
    return a.index < b.index || (a.index == b.index && a.count < b.count) ? a : b;
}

static cut find_cut(row *r, const proa_sample_params *p)
{
    cut c = {BUCKETS, 0};
    if (p->top_k > 0)
        c = nearer(c, cut_by_count(r, p->top_k));
    if (p->top_p < 1) {
        double total = 0;
        for (int32_t b = 0; b < BUCKETS; b++)
            total += r->work->buckets[b].weight;
        c = nearer(c, cut_by_weight(r, p->top_p * total));
    }
    if (p->min_p > 0)
        c = nearer(c, cut_by_distance(r, -logf(p->min_p)));
    return c;
}

/* The weight of the cut's own bucket up to the cut. */
static double partial_weight(row *r, cut c)
{
    double sum = 0;
    if (c.index == BUCKETS)
        return 0;
    if (c.count == r->work->buckets[c.index].count)
        return r->work->buckets[c.index].weight;
    load_bucket(r, c.index);
    for (int32_t i = 0; i < c.count; i++)
        sum += expf(-r->work->items[i].z);
    return sum;
}

/* The token at which the sum over the first `count` of bucket `index`, starting from `sum`, passes `target`. */
static int32_t draw_in_bucket(row *r, int32_t index, int32_t count, double sum, double target)
{
    load_bucket(r, index);
    for (int32_t i = 0; i < count - 1; i++) {
        sum += expf(-r->work->items[i].z);
        if (sum > target)
            return r->work->items[i].id;
    }
    return r->work->items[count - 1].id;
}

static int32_t draw(row *r, const proa_sample_params *p)
{
    const bucket *buckets = r->work->buckets;
    fill_buckets(r);
    cut c = find_cut(r, p);
    double total = 0, sum = 0, last = partial_weight(r, c);
    for (int32_t b = 0; b < c.index; b++)
        total += buckets[b].weight;
    double target = proa_random_uniform(p->seed, (uint64_t)p->position) * (total + last);
    int32_t final = 0; /* the last bucket with anything in it */
    for (int32_t b = 0; b < c.index; b++) {
        if (buckets[b].count == 0)
            continue;
        if (sum + buckets[b].weight > target)
            return draw_in_bucket(r, b, buckets[b].count, sum, target);
        sum += buckets[b].weight;
        final = b;
    }
    if (c.count > 0)
        return draw_in_bucket(r, c.index, c.count, sum, target);
    return draw_in_bucket(r, final, buckets[final].count, sum, target); /* missed by rounding */
}

static void sample_row(const work *w, const proa_sample_params *p, float *logits, int32_t vocab,
                       proa_sample_result *result)
{
    bool report = p->top_logprobs >= 0, edits = proa_sample_edits(p);
    const float *raw = logits;
    double log_sum = 0;
    *result = (proa_sample_result){.token = -1, .logprob = -INFINITY};
    clean_row(logits, vocab);
    if (report)
        log_sum = report_alternatives(logits, vocab, p->top_logprobs, result);
    if (report && edits) {
        memcpy(w->raw, logits, (size_t)vocab * sizeof *logits);
        raw = w->raw;
    }
    if (edits)
        proa_sample_edit(p, logits, vocab);
    int32_t best = find_best(logits, vocab);
    if (logits[best] == -INFINITY)
        return;
    float inverse = 1 / p->temperature;
    row r = {w, logits, vocab, logits[best], inverse < 1e30f ? inverse : 1e30f, -1};
    result->token = p->temperature == 0 ? best : draw(&r, p);
    result->logprob = report ? (float)(raw[result->token] - log_sum) : 0;
}

static void sample_task(void *context, int task, int thread)
{
    const sample_job *job = context;
    const proa_sample_args *a = job->args;
    work w = work_at(job->host, a->vocab, thread);
    sample_row(&w, &a->params[task], a->logits + (int64_t)task * a->vocab, a->vocab, &a->results[task]);
}

void proa_sample_cpu(const proa_host *host, const proa_sample_args *args)
{
    PROA_ASSERT(host->scratch_bytes >= proa_sample_scratch_bytes(host, args->rows, args->vocab));
    for (int32_t r = 0; r < args->rows; r++)
        PROA_ASSERT(args->params[r].top_logprobs <= PROA_SAMPLE_MAX_TOP_LOGPROBS);
    sample_job job = {host, args};
    proa_pool_run(host->pool, sample_task, &job, args->rows);
}

size_t proa_sample_scratch_bytes(const proa_host *host, int32_t rows, int32_t vocab)
{
    (void)rows;
    return (size_t)proa_pool_threads(host->pool) * work_bytes(vocab);
}
