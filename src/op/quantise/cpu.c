/* cpu.c - quantise on the host. */
#include "op/quantise/quantise.h"

typedef struct work {
    const proa_host *host;
    const proa_quantise_args *args;
} work;

static void run_row(void *context, int task, int thread)
{
    (void)thread;
    const work *w = context;
    const proa_quantise_args *a = w->args;
    int64_t groups = (a->cols + PROA_QUANT_GROUP - 1) / PROA_QUANT_GROUP;
    proa_quantise_args row = *a;
    row.rows = 1;
    row.x = a->x + task * a->x_stride;
    row.q = a->q + (int64_t)task * a->cols;
    row.s = a->s + task * groups;
    proa_quantise_ref(w->host, &row);
}

void proa_quantise_cpu(const proa_host *host, const proa_quantise_args *args)
{
    work w = {.host = host, .args = args};
    proa_pool_run(host->pool, run_row, &w, args->rows);
}
