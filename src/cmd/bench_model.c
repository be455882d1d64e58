/* bench_model.c - `proa bench model`: steps of the layer graph beside what this machine's bounds allow.
 *
 * Decode: so many sequences of CONTEXT tokens, a token each, absorbed, logits of all rows. Prefill: a chunk of one
 * sequence, expanded, logits of the last row. Each step has other random tokens; the experts that they choose are
 * counted. time is the median of the steps, since a server's speed is no best case; the bounds are best of several
 * tries, so a busy machine shows a lower share of them.
 *
 * Without --model-path: bench/dummy-1b, random weights of 1 GB, more than a cache holds. A smaller model stays in the
 * cache, and the bound of memory does not bind it. Lacks: sampling, and all that an engine does between steps.
 */
#include "base/clock.h"
#include "base/progress.h"
#include "base/random.h"
#include "cmd/bench.h"
#include "cmd/bench_cost.h"
#include "cmd/cmd.h"
#include "cmd/load.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    CONTEXT = 512,
    CHUNK = 512,
    CHUNKS = 3, /* of the prefilled sequence */
    SEQUENCES = 64,
    BLOCKS_EACH = CONTEXT / PROA_KV_BLOCK_TOKENS,
    BLOCKS = SEQUENCES * BLOCKS_EACH,
    PREFILLED_BLOCKS = CHUNKS * CHUNK / PROA_KV_BLOCK_TOKENS, /* the first ones */
    WARM_UPS = 2,
    STEPS_MIN = 5,
    STEPS_MAX = 200,
    ROW_US = 1000000,
};

typedef struct shape {
    bool decode;
    int32_t rows;
    int32_t position_first; /* of each segment's first row */
} shape;

static const shape shapes[] = {
    {true, 1, CONTEXT - 1},    {true, 8, CONTEXT - 1},    {true, SEQUENCES, CONTEXT - 1},
    {false, CHUNK, 0 * CHUNK}, {false, CHUNK, 2 * CHUNK},
};

#define SHAPES (sizeof shapes / sizeof shapes[0])

typedef struct bench {
    proa_loaded loaded;
    proa_forward *forward;
    proa_bench_bounds bounds;
    uint64_t tokens_drawn;
    int32_t ids[CHUNK];
    int32_t
        blocks[BLOCKS]; /* of the decoding sequences, one after the other; the prefilled one has the first */
    proa_segment segments[SEQUENCES];
    int32_t logit_rows[SEQUENCES];
    bool *chosen;         /* [layers, experts]: is it by a row of the step at hand */
    int64_t chosen_count; /* over the steps of a row */
    double times_us[STEPS_MAX];
    proa_json *results; /* array; NULL without --json */
    int rows_printed;
} bench;

/* What a row of the table holds. */
typedef struct result {
    char name[64];
    int32_t rows;
    int steps;
    double us;
    double experts; /* distinct ones a step and MoE layer */
    proa_bench_cost cost;
    proa_bench_bound bound;
} result;

/* --- steps --- */

static void mark_experts(void *context, int32_t layer, int32_t rows, const int32_t *expert_ids)
{
    bench *b = context;
    bool *chosen = b->chosen + (int64_t)layer * b->loaded.config.n_routed_experts;
    for (int64_t i = 0; i < (int64_t)rows * b->loaded.config.num_experts_per_tok; i++) {
        b->chosen_count += !chosen[expert_ids[i]];
        chosen[expert_ids[i]] = true;
    }
}

static void draw_tokens(bench *b, int32_t count)
{
    for (int32_t i = 0; i < count; i++)
        b->ids[i] = (int32_t)(proa_random_uniform(1, b->tokens_drawn++) * b->loaded.config.vocab_size);
}

static proa_step plan_step(bench *b, const shape *s)
{
    int32_t segments = s->decode ? s->rows : 1, each = s->rows / segments;
    for (int32_t i = 0; i < segments; i++) {
        b->segments[i] = (proa_segment){
            .row_first = i * each,
            .row_count = each,
            .position_first = s->position_first,
            .blocks = b->blocks + (int64_t)i * BLOCKS_EACH,
            .absorbed = s->decode,
        };
        b->logit_rows[i] = (i + 1) * each - 1;
    }
    return (proa_step){
        .row_count = s->rows,
        .token_ids = b->ids,
        .segments = b->segments,
        .segment_count = segments,
        .logit_rows = b->logit_rows,
        .logit_count = segments,
    };
}

static proa_status run_step(bench *b, const proa_step *step, double *us, proa_error *err)
{
    const proa_model_config *c = &b->loaded.config;
    float *logits;
    draw_tokens(b, step->row_count);
    memset(b->chosen, 0, (size_t)c->num_hidden_layers * (size_t)c->n_routed_experts * sizeof *b->chosen);
    int64_t start = proa_clock_us();
    proa_status status = proa_forward_step(b->forward, step, &logits, err);
    *us = (double)(proa_clock_us() - start);
    return status;
}

