/* cpu.c - linear and linear_heads on the host: both are products of segments (product.h). */
#include "op/linear/linear.h"

#include "op/linear/product.h"

void proa_linear_cpu(const proa_host *host, const proa_linear_args *args)
{
    const proa_weight *w = args->w;
    const proa_rows *x = &args->x;
    bool recipe = w->dtype == PROA_DTYPE_E4M3 && x->q != NULL;
    if (x->rows == 0)
        return;
    PROA_ASSERT(x->cols == w->k);
    PROA_ASSERT(recipe ? x->s != NULL : x->x != NULL);
    PROA_ASSERT(args->y_stride >= w->n);
    proa_product product = {
        .n = w->n,
        .k = w->k,
        .segments = 1,
        .rows_each = x->rows,
        .weights = w,
        .w_dtype = w->dtype,
        .x = x->x,
        .x_row_stride = w->k,
        .q = recipe ? x->q : NULL,
        .s = x->s,
        .y = args->y,
        .y_row_stride = args->y_stride,
        .round_bf16 = args->round_output && host->precision == PROA_PRECISION_DEFAULT,
    };
    proa_product_run(host, &product);
}

size_t proa_linear_scratch_bytes(const proa_host *host, int32_t rows, int32_t n, int32_t k)
{
    return proa_product_scratch_bytes(host, rows, 1, n, k);
}

void proa_linear_heads_cpu(const proa_host *host, const proa_linear_heads_args *args)
{
    if (args->rows == 0)
        return;
    PROA_ASSERT(args->w_dtype == PROA_DTYPE_F32 || args->w_dtype == PROA_DTYPE_BF16);
    proa_weight first_head = {.dtype = args->w_dtype, .n = args->n, .k = args->k, .data = args->w};
    proa_product product = {
        .n = args->n,
        .k = args->k,
        .segments = args->heads,
        .rows_each = args->rows,
        .weights = &first_head,
        .w_segment_bytes = (size_t)args->n * (size_t)args->k * proa_dtype_bytes(args->w_dtype),
        .w_dtype = args->w_dtype,
        .x = args->x,
        .x_row_stride = args->x_row_stride,
        .x_segment_stride = args->x_head_stride,
        .y = args->y,
        .y_row_stride = args->y_row_stride,
        .y_segment_stride = args->y_head_stride,
        .round_bf16 = args->round_output && host->precision == PROA_PRECISION_DEFAULT,
    };
    proa_product_run(host, &product);
}

size_t proa_linear_heads_scratch_bytes(const proa_host *host, int32_t rows, int32_t heads, int32_t n,
                                       int32_t k)
{
    return proa_product_scratch_bytes(host, (int64_t)rows * heads, heads, n, k);
}
