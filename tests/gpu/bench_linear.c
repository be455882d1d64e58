/* bench_linear.c - FP8 products of a GPU at DeepSeek-R1's shapes: time, TFLOP/s and GB/s of each, by the tile that the launcher chooses.
 *
 *   bench_linear          each shape
 *   bench_linear tiles    each shape by each tile
 *   bench_linear ROWS N K [TIMES]   one shape, over and over: for who watches clocks and power
 *
 * In a row: a graph of calls over copies of the weight, more than the second-level cache holds. Alone: one call after a write of 256 MB;
 * with what a launch and two events cost. Medians of several runs. TFLOP/s and GB/s are those of the shorter one; bytes are those
 * of x, W and y once. The shapes and rows are those that DeepGEMM and cuBLASLt are usually measured at. */
#include "base/clock.h"
#include "gpu_test.h"
#include "op/cuda/fill.h"
#include "op/linear/cuda.h"

#include <time.h>

enum {
    RUNS = 9,
    ALONE_RUNS = 256,
    REST_US = 300000,
    COPIES_MAX = 64,
    GROUPS = 9,
    ALIGN = 128,
    TABLE = 4 << 20
};
static const size_t flush_bytes = (size_t)256 << 20;
static const int64_t all_weights = INT64_C(400) << 20, longest_graph_flop = INT64_C(40000000000000);

typedef struct shape {
    int32_t groups, rows, n, k; /* rows of a group, as a mean */
} shape;

typedef struct bench {
    proa_gpu *gpu;
    proa_gpu_mark *marks[2 * ALONE_RUNS];
    void *x, *w[COPIES_MAX], *y, *flush;
    uint8_t *table;
    bool every_tile;
    float *x_scale, *w_scale;
    int32_t *first, *count;
    int32_t copies, rows_all;
    proa_cuda_fp8_linear_args args;
} bench;

static int64_t align_up(int64_t value)
{
    return (value + ALIGN - 1) / ALIGN * ALIGN;
}

/* Normal values as e4m3 with a scale a 128 of them, the largest 448, as activations and weights come: what products do with power hangs on
 * the bits. A table of 4 MB over and over, each time from another place on. */
static void *normal_e4m3(bench *b, int64_t count, uint64_t key)
{
    proa_error err = {0};
    const int64_t shift = (int64_t)(key % 97) * 128 * 331 % TABLE;
    void *to = gpu_room(b->gpu, (size_t)count);
    for (int64_t at = 0; at < count; at += TABLE - shift) {
        const int64_t left = count - at, part = left < TABLE - shift ? left : TABLE - shift;
        gpu_good(proa_gpu_upload(b->gpu, (char *)to + at, b->table + shift, (size_t)part, &err), &err);
    }
    return to;
}

static uint8_t *normal_table(void)
{
    uint8_t *table = malloc(TABLE);
    assert_non_null(table);
    for (int64_t i = 0; i < TABLE; i += 128) {
        float x[128], most = 0;
        for (int64_t j = 0; j < 128; j++) { /* Box and Muller, 1958 */
            const float radius = sqrtf(-2 * logf(0.5f + 0.499999f * test_uniform(1, 2 * (i + j)))),
                        turn = (float)M_PI * test_uniform(1, 2 * (i + j) + 1);
            x[j] = radius * cosf(turn);
            most = fabsf(x[j]) > most ? fabsf(x[j]) : most;
        }
        for (int64_t j = 0; j < 128; j++)
            table[i + j] = proa_f32_to_e4m3(x[j] * 448 / most);
    }
    return table;
}

static float *random_scales(bench *b, int64_t count, uint64_t key)
{
    proa_error err = {0};
    float *to = gpu_room(b->gpu, (size_t)count * sizeof *to);
    gpu_good(proa_cuda_fill_float(b->gpu, to, (uint64_t)count, key, 1e-3f, 5e-4f, &err), &err);
    return to;
}

/* Groups of about s->rows rows each: some have fewer, some more, as experts do. */
static void make_groups(bench *b, const shape *s)
{
    int32_t first[GROUPS], count[GROUPS], at = 0;
    for (int32_t g = 0; g < s->groups; g++) {
        const int32_t off = s->rows * (g - s->groups / 2) / (2 * s->groups);
        first[g] = at;
        count[g] = s->rows + off;
        at += (int32_t)align_up(count[g]);
    }
    b->rows_all = at;
    b->first = gpu_copy(b->gpu, first, sizeof *first * (size_t)s->groups);
    b->count = gpu_copy(b->gpu, count, sizeof *count * (size_t)s->groups);
}

