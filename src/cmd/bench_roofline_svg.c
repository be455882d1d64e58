/* bench_roofline_svg.c - the picture of bench_roofline.h: a panel a shape, an op a dot, its area the op's share of the step.
 *
 * Above, ops with products: TFLOP/s over the FLOP for each byte that must move, both logarithmic, so that the memory's bandwidth is a slope
 * and a peak is level. Below, ops that only move bytes, which have no place there: GB/s, linear, up to the bandwidth. A dot has the number of
 * its row in the list at the side; the number stands in the dot or at the first free place around it.
 *
 *   decode 128 at 4096: 33.78 ms
 *   TFLOP/s                                    #  op               share TFLOP/s  GB/s  of roof
 *        |       ___________ FP8                1  MLA decode        44 %     597  2616     60 %
 *        |    _/__ o1 _o2___ BF16               2  experts gate, up  16 %     657  3063     64 %
 *        |  /   o4  o3                          3  experts down
 *        +-------------------                   4  o_proj
 *         FLOP per byte                         5  norms
 *   GB/s  ---o-5-----------|                    ...
 *
 * Lacks: other roofs than those of the data sheet (caches, which ops between others may read from: they can stand above the slope).
 */
#include "cmd/bench_roofline.h"
#include "cmd/svg.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum {
    WIDTH = 960,
    MARGIN = 24,
    TOP = 92, /* first panel */
    PLOT_X = 72,
    PLOT_WIDTH = 500,
    PLOT_HEIGHT = 300,
    HEAD_HEIGHT = 34, /* above a plot */
    AXIS_HEIGHT = 34, /* below it */
    LANE_HEIGHT = 56, /* of ops that only move bytes */
    LIST_X = 600,
    LIST_STEP = 16,
    LIST_NUMBER = LIST_X + 26, /* columns: right ends, but for names */
    LIST_NAME = LIST_X + 34,
    LIST_NAME_CHARACTERS = 20,
    LIST_SHARE = LIST_X + 190,
    LIST_TFLOPS = LIST_X + 242,
    LIST_GBPS = LIST_X + 284,
    LIST_REACHED = LIST_X + 334,
    GAP = 26,
    RADIUS_WHOLE = 32, /* of an op that is the whole step */
    LABEL_HEIGHT = 10,
    LABEL_SPACE = 2,                       /* to another text, on each side */
    BOXES_MAX = PROA_ROOFLINE_OPS_MAX + 8, /* of numbers, of roofs and their names */
};

static const double pi = 3.14159265358979, radius_least = 2.5, radius_for_text = 8.5, digit_width = 6.2;

typedef struct box {
    double left, top, right, bottom;
} box;

/* A value to a place: from `low` at `at` to `high` at `at` + `span`. */
typedef struct axis {
    double low, high;
    double at, span;
    bool linear;
} axis;

typedef struct dot {
    const proa_roofline_op *op;
    int32_t number;
    double x, y, r;
} dot;

/* The memory's roof, from left to right. */
typedef struct slope {
    double x1, y1, x2, y2;
} slope;

typedef struct panel {
    const proa_roofline *roofline;
    const proa_roofline_shape *shape;
    proa_buf *out;
    double top;      /* of the plot */
    axis x, y, lane; /* FLOP per byte, TFLOP/s; GB/s */
    double lane_top; /* 0: no op only moves bytes */
    slope slope;
    int32_t dot_count;
    dot dots[PROA_ROOFLINE_OPS_MAX];
    box taken[BOXES_MAX]; /* by text */
    int32_t taken_count;
} panel;

static double flops_of(const proa_roofline_op *op)
{
    return op->fp8_flops + op->bf16_flops;
}

static double tflops_of(const proa_roofline_op *op)
{
    return flops_of(op) / op->us / 1e6;
}

static double gbps_of(const proa_roofline_op *op)
{
    return op->bytes / op->us / 1e3;
}

static const char *class_of(const proa_roofline_op *op)
{
    if (flops_of(op) <= 0)
        return "moves";
    return op->fp8_flops >= op->bf16_flops ? "fp8" : "bf16";
}

