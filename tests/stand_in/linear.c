/* linear.c - op/linear/cuda.h: products in float32, eight sums a value, each over every eighth of K; with FP8 those of 128 of K are scaled and
 * added to the eight of the whole. A row meets the same sums whatever rows are beside it. */
#include "stand_in.h"

#include "op/lanes.h"
#include "op/linear/cuda.h"

#include <string.h>

enum {
    LANES = 8,
    COLUMNS = 4, /* of y at once */
    ROWS = 64,   /* of x widened at once */
    SCALE_BLOCK = 128,
    BF16_SLICE = 64, /* what K of a slice must be a multiple of */
};

typedef float lanes __attribute__((vector_size(4 * LANES)));

/* Rows of x by COLUMNS rows of W. */
typedef struct panel {
    int32_t rows;
    int32_t k;
    int32_t block; /* of K that is scaled together */
    const float *x;
    const float *w;       /* [COLUMNS, k] */
    const float *x_scale; /* [k / block][x_scale_stride], or NULL */
    int64_t x_scale_stride;
    const float *w_scale[COLUMNS]; /* [k / block] */
    float *y;                      /* [rows, COLUMNS] */
} panel;

/* Products of two rows, lane by lane. */
PROA_BODY void multiply_block(const float *x0, const float *x1, const float *w, int64_t w_stride,
                              int32_t count, lanes part[2][COLUMNS])
{
    lanes p00 = {0}, p01 = {0}, p02 = {0}, p03 = {0}, p10 = {0}, p11 = {0}, p12 = {0}, p13 = {0};
    for (int32_t i = 0; i < count; i += LANES) {
        lanes a0, a1, b;
        memcpy(&a0, x0 + i, sizeof a0);
        memcpy(&a1, x1 + i, sizeof a1);
        memcpy(&b, w + i, sizeof b);
        p00 += a0 * b;
        p10 += a1 * b;
        memcpy(&b, w + w_stride + i, sizeof b);
        p01 += a0 * b;
        p11 += a1 * b;
        memcpy(&b, w + 2 * w_stride + i, sizeof b);
        p02 += a0 * b;
        p12 += a1 * b;
        memcpy(&b, w + 3 * w_stride + i, sizeof b);
        p03 += a0 * b;
        p13 += a1 * b;
    }
    part[0][0] = p00, part[0][1] = p01, part[0][2] = p02, part[0][3] = p03;
    part[1][0] = p10, part[1][1] = p11, part[1][2] = p12, part[1][3] = p13;
}

PROA_BODY void multiply_panel(const panel *p)
{
    for (int32_t row = 0; row < p->rows; row += 2) {
        const int32_t pair[2] = {row, row + 1 < p->rows ? row + 1 : row};
        lanes total[2][COLUMNS], part[2][COLUMNS];
        memset(total, 0, sizeof total);
        for (int32_t first = 0, b = 0; first < p->k; first += p->block, b++) {
            const int32_t count = p->k - first < p->block ? p->k - first : p->block;
            multiply_block(p->x + (int64_t)pair[0] * p->k + first, p->x + (int64_t)pair[1] * p->k + first,
                           p->w + first, p->k, count, part);
            for (int32_t i = 0; i < 2; i++)
                for (int32_t c = 0; c < COLUMNS; c++)
                    total[i][c] +=
                        p->x_scale == NULL
                            ? part[i][c]
                            : part[i][c] * (p->x_scale[b * p->x_scale_stride + pair[i]] * p->w_scale[c][b]);
        }
        for (int32_t i = 0; i < 2; i++)
            for (int32_t c = 0; c < COLUMNS; c++) {
                const lanes t = total[i][c];
                p->y[pair[i] * COLUMNS + c] =
                    ((t[0] + t[1]) + (t[2] + t[3])) + ((t[4] + t[5]) + (t[6] + t[7]));
            }
    }
}

PROA_TARGET_AVX2 static void multiply_avx2(const panel *p)
{
    multiply_panel(p);
}

static void multiply(const panel *p)
{
    if (proa_cpu_isa() >= PROA_ISA_AVX2)
        multiply_avx2(p);
    else
        multiply_panel(p);
}

/* ---- FP8 ---- */

/* No tiles, in truth: one of these is as good as another. Tests that go through all of them are content with two. */
static const proa_cuda_tile some_tiles[] = {{64, 64}, {128, 128}};

enum { SOME_TILES = sizeof some_tiles / sizeof *some_tiles };

static bool some_tile(int32_t i, proa_cuda_tile *tile)
{
    if (i < 0 || i >= SOME_TILES)
        return false;
    *tile = some_tiles[i];
    return true;
}

bool proa_cuda_fp8_linear_tiles(int32_t i, proa_cuda_tile *tile)
{
    return some_tile(i, tile);
}

bool proa_cuda_bf16_linear_tiles(int32_t i, proa_cuda_tile *tile)
{
    return some_tile(i, tile);
}

