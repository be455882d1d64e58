/* test_runner.c - what an engine asks of a GPU's forward: steps of prompts, decode rows and rows that are computed again, in any mix, against
 * the same sequences each alone without graphs (law 2: bitwise) and against the CPU's forward; steps too large for the buffers; copies in
 * the cache; logits in the step's order. */
#include "gpu_test.h"
#include "small_model.h"
#include "model/cuda/runner.h"

enum { VOCAB = 320, SEQUENCES = 6, LENGTH = 150, PROMPT = 90, BLOCKS = 48, PER_SEQUENCE = 4, MOST = 8 };

typedef float all_logits[SEQUENCES][LENGTH][VOCAB]; /* after each position whose logits were wanted */

typedef struct fixture {
    proa_gpu *gpu;
    proa_model_config config;
    proa_device *cpu;
    proa_checkpoint *checkpoint;
    proa_cuda_weights *weights;
    proa_kv_cache kv_cache;
    int32_t ids[SEQUENCES][LENGTH];
    int32_t blocks[SEQUENCES][PER_SEQUENCE];
} fixture;

static void open_fixture(fixture *f, proa_gpu *gpu, proa_kv_cache kv_cache)
{
    proa_error err = {0};
    *f = (fixture){.gpu = gpu, .kv_cache = kv_cache};
    small_model(&f->config);
    gpu_good(proa_device_create("cpu", 2, PROA_PRECISION_DEFAULT, &f->cpu, &err), &err);
    gpu_good(proa_checkpoint_load("test", PROA_LOAD_DUMMY, &f->config, PROA_PRECISION_DEFAULT,
                                  f->cpu->host.pool, &f->checkpoint, &err),
             &err);
    gpu_good(proa_cuda_weights_load(gpu, &f->config, proa_checkpoint_weights(f->checkpoint),
                                    f->cpu->host.pool, &f->weights, &err),
             &err);
    for (int32_t s = 0; s < SEQUENCES; s++) {
        for (int32_t i = 0; i < LENGTH; i++)
            f->ids[s][i] = (i * 37 + s * 101 + i * i * 3) % VOCAB;
        for (int32_t i = 0; i < PER_SEQUENCE; i++)
            f->blocks[s][i] = (i * SEQUENCES + s) * 7 % BLOCKS;
    }
}

static void close_fixture(fixture *f)
{
    proa_cuda_weights_free(f->gpu, f->weights);
    proa_checkpoint_free(f->checkpoint);
    proa_device_free(f->cpu);
}

static proa_forward *make_runner(fixture *f, int32_t rows, int32_t graphs)
{
    static const int32_t sizes[] = {1, 2, 5, MOST};
    const proa_forward_limits limits = {.rows_max = rows,
                                        .logit_rows_max = rows < MOST ? rows : MOST,
                                        .positions_max = 256,
                                        .kv_blocks = BLOCKS,
                                        .kv_cache = f->kv_cache};
    proa_cuda_runner_options options = {.graphs = {.count = graphs}, .host_logits = true};
    proa_error err = {0};
    proa_forward *forward;
    memcpy(options.graphs.rows, sizes, sizeof sizes);
    gpu_good(proa_cuda_runner_create(f->gpu, f->weights, NULL, &limits, &options, &forward, &err), &err);
    return forward;
}

/* ---- steps ---- */

typedef struct chunk {
    int32_t sequence, first, rows;
    bool logits; /* of the last row */
} chunk;

static void run_step(fixture *f, proa_forward *forward, const chunk *chunks, int32_t count, all_logits to)
{
    proa_segment segments[SEQUENCES];
    int32_t ids[SEQUENCES * LENGTH], logit_rows[SEQUENCES], rows = 0, logits = 0;
    float *out = NULL;
    proa_error err = {0};
    for (int32_t i = 0; i < count; i++) {
        const chunk *c = &chunks[i];
        segments[i] = (proa_segment){.row_first = rows,
                                     .row_count = c->rows,
                                     .position_first = c->first,
                                     .blocks = f->blocks[c->sequence],
                                     .absorbed = c->first >= PROMPT};
        memcpy(ids + rows, f->ids[c->sequence] + c->first, sizeof *ids * (size_t)c->rows);
        rows += c->rows;
        if (c->logits)
            logit_rows[logits++] = rows - 1;
    }
    gpu_good(proa_forward_step(forward,
                               &(proa_step){.row_count = rows,
                                            .token_ids = ids,
                                            .segments = segments,
                                            .segment_count = count,
                                            .logit_rows = logit_rows,
                                            .logit_count = logits},
                               &out, &err),
             &err);
    for (int32_t i = 0, l = 0; i < count; i++)
        if (chunks[i].logits)
            memcpy(to[chunks[i].sequence][chunks[i].first + chunks[i].rows - 1], out + (int64_t)l++ * VOCAB,
                   sizeof(float) * VOCAB);
}

