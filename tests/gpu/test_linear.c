/* test_linear.c - products on a GPU against linear/ref.c, and law 2: a row's bits are its own, whatever runs beside it.
 *
 *   test_linear          every case
 *   test_linear small    without the large ones, for compute-sanitizer's racecheck */
#include "gpu_test.h"
#include "base/minmax.h"
#include "op/linear/cuda.h"
#include "op/linear/linear.h"

enum { STRIDE_STEP = 128, SAMPLE_ROWS = 3, SAMPLE_COLUMNS = 128 };

static const float row_spread = 0.7f;

static int32_t round_up(int32_t value, int32_t to)
{
    return (value + to - 1) / to * to;
}

/* ---- FP8 ---- */

typedef struct shape {
    int32_t rows; /* of a group */
    int32_t n;
    int32_t k;
    int32_t groups;
} shape;

typedef struct fp8_case {
    shape s;
    int32_t rows_max;
    int64_t stride;
    uint8_t *x, *w; /* host */
    float *x_scale; /* [k / 128][stride] */
    float *w_scale; /* [groups][n / 128][k / 128] */
    int32_t *first, *count;
    void *gx, *gw, *gxs, *gws, *gy, *gfirst, *gcount;
} fp8_case;

static uint8_t *random_e4m3(uint64_t seed, int64_t count)
{
    enum { TABLE = 65537 }; /* a prime, so that rows differ */
    uint8_t *x = malloc((size_t)count), table[TABLE];
    assert_non_null(x);
    for (int64_t i = 0; i < TABLE; i++)
        table[i] = proa_f32_to_e4m3(200 * (test_uniform(seed, 2 * i) + test_uniform(seed, 2 * i + 1)));
    for (int64_t i = 0; i < count; i++)
        x[i] = table[i % TABLE];
    return x;
}

static float *random_scales(uint64_t seed, int64_t count)
{
    float *x = malloc((size_t)count * sizeof *x);
    assert_non_null(x);
    for (int64_t i = 0; i < count; i++)
        x[i] = 1e-3f * (1.5f + test_uniform(seed, i));
    return x;
}

/* Group g has `rows` - 7 g rows, at least none, so that groups differ and some are empty. */
static fp8_case make_fp8(proa_gpu *gpu, shape s)
{
    fp8_case c = {.s = s};
    int32_t room = round_up(s.rows, PROA_CUDA_GROUP_ALIGN);
    c.rows_max = s.groups * room;
    c.stride = round_up(c.rows_max, STRIDE_STEP);
    int64_t k_groups = (s.k + 127) / 128, n_groups = (s.n + 127) / 128;
    c.x = random_e4m3(1, (int64_t)c.rows_max * s.k);
    c.w = random_e4m3(2, (int64_t)s.groups * s.n * s.k);
    c.x_scale = random_scales(3, k_groups * c.stride);
    c.w_scale = random_scales(4, s.groups * n_groups * k_groups);
    c.first = calloc((size_t)s.groups, sizeof *c.first);
    c.count = calloc((size_t)s.groups, sizeof *c.count);
    assert_non_null(c.first);
    assert_non_null(c.count);
    for (int32_t g = 0; g < s.groups; g++) {
        c.first[g] = g * room;
        c.count[g] = s.rows - 7 * g > 0 ? s.rows - 7 * g : 0;
    }
    c.gx = gpu_copy(gpu, c.x, (size_t)c.rows_max * (size_t)s.k);
    c.gw = gpu_copy(gpu, c.w, (size_t)s.groups * (size_t)s.n * (size_t)s.k);
    c.gxs = gpu_copy(gpu, c.x_scale, (size_t)(k_groups * c.stride) * sizeof(float));
    c.gws = gpu_copy(gpu, c.w_scale, (size_t)(s.groups * n_groups * k_groups) * sizeof(float));
    c.gy = gpu_room(gpu, (size_t)c.rows_max * (size_t)s.n * 2);
    c.gfirst = gpu_copy(gpu, c.first, (size_t)s.groups * sizeof *c.first);
    c.gcount = gpu_copy(gpu, c.count, (size_t)s.groups * sizeof *c.count);
    return c;
}

