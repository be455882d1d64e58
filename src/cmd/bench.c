/* bench.c - `proa bench op`: each op at the shapes of real models, beside what this machine's bounds allow.
 *
 * time is the fastest of at least SAMPLES_MIN calls, as the bounds are the best of several tries: both leave out
 * what else the machine was doing. With one thread it is processor time. bound is the larger of bytes / bandwidth and
 * operations / peak.
 */
#include "cmd/bench.h"

#include "base/clock.h"
#include "base/json.h"
#include "cmd/cmd.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    SAMPLES_MIN = 5,
    SAMPLES_MAX = 200,
    CASE_US = 300000,
    STRETCH_US = 200, /* short calls are timed several together */
    LINE = 64,
};

static const proa_bench_op *const ops[] = {
    &proa_bench_linear,       &proa_bench_linear_heads, &proa_bench_experts, &proa_bench_quantise,
    &proa_bench_mla_absorbed, &proa_bench_mla_expanded, &proa_bench_rmsnorm, &proa_bench_sample};

typedef struct bench {
    const char *op;    /* NULL: all */
    const char *shape; /* NULL: all */
    proa_host host;
    proa_bench_memory memory;
    proa_bench_bounds bounds;
    proa_json *results; /* array; NULL without --json */
    int rows_printed;
} bench;

/* --- one row --- */

/* Microseconds of a call, the mean of `calls` at a stretch: the clock counts whole ones. */
static double time_us(bench *b, const proa_bench_case *c, int calls)
{
    double begin = proa_bench_now_us(b->host.pool);
    for (int i = 0; i < calls; i++)
        c->run(c->state, &b->host, &b->memory);
    return (proa_bench_now_us(b->host.pool) - begin) / calls;
}

static double fastest_us(bench *b, const proa_bench_case *c)
{
    int64_t start = proa_clock_us();
    double fastest = time_us(b, c, 1);
    int calls = fastest < STRETCH_US ? (int)(STRETCH_US / (fastest + 1)) + 1 : 1;
    for (int i = 0; i < SAMPLES_MAX && (i < SAMPLES_MIN || proa_clock_us() - start < CASE_US); i++) {
        double us = time_us(b, c, calls);
        fastest = us < fastest ? us : fastest;
    }
    return fastest;
}

static void add_result(bench *b, const char *op, const proa_bench_case *c, double us, proa_bench_bound bound)
{
    proa_json *row = proa_json_new_object();
    proa_json_set(row, "op", proa_json_new_text(op));
    proa_json_set(row, "shape", proa_json_new_text(c->shape));
    proa_json_set(row, "rows", proa_json_new_int(c->rows));
    proa_json_set(row, "time_us", proa_json_new_real(us));
    proa_json_set(row, "bytes", proa_json_new_real(c->bytes));
    proa_json_set(row, "flops", proa_json_new_real(c->flops));
    proa_json_set(row, "bound", proa_json_new_text(bound.by));
    proa_json_set(row, "bound_us", proa_json_new_real(bound.us));
    proa_json_append(b->results, row);
}

static void print_row(bench *b, const char *op, const proa_bench_case *c, double us)
{
    proa_bench_bound bound = proa_bench_bound_of(&b->bounds, c->bytes, c->flops, c->bf16);
    if (b->rows_printed++ == 0)
        printf("%-13s %-38s %5s %11s %9s %9s %11s %-6s %6s\n", "op", "shape", "rows", "time us", "GB/s",
               "GFLOP/s", "bound us", "by", "of it");
    printf("%-13s %-38s %5d %11.1f %9.1f %9.1f %11.1f %-6s %5.0f%%\n", op, c->shape, c->rows, us,
           c->bytes / us / 1e3, c->flops / us / 1e3, bound.us, bound.by, 100 * bound.us / us);
    fflush(stdout);
    if (b->results != NULL)
        add_result(b, op, c, us, bound);
}

static proa_status run_case(bench *b, const proa_bench_op *op, int index, proa_error *err)
{
    proa_bench_case c = {0};
    proa_status status = op->make(index, &b->host, &c, err);
    if (!proa_failed(status) && (b->shape == NULL || strstr(c.shape, b->shape) != NULL)) {
        b->host.precision = c.precision;
        b->host.scratch_bytes = (c.scratch_bytes + LINE) / LINE * LINE;
        b->host.scratch = aligned_alloc(LINE, b->host.scratch_bytes);
        if (b->host.scratch == NULL)
            status =
                proa_error_set(err, PROA_ERR_MEMORY, "no memory for %zu bytes of scratch", c.scratch_bytes);
        else
            print_row(b, op->name, &c, fastest_us(b, &c));
        free(b->host.scratch);
        b->host.scratch = NULL;
    }
    if (c.release != NULL)
        c.release(c.state);
    return status;
}

