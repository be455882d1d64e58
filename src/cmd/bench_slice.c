/* bench_slice.c - `proa bench slice`: one rank's share of a model on one GPU, op by op, beside what the GPU allows.
 *
 * The EP32 slice: all layers at real shapes, EXPERTS of the physical experts, and as many tokens for each of them as a rank of 32 gets. What
 * a rank would send away and get back is packed and unpacked here: no all-to-all is in these figures. Weights are random; expert
 * e of the model stands for expert e mod EXPERTS. gpu_step.h makes the steps and times them.
 *
 * A step is one graph, on two streams; with one it is measured too. An op's time is that of a graph of that op alone in all layers, on one
 * stream, and ops of other kinds between them cost what they cost: the sum of the ops is printed beside the step.
 */
#include "cmd/bench_slice.h"

#include "base/json.h"
#include "cmd/bench.h"
#include "cmd/bench_roofline.h"
#include "cmd/cmd.h"
#include "cmd/gpu_tiles.h"
#include "cmd/load.h"
#include "model/cuda/trace.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    EXPERTS = 9,
    RUNS = 15,
    SAMPLE_RUNS = 5,
};

static const proa_gpu_step_shape shapes[] = {
    {true, 1, 4096, 0},   {true, 32, 4096, 0},  {true, 64, 4096, 0},  {true, 128, 1024, 0},
    {true, 128, 2048, 0}, {true, 128, 4096, 0}, {true, 128, 8192, 0}, {true, 256, 2048, 0},
    {true, 256, 4096, 0}, {false, 1, 1024, 0},  {false, 4, 4096, 0},
};

enum { SHAPES = sizeof shapes / sizeof *shapes };

typedef struct bench {
    proa_gpu *gpu;
    proa_model_config config;
    proa_cuda_weights *weights;
    proa_gpu_step step;
    proa_cuda_tiles tiles; /* of --kernel-cache-dir */
    proa_bench_peaks peak;
    int32_t streams;
    proa_trace *trace; /* NULL without --trace */
    int32_t trace_steps;
    const char *op;     /* these alone; NULL: all, and the whole step */
    proa_json *results; /* NULL without --json and --svg */
    proa_json *table;   /* NULL without --table or --json */
} bench;

static void describe(const proa_gpu_step_shape *s, char text[64])
{
    snprintf(text, 64, s->decode ? "decode %d at %d" : "prefill %d x %d", s->sequences, s->context);
}

/* ---- the table ---- */

typedef struct bound {
    double us;
    const char *name;
} bound;

static bound bound_of(const proa_bench_peaks *p, const bench_slice_cost *c)
{
    bound least;
    least.us = proa_roofline_bound(p, c->bytes, c->fp8_flops, c->bf16_flops, &least.name);
    return least;
}

static void add_result(bench *b, const char *shape, const char *op, double us, const bench_slice_cost *c,
                       bound best)
{
    const struct {
        const char *name;
        double value;
    } figures[] = {{"time_us", us},
                   {"bytes", c->bytes},
                   {"fp8_flops", c->fp8_flops},
                   {"bf16_flops", c->bf16_flops},
                   {"bound_us", best.us}};
    if (b->results == NULL)
        return;
    proa_json *row = proa_json_new_object();
    proa_json_set(row, "shape", proa_json_new_text(shape));
    proa_json_set(row, "op", proa_json_new_text(op));
    for (size_t i = 0; i < sizeof figures / sizeof *figures; i++)
        proa_json_set(row, figures[i].name, proa_json_new_real(figures[i].value));
    proa_json_set(row, "bound", proa_json_new_text(best.name));
    proa_json_append(b->results, row);
}

static void print_op(const char *name, double us, double step_us, const bench_slice_cost *c, bound best)
{
    printf("  %-17s %10.1f %6.1f %% %9.0f %8.0f %10.1f  %-5s %5.0f %%\n", name, us, 100 * us / step_us,
           (c->fp8_flops + c->bf16_flops) / us / 1e6, c->bytes / us / 1e3, best.us, best.name,
           100 * best.us / us);
}

/* Rows and counts are those of a step that has run before. Rows are spread by what the router has just counted, so these two run together, and
 * the router's time is taken off. */
static proa_status measure_op(bench *b, proa_cuda_op op, double *us, proa_error *err)
{
    const uint32_t router = 1u << PROA_CUDA_ROUTER;
    uint32_t ops = 1u << op;
    double router_us = 0;
    proa_status status = proa_gpu_step_run(&b->step, err);
    if (status == PROA_OK && op == PROA_CUDA_SPREAD) {
        ops |= router;
        status = proa_gpu_step_time(&b->step, router, 1, SAMPLE_RUNS, &router_us, err);
    }
    if (status == PROA_OK)
        status = proa_gpu_step_time(&b->step, ops, 1, SAMPLE_RUNS, us, err);
    *us -= router_us;
    return status;
}

