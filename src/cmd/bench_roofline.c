/* bench_roofline.c - see bench_roofline.h. Names are borrowed from the JSON, and refused where a picture could not show them. */
#include "cmd/bench_roofline.h"

#include "base/file.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    NAME_MAX_BYTES = 63, /* wider names have no room in the picture */
};

/* Some times are differences of two, and those of tiny ops below what a clock tells apart. */
static const double shortest_us = 1e-3;

static const char *const default_shapes[] = {"decode 128 at 4096", "prefill 4 x 4096"};

proa_bench_peaks proa_bench_peaks_of(const char *gpu)
{
    static const struct {
        const char *name;
        proa_bench_peaks peaks;
    } known[] = {{"GB200", {8000, 5000e3, 2500e3}},
                 {"B200", {8000, 4500e3, 2250e3}},
                 {"GH200", {4000, 1979e3, 989e3}},
                 {"H200", {4800, 1979e3, 989e3}},
                 {"", {3350, 1979e3, 989e3}}};
    size_t i = 0;
    while (strstr(gpu, known[i].name) == NULL)
        i++;
    return known[i].peaks;
}

double proa_roofline_bound(const proa_bench_peaks *p, double bytes, double fp8_flops, double bf16_flops,
                           const char **by)
{
    const double memory = bytes / p->bytes_ns / 1e3, fp8 = fp8_flops / p->fp8_flops_ns / 1e3,
                 bf16 = bf16_flops / p->bf16_flops_ns / 1e3;
    if (memory >= fp8 && memory >= bf16) {
        *by = "HBM";
        return memory;
    }
    *by = fp8 >= bf16 ? "FP8" : "BF16";
    return fmax(fp8, bf16);
}

/* ---- reading ---- */

/* A short text that any font has; NULL and an error otherwise. */
static const char *read_name(const proa_json *object, const char *key, proa_error *err)
{
    const proa_json *value = proa_json_get(object, key);
    const char *text = proa_json_string(value, NULL);
    const size_t length = text != NULL ? strlen(text) : 0;
    bool good = length > 0 && length <= NAME_MAX_BYTES && length == proa_json_string_length(value);
    for (size_t i = 0; i < length; i++)
        good = good && text[i] >= ' ' && text[i] <= '~';
    if (good)
        return text;
    proa_error_set(err, PROA_ERR_INVALID, "\"%s\" must be there and be a text of 1 to %d ASCII characters",
                   key, NAME_MAX_BYTES);
    return NULL;
}

/* A number from `low` on; absent is wrong. NAN stands for any. */
static proa_status read_number(const proa_json *object, const char *key, double low, double *value,
                               proa_error *err)
{
    *value = proa_json_real(proa_json_get(object, key), NAN);
    if (fabs(*value) <= 1e30 && !(*value < low))
        return PROA_OK;
    if (isnan(low))
        return proa_error_set(err, PROA_ERR_INVALID, "\"%s\" must be there and be a number", key);
    return proa_error_set(err, PROA_ERR_INVALID, "\"%s\" must be there and be a number of %g or more", key,
                          low);
}

static proa_status read_peaks(const proa_json *whole, proa_roofline *r, proa_error *err)
{
    const proa_json *peaks = proa_json_get(whole, "peaks");
    double gbps, fp8_tflops, bf16_tflops;
    r->peaks = proa_bench_peaks_of(r->gpu);
    if (peaks == NULL)
        return PROA_OK;
    proa_status status = read_number(peaks, "hbm_gbps", 1e-3, &gbps, err);
    if (status == PROA_OK)
        status = read_number(peaks, "fp8_tflops", 1e-3, &fp8_tflops, err);
    if (status == PROA_OK)
        status = read_number(peaks, "bf16_tflops", 1e-3, &bf16_tflops, err);
    if (status != PROA_OK)
        return proa_error_prefix(err, "peaks");
    r->peaks = (proa_bench_peaks){gbps, fp8_tflops * 1e3, bf16_tflops * 1e3};
    return PROA_OK;
}

/* The shape of this name, made when it is new; NULL when there is no room. */
static proa_roofline_shape *shape_of(proa_roofline *r, const char *name)
{
    for (int32_t i = 0; i < r->shape_count; i++)
        if (strcmp(r->shapes[i].name, name) == 0)
            return &r->shapes[i];
    if (r->shape_count == PROA_ROOFLINE_SHAPES_MAX)
        return NULL;
    r->shapes[r->shape_count] = (proa_roofline_shape){.name = name};
    return &r->shapes[r->shape_count++];
}

static proa_status add_op(proa_roofline_shape *s, const proa_roofline_op *op, proa_error *err)
{
    for (int32_t i = 0; i < s->op_count; i++)
        if (strcmp(s->ops[i].name, op->name) == 0)
            return proa_error_set(err, PROA_ERR_INVALID, "\"op\" %s is there twice for %s", op->name,
                                  s->name);
    if (s->op_count == PROA_ROOFLINE_OPS_MAX)
        return proa_error_set(err, PROA_ERR_TOO_LONG, "more than %d ops for %s", PROA_ROOFLINE_OPS_MAX,
                              s->name);
    s->ops[s->op_count++] = *op;
    return PROA_OK;
}

