/* cpu.c - quantise on the host: rows over threads, each by the best instruction set. */
#include "op/quantise/quantise.h"

#include "op/quantise/row.h"

enum {
    ROWS_PER_TASK = 4,
    ALONE = 32768, /* elements that one thread does before a pool wakes */
};

typedef struct work {
    const proa_host *host;
    const proa_quantise_args *args;
    proa_quantise_row row; /* NULL: the reference */
} work;

static void run_rows(void *context, int task, int thread)
{
    (void)thread;
    const work *w = context;
    const proa_quantise_args *a = w->args;
    int64_t groups = ((int64_t)a->cols + PROA_QUANT_GROUP - 1) / PROA_QUANT_GROUP;
    int64_t first = (int64_t)task * ROWS_PER_TASK;
    for (int64_t r = first; r < a->rows && r < first + ROWS_PER_TASK; r++) {
        proa_quantise_args row = {.rows = 1,
                                  .cols = a->cols,
                                  .x = a->x + r * a->x_stride,
                                  .x_stride = a->x_stride,
                                  .q = a->q + r * a->cols,
                                  .s = a->s + r * groups};
        if (w->row != NULL)
            w->row(row.x, row.cols, w->host->ue8m0, row.q, row.s);
        else
            proa_quantise_ref(w->host, &row);
    }
}

void proa_quantise_cpu(const proa_host *host, const proa_quantise_args *args)
{
    work w = {.host = host, .args = args};
    PROA_ASSERT(args->x_stride >= args->cols);
    PROA_ASSERT(host->isa <= proa_cpu_isa());
    if (host->isa >= PROA_ISA_AVX512)
        w.row = proa_quantise_row_avx512();
    else if (host->isa >= PROA_ISA_AVX2)
        w.row = proa_quantise_row_avx2();
    else
        w.row = proa_quantise_row_portable();
    bool alone = (int64_t)args->rows * args->cols <= ALONE;
    proa_pool_run(alone ? NULL : host->pool, run_rows, &w, (args->rows + ROWS_PER_TASK - 1) / ROWS_PER_TASK);
}