static void free_fp8(proa_gpu *gpu, fp8_case *c)
{
    void *const there[] = {c->gx, c->gw, c->gxs, c->gws, c->gy, c->gfirst, c->gcount};
    void *const here[] = {c->x, c->w, c->x_scale, c->w_scale, c->first, c->count};
    for (size_t i = 0; i < sizeof there / sizeof *there; i++)
        proa_gpu_free(gpu, there[i]);
    for (size_t i = 0; i < sizeof here / sizeof *here; i++)
        free(here[i]);
}

static proa_cuda_fp8_linear_args fp8_args(const fp8_case *c)
{
    return (proa_cuda_fp8_linear_args){
        .rows = {.groups = c->s.groups,
                 .rows = c->s.rows,
                 .first = c->s.groups > 1 ? c->gfirst : NULL,
                 .count = c->gcount},
        .rows_max = c->rows_max,
        .n = c->s.n,
        .k = c->s.k,
        .x = {.q = c->gx, .scale = c->gxs, .stride = c->stride},
        .w = c->gw,
        .w_scale = c->gws,
        .y = c->gy,
        .y_stride = c->s.n,
    };
}

/* y [rows_max, n]; rows between groups are NaN as they were. */
static float *run_fp8(proa_gpu *gpu, const fp8_case *c, const proa_cuda_fp8_linear_args *args)
{
    proa_error err = {0};
    gpu_good(proa_gpu_set(gpu, c->gy, 0xff, (size_t)c->rows_max * (size_t)c->s.n * 2, &err), &err);
    gpu_good(proa_cuda_fp8_linear(gpu, args, &err), &err);
    return gpu_read_bf16(gpu, c->gy, (int64_t)c->rows_max * c->s.n);
}

/* 128 columns from `column` on of `rows` rows from `row` on, by the reference. */
static void reference_fp8(const fp8_case *c, int32_t group, int32_t row, int32_t rows, int32_t column,
                          int32_t columns, float *y)
{
    int32_t k_groups = (c->s.k + 127) / 128, n_groups = (c->s.n + 127) / 128;
    float *scale = malloc(sizeof *scale * (size_t)(rows * k_groups));
    assert_non_null(scale);
    for (int32_t r = 0; r < rows; r++)
        for (int32_t g = 0; g < k_groups; g++)
            scale[r * k_groups + g] = c->x_scale[g * c->stride + row + r];
    const proa_weight w = {
        .dtype = PROA_DTYPE_E4M3,
        .n = columns,
        .k = c->s.k,
        .data = c->w + ((int64_t)group * c->s.n + column) * c->s.k,
        .scale = c->w_scale + ((int64_t)group * n_groups + column / 128) * k_groups,
        .block_n = 128,
        .block_k = 128,
    };
    const proa_host host = {.precision = PROA_PRECISION_DEFAULT};
    proa_linear_ref(&host,
                    &(proa_linear_args){
                        .x = {.rows = rows, .cols = c->s.k, .q = c->x + (int64_t)row * c->s.k, .s = scale},
                        .w = &w,
                        .y = y,
                        .y_stride = columns,
                        .round_output = true});
    free(scale);
}

