/* test_forward.c - law 2 on the layer graph, bit for bit: the logits of a token do not depend on chunk size, batch
 * neighbours, the order of KV blocks or the number of threads. On dummy weights of a small configuration that has
 * everything: q_lora, groups, a shared expert, YaRN, partial FP8 blocks. */
#include "small_model.h"

#include "base/log.h"
#include "model/forward.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum {
    PROMPT = 150,
    OUTPUT = 12,
    TOTAL = PROMPT + OUTPUT,
    VOCAB = SMALL_MODEL_VOCAB,
    NEIGHBOURS = 3,
    BLOCKS = 32
};

typedef struct model {
    proa_model_config config;
    proa_device *device;
    proa_checkpoint *checkpoint;
    proa_forward *forward;
} model;

/* What a model is opened with. */
typedef struct kind {
    proa_precision precision;
    bool fp8; /* weights */
    proa_kv_cache kv_cache;
} kind;

static void model_open(model *m, const char *device, int threads, const kind *k)
{
    proa_error err = {0};
    const small_model small = {.layers = 3, .experts = 8, .top_k = 3, .shared = 1, .fp8 = k->fp8};
    if (small_model_config(&small, &m->config, &err) != PROA_OK)
        fail_msg("%s", err.text);
    assert_int_equal(proa_device_create(device, threads, k->precision, &m->device, &err), PROA_OK);
    if (proa_checkpoint_load("test", PROA_LOAD_DUMMY, &m->config, k->precision, m->device->host.pool,
                             &m->checkpoint, &err) != PROA_OK)
        fail_msg("%s", err.text);
    proa_forward_limits limits = {.rows_max = 512,
                                  .logit_rows_max = 64,
                                  .positions_max = 512,
                                  .kv_blocks = BLOCKS,
                                  .kv_cache = k->kv_cache};
    assert_int_equal(proa_forward_create(&m->config, proa_checkpoint_weights(m->checkpoint), m->device,
                                         &limits, &m->forward, &err),
                     PROA_OK);
}

static void model_close(model *m)
{
    proa_forward_free(m->forward);
    proa_checkpoint_free(m->checkpoint);
    proa_device_free(m->device);
}

/* What a run varies. */
typedef struct plan {
    int32_t chunk;      /* prompt tokens a step */
    int32_t neighbours; /* other sequences in every step, prompt and generated */
    int32_t first_block;
    int32_t block_step;
    int32_t decode_rows; /* generated tokens a step (more than one: a replay) */
} plan;

static int32_t token_at(int32_t sequence, int32_t position)
{
    return (position * 31 + sequence * 17 + position * position % 13) % VOCAB;
}

/* Adds one segment of a sequence to the step. */
static void add_segment(proa_step *step, proa_segment *segments, int32_t *ids, int32_t sequence,
                        const int32_t *blocks, int32_t position, int32_t count, bool absorbed)
{
    segments[step->segment_count++] = (proa_segment){.row_first = step->row_count,
                                                     .row_count = count,
                                                     .position_first = position,
                                                     .blocks = blocks,
                                                     .absorbed = absorbed};
    for (int32_t i = 0; i < count; i++)
        ids[step->row_count++] = token_at(sequence, position + i);
}

/* Neighbours go through their own lives, out of phase with sequence 0: a prompt of 40, then generated tokens. */
static void add_neighbours(proa_step *step, proa_segment *segments, int32_t *ids, int32_t count, int32_t turn,
                           const int32_t neighbour_blocks[NEIGHBOURS][8])
{
    for (int32_t n = 0; n < count; n++) {
        int32_t start = n; /* turn of its prompt */
        if (turn == start)
            add_segment(step, segments, ids, n + 1, neighbour_blocks[n], 0, 40 + n, false);
        else if (turn > start)
            add_segment(step, segments, ids, n + 1, neighbour_blocks[n], 39 + n + turn - start, 1, true);
    }
}

