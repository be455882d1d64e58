/* ref.c - linear and linear_heads as specified: one output at a time, double accumulation. */
#include "op/linear/linear.h"

#include "base/number.h"

/* Weights lie where the file has them: aligned to a byte only. */
static double weight_at(const proa_weight *w, int64_t row, int64_t column)
{
    const char *at = (const char *)w->data + (size_t)(row * w->k + column) * proa_dtype_bytes(w->dtype);
    float f32;
    uint16_t bf16;
    switch (w->dtype) {
    case PROA_DTYPE_F32: memcpy(&f32, at, sizeof f32); return f32;
    case PROA_DTYPE_BF16: memcpy(&bf16, at, sizeof bf16); return proa_bf16_to_f32(bf16);
    default: return proa_e4m3_to_f32((uint8_t)*at);
    }
}

static double scale_at(const proa_weight *w, int64_t row, int64_t column)
{
    int64_t column_blocks = (w->k + w->block_k - 1) / w->block_k;
    return w->scale[row / w->block_n * column_blocks + column / w->block_k];
}

static double dot_exact(const float *x, const proa_weight *w, int64_t row)
{
    double sum = 0;
    for (int64_t i = 0; i < w->k; i++) {
        double weight = weight_at(w, row, i);
        if (w->dtype == PROA_DTYPE_E4M3)
            weight *= scale_at(w, row, i);
        sum += x[i] * weight;
    }
    return sum;
}

/* The FP8 recipe: a scale product a group of 128. */
static double dot_recipe(const uint8_t *q, const float *s, const proa_weight *w, int64_t row)
{
    double sum = 0;
    for (int64_t first = 0, group = 0; first < w->k; first += PROA_QUANT_GROUP, group++) {
        double part = 0;
        for (int64_t i = first; i < w->k && i < first + PROA_QUANT_GROUP; i++)
            part += (double)proa_e4m3_to_f32(q[i]) * weight_at(w, row, i);
        sum += part * s[group] * scale_at(w, row, first);
    }
    return sum;
}

void proa_linear_ref(const proa_host *host, const proa_linear_args *args)
{
    const proa_weight *w = args->w;
    const proa_rows *x = &args->x;
    bool recipe = w->dtype == PROA_DTYPE_E4M3 && x->q != NULL;
    bool round = args->round_output && host->precision == PROA_PRECISION_DEFAULT;
    int64_t groups = (w->k + PROA_QUANT_GROUP - 1) / PROA_QUANT_GROUP;
    PROA_ASSERT(x->rows == 0 || x->cols == w->k);
    PROA_ASSERT(x->rows == 0 || (recipe ? x->s != NULL : x->x != NULL));
    PROA_ASSERT(!recipe || w->block_k == PROA_QUANT_GROUP);
    PROA_ASSERT(args->y_stride >= w->n);
    for (int64_t r = 0; r < x->rows; r++) {
        for (int64_t j = 0; j < w->n; j++) {
            double sum = recipe ? dot_recipe(x->q + r * w->k, x->s + r * groups, w, j)
                                : dot_exact(x->x + r * w->k, w, j);
            args->y[r * args->y_stride + j] = round ? proa_round_bf16((float)sum) : (float)sum;
        }
    }
}

void proa_linear_heads_ref(const proa_host *host, const proa_linear_heads_args *args)
{
    size_t head_bytes = (size_t)args->n * (size_t)args->k * proa_dtype_bytes(args->w_dtype);
    for (int64_t h = 0; h < args->heads; h++) {
        proa_weight w = {.dtype = args->w_dtype,
                         .n = args->n,
                         .k = args->k,
                         .data = (const char *)args->w + (size_t)h * head_bytes};
        for (int64_t r = 0; r < args->rows; r++) {
            proa_linear_args one = {
                .x = {.rows = 1,
                      .cols = args->k,
                      .x = args->x + r * args->x_row_stride + h * args->x_head_stride},
                .w = &w,
                .y = args->y + r * args->y_row_stride + h * args->y_head_stride,
                .y_stride = args->n,
                .round_output = args->round_output,
            };
            proa_linear_ref(host, &one);
        }
    }
}
