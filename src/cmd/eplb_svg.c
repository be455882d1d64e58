/* eplb_svg.c - the heat map of `proa eplb`: layers down, ranks across, before and after side by side.
 *
 * A cell's colour is its rank's load over the mean of its layer: white is the mean, blue is idle, red is what the others wait
 * for. Both panels and the legend share one linear scale, whose end is the hottest cell of either. Beside each row stands
 * the mean over max of that layer.
 *
 *   title
 *   what was planned
 *            before                 after               legend
 *   layer 3  ############  61 %     ############  97 %    #  3.4 hottest
 *         4  ############  58 %     ############  99 %    #
 *            ranks                  ranks                 #  1 mean
 */
#include "cmd/eplb.h"

#include "cmd/svg.h"

#include <math.h>
#include <stdio.h>

enum {
    MARGIN = 24,
    LABEL_WIDTH = 48, /* of layers */
    SHARE_WIDTH = 56, /* of utilisation */
    GAP = 28,
    LEGEND_WIDTH = 150,
    TOP = 104, /* first row */
    PANEL_WIDTH = 440,
    TOOLTIPS_MAX = 20000, /* cells; more of them get no text of their own */
    LEGEND_STEPS = 200,
};

#define TOP_LEAST 1.25 /* end of the scale, at least: the noise of an even load must not look like fire */

typedef struct picture {
    const proa_eplb_study *study;
    proa_buf *out;
    double cell_width, cell_height;
    double top; /* load over mean at the end of the scale */
    int32_t rows;
} picture;

typedef struct colour {
    double at; /* position: -1 idle, 0 mean, 1 hottest */
    double r, g, b;
} colour;

static const colour scale[] = {
    {-1, 33, 102, 172},    {-0.5, 146, 197, 222}, {0, 250, 250, 250},
    {0.35, 253, 190, 133}, {0.7, 217, 72, 1},     {1, 127, 0, 20},
};
enum { SCALE_COUNT = sizeof scale / sizeof scale[0] };

/* Load over mean to a colour, "#rrggbb". Linear below the mean and above it. */
static void colour_of(double ratio, double top, char text[8])
{
    double at = ratio <= 1 ? ratio - 1 : (ratio - 1) / (top - 1);
    int i = 1;
    while (i < SCALE_COUNT - 1 && at > scale[i].at)
        i++;
    const colour *a = &scale[i - 1], *b = &scale[i];
    double t = fmin(1, fmax(0, (at - a->at) / (b->at - a->at)));
    snprintf(text, 8, "#%02x%02x%02x", (unsigned)lround(a->r + t * (b->r - a->r)),
             (unsigned)lround(a->g + t * (b->g - a->g)), (unsigned)lround(a->b + t * (b->b - a->b)));
}

static proa_expert_balance row_of(const proa_eplb_study *s, const int32_t *placement, int32_t layer,
                                  double rank_load[PROA_EXPERT_RANKS_MAX])
{
    proa_expert_rank_load(&s->shape, s->load + (ptrdiff_t)layer * s->shape.experts,
                          placement + (ptrdiff_t)layer * s->shape.physical, rank_load);
    return proa_expert_balance_of(rank_load, s->shape.ranks);
}

static void measure(picture *p)
{
    const proa_eplb_study *s = p->study;
    double rank_load[PROA_EXPERT_RANKS_MAX];
    p->top = TOP_LEAST;
    p->rows = 0;
    for (int32_t l = 0; l < s->shape.layers; l++) {
        if (!s->moe[l])
            continue;
        p->rows++;
        p->top = fmax(p->top, 1 / row_of(s, s->before, l, rank_load).utilisation);
        p->top = fmax(p->top, 1 / row_of(s, s->after, l, rank_load).utilisation);
    }
    p->cell_width = fmin(40, fmax(3, (double)PANEL_WIDTH / s->shape.ranks));
    p->cell_height = fmin(24, fmax(9, 600.0 / p->rows));
}

static void draw_row(picture *p, double x, double y, int32_t layer, const int32_t *placement)
{
    const proa_eplb_study *s = p->study;
    double rank_load[PROA_EXPERT_RANKS_MAX];
    proa_expert_balance b = row_of(s, placement, layer, rank_load);
    bool tips = (int64_t)p->rows * s->shape.ranks * 2 <= TOOLTIPS_MAX;
    for (int32_t r = 0; r < s->shape.ranks; r++) {
        char fill[8];
        double ratio = b.mean > 0 ? rank_load[r] / b.mean : 1;
        colour_of(ratio, p->top, fill);
        proa_buf_append_format(p->out,
                               "<rect x=\"%.2f\" y=\"%.2f\" width=\"%.2f\" height=\"%.2f\" fill=\"%s\"",
                               x + r * p->cell_width, y, p->cell_width, p->cell_height, fill);
        if (tips)
            proa_buf_append_format(p->out,
                                   "><title>layer %d, rank %d: %.0f, %.2f of the mean</title></rect>\n",
                                   layer, r, rank_load[r], ratio);
        else
            proa_buf_append_text(p->out, "/>\n");
    }
    proa_svg_text(p->out, x + s->shape.ranks * p->cell_width + 8, y + p->cell_height / 2 + 3.5, "share",
                  "%.0f %%", 100 * b.utilisation);
}

/* The least of 1, 2, 5, 10, 20, ... whose multiples have `room` or more between them. */
static int32_t tick_step(double size, double room)
{
    static const int32_t factors[] = {1, 2, 5};
    for (int32_t i = 0, ten = 1;; i++) {
        if (size * factors[i % 3] * ten >= room)
            return factors[i % 3] * ten;
        if (i % 3 == 2)
            ten *= 10;
    }
}