/* Rows of 64 or 128, columns up to 128 in steps of 32: all that is built for either type, and a few more. */
static bool built(const proa_cuda_tile *t)
{
    return t->rows == 0 ||
           ((t->rows == 64 || t->rows == 128) && t->columns > 0 && t->columns <= 128 && t->columns % 32 == 0);
}

/* What a call that leaves the choice gets: by rows alone. */
static bool chosen(const proa_cuda_tile *wanted, const proa_cuda_groups *rows, proa_cuda_tile *tile)
{
    const int32_t each = rows->first == NULL ? rows->rows : rows->expected;
    *tile = wanted->rows > 0 ? *wanted : some_tiles[each > 64];
    return built(tile);
}

bool proa_cuda_fp8_linear_tile(const proa_gpu *gpu, const proa_cuda_fp8_linear_args *a, proa_cuda_tile *tile)
{
    (void)gpu;
    return chosen(&a->tile, &a->rows, tile);
}

bool proa_cuda_bf16_linear_tile(const proa_gpu *gpu, const proa_cuda_bf16_linear_args *a,
                                proa_cuda_tile *tile)
{
    (void)gpu;
    return chosen(&a->tile, &a->rows, tile);
}

static void widen_e4m3(const float *table, float *to, const uint8_t *from, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        to[i] = table[from[i]];
}

/* Rows row .. row + rows - 1 of x by the weight of group g. */
static void fp8_rows(proa_gpu *gpu, const proa_cuda_fp8_linear_args *a, int32_t g, int64_t row, int32_t rows)
{
    const int64_t k_blocks = (a->k + SCALE_BLOCK - 1) / SCALE_BLOCK,
                  n_blocks = (a->n + SCALE_BLOCK - 1) / SCALE_BLOCK;
    float *x = stand_in_scratch(gpu, 0, sizeof(float) * ROWS * (size_t)a->k),
          *w = stand_in_scratch(gpu, 1, sizeof(float) * COLUMNS * (size_t)a->k), y[ROWS * COLUMNS];
    const float *table = stand_in_e4m3(gpu);
    widen_e4m3(table, x, a->x.q + row * a->k, (int64_t)rows * a->k);
    for (int32_t n = 0; n < a->n; n += COLUMNS) {
        panel p = {.rows = rows,
                   .k = a->k,
                   .block = SCALE_BLOCK,
                   .x = x,
                   .w = w,
                   .x_scale = a->x.scale + row,
                   .x_scale_stride = a->x.stride,
                   .y = y};
        widen_e4m3(table, w, (const uint8_t *)a->w + ((int64_t)g * a->n + n) * a->k, (int64_t)COLUMNS * a->k);
        for (int32_t c = 0; c < COLUMNS; c++)
            p.w_scale[c] = a->w_scale + (g * n_blocks + (n + c) / SCALE_BLOCK) * k_blocks;
        multiply(&p);
        for (int32_t r = 0; r < rows; r++)
            stand_in_narrow((uint16_t *)a->y + (row + r) * a->y_stride + n, y + r * COLUMNS, COLUMNS);
    }
}

static void run_fp8(proa_gpu *gpu, const void *args)
{
    const proa_cuda_fp8_linear_args *a = args;
    const int64_t k_blocks = (a->k + SCALE_BLOCK - 1) / SCALE_BLOCK,
                  n_blocks = (a->n + SCALE_BLOCK - 1) / SCALE_BLOCK;
    stand_in_check_fp8(gpu, &a->x, a->rows_max, a->k, "x of an FP8 product");
    stand_in_check(gpu, a->w, (int64_t)a->rows.groups * a->n * a->k, 16, "the weight of an FP8 product");
    stand_in_check(gpu, a->w_scale, a->rows.groups * n_blocks * k_blocks * (int64_t)sizeof(float), 4,
                   "scales of an FP8 product's weight");
    PROA_ASSERT(a->rows.first != NULL || a->rows.groups == 1); /* groups would write the same rows of y */
    for (int32_t g = 0; g < a->rows.groups; g++) {
        int32_t first;
        const int32_t count = stand_in_group(gpu, &a->rows, g, &first);
        PROA_ASSERT(first + count <= a->rows_max);
        stand_in_check_rows(gpu, (uint16_t *)a->y + first * a->y_stride, count, a->n, a->y_stride, 2,
                            "y of an FP8 product");
        for (int32_t row = 0; row < count; row += ROWS)
            fp8_rows(gpu, a, g, first + row, count - row < ROWS ? count - row : ROWS);
    }
}

