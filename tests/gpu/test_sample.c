/* test_sample.c - sampling on a GPU against its ref.c over random rows and parameters; a row's bits alone and among others.
 *
 * Greedy tokens and alternatives are ref's exactly. A drawn token may be a neighbour of ref's where a sum comes within rounding of top_p or
 * the draw (op/sample/cuda.h): it must lie there indeed, and that is rare. `gpu_test_sample bench` times rows of a model's vocabulary.
 */
#include "gpu_test.h"
#include "op/sample/cuda.h"

enum { EDITS = 64 };
static const double near_limit = 1e-5; /* of a sum of weights, relative */

/* Random numbers of one case. */
typedef struct dice {
    uint64_t seed, at;
} dice;

static double roll(dice *d)
{
    return proa_random_uniform(d->seed, d->at++);
}

static int32_t roll_below(dice *d, int32_t end)
{
    return (int32_t)(roll(d) * end);
}

static bool one_in(dice *d, int32_t n)
{
    return roll_below(d, n) == 0;
}

typedef struct edits {
    proa_logit_bias bias[EDITS];
    proa_token_count counts[EDITS];
    int32_t banned[EDITS];
} edits;

/* Rows of logits and what is asked of each. */
typedef struct batch {
    int32_t rows, vocab;
    float *logits;
    proa_sample_params *params;
    edits *edits;
    proa_sample_result *want;
    float *edited; /* what ref leaves of the logits */
    int32_t *row_of;
} batch;

/* Shapes of distributions that a way of selecting may stumble over. */
static void make_logits(dice *d, float *x, int32_t vocab)
{
    const int32_t kind = roll_below(d, 8);
    const double spread = kind == 1 ? 1e-3 : kind == 2 ? 300 : 1 + 9 * roll(d);
    for (int32_t i = 0; i < vocab; i++) {
        double u = roll(d) + roll(d) + roll(d) - 1.5;
        x[i] = (float)(spread * 2 * u);
        if (kind == 3) /* ties */
            x[i] = (float)roll_below(d, 4);
        else if (kind == 4) /* all the same */
            x[i] = -2.5f;
        else if (kind == 5) /* a few among a far tail, in which many are equal */
            x[i] = one_in(d, 50) ? x[i] + 40 : proa_round_bf16(x[i]);
        else if (kind == 6 && one_in(d, 20))
            x[i] = one_in(d, 2) ? (float)NAN : -INFINITY;
        else if (kind == 7 && one_in(d, 30))
            x[i] = one_in(d, 9) ? INFINITY : one_in(d, 2) ? -0.0f : 0.0f;
    }
    if (one_in(d, 40))
        for (int32_t i = 0; i < vocab; i++)
            x[i] = one_in(d, 2) ? (float)NAN : -INFINITY;
}

static void make_edits(dice *d, edits *e, proa_sample_params *p, int32_t vocab)
{
    const int32_t step = vocab / EDITS + 1;
    for (int32_t i = 0; i < EDITS; i++) {
        e->bias[i] = (proa_logit_bias){roll_below(d, vocab), (float)(20 * roll(d) - 10)};
        e->banned[i] = roll_below(d, vocab);
        /* each id once */
        e->counts[i] = (proa_token_count){i * step, roll_below(d, 3), roll_below(d, 3)};
    }
    if (one_in(d, 4))
        e->bias[1].id = e->bias[2].id = e->bias[0].id; /* several times: in order */
    p->bias = e->bias;
    p->counts = e->counts;
    p->banned = e->banned;
    p->bias_count = one_in(d, 2) ? roll_below(d, EDITS + 1) : 0;
    p->banned_count = one_in(d, 3) ? roll_below(d, EDITS + 1) : 0;
    p->count_count = one_in(d, 2) ? (vocab - 1) / step + 1 : 0;
    p->repetition_penalty = one_in(d, 2) ? 1 : 1.3f;
    p->frequency_penalty = one_in(d, 2) ? 0 : 0.7f;
    p->presence_penalty = one_in(d, 2) ? 0 : -0.4f;
}

