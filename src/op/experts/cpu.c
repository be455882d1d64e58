/* cpu.c - experts on the host: a product of segments (linear/product.h), hence linear's bits. */
#include "op/experts/experts.h"

#include "op/linear/product.h"

void proa_experts_cpu(const proa_host *host, const proa_experts_args *args)
{
    PROA_ASSERT(args->offsets[0] == 0);
    if (args->experts == 0 || args->offsets[args->experts] == 0)
        return;
    const proa_weight *w = args->w;
    const proa_rows *x = &args->x;
    bool recipe = w->dtype == PROA_DTYPE_E4M3 && x->q != NULL;
    PROA_ASSERT(x->cols == w->k);
    PROA_ASSERT(recipe ? x->s != NULL : x->x != NULL);
    proa_product product = {
        .n = w->n,
        .k = w->k,
        .segments = args->experts,
        .offsets = args->offsets,
        .weights = w,
        .w_dtype = w->dtype,
        .x_index = args->row_index,
        .x = x->x,
        .x_row_stride = w->k,
        .q = recipe ? x->q : NULL,
        .s = x->s,
        .y = args->y,
        .y_row_stride = w->n,
        .round_bf16 = args->round_output && host->precision == PROA_PRECISION_DEFAULT,
    };
    proa_product_run(host, &product);
}

size_t proa_experts_scratch_bytes(const proa_host *host, int32_t slots, int32_t experts, int32_t n, int32_t k)
{
    return proa_product_scratch_bytes(host, slots, experts, n, k);
}
