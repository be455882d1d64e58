/* test_linear.c - linear and linear_heads: `cpu` against `ref` at each instruction set, and law 2 bit for bit. */
#include "op/linear/linear.h"

#include "product_cases.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

typedef struct shape {
    int32_t rows, n, k, block_n;
} shape;

/* The last one takes more than one round. */
static const shape shapes[] = {
    {1, 1, 1, 128},     {1, 3, 31, 128},     {2, 5, 127, 128},    {3, 130, 128, 128},  {5, 17, 129, 128},
    {7, 40, 192, 128},  {9, 448, 320, 128},  {4, 576, 320, 128},  {1, 576, 448, 128},  {64, 61, 512, 128},
    {70, 50, 576, 128}, {33, 7, 1100, 2},    {1, 260, 2048, 128}, {6, 9, 7168, 128},   {17, 129, 640, 64},
    {130, 10, 257, 1},  {2, 1000, 96, 1000}, {600, 4, 33, 128},   {515, 2, 4128, 128},
};

enum { SHAPES = sizeof shapes / sizeof shapes[0] };

static proa_host make_host(proa_precision precision, proa_isa isa, int threads, size_t scratch_bytes)
{
    proa_host host = {.precision = precision, .isa = isa, .scratch_bytes = (scratch_bytes + 63) / 64 * 64};
    host.pool = threads > 1 ? proa_pool_create(threads) : NULL;
    host.scratch = aligned_alloc(64, host.scratch_bytes + 64);
    memset(host.scratch, 0xff, host.scratch_bytes); /* NaN: what is read before it is written shows */
    return host;
}

static void free_host(proa_host *host)
{
    proa_pool_free(host->pool);
    free(host->scratch);
}

/* y of `cpu`; the caller frees it. Guards beside every row must survive. */
static float *run_cpu(operands kind, proa_isa isa, int threads, const proa_rows *x, const proa_weight *w,
                      bool round_output)
{
    enum { GAP = 3 };
    proa_host sizes = {.isa = isa, .pool = threads > 1 ? proa_pool_create(threads) : NULL};
    size_t bytes = proa_linear_scratch_bytes(&sizes, x->rows, w->n, w->k);
    proa_pool_free(sizes.pool);
    proa_host host = make_host(kind_precision(kind), isa, threads, bytes);
    int64_t stride = w->n + GAP;
    float *strided = checked_malloc((size_t)(x->rows * stride) * sizeof *strided);
    for (int64_t i = 0; i < x->rows * stride; i++)
        strided[i] = -12345.0f;
    proa_linear_args args = {.x = *x, .w = w, .y = strided, .y_stride = stride, .round_output = round_output};
    proa_linear_cpu(&host, &args);
    float *y = checked_malloc((size_t)x->rows * (size_t)w->n * sizeof *y);
    for (int64_t r = 0; r < x->rows; r++) {
        memcpy(y + r * w->n, strided + r * stride, (size_t)w->n * sizeof *y);
        for (int64_t j = w->n; j < stride; j++)
            assert_true(strided[r * stride + j] == -12345.0f);
    }
    free(strided);
    free_host(&host);
    return y;
}

static float *run_ref(operands kind, const proa_rows *x, const proa_weight *w)
{
    proa_host host = {.precision = kind_precision(kind)};
    float *y = checked_malloc((size_t)x->rows * (size_t)w->n * sizeof *y);
    proa_linear_args args = {.x = *x, .w = w, .y = y, .y_stride = w->n};
    proa_linear_ref(&host, &args);
    return y;
}

static void compare(const char *what, const shape *s, const float *got, const float *want,
                    const float *magnitude)
{
    for (int64_t i = 0; i < (int64_t)s->rows * s->n; i++) {
        float tolerance = sum_tolerance(s->k, magnitude[i]);
        if (!(fabsf(got[i] - want[i]) <= tolerance))
            fail_msg("%s, rows %d n %d k %d: y[%d][%d] is %.9g, ref %.9g, tolerance %.3g", what, s->rows,
                     s->n, s->k, (int)(i / s->n), (int)(i % s->n), (double)got[i], (double)want[i],
                     (double)tolerance);
    }
}

