/* test_golden_ops.c - single ops against golden/ops.safetensors (float64 inside, made by another program):
 * the router of V3 and K2, R1's YaRN constants, and both forms of latent attention. */
#include "model/safetensors.h"
#include "op/mla/mla.h"
#include "op/rope/rope.h"
#include "op/router/router.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <cmocka.h>

#include "op_fixture.h"

static proa_safetensors *golden; /* NULL: not here */

static int open_golden(void **state)
{
    (void)state;
    const char *dir = getenv("PROA_TEST_DATA");
    char path[1000];
    proa_error err;
    snprintf(path, sizeof path, "%s/golden/ops.safetensors", dir != NULL ? dir : ".");
    if (proa_safetensors_open(path, &golden, &err) != PROA_OK)
        printf("SKIPPED: no golden data: %s\n", err.text);
    return 0;
}

static int close_golden(void **state)
{
    (void)state;
    proa_safetensors_close(golden);
    return 0;
}

/* The data of a tensor that must have `count` elements of `dtype`. */
static const void *data_of(const char *name, proa_dtype dtype, int64_t count)
{
    if (golden == NULL)
        skip();
    const proa_tensor *tensor = proa_safetensors_find(golden, name);
    if (tensor == NULL || tensor->dtype != dtype ||
        tensor->bytes != (uint64_t)count * proa_dtype_bytes(dtype))
        fail_msg("%s: absent or not as expected", name);
    return tensor->data;
}

/* -- router -- */

static void expect_routes(const char *model, int32_t experts, int32_t n_group, int32_t topk_group,
                          double factor)
{
    enum { ROWS = 96, TOP_K = 8 };
    char name[4][40];
    static const char *const parts[] = {"logits", "bias", "ids", "weights"};
    for (int i = 0; i < 4; i++)
        snprintf(name[i], sizeof name[i], "router.%s.%s", model, parts[i]);
    const float *logits = data_of(name[0], PROA_DTYPE_F32, (int64_t)ROWS * experts);
    const float *bias = data_of(name[1], PROA_DTYPE_F32, experts);
    const int32_t *expected_ids = data_of(name[2], PROA_DTYPE_I32, ROWS * TOP_K);
    const float *expected_weights = data_of(name[3], PROA_DTYPE_F32, ROWS * TOP_K);
    for (int which = -1; which <= (int)proa_cpu_isa(); which++) {
        int32_t ids[ROWS * TOP_K];
        float weights[ROWS * TOP_K];
        proa_host host =
            fixture_host(which < 0 ? PROA_ISA_PORTABLE : (proa_isa)which, 2, PROA_PRECISION_DEFAULT);
        proa_router_args args = {ROWS,   experts, n_group, topk_group, TOP_K,  true,
                                 factor, logits,  bias,    ids,        weights};
        (which < 0 ? proa_router_ref : proa_router_cpu)(&host, &args);
        fixture_same_bits("ids", ids, expected_ids, sizeof ids);
        fixture_close("weights", weights, expected_weights, ROWS * TOP_K, 0, 1e-6);
        fixture_free(&host);
    }
}

static void router_of_v3(void **state)
{
    (void)state;
    expect_routes("v3", 256, 8, 4, 2.5);
}

static void router_of_k2(void **state)
{
    (void)state;
    expect_routes("k2", 384, 1, 1, 2.827);
}

/* -- yarn -- */

