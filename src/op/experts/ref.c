/* ref.c - experts as specified: each slot is one row through its expert's linear. */
#include "op/experts/experts.h"

#include "op/linear/linear.h"

/* Row `row` of x as rows of its own. */
static proa_rows row_view(const proa_rows *x, int64_t row)
{
    int64_t groups = (x->cols + PROA_QUANT_GROUP - 1) / PROA_QUANT_GROUP;
    PROA_ASSERT(row >= 0 && row < x->rows);
    return (proa_rows){
        .rows = 1,
        .cols = x->cols,
        .x = x->x != NULL ? x->x + row * x->cols : NULL,
        .q = x->q != NULL ? x->q + row * x->cols : NULL,
        .s = x->s != NULL ? x->s + row * groups : NULL,
    };
}

void proa_experts_ref(const proa_host *host, const proa_experts_args *args)
{
    PROA_ASSERT(args->offsets[0] == 0);
    for (int32_t e = 0; e < args->experts; e++) {
        const proa_weight *w = &args->w[e];
        for (int64_t slot = args->offsets[e]; slot < args->offsets[e + 1]; slot++) {
            proa_linear_args one = {
                .x = row_view(&args->x, args->row_index != NULL ? args->row_index[slot] : slot),
                .w = w,
                .y = args->y + slot * w->n,
                .y_stride = w->n,
                .round_output = args->round_output,
            };
            proa_linear_ref(host, &one);
        }
    }
}