static void check_shape(operands kind, const shape *s, uint64_t key)
{
    int32_t block_k = kind == KIND_E4M3_EXACT && key % 2 ? 96 : 128;
    proa_weight w = make_weight(kind, key, s->n, s->k, s->block_n, block_k);
    proa_rows x = make_rows(kind, key + 1000, s->rows, s->k);
    float *want = run_ref(kind, &x, &w), *got[PROA_ISA_AVX512_BF16 + 1];
    for (int isa = 0; isa <= (int)proa_cpu_isa(); isa++)
        got[isa] = run_cpu(kind, (proa_isa)isa, 1 + isa % 2, &x, &w, false);
    take_magnitudes(&w, &x);
    float *magnitude = run_ref(kind, &x, &w);
    for (int isa = 0; isa <= (int)proa_cpu_isa(); isa++) {
        char what[64];
        snprintf(what, sizeof what, "%s on %s", kind_name(kind), proa_isa_name((proa_isa)isa));
        compare(what, s, got[isa], want, magnitude);
        free(got[isa]);
    }
    free(want);
    free(magnitude);
    free_rows(&x);
    free_weight(&w);
}

static void cpu_matches_ref(void **state)
{
    (void)state;
    for (int kind = 0; kind < KINDS; kind++)
        for (int i = 0; i < SHAPES; i++)
            check_shape((operands)kind, &shapes[i], (uint64_t)i);
}

/* Weights are the 256 codes, row r of x picks number r: exact products, so exact answers; a NaN spoils all rows. */
static void check_codes(operands kind, proa_isa isa, int rows_first, bool nan)
{
    enum { CODES = 256 };
    uint8_t codes[CODES];
    float scale[2] = {1, 1}, *picks = calloc(CODES * CODES, sizeof *picks);
    uint8_t *q = calloc(CODES * CODES, 1);
    float *s = checked_malloc(CODES * 2 * sizeof *s);
    for (int i = 0; i < CODES; i++) {
        codes[i] = !nan && (i & 0x7f) == 0x7f ? 0 : (uint8_t)i;
        picks[i * CODES + i] = 1.0f;
        q[i * CODES + i] = proa_f32_to_e4m3(1.0f);
        s[2 * i] = s[2 * i + 1] = 1.0f;
    }
    proa_weight w = {.dtype = PROA_DTYPE_E4M3,
                     .n = 1,
                     .k = CODES,
                     .data = codes,
                     .scale = scale,
                     .block_n = 128,
                     .block_k = 128};
    int rows = rows_first == 0 ? CODES : 1; /* all at once, or one, for the other path */
    proa_rows x = {.rows = rows, .cols = CODES, .x = picks + rows_first * CODES};
    if (kind == KIND_RECIPE)
        x = (proa_rows){.rows = rows, .cols = CODES, .q = q + rows_first * CODES, .s = s};
    float *y = run_cpu(kind, isa, 1, &x, &w, false);
    for (int r = 0; r < rows; r++)
        assert_true(nan ? isnan(y[r]) : y[r] == proa_e4m3_to_f32(codes[rows_first + r]));
    free(y), free(picks), free(q), free(s);
}

static void every_e4m3_code_is_exact(void **state)
{
    (void)state;
    for (int isa = 0; isa <= (int)proa_cpu_isa(); isa++)
        for (int kind = KIND_E4M3_EXACT; kind <= KIND_RECIPE; kind++)
            for (int nan = 0; nan < 2; nan++)
                for (int first = 0; first < 256; first++)
                    check_codes((operands)kind, (proa_isa)isa, first, nan);
}

