/* test_sample.c - each sampling parameter against an independent formula, the distribution of draws, bad rows, cpu
 * against ref, and independence of the batch. */
#include "op/sample/sample.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <cmocka.h>

#include "op_fixture.h"

typedef void (*sample_op)(const proa_host *, const proa_sample_args *);

/* What is tested, and where it runs. */
typedef struct subject {
    sample_op op;
    proa_host host;
} subject;

static const proa_sample_params plain = {
    .temperature = 1, .top_p = 1, .repetition_penalty = 1, .top_logprobs = -1};

/* One row; the logits are left as they are. */
static proa_sample_result sample_one(subject *s, const float *logits, int32_t vocab,
                                     proa_sample_params params)
{
    proa_sample_result result;
    float *copy = fixture_floats(vocab);
    memcpy(copy, logits, (size_t)vocab * sizeof *copy);
    fixture_reserve(&s->host, proa_sample_scratch_bytes(&s->host, 1, vocab));
    proa_sample_args args = {1, vocab, copy, &params, &result};
    s->op(&s->host, &args);
    free(copy);
    return result;
}

/* ref, then cpu at every instruction set. */
static int subject_count(void)
{
    return 2 + (int)proa_cpu_isa();
}

static subject open_subject(int which)
{
    proa_isa isa = which == 0 ? PROA_ISA_PORTABLE : (proa_isa)(which - 1);
    return (subject){which == 0 ? proa_sample_ref : proa_sample_cpu,
                     fixture_host(isa, 1, PROA_PRECISION_DEFAULT)};
}

static void greedy_takes_the_first_of_the_best(void **state)
{
    (void)state;
    enum { VOCAB = 9003 };
    float logits[VOCAB];
    proa_sample_params greedy = plain;
    greedy.temperature = 0;
    for (int which = 0; which < subject_count(); which++) {
        subject s = open_subject(which);
        for (int32_t best = 0; best < VOCAB; best += best < 20 || best > VOCAB - 40 ? 1 : 397) {
            for (int32_t i = 0; i < VOCAB; i++)
                logits[i] = (float)(i % 10) - 20;
            logits[best] = 3;
            logits[VOCAB - 1] = 3; /* a tie, later */
            if (best > 2)
                logits[2] = NAN;
            assert_int_equal(sample_one(&s, logits, VOCAB, greedy).token, best);
        }
        fixture_free(&s.host);
    }
}

/* Which of the tokens can come out at all, over many seeds: a set as a bit mask. */
static uint64_t support(subject *s, const float *logits, int32_t vocab, proa_sample_params params)
{
    uint64_t seen = 0;
    for (params.seed = 0; params.seed < 1500; params.seed++)
        seen |= (uint64_t)1 << sample_one(s, logits, vocab, params).token;
    return seen;
}

/* Probabilities 0.4, 0.3, 0.15, 0.1, 0.05 at ids 3, 0, 4, 1, 2. */
static const double probability[] = {0.3, 0.1, 0.05, 0.4, 0.15};

static void logits_of(float *logits)
{
    for (int i = 0; i < 5; i++)
        logits[i] = (float)log(probability[i]);
}

static void filters_keep_the_right_tokens(void **state)
{
    (void)state;
    static const struct {
        int32_t top_k;
        float top_p, min_p;
        uint64_t kept;
    } cases[] = {
        {0, 1, 0, 0x1f},
        {-1, 1, 0, 0x1f},
        {1, 1, 0, 1 << 3},
        {2, 1, 0, 1 << 3 | 1},
        {9, 1, 0, 0x1f},
        {0, 0.39f, 0, 1 << 3},
        {0, 0.41f, 0, 1 << 3 | 1},
        {0, 0.69f, 0, 1 << 3 | 1},
        {0, 0.71f, 0, 1 << 3 | 1 | 1 << 4},
        {0, 0.96f, 0, 0x1f},
        {0, 1e-6f, 0, 1 << 3},
        {0, 1, 0.74f, 1 << 3 | 1},
        {0, 1, 0.76f, 1 << 3},
        {0, 1, 1, 1 << 3},
        {0, 1, 0.2f, 0x1f & ~(1 << 2)},
        {2, 0.99f, 0, 1 << 3 | 1},
        {3, 0.5f, 0, 1 << 3 | 1},
        {3, 1, 0.74f, 1 << 3 | 1},
        /* top_p measures against all tokens, not against what top_k left: 0.4 + 0.3 < 0.72 */
        {2, 0.72f, 0, 1 << 3 | 1},
    };
    float logits[5];
    logits_of(logits);
    for (int which = 0; which < subject_count(); which++) {
        subject s = open_subject(which);
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
            proa_sample_params p = plain;
            p.top_k = cases[i].top_k;
            p.top_p = cases[i].top_p;
            p.min_p = cases[i].min_p;
            uint64_t seen = support(&s, logits, 5, p);
            if (seen != cases[i].kept)
                fail_msg("case %zu: tokens %llx, expected %llx", i, (unsigned long long)seen,
                         (unsigned long long)cases[i].kept);
        }
        fixture_free(&s.host);
    }
}