static double place(const axis *a, double value)
{
    double t =
        a->linear ? (value - a->low) / (a->high - a->low) : log(value / a->low) / log(a->high / a->low);
    return a->at + a->span * fmin(1, fmax(0, t));
}

/* ---- where numbers stand ---- */

static bool meets_dot(const dot *d, const box *b)
{
    double x = fmin(b->right, fmax(b->left, d->x)), y = fmin(b->bottom, fmax(b->top, d->y));
    return hypot(x - d->x, y - d->y) < d->r + 1;
}

static bool meets_slope(const slope *s, const box *b)
{
    if (b->right < s->x1 || b->left > s->x2 || s->x1 >= s->x2)
        return false;
    const double rise = (s->y2 - s->y1) / (s->x2 - s->x1); /* negative: up is less */
    return s->y1 + rise * (b->left - s->x1) > b->top && s->y1 + rise * (b->right - s->x1) < b->bottom;
}

static bool is_free(const panel *p, const box *b, const dot *own)
{
    for (int32_t i = 0; i < p->taken_count; i++) {
        const box *t = &p->taken[i];
        if (b->left - LABEL_SPACE < t->right && t->left < b->right + LABEL_SPACE && b->top < t->bottom &&
            t->top < b->bottom)
            return false;
    }
    for (int32_t i = 0; i < p->dot_count; i++)
        if (&p->dots[i] != own && meets_dot(&p->dots[i], b))
            return false;
    return !meets_slope(&p->slope, b);
}

static void take(panel *p, box b)
{
    if (p->taken_count < BOXES_MAX)
        p->taken[p->taken_count++] = b;
}

static box box_around(double x, double y, double width)
{
    return (box){x - width / 2, y - LABEL_HEIGHT / 2.0, x + width / 2, y + LABEL_HEIGHT / 2.0};
}

static bool is_inside(const panel *p, const dot *d, const box *b)
{
    const bool lane = flops_of(d->op) <= 0;
    const double top = lane ? p->lane_top : p->top, height = lane ? LANE_HEIGHT : PLOT_HEIGHT;
    return b->left > PLOT_X && b->right < PLOT_X + PLOT_WIDTH && b->top > top && b->bottom < top + height;
}

/* In the dot, or the nearest place around it that is free; where none is, the centre. Returns how far away that is. */
static double find_place(const panel *p, const dot *d, box *found)
{
    enum { ANGLES = 16, RINGS = 24, RING_STEP = 4 };
    const double width = digit_width * (d->number > 9 ? 2 : 1);
    const box centre = box_around(d->x, d->y, width);
    *found = centre;
    if (d->r >= radius_for_text && is_free(p, &centre, d))
        return 0;
    for (int ring = 0; ring < RINGS; ring++)
        for (int i = 0; i < ANGLES; i++) {
            const double angle = (i % 2 == 0 ? i / 2 : -(i + 1) / 2) * 2 * pi / ANGLES - pi / 4;
            const double away = d->r + 2 + ring * RING_STEP;
            const box b = box_around(d->x + (away + width / 2) * cos(angle),
                                     d->y + (away + LABEL_HEIGHT / 2.0) * sin(angle), width);
            if (is_inside(p, d, &b) && is_free(p, &b, NULL)) {
                *found = b;
                return ring * RING_STEP + 2;
            }
        }
    return 2;
}

/* Whether it is plain from afar which dot a number belongs to. */
static bool stands_alone(const panel *p, const dot *d)
{
    for (int32_t i = 0; i < p->dot_count; i++) {
        const dot *other = &p->dots[i];
        if (other != d && hypot(other->x - d->x, other->y - d->y) < other->r + d->r)
            return false;
    }
    return true;
}

/* A number that is further away, or whose dot lies on others, has a line to the middle of its dot. */
static void draw_number(panel *p, const dot *d)
{
    enum { LINE_FROM = 8 };
    box b;
    const double away = find_place(p, d, &b), x = (b.left + b.right) / 2, y = (b.top + b.bottom) / 2;
    take(p, b);
    if (away >= LINE_FROM || (away > 0 && !stands_alone(p, d))) {
        const double length = hypot(x - d->x, y - d->y), end = fmax(0, 1 - 6.5 / length);
        proa_buf_append_format(p->out, "<path d=\"M%.1f %.1fL%.1f %.1f\" class=\"to\"/>\n", d->x, d->y,
                               d->x + (x - d->x) * end, d->y + (y - d->y) * end);
    }
    proa_svg_text(p->out, x, y + 3.6, away > 0 ? "n" : "n in", "%d", d->number);
}