static void no_rows_touch_nothing(void **state)
{
    (void)state;
    proa_weight w = make_weight(KIND_BF16, 1, 4, 8, 128, 128);
    proa_rows x = {.rows = 0, .cols = 8};
    free(run_cpu(KIND_BF16, proa_cpu_isa(), 1, &x, &w, true));
    free_weight(&w);
}

static void output_rounds_to_bf16_in_default_precision_only(void **state)
{
    (void)state;
    for (int kind = 0; kind < KINDS; kind++) {
        proa_weight w = make_weight((operands)kind, 5, 70, 320, 128, 128);
        proa_rows x = make_rows((operands)kind, 6, 9, 320);
        for (int isa = 0; isa <= (int)proa_cpu_isa(); isa++) {
            float *plain = run_cpu((operands)kind, (proa_isa)isa, 1, &x, &w, false);
            float *rounded = run_cpu((operands)kind, (proa_isa)isa, 1, &x, &w, true);
            for (int i = 0; i < 9 * 70; i++) {
                bool round = kind_precision((operands)kind) == PROA_PRECISION_DEFAULT;
                assert_true(rounded[i] == (round ? proa_round_bf16(plain[i]) : plain[i]));
            }
            free(plain);
            free(rounded);
        }
        free_rows(&x);
        free_weight(&w);
    }
}

/* Rows first .. first + count - 1 of x. */
static proa_rows rows_from(const proa_rows *x, int32_t first, int32_t count)
{
    int64_t groups = (x->cols + 127) / 128;
    proa_rows part = *x;
    part.rows = count;
    part.x = x->x != NULL ? x->x + (int64_t)first * x->cols : NULL;
    part.q = x->q != NULL ? x->q + (int64_t)first * x->cols : NULL;
    part.s = x->s != NULL ? x->s + first * groups : NULL;
    return part;
}

/* Rows first .. n - 1 of w; first is a multiple of block_n. */
static proa_weight weight_from(const proa_weight *w, int32_t first, int32_t n)
{
    proa_weight part = *w;
    part.n = n;
    part.data = (const char *)w->data + (size_t)first * (size_t)w->k * proa_dtype_bytes(w->dtype);
    if (w->scale != NULL)
        part.scale = w->scale + first / w->block_n * ((w->k + w->block_k - 1) / w->block_k);
    return part;
}

enum { LAW_ROWS = 70, LAW_N = 53 };

static void check_law_2(operands kind, proa_isa isa, int32_t k)
{
    enum { BLOCK = 10 };
    proa_weight w = make_weight(kind, 77, LAW_N, k, BLOCK, 128);
    proa_rows x = make_rows(kind, 78, LAW_ROWS, k);
    float *whole = run_cpu(kind, isa, 1, &x, &w, false);
    for (int32_t count = 1; count <= LAW_ROWS; count++) {
        int32_t first = (count * 37) % (LAW_ROWS - count + 1);
        int32_t w_first = count % 5 * BLOCK,
                n = count % 3 == 0 ? LAW_N - w_first : 1 + count % (LAW_N - w_first);
        proa_rows part = rows_from(&x, first, count);
        proa_weight w_part = weight_from(&w, w_first, n);
        float *y = run_cpu(kind, isa, 1 + count % 3, &part, &w_part, false);
        for (int32_t r = 0; r < count; r++)
            if (memcmp(y + (int64_t)r * n, whole + (int64_t)(first + r) * LAW_N + w_first,
                       (size_t)n * sizeof *y) != 0)
                fail_msg("%s on %s, k %d: row %d of rows %d.. (%d) and weights %d.. (%d) has other bits than "
                         "among %d rows",
                         kind_name(kind), proa_isa_name(isa), k, first + r, first, count, w_first, n,
                         LAW_ROWS);
        free(y);
    }
    free(whole);
    free_rows(&x);
    free_weight(&w);
}