/* Keys for all sequences: one is prefilled, the others get its blocks, each in an order of its own. Their positions
 * are wrong then; their number and size are not. */
static proa_status fill_cache(bench *b, proa_error *err)
{
    proa_status status = PROA_OK;
    for (int32_t i = 0; i < BLOCKS; i++)
        b->blocks[i] = i;
    for (int32_t i = 0; i < CHUNKS && status == PROA_OK; i++) {
        shape chunk = {.rows = CHUNK, .position_first = i * CHUNK};
        proa_step step = plan_step(b, &chunk);
        double us;
        status = run_step(b, &step, &us, err);
    }
    for (int32_t i = PREFILLED_BLOCKS; i < BLOCKS && status == PROA_OK; i++) {
        proa_kv_copy copy = {(i * 7 + i / PREFILLED_BLOCKS) % PREFILLED_BLOCKS, i, PROA_KV_BLOCK_TOKENS};
        status = proa_forward_kv_copy(b->forward, &copy, 1, err);
    }
    return status;
}

/* --- one row --- */

static int32_t moe_layers(const proa_weights *weights)
{
    int32_t count = 0;
    for (int32_t i = 0; i < weights->layer_count; i++)
        count += weights->layers[i].moe;
    return count;
}

static proa_status measure(bench *b, const shape *s, result *r, proa_error *err)
{
    const proa_weights *weights = proa_checkpoint_weights(b->loaded.checkpoint);
    proa_precision precision = b->loaded.device->host.precision;
    proa_step step = plan_step(b, s);
    proa_status status = PROA_OK;
    double us = 0;
    for (int i = 0; i < WARM_UPS && status == PROA_OK; i++)
        status = run_step(b, &step, &us, err);
    b->chosen_count = 0;
    int64_t start = proa_clock_us();
    while (status == PROA_OK && r->steps < STEPS_MAX &&
           (r->steps < STEPS_MIN || proa_clock_us() - start < ROW_US)) {
        status = run_step(b, &step, &us, err);
        b->times_us[r->steps++] = us;
    }
    if (status != PROA_OK)
        return status;
    proa_bench_sort(b->times_us, (size_t)r->steps);
    r->us = b->times_us[r->steps / 2] + 0.5; /* the clock cuts off */
    double experts = (double)b->chosen_count / r->steps;
    int32_t moe = moe_layers(weights);
    r->experts = moe > 0 ? experts / moe : 0;
    r->cost = proa_bench_step_cost(&b->loaded.config, weights, precision, b->loaded.kv_cache, &step, experts);
    r->bound =
        proa_bench_bound_of(&b->bounds, r->cost.bytes, r->cost.flops, precision == PROA_PRECISION_DEFAULT);
    return PROA_OK;
}

static void print_result(bench *b, const result *r)
{
    if (b->rows_printed++ == 0)
        printf("%-29s %9s %10s %9s %9s %8s %8s %9s %10s %-6s %6s\n", "step", "tokens/s", "ms", "experts",
               "MB", "GFLOP", "GB/s", "GFLOP/s", "bound ms", "by", "of it");
    printf("%-29s %9.1f %10.3f %9.1f %9.1f %8.2f %8.1f %9.1f %10.3f %-6s %5.0f%%\n", r->name,
           r->rows / r->us * 1e6, r->us / 1e3, r->experts, r->cost.bytes / 1e6, r->cost.flops / 1e9,
           r->cost.bytes / r->us / 1e3, r->cost.flops / r->us / 1e3, r->bound.us / 1e3, r->bound.by,
           100 * r->bound.us / r->us);
    fflush(stdout);
}

static void add_result(bench *b, const result *r)
{
    const struct {
        const char *name;
        double value;
    } figures[] = {
        {"tokens_per_s", r->rows / r->us * 1e6},
        {"time_us", r->us},
        {"experts", r->experts},
        {"bytes", r->cost.bytes},
        {"flops", r->cost.flops},
        {"gbps", r->cost.bytes / r->us / 1e3},
        {"gflops", r->cost.flops / r->us / 1e3},
        {"bound_us", r->bound.us},
        {"percent", 100 * r->bound.us / r->us},
    };
    proa_json *row = proa_json_new_object();
    proa_json_set(row, "shape", proa_json_new_text(r->name));
    proa_json_set(row, "rows", proa_json_new_int(r->rows));
    proa_json_set(row, "steps", proa_json_new_int(r->steps));
    for (size_t i = 0; i < sizeof figures / sizeof figures[0]; i++)
        proa_json_set(row, figures[i].name, proa_json_new_real(figures[i].value));
    proa_json_set(row, "bound", proa_json_new_text(r->bound.by));
    proa_json_append(b->results, row);
}

static void describe(const shape *s, char name[64])
{
    if (s->decode)
        snprintf(name, 64, "decode %d, context %d", s->rows, CONTEXT);
    else
        snprintf(name, 64, "prefill %d at %d", s->rows, s->position_first);
}

