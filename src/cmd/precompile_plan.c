/* precompile_plan.c - see precompile.h: the steps that are measured, by a rank's share. */
#include "cmd/precompile.h"

#include "base/minmax.h"

#include <stdlib.h>

enum { FINE = 64, DECODE_CONTEXT = 256, PREFIX_ROWS = 128 };

typedef struct list {
    proa_gpu_step_shape *steps;
    int32_t count;
} list;

static int32_t rows_of(const proa_gpu_step_shape *s)
{
    return s->decode ? s->sequences : s->sequences * (s->context - s->prefix);
}

static void add(list *l, proa_gpu_step_shape step)
{
    for (int32_t i = 0; i < l->count; i++) {
        const proa_gpu_step_shape *s = &l->steps[i];
        if (s->decode == step.decode && s->sequences == step.sequences && s->context == step.context &&
            s->prefix == step.prefix)
            return;
    }
    PROA_ASSERT(l->count < PROA_PRECOMPILE_STEPS_MAX);
    l->steps[l->count++] = step;
}

/* 1, 2, 4, ... FINE, then halfway to each next power of two as well. */
static int32_t next_rows(int32_t rows)
{
    const bool power = (rows & (rows - 1)) == 0;
    return rows < FINE ? 2 * rows : power ? rows + rows / 2 : rows / 3 * 4;
}

static void add_decode(list *l, int32_t rows, int32_t context)
{
    add(l, (proa_gpu_step_shape){
               .decode = true, .sequences = rows, .context = proa_min_i32(context, DECODE_CONTEXT)});
}

static void add_prompt(list *l, int32_t rows, int32_t context)
{
    /* a step has prompts of several requests when it has more rows than positions */
    const int32_t sequences = (rows + context - 1) / context;
    add(l, (proa_gpu_step_shape){.sequences = sequences, .context = (rows + sequences - 1) / sequences});
}

static int by_rows(const void *a, const void *b)
{
    const int32_t x = rows_of(a), y = rows_of(b);
    return (x < y) - (x > y);
}

int32_t proa_precompile_steps(const proa_precompile_share *s,
                              proa_gpu_step_shape steps[PROA_PRECOMPILE_STEPS_MAX])
{
    list l = {.steps = steps};
    const int32_t running = proa_min_i32(s->running, PROA_PRECOMPILE_ROWS_MOST),
                  most = proa_min_i32(s->chunk > PROA_PRECOMPILE_ROWS_MOST - running
                                          ? PROA_PRECOMPILE_ROWS_MOST
                                          : s->chunk + (s->decodes ? running : 0),
                                      PROA_PRECOMPILE_ROWS_MOST),
                  keys = proa_min_i32(s->context, PROA_PRECOMPILE_KEYS_MOST);
    for (int32_t i = 0; i < s->graph_count; i++)
        add_decode(&l, proa_min_i32(s->graphs[i], PROA_PRECOMPILE_ROWS_MOST), s->context);
    for (int32_t rows = 1; s->decodes && rows < running; rows = next_rows(rows))
        add_decode(&l, rows, s->context);
    if (s->decodes)
        add_decode(&l, running, s->context);
    for (int32_t rows = 1; s->prefills && rows < most; rows = next_rows(rows))
        add_prompt(&l, rows, s->context);
    if (s->prefills)
        add_prompt(&l, most, s->context);
    for (int32_t all = FINE; s->prefills && all <= keys; all = next_rows(all))
        if (all > s->chunk)
            add(&l, (proa_gpu_step_shape){
                        .sequences = 1, .context = all, .prefix = all - proa_min_i32(s->chunk, PREFIX_ROWS)});
    qsort(steps, (size_t)l.count, sizeof *steps, by_rows);
    return l.count;
}

int32_t proa_precompile_class(const proa_cuda_shape *shape)
{
    int32_t step = FINE;
    if (shape->groups > 1 && shape->form == PROA_CUDA_GROUPS_ROWS) /* experts: the number is a mean */
        for (step = 1; shape->rows > 8 * step && step < FINE; step *= 2)
            ;
    return (shape->rows + step - 1) / step * step;
}
