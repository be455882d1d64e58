/* trace.c - see trace.h. */
#include "model/cuda/trace.h"

#include "base/clock.h"
#include "model/cuda/internal.h"

#include <stdio.h>
#include <stdlib.h>

enum { GRAPHS_MAX = 64, ARGS_BYTES = 256 };

typedef struct marked_graph {
    int32_t rows;
    proa_gpu_graph *graph;
    proa_cuda_marks *marks;
} marked_graph;

struct proa_cuda_trace {
    proa_gpu *gpu;
    proa_cuda_forward *forward;
    proa_trace *to;
    proa_gpu_mark *anchor;
    bool on;                 /* from begin to end */
    double anchor_us;        /* the host's time when the anchor was passed */
    double slack_us;         /* as far as is known */
    proa_cuda_marks *queued; /* what no graph has; NULL while nothing is recorded */
    proa_cuda_span *spans;   /* [points_max] */
    const marked_graph *ran; /* since begin, or NULL */
    int32_t graph_count;
    marked_graph graphs[GRAPHS_MAX];
};

/* ---- life ---- */

static void release(proa_cuda_trace *t)
{
    for (int32_t i = 0; i < t->graph_count; i++) {
        proa_gpu_graph_free(t->graphs[i].graph);
        proa_cuda_marks_free(t->graphs[i].marks);
    }
    t->graph_count = 0;
    t->ran = NULL;
    proa_cuda_marks_free(t->queued);
    proa_gpu_mark_free(t->anchor);
    free(t->spans);
    t->queued = NULL;
    t->anchor = NULL;
    t->spans = NULL;
}

static proa_status prepare(proa_cuda_trace *t, proa_error *err)
{
    const int32_t points = proa_cuda_forward_points_max(t->forward);
    proa_status status = PROA_OK;
    if (t->spans != NULL)
        return PROA_OK;
    t->spans = calloc((size_t)points, sizeof *t->spans);
    if (t->spans == NULL)
        status = proa_error_set(err, PROA_ERR_MEMORY, "no memory for %d spans", points);
    if (status == PROA_OK)
        status = proa_gpu_mark_create(t->gpu, &t->anchor, err);
    if (status == PROA_OK)
        status = proa_cuda_marks_create(t->gpu, points, &t->queued, err);
    if (status != PROA_OK)
        release(t);
    return status;
}