/* --- the whole --- */

static proa_status run_ops(bench *b, proa_error *err)
{
    for (size_t o = 0; o < sizeof ops / sizeof ops[0]; o++) {
        if (b->op != NULL && strcmp(b->op, ops[o]->name) != 0)
            continue;
        for (int i = 0; i < ops[o]->case_count; i++) {
            proa_status status = run_case(b, ops[o], i, err);
            if (proa_failed(status))
                return status;
        }
    }
    if (b->rows_printed > 0)
        return PROA_OK;
    proa_buf names = {0};
    for (size_t o = 0; o < sizeof ops / sizeof ops[0]; o++)
        proa_buf_append_format(&names, " %s", ops[o]->name);
    proa_error_set(err, PROA_ERR_NOT_FOUND,
                   "no benchmark of op \"%s\" has \"%s\" in its shape: the ops are%s",
                   b->op != NULL ? b->op : "", b->shape != NULL ? b->shape : "", proa_buf_text(&names));
    proa_buf_free(&names);
    return PROA_ERR_NOT_FOUND;
}

static proa_status bench_run(bench *b, const proa_options *options, proa_error *err)
{
    const char *json = proa_options_string(options, "json");
    int threads = (int)proa_options_int(options, "threads");
    proa_status status = proa_bench_choose_isa(options, &b->host.isa, err);
    if (proa_failed(status))
        return status;
    b->host.pool = proa_pool_create(threads > 0 ? threads : proa_cpu_core_count());
    if (b->host.pool == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "cannot start %d threads: try a smaller --threads",
                              threads);
    status = proa_bench_memory_init(&b->memory, err);
    if (proa_failed(status))
        return status;
    if (json != NULL)
        b->results = proa_json_new_array();
    proa_bench_bounds_measure(b->host.pool, b->host.isa, &b->memory, &b->bounds);
    proa_bench_bounds_print(&b->host, &b->bounds);
    status = run_ops(b, err);
    if (!proa_failed(status) && json != NULL)
        status = proa_bench_write_json(&b->host, &b->bounds, b->results, json, err);
    return status;
}

/* A picture of what was measured before needs no GPU. */
static int slice(const proa_options *options)
{
    return proa_options_string(options, "from-json") != NULL ? proa_cmd_bench_draw(options)
                                                             : proa_cmd_bench_slice(options);
}

static const struct {
    const char *name;
    int (*run)(const proa_options *options);
} others[] = {
    {"tokenizer", proa_cmd_bench_tokenizer},
    {"model", proa_cmd_bench_model},
    {"slice", slice},
    {"a2a", proa_cmd_bench_a2a},
    {"load", proa_cmd_bench_load},
    {"transfer", proa_cmd_bench_transfer},
};

int proa_cmd_bench(const proa_options *options)
{
    proa_error err = {0};
    const char *what = proa_options_argument(options, 0);
    for (size_t i = 0; what != NULL && i < sizeof others / sizeof *others; i++)
        if (strcmp(what, others[i].name) == 0)
            return others[i].run(options);
    if (what == NULL || strcmp(what, "op") != 0) {
        proa_error_set(&err, PROA_ERR_INVALID,
                       "bench %s: say what to measure: op, model, slice, tokenizer, transfer, a2a or load",
                       what != NULL ? what : "");
        proa_cmd_fail(&err);
        return PROA_EXIT_USAGE;
    }
    if (strcmp(proa_options_string(options, "device"), "cpu") != 0) {
        proa_error_set(&err, PROA_ERR_UNSUPPORTED, "bench op --device %s: only cpu is worth measuring",
                       proa_options_string(options, "device"));
        return proa_cmd_fail(&err);
    }
    bench b = {.op = proa_options_string(options, "op"), .shape = proa_options_string(options, "shape")};
    proa_status status = bench_run(&b, options, &err);
    proa_json_free(b.results);
    free(b.memory.data);
    proa_pool_free(b.host.pool);
    return proa_failed(status) ? proa_cmd_fail(&err) : PROA_EXIT_OK;
}
