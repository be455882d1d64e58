/* ref.c - sampling by a full sort, sums in double: the specification. */
#include "op/sample/sample.h"

#include "base/random.h"
#include "op/sample/row.h"

#include <math.h>
#include <string.h>

typedef struct entry {
    float logit;
    int32_t id;
} entry;

/* The parts of the scratch. */
typedef struct work {
    entry *entries;
    double *weights;
    float *raw;
} work;

static bool comes_before(const entry *a, const entry *b)
{
    return a->logit > b->logit || (a->logit == b->logit && a->id < b->id);
}

static void sift_down(entry *entries, int32_t root, int32_t count)
{
    for (;;) {
        int32_t child = 2 * root + 1;
        if (child >= count)
            return;
        if (child + 1 < count && comes_before(&entries[child], &entries[child + 1]))
            child++;
        if (!comes_before(&entries[root], &entries[child]))
            return;
        entry swapped = entries[root];
        entries[root] = entries[child];
        entries[child] = swapped;
        root = child;
    }
}

/* Heap sort: no memory of its own. Fills entries with the logits above -inf, greatest first; returns how many. */
static int32_t sort_logits(const float *logits, int32_t vocab, entry *entries)
{
    int32_t count = 0;
    for (int32_t id = 0; id < vocab; id++)
        if (logits[id] > -INFINITY)
            entries[count++] = (entry){logits[id], id};
    for (int32_t root = count / 2; root-- > 0;)
        sift_down(entries, root, count);
    for (int32_t last = count - 1; last > 0; last--) {
        entry swapped = entries[0];
        entries[0] = entries[last];
        entries[last] = swapped;
        sift_down(entries, 0, last);
    }
    return count;
}

/* Fills in the alternatives; returns the log of the sum of e^logit. */
static double report_alternatives(const work *w, int32_t vocab, int32_t wanted, proa_sample_result *result)
{
    int32_t count = sort_logits(w->raw, vocab, w->entries);
    if (count == 0)
        return 0;
    double max = w->entries[0].logit, sum = 0;
    for (int32_t i = 0; i < count; i++)
        sum += exp(w->entries[i].logit - max);
    double log_sum = max + log(sum);
    result->top_count = wanted < count ? wanted : count;
    for (int32_t i = 0; i < result->top_count; i++) {
        result->top_ids[i] = w->entries[i].id;
        result->top_logprobs[i] = (float)(w->entries[i].logit - log_sum);
    }
    return log_sum;
}

/* How many of the `count` sorted tokens stay; their weights e^((logit - max) / temperature) are in w->weights. */
static int32_t count_kept(const work *w, const proa_sample_params *p, int32_t count)
{
    double total = 0, sum = 0;
    int32_t kept = p->top_k > 0 && p->top_k < count ? p->top_k : count;
    for (int32_t i = 0; i < count; i++)
        total += w->weights[i];
    for (int32_t i = 0; p->top_p < 1 && i < kept; i++) {
        sum += w->weights[i];
        if (sum >= p->top_p * total)
            kept = i + 1;
    }
    while (kept > 1 && w->weights[kept - 1] < p->min_p)
        kept--;
    return kept;
}

static int32_t draw(const work *w, const proa_sample_params *p, int32_t count)
{
    double max = w->entries[0].logit, total = 0, sum = 0;
    for (int32_t i = 0; i < count; i++)
        w->weights[i] = exp((w->entries[i].logit - max) / p->temperature);
    int32_t kept = count_kept(w, p, count), at = 0;
    for (int32_t i = 0; i < kept; i++)
        total += w->weights[i];
    double target = proa_random_uniform(p->seed, (uint64_t)p->position) * total;
    for (at = 0; at < kept - 1; at++) {
        sum += w->weights[at];
        if (sum > target)
            break;
    }
    return w->entries[at].id;
}

static void sample_row(const work *w, const proa_sample_params *p, float *logits, int32_t vocab,
                       proa_sample_result *result)
{
    double log_sum = 0;
    *result = (proa_sample_result){.token = -1, .logprob = -INFINITY};
    for (int32_t id = 0; id < vocab; id++)
        logits[id] = proa_sample_clean(logits[id]);
    memcpy(w->raw, logits, (size_t)vocab * sizeof *logits);
    if (p->top_logprobs >= 0)
        log_sum = report_alternatives(w, vocab, p->top_logprobs, result);
    proa_sample_edit(p, logits, vocab);
    int32_t count = sort_logits(logits, vocab, w->entries);
    if (count == 0)
        return;
    result->token = p->temperature == 0 ? w->entries[0].id : draw(w, p, count);
    result->logprob = p->top_logprobs >= 0 ? (float)(w->raw[result->token] - log_sum) : 0;
}

void proa_sample_ref(const proa_host *host, const proa_sample_args *args)
{
    PROA_ASSERT(host->scratch_bytes >= proa_sample_scratch_bytes(host, args->rows, args->vocab));
    work w = {.weights = host->scratch};
    w.entries = (entry *)(w.weights + args->vocab);
    w.raw = (float *)(w.entries + args->vocab);
    for (int32_t r = 0; r < args->rows; r++) {
        PROA_ASSERT(args->params[r].top_logprobs <= PROA_SAMPLE_MAX_TOP_LOGPROBS);
        sample_row(&w, &args->params[r], args->logits + (int64_t)r * args->vocab, args->vocab,
                   &args->results[r]);
    }
}