/* The first rows, some in the middle and the last ones of each group, in the first columns, some in the middle and the last. */
static void compare_fp8(const fp8_case *c, const float *y)
{
    for (int32_t g = 0; g < c->s.groups; g++) {
        for (int32_t part = 0; part < 9; part++) {
            int32_t rows = proa_min_i32(SAMPLE_ROWS, c->count[g]), blocks = (c->s.n + 127) / 128;
            int32_t row = c->first[g] + (c->count[g] - rows) * (part % 3) / 2,
                    column = (blocks - 1) * (part / 3) / 2 * 128;
            int32_t columns = proa_min_i32(SAMPLE_COLUMNS, c->s.n - column);
            float want[SAMPLE_ROWS * SAMPLE_COLUMNS], got[SAMPLE_ROWS * SAMPLE_COLUMNS];
            if (rows == 0)
                continue;
            reference_fp8(c, g, row, rows, column, columns, want);
            for (int32_t r = 0; r < rows; r++)
                memcpy(got + r * columns, y + (int64_t)(row + r) * c->s.n + column,
                       (size_t)columns * sizeof *got);
            assert_near(got, want, rows * columns, 4e-3); /* bf16's rounding is 1.7e-3 */
        }
    }
}

static void assert_untouched(const fp8_case *c, const float *y)
{
    for (int32_t g = 0; g < c->s.groups; g++) {
        int32_t end = g + 1 < c->s.groups ? c->first[g + 1] : c->rows_max;
        for (int32_t r = c->first[g] + c->count[g]; r < end; r++)
            for (int32_t i = 0; i < c->s.n; i++)
                assert_true(isnan(y[(int64_t)r * c->s.n + i]));
    }
}

static void compare_fp8_by_every_tile(proa_gpu *gpu, const shape *shapes, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const shape s = shapes[i];
        if (gpu_is_slow(gpu) && (double)s.rows * s.n * s.k * s.groups > 4e8)
            continue;
        fp8_case c = make_fp8(gpu, s);
        proa_cuda_fp8_linear_args args = fp8_args(&c);
        float *first = NULL;
        for (int32_t t = 0; proa_cuda_fp8_linear_tiles(t, &args.tile); t++) {
            float *y = run_fp8(gpu, &c, &args);
            size_t bytes = (size_t)c.rows_max * (size_t)c.s.n * sizeof *y;
            assert_untouched(&c, y);
            if (first == NULL) {
                compare_fp8(&c, y);
                first = y;
                continue;
            }
            if (memcmp(first, y, bytes) != 0)
                fail_msg("[%d x %d, %d] in %d groups: tiles of %d x %d give other bits", c.s.rows, c.s.n,
                         c.s.k, c.s.groups, args.tile.rows, args.tile.columns);
            free(y);
        }
        free(first);
        free_fp8(gpu, &c);
    }
}

static void test_fp8_equals_reference_by_every_tile(void **state)
{
    static const shape shapes[] = {
        {64, 2112, 7168, 1}, {129, 4096, 512, 1},  {2100, 264, 640, 1},
        {9, 328, 160, 1},    {114, 4096, 7168, 9}, {130, 7168, 2048, 4},
    };
    compare_fp8_by_every_tile(gpu_of(state), shapes, sizeof shapes / sizeof *shapes);
}

/* Among them more stages than a ring has, and more tiles than there are blocks. */
static void test_small_fp8_equals_reference_by_every_tile(void **state)
{
    static const shape shapes[] = {
        {1, 8, 128, 1},     {65, 200, 256, 1}, {128, 136, 384, 1},
        {300, 24, 1536, 1}, {5, 96, 320, 3},   {1, 256, 256, 40},
    };
    compare_fp8_by_every_tile(gpu_of(state), shapes, sizeof shapes / sizeof *shapes);
}

static void test_fp8_rows_are_their_own(void **state)
{
    proa_gpu *gpu = gpu_of(state);
    fp8_case c = make_fp8(gpu, (shape){257, 576, 1024, 1});
    proa_cuda_fp8_linear_args args = fp8_args(&c);
    float *all = run_fp8(gpu, &c, &args);
    static const int32_t counts[] = {1, 2, 63, 64, 65, 127, 128, 129, 256};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        args.rows.rows = counts[i];
        float *y = run_fp8(gpu, &c, &args);
        assert_memory_equal(y, all, (size_t)counts[i] * (size_t)c.s.n * sizeof *y);
        free(y);
    }
    free(all);
    free_fp8(gpu, &c);
}

