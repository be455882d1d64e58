/* cpu.c - sampling over threads, a row a task, without sorting the vocabulary.
 *
 * Tokens fall into buckets by their distance from the best one (kernels.h): bucket after bucket is the descending
 * order, coarsely. Count and weight (the sum of e^-z) of each bucket are enough to find the bucket in which top_k,
 * top_p, min_p or the draw ends, and only that bucket is sorted. The tail is one bucket: seldom needed, dear to sort.
 * All sums are in double and in an order that depends on the row alone (law 2).
 * Bound: the row's bytes, read once when greedy, else three times (maximum; weights; one bucket). */
#include "op/sample/sample.h"

#include "base/random.h"
#include "op/host.h"
#include "op/sample/kernels.h"
#include "op/sample/row.h"

enum { BUCKETS = PROA_SAMPLE_BUCKETS };

/* One thread's part of the scratch. */
typedef struct work {
    const proa_sample_kernels *kernels;
    proa_sample_bucket *buckets; /* [BUCKETS] */
    proa_sample_item *items;     /* [vocab], of one bucket */
    proa_sample_item *spare;     /* [vocab], for sorting */
    float *raw;                  /* [vocab] */
} work;

typedef struct row {
    const work *work;
    proa_sample_span span;
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
    return aligned(BUCKETS * sizeof(proa_sample_bucket)) +
           2 * aligned((size_t)vocab * sizeof(proa_sample_item)) + aligned((size_t)vocab * sizeof(float));
}

static const proa_sample_kernels *pick_kernels(proa_isa isa)
{
#if defined(__x86_64__)
    if (isa >= PROA_ISA_AVX512)
        return &proa_sample_kernels_avx512;
    if (isa >= PROA_ISA_AVX2)
        return &proa_sample_kernels_avx2;
#endif
    (void)isa;
    return &proa_sample_kernels_portable;
}

static work work_at(const proa_host *host, int32_t vocab, int thread)
{
    char *at = (char *)host->scratch + work_bytes(vocab) * (size_t)thread;
    work w = {.kernels = pick_kernels(host->isa), .buckets = (proa_sample_bucket *)at};
    w.items = (proa_sample_item *)(at += aligned(BUCKETS * sizeof(proa_sample_bucket)));
    w.spare = (proa_sample_item *)(at += aligned((size_t)vocab * sizeof(proa_sample_item)));
    w.raw = (float *)(at + aligned((size_t)vocab * sizeof(proa_sample_item)));
    return w;
}

/* The first id of the greatest logit; cleans the row if need be. */
static int32_t find_best(const work *w, float *logits, int32_t vocab)
{
    bool clean;
    int32_t best = w->kernels->find_best(logits, vocab, &clean);
    if (clean)
        return best;
    for (int32_t id = 0; id < vocab; id++)
        logits[id] = proa_sample_clean(logits[id]);
    return w->kernels->find_best(logits, vocab, &clean);
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

/* Fills in the alternatives; returns the log of the sum of e^logit. `max` is above -inf. */
static double report_alternatives(const work *w, const float *logits, int32_t vocab, float max,
                                  int32_t wanted, proa_sample_result *result)
{
    double log_sum = max + log(w->kernels->sum_exp(logits, vocab, max));
    float bound = -INFINITY;
    for (int32_t id = 0; wanted > 0; id++) {
        id = w->kernels->next_above(logits, id, vocab, bound);
        if (id == vocab)
            break;
        offer(result, wanted, id, logits[id]);
        if (result->top_count == wanted)
            bound = result->top_logprobs[wanted - 1];
    }
    for (int32_t i = 0; i < result->top_count; i++)
        result->top_logprobs[i] = (float)(result->top_logprobs[i] - log_sum);
    return log_sum;
}

/* A stable radix sort by z >= 0, whose bits order like integers; ids ascend already. */
static void sort_items(const work *w, int32_t count)
{
    enum { DIGIT_BITS = 11, DIGITS = 3 };
    proa_sample_item *from = w->items, *to = w->spare;
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
        proa_sample_item *swapped = from;
        from = to;
        to = swapped;
    }
    memcpy(w->items, w->spare, (size_t)count * sizeof *w->items); /* three passes end in spare */
}

/* Brings bucket `index` into work->items, sorted. */
static void load_bucket(row *r, int32_t index)
{
    if (r->loaded == index)
        return;
    int32_t count = r->work->kernels->collect(&r->span, index, r->work->items);
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
        const proa_sample_bucket *here = &r->work->buckets[b];
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
    int32_t b = proa_sample_bucket_of(z_max), count = 0;
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
    const proa_sample_bucket *buckets = r->work->buckets;
    memset(r->work->buckets, 0, BUCKETS * sizeof *buckets);
    r->work->kernels->fill(&r->span, r->work->buckets);
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
    int32_t best = find_best(w, logits, vocab);
    if (report && logits[best] > -INFINITY)
        log_sum = report_alternatives(w, logits, vocab, logits[best], p->top_logprobs, result);
    if (report && edits) {
        memcpy(w->raw, logits, (size_t)vocab * sizeof *logits);
        raw = w->raw;
    }
    if (edits) {
        proa_sample_edit(p, logits, vocab);
        best = find_best(w, logits, vocab);
    }
    if (logits[best] == -INFINITY)
        return;
    float inverse = 1 / p->temperature; /* bounded, for 0 * inf is NaN */
    row r = {w, {logits, vocab, logits[best], inverse < 1e30f ? inverse : 1e30f}, -1};
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