/* Before a model is loaded for nothing. `wanted` NULL: all. */
static proa_status check_wanted(const char *wanted, proa_error *err)
{
    for (size_t i = 0; i < SHAPES; i++) {
        char name[64];
        describe(&shapes[i], name);
        if (wanted == NULL || strstr(name, wanted) != NULL)
            return PROA_OK;
    }
    return proa_error_set(
        err, PROA_ERR_NOT_FOUND,
        "no step of bench model has \"%s\" in its description: try \"decode\" or \"prefill\"", wanted);
}

static proa_status run_shapes(bench *b, const char *wanted, proa_error *err)
{
    for (size_t i = 0; i < SHAPES; i++) {
        result r = {.rows = shapes[i].rows};
        describe(&shapes[i], r.name);
        if (wanted != NULL && strstr(r.name, wanted) == NULL)
            continue;
        proa_status status = measure(b, &shapes[i], &r, err);
        if (status != PROA_OK)
            return status;
        print_result(b, &r);
        if (b->results != NULL)
            add_result(b, &r);
    }
    return PROA_OK;
}

/* --- the whole --- */

static proa_status open_model(bench *b, const proa_options *options, proa_error *err)
{
    char dir[sizeof b->loaded.dir];
    if (proa_options_string(options, "model-path") != NULL)
        return proa_loaded_open(options, &b->loaded, err);
    if (!proa_bundled_dir("bench/dummy-1b", dir, sizeof dir))
        return proa_error_set(err, PROA_ERR_NOT_FOUND,
                              "no model: give --model-path DIR (bench/dummy-1b is not beside this program)");
    return proa_loaded_open_dir(options, dir, PROA_LOAD_DUMMY, &b->loaded, err);
}

static proa_status make_forward(bench *b, proa_error *err)
{
    const proa_model_config *c = &b->loaded.config;
    const proa_forward_limits limits = {
        .rows_max = CHUNK,
        .logit_rows_max = SEQUENCES,
        .positions_max = CHUNKS * CHUNK,
        .kv_blocks = BLOCKS,
        .kv_cache = b->loaded.kv_cache,
    };
    b->chosen = calloc((size_t)c->num_hidden_layers * (size_t)c->n_routed_experts + 1, sizeof *b->chosen);
    if (b->chosen == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory to count experts");
    proa_status status = proa_forward_create(c, proa_checkpoint_weights(b->loaded.checkpoint),
                                             b->loaded.device, &limits, &b->forward, err);
    if (status == PROA_OK)
        status = proa_forward_set_expert_tap(b->forward, mark_experts, b, err);
    return status;
}

/* The buffer is given back before the model's own is taken. */
static proa_status measure_bounds(bench *b, proa_error *err)
{
    proa_bench_memory buffer = {0};
    const proa_host *host = &b->loaded.device->host;
    proa_status status = proa_bench_memory_init(&buffer, err);
    if (status != PROA_OK)
        return status;
    proa_bench_bounds_measure(host->pool, host->isa, &buffer, &b->bounds);
    free(buffer.data);
    char size[24];
    printf("%s, %s of weights%s\n", b->loaded.dir,
           proa_format_bytes((double)proa_checkpoint_weights(b->loaded.checkpoint)->bytes, size),
           host->precision == PROA_PRECISION_EXACT    ? ", float32 activations"
           : b->loaded.kv_cache == PROA_KV_CACHE_E4M3 ? ", KV cache of fp8_e4m3"
                                                      : "");
    proa_bench_bounds_print(host, &b->bounds);
    return PROA_OK;
}

static proa_status bench_run(bench *b, const proa_options *options, proa_error *err)
{
    const char *json = proa_options_string(options, "json"), *wanted = proa_options_string(options, "shape");
    proa_isa isa;
    proa_status status = proa_bench_choose_isa(options, &isa, err);
    if (status == PROA_OK)
        status = check_wanted(wanted, err);
    if (status == PROA_OK)
        status = open_model(b, options, err);
    if (status != PROA_OK)
        return status;
    b->loaded.device->host.isa = isa;
    if (json != NULL)
        b->results = proa_json_new_array();
    status = measure_bounds(b, err);
    if (status == PROA_OK)
        status = make_forward(b, err);
    if (status == PROA_OK)
        status = fill_cache(b, err);
    if (status == PROA_OK)
        status = run_shapes(b, wanted, err);
    if (status == PROA_OK && json != NULL)
        status = proa_bench_write_json(&b->loaded.device->host, &b->bounds, b->results, json, err);
    return status;
}

int proa_cmd_bench_model(const proa_options *options)
{
    proa_error err = {0};
    bench *b = calloc(1, sizeof *b);
    proa_status status = b != NULL ? bench_run(b, options, &err)
                                   : proa_error_set(&err, PROA_ERR_MEMORY, "no memory for a benchmark");
    if (b != NULL) {
        proa_forward_free(b->forward);
        proa_loaded_close(&b->loaded);
        proa_json_free(b->results);
        free(b->chosen);
    }
    free(b);
    return status == PROA_OK ? PROA_EXIT_OK : proa_cmd_fail(&err);
}