/* Ranks below, nodes as lines between. */
static void draw_frame(picture *p, double x, const char *title, const int32_t *placement)
{
    const proa_expert_shape *shape = &p->study->shape;
    double width = shape->ranks * p->cell_width, height = p->rows * p->cell_height, mean = 0, max = 0;
    double rank_load[PROA_EXPERT_RANKS_MAX];
    for (int32_t l = 0; l < shape->layers; l++) {
        if (!p->study->moe[l])
            continue;
        proa_expert_balance b = row_of(p->study, placement, l, rank_load);
        mean += b.mean;
        max += b.max;
    }
    proa_svg_text(p->out, x, TOP - 10, "head", "%s: %.1f %%", title, max > 0 ? 100 * mean / max : 100);
    proa_buf_append_format(p->out,
                           "<rect x=\"%.2f\" y=\"%d\" width=\"%.2f\" height=\"%.2f\" class=\"frame\"/>\n", x,
                           TOP, width, height);
    for (int32_t n = 1; n < shape->nodes; n++) {
        double at = x + n * (width / shape->nodes);
        proa_buf_append_format(p->out,
                               "<line x1=\"%.2f\" y1=\"%d\" x2=\"%.2f\" y2=\"%.2f\" class=\"node\"/>\n", at,
                               TOP, at, TOP + height);
    }
    int32_t step = tick_step(p->cell_width, 22);
    for (int32_t r = 0; r < shape->ranks; r += step)
        proa_svg_text(p->out, x + (r + 0.5) * p->cell_width, TOP + height + 15, "tick middle", "%d", r);
    proa_svg_text(p->out, x + width / 2, TOP + height + 32, "axis middle", "rank");
}

static void draw_panel(picture *p, double x, const char *title, const int32_t *placement)
{
    double y = TOP;
    for (int32_t l = 0; l < p->study->shape.layers; l++) {
        if (!p->study->moe[l])
            continue;
        draw_row(p, x, y, l, placement);
        y += p->cell_height;
    }
    draw_frame(p, x, title, placement);
}

static void draw_layers(picture *p)
{
    int32_t step = tick_step(p->cell_height, 11), row = 0;
    for (int32_t l = 0; l < p->study->shape.layers; l++) {
        if (!p->study->moe[l])
            continue;
        if (row % step == 0)
            proa_svg_text(p->out, MARGIN + LABEL_WIDTH - 8, TOP + (row + 0.5) * p->cell_height + 3.5,
                          "tick end", "%d", l);
        row++;
    }
    proa_svg_text(p->out, MARGIN + LABEL_WIDTH - 8, TOP - 10, "axis end", "layer");
}

/* The scale as it is: from no load at the bottom to the hottest cell, linear, the mean where it belongs. */
static void draw_legend(picture *p, double x)
{
    double height = fmax(120, fmin(260, p->rows * p->cell_height)), each = height / LEGEND_STEPS;
    for (int i = 0; i < LEGEND_STEPS; i++) {
        char fill[8];
        colour_of((i + 0.5) / LEGEND_STEPS * p->top, p->top, fill);
        proa_buf_append_format(p->out,
                               "<rect x=\"%.2f\" y=\"%.2f\" width=\"16\" height=\"%.2f\" fill=\"%s\"/>\n", x,
                               TOP + height - (i + 1) * each, each + 0.3, fill);
    }
    proa_buf_append_format(
        p->out, "<rect x=\"%.2f\" y=\"%d\" width=\"16\" height=\"%.2f\" class=\"frame\"/>\n", x, TOP, height);
    proa_svg_text(p->out, x, TOP - 10, "axis", "load of a rank / mean of its layer");
    proa_svg_text(p->out, x + 24, TOP + 8, "tick", "%.2f%s", p->top, p->top > TOP_LEAST ? " hottest" : "");
    proa_svg_text(p->out, x + 24, TOP + fmin(height - height / p->top + 3.5, height - 2), "tick",
                  "1 the mean");
    proa_svg_text(p->out, x + 24, TOP + height + 10, "tick", "0 idle");
}

void proa_eplb_draw(const proa_eplb_study *study, proa_buf *out)
{
    picture p = {.study = study, .out = out};
    const proa_expert_shape *s = &study->shape;
    measure(&p);
    double panel = s->ranks * p.cell_width + SHARE_WIDTH, first = MARGIN + LABEL_WIDTH;
    double legend = first + 2 * (panel + GAP), width = legend + LEGEND_WIDTH + MARGIN + 40;
    double height = fmax(TOP + p.rows * p.cell_height + 48, TOP + 150);
    proa_svg_begin(out, width, height, "shape-rendering=\"crispEdges\"",
                   ".share{font-size:10px;fill:#666}.node{stroke:#333;stroke-width:1.2}");
    proa_svg_text(out, MARGIN, 32, "title", "Load of ranks by layer");
    proa_svg_text(out, MARGIN, 52, "sub",
                  "%d experts and %d redundant ones on %d ranks, %d node%s; %s; load: %s", s->experts,
                  s->physical - s->experts, s->ranks, s->nodes, s->nodes == 1 ? "" : "s",
                  proa_eplb_algorithm_name(study->algorithm), study->load_name);
    proa_svg_text(out, MARGIN, 67, "sub",
                  "per cent: mean over fullest rank, the most that ranks can be busy with experts");
    draw_layers(&p);
    draw_panel(&p, first, study->before_name, study->before);
    draw_panel(&p, first + panel + GAP, "planned", study->after);
    draw_legend(&p, legend);
    proa_svg_end(out);
}