/* Equal probabilities: the filters keep the lower ids. */
static void filters_break_ties_by_id(void **state)
{
    (void)state;
    float logits[40] = {0};
    for (int which = 0; which < subject_count(); which++) {
        subject s = open_subject(which);
        proa_sample_params p = plain;
        p.top_k = 3;
        assert_int_equal(support(&s, logits, 40, p), 7);
        p.top_k = 0;
        p.top_p = 0.11f; /* 5 of 40 */
        assert_int_equal(support(&s, logits, 40, p), 31);
        fixture_free(&s.host);
    }
}

/* The draw is the inverse CDF in descending order: the token is known from u. */
static void the_draw_is_an_inverse_cdf(void **state)
{
    (void)state;
    static const int order[] = {3, 0, 4, 1, 2};
    float logits[5];
    logits_of(logits);
    for (int which = 0; which < subject_count(); which++) {
        subject s = open_subject(which);
        for (uint64_t seed = 0; seed < 400; seed++) {
            proa_sample_params p = plain;
            p.seed = seed * 0x9e3779b97f4a7c15u;
            p.position = (int64_t)seed * 3;
            double u = proa_random_uniform(p.seed, (uint64_t)p.position), sum = 0;
            int expected = 0;
            while (expected < 4 && (sum += probability[order[expected]]) <= u)
                expected++;
            assert_int_equal(sample_one(&s, logits, 5, p).token, order[expected]);
        }
        fixture_free(&s.host);
    }
}

/* Chi-square of `draws` draws against `expected`, which sums to 1. */
static double chi_square(subject *s, const float *logits, int32_t vocab, proa_sample_params p,
                         const double *expected, int32_t draws)
{
    int32_t *count = fixture_alloc((size_t)vocab * sizeof *count);
    double sum = 0;
    for (int32_t i = 0; i < draws; i++) {
        p.position = i;
        count[sample_one(s, logits, vocab, p).token]++;
    }
    for (int32_t i = 0; i < vocab; i++) {
        double difference = count[i] - draws * expected[i];
        if (expected[i] > 0)
            sum += difference * difference / (draws * expected[i]);
        else
            assert_int_equal(count[i], 0);
    }
    free(count);
    return sum;
}

static void draws_follow_the_distribution(void **state)
{
    (void)state;
    enum { VOCAB = 100, DRAWS = 20000 };
    static const struct {
        float temperature;
        int32_t top_k;
        float top_p, min_p;
        int kept;
        double limit; /* chi-square with kept - 1 degrees of freedom, 99.9 % */
    } cases[] = {{1, 0, 1, 0, 100, 149.4}, {0.5f, 0, 1, 0, 100, 149.4}, {2, 10, 1, 0, 10, 27.9}};
    float logits[VOCAB];
    double expected[VOCAB];
    for (int i = 0; i < VOCAB; i++)
        logits[i] = (float)(i * 61 % VOCAB) * 0.02f; /* a permutation of 0 .. 1.98 */
    for (int which = 0; which < subject_count(); which++) {
        subject s = open_subject(which);
        for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
            proa_sample_params p = plain;
            p.temperature = cases[c].temperature;
            p.top_k = cases[c].top_k;
            p.seed = 5;
            double total = 0;
            for (int i = 0; i < VOCAB; i++) {
                bool kept = i * 61 % VOCAB >= VOCAB - cases[c].kept;
                expected[i] = kept ? exp(logits[i] / p.temperature) : 0;
                total += expected[i];
            }
            for (int i = 0; i < VOCAB; i++)
                expected[i] /= total;
            double chi = chi_square(&s, logits, VOCAB, p, expected, DRAWS);
            if (chi > cases[c].limit)
                fail_msg("case %zu: chi-square %g over %g", c, chi, cases[c].limit);
        }
        fixture_free(&s.host);
    }
}