static void prepare(bench *b, const shape *s)
{
    const int64_t w_bytes = (int64_t)s->groups * s->n * s->k, copies = (all_weights + w_bytes - 1) / w_bytes;
    const int64_t k_groups = (s->k + 127) / 128;
    b->first = b->count = NULL;
    b->rows_all = (int32_t)align_up(s->rows);
    if (s->groups > 1)
        make_groups(b, s);
    b->copies = copies < 2 ? 2 : copies > COPIES_MAX ? COPIES_MAX : (int32_t)copies;
    b->x = normal_e4m3(b, (int64_t)b->rows_all * s->k, 1);
    b->x_scale = random_scales(b, k_groups * b->rows_all, 2);
    b->w_scale = random_scales(b, (int64_t)s->groups * ((s->n + 127) / 128) * k_groups, 3);
    for (int32_t i = 0; i < b->copies; i++)
        b->w[i] = normal_e4m3(b, w_bytes, 4 + (uint64_t)i);
    b->y = gpu_room(b->gpu, (size_t)b->rows_all * (size_t)s->n * 2);
    b->args = (proa_cuda_fp8_linear_args){.rows = {.groups = s->groups,
                                                   .rows = s->rows,
                                                   .first = b->first,
                                                   .count = b->count,
                                                   .expected = s->rows},
                                          .rows_max = b->rows_all,
                                          .n = s->n,
                                          .k = s->k,
                                          .x = {.q = b->x, .scale = b->x_scale, .stride = b->rows_all},
                                          .w = b->w[0],
                                          .w_scale = b->w_scale,
                                          .y = b->y,
                                          .y_stride = s->n};
}

