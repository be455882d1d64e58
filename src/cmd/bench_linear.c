/* bench_linear.c - benchmark rows of linear, linear_heads, experts and quantise: DeepSeek-V3's shapes, decode (1 and
 * 4 rows) and prefill (64). FP8 rows take activations that are quantised already, as the layer graph does. */
#include "cmd/bench.h"

#include "op/experts/experts.h"
#include "op/linear/linear.h"
#include "op/quantise/quantise.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct linear_shape {
    const char *what; /* the layer that has it */
    int32_t n, k;
    int32_t segments; /* heads or experts; 0 for a plain linear */
    proa_dtype dtype;
    proa_precision precision;
    int32_t rows; /* of each segment */
} linear_shape;

#define FP8       PROA_DTYPE_E4M3, PROA_PRECISION_DEFAULT
#define BF16      PROA_DTYPE_BF16, PROA_PRECISION_DEFAULT
#define EXACT     PROA_DTYPE_BF16, PROA_PRECISION_EXACT
#define FLOAT     PROA_DTYPE_F32, PROA_PRECISION_EXACT
#define FP8_EXACT PROA_DTYPE_E4M3, PROA_PRECISION_EXACT
#define AT_1_4_16_64(what, n, k, segments, type)                                                             \
    {what, n, k, segments, type, 1}, {what, n, k, segments, type, 4}, {what, n, k, segments, type, 16},      \
    {                                                                                                        \
        what, n, k, segments, type, 64                                                                       \
    }

static const linear_shape linear_shapes[] = {
    AT_1_4_16_64("gate_proj fp8", 2048, 7168, 0, FP8),   AT_1_4_16_64("down_proj fp8", 7168, 2048, 0, FP8),
    AT_1_4_16_64("square fp8", 7168, 7168, 0, FP8),      AT_1_4_16_64("kv_a_proj fp8", 576, 7168, 0, FP8),
    AT_1_4_16_64("gate_proj bf16", 2048, 7168, 0, BF16), AT_1_4_16_64("down_proj bf16", 7168, 2048, 0, BF16),
    AT_1_4_16_64("square bf16", 7168, 7168, 0, BF16),    AT_1_4_16_64("router gate bf16", 256, 7168, 0, BF16),
    AT_1_4_16_64("bf16 exact", 2048, 7168, 0, EXACT),    AT_1_4_16_64("f32 exact", 2048, 7168, 0, FLOAT),
    AT_1_4_16_64("fp8 exact", 2048, 7168, 0, FP8_EXACT),
};

static const linear_shape heads_shapes[] = {
    AT_1_4_16_64("q to latent bf16", 512, 128, 128, BF16),
    AT_1_4_16_64("latent to value bf16", 128, 512, 128, BF16),
};

static const linear_shape experts_shapes[] = {
    AT_1_4_16_64("gate_proj fp8, 8 experts", 2048, 7168, 8, FP8),
    AT_1_4_16_64("down_proj fp8, 8 experts", 7168, 2048, 8, FP8),
    AT_1_4_16_64("gate_proj bf16, 8 experts", 2048, 7168, 8, BF16),
};

typedef struct linear_state {
    linear_shape shape;
    float *x;
    uint8_t *q;
    float *s;
    float *w_scale;
    float *y;
    proa_weight *w;
    int32_t *offsets;
} linear_state;

static void linear_release(void *state)
{
    linear_state *l = state;
    if (l == NULL)
        return;
    free(l->x);
    free(l->q);
    free(l->s);
    free(l->w_scale);
    free(l->y);
    free(l->w);
    free(l->offsets);
    free(l);
}

static size_t weight_bytes(const linear_shape *shape)
{
    return (size_t)shape->n * (size_t)shape->k * proa_dtype_bytes(shape->dtype);
}

static void linear_run(void *state, const proa_host *host, proa_bench_memory *memory)
{
    linear_state *l = state;
    l->w[0].data = proa_bench_memory_take(memory, weight_bytes(&l->shape));
    proa_linear_args args = {
        .x = {.rows = l->shape.rows, .cols = l->shape.k, .x = l->x, .q = l->q, .s = l->s},
        .w = l->w,
        .y = l->y,
        .y_stride = l->shape.n,
        .round_output = true,
    };
    proa_linear_cpu(host, &args);
}