/* ---- axes and roofs ---- */

/* Wide enough for every op and for where the roofs bend. */
static void set_axes(panel *p)
{
    const proa_bench_peaks *peak = &p->roofline->peaks;
    const double fp8_bend = peak->fp8_flops_ns / peak->bytes_ns,
                 bf16_bend = peak->bf16_flops_ns / peak->bytes_ns;
    double x_low = bf16_bend / 4, x_high = fp8_bend * 2.5, y_low = peak->bf16_flops_ns / 4e3,
           y_high = fmax(peak->fp8_flops_ns, peak->bf16_flops_ns) / 1e3, gbps = peak->bytes_ns;
    bool moves = false;
    for (int32_t i = 0; i < p->shape->op_count; i++) {
        const proa_roofline_op *op = &p->shape->ops[i];
        if (op->us <= 0)
            continue;
        if (flops_of(op) <= 0) {
            gbps = fmax(gbps, gbps_of(op));
            moves = true;
            continue;
        }
        x_low = fmin(x_low, flops_of(op) / op->bytes);
        x_high = fmax(x_high, flops_of(op) / op->bytes * 1.6);
        y_low = fmin(y_low, tflops_of(op));
        y_high = fmax(y_high, tflops_of(op));
    }
    x_low = fmax(x_low * 0.6, x_high * 1e-9);
    y_low = fmax(y_low * 0.6, y_high * 1e-9);
    p->x = (axis){x_low, x_high, PLOT_X, PLOT_WIDTH, false};
    p->y = (axis){y_low, y_high * 1.5, p->top + PLOT_HEIGHT, -PLOT_HEIGHT, false};
    p->lane = (axis){0, gbps * 1.06, PLOT_X, PLOT_WIDTH, true};
    p->lane_top = moves ? p->top + PLOT_HEIGHT + AXIS_HEIGHT + HEAD_HEIGHT - 10 : 0;
}

static void draw_frame(panel *p, double top, double height)
{
    proa_buf_append_format(p->out,
                           "<rect x=\"%d\" y=\"%.1f\" width=\"%d\" height=\"%.1f\" class=\"frame\"/>\n",
                           PLOT_X, top, PLOT_WIDTH, height);
}

static void draw_tick(panel *p, const axis *a, double value)
{
    const double at = place(a, value);
    if (a->span < 0) {
        proa_buf_append_format(p->out, "<path d=\"M%d %.1fh%d\" class=\"grid\"/>\n", PLOT_X, at, PLOT_WIDTH);
        proa_svg_text(p->out, PLOT_X - 6, at + 3.5, "tick end", "%g", value);
        return;
    }
    const double top = a->linear ? p->lane_top : p->top, height = a->linear ? LANE_HEIGHT : PLOT_HEIGHT;
    proa_buf_append_format(p->out, "<path d=\"M%.1f %.1fv%.0f\" class=\"grid\"/>\n", at, top, height);
    proa_svg_text(p->out, at, top + height + 13, "tick middle", "%g", value);
}

/* Powers of ten, and 2 and 5 of each where there are few. */
static void draw_log_ticks(panel *p, const axis *a)
{
    static const double parts[] = {1, 2, 5};
    const double decades = log10(a->high / a->low);
    const int part_count = decades < 3 ? 3 : 1;
    for (int ten = (int)floor(log10(a->low)); ten <= (int)ceil(log10(a->high)); ten++)
        for (int i = 0; i < part_count; i++) {
            const double value = parts[i] * pow(10, ten);
            if (value >= a->low && value <= a->high)
                draw_tick(p, a, value);
        }
}

