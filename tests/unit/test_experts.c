/* test_experts.c - each expert's segment must have the bits of linear over the same rows, and lie near `ref`. */
#include "op/experts/experts.h"

#include "op/linear/linear.h"
#include "product_cases.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

enum { MAX_EXPERTS = 8 };

typedef struct segments_case {
    int32_t n, k, experts, x_rows;
    int32_t counts[MAX_EXPERTS];
    bool indexed;
} segments_case;

/* The last one takes more than one round, with an expert in two of them. */
static const segments_case cases[] = {
    {40, 192, 4, 9, {0, 3, 0, 6}, false},
    {33, 320, 5, 7, {1, 0, 70, 4, 2}, true},
    {130, 128, 8, 3, {0, 0, 0, 1, 0, 0, 0, 0}, true},
    {9, 129, 3, 4, {0, 0, 0}, true},
    {20, 256, 2, 1100, {600, 500}, true},
    {3, 4160, 2, 40, {300, 260}, true},
};

static proa_host make_host(operands kind, proa_isa isa, const segments_case *c, int32_t slots)
{
    proa_host host = {.precision = kind_precision(kind), .isa = isa, .pool = proa_pool_create(2)};
    size_t experts = proa_experts_scratch_bytes(&host, slots, c->experts, c->n, c->k);
    size_t linear = proa_linear_scratch_bytes(&host, slots, c->n, c->k);
    host.scratch_bytes = ((experts > linear ? experts : linear) + 63) / 64 * 64;
    host.scratch = aligned_alloc(64, host.scratch_bytes + 64);
    memset(host.scratch, 0xff, host.scratch_bytes);
    return host;
}

/* The rows that slots first .. first + count - 1 read, copied together. */
static proa_rows gather(const proa_rows *x, const int32_t *row_index, int32_t first, int32_t count)
{
    int64_t k = x->cols, groups = (k + 127) / 128;
    proa_rows rows = {.rows = count, .cols = x->cols};
    float *f = checked_malloc((size_t)(count * k) * sizeof *f),
          *s = checked_malloc((size_t)(count * groups) * 4);
    uint8_t *q = checked_malloc((size_t)(count * k));
    for (int64_t r = 0; r < count; r++) {
        int64_t row = row_index != NULL ? row_index[first + r] : first + r;
        if (x->x != NULL)
            memcpy(f + r * k, x->x + row * k, (size_t)k * sizeof *f);
        if (x->q != NULL) {
            memcpy(q + r * k, x->q + row * k, (size_t)k);
            memcpy(s + r * groups, x->s + row * groups, (size_t)groups * sizeof *s);
        }
    }
    rows.x = f;
    rows.q = x->q != NULL ? q : NULL;
    rows.s = s;
    if (x->q == NULL)
        free(q);
    return rows;
}

static void check(operands kind, proa_isa isa, const segments_case *c, bool round_output)
{
    int32_t offsets[MAX_EXPERTS + 1] = {0}, *row_index = NULL;
    proa_weight w[MAX_EXPERTS];
    for (int32_t e = 0; e < c->experts; e++) {
        offsets[e + 1] = offsets[e] + c->counts[e];
        w[e] = make_weight(kind, (uint64_t)e + 40, c->n, c->k, 128, 128);
    }
    int32_t slots = offsets[c->experts];
    proa_rows x = make_rows(kind, 50, c->x_rows, c->k);
    if (c->indexed) {
        row_index = checked_malloc((size_t)slots * sizeof *row_index);
        for (int32_t i = 0; i < slots; i++)
            row_index[i] = (int32_t)(random_word(51, (uint64_t)i) % (uint32_t)c->x_rows);
    }
    proa_host host = make_host(kind, isa, c, slots);
    size_t bytes = (size_t)slots * (size_t)c->n * sizeof(float);
    float *y = checked_malloc(bytes), *y_ref = checked_malloc(bytes), *want = checked_malloc(bytes);
    proa_experts_args args = {.experts = c->experts,
                              .offsets = offsets,
                              .w = w,
                              .x = x,
                              .row_index = row_index,
                              .y = y,
                              .round_output = round_output};
    proa_experts_cpu(&host, &args);
    args.y = y_ref;
    proa_experts_ref(&host, &args);
    for (int32_t e = 0; e < c->experts; e++) {
        proa_rows rows = gather(&x, row_index, offsets[e], c->counts[e]);
        proa_linear_args linear = {.x = rows,
                                   .w = &w[e],
                                   .y = want + (int64_t)offsets[e] * c->n,
                                   .y_stride = c->n,
                                   .round_output = round_output};
        proa_linear_cpu(&host, &linear);
        free_rows(&rows);
    }
    assert_memory_equal(y, want, bytes);
    double error = 0, size = 0;
    for (int64_t i = 0; i < (int64_t)slots * c->n; i++) {
        error += ((double)y[i] - y_ref[i]) * ((double)y[i] - y_ref[i]);
        size += (double)y_ref[i] * y_ref[i];
    }
    assert_true(error <= size * 0x1p-16); /* bf16 rounds by 2^-9 of each */
    proa_pool_free(host.pool);
    free(host.scratch);
    free(y), free(y_ref), free(want), free(row_index);
    free_rows(&x);
    for (int32_t e = 0; e < c->experts; e++)
        free_weight(&w[e]);
}

static void experts_have_linears_bits(void **state)
{
    (void)state;
    for (int kind = 0; kind < KINDS; kind++)
        for (int isa = 0; isa <= (int)proa_cpu_isa(); isa++)
            for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
                check((operands)kind, (proa_isa)isa, &cases[i], (kind + (int)i) % 2 == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(experts_have_linears_bits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