static proa_status run_ops(bench *b, const proa_gpu_step_shape *s, const char *name, double step_us,
                           proa_error *err)
{
    double sum_us = 0, bound_us = 0;
    printf("  %-17s %10s %8s %9s %8s %10s  %-5s %7s\n", "op, all layers", "us", "share", "TFLOP/s", "GB/s",
           "bound us", "by", "reached");
    for (int op = 0; op < PROA_CUDA_OPS; op++) {
        const bench_slice_cost cost =
            proa_bench_slice_cost(&b->config, EXPERTS, b->step.kv_cache, s, (proa_cuda_op)op);
        const bound best = bound_of(&b->peak, &cost);
        double us = 0;
        if (cost.bytes <= 0 || (b->op != NULL && strstr(proa_cuda_op_name((proa_cuda_op)op), b->op) == NULL))
            continue;
        const proa_status status = measure_op(b, (proa_cuda_op)op, &us, err);
        if (status != PROA_OK)
            return status;
        sum_us += us;
        bound_us += best.us;
        print_op(proa_cuda_op_name((proa_cuda_op)op), us, step_us, &cost, best);
        add_result(b, name, proa_cuda_op_name((proa_cuda_op)op), us, &cost, best);
    }
    printf("  %-17s %10.1f %6.1f %% %9s %8s %10.1f\n\n", "sum", sum_us, 100 * sum_us / step_us, "", "",
           bound_us);
    return PROA_OK;
}

/* The whole step, and for comparison on one stream. */
static proa_status run_step(bench *b, const proa_gpu_step_shape *s, const char *name, double *us,
                            proa_error *err)
{
    const double tokens = s->decode ? s->sequences : s->sequences * (double)s->context;
    const int runs = s->decode ? RUNS : SAMPLE_RUNS;
    const bench_slice_cost none = {0};
    double one_us = 0;
    uint64_t buffers, cache;
    proa_status status = proa_gpu_step_time(&b->step, UINT32_MAX, b->streams, runs, us, err);
    if (status == PROA_OK && b->streams > 1)
        status = proa_gpu_step_time(&b->step, UINT32_MAX, 1, runs, &one_us, err);
    if (status != PROA_OK)
        return status;
    proa_cuda_forward_bytes(b->step.forward, &buffers, &cache);
    printf("%s: %.2f ms a step, %.0f tokens/s a GPU without all-to-all (buffers %.1f GB)", name, *us / 1e3,
           tokens / *us * 1e6, (double)buffers / 1e9);
    add_result(b, name, "step", *us, &none, (bound){0, ""});
    if (b->streams > 1) {
        printf("; on one stream %.2f ms", one_us / 1e3);
        add_result(b, name, "step on one stream", one_us, &none, (bound){0, ""});
    }
    printf("\n");
    return PROA_OK;
}

static proa_status trace_step(bench *b, const proa_gpu_step_shape *s, proa_cuda_trace *trace, proa_error *err)
{
    proa_gpu_graph *graph = NULL;
    proa_trace_begin(b->trace, "prepare");
    proa_status status = proa_cuda_trace_begin(trace, err);
    if (status == PROA_OK)
        status = proa_gpu_step_prepare(&b->step, s, err);
    proa_trace_end(b->trace);
    if (status == PROA_OK)
        status = proa_cuda_trace_graph(trace, s->sequences, &graph, err);
    proa_trace_begin(b->trace, "launch");
    if (status == PROA_OK)
        status = proa_gpu_graph_run(b->gpu, graph, err);
    proa_trace_end(b->trace);
    proa_trace_begin(b->trace, "wait for the GPU");
    if (status == PROA_OK)
        status = proa_gpu_sync(b->gpu, err);
    proa_trace_end(b->trace);
    proa_cuda_trace_end(trace);
    return status;
}

/* Whole steps, after one that nobody sees. */
static proa_status trace_steps(bench *b, const proa_gpu_step_shape *s, const char *name, proa_error *err)
{
    proa_cuda_trace *trace = NULL;
    char args[96];
    if (b->trace == NULL)
        return PROA_OK;
    snprintf(args, sizeof args, "\"shape\":\"%s\"", name);
    proa_cuda_forward_only(b->step.forward, UINT32_MAX);
    proa_cuda_forward_set_streams(b->step.forward, b->streams);
    proa_status status = proa_cuda_trace_create(b->gpu, b->step.forward, b->trace, &trace, err);
    for (int32_t i = -1; i < b->trace_steps && status == PROA_OK; i++) {
        proa_trace_step_begin(b->trace);
        status = trace_step(b, s, trace, err);
        if (status == PROA_OK && i >= 0)
            proa_trace_step_end(b->trace, args);
        else
            proa_trace_step_drop(b->trace);
    }
    proa_cuda_trace_free(trace);
    return status;
}

