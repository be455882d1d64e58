/* precompile_report.c - see precompile.h: what was measured, as a table and as JSON. */
#include "cmd/precompile.h"

#include "model/cuda/tile_cache.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the table ---- */

/* By op, shape, rows. */
static int by_place(const void *a, const void *b)
{
    const proa_precompile_row *x = a, *y = b;
    const proa_cuda_shape *s = &x->choice.shape, *t = &y->choice.shape;
    const int32_t left[] = {(int32_t)x->op, s->fp8, s->y_float, (int32_t)s->form,
                            s->groups,      s->n,   s->k,       s->rows},
                  right[] = {(int32_t)y->op, t->fp8, t->y_float, (int32_t)t->form,
                             t->groups,      t->n,   t->k,       t->rows};
    for (size_t i = 0; i < sizeof left / sizeof *left; i++)
        if (left[i] != right[i])
            return left[i] < right[i] ? -1 : 1;
    return 0;
}

static bool same_tile(const proa_cuda_tile *a, const proa_cuda_tile *b)
{
    return a->rows == b->rows && a->columns == b->columns;
}

/* "9 x [4096, 7168]" */
static void describe_weight(const proa_cuda_shape *s, char text[64])
{
    if (s->form == PROA_CUDA_GROUPS_SLICES)
        snprintf(text, 64, "[%d, %d x %d]", s->n, s->groups, s->k);
    else if (s->groups > 1)
        snprintf(text, 64, "%d x [%d, %d]", s->groups, s->n, s->k);
    else
        snprintf(text, 64, "[%d, %d]", s->n, s->k);
}

/* Rows first .. last have one shape and one tile; those of the row before have other ones. */
static void print_run(const proa_precompile_row *first, const proa_precompile_row *last, int32_t from)
{
    char weight[64], rows[32], tile[16], built_in[16];
    const proa_precompile_row *shown = last;
    double measured = 0, would = 0;
    for (const proa_precompile_row *r = first; r <= last; r++) {
        measured += r->choice.us;
        would += r->choice.built_in_us;
        if (!same_tile(&r->built_in, &r->choice.tile))
            shown = r;
    }
    const proa_cuda_shape *s = &last->choice.shape;
    describe_weight(s, weight);
    if (from == s->rows)
        snprintf(rows, sizeof rows, "%d", from);
    else
        snprintf(rows, sizeof rows, "%d to %d", from, s->rows);
    snprintf(tile, sizeof tile, "%dx%d", last->choice.tile.rows, last->choice.tile.columns);
    snprintf(built_in, sizeof built_in, "%dx%d", shown->built_in.rows, shown->built_in.columns);
    printf("  %-17s %-5s %-20s %14s  %-8s %10.1f  %-8s %5.1f %%\n", proa_cuda_op_name(last->op),
           proa_cuda_shape_type(s), weight, rows, tile, last->choice.us, built_in,
           would > 0 ? 100 * (1 - measured / would) : 0);
}

static bool is_run(const proa_precompile_row *a, const proa_precompile_row *b)
{
    return a->op == b->op && proa_cuda_shape_same(&a->choice.shape, &b->choice.shape) &&
           same_tile(&a->choice.tile, &b->choice.tile);
}

/* A copy of the rows in the table's order, or NULL. */
static proa_precompile_row *sorted(const proa_precompile_result *r)
{
    proa_precompile_row *rows = malloc(sizeof *rows * (size_t)(r->count > 0 ? r->count : 1));
    if (rows == NULL)
        return NULL;
    if (r->count > 0)
        memcpy(rows, r->rows, sizeof *rows * (size_t)r->count);
    qsort(rows, (size_t)r->count, sizeof *rows, by_place);
    return rows;
}

void proa_precompile_print(const proa_model_config *config, const proa_precompile_result *result)
{
    proa_precompile_row *rows = sorted(result);
    printf("  %-17s %s\n", "op", "kernels");
    for (int op = 0; op < PROA_CUDA_OPS; op++) {
        const char *kernel = proa_cuda_op_kernel(config, (proa_cuda_op)op);
        if (kernel != NULL)
            printf("  %-17s %s\n", proa_cuda_op_name((proa_cuda_op)op), kernel);
    }
    printf("\n  %-17s %-5s %-20s %14s  %-8s %10s  %-8s %7s\n", "op", "type", "weight", "rows of each", "tile",
           "us a layer", "built in", "gain");
    for (int32_t i = 0, next; rows != NULL && i < result->count; i = next) {
        const bool first = i == 0 || rows[i - 1].op != rows[i].op ||
                           !proa_cuda_shape_same(&rows[i - 1].choice.shape, &rows[i].choice.shape);
        for (next = i + 1; next < result->count && is_run(&rows[i], &rows[next]);)
            next++;
        print_run(&rows[i], &rows[next - 1], first ? 1 : rows[i - 1].choice.shape.rows + 1);
    }
    printf("\nrows of each: of a step, of an expert as a mean, or keys of kv_b; us a layer: of the whole op, "
           "for the "
           "most rows\nbuilt in: the tile that the model of costs chooses, without a cache\n\n");
    free(rows);
}

/* ---- JSON ---- */

static proa_json *row_of(const proa_precompile_row *row)
{
    proa_json *to = proa_json_new_object();
    proa_json_set(to, "op", proa_json_new_text(proa_cuda_op_name(row->op)));
    proa_cuda_choice_json(&row->choice, to);
    proa_json_set(to, "built_in", proa_cuda_tile_json(&row->built_in));
    return to;
}

proa_json *proa_precompile_json(const proa_model_config *config, const proa_precompile_result *result)
{
    proa_json *whole = proa_json_new_object(), *ops = proa_json_new_object(), *list = proa_json_new_array();
    proa_precompile_row *rows = sorted(result);
    for (int op = 0; op < PROA_CUDA_OPS; op++) {
        const char *kernel = proa_cuda_op_kernel(config, (proa_cuda_op)op);
        if (kernel != NULL)
            proa_json_set(ops, proa_cuda_op_name((proa_cuda_op)op), proa_json_new_text(kernel));
    }
    for (int32_t i = 0; rows != NULL && i < result->count; i++)
        proa_json_append(list, row_of(&rows[i]));
    proa_json_set(whole, "ops", ops);
    proa_json_set(whole, "rows", list);
    free(rows);
    return whole;
}