/* What a level roof is called, at the first place from its right end on that no dot and no other text has. */
static void name_roof(panel *p, double y, const char *class, const char *text)
{
    const double width = 6 * (double)strlen(text), last = PLOT_X + PLOT_WIDTH - 6;
    double right = last;
    for (double at = last; at - width > PLOT_X; at -= 10) {
        const box b = {at - width, y - 14, at, y - 3};
        if (is_free(p, &b, NULL)) {
            right = at;
            break;
        }
    }
    take(p, (box){right - width, y - 14, right, y - 3});
    proa_buf_append_format(p->out, "<text x=\"%.1f\" y=\"%.1f\" class=\"end %s\">%s</text>\n", right, y - 5,
                           class, text);
}

static void draw_level_roof(panel *p, double flops_ns, const char *name, const char *class)
{
    const double tflops = flops_ns / 1e3, y = place(&p->y, tflops);
    const double bend = place(&p->x, flops_ns / p->roofline->peaks.bytes_ns);
    char text[64];
    proa_buf_append_format(p->out, "<path d=\"M%.1f %.1fH%d\" class=\"roof %s\"/>\n", bend, y,
                           PLOT_X + PLOT_WIDTH, class);
    take(p, (box){bend, y - 1, PLOT_X + PLOT_WIDTH, y + 1});
    snprintf(text, sizeof text, "%s %.0f TFLOP/s", name, tflops);
    name_roof(p, y, class, text);
}

/* Along the slope, from its lower end on. */
static void name_slope(panel *p)
{
    enum { FROM = 14, PIECE = 14, PIECES = 4 }; /* of the text, which is aslant */
    const slope *s = &p->slope;
    const double angle = atan2(s->y2 - s->y1, s->x2 - s->x1), c = cos(angle), d = sin(angle);
    proa_buf_append_format(
        p->out, "<text transform=\"translate(%.1f %.1f) rotate(%.1f)\" y=\"-5\">%.0f GB/s</text>\n",
        s->x1 + FROM * c, s->y1 + FROM * d, angle * 180 / pi, p->roofline->peaks.bytes_ns);
    for (int i = 0; i < PIECES; i++) {
        const double along = FROM + PIECE * (i + 0.5), above = 9;
        take(p, box_around(s->x1 + along * c + above * d, s->y1 + along * d - above * c, PIECE));
    }
}

static void draw_roofs(panel *p)
{
    const proa_bench_peaks *peak = &p->roofline->peaks;
    const double highest = fmax(peak->fp8_flops_ns, peak->bf16_flops_ns);
    const double first = fmax(p->x.low, p->y.low * 1e3 / peak->bytes_ns), bend = highest / peak->bytes_ns;
    p->slope = (slope){place(&p->x, first), place(&p->y, first * peak->bytes_ns / 1e3), place(&p->x, bend),
                       place(&p->y, highest / 1e3)};
    proa_buf_append_format(p->out, "<path d=\"M%.1f %.1fL%.1f %.1f\" class=\"roof\"/>\n", p->slope.x1,
                           p->slope.y1, p->slope.x2, p->slope.y2);
    name_slope(p);
    draw_level_roof(p, peak->fp8_flops_ns, "FP8", "fp8");
    draw_level_roof(p, peak->bf16_flops_ns, "BF16", "bf16");
}

static void draw_lane(panel *p)
{
    const double peak = p->roofline->peaks.bytes_ns, at = place(&p->lane, peak);
    double step = pow(10, floor(log10(p->lane.high / 4)));
    step *= p->lane.high / step > 20 ? 5 : p->lane.high / step > 8 ? 2 : 1;
    proa_svg_text(p->out, PLOT_X, p->lane_top - 7, "axis", "ops that only move bytes, GB/s");
    for (int i = 0; i * step <= p->lane.high; i++)
        draw_tick(p, &p->lane, i * step);
    draw_frame(p, p->lane_top, LANE_HEIGHT);
    proa_buf_append_format(p->out, "<path d=\"M%.1f %.1fv%d\" class=\"roof\"/>\n", at, p->lane_top,
                           LANE_HEIGHT);
    proa_svg_text(p->out, at, p->lane_top - 7, "tick middle", "%.0f", peak);
}

/* ---- dots and the list ---- */