static void make_params(dice *d, proa_sample_params *p, edits *e, int32_t vocab)
{
    static const float temperature[] = {0, 0.05f, 0.6f, 1, 1, 1.7f, 100};
    static const float top_p[] = {1, 1, 0.95f, 0.95f, 0.5f, 0.1f, 0.999f, 1e-6f};
    static const float min_p[] = {0, 0, 0, 0.05f, 0.5f, 1, 1e-6f};
    static const int32_t top_k[] = {0, -1, 1, 2, 40, 700, 1 << 30};
    *p = (proa_sample_params){.temperature = temperature[roll_below(d, 7)],
                              .top_k = top_k[roll_below(d, 7)],
                              .top_p = top_p[roll_below(d, 8)],
                              .min_p = min_p[roll_below(d, 7)],
                              .repetition_penalty = 1,
                              .seed = d->seed,
                              .position = (int64_t)d->at,
                              .top_logprobs = one_in(d, 2) ? -1 : roll_below(d, 21)};
    if (one_in(d, 2))
        make_edits(d, e, p, vocab);
}

static void run_ref(batch *b)
{
    proa_host host = {.precision = PROA_PRECISION_DEFAULT, .pool = proa_pool_create(1)};
    host.scratch_bytes = proa_sample_scratch_bytes(&host, b->rows, b->vocab);
    host.scratch = malloc(host.scratch_bytes);
    assert_non_null(host.scratch), assert_non_null(host.pool);
    memcpy(b->edited, b->logits, (size_t)b->rows * (size_t)b->vocab * sizeof(float));
    proa_sample_ref(&host, &(proa_sample_args){b->rows, b->vocab, b->edited, b->params, b->want});
    free(host.scratch);
    proa_pool_free(host.pool);
}

static batch make_batch(uint64_t seed, int32_t rows, int32_t vocab)
{
    const size_t count = (size_t)rows * (size_t)vocab;
    batch b = {.rows = rows,
               .vocab = vocab,
               .logits = malloc(count * sizeof(float)),
               .params = calloc((size_t)rows, sizeof(proa_sample_params)),
               .edits = calloc((size_t)rows, sizeof(edits)),
               .want = calloc((size_t)rows, sizeof(proa_sample_result)),
               .edited = malloc(count * sizeof(float)),
               .row_of = malloc((size_t)rows * sizeof(int32_t))};
    assert_non_null(b.logits), assert_non_null(b.params), assert_non_null(b.edits);
    assert_non_null(b.want), assert_non_null(b.edited), assert_non_null(b.row_of);
    for (int32_t r = 0; r < rows; r++) {
        dice d = {seed * 1000003 + (uint64_t)r, 0};
        make_logits(&d, b.logits + (int64_t)r * vocab, vocab);
        make_params(&d, &b.params[r], &b.edits[r], vocab);
        b.row_of[r] = r;
    }
    run_ref(&b);
    return b;
}

static void free_batch(batch *b)
{
    free(b->logits), free(b->params), free(b->edits), free(b->want), free(b->edited), free(b->row_of);
}

/* ---- what a drawn token may be ---- */

typedef struct item {
    float logit;
    int32_t id;
    double weight; /* then the sum up to and with it */
} item;

static int compare_items(const void *a, const void *b)
{
    const item *x = a, *y = b;
    if (x->logit != y->logit)
        return x->logit > y->logit ? -1 : 1;
    return x->id < y->id ? -1 : 1;
}

/* How many of the sorted items stay when the limits are `slack` wider. */
static int32_t count_kept(const item *items, int32_t count, const proa_sample_params *p, double slack)
{
    double total = 0, sum = 0;
    int32_t kept = p->top_k > 0 && p->top_k < count ? p->top_k : count;
    for (int32_t i = 0; i < count; i++)
        total += items[i].weight;
    for (int32_t i = 0; p->top_p < 1 && i < kept; i++) {
        sum += items[i].weight;
        if (sum >= p->top_p * total * (1 + slack))
            kept = i + 1;
    }
    while (kept > 1 && items[kept - 1].weight < p->min_p * (1 - slack))
        kept--;
    return kept;
}

