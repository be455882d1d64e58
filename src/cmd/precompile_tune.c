/* precompile_tune.c - see precompile.h: each product of each step with every tile that is built for it. */
#include "cmd/precompile.h"

#include "base/progress.h"

#include <stdlib.h>

enum { RUNS = 5, PRODUCTS_MAX = 64 };

/* By how much a tile must be faster than the one that the launcher's model chooses: less is the clock's noise. */
static const double clear_gain = 0.02;

/* A product of the step, and in how many layers it is. */
typedef struct product {
    proa_cuda_op op;
    proa_cuda_shape shape;
    int32_t launches;
} product;

typedef struct tuner {
    proa_gpu *gpu;
    proa_gpu_step step;
    proa_cuda_tiles trial; /* the one choice that is being measured */
    product products[PRODUCTS_MAX];
    int32_t count;
    proa_precompile_result *result;
} tuner;

void proa_precompile_result_free(proa_precompile_result *r)
{
    free(r->rows);
    proa_cuda_tiles_free(&r->tiles);
    *r = (proa_precompile_result){0};
}

static void see(void *context, proa_cuda_op op, const proa_cuda_shape *shape)
{
    tuner *t = context;
    for (int32_t i = 0; i < t->count; i++) {
        product *p = &t->products[i];
        if (p->op == op && proa_cuda_shape_same(&p->shape, shape) && p->shape.rows == shape->rows) {
            p->launches++;
            return;
        }
    }
    PROA_ASSERT(t->count < PRODUCTS_MAX);
    t->products[t->count++] = (product){op, *shape, 1};
}

/* The row for a product of this shape and class; PROA_CUDA_OPS: whatever its op. */
static const proa_precompile_row *find(const proa_precompile_result *r, proa_cuda_op op,
                                       const proa_cuda_shape *shape)
{
    for (int32_t i = 0; i < r->count; i++) {
        const proa_precompile_row *row = &r->rows[i];
        if ((op == PROA_CUDA_OPS || row->op == op) && proa_cuda_shape_same(&row->choice.shape, shape) &&
            proa_precompile_class(&row->choice.shape) == proa_precompile_class(shape))
            return row;
    }
    return NULL;
}

static proa_status append(proa_precompile_result *r, const proa_precompile_row *row, proa_error *err)
{
    if (r->count == r->room) {
        const int32_t room = 2 * r->room + 256;
        proa_precompile_row *larger = realloc(r->rows, sizeof *larger * (size_t)room);
        if (larger == NULL)
            return proa_error_set(err, PROA_ERR_MEMORY, "no memory for %d results", room);
        r->rows = larger;
        r->room = room;
    }
    r->rows[r->count++] = *row;
    return PROA_OK;
}

/* Microseconds of the op in one layer when this product of it has this tile. */
static proa_status time_tile(tuner *t, const product *p, proa_cuda_tile tile, double *us, proa_error *err)
{
    const proa_cuda_choice choice = {.shape = p->shape, .tile = tile};
    *us = 0;
    if (!proa_cuda_tiles_set(&t->trial, &choice))
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for a tile's choice");
    proa_status status = proa_gpu_step_time(&t->step, 1u << p->op, 1, RUNS, us, err);
    proa_cuda_tiles_remove(&t->trial, &p->shape);
    *us /= p->launches;
    return status;
}

static proa_status tune_product(tuner *t, const product *p, proa_error *err)
{
    const proa_cuda_tile built_in = proa_cuda_shape_built_in(t->gpu, &p->shape);
    proa_precompile_row row = {
        .op = p->op, .choice = {.shape = p->shape, .tile = built_in}, .built_in = built_in};
    proa_cuda_choice *best = &row.choice;
    proa_cuda_tile tile;
    proa_status status = time_tile(t, p, built_in, &best->built_in_us, err);
    best->us = best->built_in_us;
    double limit = best->us * (1 - clear_gain);
    for (int32_t i = 0; status == PROA_OK && proa_cuda_shape_tiles(&p->shape, i, &tile); i++) {
        double us;
        if (tile.rows == built_in.rows && tile.columns == built_in.columns)
            continue;
        status = time_tile(t, p, tile, &us, err);
        if (status != PROA_OK || us >= limit)
            continue;
        best->tile = tile;
        best->us = limit = us;
    }
    best->shape.rows = proa_precompile_class(&p->shape);
    if (status == PROA_OK && !proa_cuda_tiles_set(&t->result->tiles, best))
        status = proa_error_set(err, PROA_ERR_MEMORY, "no memory for tile choices");
    return status == PROA_OK ? append(t->result, &row, err) : status;
}

static proa_status tune_step(tuner *t, const proa_gpu_step_shape *shape, proa_error *err)
{
    proa_status status = proa_gpu_step_open(&t->step, shape, err);
    if (status != PROA_OK)
        return status;
    t->count = 0;
    proa_cuda_forward_set_watch(t->step.forward, see, t);
    status = proa_gpu_step_run(&t->step, err);
    proa_cuda_forward_set_watch(t->step.forward, NULL, NULL);
    for (int32_t i = 0; i < t->count && status == PROA_OK; i++) {
        const product *p = &t->products[i];
        const proa_precompile_row *known = find(t->result, PROA_CUDA_OPS, &p->shape);
        if (find(t->result, p->op, &p->shape) != NULL)
            continue;
        if (known == NULL) {
            status = tune_product(t, p, err);
            continue;
        }
        proa_precompile_row row = *known;
        row.op = p->op;
        status = append(t->result, &row, err);
    }
    return status;
}

proa_status proa_precompile_tune(proa_gpu *gpu, const proa_cuda_weights *weights,
                                 const proa_gpu_step_shape *steps, int32_t count,
                                 proa_precompile_result *result, proa_error *err)
{
    proa_progress progress;
    tuner t = {.gpu = gpu, .result = result};
    proa_status status = proa_gpu_step_init(&t.step, gpu, weights, err);
    t.step.tiles = &t.trial;
    proa_progress_start(&progress, "measuring", (uint64_t)count, "steps");
    for (int32_t i = 0; i < count && status == PROA_OK; i++) {
        status = tune_step(&t, &steps[i], err);
        proa_progress_add(&progress, 1);
    }
    proa_progress_finish(&progress);
    proa_gpu_step_free(&t.step);
    proa_cuda_tiles_free(&t.trial);
    return status;
}
