/* test_rope.c - YaRN's constants for R1 and others, the table, and the rotation. */
#include "op/rope/rope.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <cmocka.h>

#include "op_fixture.h"

/* DeepSeek-V3 and R1. */
static const proa_rope_config r1 = {64, 10000, true, 40, 32, 1, 1, 1, 4096};

static void expect(double actual, double expected, double relative)
{
    if (!(fabs(actual - expected) <= relative * fabs(expected)))
        fail_msg("%.15g, expected %.15g", actual, expected);
}

static void r1_has_known_frequencies(void **state)
{
    (void)state;
    static const struct {
        int i;
        double inv_freq;
    } known[] = {{0, 1.0},           {10, 5.623413e-02}, {11, 3.900693e-02}, {16, 5.5e-03},
                 {22, 1.778279e-04}, {23, 3.333804e-05}, {31, 3.333804e-06}};
    double inv_freq[32];
    proa_rope_frequencies(&r1, inv_freq);
    for (size_t k = 0; k < sizeof known / sizeof *known; k++)
        expect(inv_freq[known[k].i], known[k].inv_freq, 1e-6);
    expect(proa_rope_softmax_scale(&r1, 192), 0.13523377886, 1e-9);
    expect(proa_rope_amplitude(&r1), 1, 0);
}

static void relatives_have_their_own_scales(void **state)
{
    (void)state;
    proa_rope_config plain = {.dim = 64, .theta = 10000};
    proa_rope_config k2 = r1, lite = r1, unequal = r1;
    double inv_freq[32];
    k2.factor = 64;
    lite.mscale = lite.mscale_all_dim = 0.707;
    unequal.mscale_all_dim = 0;
    proa_rope_frequencies(&plain, inv_freq);
    expect(inv_freq[16], 0.01, 1e-14);
    expect(proa_rope_softmax_scale(&plain, 192), 0.0721687836487, 1e-11);
    expect(proa_rope_softmax_scale(&k2, 192), 1.415888308 * 1.415888308 * 0.0721687836487, 1e-8);
    expect(proa_rope_softmax_scale(&lite, 192), 1.260803777 * 1.260803777 * 0.0721687836487, 1e-8);
    expect(proa_rope_amplitude(&unequal), 1.36888794541, 1e-11);
    expect(proa_rope_softmax_scale(&unequal, 192), 0.0721687836487, 1e-11);
}

/* When both ends of the ramp fall on one pair, it is a step, not a division by zero. */
static void a_ramp_of_no_width_is_a_step(void **state)
{
    (void)state;
    proa_rope_config c = {16, 10000, true, 4, 1, 1e-9, 1, 1, 2};
    double inv_freq[8];
    c.beta_fast = c.beta_slow = 1; /* d < 0: both ends are clamped to 0 */
    proa_rope_frequencies(&c, inv_freq);
    expect(inv_freq[0], 1, 0);
    expect(inv_freq[1], pow(10000, -2.0 / 16) / 4, 1e-14);
}

static void the_table_is_rounded_once(void **state)
{
    (void)state;
    double inv_freq[32];
    float c[5 * 32], s[5 * 32];
    proa_rope_frequencies(&r1, inv_freq);
    for (int32_t first = 0; first < 160000; first += 53333) {
        proa_rope_table(&r1, first, 5, c, s);
        for (int32_t i = 0; i < 5 * 32; i++) {
            double angle = (first + i / 32) * inv_freq[i % 32];
            assert_true(c[i] == (float)cos(angle));
            assert_true(s[i] == (float)sin(angle));
        }
    }
}

typedef void (*rope_op)(const proa_host *, const proa_rope_args *);

