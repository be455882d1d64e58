/* bench.c - `proa bench op`: each op at the shapes of real models, beside what this machine's bounds allow.
 *
 * time is the fastest of at least SAMPLES_MIN calls, as the bounds are the best of several tries: both leave out
 * what else the machine was doing. bound is the larger of bytes / bandwidth and operations / peak.
 */
#include "cmd/bench.h"

#include "base/clock.h"
#include "base/json.h"
#include "cmd/cmd.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    SAMPLES_MIN = 5,
    SAMPLES_MAX = 200,
    CASE_US = 300000,
    STRETCH_US = 200, /* short calls are timed several together */
    BUFFER_MIB = 512, /* no cache is half as large */
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

const void *proa_bench_memory_take(proa_bench_memory *memory, size_t bytes)
{
    bytes = (bytes + LINE - 1) / LINE * LINE;
    PROA_ASSERT(bytes <= memory->bytes);
    if (memory->next + bytes > memory->bytes)
        memory->next = 0;
    const void *taken = memory->data + memory->next;
    memory->next += bytes;
    return taken;
}

/* Random bytes whose exponents, read as any of the types, are moderate. */
static proa_status memory_init(proa_bench_memory *memory, proa_error *err)
{
    enum { PATTERN = 1 << 20 };
    memory->bytes = (size_t)BUFFER_MIB << 20;
    memory->data = aligned_alloc(LINE, memory->bytes);
    if (memory->data == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for a buffer of %d MiB", BUFFER_MIB);
    uint32_t word = 1;
    for (size_t i = 0; i < PATTERN; i++) {
        word = word * 1664525u + 1013904223u;
        memory->data[i] = (char)(i % 2 == 0 ? word >> 24 & 0x77 : 0x3c | (word >> 24 & 0x83));
    }
    for (size_t i = PATTERN; i < memory->bytes; i += PATTERN)
        memcpy(memory->data + i, memory->data, PATTERN);
    return PROA_OK;
}

/* --- one row --- */

/* Microseconds of a call, the mean of `calls` at a stretch: the clock counts whole ones. */
static double time_us(bench *b, const proa_bench_case *c, int calls)
{
    int64_t begin = proa_clock_us();
    for (int i = 0; i < calls; i++)
        c->run(c->state, &b->host, &b->memory);
    return (double)(proa_clock_us() - begin) / calls;
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

static void add_result(bench *b, const char *op, const proa_bench_case *c, double us, double bound_us,
                       const char *bound)
{
    proa_json *row = proa_json_new_object();
    proa_json_set(row, "op", proa_json_new_string(op, strlen(op)));
    proa_json_set(row, "shape", proa_json_new_string(c->shape, strlen(c->shape)));
    proa_json_set(row, "rows", proa_json_new_int(c->rows));
    proa_json_set(row, "time_us", proa_json_new_real(us));
    proa_json_set(row, "bytes", proa_json_new_real(c->bytes));
    proa_json_set(row, "flops", proa_json_new_real(c->flops));
    proa_json_set(row, "bound", proa_json_new_string(bound, strlen(bound)));
    proa_json_set(row, "bound_us", proa_json_new_real(bound_us));
    proa_json_append(b->results, row);
}

static void print_row(bench *b, const char *op, const proa_bench_case *c, double us)
{
    double peak = c->bf16 ? b->bounds.bf16_gflops : b->bounds.f32_gflops;
    double memory_us = c->bytes / b->bounds.read_gbps / 1e3, multiply_us = c->flops / peak / 1e3;
    bool memory_bound = memory_us >= multiply_us;
    double bound_us = memory_bound ? memory_us : multiply_us;
    const char *bound = memory_bound ? "memory" : c->bf16 ? "bf16" : "f32";
    if (b->rows_printed++ == 0)
        printf("%-13s %-38s %5s %11s %9s %9s %11s %-6s %6s\n", "op", "shape", "rows", "time us", "GB/s",
               "GFLOP/s", "bound us", "by", "of it");
    printf("%-13s %-38s %5d %11.1f %9.1f %9.1f %11.1f %-6s %5.0f%%\n", op, c->shape, c->rows, us,
           c->bytes / us / 1e3, c->flops / us / 1e3, bound_us, bound, 100 * bound_us / us);
    fflush(stdout);
    if (b->results != NULL)
        add_result(b, op, c, us, bound_us, bound);
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

static proa_status write_json(const bench *b, const char *path, proa_error *err)
{
    proa_json *whole = proa_json_new_object(), *bounds = proa_json_new_object();
    const char *isa = proa_isa_name(b->host.isa);
    proa_json_set(bounds, "read_gbps", proa_json_new_real(b->bounds.read_gbps));
    proa_json_set(bounds, "copy_gbps", proa_json_new_real(b->bounds.copy_gbps));
    proa_json_set(bounds, "f32_gflops", proa_json_new_real(b->bounds.f32_gflops));
    proa_json_set(bounds, "bf16_gflops", proa_json_new_real(b->bounds.bf16_gflops));
    proa_json_set(whole, "isa", proa_json_new_string(isa, strlen(isa)));
    proa_json_set(whole, "threads", proa_json_new_int(proa_pool_threads(b->host.pool)));
    proa_json_set(whole, "bounds", bounds);
    proa_json_set(whole, "rows", proa_json_ref(b->results));
    proa_buf text = {0};
    proa_json_write(whole, 1, &text);
    proa_json_free(whole);
    proa_status status = PROA_OK;
    FILE *file = fopen(path, "w");
    bool written = file != NULL && fprintf(file, "%s\n", proa_buf_text(&text)) > 0 && !text.failed;
    if (file != NULL && fclose(file) != 0)
        written = false;
    if (!written)
        status = proa_error_set(err, PROA_ERR_IO, "cannot write --json %s: %s", path, strerror(errno));
    proa_buf_free(&text);
    return status;
}

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

static proa_status choose_isa(const proa_options *options, proa_isa *isa, proa_error *err)
{
    const char *name = proa_options_string(options, "isa");
    *isa = proa_cpu_isa();
    if (name == NULL)
        return PROA_OK;
    while (*isa > PROA_ISA_PORTABLE && strcmp(proa_isa_name(*isa), name) != 0)
        (*isa)--;
    if (strcmp(proa_isa_name(*isa), name) != 0)
        return proa_error_set(err, PROA_ERR_UNSUPPORTED, "--isa %s: this processor's best is %s", name,
                              proa_isa_name(proa_cpu_isa()));
    return PROA_OK;
}

static proa_status bench_run(bench *b, const proa_options *options, proa_error *err)
{
    const char *json = proa_options_string(options, "json");
    int threads = (int)proa_options_int(options, "threads");
    proa_status status = choose_isa(options, &b->host.isa, err);
    if (proa_failed(status))
        return status;
    b->host.pool = proa_pool_create(threads > 0 ? threads : proa_cpu_core_count());
    if (b->host.pool == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "cannot start %d threads: try a smaller --threads",
                              threads);
    status = memory_init(&b->memory, err);
    if (proa_failed(status))
        return status;
    if (json != NULL)
        b->results = proa_json_new_array();
    proa_bench_bounds_measure(b->host.pool, b->host.isa, &b->memory, &b->bounds);
    printf("%s, %d threads: reads %.1f GB/s, copies %.1f GB/s, %.1f GFLOP/s f32, %.1f GFLOP/s bf16\n",
           proa_isa_name(b->host.isa), proa_pool_threads(b->host.pool), b->bounds.read_gbps,
           b->bounds.copy_gbps, b->bounds.f32_gflops, b->bounds.bf16_gflops);
    status = run_ops(b, err);
    if (!proa_failed(status) && json != NULL)
        status = write_json(b, json, err);
    return status;
}

int proa_cmd_bench(const proa_options *options)
{
    proa_error err = {0};
    const char *what = proa_options_argument(options, 0);
    if (what != NULL && strcmp(what, "tokenizer") == 0)
        return proa_cmd_bench_tokenizer(options);
    if (what == NULL || strcmp(what, "op") != 0) {
        proa_error_set(&err, PROA_ERR_INVALID, "bench %s: say what to measure: op or tokenizer",
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