static void test_shapes_that_are_not_served(void **state)
{
    proa_gpu *gpu = gpu_of(state);
    proa_error err = {0};
    proa_cuda_fp8_linear_args args = {
        .rows = {.groups = 1, .rows = 4}, .rows_max = 4, .n = 12, .k = 128, .x.stride = 128, .y_stride = 16};
    assert_int_equal(proa_cuda_fp8_linear(gpu, &args, &err), PROA_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.text, "[12, 128]"));
    args.n = 16;
    args.k = 104;
    assert_int_equal(proa_cuda_fp8_linear(gpu, &args, &err), PROA_ERR_UNSUPPORTED);
    args.k = 128;
    args.tile = (proa_cuda_tile){7, 7};
    assert_int_equal(proa_cuda_fp8_linear(gpu, &args, &err), PROA_ERR_INVALID);
}

/* ---- bf16 ---- */

static void free_all(proa_gpu *gpu, void *const *there, size_t count)
{
    for (size_t i = 0; i < count; i++)
        proa_gpu_free(gpu, there[i]);
}

static void test_bf16_equals_reference(void **state)
{
    static const struct {
        int32_t rows, n, k;
    } shapes[] = {{1, 8, 8}, {3, 256, 7168}, {64, 40, 64}, {65, 264, 200}, {130, 512, 128}, {257, 1024, 512}};
    static const proa_cuda_tile tiles[] = {{0, 0}, {64, 32}, {64, 64}, {128, 64}, {128, 128}};
    const proa_host host = {.precision = PROA_PRECISION_DEFAULT};
    proa_gpu *gpu = gpu_of(state);
    proa_error err = {0};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        int32_t m = shapes[i].rows, n = shapes[i].n, k = shapes[i].k;
        float *x = test_floats(11, (int64_t)m * k, row_spread),
              *w = test_floats(12, (int64_t)n * k, row_spread);
        float *want = malloc(sizeof *want * (size_t)(m * n)), *got = malloc(sizeof *got * (size_t)(m * n)),
              *first = NULL;
        uint16_t *bits = malloc(sizeof *bits * (size_t)n * (size_t)k);
        for (int64_t j = 0; j < (int64_t)n * k; j++)
            bits[j] = proa_f32_to_bf16(w[j]);
        const proa_weight weight = {.dtype = PROA_DTYPE_BF16, .n = n, .k = k, .data = bits};
        proa_linear_ref(
            &host,
            &(proa_linear_args){.x = {.rows = m, .cols = k, .x = x}, .w = &weight, .y = want, .y_stride = n});
        void *there[] = {gpu_bf16(gpu, x, (int64_t)m * k), gpu_bf16(gpu, w, (int64_t)n * k),
                         gpu_room(gpu, sizeof *got * (size_t)(m * n))};
        for (size_t t = 0; t < 2 * sizeof tiles / sizeof *tiles; t++) {
            bool to_float = t % 2 == 0;
            const proa_cuda_bf16_linear_args args = {.rows = {.groups = 1, .rows = m},
                                                     .rows_max = m,
                                                     .n = n,
                                                     .k = k,
                                                     .x = there[0],
                                                     .x_stride = k,
                                                     .w = there[1],
                                                     .y = there[2],
                                                     .y_float = to_float,
                                                     .y_stride = n,
                                                     .tile = tiles[t / 2]};
            gpu_good(proa_gpu_set(gpu, there[2], 0xff, sizeof *got * (size_t)(m * n), &err), &err);
            gpu_good(proa_cuda_bf16_linear(gpu, &args, &err), &err);
            if (to_float) {
                gpu_read(gpu, got, there[2], sizeof *got * (size_t)(m * n));
                assert_near(got, want, (int64_t)m * n, 1e-5);
                if (first == NULL) {
                    first = malloc(sizeof *first * (size_t)(m * n));
                    memcpy(first, got, sizeof *first * (size_t)(m * n));
                }
                assert_memory_equal(first, got, sizeof *first * (size_t)(m * n)); /* tiles move no bit */
            } else {
                float *y = gpu_read_bf16(gpu, there[2], (int64_t)m * n);
                for (int64_t j = 0; j < (int64_t)m * n; j++)
                    assert_true(y[j] == proa_round_bf16(first[j]));
                free(y);
            }
        }
        free_all(gpu, there, 3);
        free(x), free(w), free(want), free(got), free(first), free(bits);
    }
}