static void heads_run(void *state, const proa_host *host, proa_bench_memory *memory)
{
    linear_state *l = state;
    const linear_shape *s = &l->shape;
    proa_linear_heads_args args = {
        .rows = s->rows,
        .heads = s->segments,
        .n = s->n,
        .k = s->k,
        .x = l->x,
        .x_row_stride = (int64_t)s->segments * s->k,
        .x_head_stride = s->k,
        .w_dtype = s->dtype,
        .w = proa_bench_memory_take(memory, (size_t)s->segments * weight_bytes(s)),
        .y = l->y,
        .y_row_stride = (int64_t)s->segments * s->n,
        .y_head_stride = s->n,
        .round_output = true,
    };
    proa_linear_heads_cpu(host, &args);
}

static void experts_run(void *state, const proa_host *host, proa_bench_memory *memory)
{
    linear_state *l = state;
    const linear_shape *s = &l->shape;
    for (int32_t e = 0; e < s->segments; e++)
        l->w[e].data = proa_bench_memory_take(memory, weight_bytes(s));
    proa_experts_args args = {
        .experts = s->segments,
        .offsets = l->offsets,
        .w = l->w,
        .x = {.rows = s->rows * s->segments, .cols = s->k, .x = l->x, .q = l->q, .s = l->s},
        .y = l->y,
        .round_output = true,
    };
    proa_experts_cpu(host, &args);
}

static void fill_operands(linear_state *l, int64_t rows, int64_t groups, int32_t segments, size_t w_scales)
{
    const linear_shape *s = &l->shape;
    for (int64_t i = 0; i < rows * s->k; i++) {
        l->x[i] = (float)(i % 15 - 7) * 0.25f; /* bf16 values */
        l->q[i] = (uint8_t)(0x30 + i % 13);
    }
    for (int64_t i = 0; i < rows * groups; i++)
        l->s[i] = 0.01f;
    for (size_t i = 0; i < w_scales; i++)
        l->w_scale[i] = 0.02f;
    l->offsets[0] = 0;
    for (int32_t e = 0; e < segments; e++) {
        l->offsets[e + 1] = l->offsets[e] + s->rows;
        l->w[e] = (proa_weight){
            .dtype = s->dtype, .n = s->n, .k = s->k, .scale = l->w_scale, .block_n = 128, .block_k = 128};
    }
}

static linear_state *linear_state_new(const linear_shape *shape)
{
    linear_state *l = calloc(1, sizeof *l);
    if (l == NULL)
        return NULL;
    int32_t segments = shape->segments > 0 ? shape->segments : 1;
    size_t rows = (size_t)shape->rows * (size_t)segments, k = (size_t)shape->k, groups = (k + 127) / 128;
    size_t w_scales = ((size_t)shape->n + 127) / 128 * groups;
    l->shape = *shape;
    l->x = malloc(rows * k * sizeof *l->x);
    l->q = malloc(rows * k);
    l->s = malloc(rows * groups * sizeof *l->s);
    l->w_scale = malloc(w_scales * sizeof *l->w_scale);
    l->y = malloc(rows * (size_t)shape->n * sizeof *l->y);
    l->w = calloc((size_t)segments, sizeof *l->w);
    l->offsets = malloc(((size_t)segments + 1) * sizeof *l->offsets);
    if (l->x == NULL || l->q == NULL || l->s == NULL || l->w_scale == NULL || l->y == NULL || l->w == NULL ||
        l->offsets == NULL) {
        linear_release(l);
        return NULL;
    }
    fill_operands(l, (int64_t)rows, (int64_t)groups, segments, w_scales);
    if (shape->dtype != PROA_DTYPE_E4M3 || shape->precision == PROA_PRECISION_EXACT) {
        free(l->q);
        l->q = NULL;
    }
    return l;
}

