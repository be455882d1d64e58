/* overlap.c - see overlap.h. The halves' segments are copies, in b.half_segments, that count rows from the half's first one. */
#include "model/overlap.h"

#include "base/minmax.h"
#include "model/forward_internal.h"

#include <math.h>

typedef struct half {
    int32_t lane;
    int32_t first;  /* row of the step */
    proa_step step; /* its rows and segments; the rest is unused */
} half;

/* ---- the cut ---- */

/* Fewer rows than this are too few for a half. */
static int32_t least_rows(int32_t rows, double threshold)
{
    return (int32_t)ceil(threshold * rows);
}

int32_t proa_overlap_half_rows(int32_t rows, double threshold)
{
    if (threshold <= 0)
        return rows; /* one long segment stays whole */
    return proa_max_i32((rows + 1) / 2, rows - least_rows(rows, threshold));
}

int32_t proa_overlap_cut(const proa_step *step, double threshold)
{
    int32_t rows = step->row_count, cut = rows;
    for (int32_t i = 0; i < step->segment_count; i++) {
        int32_t end = step->segments[i].row_first + step->segments[i].row_count;
        if (proa_max_i32(end, rows - end) < proa_max_i32(cut, rows - cut))
            cut = end;
    }
    bool uneven = proa_min_i32(cut, rows - cut) < least_rows(rows, threshold);
    return uneven && threshold > 0 ? (rows + 1) / 2 : cut;
}

/* Rows first .. first + count - 1 of the step as a half, whose segments go to `to`; their number is in it. */
static half take_rows(const proa_step *step, int32_t lane, int32_t first, int32_t count, proa_segment *to)
{
    half h = {.lane = lane, .first = first, .step = {.row_count = count, .segments = to}};
    for (int32_t i = 0; i < step->segment_count; i++) {
        const proa_segment *s = &step->segments[i];
        int32_t begin = proa_max_i32(s->row_first, first);
        int32_t end = proa_min_i32(s->row_first + s->row_count, first + count);
        if (begin >= end)
            continue;
        proa_segment *part = &to[h.step.segment_count++];
        *part = *s;
        part->row_first = begin - first;
        part->row_count = end - begin;
        part->position_first = s->position_first + (begin - s->row_first);
    }
    return h;
}

/* ---- layers ---- */

static bool is_moe(const proa_forward *f, int32_t layer)
{
    return f->weights->layers[layer].moe;
}

/* Rows of a window of a half: the first one in the step, and their number. */
static int32_t window_rows(const proa_forward *f, const half *h, int32_t window, int32_t *first)
{
    int32_t most = f->exchange.rows_max, done = proa_min_i32(window * most, h->step.row_count);
    *first = h->first + done;
    return proa_min_i32(most, h->step.row_count - done);
}

static proa_status send(proa_forward *f, const half *h, int32_t layer, int32_t window, proa_error *err)
{
    int32_t first, rows = window_rows(f, h, window, &first);
    return proa_forward_moe_send(f, h->lane, layer, first, rows, err);
}

static proa_status collect(proa_forward *f, const half *h, int32_t layer, int32_t window, proa_error *err)
{
    int32_t first, rows = window_rows(f, h, window, &first);
    return proa_forward_moe_collect(f, h->lane, layer, first, rows, err);
}

/* What the last window of the layer before has left under way; there is none before the first layer. */
static proa_status leave_layer(proa_forward *f, const half *h, int32_t layer, int32_t windows,
                               proa_error *err)
{
    return layer >= 0 && is_moe(f, layer) ? collect(f, h, layer, windows - 1, err) : PROA_OK;
}

/* Up to the first rows sent; all of a dense layer. */
static proa_status enter_layer(proa_forward *f, const half *h, int32_t layer, int32_t windows,
                               proa_error *err)
{
    const float *delta = layer > 0 ? f->b.delta + (int64_t)h->first * f->config.hidden_size : NULL;
    proa_status status = leave_layer(f, h, layer - 1, windows, err);
    if (status != PROA_OK)
        return status;
    if (h->step.row_count > 0)
        proa_forward_attend(f, layer, h->first, &h->step, delta);
    return is_moe(f, layer) ? send(f, h, layer, 0, err)
                            : proa_forward_mlp(f, layer, h->first, h->step.row_count, 0, err);
}

/* The experts of a layer, whose first windows are under way. The outputs of the last ones are, in the end. */
static proa_status run_windows(proa_forward *f, const half halves[2], int32_t layer, int32_t windows,
                               proa_error *err)
{
    proa_status status = PROA_OK;
    for (int32_t w = 0; w < windows; w++) {
        for (int32_t i = 0; i < 2 && status == PROA_OK; i++)
            status = proa_forward_moe_work(f, halves[i].lane, layer, err);
        for (int32_t i = 0; i < 2 && status == PROA_OK && w + 1 < windows; i++) {
            status = collect(f, &halves[i], layer, w, err);
            if (status == PROA_OK)
                status = send(f, &halves[i], layer, w + 1, err);
        }
    }
    return status;
}

proa_status proa_overlap_layers(proa_forward *f, const proa_step *step, proa_error *err)
{
    int32_t layers = f->config.num_hidden_layers, rows = step->row_count;
    int32_t cut = proa_overlap_cut(step, f->limits.overlap_threshold);
    half halves[2] = {take_rows(step, 0, 0, cut, f->b.half_segments)};
    halves[1] = take_rows(step, 1, cut, rows - cut, f->b.half_segments + halves[0].step.segment_count);
    proa_status status = PROA_OK;
    PROA_ASSERT(step->windows > 0);
    PROA_ASSERT(proa_max_i32(cut, rows - cut) <= step->windows * f->exchange.rows_max);
    for (int32_t layer = 0; layer < layers && status == PROA_OK; layer++) {
        for (int32_t i = 0; i < 2 && status == PROA_OK; i++)
            status = enter_layer(f, &halves[i], layer, step->windows, err);
        if (status == PROA_OK && is_moe(f, layer))
            status = run_windows(f, halves, layer, step->windows, err);
    }
    for (int32_t i = 0; i < 2 && status == PROA_OK; i++)
        status = leave_layer(f, &halves[i], layers - 1, step->windows, err);
    return status;
}
