/* test_roofline.c - the picture of `proa bench slice`: what of a stored measurement is in it, where its numbers stand, what is refused. */
#include "cmd/bench_roofline.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define OP                                                                                                   \
    "{\"shape\": \"s\", \"op\": \"o\", \"time_us\": 2, \"bytes\": 8, \"fp8_flops\": 4, \"bf16_flops\": 0}"
#define ROWS(rows) "{\"gpu\": \"NVIDIA H200\", \"rows\": [" rows "]}"

static proa_json *stored(void)
{
    char path[4096];
    proa_error err = {0};
    snprintf(path, sizeof path, "%s/data/slice_h200.json", getenv("PROA_TEST_SOURCE"));
    proa_json *whole = proa_json_parse_file(path, 1 << 20, &err);
    if (whole == NULL)
        fail_msg("%s", err.text);
    return whole;
}

static void draw(const proa_json *whole, const char *wanted, proa_roofline *r, proa_buf *out)
{
    proa_error err = {0};
    if (proa_roofline_read(whole, wanted, r, &err) != PROA_OK)
        fail_msg("%s", err.text);
    proa_roofline_draw(r, out);
    assert_false(out->failed);
}

/* Every element that opens closes, in order, and there is one at the top; & begins a reference everywhere. */
static void assert_well_formed(const char *text)
{
    char open[16][16];
    int depth = 0, roots = 0;
    for (const char *c = text; *c != '\0'; c++) {
        if (*c == '&')
            assert_int_equal(c[1], '#');
        if (*c != '<')
            continue;
        const char *end = strchr(c, '>');
        char name[16];
        assert_non_null(end);
        assert_int_equal(sscanf(c + 1 + (c[1] == '/'), "%15[a-z]", name), 1);
        if (c[1] == '/') {
            assert_true(depth > 0);
            assert_string_equal(open[--depth], name);
        } else {
            roots += depth == 0;
            if (end[-1] != '/') {
                assert_true(depth < 16);
                memcpy(open[depth++], name, sizeof name);
            }
        }
        c = end;
    }
    assert_int_equal(depth, 0);
    assert_int_equal(roots, 1);
}

static int count_of(const char *text, const char *part)
{
    int count = 0;
    for (const char *at = text; (at = strstr(at, part)) != NULL; at += strlen(part))
        count++;
    return count;
}

/* Both shapes, every op of the JSON with a row and a dot; nothing of the shape that nobody asked for. */
static void every_op_is_there(void **state)
{
    proa_json *whole = stored(), *rows = proa_json_get(whole, "rows");
    proa_roofline *r = malloc(sizeof *r);
    proa_buf svg = {0};
    int dots = 0;
    (void)state;
    draw(whole, NULL, r, &svg);
    const char *text = proa_buf_text(&svg);
    assert_well_formed(text);
    assert_true(svg.length < 40000);
    assert_int_equal(r->shape_count, 2);
    for (size_t i = 0; i < proa_json_size(rows); i++) {
        const proa_json *row = proa_json_at(rows, i);
        const char *op = proa_json_string(proa_json_get(row, "op"), "");
        char title[100], item[100];
        if (strcmp(proa_json_string(proa_json_get(row, "shape"), ""), "decode 1 at 4096") == 0 ||
            strncmp(op, "step", 4) == 0)
            continue;
        snprintf(title, sizeof title, "<title>%s: %.1f us", op,
                 proa_json_real(proa_json_get(row, "time_us"), 0));
        snprintf(item, sizeof item, ">%s</tspan>", op);
        assert_int_equal(count_of(text, title), 1);
        assert_true(count_of(text, item) >= 1);
        dots++;
    }
    assert_int_equal(dots, 42);
    assert_int_equal(count_of(text, "class=\"dot "), dots);
    assert_int_equal(count_of(text, "class=\"n\"") + count_of(text, "class=\"n in\""), dots);
    assert_non_null(strstr(text, "decode 128 at 4096: 33.78 ms a step"));
    assert_null(strstr(text, "decode 1 at 4096"));
    assert_null(strstr(text, "<script"));
    proa_buf_free(&svg);
    free(r);
    proa_json_free(whole);
}