/* W_UK and W_UV: a head a group. */
static void test_bf16_by_head_equals_reference(void **state)
{
    enum { ROWS = 70, HEADS = 5, N = 136, K = 72, PITCH = 80 };
    const proa_host host = {.precision = PROA_PRECISION_DEFAULT};
    proa_gpu *gpu = gpu_of(state);
    proa_error err = {0};
    float *x = test_floats(21, (int64_t)ROWS * HEADS * PITCH, row_spread),
          *w = test_floats(22, (int64_t)HEADS * N * K, row_spread);
    float *want = calloc((size_t)ROWS * HEADS * N, sizeof *want);
    uint16_t *bits = malloc(sizeof *bits * (size_t)HEADS * N * K);
    for (int64_t j = 0; j < (int64_t)HEADS * N * K; j++)
        bits[j] = proa_f32_to_bf16(w[j]);
    proa_linear_heads_ref(&host, &(proa_linear_heads_args){.rows = ROWS,
                                                           .heads = HEADS,
                                                           .n = N,
                                                           .k = K,
                                                           .x = x,
                                                           .x_row_stride = HEADS * PITCH,
                                                           .x_head_stride = PITCH,
                                                           .w_dtype = PROA_DTYPE_BF16,
                                                           .w = bits,
                                                           .y = want,
                                                           .y_row_stride = HEADS * N,
                                                           .y_head_stride = N,
                                                           .round_output = true});
    void *there[] = {gpu_bf16(gpu, x, (int64_t)ROWS * HEADS * PITCH),
                     gpu_bf16(gpu, w, (int64_t)HEADS * N * K),
                     gpu_room(gpu, sizeof(uint16_t) * (size_t)ROWS * HEADS * N)};
    const proa_cuda_bf16_linear_args args = {.rows = {.groups = HEADS, .rows = ROWS},
                                             .groups = PROA_CUDA_GROUPS_HEADS,
                                             .rows_max = ROWS,
                                             .n = N,
                                             .k = K,
                                             .x = there[0],
                                             .x_stride = HEADS * PITCH,
                                             .x_head_stride = PITCH,
                                             .w = there[1],
                                             .y = there[2],
                                             .y_stride = HEADS * N,
                                             .y_group_stride = N};
    gpu_good(proa_cuda_bf16_linear(gpu, &args, &err), &err);
    float *got = gpu_read_bf16(gpu, there[2], (int64_t)ROWS * HEADS * N);
    assert_near(got, want, (int64_t)ROWS * HEADS * N, 4e-3);
    free_all(gpu, there, 3);
    free(x), free(w), free(want), free(got), free(bits);
}