/* Greedy over one edit at a time: the logits after the edit decide. */
static void edits_follow_their_formulas(void **state)
{
    (void)state;
    static const float logits[] = {2, 1.5f, -1, -2};
    static const proa_logit_bias bias[] = {{3, 4.5f}, {0, -3}};
    static const proa_token_count counts[] = {{0, 0, 2}, {1, 3, 0}, {2, 0, 1}};
    static const int32_t banned[] = {0, 1, 3};
    proa_sample_params greedy = plain;
    greedy.temperature = 0;
    greedy.counts = counts;
    greedy.count_count = 3;
    for (int which = 0; which < subject_count(); which++) {
        subject s = open_subject(which);
        proa_sample_params p = greedy;
        assert_int_equal(sample_one(&s, logits, 4, p).token, 0);
        p.bias = bias;
        p.bias_count = 2; /* -1, 1.5, -1, 2.5 */
        assert_int_equal(sample_one(&s, logits, 4, p).token, 3);
        p.banned = banned;
        p.banned_count = 3;
        assert_int_equal(sample_one(&s, logits, 4, p).token, 2);
        p = greedy;
        p.frequency_penalty = 0.26f; /* 1.48, 1.5, -1.26, -2: over output only */
        assert_int_equal(sample_one(&s, logits, 4, p).token, 1);
        p.frequency_penalty = 0.24f;
        assert_int_equal(sample_one(&s, logits, 4, p).token, 0);
        p.frequency_penalty = 0;
        p.presence_penalty = 0.51f; /* 1.49, 1.5: once, however often */
        assert_int_equal(sample_one(&s, logits, 4, p).token, 1);
        p.presence_penalty = 0.49f;
        assert_int_equal(sample_one(&s, logits, 4, p).token, 0);
        p.presence_penalty = 0;
        static const float negative[] = {-1.5f, -1, -0.7f, -1.1f};
        p.repetition_penalty = 2; /* -3, -2, -1.4, -1.1: over prompt and output, multiplied */
        assert_int_equal(sample_one(&s, negative, 4, p).token, 3);
        static const float positive[] = {3.9f, 3.8f, 3.7f, 1.9f};
        assert_int_equal(sample_one(&s, positive, 4, p).token, 0); /* 1.95, 1.9, 1.85, 1.9 */
        fixture_free(&s.host);
    }
}

/* Penalties come after the bias and before the temperature. */
static void edits_keep_their_order(void **state)
{
    (void)state;
    static const float logits[] = {1, 2.4f};
    static const proa_logit_bias bias[] = {{0, 4}};
    static const proa_token_count counts[] = {{0, 1, 0}};
    proa_sample_params p = plain;
    p.temperature = 0;
    p.bias = bias;
    p.bias_count = 1;
    p.counts = counts;
    p.count_count = 1;
    p.repetition_penalty = 2; /* (1 + 4) / 2 = 2.5, not 1 / 2 + 4 */
    for (int which = 0; which < subject_count(); which++) {
        subject s = open_subject(which);
        assert_int_equal(sample_one(&s, logits, 2, p).token, 0);
        proa_sample_params q = p;
        q.repetition_penalty = 2.2f; /* 2.27 < 2.4 */
        assert_int_equal(sample_one(&s, logits, 2, q).token, 1);
        fixture_free(&s.host);
    }
}