/* Whether rounding of the sums can lead to `token`. */
static bool plausible(const float *edited, int32_t vocab, const proa_sample_params *p, int32_t token)
{
    item *items = malloc((size_t)vocab * sizeof *items);
    int32_t count = 0, at = 0;
    bool fits = false;
    assert_non_null(items);
    for (int32_t id = 0; id < vocab; id++)
        if (edited[id] > -INFINITY)
            items[count++] = (item){edited[id], id, 0};
    qsort(items, (size_t)count, sizeof *items, compare_items);
    for (int32_t i = count - 1; i >= 0; i--)
        items[i].weight = exp(((double)items[i].logit - items[0].logit) / p->temperature);
    const int32_t kept[2] = {count_kept(items, count, p, -near_limit),
                             count_kept(items, count, p, near_limit)};
    while (at < count && items[at].id != token)
        at++;
    for (int32_t i = 1; i < count; i++)
        items[i].weight += items[i - 1].weight;
    for (int k = 0; k < 2 && at < kept[1]; k++) {
        const double sum = items[kept[k] - 1].weight, slack = near_limit * sum;
        const double target = proa_random_uniform(p->seed, (uint64_t)p->position) * sum;
        fits = fits ||
               (items[at].weight > target - slack && (at == 0 || items[at - 1].weight <= target + slack));
    }
    free(items);
    return fits;
}

/* ---- comparison ---- */

static bool near_log(float a, float b)
{
    return a == b || fabsf(a - b) <= 1e-5f * (1 + fabsf(b));
}

/* Returns whether the token is another one than ref's, and may be. */
static bool compare_row(const batch *b, int32_t r, const proa_sample_result *got)
{
    const proa_sample_result *want = &b->want[r];
    const proa_sample_params *p = &b->params[r];
    const float *edited = b->edited + (int64_t)r * b->vocab;
    assert_int_equal(got->top_count, want->top_count);
    for (int32_t i = 0; i < want->top_count; i++) {
        assert_int_equal(got->top_ids[i], want->top_ids[i]);
        if (!near_log(got->top_logprobs[i], want->top_logprobs[i]))
            fail_msg("row %d: alternative %d has %g, expected %g", r, i, (double)got->top_logprobs[i],
                     (double)want->top_logprobs[i]);
    }
    if (got->token == want->token) {
        if (!near_log(got->logprob, want->logprob))
            fail_msg("row %d: log probability %g, expected %g", r, (double)got->logprob,
                     (double)want->logprob);
        return false;
    }
    if (p->temperature == 0 || want->token < 0 || !plausible(edited, b->vocab, p, got->token))
        fail_msg("row %d of %d logits, temperature %g, top_k %d, top_p %g, min_p %g, seed %llu: token %d, "
                 "expected %d",
                 r, b->vocab, (double)p->temperature, p->top_k, (double)p->top_p, (double)p->min_p,
                 (unsigned long long)p->seed, got->token, want->token);
    return true;
}

/* The results are the sampler's. */
static const proa_sample_result *run_rows(proa_gpu *gpu, proa_cuda_sampler *sampler, const float *logits,
                                          const proa_sample_params *params, const int32_t *row_of,
                                          int32_t count)
{
    proa_error err = {0};
    gpu_good(proa_cuda_sampler_run(sampler,
                                   &(proa_cuda_sample_args){
                                       .rows = count, .logits = logits, .params = params, .row_of = row_of},
                                   &err),
             &err);
    gpu_good(proa_gpu_sync(gpu, &err), &err);
    return proa_cuda_sampler_results(sampler);
}

static proa_cuda_sampler *make_sampler(proa_gpu *gpu, int32_t rows, int32_t vocab)
{
    proa_error err = {0};
    proa_cuda_sampler *sampler;
    gpu_good(proa_cuda_sampler_create(gpu, rows, vocab, &sampler, &err), &err);
    return sampler;
}

static const struct {
    int32_t rows, vocab, seeds;
} cases[] = {{64, 5, 8},   {64, 1, 2},    {40, 33, 8},    {40, 700, 10},  {20, 4099, 6},
             {512, 96, 1}, {16, 8192, 8}, {12, 32003, 4}, {12, 129280, 2}};