static void bits_depend_on_neither_rows_nor_n_nor_threads(void **state)
{
    (void)state;
    static const int32_t ks[] = {1, 31, 127, 129, 192, 320, 576, 1250};
    for (int kind = 0; kind < KINDS; kind++)
        for (int isa = 0; isa <= (int)proa_cpu_isa(); isa++)
            for (size_t i = 0; i < sizeof ks / sizeof ks[0]; i++)
                check_law_2((operands)kind, (proa_isa)isa, ks[i]);
}

typedef struct heads_case {
    int32_t rows, heads, n, k;
    bool heads_outermost; /* x as [heads][rows][k], else [rows][heads][k]; y the other way round */
} heads_case;

/* Each head must have linear's bits; linear was compared with ref above. */
static void check_heads(operands kind, proa_isa isa, const heads_case *c)
{
    proa_weight w = make_weight(kind, 9, c->heads * c->n, c->k, 128, 128);
    proa_rows x = make_rows(kind, 10, c->rows * c->heads, c->k);
    float *y = checked_malloc((size_t)(c->rows * c->heads * c->n) * sizeof *y);
    float *y_ref = checked_malloc((size_t)(c->rows * c->heads * c->n) * sizeof *y);
    proa_linear_heads_args args = {
        .rows = c->rows,
        .heads = c->heads,
        .n = c->n,
        .k = c->k,
        .x = x.x,
        .w_dtype = w.dtype,
        .w = w.data,
        .y = y,
        .x_row_stride = c->heads_outermost ? c->k : c->heads * c->k,
        .x_head_stride = c->heads_outermost ? c->rows * c->k : c->k,
        .y_row_stride = c->heads_outermost ? c->heads * c->n : c->n,
        .y_head_stride = c->heads_outermost ? c->n : c->rows * c->n,
        .round_output = false,
    };
    proa_host host = make_host(kind_precision(kind), isa, 2, 0);
    size_t bytes = proa_linear_heads_scratch_bytes(&host, c->rows, c->heads, c->n, c->k);
    free_host(&host);
    host = make_host(kind_precision(kind), isa, 2, bytes);
    proa_linear_heads_cpu(&host, &args);
    args.y = y_ref;
    proa_linear_heads_ref(&host, &args);
    for (int32_t h = 0; h < c->heads; h++) {
        proa_weight head = {.dtype = w.dtype,
                            .n = c->n,
                            .k = c->k,
                            .data =
                                (const char *)w.data + (size_t)(h * c->n * c->k) * proa_dtype_bytes(w.dtype)};
        for (int32_t r = 0; r < c->rows; r++) {
            proa_rows row = {
                .rows = 1, .cols = c->k, .x = x.x + r * args.x_row_stride + h * args.x_head_stride};
            float *want = run_cpu(kind, isa, 1, &row, &head, false);
            int64_t at = r * args.y_row_stride + h * args.y_head_stride;
            assert_memory_equal(y + at, want, (size_t)c->n * sizeof *y);
            for (int32_t j = 0; j < c->n; j++)
                assert_true(fabsf(y_ref[at + j] - y[at + j]) <= 0.02f * (1 + fabsf(y_ref[at + j])));
            free(want);
        }
    }
    free_host(&host);
    free(y);
    free(y_ref);
    free_rows(&x);
    free_weight(&w);
}

static void heads_have_linears_bits(void **state)
{
    (void)state;
    static const heads_case cases[] = {{1, 4, 40, 128, false}, {5, 3, 16, 192, true}, {70, 2, 9, 33, false}};
    for (int kind = KIND_F32; kind <= KIND_BF16; kind++)
        for (int isa = 0; isa <= (int)proa_cpu_isa(); isa++)
            for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
                check_heads((operands)kind, (proa_isa)isa, &cases[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cpu_matches_ref),
        cmocka_unit_test(every_e4m3_code_is_exact),
        cmocka_unit_test(no_rows_touch_nothing),
        cmocka_unit_test(output_rounds_to_bf16_in_default_precision_only),
        cmocka_unit_test(bits_depend_on_neither_rows_nor_n_nor_threads),
        cmocka_unit_test(heads_have_linears_bits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