/* log_softmax of the raw logits, whatever the edits, temperature and filters do. */
static void logprobs_are_those_of_the_raw_logits(void **state)
{
    (void)state;
    enum { VOCAB = 500 };
    float logits[VOCAB];
    static const proa_logit_bias bias[] = {{17, 200}};
    double sum = 0;
    for (int i = 0; i < VOCAB; i++) {
        logits[i] = i == 5 ? NAN : i == 6 ? -INFINITY : fixture_normal(3, i, 3);
        sum += i == 5 || i == 6 ? 0 : exp(logits[i]);
    }
    logits[101] = logits[100]; /* a tie among the alternatives, or not among them: either is fine */
    sum += exp(logits[101]) - exp(fixture_normal(3, 101, 3));
    for (int which = 0; which < subject_count(); which++) {
        subject s = open_subject(which);
        for (int32_t top = -1; top <= PROA_SAMPLE_MAX_TOP_LOGPROBS; top++) {
            proa_sample_params p = plain;
            p.temperature = 0.3f;
            p.bias = bias;
            p.bias_count = 1;
            p.top_logprobs = top;
            proa_sample_result r = sample_one(&s, logits, VOCAB, p);
            assert_int_equal(r.token, 17);
            assert_int_equal(r.top_count, top < 0 ? 0 : top);
            if (top < 0)
                continue;
            assert_true(fabs(r.logprob - (logits[17] - log(sum))) < 2e-6);
            for (int32_t i = 0; i < top; i++) {
                int32_t better = 0, id = r.top_ids[i];
                for (int32_t j = 0; j < VOCAB; j++)
                    better += logits[j] > logits[id] || (logits[j] == logits[id] && j < id);
                assert_int_equal(better, i);
                assert_true(fabs(r.top_logprobs[i] - (logits[id] - log(sum))) < 2e-6);
            }
        }
        fixture_free(&s.host);
    }
}

static void rows_of_nothing_give_no_token(void **state)
{
    (void)state;
    enum { VOCAB = 70 };
    float logits[VOCAB];
    int32_t all[VOCAB];
    for (int32_t i = 0; i < VOCAB; i++)
        all[i] = i;
    for (int which = 0; which < subject_count(); which++) {
        subject s = open_subject(which);
        for (int greedy = 0; greedy < 2; greedy++) {
            proa_sample_params p = plain;
            p.temperature = greedy ? 0 : 1;
            p.top_logprobs = 3;
            for (int i = 0; i < VOCAB; i++)
                logits[i] = i % 2 ? NAN : -INFINITY;
            proa_sample_result r = sample_one(&s, logits, VOCAB, p);
            assert_int_equal(r.token, -1);
            assert_int_equal(r.top_count, 0);
            logits[69] = -3e38f; /* one thing is enough */
            r = sample_one(&s, logits, VOCAB, p);
            assert_int_equal(r.token, 69);
            assert_int_equal(r.top_count, 1);
            assert_true(r.logprob == 0);
            logits[33] = INFINITY;
            assert_int_equal(sample_one(&s, logits, VOCAB, p).token, 33);
            p.banned = all;
            p.banned_count = VOCAB;
            assert_int_equal(sample_one(&s, logits, VOCAB, p).token, -1);
        }
        fixture_free(&s.host);
    }
}

/* Shapes of the distribution that the buckets have to cope with. */
static float *make_row(int kind, int32_t vocab)
{
    float *logits = fixture_floats(vocab);
    for (int32_t i = 0; i < vocab; i++)
        switch (kind) {
        case 0: logits[i] = fixture_normal(1, i, 3); break;     /* as a model's */
        case 1: logits[i] = 0.25f; break;                       /* flat */
        case 2: logits[i] = fixture_normal(2, i, 1e-4f); break; /* within one bucket */
        case 3:
            logits[i] = i == 7 ? 100.f : fixture_normal(3, i, 1);
            break; /* all others in the last bucket */
        case 4: logits[i] = fixture_normal(4, i, 1e6f); break;
        default: logits[i] = i % 3 ? -INFINITY : (float)(i % 11); break;
        }
    return logits;
}