/* What all of them share; the caller adds run and scratch_bytes. */
static proa_status make_case(const linear_shape *shape, proa_bench_case *out, proa_error *err)
{
    double segments = shape->segments > 0 ? shape->segments : 1, rows = shape->rows * segments;
    *out = (proa_bench_case){
        .rows = shape->rows,
        .bytes = segments * (double)weight_bytes(shape),
        .flops = 2.0 * rows * shape->n * shape->k,
        .bf16 = shape->precision == PROA_PRECISION_DEFAULT,
        .precision = shape->precision,
        .state = linear_state_new(shape),
        .release = linear_release,
    };
    snprintf(out->shape, sizeof out->shape, "[%d, %d] %s", shape->n, shape->k, shape->what);
    return out->state != NULL ? PROA_OK
                              : proa_error_set(err, PROA_ERR_MEMORY, "no memory for %s", out->shape);
}

static proa_status make_linear(int index, const proa_host *host, proa_bench_case *out, proa_error *err)
{
    const linear_shape *s = &linear_shapes[index];
    proa_status status = make_case(s, out, err);
    out->run = linear_run;
    out->scratch_bytes = proa_linear_scratch_bytes(host, s->rows, s->n, s->k);
    return status;
}

static proa_status make_heads(int index, const proa_host *host, proa_bench_case *out, proa_error *err)
{
    const linear_shape *s = &heads_shapes[index];
    proa_status status = make_case(s, out, err);
    out->run = heads_run;
    out->scratch_bytes = proa_linear_heads_scratch_bytes(host, s->rows, s->segments, s->n, s->k);
    return status;
}

static proa_status make_experts(int index, const proa_host *host, proa_bench_case *out, proa_error *err)
{
    const linear_shape *s = &experts_shapes[index];
    proa_status status = make_case(s, out, err);
    out->run = experts_run;
    out->scratch_bytes = proa_experts_scratch_bytes(host, s->rows * s->segments, s->segments, s->n, s->k);
    return status;
}

/* --- quantise --- */

static const int32_t quantise_rows[] = {1, 16, 512};

typedef struct quantise_state {
    int32_t rows;
    uint8_t *q;
    float *s;
} quantise_state;

enum { QUANTISE_COLS = 7168 };

static void quantise_run(void *state, const proa_host *host, proa_bench_memory *memory)
{
    quantise_state *z = state;
    proa_quantise_args args = {
        .rows = z->rows,
        .cols = QUANTISE_COLS,
        .x = proa_bench_memory_take(memory, (size_t)z->rows * QUANTISE_COLS * sizeof(float)),
        .x_stride = QUANTISE_COLS,
        .q = z->q,
        .s = z->s,
    };
    proa_quantise_cpu(host, &args);
}

static void quantise_release(void *state)
{
    quantise_state *z = state;
    if (z == NULL)
        return;
    free(z->q);
    free(z->s);
    free(z);
}

static proa_status make_quantise(int index, const proa_host *host, proa_bench_case *out, proa_error *err)
{
    (void)host;
    quantise_state *z = calloc(1, sizeof *z);
    int32_t rows = quantise_rows[index];
    *out = (proa_bench_case){.rows = rows,
                             .bytes = (double)rows * QUANTISE_COLS * 5,
                             .run = quantise_run,
                             .state = z,
                             .release = quantise_release,
                             .precision = PROA_PRECISION_DEFAULT};
    snprintf(out->shape, sizeof out->shape, "[%d]", QUANTISE_COLS);
    if (z != NULL) {
        z->rows = rows;
        z->q = malloc((size_t)rows * QUANTISE_COLS);
        z->s = malloc((size_t)rows * (QUANTISE_COLS / PROA_QUANT_GROUP) * sizeof *z->s);
    }
    if (z == NULL || z->q == NULL || z->s == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for the operands of quantise");
    return PROA_OK;
}

#define COUNT(array) ((int)(sizeof(array) / sizeof *(array)))

const proa_bench_op proa_bench_linear = {"linear", COUNT(linear_shapes), make_linear};
const proa_bench_op proa_bench_linear_heads = {"linear_heads", COUNT(heads_shapes), make_heads};
const proa_bench_op proa_bench_experts = {"experts", COUNT(experts_shapes), make_experts};
const proa_bench_op proa_bench_quantise = {"quantise", COUNT(quantise_rows), make_quantise};