static void yarn_of_r1(void **state)
{
    (void)state;
    enum { PAIRS = 32, POSITIONS = 7 };
    static const proa_rope_config r1 = {64, 10000, true, 40, 32, 1, 1, 1, 4096};
    const double *inv_freq = data_of("yarn.inv_freq", PROA_DTYPE_F64, PAIRS);
    const double *golden_cos = data_of("yarn.cos", PROA_DTYPE_F64, POSITIONS * PAIRS);
    const double *golden_sin = data_of("yarn.sin", PROA_DTYPE_F64, POSITIONS * PAIRS);
    const double *scale = data_of("yarn.softmax_scale", PROA_DTYPE_F64, 1);
    const int32_t *positions = data_of("yarn.positions", PROA_DTYPE_I32, POSITIONS);
    double actual[PAIRS];
    proa_rope_frequencies(&r1, actual);
    for (int i = 0; i < PAIRS; i++)
        assert_true(fabs(actual[i] - inv_freq[i]) <= 1e-14 * inv_freq[i]);
    assert_true(fabs(proa_rope_softmax_scale(&r1, 192) - *scale) <= 1e-14 * *scale);
    for (int p = 0; p < POSITIONS; p++) {
        float c[PAIRS], s[PAIRS];
        proa_rope_table(&r1, positions[p], 1, c, s);
        for (int i = 0; i < PAIRS; i++) {
            /* half a unit in the last place of a float, and the angle's own error in double */
            assert_true(fabs(c[i] - golden_cos[p * PAIRS + i]) <= 6.1e-8);
            assert_true(fabs(s[i] - golden_sin[p * PAIRS + i]) <= 6.1e-8);
        }
    }
}

/* -- latent attention: 4 heads, 70 positions, the last 3 are the queries -- */

enum { HEADS = 4, KEYS = 70, QUERIES = 3, NOPE = 128, ROPE = 64, V = 128, LORA = 512 };

typedef struct attention {
    const float *kv_b; /* [HEADS][NOPE + V][LORA] */
    const float *kv_lora, *k_pe, *q_nope, *q_pe, *out, *lse;
    float scale;
} attention;

static attention load_attention(void)
{
    static const proa_rope_config r1 = {64, 10000, true, 40, 32, 1, 1, 1, 4096};
    return (attention){
        .kv_b = data_of("mla.kv_b_proj", PROA_DTYPE_F32, HEADS * (NOPE + V) * LORA),
        .kv_lora = data_of("mla.kv_lora", PROA_DTYPE_F32, KEYS * LORA),
        .k_pe = data_of("mla.k_pe", PROA_DTYPE_F32, KEYS * ROPE),
        .q_nope = data_of("mla.q_nope", PROA_DTYPE_F32, QUERIES * HEADS * NOPE),
        .q_pe = data_of("mla.q_pe", PROA_DTYPE_F32, QUERIES * HEADS * ROPE),
        .out = data_of("mla.out", PROA_DTYPE_F32, QUERIES * HEADS * V),
        .lse = data_of("mla.lse", PROA_DTYPE_F32, HEADS * QUERIES),
        .scale = (float)proa_rope_softmax_scale(&r1, NOPE + ROPE),
    };
}

/* y[j] = sum over i of x[i] * w[j * row + i * column]: a projection, in double. */
static void project(const float *x, const float *w, int64_t row, int64_t column, int32_t n, int32_t k,
                    float *y)
{
    for (int32_t j = 0; j < n; j++) {
        double sum = 0;
        for (int32_t i = 0; i < k; i++)
            sum += (double)x[i] * w[j * row + i * column];
        y[j] = (float)sum;
    }
}

static void expect_attention(const attention *a, const float *out, const float *lse)
{
    double distance = fixture_distance(out, a->out, QUERIES * HEADS * V);
    if (distance > 2e-6)
        fail_msg("out: distance %g", distance);
    fixture_close("lse", lse, a->lse, HEADS * QUERIES, 2e-6, 2e-6);
}