/* Each sequence alone: its prompt, then a row a step. */
static void run_alone(fixture *f, proa_forward *forward, all_logits to)
{
    for (int32_t s = 0; s < SEQUENCES; s++) {
        run_step(f, forward, &(chunk){s, 0, PROMPT, true}, 1, to);
        for (int32_t i = PROMPT; i < LENGTH; i++)
            run_step(f, forward, &(chunk){s, i, 1, true}, 1, to);
    }
}

/* Some rows of some sequences a step, `most` rows in all; each sequence may be thrown back to its beginning once or twice, as one that
 * was retracted. What logits were wanted is marked by to[s][i][0] being no NaN. */
static void run_mixed(fixture *f, proa_forward *forward, uint64_t seed, int32_t most, all_logits to)
{
    int32_t done[SEQUENCES] = {0}, thrown = 0;
    uint64_t draw = 0;
    for (int32_t left = 1; left > 0;) {
        chunk chunks[SEQUENCES];
        int32_t count = 0, rows = 0;
        const bool decode_alone = proa_random_uniform(seed, draw++) < 0.5;
        left = 0;
        for (int32_t k = 0; k < SEQUENCES; k++) {
            const int32_t s = (int32_t)((k + (int32_t)draw) % SEQUENCES), first = done[s],
                          form_end = first < PROMPT ? PROMPT : LENGTH;
            left += first < LENGTH;
            if (first == LENGTH || rows == most || (decode_alone && first < PROMPT) ||
                proa_random_uniform(seed, draw++) < 0.2)
                continue;
            int32_t n = 1 + (int32_t)(proa_random_uniform(seed, draw++) * (decode_alone     ? 1
                                                                           : first < PROMPT ? 60
                                                                                            : 20));
            n = n > form_end - first ? form_end - first : n;
            n = n > most - rows ? most - rows : n;
            chunks[count++] = (chunk){s, first, n, proa_random_uniform(seed, draw++) < 0.8 || decode_alone};
            rows += n;
            done[s] += n;
            if (done[s] > PROMPT + 20 && thrown < 4 && proa_random_uniform(seed, draw++) < 0.1) {
                done[s] = 0;
                thrown++;
            }
        }
        if (count > 0)
            run_step(f, forward, chunks, count, to);
    }
}

static void forget(all_logits to)
{
    memset(to, 0xff, sizeof(all_logits));
}