static proa_status start_trace(bench *b, const proa_options *o, proa_error *err)
{
    const char *path = proa_options_string(o, "trace");
    if (path == NULL)
        return PROA_OK;
    b->trace_steps = (int32_t)proa_options_int(o, "trace-steps");
    proa_status status = proa_trace_create("proa bench slice", &b->trace, err);
    return status == PROA_OK ? proa_trace_start(b->trace, path, 0, INT64_MAX, err) : status;
}

static proa_status run_shape(bench *b, const proa_gpu_step_shape *s, proa_error *err)
{
    char name[64];
    double us;
    describe(s, name);
    proa_status status = proa_gpu_step_open(&b->step, s, err);
    if (status == PROA_OK && b->op != NULL) {
        printf("%s\n", name);
        status = run_ops(b, s, name, 1, err);
    } else if (status == PROA_OK) {
        status = run_step(b, s, name, &us, err);
        if (status == PROA_OK)
            status = trace_steps(b, s, name, err);
        if (status == PROA_OK)
            status = run_ops(b, s, name, us, err);
    }
    return status;
}

/* ---- decode steps over sequences and context ---- */

/* One that the GPU has no room for is told in the table. */
static proa_status run_pair(bench *b, bench_slice_pair *p, const char *name, proa_error *err)
{
    proa_gpu_step_plan(&b->step, &p->shape, &p->buffers, &p->cache);
    proa_status status = proa_gpu_step_open(&b->step, &p->shape, err);
    if (status == PROA_ERR_DEVICE_MEMORY) {
        printf("%s: %s\n", name, err->text);
        *err = (proa_error){0};
        p->state = BENCH_SLICE_NO_ROOM;
        return PROA_OK;
    }
    if (status == PROA_OK)
        status = run_step(b, &p->shape, name, &p->us, err);
    p->state = BENCH_SLICE_MEASURED;
    return status;
}

static proa_status run_table(bench *b, const char *wanted, proa_error *err)
{
    bench_slice_pair pairs[BENCH_SLICE_PAIRS];
    const bench_slice_room room = {proa_gpu_facts_of(b->gpu)->memory_bytes, b->weights->bytes};
    proa_status status = PROA_OK;
    proa_bench_slice_pairs(pairs);
    for (int i = 0; i < BENCH_SLICE_PAIRS && status == PROA_OK; i++) {
        char name[64];
        describe(&pairs[i].shape, name);
        if (wanted == NULL || strstr(name, wanted) != NULL)
            status = run_pair(b, &pairs[i], name, err);
        fflush(stdout);
    }
    if (status != PROA_OK)
        return status;
    printf("\n");
    proa_bench_slice_table_print(stdout, &room, pairs);
    if (b->results != NULL)
        b->table = proa_bench_slice_table_json(&room, pairs);
    return PROA_OK;
}

static proa_status run_shapes(bench *b, const char *wanted, proa_error *err)
{
    proa_status status = PROA_OK;
    for (int i = 0; i < SHAPES && status == PROA_OK; i++) {
        char name[64];
        describe(&shapes[i], name);
        if (wanted == NULL || strstr(name, wanted) != NULL)
            status = run_shape(b, &shapes[i], err);
        fflush(stdout);
    }
    return status;
}

/* ---- the whole ---- */

static proa_status check_flags(const proa_options *o, proa_error *err)
{
    static const char *const others[] = {"svg", "op", "trace"};
    for (size_t i = 0; i < sizeof others / sizeof *others && proa_options_bool(o, "table"); i++)
        if (proa_options_string(o, others[i]) != NULL)
            return proa_error_set(err, PROA_ERR_INVALID,
                                  "--table measures whole steps alone: run --%s without it", others[i]);
    return PROA_OK;
}

static proa_status read_model(bench *b, const proa_options *o, proa_error *err)
{
    char dir[4096], problem_dir[sizeof dir];
    const char *given = proa_options_string(o, "model-path");
    if (given == NULL && !proa_bundled_dir("bench/deepseek-r1", dir, sizeof dir))
        return proa_error_set(
            err, PROA_ERR_NOT_FOUND,
            "no model: give --model-path DIR (bench/deepseek-r1 is not beside this program)");
    snprintf(problem_dir, sizeof problem_dir, "%s", given != NULL ? given : dir);
    const proa_status status = proa_model_config_load(problem_dir, &b->config, err);
    return status == PROA_OK
               ? proa_forward_check_kv(&b->config, PROA_PRECISION_DEFAULT, proa_asked_kv_cache(o), err)
               : status;
}

