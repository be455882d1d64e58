/* bench_linear.c - FP8 products of a GPU at DeepSeek-R1's shapes: time, TFLOP/s and GB/s of each, by the tile that the launcher chooses.
 *
 * A graph of calls over copies of the weight, more than the second-level cache holds; the median of several runs. Bytes are those of x, W and
 * y once. The shapes and rows are those that DeepGEMM and cuBLASLt are usually measured at. */
#include "gpu_test.h"
#include "op/cuda/fill.h"
#include "op/linear/cuda.h"

enum { RUNS = 9, COPIES_MAX = 64, GROUPS = 9, ALIGN = 128 };
static const int64_t all_weights = INT64_C(400) << 20, longest_graph_flop = INT64_C(40000000000000);

typedef struct shape {
    int32_t groups, rows, n, k; /* rows of a group, as a mean */
} shape;

typedef struct bench {
    proa_gpu *gpu;
    proa_gpu_mark *marks[2];
    void *x, *w[COPIES_MAX], *y;
    float *x_scale, *w_scale;
    int32_t *first, *count;
    int32_t copies, rows_all;
    proa_cuda_fp8_linear_args args;
} bench;

static int64_t align_up(int64_t value)
{
    return (value + ALIGN - 1) / ALIGN * ALIGN;
}

static void *random_e4m3(bench *b, int64_t count, uint64_t key)
{
    proa_error err = {0};
    void *to = gpu_room(b->gpu, (size_t)count);
    gpu_good(proa_cuda_fill_e4m3(b->gpu, to, (uint64_t)count, key, &err), &err);
    return to;
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
    b->x = random_e4m3(b, (int64_t)b->rows_all * s->k, 1);
    b->x_scale = random_scales(b, k_groups * b->rows_all, 2);
    b->w_scale = random_scales(b, (int64_t)s->groups * ((s->n + 127) / 128) * k_groups, 3);
    for (int32_t i = 0; i < b->copies; i++)
        b->w[i] = random_e4m3(b, w_bytes, 4 + (uint64_t)i);
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

static void run(bench *b, const shape *s)
{
    const double rows = (double)s->groups * s->rows, flop = 2.0 * rows * s->n * s->k;
    const double bytes = (double)s->groups * s->n * s->k + rows * s->k + 2.0 * rows * s->n;
    proa_cuda_tile tile = {0};
    prepare(b, s);
    (void)proa_cuda_fp8_linear_tile(b->gpu, &b->args, &tile);
    const double fitting = (double)longest_graph_flop / flop;
    const double us = measure(b, fitting < 2               ? 2
                                 : fitting > 2 * b->copies ? 2 * b->copies
                                                           : (int32_t)fitting);
    printf("%6d x %5d  %6d  %6d  %3d x %-3d  %9.1f  %8.0f  %6.0f\n", s->groups, s->rows, s->n, s->k,
           tile.rows, tile.columns, us, flop / us * 1e-6, bytes / us * 1e-3);
    forget(b);
}

static void bench_all(void **state)
{
    static const int32_t weights[][2] = {{2112, 7168}, {24576, 1536}, {7168, 16384}, {4096, 7168},
                                         {7168, 2048}, {36864, 7168}, {7168, 18432}};
    static const int32_t rows[] = {64, 128, 256, 4096, 16384};
    static const shape grouped[] = {{GROUPS, 114, 4096, 7168},
                                    {GROUPS, 114, 7168, 2048},
                                    {GROUPS, 1824, 4096, 7168},
                                    {GROUPS, 1824, 7168, 2048}};
    bench b = {.gpu = gpu_of(state)};
    proa_error err = {0};
    for (int i = 0; i < 2; i++)
        gpu_good(proa_gpu_mark_create(b.gpu, &b.marks[i], &err), &err);
    printf("%s\ngroups x rows       n       k  tile             us  TFLOP/s    GB/s\n",
           proa_gpu_facts_of(b.gpu)->name);
    for (size_t i = 0; i < sizeof weights / sizeof *weights; i++)
        for (size_t j = 0; j < sizeof rows / sizeof *rows; j++)
            run(&b, &(shape){1, rows[j], weights[i][0], weights[i][1]});
    for (size_t i = 0; i < sizeof grouped / sizeof *grouped; i++)
        run(&b, &grouped[i]);
    for (int i = 0; i < 2; i++)
        proa_gpu_mark_free(b.marks[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(bench_all)};
    return cmocka_run_group_tests(tests, gpu_open_state, gpu_close_state);
}