proa_status proa_cuda_trace_create(proa_gpu *gpu, proa_cuda_forward *forward, proa_trace *to,
                                   proa_cuda_trace **out, proa_error *err)
{
    proa_cuda_trace *t = calloc(1, sizeof *t);
    *out = t;
    if (t == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for a trace");
    t->gpu = gpu;
    t->forward = forward;
    t->to = to;
    return PROA_OK;
}

void proa_cuda_trace_free(proa_cuda_trace *t)
{
    if (t == NULL)
        return;
    proa_cuda_forward_set_marks(t->forward, NULL);
    release(t);
    free(t);
}

/* ---- a piece ---- */

proa_status proa_cuda_trace_begin(proa_cuda_trace *t, proa_error *err)
{
    if (t == NULL)
        return PROA_OK;
    t->on = false;
    t->ran = NULL;
    proa_cuda_forward_set_marks(t->forward, NULL);
    if (!proa_trace_on(t->to)) {
        if (t->spans != NULL)
            release(t);
        return PROA_OK;
    }
    proa_status status = prepare(t, err);
    const int64_t before_us = proa_clock_us();
    if (status == PROA_OK)
        status = proa_gpu_mark_set(t->gpu, t->anchor, err);
    if (status == PROA_OK)
        status = proa_gpu_mark_wait(t->gpu, t->anchor, err);
    if (status != PROA_OK)
        return status;
    const int64_t after_us = proa_clock_us();
    t->slack_us = (double)(after_us - before_us) / 2;
    t->anchor_us = (double)before_us + t->slack_us;
    t->on = true;
    proa_cuda_marks_clear(t->queued);
    proa_cuda_forward_set_marks(t->forward, t->queued);
    return PROA_OK;
}

/* As the step that is prepared. What fails leaves nothing. */
static proa_status record(proa_cuda_trace *t, marked_graph *g, proa_error *err)
{
    proa_error end = {0};
    proa_status status =
        proa_cuda_marks_create(t->gpu, proa_cuda_forward_points_max(t->forward), &g->marks, err);
    if (status == PROA_OK)
        status = proa_gpu_graph_begin(t->gpu, err);
    if (status != PROA_OK) {
        proa_cuda_marks_free(g->marks);
        return status;
    }
    proa_cuda_forward_set_marks(t->forward, g->marks);
    status = proa_cuda_forward_run(t->forward, err);
    proa_cuda_forward_set_marks(t->forward, t->queued);
    const proa_status ended = proa_gpu_graph_end(t->gpu, &g->graph, status == PROA_OK ? err : &end);
    status = status == PROA_OK ? ended : status;
    if (status == PROA_OK)
        return PROA_OK;
    proa_gpu_graph_free(g->graph);
    proa_cuda_marks_free(g->marks);
    return status;
}

proa_status proa_cuda_trace_graph(proa_cuda_trace *t, int32_t rows, proa_gpu_graph **graph, proa_error *err)
{
    if (t == NULL || !t->on)
        return PROA_OK;
    marked_graph *g = NULL;
    for (int32_t i = 0; i < t->graph_count && g == NULL; i++)
        if (t->graphs[i].rows == rows)
            g = &t->graphs[i];
    if (g == NULL) {
        PROA_ASSERT(t->graph_count < GRAPHS_MAX);
        g = &t->graphs[t->graph_count];
        *g = (marked_graph){.rows = rows};
        proa_trace_begin(t->to, "make a graph with marks");
        const proa_status status = record(t, g, err);
        proa_trace_end(t->to);
        if (status != PROA_OK)
            return status;
        t->graph_count++;
    }
    t->ran = g;
    *graph = g->graph;
    return PROA_OK;
}

proa_status proa_cuda_trace_mark(proa_cuda_trace *t, int32_t op, proa_error *err)
{
    proa_status status = PROA_OK;
    if (t == NULL || !proa_trace_on(t->to))
        return PROA_OK;
    if (!t->on) /* behind a step that came in pieces, each of which has ended */
        status = proa_cuda_trace_begin(t, err);
    return status == PROA_OK ? proa_cuda_marks_add(t->queued, op, -1, false, err) : status;
}

/* ---- what ran ---- */

static void put(const proa_cuda_trace *t, const proa_cuda_span *s, const char *name, const char *args)
{
    proa_trace_span(t->to, s->beside ? PROA_TRACE_GPU_BESIDE : PROA_TRACE_GPU, name,
                    t->anchor_us + s->start_us, t->anchor_us + s->end_us, args);
}

static void put_op(const proa_cuda_trace *t, const proa_cuda_span *s)
{
    char args[ARGS_BYTES];
    proa_cuda_describe(t->forward, (proa_cuda_op)s->what, s->layer, args, sizeof args);
    put(t, s, proa_cuda_op_name((proa_cuda_op)s->what), args);
}

/* Around the ops of the layer that begins with span i of the first stream. */
static void put_layer(const proa_cuda_trace *t, int32_t i, int32_t count)
{
    char name[32];
    proa_cuda_span layer = t->spans[i];
    for (; i < count && t->spans[i].layer == layer.layer; i++)
        layer.end_us = t->spans[i].end_us;
    snprintf(name, sizeof name, "layer %d", layer.layer);
    put(t, &layer, name, NULL);
}

static bool is_forward(const proa_cuda_span *s)
{
    return s->what != PROA_CUDA_UPLOAD && s->what != PROA_CUDA_SAMPLE && s->what != PROA_CUDA_DOWNLOAD;
}

/* Around all that is the model's. */
static void put_forward(const proa_cuda_trace *t, int32_t i, int32_t count, bool graph)
{
    const proa_cuda_forward *f = t->forward;
    char args[ARGS_BYTES];
    proa_cuda_span all = t->spans[i];
    for (; i < count && is_forward(&t->spans[i]); i++)
        all.end_us = t->spans[i].end_us;
    snprintf(
        args, sizeof args,
        "\"rows\":%d,\"decode_rows\":%d,\"prompts\":%d,\"prompt_keys\":%d,\"logit_rows\":%d,\"graph\":%s,"
        "\"clock_slack_us\":%.1f",
        f->rows, f->decode_rows, f->segments, f->keys, f->logit_rows, graph ? "true" : "false", t->slack_us);
    put(t, &all, "forward", args);
}

/* Outer spans before inner ones. */
static void put_marks(const proa_cuda_trace *t, const proa_cuda_marks *marks, bool graph)
{
    int32_t count = 0, at = 0;
    proa_cuda_span span;
    while (proa_cuda_marks_next(marks, t->anchor, &at, &span)) {
        if (span.beside)
            put_op(t, &span);
        else
            t->spans[count++] = span;
    }
    for (int32_t i = 0; i < count; i++) {
        const proa_cuda_span *s = &t->spans[i], *before = i > 0 ? s - 1 : NULL;
        if (is_forward(s) && (before == NULL || !is_forward(before)))
            put_forward(t, i, count, graph);
        if (s->layer >= 0 && (before == NULL || before->layer != s->layer))
            put_layer(t, i, count);
        put_op(t, s);
    }
}

void proa_cuda_trace_end(proa_cuda_trace *t)
{
    if (t == NULL || !t->on)
        return;
    put_marks(t, t->queued, false);
    if (t->ran != NULL)
        put_marks(t, t->ran->marks, true);
    t->on = false;
    t->ran = NULL;
    proa_cuda_forward_set_marks(t->forward, NULL);
}