/* The router's logits: parts over K, added up in order. */
static void test_bf16_slices_add_up(void **state)
{
    enum { ROWS = 33, N = 40, SLICES = 4, K = 192 };
    const proa_host host = {.precision = PROA_PRECISION_DEFAULT};
    proa_gpu *gpu = gpu_of(state);
    proa_error err = {0};
    const int64_t k = (int64_t)SLICES * K, part = (int64_t)ROWS * N;
    float *x = test_floats(31, ROWS * k, row_spread), *w = test_floats(32, N * k, row_spread);
    float *want = malloc(sizeof *want * (size_t)part), *got = malloc(sizeof *got * (size_t)(SLICES * part));
    uint16_t *bits = malloc(sizeof *bits * (size_t)(N * k));
    for (int64_t j = 0; j < N * k; j++)
        bits[j] = proa_f32_to_bf16(w[j]);
    const proa_weight weight = {.dtype = PROA_DTYPE_BF16, .n = N, .k = (int32_t)k, .data = bits};
    proa_linear_ref(
        &host, &(proa_linear_args){
                   .x = {.rows = ROWS, .cols = (int32_t)k, .x = x}, .w = &weight, .y = want, .y_stride = N});
    void *there[] = {gpu_bf16(gpu, x, ROWS * k), gpu_bf16(gpu, w, N * k),
                     gpu_room(gpu, sizeof *got * (size_t)(SLICES * part))};
    const proa_cuda_bf16_linear_args args = {.rows = {.groups = SLICES, .rows = ROWS},
                                             .groups = PROA_CUDA_GROUPS_SLICES,
                                             .rows_max = ROWS,
                                             .n = N,
                                             .k = K,
                                             .x = there[0],
                                             .x_stride = k,
                                             .w = there[1],
                                             .y = there[2],
                                             .y_float = true,
                                             .y_stride = N,
                                             .y_group_stride = part};
    gpu_good(proa_cuda_bf16_linear(gpu, &args, &err), &err);
    gpu_read(gpu, got, there[2], sizeof *got * (size_t)(SLICES * part));
    for (int64_t i = 0; i < part; i++)
        for (int32_t s = 1; s < SLICES; s++)
            got[i] += got[s * part + i];
    assert_near(got, want, part, 1e-5);
    free_all(gpu, there, 3);
    free(x), free(w), free(want), free(got), free(bits);
}

/* W_UK, W_UV, the router and experts in bf16: measured tiles are taken for them too (law 2). */
static void test_bf16_tiles_move_no_bit(void **state)
{
    enum { ROWS = 150, GROUPS = 3, N = 136, K = 128, ROOM = 2 * PROA_CUDA_GROUP_ALIGN };
    static const struct {
        proa_cuda_linear_groups groups;
        bool by_count, y_float;
        int64_t x_stride, x_head_stride, y_stride, y_group_stride;
    } forms[] = {
        {PROA_CUDA_GROUPS_ROWS, true, false, K, 0, N, 0},
        {PROA_CUDA_GROUPS_HEADS, false, false, GROUPS * K, K, GROUPS * N, N},
        {PROA_CUDA_GROUPS_SLICES, false, true, GROUPS * K, 0, N, (int64_t)ROWS * N},
    };
    static const int32_t first[GROUPS] = {0, ROOM, 2 * ROOM}, count[GROUPS] = {ROWS, 0, 65};
    proa_gpu *gpu = gpu_of(state);
    proa_error err = {0};
    const int64_t all = (int64_t)GROUPS * ROOM * N;
    const size_t bytes = sizeof(float) * (size_t)all;
    float *x = test_floats(41, (int64_t)GROUPS * ROOM * K, row_spread),
          *w = test_floats(42, (int64_t)GROUPS * N * K, row_spread);
    unsigned char *want = malloc(bytes), *got = malloc(bytes);
    assert_non_null(want);
    assert_non_null(got);
    void *there[] = {gpu_bf16(gpu, x, (int64_t)GROUPS * ROOM * K), gpu_bf16(gpu, w, (int64_t)GROUPS * N * K),
                     gpu_room(gpu, bytes), gpu_copy(gpu, first, sizeof first),
                     gpu_copy(gpu, count, sizeof count)};
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        proa_cuda_bf16_linear_args args = {.rows = {.groups = GROUPS,
                                                    .rows = ROWS,
                                                    .first = forms[i].by_count ? there[3] : NULL,
                                                    .count = there[4]},
                                           .groups = forms[i].groups,
                                           .rows_max = forms[i].by_count ? GROUPS * ROOM : ROWS,
                                           .n = N,
                                           .k = K,
                                           .x = there[0],
                                           .x_stride = forms[i].x_stride,
                                           .x_head_stride = forms[i].x_head_stride,
                                           .w = there[1],
                                           .y = there[2],
                                           .y_float = forms[i].y_float,
                                           .y_stride = forms[i].y_stride,
                                           .y_group_stride = forms[i].y_group_stride};
        for (int32_t t = 0; proa_cuda_bf16_linear_tiles(t, &args.tile); t++) {
            gpu_good(proa_gpu_set(gpu, there[2], 0xff, bytes, &err), &err);
            gpu_good(proa_cuda_bf16_linear(gpu, &args, &err), &err);
            gpu_read(gpu, t == 0 ? want : got, there[2], bytes);
            if (t > 0 && memcmp(want, got, bytes) != 0)
                fail_msg("form %d: tiles of %d x %d give other bits", (int)forms[i].groups, args.tile.rows,
                         args.tile.columns);
        }
    }
    free_all(gpu, there, 5);
    free(x), free(w), free(want), free(got);
}