/* Digits are 10 high and 6 wide. */
static void numbers_stand_apart(void **state)
{
    proa_json *whole = stored();
    proa_roofline *r = malloc(sizeof *r);
    proa_buf svg = {0};
    struct {
        double x, y, width;
    } seen[64];
    int count = 0;
    (void)state;
    draw(whole, NULL, r, &svg);
    for (const char *at = proa_buf_text(&svg); (at = strstr(at, "<text x=\"")) != NULL; at++) {
        double x, y;
        int number;
        if (sscanf(at, "<text x=\"%lf\" y=\"%lf\" class=\"n\">%d", &x, &y, &number) != 3 &&
            sscanf(at, "<text x=\"%lf\" y=\"%lf\" class=\"n in\">%d", &x, &y, &number) != 3)
            continue;
        const double width = number > 9 ? 12 : 6;
        for (int i = 0; i < count; i++)
            if (fabs(seen[i].y - y) < 9.9 && fabs(seen[i].x - x) < (seen[i].width + width) / 2)
                fail_msg("number %d at %.1f, %.1f lies on another at %.1f, %.1f", number, x, y, seen[i].x,
                         seen[i].y);
        seen[count].x = x;
        seen[count].y = y;
        seen[count++].width = width;
    }
    assert_int_equal(count, 42);
    proa_buf_free(&svg);
    free(r);
    proa_json_free(whole);
}

/* A dot stands where its op's figures are: the axes' ticks say where that is. */
static void a_dot_is_where_it_belongs(void **state)
{
    const char *text =
        ROWS("{\"shape\": \"s\", \"op\": \"o\", \"time_us\": 1, \"bytes\": 1e6, \"fp8_flops\": 1e8, "
             "\"bf16_flops\": 0}");
    proa_error err = {0};
    proa_json *whole = proa_json_parse(text, strlen(text), &err);
    proa_roofline *r = malloc(sizeof *r);
    proa_buf svg = {0};
    double x, y;
    char at_x[40], at_y[40];
    (void)state;
    draw(whole, NULL, r, &svg); /* 100 FLOP/byte, 100 TFLOP/s: on grid lines both */
    const char *dot = proa_buf_text(&svg);
    for (; (dot = strstr(dot, "<circle ")) != NULL; dot++)
        if (strstr(dot, "class=\"dot") != NULL && strchr(dot, '>') > strstr(dot, "class=\"dot"))
            break;
    assert_non_null(dot);
    assert_int_equal(sscanf(dot, "<circle cx=\"%lf\" cy=\"%lf\"", &x, &y), 2);
    snprintf(at_x, sizeof at_x, "d=\"M%.1f ", x);
    snprintf(at_y, sizeof at_y, " %.1fh", y);
    assert_non_null(strstr(proa_buf_text(&svg), at_x));
    assert_non_null(strstr(proa_buf_text(&svg), at_y));
    assert_non_null(strstr(proa_buf_text(&svg), "class=\"tick end\">100<"));
    assert_non_null(
        strstr(proa_buf_text(&svg), ">21 %</tspan>")); /* 1e6 bytes at 4800 GB/s take 0.208 us of 1 */
    proa_buf_free(&svg);
    free(r);
    proa_json_free(whole);
}