/* Heads of [32 untouched | dim], as q_pe lies inside q. */
static float *run(rope_op op, const proa_host *host, int32_t rows, int32_t heads, int32_t dim)
{
    enum { POSITIONS = 300 };
    int64_t head_stride = 32 + dim, row_stride = heads * head_stride + 3;
    proa_rope_config config = r1;
    config.dim = dim;
    float *x = fixture_activations(1, rows * row_stride, 1, host->precision);
    float *c = fixture_floats(POSITIONS * dim / 2), *s = fixture_floats(POSITIONS * dim / 2);
    int32_t *positions = fixture_alloc((size_t)rows * sizeof *positions);
    for (int32_t r = 0; r < rows; r++)
        positions[r] = r * 7 % POSITIONS;
    proa_rope_table(&config, 0, POSITIONS, c, s);
    proa_rope_args args = {rows, heads, dim, x + 32, row_stride, head_stride, positions, c, s};
    op(host, &args);
    free(c);
    free(s);
    free(positions);
    return x;
}

static void cpu_equals_ref(void **state)
{
    (void)state;
    static const int32_t shapes[][3] = {{1, 128, 64}, {70, 1, 64}, {50, 9, 32}, {3, 2, 2}, {43, 16, 6}};
    for (size_t p = 0; p < 2; p++)
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
            int32_t rows = shapes[i][0], heads = shapes[i][1], dim = shapes[i][2];
            int64_t count = rows * (heads * (32 + (int64_t)dim) + 3);
            bool exact = fixture_precisions[p] == PROA_PRECISION_EXACT;
            proa_host ref = fixture_host(PROA_ISA_PORTABLE, 1, fixture_precisions[p]);
            float *expected = run(proa_rope_ref, &ref, rows, heads, dim);
            FIXTURE_EACH_ISA(isa)
            {
                float *last = NULL;
                for (int threads = 1; threads <= 3; threads++) {
                    proa_host cpu = fixture_host(isa, threads, fixture_precisions[p]);
                    float *actual = run(proa_rope_cpu, &cpu, rows, heads, dim);
                    fixture_close("x", actual, expected, count, 3e-7, exact ? 1e-6 : 8e-3);
                    assert_true(fixture_distance(actual, expected, count) < (exact ? 1e-6 : 3e-4));
                    if (last != NULL)
                        fixture_same_bits("threads", actual, last, (size_t)count * sizeof *last);
                    free(last);
                    last = actual;
                    fixture_free(&cpu);
                }
                free(last);
            }
            free(expected);
            fixture_free(&ref);
        }
}

/* Interleaved: the pair (x[2i], x[2i + 1]) turns by position * inv_freq[i], and stays where it is. */
static void pairs_are_neighbours(void **state)
{
    (void)state;
    static const float c[] = {1, 1, 1, 0, 1, 0}, s[] = {0, 0, 0, 1, 0, -1};
    static const int32_t positions[] = {2};
    float x[] = {1, 2, 3, 4, 5, 6}, expected[] = {1, 2, -4, 3, 6, -5};
    proa_host host = fixture_host(proa_cpu_isa(), 1, PROA_PRECISION_DEFAULT);
    float table_c[9], table_s[9]; /* three positions; the first two must not be read */
    for (int i = 0; i < 9; i++)
        table_c[i] = table_s[i] = NAN;
    memcpy(table_c + 6, (float[]){c[0], c[3], c[5]}, 3 * sizeof *c);
    memcpy(table_s + 6, (float[]){s[0], s[3], s[5]}, 3 * sizeof *s);
    proa_rope_args args = {1, 1, 6, x, 6, 6, positions, table_c, table_s};
    proa_rope_cpu(&host, &args);
    fixture_close("x", x, expected, 6, 0, 0);
    fixture_free(&host);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(r1_has_known_frequencies),
        cmocka_unit_test(relatives_have_their_own_scales),
        cmocka_unit_test(a_ramp_of_no_width_is_a_step),
        cmocka_unit_test(the_table_is_rounded_once),
        cmocka_unit_test(cpu_equals_ref),
        cmocka_unit_test(pairs_are_neighbours),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