static proa_status write_results(bench *b, const proa_options *o, proa_error *err)
{
    const char *json = proa_options_string(o, "json"), *svg = proa_options_string(o, "svg");
    const proa_gpu_facts *facts = proa_gpu_facts_of(b->gpu);
    if (b->results == NULL)
        return PROA_OK;
    proa_json *whole = proa_json_new_object(), *peaks = proa_json_new_object();
    proa_json_set(peaks, "hbm_gbps", proa_json_new_real(b->peak.bytes_ns));
    proa_json_set(peaks, "fp8_tflops", proa_json_new_real(b->peak.fp8_flops_ns / 1e3));
    proa_json_set(peaks, "bf16_tflops", proa_json_new_real(b->peak.bf16_flops_ns / 1e3));
    proa_json_set(whole, "gpu", proa_json_new_text(facts->name));
    proa_json_set(whole, "peaks", peaks);
    proa_json_set(whole, "kv_cache_dtype",
                  proa_json_new_text(
                      proa_kv_cache_name(proa_kv_cache_dtype(b->step.kv_cache, PROA_PRECISION_DEFAULT))));
    proa_json_set(whole, "rows", proa_json_ref(b->results));
    if (b->table != NULL)
        proa_json_set(whole, "table", proa_json_ref(b->table));
    proa_status status = json != NULL ? proa_bench_write_file(whole, json, err) : PROA_OK;
    if (status == PROA_OK && svg != NULL) {
        status = proa_roofline_write(whole, proa_options_string(o, "shape"), svg, err);
        if (status != PROA_OK)
            proa_error_prefix(err, "--svg %s", svg);
    }
    proa_json_free(whole);
    return status;
}

static proa_status bench_run(bench *b, const proa_options *o, proa_error *err)
{
    const char *wanted = proa_options_string(o, "shape");
    const bool keep = proa_options_string(o, "json") != NULL || proa_options_string(o, "svg") != NULL;
    proa_status status = check_flags(o, err);
    if (status == PROA_OK)
        status = read_model(b, o, err);
    if (status == PROA_OK)
        status = start_trace(b, o, err);
    if (status == PROA_OK)
        status = proa_gpu_open(0, &b->gpu, err);
    if (status != PROA_OK)
        return status;
    const proa_gpu_facts *facts = proa_gpu_facts_of(b->gpu);
    b->peak = proa_bench_peaks_of(facts->name);
    b->op = proa_options_string(o, "op");
    b->streams = proa_options_bool(o, "single-stream") ? 1 : 2;
    b->results = keep ? proa_json_new_array() : NULL;
    status = proa_cuda_weights_make(b->gpu, &b->config, EXPERTS, &b->weights, err);
    if (status == PROA_OK)
        status = proa_gpu_step_init(&b->step, b->gpu, b->weights, err);
    if (status != PROA_OK)
        return status;
    proa_gpu_tiles_read(b->gpu, proa_options_string(o, "kernel-cache-dir"), &b->tiles);
    b->step.tiles = &b->tiles;
    b->step.kv_cache = proa_asked_kv_cache(o);
    printf("EP32 slice: %d layers, %d experts here, %.1f GB of random weights, on %s (%.0f GB/s, %.0f "
           "TFLOP/s FP8, %.0f BF16)\n"
           "no all-to-all: rows are packed and unpacked here%s\n\n",
           b->config.num_hidden_layers, EXPERTS, (double)b->weights->bytes / 1e9, facts->name,
           b->peak.bytes_ns, b->peak.fp8_flops_ns / 1e3, b->peak.bf16_flops_ns / 1e3,
           b->step.kv_cache == PROA_KV_CACHE_E4M3 ? "; KV cache of fp8_e4m3" : "");
    status = proa_options_bool(o, "table") ? run_table(b, wanted, err) : run_shapes(b, wanted, err);
    return status == PROA_OK ? write_results(b, o, err) : status;
}

int proa_cmd_bench_slice(const proa_options *options)
{
    proa_error err = {0};
    bench b = {0};
    proa_status status = bench_run(&b, options, &err);
    if (b.gpu != NULL) {
        proa_gpu_step_free(&b.step);
        proa_cuda_weights_free(b.gpu, b.weights);
        proa_gpu_close(b.gpu);
    }
    proa_cuda_tiles_free(&b.tiles);
    proa_trace_free(b.trace);
    proa_json_free(b.results);
    proa_json_free(b.table);
    return status == PROA_OK ? PROA_EXIT_OK : proa_cmd_fail(&err);
}