static void texts(void **state)
{
    static const struct {
        const char *given, *wanted, *says; /* NULL: taken */
    } table[] = {
        {ROWS(OP), NULL, NULL},
        {ROWS(OP), "s", NULL},
        {"{\"gpu\": \"<&\\\">\", \"peaks\": {\"hbm_gbps\": 1, \"fp8_tflops\": 2, \"bf16_tflops\": 3}, "
         "\"rows\": [" OP "]}",
         NULL, NULL},
        {ROWS("{\"shape\": \"s\", \"op\": \"quick\", \"time_us\": -3, \"bytes\": 8, \"fp8_flops\": 0, "
              "\"bf16_flops\": 0}"),
         NULL, NULL},
        {"[]", NULL, "it must be an object with \"gpu\" and an array \"rows\""},
        {"{\"isa\": \"avx2\", \"rows\": []}", NULL, "\"gpu\" must be there and be a text of 1 to 63 ASCII"},
        {"{\"gpu\": \"H200\", \"rows\": 3}", NULL, "an array \"rows\""},
        {"{\"gpu\": \"caf\\u00e9\", \"rows\": []}", NULL, "\"gpu\" must be there"},
        {"{\"gpu\": \"H200\", \"peaks\": {\"hbm_gbps\": 0}, \"rows\": []}", NULL,
         "peaks: \"hbm_gbps\" must be there and be a number of 0.001 or more"},
        {ROWS(""), NULL, "\"rows\" has no op of any shape"},
        {ROWS("3"), NULL, "rows[0]: \"shape\" must be there"},
        {ROWS("{\"shape\": \"s\"}"), NULL, "rows[0]: \"op\" must be there"},
        {ROWS("{\"shape\": \"s\", \"op\": \"o\", \"time_us\": null}"), NULL,
         "\"time_us\" must be there and be a number"},
        {ROWS("{\"shape\": \"s\", \"op\": \"o\", \"time_us\": 1, \"bytes\": 0}"), NULL,
         "\"bytes\" must be there and be a number of 1 or more"},
        {ROWS("{\"shape\": \"s\", \"op\": \"o\", \"time_us\": 1, \"bytes\": 8, \"fp8_flops\": -1}"), NULL,
         "\"fp8_flops\" must be there and be a number of 0 or more"},
        {ROWS(OP ", " OP), NULL, "rows[1]: \"op\" o is there twice for s"},
        {ROWS(OP), "decode", "--shape decode: no shape with that in its name; there are s"},
    };
    proa_roofline *r = malloc(sizeof *r);
    (void)state;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        proa_error err = {0};
        proa_buf svg = {0};
        proa_json *whole = proa_json_parse(table[i].given, strlen(table[i].given), &err);
        assert_non_null(whole);
        proa_status status = proa_roofline_read(whole, table[i].wanted, r, &err);
        if (table[i].says == NULL) {
            if (status != PROA_OK)
                fail_msg("%s: %s", table[i].given, err.text);
            proa_roofline_draw(r, &svg);
            assert_well_formed(proa_buf_text(&svg));
        } else if (status == PROA_OK || strstr(err.text, table[i].says) == NULL) {
            fail_msg("%s: \"%s\" does not say \"%s\"", table[i].given, err.text, table[i].says);
        }
        proa_buf_free(&svg);
        proa_json_free(whole);
    }
    free(r);
}

/* More ops than there is room for: refused; as many as there is: drawn, though all stand in one place. */
static void as_many_as_there_is_room_for(void **state)
{
    (void)state;
    for (int extra = 0; extra < 2; extra++) {
        proa_buf text = {0}, svg = {0};
        proa_error err = {0};
        proa_roofline *r = malloc(sizeof *r);
        proa_buf_append_text(&text, "{\"gpu\": \"NVIDIA H200\", \"rows\": [");
        for (int i = 0; i < PROA_ROOFLINE_OPS_MAX + extra; i++)
            proa_buf_append_format(&text,
                                   "%s{\"shape\": \"s\", \"op\": \"op %d\", \"time_us\": 5, \"bytes\": 100, "
                                   "\"fp8_flops\": %d, \"bf16_flops\": 0}",
                                   i > 0 ? "," : "", i, i % 2 * 1000);
        proa_buf_append_text(&text, "]}");
        proa_json *whole = proa_json_parse(proa_buf_text(&text), text.length, &err);
        assert_non_null(whole);
        proa_status status = proa_roofline_read(whole, NULL, r, &err);
        assert_int_equal(status, extra > 0 ? PROA_ERR_TOO_LONG : PROA_OK);
        if (status == PROA_OK) {
            proa_roofline_draw(r, &svg);
            assert_well_formed(proa_buf_text(&svg));
        }
        proa_json_free(whole);
        free(r);
        proa_buf_free(&svg);
        proa_buf_free(&text);
    }
}

static void peaks(void **state)
{
    (void)state;
    assert_true(proa_bench_peaks_of("NVIDIA GB200").fp8_flops_ns == 5000e3);
    assert_true(proa_bench_peaks_of("NVIDIA B200").fp8_flops_ns == 4500e3);
    assert_true(proa_bench_peaks_of("NVIDIA GH200 480GB").bytes_ns == 4000);
    assert_true(proa_bench_peaks_of("NVIDIA H200").bytes_ns == 4800);
    assert_true(proa_bench_peaks_of("another").bytes_ns == 3350);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_op_is_there),
        cmocka_unit_test(numbers_stand_apart),
        cmocka_unit_test(a_dot_is_where_it_belongs),
        cmocka_unit_test(texts),
        cmocka_unit_test(as_many_as_there_is_room_for),
        cmocka_unit_test(peaks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