/* What the launcher says that it takes, for any number of rows, is a tile that is built; and the one that was asked for. */
static void test_tiles_are_told(void **state)
{
    proa_gpu *gpu = gpu_of(state);
    for (int32_t rows = 1; rows < 20000; rows += rows / 3 + 1) {
        proa_cuda_fp8_linear_args fp8 = {.rows = {.groups = 9, .rows = rows}, .n = 4096, .k = 7168};
        proa_cuda_bf16_linear_args bf16 = {.rows = {.groups = 9, .rows = rows}, .n = 512, .k = 128};
        proa_cuda_tile a, b, built;
        int32_t found = 0;
        assert_true(proa_cuda_fp8_linear_tile(gpu, &fp8, &a));
        assert_true(proa_cuda_bf16_linear_tile(gpu, &bf16, &b));
        for (int32_t t = 0; proa_cuda_fp8_linear_tiles(t, &built); t++) {
            found += built.rows == a.rows && built.columns == a.columns;
            fp8.tile = built;
            assert_true(proa_cuda_fp8_linear_tile(gpu, &fp8, &a));
            assert_memory_equal(&a, &built, sizeof a);
            fp8.tile = (proa_cuda_tile){0};
            assert_true(proa_cuda_fp8_linear_tile(gpu, &fp8, &a));
        }
        for (int32_t t = 0; proa_cuda_bf16_linear_tiles(t, &built); t++)
            found += built.rows == b.rows && built.columns == b.columns;
        assert_int_equal(found, 2);
        bf16.tile = (proa_cuda_tile){7, 7};
        assert_false(proa_cuda_bf16_linear_tile(gpu, &bf16, &b));
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest small[] = {
        cmocka_unit_test(test_bf16_tiles_move_no_bit),
        cmocka_unit_test(test_small_fp8_equals_reference_by_every_tile),
        cmocka_unit_test(test_bf16_equals_reference),
        cmocka_unit_test(test_bf16_by_head_equals_reference),
        cmocka_unit_test(test_bf16_slices_add_up),
    };
    const struct CMUnitTest others[] = {
        cmocka_unit_test(test_tiles_are_told),
        cmocka_unit_test(test_fp8_equals_reference_by_every_tile),
        cmocka_unit_test(test_fp8_rows_are_their_own),
        cmocka_unit_test(test_shapes_that_are_not_served),
    };
    const int failed = cmocka_run_group_tests(small, gpu_open_state, gpu_close_state);
    if (argc > 1 && strcmp(argv[1], "small") == 0)
        return failed;
    return failed + cmocka_run_group_tests(others, gpu_open_state, gpu_close_state);
}