static void test_against_ref(void **state)
{
    proa_gpu *gpu = gpu_of(state);
    int32_t rows = 0, others = 0;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int32_t seed = 0; seed < cases[i].seeds; seed++) {
            batch b = make_batch((uint64_t)seed * 100 + i, cases[i].rows, cases[i].vocab);
            float *logits = gpu_copy(gpu, b.logits, (size_t)b.rows * (size_t)b.vocab * sizeof(float));
            proa_cuda_sampler *sampler = make_sampler(gpu, b.rows, b.vocab);
            const proa_sample_result *got = run_rows(gpu, sampler, logits, b.params, NULL, b.rows);
            for (int32_t r = 0; r < b.rows; r++)
                others += compare_row(&b, r, &got[r]);
            rows += b.rows;
            proa_cuda_sampler_free(sampler);
            proa_gpu_free(gpu, logits);
            free_batch(&b);
        }
    printf("%d rows, %d tokens another one than ref's, for rounding\n", rows, others);
    assert_true(others <= rows / 200);
}

/* Bit for bit, of what has a meaning. */
static void assert_same(const proa_sample_result *a, const proa_sample_result *b)
{
    assert_int_equal(a->token, b->token);
    assert_int_equal(a->top_count, b->top_count);
    assert_memory_equal(&a->logprob, &b->logprob, sizeof a->logprob);
    assert_memory_equal(a->top_ids, b->top_ids, (size_t)a->top_count * sizeof *a->top_ids);
    assert_memory_equal(a->top_logprobs, b->top_logprobs, (size_t)a->top_count * sizeof *a->top_logprobs);
}

static void test_rows_do_not_meet(void **state)
{
    enum { ROWS = 23, VOCAB = 16160 };
    proa_gpu *gpu = gpu_of(state);
    batch b = make_batch(77, ROWS, VOCAB);
    proa_sample_result among[ROWS];
    proa_sample_params params[ROWS];
    float *logits = gpu_copy(gpu, b.logits, (size_t)ROWS * VOCAB * sizeof(float));
    proa_cuda_sampler *sampler = make_sampler(gpu, ROWS, VOCAB);
    memcpy(among, run_rows(gpu, sampler, logits, b.params, b.row_of, ROWS), sizeof among);
    for (int32_t r = 0; r < ROWS; r++) { /* alone */
        const proa_sample_result *got = run_rows(gpu, sampler, logits, &b.params[r], &b.row_of[r], 1);
        assert_same(got, &among[r]);
    }
    for (int32_t r = 0; r < ROWS; r++) { /* in another order */
        b.row_of[r] = (r * 7 + 3) % ROWS;
        params[r] = b.params[b.row_of[r]];
    }
    const proa_sample_result *got = run_rows(gpu, sampler, logits, params, b.row_of, ROWS);
    for (int32_t r = 0; r < ROWS; r++)
        assert_same(&got[r], &among[b.row_of[r]]);
    proa_cuda_sampler_free(sampler);
    proa_gpu_free(gpu, logits);
    free_batch(&b);
}

/* Entries of all rows are more than a sampler's 3 * vocab + 8,192: they go in rounds. */
static void test_rounds(void **state)
{
    enum { ROWS = 9, VOCAB = 2000 };
    proa_gpu *gpu = gpu_of(state);
    batch b = make_batch(5, ROWS, VOCAB);
    proa_token_count counts[VOCAB];
    for (int32_t id = 0; id < VOCAB; id++)
        counts[id] = (proa_token_count){id, 1, id % 5};
    for (int32_t r = 0; r < ROWS; r++) {
        b.params[r].counts = counts;
        b.params[r].count_count = VOCAB;
        b.params[r].repetition_penalty = 1.1f + 0.1f * (float)r;
    }
    run_ref(&b);
    float *logits = gpu_copy(gpu, b.logits, (size_t)ROWS * VOCAB * sizeof(float));
    proa_cuda_sampler *sampler = make_sampler(gpu, ROWS, VOCAB);
    const proa_sample_result *got = run_rows(gpu, sampler, logits, b.params, NULL, ROWS);
    for (int32_t r = 0; r < ROWS; r++)
        (void)compare_row(&b, r, &got[r]);
    proa_cuda_sampler_free(sampler);
    proa_gpu_free(gpu, logits);
    free_batch(&b);
}

/* ---- times ---- */

enum { BENCH_VOCAB = 129280, BENCH_ROWS = 512, BENCH_DISTINCT = 16, BENCH_RUNS = 30 };