static void set_dots(panel *p)
{
    for (int32_t i = 0; i < p->shape->op_count; i++) {
        const proa_roofline_op *op = &p->shape->ops[i];
        const bool moves = flops_of(op) <= 0;
        if (op->us <= 0)
            break; /* the last ones: longest first */
        const double share = fmin(1, op->us / p->shape->step_us);
        p->dots[p->dot_count++] =
            (dot){.op = op,
                  .number = i + 1,
                  .r = fmax(radius_least, RADIUS_WHOLE * sqrt(share)),
                  .x = moves ? place(&p->lane, gbps_of(op)) : place(&p->x, flops_of(op) / op->bytes),
                  .y = moves ? p->lane_top + LANE_HEIGHT / 2.0 : place(&p->y, tflops_of(op))};
    }
}

static double reached(const panel *p, const proa_roofline_op *op)
{
    const char *by;
    return 100 * proa_roofline_bound(&p->roofline->peaks, op->bytes, op->fp8_flops, op->bf16_flops, &by) /
           op->us;
}

static void draw_dot(panel *p, const dot *d)
{
    const proa_roofline_op *op = d->op;
    proa_buf_append_format(p->out, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"%.1f\" class=\"dot %s\"><title>",
                           d->x, d->y, d->r, class_of(op));
    proa_svg_escape(p->out, op->name);
    proa_buf_append_format(p->out, ": %.1f us", op->us);
    if (flops_of(op) > 0)
        proa_buf_append_format(p->out, ", %.*f TFLOP/s at %.*f FLOP/byte", tflops_of(op) < 9.5 ? 2 : 0,
                               tflops_of(op), flops_of(op) / op->bytes < 9.5 ? 2 : 0,
                               flops_of(op) / op->bytes);
    proa_buf_append_text(p->out, "</title></circle>\n");
}

static void draw_list_head(panel *p)
{
    proa_buf_append_format(
        p->out,
        "<text y=\"%.0f\" class=\"sub\"><tspan x=\"%d\">op</tspan><tspan x=\"%d\" class=\"end\">%% of "
        "%s</tspan><tspan x=\"%d\" class=\"end\">TFLOP/s</tspan><tspan x=\"%d\" "
        "class=\"end\">GB/s</tspan><tspan x=\"%d\" class=\"end\">of roof</tspan></text>\n",
        p->top + 4, LIST_NAME, LIST_SHARE, p->shape->whole ? "step" : "sum", LIST_TFLOPS, LIST_GBPS,
        LIST_REACHED);
}

static void draw_list_row(panel *p, double y, int32_t number, const proa_roofline_op *op)
{
    char name[LIST_NAME_CHARACTERS + 1];
    snprintf(name, sizeof name, "%s", op->name);
    proa_buf_append_format(
        p->out,
        "<circle cx=\"%d\" cy=\"%.1f\" r=\"4\" class=\"%s\"/><text y=\"%.1f\"><tspan x=\"%d\" "
        "class=\"end\">%d</tspan><tspan x=\"%d\">",
        LIST_X + 4, y - 4, class_of(op), y, LIST_NUMBER, number, LIST_NAME);
    proa_svg_escape(p->out, name);
    proa_buf_append_text(p->out, "</tspan>");
    if (op->us > 0) {
        proa_buf_append_format(p->out, "<tspan x=\"%d\" class=\"end\">%.1f</tspan>", LIST_SHARE,
                               100 * op->us / p->shape->step_us);
        if (flops_of(op) > 0)
            proa_buf_append_format(p->out,
                                   tflops_of(op) < 9.5 ? "<tspan x=\"%d\" class=\"end\">%.2g</tspan>"
                                                       : "<tspan x=\"%d\" class=\"end\">%.0f</tspan>",
                                   LIST_TFLOPS, tflops_of(op));
        proa_buf_append_format(
            p->out, "<tspan x=\"%d\" class=\"end\">%.0f</tspan><tspan x=\"%d\" class=\"end\">%.0f %%</tspan>",
            LIST_GBPS, gbps_of(op), LIST_REACHED, reached(p, op));
    } else {
        proa_buf_append_format(p->out, "<tspan x=\"%d\" class=\"end\">too short to tell</tspan>",
                               LIST_REACHED);
    }
    proa_buf_append_text(p->out, "</text>\n");
}