static void forget(bench *b)
{
    void *all[] = {b->x, b->x_scale, b->w_scale, b->y, b->first, b->count};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        proa_gpu_free(b->gpu, all[i]);
    for (int32_t i = 0; i < b->copies; i++)
        proa_gpu_free(b->gpu, b->w[i]);
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* us a call. */
static double measure(bench *b, int32_t calls)
{
    proa_error err = {0};
    proa_gpu_graph *graph = NULL;
    double us[RUNS];
    gpu_good(proa_gpu_graph_begin(b->gpu, &err), &err);
    for (int32_t i = 0; i < calls; i++) {
        b->args.w = b->w[i % b->copies];
        gpu_good(proa_cuda_fp8_linear(b->gpu, &b->args, &err), &err);
    }
    gpu_good(proa_gpu_graph_end(b->gpu, &graph, &err), &err);
    for (int32_t i = 0; i < RUNS; i++) {
        gpu_good(proa_gpu_mark_set(b->gpu, b->marks[0], &err), &err);
        gpu_good(proa_gpu_graph_run(b->gpu, graph, &err), &err);
        gpu_good(proa_gpu_mark_set(b->gpu, b->marks[1], &err), &err);
        gpu_good(proa_gpu_sync(b->gpu, &err), &err);
        us[i] = proa_gpu_mark_us(b->marks[0], b->marks[1]) / calls;
    }
    proa_gpu_graph_free(graph);
    qsort(us, RUNS, sizeof *us, by_value);
    return us[RUNS / 2];
}

/* One call after a write of flush_bytes. */
static void call_alone(bench *b, proa_gpu_mark *before, proa_gpu_mark *after)
{
    proa_error err = {0};
    gpu_good(proa_gpu_set(b->gpu, b->flush, 0, flush_bytes, &err), &err);
    gpu_good(proa_gpu_mark_set(b->gpu, before, &err), &err);
    gpu_good(proa_cuda_fp8_linear(b->gpu, &b->args, &err), &err);
    gpu_good(proa_gpu_mark_set(b->gpu, after, &err), &err);
}

/* us a call: a rest, 25 ms of calls, and the median of 100 ms of them, as Triton's do_bench has it, which the peers were measured by. Longer
 * runs meet the limit of power, and clocks fall. */
static double measure_alone(bench *b)
{
    proa_error err = {0};
    double us[ALONE_RUNS];
    nanosleep(&(struct timespec){.tv_nsec = REST_US * 1000}, NULL);
    const int64_t began = proa_clock_us();
    for (int32_t i = 0; i < 5; i++)
        call_alone(b, b->marks[0], b->marks[1]);
    gpu_good(proa_gpu_sync(b->gpu, &err), &err);
    const double call = (double)(proa_clock_us() - began) / 5;
    const int32_t warm = (int32_t)(25e3 / call), fitting = (int32_t)(100e3 / call) + 1;
    const int32_t runs = fitting < ALONE_RUNS ? fitting : ALONE_RUNS;
    for (int32_t i = 0; i < warm; i++)
        call_alone(b, b->marks[0], b->marks[1]);
    for (int32_t i = 0; i < runs; i++)
        call_alone(b, b->marks[2 * i], b->marks[2 * i + 1]);
    gpu_good(proa_gpu_sync(b->gpu, &err), &err);
    for (int32_t i = 0; i < runs; i++)
        us[i] = proa_gpu_mark_us(b->marks[2 * i], b->marks[2 * i + 1]);
    qsort(us, (size_t)runs, sizeof *us, by_value);
    return us[runs / 2];
}

static void run_tile(bench *b, const shape *s, const char *note)
{
    const double rows = (double)s->groups * s->rows, flop = 2.0 * rows * s->n * s->k;
    const double bytes = (double)s->groups * s->n * s->k + rows * s->k + 2.0 * rows * s->n;
    proa_cuda_tile tile = {0};
    (void)proa_cuda_fp8_linear_tile(b->gpu, &b->args, &tile);
    const double fitting = (double)longest_graph_flop / flop;
    const double alone = measure_alone(b);
    const double us = measure(b, fitting < 2               ? 2
                                 : fitting > 2 * b->copies ? 2 * b->copies
                                                           : (int32_t)fitting);
    const double best = us < alone ? us : alone;
    printf("%6d x %5d  %6d  %6d  %3d x %-3d  %9.1f  %9.1f  %8.0f  %6.0f%s\n", s->groups, s->rows, s->n, s->k,
           tile.rows, tile.columns, us, alone, flop / best * 1e-6, bytes / best * 1e-3, note);
    fflush(stdout);
}

static void run(bench *b, const shape *s)
{
    prepare(b, s);
    run_tile(b, s, "");
    for (int32_t i = 0; b->every_tile && proa_cuda_fp8_linear_tiles(i, &b->args.tile); i++)
        run_tile(b, s, "  tried");
    forget(b);
}

static int arguments; /* before the first run */
static char **argument;

/* The one that was asked for; false: none was. */
static bool run_asked(bench *b)
{
    if (arguments < 4)
        return false;
    const shape s = {1, atoi(argument[1]), atoi(argument[2]), atoi(argument[3])};
    for (int i = arguments > 4 ? atoi(argument[4]) : 1; i > 0; i--)
        run(b, &s);
    return true;
}

static void run_all(bench *b)
{
    static const int32_t weights[][2] = {{2112, 7168}, {24576, 1536}, {7168, 16384}, {4096, 7168},
                                         {7168, 2048}, {36864, 7168}, {7168, 18432}};
    static const int32_t rows[] = {64, 128, 256, 4096, 16384};
    static const shape grouped[] = {{GROUPS, 114, 4096, 7168},
                                    {GROUPS, 114, 7168, 2048},
                                    {GROUPS, 1824, 4096, 7168},
                                    {GROUPS, 1824, 7168, 2048}};
    for (size_t i = 0; i < sizeof weights / sizeof *weights; i++)
        for (size_t j = 0; j < sizeof rows / sizeof *rows; j++)
            run(b, &(shape){1, rows[j], weights[i][0], weights[i][1]});
    for (size_t i = 0; i < sizeof grouped / sizeof *grouped; i++)
        run(b, &grouped[i]);
}

static void bench_all(void **state)
{
    bench b = {.gpu = gpu_of(state), .every_tile = arguments == 2 && strcmp(argument[1], "tiles") == 0};
    proa_error err = {0};
    for (int i = 0; i < 2 * ALONE_RUNS; i++)
        gpu_good(proa_gpu_mark_create(b.gpu, &b.marks[i], &err), &err);
    b.table = normal_table();
    b.flush = gpu_room(b.gpu, flush_bytes);
    printf("%s\ngroups x rows       n       k  tile       us in row      alone   TFLOP/s    GB/s\n",
           proa_gpu_facts_of(b.gpu)->name);
    if (!run_asked(&b))
        run_all(&b);
    proa_gpu_free(b.gpu, b.flush);
    free(b.table);
    for (int i = 0; i < 2 * ALONE_RUNS; i++)
        proa_gpu_mark_free(b.marks[i]);
}

int main(int argc, char **argv)
{
    arguments = argc;
    argument = argv;
    const struct CMUnitTest tests[] = {cmocka_unit_test(bench_all)};
    return cmocka_run_group_tests(tests, gpu_open_state, gpu_close_state);
}