static void cpu_equals_ref(void **state)
{
    (void)state;
    enum { VOCAB = 3001, KINDS = 6 };
    static const proa_sample_params variants[] = {
        {.temperature = 1, .top_p = 1, .repetition_penalty = 1, .top_logprobs = 5},
        {.temperature = 0.6f, .top_p = 0.95f, .repetition_penalty = 1, .top_logprobs = -1},
        {.temperature = 1.5f, .top_k = 40, .top_p = 0.9f, .repetition_penalty = 1, .top_logprobs = 0},
        {.temperature = 1,
         .top_k = 2000,
         .top_p = 1,
         .min_p = 0.01f,
         .repetition_penalty = 1,
         .top_logprobs = 20},
        {.temperature = 100, .top_p = 0.3f, .repetition_penalty = 1, .top_logprobs = -1},
        {.temperature = 1e-3f, .top_p = 0.99f, .repetition_penalty = 1, .top_logprobs = -1},
        {.temperature = 1e-42f, .top_p = 1, .repetition_penalty = 1, .top_logprobs = -1},
        {.temperature = 1, .top_p = 0.999999f, .min_p = 1e-30f, .repetition_penalty = 1, .top_logprobs = -1},
    };
    for (int kind = 0; kind < KINDS; kind++)
        for (size_t v = 0; v < sizeof variants / sizeof *variants; v++) {
            float *logits = make_row(kind, VOCAB);
            subject ref = open_subject(0);
            for (uint64_t seed = 0; seed < 12; seed++) {
                proa_sample_params p = variants[v];
                p.seed = seed;
                proa_sample_result expected = sample_one(&ref, logits, VOCAB, p);
                FIXTURE_EACH_ISA(isa)
                {
                    subject cpu = open_subject((int)isa + 1);
                    proa_sample_result actual = sample_one(&cpu, logits, VOCAB, p);
                    if (actual.token != expected.token)
                        fail_msg("kind %d variant %zu seed %d isa %s: token %d, expected %d", kind, v,
                                 (int)seed, proa_isa_name(isa), actual.token, expected.token);
                    assert_int_equal(actual.top_count, expected.top_count);
                    fixture_same_bits("ids", actual.top_ids, expected.top_ids, sizeof actual.top_ids);
                    fixture_close("logprobs", actual.top_logprobs, expected.top_logprobs, actual.top_count,
                                  2e-6, 1e-6);
                    fixture_close("logprob", &actual.logprob, &expected.logprob, 1, 2e-6, 1e-6);
                    fixture_free(&cpu.host);
                }
            }
            fixture_free(&ref.host);
            free(logits);
        }
}

static void rows_do_not_see_each_other(void **state)
{
    (void)state;
    enum { VOCAB = 2000, ROWS = 12 };
    static const proa_logit_bias bias[] = {{3, 1}};
    FIXTURE_EACH_ISA(isa)
    for (int threads = 1; threads <= 3; threads++) {
        proa_sample_params params[ROWS];
        proa_sample_result results[ROWS];
        float *logits = fixture_floats(VOCAB * ROWS);
        subject s = {proa_sample_cpu, fixture_host(isa, threads, PROA_PRECISION_DEFAULT)};
        for (int r = 0; r < ROWS; r++) {
            float *row = make_row(r % 6, VOCAB);
            memcpy(logits + r * VOCAB, row, VOCAB * sizeof *row);
            free(row);
            params[r] = plain;
            params[r].temperature = r % 3 == 0 ? 0 : 0.7f;
            params[r].top_p = r % 2 ? 0.9f : 1;
            params[r].seed = (uint64_t)r;
            params[r].top_logprobs = r % 4 ? -1 : 20;
            params[r].bias = bias;
            params[r].bias_count = r % 5 == 0;
        }
        proa_sample_args args = {ROWS, VOCAB, logits, params, results};
        fixture_reserve(&s.host, proa_sample_scratch_bytes(&s.host, ROWS, VOCAB));
        proa_sample_cpu(&s.host, &args);
        for (int r = 0; r < ROWS; r++) {
            float *row = make_row(r % 6, VOCAB);
            proa_sample_result alone = sample_one(&s, row, VOCAB, params[r]);
            assert_int_equal(alone.token, results[r].token);
            fixture_same_bits("logprob", &alone.logprob, &results[r].logprob, sizeof alone.logprob);
            fixture_same_bits("alternatives", alone.top_logprobs, results[r].top_logprobs,
                              sizeof alone.top_logprobs);
            free(row);
        }
        free(logits);
        fixture_free(&s.host);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(greedy_takes_the_first_of_the_best),
        cmocka_unit_test(filters_keep_the_right_tokens),
        cmocka_unit_test(filters_break_ties_by_id),
        cmocka_unit_test(the_draw_is_an_inverse_cdf),
        cmocka_unit_test(draws_follow_the_distribution),
        cmocka_unit_test(edits_follow_their_formulas),
        cmocka_unit_test(edits_keep_their_order),
        cmocka_unit_test(logprobs_are_those_of_the_raw_logits),
        cmocka_unit_test(rows_of_nothing_give_no_token),
        cmocka_unit_test(cpu_equals_ref),
        cmocka_unit_test(rows_do_not_see_each_other),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