static void draw_list(panel *p)
{
    draw_list_head(p);
    for (int32_t i = 0; i < p->shape->op_count; i++)
        draw_list_row(p, p->top + 4 + (i + 1) * LIST_STEP, i + 1, &p->shape->ops[i]);
}

static void draw_panel(panel *p)
{
    set_axes(p);
    set_dots(p);
    proa_buf_append_format(p->out, "<text x=\"%d\" y=\"%.0f\" class=\"head\">", MARGIN, p->top - 22);
    proa_svg_escape(p->out, p->shape->name);
    proa_buf_append_format(p->out, ": %.2f ms%s</text>\n", p->shape->step_us / 1e3,
                           p->shape->whole ? " a step" : ", the sum of these ops");
    proa_svg_text(p->out, MARGIN, p->top - 6, "axis", "TFLOP/s");
    draw_log_ticks(p, &p->x);
    draw_log_ticks(p, &p->y);
    draw_frame(p, p->top, PLOT_HEIGHT);
    proa_svg_text(p->out, PLOT_X + PLOT_WIDTH / 2.0, p->top + PLOT_HEIGHT + 28, "axis middle",
                  "FLOP for each byte that must move");
    if (p->lane_top > 0)
        draw_lane(p);
    draw_roofs(p);
    for (int32_t i = 0; i < p->dot_count; i++)
        draw_dot(p, &p->dots[i]);
    for (int32_t i = 0; i < p->dot_count; i++)
        draw_number(p, &p->dots[i]);
    draw_list(p);
}

static double panel_height(const proa_roofline_shape *s)
{
    const double plots = PLOT_HEIGHT + 2 * AXIS_HEIGHT + HEAD_HEIGHT + LANE_HEIGHT;
    return HEAD_HEIGHT + GAP + fmax(plots - 24, LIST_STEP * (s->op_count + 1.0));
}

static void draw_key(proa_buf *out)
{
    static const struct {
        const char *class, *text;
        int x;
    } kinds[] = {{"fp8", "FP8 products", MARGIN},
                 {"bf16", "BF16 products and attention", MARGIN + 110},
                 {"moves", "moves bytes only", MARGIN + 290}};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        proa_buf_append_format(out, "<circle cx=\"%d\" cy=\"69\" r=\"4.5\" class=\"%s\"/>\n", kinds[i].x + 5,
                               kinds[i].class);
        proa_svg_text(out, kinds[i].x + 14, 73, "sub", "%s", kinds[i].text);
    }
}

void proa_roofline_draw(const proa_roofline *r, proa_buf *out)
{
    double height = TOP, top = TOP;
    for (int32_t i = 0; i < r->shape_count; i++)
        height += panel_height(&r->shapes[i]);
    proa_svg_begin(
        out, WIDTH, height, "",
        ".fp8{fill:#2166ac}.bf16{fill:#d9480f}.moves{fill:#777}.dot{fill-opacity:.75;stroke:white}.roof{fill:"
        "none;stroke:#333;stroke-width:1.5}.roof.fp8{stroke:#2166ac}.roof.bf16{stroke:#d9480f}.grid{stroke:#"
        "eee}.to{stroke:#333;stroke-width:.8}.n{font-size:10px;text-anchor:middle}.n.in{fill:white;font-"
        "weight:bold}");
    proa_svg_text(out, MARGIN, 32, "title", "Roofline of one rank's share on one %s", r->gpu);
    proa_svg_text(
        out, MARGIN, 52, "sub",
        "each op summed over all layers; a dot's area is its share of the step; roofs are the data sheet's "
        "dense peaks; no all-to-all");
    draw_key(out);
    for (int32_t i = 0; i < r->shape_count; i++) {
        panel p = {.roofline = r, .shape = &r->shapes[i], .out = out, .top = top + HEAD_HEIGHT};
        draw_panel(&p);
        top += panel_height(&r->shapes[i]);
    }
    proa_svg_end(out);
}