static void check_same(all_logits want, all_logits got, const char *what)
{
    int32_t seen = 0;
    for (int32_t s = 0; s < SEQUENCES; s++)
        for (int32_t i = 0; i < LENGTH; i++) {
            if (isnan(got[s][i][0]))
                continue;
            seen++;
            if (i >= PROMPT - 1 && memcmp(want[s][i], got[s][i], sizeof got[s][i]) != 0)
                fail_msg("%s: other bits after position %d of sequence %d", what, i, s);
        }
    assert_true(seen > 10 * SEQUENCES);
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* A rounding may flip an expert of a random model, so the bound is of the median token (DESIGN's for bf16, times 1.3). */
static void check_near(all_logits want, all_logits got)
{
    enum { TOKENS = SEQUENCES * (LENGTH - PROMPT) };
    double distances[TOKENS];
    for (int32_t i = 0; i < TOKENS; i++) {
        const int32_t s = i / (LENGTH - PROMPT), at = PROMPT + i % (LENGTH - PROMPT);
        distances[i] = test_distance(got[s][at], want[s][at], VOCAB);
    }
    qsort(distances, TOKENS, sizeof *distances, by_value);
    if (!(distances[TOKENS / 2] <= 1.3 * 0.032))
        fail_msg("the median token is %g away from the CPU's", distances[TOKENS / 2]);
}

static void any_mix_gives_the_bits_of_each_alone(proa_gpu *gpu, proa_kv_cache kv_cache, uint64_t seeds)
{
    static all_logits alone, mixed, host;
    fixture f;
    open_fixture(&f, gpu, kv_cache);
    proa_forward *plain = make_runner(&f, PROMPT, 0), *graphs = make_runner(&f, 200, 4),
                 *small = make_runner(&f, PROMPT, 2);
    run_alone(&f, plain, alone);
    for (uint64_t seed = 1; seed <= seeds; seed++) {
        forget(mixed);
        run_mixed(&f, graphs, seed, 200, mixed);
        check_same(alone, mixed, "graphs");
        forget(mixed);
        run_mixed(&f, small, 100 + seed, PROMPT,
                  mixed); /* rows that are computed again come in pieces of MOST */
        check_same(alone, mixed, "pieces");
    }
    proa_error err = {0};
    proa_forward *cpu;
    const proa_forward_limits limits = {.rows_max = 200,
                                        .logit_rows_max = MOST,
                                        .positions_max = 256,
                                        .kv_blocks = BLOCKS,
                                        .kv_cache = kv_cache};
    gpu_good(
        proa_forward_create(&f.config, proa_checkpoint_weights(f.checkpoint), f.cpu, &limits, &cpu, &err),
        &err);
    run_alone(&f, cpu, host);
    check_near(host, alone);
    proa_forward_free(cpu);
    proa_forward_free(plain);
    proa_forward_free(graphs);
    proa_forward_free(small);
    close_fixture(&f);
}

static void test_any_mix_gives_the_bits_of_each_alone(void **state)
{
    any_mix_gives_the_bits_of_each_alone(gpu_of(state), PROA_KV_CACHE_AUTO, 3);
}

static void test_any_mix_with_an_fp8_cache(void **state)
{
    any_mix_gives_the_bits_of_each_alone(gpu_of(state), PROA_KV_CACHE_E4M3, 1);
}

/* ---- what routers choose ---- */

enum { LAYERS = 3, EXPERTS = 16, TOP_K = 4 };

typedef struct choice_counts {
    int32_t calls[LAYERS], rows[LAYERS];
    int32_t of[LAYERS][EXPERTS];
} choice_counts;

static void count_choices(void *context, int32_t layer, int32_t rows, const int32_t *expert_ids)
{
    choice_counts *c = context;
    assert_in_range(layer, 1, LAYERS - 1);
    c->calls[layer]++;
    c->rows[layer] += rows;
    for (int32_t i = 0; i < rows * TOP_K; i++) {
        assert_in_range(expert_ids[i], 0, EXPERTS - 1);
        for (int32_t j = i / TOP_K * TOP_K; j < i; j++)
            assert_int_not_equal(expert_ids[j], expert_ids[i]);
        c->of[layer][expert_ids[i]]++;
    }
}

/* Prompts of all sequences; then three rows that decode (a graph of 5 has two of padding), and 20 that are computed again (in pieces of MOST). */
static choice_counts count_steps(fixture *f, proa_forward *forward, bool together)
{
    static all_logits unused;
    static const chunk decode[] = {{0, PROMPT, 1, true}, {1, PROMPT, 1, true}, {2, PROMPT, 1, true}},
                       again = {3, PROMPT, 20, true};
    choice_counts counts = {{0}};
    proa_error err = {0};
    gpu_good(proa_forward_set_expert_tap(forward, count_choices, &counts, &err), &err);
    for (int32_t s = 0; s < 4; s++)
        run_step(f, forward, &(chunk){s, 0, PROMPT, true}, 1, unused);
    for (int32_t i = 0; i < (together ? 1 : 3); i++)
        run_step(f, forward, decode + i, together ? 3 : 1, unused);
    for (int32_t i = 0; i < (together ? 1 : 20); i++)
        run_step(f, forward, together ? &again : &(chunk){3, PROMPT + i, 1, true}, 1, unused);
    gpu_good(proa_forward_set_expert_tap(forward, NULL, NULL, &err), &err);
    run_step(f, forward, decode, 1, unused); /* nobody counts it */
    return counts;
}

/* Each row counts once, padding does not; each step tells of a layer once. */
static void test_what_routers_choose_is_told(void **state)
{
    fixture f;
    proa_error err = {0};
    open_fixture(&f, gpu_of(state), PROA_KV_CACHE_AUTO);
    proa_forward *plain = make_runner(&f, PROMPT, 0), *graphs = make_runner(&f, PROMPT, 4), *cpu;
    const proa_forward_limits limits = {
        .rows_max = PROMPT, .logit_rows_max = MOST, .positions_max = 256, .kv_blocks = BLOCKS};
    gpu_good(
        proa_forward_create(&f.config, proa_checkpoint_weights(f.checkpoint), f.cpu, &limits, &cpu, &err),
        &err);
    const choice_counts alone = count_steps(&f, plain, false), together = count_steps(&f, graphs, true),
                        host = count_steps(&f, cpu, true);
    for (int32_t l = 1; l < LAYERS; l++) {
        int32_t other = 0;
        assert_int_equal(alone.calls[l], 4 + 3 + 20);
        assert_int_equal(together.calls[l], 4 + 1 + 1);
        assert_int_equal(alone.rows[l], 4 * PROMPT + 3 + 20);
        assert_int_equal(together.rows[l], alone.rows[l]);
        assert_int_equal(host.rows[l], alone.rows[l]);
        assert_memory_equal(alone.of[l], together.of[l], sizeof alone.of[l]);
        for (int32_t e = 0; e < EXPERTS; e++)
            other += abs(alone.of[l][e] - host.of[l][e]);
        if (other > alone.rows[l] * TOP_K / 10) /* a rounding may flip an expert */
            fail_msg("layer %d: %d of %d choices are not the CPU's", l, other, alone.rows[l] * TOP_K);
    }
    proa_forward_free(cpu);
    proa_forward_free(plain);
    proa_forward_free(graphs);
    close_fixture(&f);
}

/* The first 40 rows of a prompt, copied to another sequence's block, serve that one. */
static void copies_serve(proa_gpu *gpu, proa_kv_cache kv_cache)
{
    static all_logits want, got;
    fixture f;
    proa_error err = {0};
    open_fixture(&f, gpu, kv_cache);
    memcpy(f.ids[1], f.ids[0], sizeof *f.ids[0] * 40);
    proa_forward *forward = make_runner(&f, PROMPT, 0);
    run_step(&f, forward, &(chunk){1, 0, PROMPT, true}, 1, want);
    run_step(&f, forward, &(chunk){0, 0, 40, true}, 1, got);
    const int32_t to = f.blocks[1][0] = BLOCKS - 1;
    const proa_kv_copy copies[] = {{f.blocks[0][0], f.blocks[2][0], 64}, {f.blocks[2][0], to, 40}};
    gpu_good(proa_forward_kv_copy(forward, copies, 2, &err), &err);
    run_step(&f, forward, &(chunk){1, 40, PROMPT - 40, true}, 1, got);
    assert_memory_equal(got[1][PROMPT - 1], want[1][PROMPT - 1], sizeof want[1][PROMPT - 1]);
    proa_forward_free(forward);
    close_fixture(&f);
}

static void test_copies(void **state)
{
    copies_serve(gpu_of(state), PROA_KV_CACHE_AUTO);
    copies_serve(gpu_of(state), PROA_KV_CACHE_E4M3);
}

/* The plan's cache is what an engine counts by, forward.h's bytes a block, and takes less memory in FP8. */
static void test_plan(void **state)
{
    proa_model_config config;
    uint64_t buffers, cache[2];
    (void)state;
    small_model(&config);
    for (int i = 0; i < 2; i++) {
        const proa_kv_cache kv_cache = i == 0 ? PROA_KV_CACHE_AUTO : PROA_KV_CACHE_E4M3;
        const proa_forward_limits limits = {.rows_max = 8,
                                            .logit_rows_max = 8,
                                            .positions_max = 256,
                                            .kv_blocks = BLOCKS,
                                            .kv_cache = kv_cache};
        const proa_cuda_limits mine = proa_cuda_runner_limits(&limits, &(proa_cuda_graph_sizes){0});
        proa_cuda_forward_plan(&config, config.n_routed_experts, &mine, &buffers, &cache[i]);
        assert_int_equal(cache[i],
                         BLOCKS * proa_forward_kv_block_bytes(&config, PROA_PRECISION_DEFAULT, kv_cache));
    }
    assert_true(cache[1] < cache[0]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_any_mix_gives_the_bits_of_each_alone),
        cmocka_unit_test(test_any_mix_with_an_fp8_cache),
        cmocka_unit_test(test_what_routers_choose_is_told),
        cmocka_unit_test(test_copies),
        cmocka_unit_test(test_plan),
    };
    return cmocka_run_group_tests(tests, gpu_open_state, gpu_close_state);
}