/* Logits [OUTPUT + 1, VOCAB] of sequence 0 after its prompt and after each generated token. */
static float *run(model *m, const plan *p)
{
    int32_t blocks[8], neighbour_blocks[NEIGHBOURS][8];
    for (int32_t i = 0; i < 8; i++) {
        blocks[i] = (p->first_block + i * p->block_step + BLOCKS) % BLOCKS;
        for (int32_t n = 0; n < NEIGHBOURS; n++) /* the blocks that sequence 0 leaves free */
            neighbour_blocks[n][i] =
                (p->first_block + (8 + n * 8 + i) * p->block_step + BLOCKS * 32) % BLOCKS;
    }
    float *out = calloc((size_t)(OUTPUT + 1) * VOCAB, sizeof *out);
    int32_t turn = 0;
    for (int32_t position = 0; position < TOTAL; turn++) {
        proa_segment segments[1 + NEIGHBOURS];
        int32_t ids[512], logit_rows[16];
        proa_step step = {.token_ids = ids, .segments = segments, .logit_rows = logit_rows};
        bool prompt = position < PROMPT;
        int32_t left = prompt ? PROMPT - position : TOTAL - position;
        int32_t count = prompt ? p->chunk : p->decode_rows;
        count = count < left ? count : left;
        if (turn % 2 == 1)
            add_neighbours(&step, segments, ids, p->neighbours, turn, neighbour_blocks);
        int32_t first_row = step.row_count;
        add_segment(&step, segments, ids, 0, blocks, position, count, !prompt);
        if (turn % 2 == 0)
            add_neighbours(&step, segments, ids, p->neighbours, turn, neighbour_blocks);
        int32_t first_output = -1;
        for (int32_t i = 0; i < count; i++) {
            int32_t output = position + i - (PROMPT - 1);
            if (output < 0)
                continue;
            if (first_output < 0)
                first_output = output;
            logit_rows[step.logit_count++] = first_row + i;
        }
        float *logits = NULL;
        assert_int_equal(proa_forward_step(m->forward, &step, &logits, NULL), PROA_OK);
        if (step.logit_count > 0)
            memcpy(out + first_output * VOCAB, logits, (size_t)step.logit_count * VOCAB * sizeof *out);
        position += count;
    }
    return out;
}

static void assert_same_bits(const float *a, const float *b, const char *what)
{
    for (int32_t i = 0; i < (OUTPUT + 1) * VOCAB; i++) {
        if (memcmp(&a[i], &b[i], sizeof *a) != 0)
            fail_msg("%s: logit %d of output %d is %.9g, not %.9g", what, i % VOCAB, i / VOCAB, (double)b[i],
                     (double)a[i]);
    }
}

/* `count`: of the cases below, all or the first few (the scalar reference is slow). */
static void check_device(const char *device, const kind *k, size_t count)
{
    static const plan whole = {.chunk = PROMPT, .block_step = 1, .decode_rows = 1};
    static const struct {
        const char *what;
        plan p;
        int threads;
    } cases[] = {
        {"chunks of 16", {16, 0, 0, 1, 1}, 1},         {"chunks of 64", {64, 0, 0, 1, 1}, 1},
        {"chunks of 7", {7, 0, 0, 1, 1}, 1},           {"other blocks", {PROMPT, 0, 29, -1, 1}, 1},
        {"neighbours", {64, NEIGHBOURS, 5, 1, 1}, 1},  {"replayed output", {PROMPT, 0, 0, 1, OUTPUT}, 1},
        {"two threads", {16, NEIGHBOURS, 0, 1, 1}, 2}, {"three threads", {PROMPT, 0, 0, 1, 5}, 3},
    };
    model m;
    model_open(&m, device, 1, k);
    float *expected = run(&m, &whole);
    double largest = 0;
    for (int32_t i = 0; i < (OUTPUT + 1) * VOCAB; i++)
        largest = fabs((double)expected[i]) > largest ? fabs((double)expected[i]) : largest;
    assert_true(largest > 1e-3); /* the model says something */
    assert_true(largest < 1e4);
    model_close(&m);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0] && i < count; i++) {
        model_open(&m, device, cases[i].threads, k);
        float *actual = run(&m, &cases[i].p);
        assert_same_bits(expected, actual, cases[i].what);
        free(actual);
        model_close(&m);
    }
    free(expected);
}

static const kind kinds[] = {
    {PROA_PRECISION_DEFAULT, true, PROA_KV_CACHE_AUTO}, {PROA_PRECISION_DEFAULT, false, PROA_KV_CACHE_AUTO},
    {PROA_PRECISION_EXACT, true, PROA_KV_CACHE_AUTO},   {PROA_PRECISION_EXACT, false, PROA_KV_CACHE_AUTO},
    {PROA_PRECISION_DEFAULT, true, PROA_KV_CACHE_E4M3}, {PROA_PRECISION_DEFAULT, false, PROA_KV_CACHE_E4M3},
};

static void cpu_is_batch_invariant(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        check_device("cpu", &kinds[i], 8);
}

static void ref_is_batch_invariant(void **state)
{
    (void)state;
    check_device("ref", &kinds[0], 2);
    check_device("ref", &kinds[3], 2);
    check_device("ref", &kinds[4], 1);
}