proa_status proa_cuda_fp8_linear(proa_gpu *gpu, const proa_cuda_fp8_linear_args *a, proa_error *err)
{
    if (a->n % 8 != 0 || a->k % 16 != 0 || a->y_stride % 8 != 0 || a->x.stride % 128 != 0)
        return proa_error_set(err, PROA_ERR_UNSUPPORTED,
                              "an FP8 weight of [%d, %d]: the GPU takes multiples of 8 and 16", a->n, a->k);
    if (!built(&a->tile))
        return proa_error_set(err, PROA_ERR_INVALID, "no FP8 kernel has tiles of %d x %d", a->tile.rows,
                              a->tile.columns);
    return stand_in_queue(gpu, run_fp8, a, sizeof *a, err);
}

/* ---- bf16 ---- */

/* Where group g's operands begin, and how far their rows are apart (elements). */
typedef struct bf16_group {
    const uint16_t *x, *w;
    int64_t w_stride;
    unsigned char *y;
    int32_t element_bytes; /* of y */
} bf16_group;

static bf16_group bf16_group_of(const proa_cuda_bf16_linear_args *a, int32_t g)
{
    const bool slices = a->groups == PROA_CUDA_GROUPS_SLICES;
    bf16_group to = {.x = a->x, .w = a->w, .y = a->y, .element_bytes = a->y_float ? 4 : 2};
    to.x += slices ? (int64_t)g * a->k : a->groups == PROA_CUDA_GROUPS_HEADS ? g * a->x_head_stride : 0;
    to.w += slices ? (int64_t)g * a->k : (int64_t)g * a->n * a->k;
    to.w_stride = slices ? (int64_t)a->k * a->rows.groups : a->k;
    to.y += g * a->y_group_stride * to.element_bytes;
    return to;
}

static void bf16_rows(proa_gpu *gpu, const proa_cuda_bf16_linear_args *a, const bf16_group *g, int64_t row,
                      int32_t rows)
{
    float *x = stand_in_scratch(gpu, 0, sizeof(float) * ROWS * (size_t)a->k),
          *w = stand_in_scratch(gpu, 1, sizeof(float) * COLUMNS * (size_t)a->k), y[ROWS * COLUMNS];
    const panel p = {.rows = rows, .k = a->k, .block = a->k, .x = x, .w = w, .y = y};
    for (int32_t r = 0; r < rows; r++)
        stand_in_widen(x + (int64_t)r * a->k, g->x + (row + r) * a->x_stride, a->k);
    for (int32_t n = 0; n < a->n; n += COLUMNS) {
        for (int32_t c = 0; c < COLUMNS; c++)
            stand_in_widen(w + (int64_t)c * a->k, g->w + (n + c) * g->w_stride, a->k);
        multiply(&p);
        for (int32_t r = 0; r < rows; r++) {
            void *to = g->y + ((row + r) * a->y_stride + n) * g->element_bytes;
            if (a->y_float)
                memcpy(to, y + r * COLUMNS, sizeof *y * COLUMNS);
            else
                stand_in_narrow(to, y + r * COLUMNS, COLUMNS);
        }
    }
}

static void run_bf16(proa_gpu *gpu, const void *args)
{
    const proa_cuda_bf16_linear_args *a = args;
    stand_in_check(gpu, a->w, (int64_t)a->rows.groups * a->n * a->k * 2, 16, "the weight of a bf16 product");
    for (int32_t i = 0; i < a->rows.groups; i++) {
        const bf16_group g = bf16_group_of(a, i);
        int32_t first;
        const int32_t count = stand_in_group(gpu, &a->rows, i, &first);
        PROA_ASSERT(first + count <= a->rows_max);
        stand_in_check(gpu, g.x, a->rows_max > 0 ? ((a->rows_max - 1) * a->x_stride + a->k) * 2 : 0, 16,
                       "x of a bf16 product");
        stand_in_check_rows(gpu, g.y + first * a->y_stride * g.element_bytes, count, a->n, a->y_stride,
                            g.element_bytes, "y of a bf16 product");
        for (int32_t row = 0; row < count; row += ROWS)
            bf16_rows(gpu, a, &g, first + row, count - row < ROWS ? count - row : ROWS);
    }
}

proa_status proa_cuda_bf16_linear(proa_gpu *gpu, const proa_cuda_bf16_linear_args *a, proa_error *err)
{
    const bool slices = a->groups == PROA_CUDA_GROUPS_SLICES;
    if (a->n % 8 != 0 || a->k % (slices ? BF16_SLICE : 8) != 0 || a->x_stride % 8 != 0 ||
        a->x_head_stride % 8 != 0 || a->y_stride % 8 != 0)
        return proa_error_set(err, PROA_ERR_UNSUPPORTED,
                              "a bf16 weight of [%d, %d]: the GPU takes multiples of 8", a->n, a->k);
    if (!built(&a->tile))
        return proa_error_set(err, PROA_ERR_INVALID, "no bf16 kernel has tiles of %d x %d", a->tile.rows,
                              a->tile.columns);
    return stand_in_queue(gpu, run_bf16, a, sizeof *a, err);
}
