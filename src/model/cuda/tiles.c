/* tiles.c - see tiles.h: a sorted array, searched by halves. */
#include "model/cuda/tiles.h"

#include <stdlib.h>
#include <string.h>

static int compare_ints(int32_t a, int32_t b)
{
    return (a > b) - (a < b);
}

static int compare_shapes(const proa_cuda_shape *a, const proa_cuda_shape *b)
{
    const int32_t x[] = {a->fp8, a->y_float, (int32_t)a->form, a->groups, a->n, a->k},
                  y[] = {b->fp8, b->y_float, (int32_t)b->form, b->groups, b->n, b->k};
    for (size_t i = 0; i < sizeof x / sizeof *x; i++)
        if (x[i] != y[i])
            return compare_ints(x[i], y[i]);
    return 0;
}

static int compare(const proa_cuda_shape *a, const proa_cuda_shape *b)
{
    const int order = compare_shapes(a, b);
    return order != 0 ? order : compare_ints(a->rows, b->rows);
}

/* The first choice that does not come before the product. */
static int32_t place_of(const proa_cuda_tiles *t, const proa_cuda_shape *shape)
{
    int32_t low = 0, high = t->count;
    while (low < high) {
        const int32_t middle = low + (high - low) / 2;
        if (compare(&t->choices[middle].shape, shape) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

void proa_cuda_tiles_free(proa_cuda_tiles *t)
{
    free(t->choices);
    *t = (proa_cuda_tiles){0};
}

bool proa_cuda_tiles_set(proa_cuda_tiles *t, const proa_cuda_choice *choice)
{
    const int32_t at = place_of(t, &choice->shape);
    if (at < t->count && compare(&t->choices[at].shape, &choice->shape) == 0) {
        t->choices[at] = *choice;
        return true;
    }
    if (t->count == t->room) {
        const int32_t room = 2 * t->room + 64;
        proa_cuda_choice *larger = realloc(t->choices, sizeof *larger * (size_t)room);
        if (larger == NULL)
            return false;
        t->choices = larger;
        t->room = room;
    }
    memmove(t->choices + at + 1, t->choices + at, sizeof *t->choices * (size_t)(t->count - at));
    t->choices[at] = *choice;
    t->count++;
    return true;
}

const proa_cuda_choice *proa_cuda_tiles_at(const proa_cuda_tiles *t, const proa_cuda_shape *shape)
{
    const int32_t at = place_of(t, shape);
    return at < t->count && compare(&t->choices[at].shape, shape) == 0 ? &t->choices[at] : NULL;
}

void proa_cuda_tiles_remove(proa_cuda_tiles *t, const proa_cuda_shape *shape)
{
    const int32_t at = place_of(t, shape);
    if (proa_cuda_tiles_at(t, shape) == NULL)
        return;
    t->count--;
    memmove(t->choices + at, t->choices + at + 1, sizeof *t->choices * (size_t)(t->count - at));
}

proa_cuda_tile proa_cuda_tiles_find(proa_cuda_tiles *t, const proa_cuda_shape *shape)
{
    if (t == NULL)
        return (proa_cuda_tile){0};
    const int32_t at = place_of(t, shape);
    t->asked++;
    if (at == t->count || compare_shapes(&t->choices[at].shape, shape) != 0)
        return (proa_cuda_tile){0};
    t->found++;
    return t->choices[at].tile;
}

bool proa_cuda_shape_same(const proa_cuda_shape *a, const proa_cuda_shape *b)
{
    return compare_shapes(a, b) == 0;
}

bool proa_cuda_shape_tiles(const proa_cuda_shape *shape, int32_t i, proa_cuda_tile *tile)
{
    return shape->fp8 ? proa_cuda_fp8_linear_tiles(i, tile) : proa_cuda_bf16_linear_tiles(i, tile);
}

proa_cuda_tile proa_cuda_shape_built_in(const proa_gpu *gpu, const proa_cuda_shape *p)
{
    const proa_cuda_groups rows = {.groups = p->groups, .rows = p->rows};
    proa_cuda_tile tile = {0};
    bool built;
    if (p->fp8)
        built = proa_cuda_fp8_linear_tile(
            gpu, &(proa_cuda_fp8_linear_args){.rows = rows, .n = p->n, .k = p->k}, &tile);
    else
        built = proa_cuda_bf16_linear_tile(
            gpu, &(proa_cuda_bf16_linear_args){.rows = rows, .groups = p->form, .n = p->n, .k = p->k}, &tile);
    PROA_ASSERT(built);
    return tile;
}