static proa_status read_row(const proa_json *row, proa_roofline *r, proa_error *err)
{
    const char *name = read_name(row, "shape", err);
    proa_roofline_op op = {0};
    proa_status status = PROA_ERR_INVALID;
    if (name != NULL && (op.name = read_name(row, "op", err)) != NULL)
        status = read_number(row, "time_us", NAN, &op.us, err);
    if (status != PROA_OK)
        return status;
    proa_roofline_shape *shape = shape_of(r, name);
    if (shape == NULL)
        return proa_error_set(err, PROA_ERR_TOO_LONG, "more than %d shapes", PROA_ROOFLINE_SHAPES_MAX);
    op.us = op.us < shortest_us ? 0 : op.us;
    if (strcmp(op.name, "step") == 0) {
        shape->step_us = op.us;
        shape->whole = op.us > 0;
        return PROA_OK;
    }
    if (strcmp(op.name, "step on one stream") == 0)
        return PROA_OK;
    status = read_number(row, "bytes", 1, &op.bytes, err);
    if (status == PROA_OK)
        status = read_number(row, "fp8_flops", 0, &op.fp8_flops, err);
    if (status == PROA_OK)
        status = read_number(row, "bf16_flops", 0, &op.bf16_flops, err);
    return status == PROA_OK ? add_op(shape, &op, err) : status;
}

static bool is_wanted(const char *name, const char *wanted)
{
    if (wanted != NULL)
        return strstr(name, wanted) != NULL;
    for (size_t i = 0; i < sizeof default_shapes / sizeof *default_shapes; i++)
        if (strcmp(name, default_shapes[i]) == 0)
            return true;
    return false;
}

/* Leaves the shapes that are to be drawn. */
static proa_status choose(proa_roofline *r, const char *wanted, proa_error *err)
{
    int32_t count = 0;
    char names[400] = "";
    for (int32_t i = 0; i < r->shape_count; i++) {
        const size_t used = strlen(names);
        snprintf(names + used, sizeof names - used, "%s%s", i > 0 ? ", " : "", r->shapes[i].name);
        if (r->shapes[i].op_count > 0 && is_wanted(r->shapes[i].name, wanted))
            count++;
    }
    const bool all = count == 0 && wanted == NULL;
    count = 0;
    for (int32_t i = 0; i < r->shape_count; i++)
        if (r->shapes[i].op_count > 0 && (all || is_wanted(r->shapes[i].name, wanted)))
            r->shapes[count++] = r->shapes[i];
    r->shape_count = count;
    if (count > 0)
        return PROA_OK;
    if (wanted == NULL)
        return proa_error_set(err, PROA_ERR_INVALID,
                              "\"rows\" has no op of any shape: there is nothing to draw");
    return proa_error_set(err, PROA_ERR_NOT_FOUND, "--shape %s: no shape with that in its name; there are %s",
                          wanted, names);
}

static int longest_first(const void *a, const void *b)
{
    const proa_roofline_op *x = a, *y = b;
    return x->us != y->us ? (x->us < y->us) - (x->us > y->us) : strcmp(x->name, y->name);
}

proa_status proa_roofline_read(const proa_json *whole, const char *wanted, proa_roofline *r, proa_error *err)
{
    const proa_json *rows = proa_json_get(whole, "rows");
    *r = (proa_roofline){0};
    if (!proa_json_is(whole, PROA_JSON_OBJECT) || !proa_json_is(rows, PROA_JSON_ARRAY))
        return proa_error_set(
            err, PROA_ERR_INVALID,
            "it must be an object with \"gpu\" and an array \"rows\", as `proa bench slice --json` "
            "writes it");
    r->gpu = read_name(whole, "gpu", err);
    proa_status status = r->gpu != NULL ? read_peaks(whole, r, err) : PROA_ERR_INVALID;
    for (size_t i = 0; i < proa_json_size(rows) && status == PROA_OK; i++) {
        status = read_row(proa_json_at(rows, i), r, err);
        if (status != PROA_OK)
            return proa_error_prefix(err, "rows[%zu]", i);
    }
    if (status == PROA_OK)
        status = choose(r, wanted, err);
    for (int32_t i = 0; i < r->shape_count && status == PROA_OK; i++) {
        proa_roofline_shape *s = &r->shapes[i];
        qsort(s->ops, (size_t)s->op_count, sizeof *s->ops, longest_first);
        for (int32_t op = 0; op < s->op_count && !s->whole; op++)
            s->step_us += s->ops[op].us;
    }
    return status;
}

proa_status proa_roofline_write(const proa_json *whole, const char *wanted, const char *svg, proa_error *err)
{
    proa_roofline *roofline = malloc(sizeof *roofline);
    proa_buf text = {0};
    if (roofline == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory to draw %s", svg);
    proa_status status = proa_roofline_read(whole, wanted, roofline, err);
    if (status == PROA_OK) {
        proa_roofline_draw(roofline, &text);
        status = proa_file_write_buf(svg, &text, err);
    }
    proa_buf_free(&text);
    free(roofline);
    return status;
}