/* Tiles of 64 keys: kv_b_proj's output, then the op, with the state carried over. */
static void attend_expanded(const attention *a, proa_host *host, bool ref)
{
    enum { TILE = 64, HEAD = NOPE + V };
    float *kv = fixture_floats((int64_t)KEYS * HEADS * HEAD),
          *q = fixture_floats(QUERIES * HEADS * (NOPE + ROPE));
    float max[QUERIES * HEADS], sum[QUERIES * HEADS], lse[HEADS * QUERIES];
    float *state = fixture_floats(QUERIES * HEADS * V), *out = fixture_floats(QUERIES * HEADS * V);
    for (int t = 0; t < KEYS; t++)
        project(a->kv_lora + t * LORA, a->kv_b, LORA, 1, HEADS * HEAD, LORA, kv + t * HEADS * HEAD);
    for (int i = 0; i < QUERIES * HEADS; i++) {
        memcpy(q + i * (NOPE + ROPE), a->q_nope + i * NOPE, NOPE * sizeof *q);
        memcpy(q + i * (NOPE + ROPE) + NOPE, a->q_pe + i * ROPE, ROPE * sizeof *q);
    }
    fixture_reserve(host, proa_mla_expanded_scratch_bytes(host, QUERIES, HEADS, TILE, NOPE, ROPE, V));
    for (int first = 0; first < KEYS; first += TILE) {
        proa_mla_expanded_args args = {
            .rows = QUERIES,
            .position_first = KEYS - QUERIES,
            .heads = HEADS,
            .nope_dim = NOPE,
            .rope_dim = ROPE,
            .v_dim = V,
            .scale = a->scale,
            .q = q,
            .q_row_stride = HEADS * (NOPE + ROPE),
            .tile_first = first,
            .tile_count = KEYS - first < TILE ? KEYS - first : TILE,
            .kv = kv + first * HEADS * HEAD,
            .k_pe = a->k_pe + first * ROPE,
            .first = first == 0,
            .last = first + TILE >= KEYS,
            .state_max = max,
            .state_sum = sum,
            .state_out = state,
            .out = out,
            .out_row_stride = HEADS * V,
            .lse = lse,
        };
        (ref ? proa_mla_expanded_ref : proa_mla_expanded_cpu)(host, &args);
    }
    expect_attention(a, out, lse);
    free(kv);
    free(q);
    free(state);
    free(out);
}

/* q_nope through W_UK, the op over the cache, then W_UV. */
static void attend_absorbed(const attention *a, proa_host *host, bool ref)
{
    static const int32_t blocks[] = {2, 0};
    float *cache = fixture_floats(3 * 64 * (LORA + ROPE)), *q_lat = fixture_floats(QUERIES * HEADS * LORA);
    float *o_lat = fixture_floats(QUERIES * HEADS * LORA), *out = fixture_floats(QUERIES * HEADS * V);
    float lse[HEADS * QUERIES];
    proa_kv_layer kv = {cache, PROA_DTYPE_F32, LORA, ROPE};
    proa_segment all = {0, KEYS, 0, blocks, false};
    proa_segment tail = {0, QUERIES, KEYS - QUERIES, blocks, true};
    proa_kv_append_args append = {&all, 1, a->kv_lora, LORA, a->k_pe, ROPE, &kv};
    proa_mla_absorbed_args args = {&tail,        1,    HEADS, a->scale, q_lat, a->q_pe,
                                   HEADS * ROPE, ROPE, &kv,   o_lat,    lse};
    (ref ? proa_kv_append_ref : proa_kv_append_cpu)(host, &append);
    fixture_reserve(host, proa_mla_absorbed_scratch_bytes(host, QUERIES, HEADS, LORA, ROPE));
    for (int i = 0; i < QUERIES * HEADS; i++)
        project(a->q_nope + i * NOPE, a->kv_b + (i % HEADS) * (NOPE + V) * LORA, 1, LORA, LORA, NOPE,
                q_lat + i * LORA);
    (ref ? proa_mla_absorbed_ref : proa_mla_absorbed_cpu)(host, &args);
    for (int i = 0; i < QUERIES * HEADS; i++)
        project(o_lat + i * LORA, a->kv_b + ((i % HEADS) * (NOPE + V) + NOPE) * LORA, LORA, 1, V, LORA,
                out + i * V);
    expect_attention(a, out, lse);
    free(cache);
    free(q_lat);
    free(o_lat);
    free(out);
}

static void attention_of_v3(void **state)
{
    (void)state;
    attention a = load_attention();
    for (int which = -1; which <= (int)proa_cpu_isa(); which++) {
        proa_host host =
            fixture_host(which < 0 ? PROA_ISA_PORTABLE : (proa_isa)which, 2, PROA_PRECISION_EXACT);
        attend_expanded(&a, &host, which < 0);
        attend_absorbed(&a, &host, which < 0);
        fixture_free(&host);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(router_of_v3),
        cmocka_unit_test(router_of_k2),
        cmocka_unit_test(yarn_of_r1),
        cmocka_unit_test(attention_of_v3),
    };
    return cmocka_run_group_tests(tests, open_golden, close_golden);
}