/* Rows as a model makes them, a few of them over and over. */
static float *make_bench_logits(proa_gpu *gpu)
{
    const size_t some = (size_t)BENCH_DISTINCT * BENCH_VOCAB;
    float *x = malloc(some * sizeof *x),
          *there = gpu_room(gpu, BENCH_ROWS / BENCH_DISTINCT * some * sizeof *x);
    proa_error err = {0};
    dice d = {1, 0};
    assert_non_null(x);
    for (size_t i = 0; i < some; i++)
        x[i] = (float)(8 * (roll(&d) + roll(&d) + roll(&d) - 1.5)) + (one_in(&d, 20000) ? 12 : 0);
    for (size_t i = 0; i < BENCH_ROWS / BENCH_DISTINCT; i++)
        gpu_good(proa_gpu_upload(gpu, there + i * some, x, some * sizeof *x, &err), &err);
    gpu_good(proa_gpu_sync(gpu, &err), &err);
    free(x);
    return there;
}

/* The fastest of some runs: parameters up, sampling, results down. */
static double time_rows(proa_gpu *gpu, proa_cuda_sampler *sampler, proa_gpu_mark *const *marks,
                        const proa_cuda_sample_args *args)
{
    proa_error err = {0};
    double best = INFINITY;
    for (int32_t i = 0; i < BENCH_RUNS; i++) {
        gpu_good(proa_gpu_mark_set(gpu, marks[0], &err), &err);
        gpu_good(proa_cuda_sampler_run(sampler, args, &err), &err);
        gpu_good(proa_gpu_mark_set(gpu, marks[1], &err), &err);
        gpu_good(proa_gpu_sync(gpu, &err), &err);
        best = fmin(best, proa_gpu_mark_us(marks[0], marks[1]));
    }
    return best;
}

static void bench(void **state)
{
    static const struct {
        const char *name;
        proa_sample_params params;
    } kinds[] = {
        {"greedy", {.temperature = 0, .top_p = 1, .repetition_penalty = 1, .top_logprobs = -1}},
        {"temperature 1", {.temperature = 1, .top_p = 1, .repetition_penalty = 1, .top_logprobs = -1}},
        {"0.6, top_p 0.95",
         {.temperature = 0.6f, .top_p = 0.95f, .repetition_penalty = 1, .top_logprobs = -1}},
        {"greedy, 20 alternatives",
         {.temperature = 0, .top_p = 1, .repetition_penalty = 1, .top_logprobs = 20}},
    };
    static const int32_t rows[] = {1, 16, 128, 512};
    static proa_sample_params params[BENCH_ROWS];
    proa_gpu *gpu = gpu_of(state);
    proa_error err = {0};
    proa_gpu_mark *marks[2];
    float *logits = make_bench_logits(gpu);
    proa_cuda_sampler *sampler = make_sampler(gpu, BENCH_ROWS, BENCH_VOCAB);
    for (int i = 0; i < 2; i++)
        gpu_good(proa_gpu_mark_create(gpu, &marks[i], &err), &err);
    printf("%-26s %5s %9s %7s\n", "rows of 129,280", "rows", "us", "TB/s");
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++)
        for (size_t n = 0; n < sizeof rows / sizeof *rows; n++) {
            for (int32_t r = 0; r < rows[n]; r++) {
                params[r] = kinds[k].params;
                params[r].seed = (uint64_t)r;
            }
            const proa_cuda_sample_args args = {.rows = rows[n], .logits = logits, .params = params};
            const double us = time_rows(gpu, sampler, marks, &args);
            printf("%-26s %5d %9.1f %7.2f\n", kinds[k].name, rows[n], us,
                   (double)rows[n] * BENCH_VOCAB * sizeof(float) / us * 1e-6);
        }
    for (int i = 0; i < 2; i++)
        proa_gpu_mark_free(marks[i]);
    proa_cuda_sampler_free(sampler);
    proa_gpu_free(gpu, logits);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_against_ref),
                                       cmocka_unit_test(test_rows_do_not_meet),
                                       cmocka_unit_test(test_rounds)};
    const struct CMUnitTest times[] = {cmocka_unit_test(bench)};
    if (argc > 1 && strcmp(argv[1], "bench") == 0)
        return cmocka_run_group_tests(times, gpu_open_state, gpu_close_state);
    return cmocka_run_group_tests(tests, gpu_open_state, gpu_close_state);
}