/* The logits after positions first .. PROMPT - 1 of sequence 0, whose earlier keys lie in `blocks`. */
static void run_tail(model *m, const int32_t *blocks, int32_t first, float *out)
{
    proa_segment segment;
    int32_t ids[512], last = PROMPT - 1 - first;
    proa_step step = {.token_ids = ids, .segments = &segment, .logit_rows = &last, .logit_count = 1};
    float *logits = NULL;
    add_segment(&step, &segment, ids, 0, blocks, first, PROMPT - first, false);
    assert_int_equal(proa_forward_step(m->forward, &step, &logits, NULL), PROA_OK);
    memcpy(out, logits, VOCAB * sizeof *out);
}

/* A prompt that shares 100 tokens with a cached one: one whole block and 36 rows of the next, copied. */
static void copied_rows_serve_another_prompt(void **state)
{
    (void)state;
    static const int32_t cached[] = {3, 7, 5}, shared[] = {3, 20, 21};
    static const proa_kv_copy copy = {.from = 7, .to = 20, .tokens = 36};
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i += 2) {
        model m;
        float expected[VOCAB], actual[VOCAB];
        model_open(&m, "cpu", 1, &kinds[i]);
        run_tail(&m, cached, 0, expected);
        assert_int_equal(proa_forward_kv_copy(m.forward, &copy, 1, NULL), PROA_OK);
        run_tail(&m, shared, 100, actual);
        assert_memory_equal(expected, actual, sizeof expected);
        model_close(&m);
    }
}

/* Its rounding shows, and stays a rounding: about 2^-4 a latent at most. */
static void an_fp8_cache_is_near_a_bf16_one(void **state)
{
    (void)state;
    static const plan p = {.chunk = PROMPT, .block_step = 1, .decode_rows = 1};
    float *logits[2];
    double error = 0, size = 0;
    for (int i = 0; i < 2; i++) {
        model m;
        model_open(&m, "cpu", 1, &kinds[i == 0 ? 1 : 5]);
        logits[i] = run(&m, &p);
        model_close(&m);
    }
    for (int32_t i = 0; i < (OUTPUT + 1) * VOCAB; i++) {
        error += pow((double)logits[1][i] - logits[0][i], 2);
        size += pow(logits[0][i], 2);
    }
    double distance = sqrt(error / size);
    if (!(distance > 1e-4 && distance < 0.1))
        fail_msg("distance %g", distance);
    free(logits[0]);
    free(logits[1]);
}

static void caches_are_measured_and_refused(void **state)
{
    (void)state;
    proa_error err = {0};
    proa_model_config c = {.num_hidden_layers = 61, .kv_lora_rank = 512, .qk_rope_head_dim = 64};
    assert_int_equal(proa_forward_kv_block_bytes(&c, PROA_PRECISION_DEFAULT, PROA_KV_CACHE_AUTO),
                     61 * 64 * 1152);
    assert_int_equal(proa_forward_kv_block_bytes(&c, PROA_PRECISION_EXACT, PROA_KV_CACHE_AUTO),
                     61 * 64 * 2304);
    assert_int_equal(proa_forward_kv_block_bytes(&c, PROA_PRECISION_DEFAULT, PROA_KV_CACHE_E4M3),
                     61 * 64 * 656);
    assert_int_equal(proa_forward_check_kv(&c, PROA_PRECISION_DEFAULT, PROA_KV_CACHE_E4M3, &err), PROA_OK);
    assert_int_equal(proa_forward_check_kv(&c, PROA_PRECISION_EXACT, PROA_KV_CACHE_AUTO, &err), PROA_OK);
    assert_int_equal(proa_forward_check_kv(&c, PROA_PRECISION_EXACT, PROA_KV_CACHE_E4M3, &err),
                     PROA_ERR_INVALID);
    assert_non_null(strstr(err.text, "--kv-cache-dtype fp8_e4m3 with --activation-dtype float32"));
    c.kv_lora_rank = 500;
    assert_int_equal(proa_forward_check_kv(&c, PROA_PRECISION_DEFAULT, PROA_KV_CACHE_AUTO, &err), PROA_OK);
    assert_int_equal(proa_forward_check_kv(&c, PROA_PRECISION_DEFAULT, PROA_KV_CACHE_E4M3, &err),
                     PROA_ERR_INVALID);
    assert_non_null(strstr(err.text, "this model has 500 and 64"));
}

int main(void)
{
    proa_log_set_level("warn");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cpu_is_batch_invariant),           cmocka_unit_test(ref_is_batch_invariant),
        cmocka_unit_test(copied_rows_serve_another_prompt), cmocka_unit_test(an_fp8_cache_is_near_a_bf16_one),
        cmocka_unit_test(caches_are_measured_and_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
