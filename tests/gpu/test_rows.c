/* test_rows.c - the ops of rows on a GPU against their ref.c: norms, SwiGLU, quantisation, RoPE, the cache's new rows, router,
 * spread and combine. */
#include "gpu_test.h"
#include "op/combine/combine.h"
#include "op/combine/cuda.h"
#include "op/mla/mla.h"
#include "op/quantise/quantise.h"
#include "op/rmsnorm/cuda.h"
#include "op/rmsnorm/rmsnorm.h"
#include "op/rope/cuda.h"
#include "op/rope/rope.h"
#include "op/router/cuda.h"
#include "op/router/router.h"
#include "op/swiglu/cuda.h"
#include "op/swiglu/swiglu.h"

static const double near_bf16 = 1e-4; /* of all values, where a few may round the other way */

static proa_host host_of(bool ue8m0)
{
    return (proa_host){.precision = PROA_PRECISION_DEFAULT, .ue8m0 = ue8m0};
}

static int32_t groups_of(int32_t cols)
{
    return (cols + PROA_QUANT_GROUP - 1) / PROA_QUANT_GROUP;
}

/* q and scales on the GPU, of `y` as the GPU has rounded it, are those of the reference, bit for bit. */
static void compare_quantised(proa_gpu *gpu, const proa_cuda_fp8_rows *got, const float *y, int32_t rows,
                              int32_t cols)
{
    const proa_host host = host_of(got->ue8m0);
    int32_t groups = groups_of(cols);
    size_t bytes = (size_t)rows * (size_t)cols;
    uint8_t *want_q = malloc(bytes), *q = malloc(bytes);
    float *want_s = malloc(sizeof *want_s * (size_t)(rows * groups)),
          *s = malloc(sizeof *s * (size_t)(groups * got->stride));
    assert_non_null(want_q), assert_non_null(q), assert_non_null(want_s), assert_non_null(s);
    proa_quantise_ref(&host,
                      &(proa_quantise_args){
                          .rows = rows, .cols = cols, .x = y, .x_stride = cols, .q = want_q, .s = want_s});
    gpu_read(gpu, q, got->q, bytes);
    gpu_read(gpu, s, got->scale, sizeof *s * (size_t)(groups * got->stride));
    assert_memory_equal(q, want_q, bytes);
    for (int32_t r = 0; r < rows; r++)
        for (int32_t g = 0; g < groups; g++)
            assert_true(s[g * got->stride + r] == want_s[r * groups + g]);
    free(want_q), free(q), free(want_s), free(s);
}

static proa_cuda_fp8_rows make_quantised(proa_gpu *gpu, int32_t rows, int32_t cols, bool ue8m0)
{
    const int64_t stride = (rows + 127) / 128 * 128;
    return (proa_cuda_fp8_rows){.q = gpu_room(gpu, (size_t)rows * (size_t)cols),
                                .scale = gpu_room(gpu, sizeof(float) * (size_t)(groups_of(cols) * stride)),
                                .stride = stride,
                                .ue8m0 = ue8m0};
}

static void test_rmsnorm(void **state)
{
    static const struct {
        int32_t rows, cols;
        bool delta, ue8m0;
    } cases[] = {{1, 8, false, false},   {3, 200, true, false}, {70, 7168, true, false},
                 {2, 7168, false, true}, {5, 1536, true, true}, {4, 8192, true, false}};
    proa_gpu *gpu = gpu_of(state);
    proa_error err = {0};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int32_t rows = cases[i].rows, cols = cases[i].cols;
        int64_t count = (int64_t)rows * cols;
        float *x = test_floats(1, count, 3), *delta = test_floats(2, count, 1), *w = test_floats(3, cols, 1);
        float *want = malloc(sizeof *want * (size_t)count);
        uint16_t *bits = malloc(sizeof *bits * (size_t)cols);
        for (int32_t j = 0; j < cols; j++)
            bits[j] = proa_f32_to_bf16(w[j]);
        void *there[] = {gpu_bf16(gpu, x, count), gpu_bf16(gpu, delta, count), gpu_bf16(gpu, w, cols),
                         gpu_room(gpu, 2 * (size_t)count)};
        proa_cuda_fp8_rows q = make_quantised(gpu, rows, cols, cases[i].ue8m0);
        const proa_cuda_rmsnorm_args args = {.rows = rows,
                                             .cols = cols,
                                             .x = there[0],
                                             .x_stride = cols,
                                             .delta = cases[i].delta ? there[1] : NULL,
                                             .w = there[2],
                                             .eps = 1e-6f,
                                             .y = there[3],
                                             .y_stride = cols,
                                             .q = q};
        gpu_good(proa_cuda_rmsnorm(gpu, &args, &err), &err);
        const proa_host host = host_of(false);
        const proa_weight weight = {.dtype = PROA_DTYPE_BF16, .n = 1, .k = cols, .data = bits};
        proa_rmsnorm_ref(&host, &(proa_rmsnorm_args){.rows = rows,
                                                     .cols = cols,
                                                     .x = x,
                                                     .x_stride = cols,
                                                     .delta = cases[i].delta ? delta : NULL,
                                                     .w = &weight,
                                                     .eps = 1e-6,
                                                     .y = want,
                                                     .y_stride = cols});
        float *sum = gpu_read_bf16(gpu, there[0], count), *y = gpu_read_bf16(gpu, there[3], count);
        assert_memory_equal(sum, x, sizeof *x * (size_t)count); /* the residual stream is exact */
        assert_near(y, want, count, 1e-3 * near_bf16 + 5e-4);
        compare_quantised(gpu, &q, y, rows, cols);
        for (size_t j = 0; j < 4; j++)
            proa_gpu_free(gpu, there[j]);
        proa_gpu_free(gpu, q.q), proa_gpu_free(gpu, q.scale);
        free(x), free(delta), free(w), free(want), free(bits), free(sum), free(y);
    }
}

static void test_swiglu(void **state)
{
    enum { ROWS = 300, COLS = 264, PITCH = 2 * COLS };
    proa_gpu *gpu = gpu_of(state);
    proa_error err = {0};
    const proa_host host = host_of(false);
    float *both = test_floats(4, (int64_t)ROWS * PITCH, 4);
    float *gate = malloc(sizeof *gate * ROWS * COLS), *up = malloc(sizeof *up * ROWS * COLS);
    for (int32_t r = 0; r < ROWS; r++) {
        memcpy(gate + r * COLS, both + r * PITCH, sizeof *gate * COLS);
        memcpy(up + r * COLS, both + r * PITCH + COLS, sizeof *up * COLS);
    }
    proa_swiglu_ref(&host,
                    &(proa_swiglu_args){.rows = ROWS, .cols = COLS, .gate = gate, .up = up, .y = gate});
    void *x = gpu_bf16(gpu, both, (int64_t)ROWS * PITCH), *y = gpu_room(gpu, 2 * ROWS * COLS);
    proa_cuda_fp8_rows q = make_quantised(gpu, ROWS, COLS, false);
    proa_cuda_swiglu_args args = {.rows = {.groups = 1, .rows = ROWS},
                                  .cols = COLS,
                                  .gate = x,
                                  .up = (uint16_t *)x + COLS,
                                  .stride = PITCH,
                                  .y = y,
                                  .q = q};
    gpu_good(proa_cuda_swiglu(gpu, &args, &err), &err);
    float *got = gpu_read_bf16(gpu, y, ROWS * COLS);
    assert_near(got, gate, ROWS * COLS, 5e-4);
    compare_quantised(gpu, &q, got, ROWS, COLS);

    static const int32_t first[] = {0, 128, 256},
                         count[] = {100, 0, 44}; /* in groups: what lies between stays as it was */
    void *gfirst = gpu_copy(gpu, first, sizeof first), *gcount = gpu_copy(gpu, count, sizeof count);
    args.rows = (proa_cuda_groups){.groups = 3, .first = gfirst, .count = gcount};
    gpu_good(proa_gpu_set(gpu, y, 0xff, 2 * ROWS * COLS, &err), &err);
    gpu_good(proa_cuda_swiglu(gpu, &args, &err), &err);
    float *grouped = gpu_read_bf16(gpu, y, ROWS * COLS);
    for (int32_t r = 0; r < ROWS; r++) {
        bool in = r < 100 || r >= 256;
        for (int32_t i = 0; i < COLS; i++)
            assert_true(in ? grouped[r * COLS + i] == got[r * COLS + i] : isnan(grouped[r * COLS + i]));
    }
    void *const there[] = {x, y, q.q, q.scale, gfirst, gcount};
    for (size_t j = 0; j < sizeof there / sizeof *there; j++)
        proa_gpu_free(gpu, there[j]);
    free(both), free(gate), free(up), free(got), free(grouped);
}

/* ---- RoPE and the cache ---- */

enum { POSITIONS = 200, ROPE = 64, LORA = 512 };

static void make_table(proa_gpu *gpu, float *cos_table, float *sin_table, proa_cuda_rope_table *table,
                       const int32_t *positions, int32_t rows)
{
    const proa_rope_config config = {.dim = ROPE, .theta = 10000};
    proa_rope_table(&config, 0, POSITIONS, cos_table, sin_table);
    table->positions = gpu_copy(gpu, positions, sizeof *positions * (size_t)rows);
    table->cos_table = gpu_copy(gpu, cos_table, sizeof(float) * POSITIONS * ROPE / 2);
    table->sin_table = gpu_copy(gpu, sin_table, sizeof(float) * POSITIONS * ROPE / 2);
}

static void free_table(proa_gpu *gpu, const proa_cuda_rope_table *table)
{
    proa_gpu_free(gpu, (void *)(uintptr_t)table->positions);
    proa_gpu_free(gpu, (void *)(uintptr_t)table->cos_table);
    proa_gpu_free(gpu, (void *)(uintptr_t)table->sin_table);
}

static void test_rope(void **state)
{
    enum { ROWS = 19, HEADS = 6, HEAD = 192, NOPE = 128 };
    static float cos_table[POSITIONS * ROPE / 2], sin_table[POSITIONS * ROPE / 2];
    proa_gpu *gpu = gpu_of(state);
    proa_error err = {0};
    const proa_host host = host_of(false);
    const int64_t count = (int64_t)ROWS * HEADS * HEAD;
    int32_t positions[ROWS];
    for (int32_t r = 0; r < ROWS; r++)
        positions[r] = (r * 37 + 5) % POSITIONS;
    proa_cuda_rope_table table;
    make_table(gpu, cos_table, sin_table, &table, positions, ROWS);
    float *x = test_floats(5, count, 2);
    void *there = gpu_bf16(gpu, x, count);
    proa_rope_ref(&host, &(proa_rope_args){.rows = ROWS,
                                           .heads = HEADS,
                                           .dim = ROPE,
                                           .x = x + NOPE,
                                           .row_stride = HEADS * HEAD,
                                           .head_stride = HEAD,
                                           .positions = positions,
                                           .cos_table = cos_table,
                                           .sin_table = sin_table});
    const proa_cuda_rope_args args = {.table = table,
                                      .rows = ROWS,
                                      .heads = HEADS,
                                      .dim = ROPE,
                                      .x = (uint16_t *)there + NOPE,
                                      .row_stride = HEADS * HEAD,
                                      .head_stride = HEAD,
                                      .y = (uint16_t *)there + NOPE,
                                      .y_row_stride = HEADS * HEAD,
                                      .y_head_stride = HEAD};
    gpu_good(proa_cuda_rope(gpu, &args, &err), &err);
    float *got = gpu_read_bf16(gpu, there, count);
    assert_near(got, x, count, 5e-4);
    for (int32_t r = 0; r < ROWS * HEADS; r++)
        assert_memory_equal(got + r * HEAD, x + r * HEAD, sizeof *x * NOPE); /* the rest is left alone */
    proa_gpu_free(gpu, there);
    free_table(gpu, &table);
    free(x), free(got);
}

static void test_kv_append(void **state)
{
    enum { ROWS = 9, BLOCKS = 3, ROW = LORA + ROPE, CELLS = BLOCKS * PROA_KV_BLOCK_TOKENS };
    static float cos_table[POSITIONS * ROPE / 2], sin_table[POSITIONS * ROPE / 2];
    static const int32_t slots[ROWS] = {0, 63, 64, -1, 100, 191, 7, 8, -1};
    proa_gpu *gpu = gpu_of(state);
    proa_error err = {0};
    const proa_host host = host_of(false);
    int32_t positions[ROWS];
    for (int32_t r = 0; r < ROWS; r++)
        positions[r] = (r * 31 + 2) % POSITIONS;
    proa_cuda_rope_table table;
    make_table(gpu, cos_table, sin_table, &table, positions, ROWS);
    float *x = test_floats(6, ROWS * ROW, 2), *w = test_floats(7, LORA, 1);
    uint16_t bits[LORA];
    for (int32_t j = 0; j < LORA; j++)
        bits[j] = proa_f32_to_bf16(w[j]);
    void *there[] = {gpu_bf16(gpu, x, ROWS * ROW), gpu_bf16(gpu, w, LORA), gpu_copy(gpu, slots, sizeof slots),
                     gpu_room(gpu, 2 * CELLS * ROW)};
    const proa_cuda_kv_append_args args = {.table = table,
                                           .rows = ROWS,
                                           .kv_lora_rank = LORA,
                                           .rope_dim = ROPE,
                                           .kv_a = there[0],
                                           .stride = ROW,
                                           .w = there[1],
                                           .eps = 1e-6f,
                                           .slots = there[2],
                                           .cache = there[3]};
    gpu_good(proa_cuda_kv_append(gpu, &args, &err), &err);
    float *cache = gpu_read_bf16(gpu, there[3], CELLS * ROW);
    const proa_weight weight = {.dtype = PROA_DTYPE_BF16, .n = 1, .k = LORA, .data = bits};
    proa_rmsnorm_ref(&host, &(proa_rmsnorm_args){.rows = ROWS,
                                                 .cols = LORA,
                                                 .x = x,
                                                 .x_stride = ROW,
                                                 .w = &weight,
                                                 .eps = 1e-6,
                                                 .y = x,
                                                 .y_stride = ROW});
    proa_rope_ref(&host, &(proa_rope_args){.rows = ROWS,
                                           .heads = 1,
                                           .dim = ROPE,
                                           .x = x + LORA,
                                           .row_stride = ROW,
                                           .head_stride = ROW,
                                           .positions = positions,
                                           .cos_table = cos_table,
                                           .sin_table = sin_table});
    for (int32_t cell = 0; cell < CELLS; cell++) {
        int32_t row = -1;
        for (int32_t r = 0; r < ROWS; r++)
            row = slots[r] == cell ? r : row;
        if (row >= 0)
            assert_near(cache + cell * ROW, x + row * ROW, ROW, 1e-3);
        else
            assert_true(isnan(cache[cell * ROW]) && isnan(cache[cell * ROW + ROW - 1]));
    }
    for (size_t j = 0; j < 4; j++)
        proa_gpu_free(gpu, there[j]);
    free_table(gpu, &table);
    free(x), free(w), free(cache);
}

/* ---- router, spread, combine ---- */

typedef struct routing {
    int32_t rows, experts, n_group, topk_group, top_k;
    bool norm;
} routing;

static void compare_routes(const routing *c, const int32_t *ids, const float *weights,
                           const int32_t *want_ids, const float *want_weights)
{
    for (int32_t i = 0; i < c->rows * c->top_k; i++) {
        assert_int_equal(ids[i], want_ids[i]);
        assert_true(fabsf(weights[i] - want_weights[i]) <= 1e-5f * fabsf(want_weights[i]));
    }
}

/* Each slot has a row of its own within its expert's, and the row has the source row's values. */
static void compare_spread(const routing *c, const int32_t *ids, const int32_t *place, const int32_t *first,
                           const int32_t *count, int32_t cols, const float *x, const float *out,
                           int32_t out_rows)
{
    bool *taken = calloc((size_t)out_rows, sizeof *taken);
    int32_t end = 0;
    assert_non_null(taken);
    for (int32_t e = 0; e < c->experts; e++) {
        assert_int_equal(first[e], end);
        end += (count[e] + 127) / 128 * 128;
    }
    assert_true(end <= out_rows);
    for (int32_t i = 0; i < c->rows * c->top_k; i++) {
        assert_in_range(place[i], first[ids[i]], first[ids[i]] + count[ids[i]] - 1);
        assert_false(taken[place[i]]);
        taken[place[i]] = true;
        assert_memory_equal(out + (int64_t)place[i] * cols, x + (int64_t)(i / c->top_k) * cols,
                            sizeof *x * (size_t)cols);
    }
    free(taken);
}

enum { ROUTED_COLS = 144, LOGIT_PARTS = 2 };

/* What one case has on the GPU. */
typedef struct routed {
    int32_t slots, out_rows;
    size_t table;          /* bytes of a number an expert */
    float *sum, *bias, *x; /* here */
    void *logits, *gbias, *ids, *weights, *counts, *first, *count, *place, *gx, *out, *y, *clear;
} routed;

static routed make_routed(proa_gpu *gpu, const routing *c)
{
    const int64_t logits = (int64_t)c->rows * c->experts, values = (int64_t)c->rows * ROUTED_COLS;
    proa_error err = {0};
    routed r = {.slots = c->rows * c->top_k, .table = sizeof(int32_t) * (size_t)c->experts};
    float *parts = malloc(sizeof *parts * LOGIT_PARTS * (size_t)logits);
    r.out_rows = r.slots + c->experts * 127;
    r.sum = malloc(sizeof *r.sum * (size_t)logits);
    r.bias = test_floats(8, c->experts, 0.1f);
    r.x = test_floats(9, values, 1);
    assert_non_null(parts);
    assert_non_null(r.sum);
    for (int64_t i = 0; i < logits; i++) {
        parts[i] = 2 * test_uniform(10, (uint64_t)i);
        parts[logits + i] = 2 * test_uniform(11, (uint64_t)i);
        r.sum[i] = parts[i] + parts[logits + i];
    }
    r.logits = gpu_copy(gpu, parts, sizeof *parts * LOGIT_PARTS * (size_t)logits);
    r.gbias = gpu_copy(gpu, r.bias, sizeof *r.bias * (size_t)c->experts);
    r.ids = gpu_room(gpu, sizeof(int32_t) * (size_t)r.slots);
    r.weights = gpu_room(gpu, sizeof(float) * (size_t)r.slots);
    r.counts = gpu_room(gpu, 2 * r.table);
    r.first = gpu_room(gpu, r.table);
    r.count = gpu_room(gpu, r.table);
    r.place = gpu_room(gpu, sizeof(int32_t) * (size_t)r.slots);
    r.gx = gpu_bf16(gpu, r.x, values);
    r.out = gpu_room(gpu, 2 * (size_t)r.out_rows * ROUTED_COLS);
    r.y = gpu_room(gpu, 2 * (size_t)values);
    r.clear = gpu_room(gpu, 2 * r.table);
    gpu_good(proa_gpu_set(gpu, r.counts, 0, 2 * r.table, &err), &err);
    free(parts);
    return r;
}

static void free_routed(proa_gpu *gpu, const routed *r)
{
    void *const there[] = {r->logits, r->gbias, r->ids, r->weights, r->counts, r->first,
                           r->count,  r->place, r->gx,  r->out,     r->y,      r->clear};
    for (size_t i = 0; i < sizeof there / sizeof *there; i++)
        proa_gpu_free(gpu, there[i]);
    free(r->sum), free(r->bias), free(r->x);
}

static void run_routed(proa_gpu *gpu, const routing *c, const routed *r)
{
    proa_error err = {0};
    const proa_cuda_router_args router = {.rows = c->rows,
                                          .experts = c->experts,
                                          .n_group = c->n_group,
                                          .topk_group = c->topk_group,
                                          .top_k = c->top_k,
                                          .norm_topk_prob = c->norm,
                                          .routed_scaling_factor = 2.5f,
                                          .parts = LOGIT_PARTS,
                                          .logits = r->logits,
                                          .bias = r->gbias,
                                          .ids = r->ids,
                                          .weights = r->weights,
                                          .counts = r->counts};
    const proa_cuda_spread_args spread = {.rows = c->rows,
                                          .top_k = c->top_k,
                                          .experts = c->experts,
                                          .ids = r->ids,
                                          .counts = r->counts,
                                          .filled = (int32_t *)r->counts + c->experts,
                                          .clear = r->clear,
                                          .clear_count = 2 * c->experts,
                                          .first = r->first,
                                          .count = r->count,
                                          .place = r->place,
                                          .cols = ROUTED_COLS,
                                          .x = r->gx,
                                          .x_out = r->out};
    const proa_cuda_combine_args combine = {.rows = c->rows,
                                            .cols = ROUTED_COLS,
                                            .top_k = c->top_k,
                                            .slots = r->out,
                                            .place = r->place,
                                            .weights = r->weights,
                                            .shared = r->gx,
                                            .y = r->y};
    gpu_good(proa_cuda_router(gpu, &router, &err), &err);
    gpu_good(proa_cuda_spread(gpu, &spread, &err), &err);
    gpu_good(proa_cuda_combine(gpu, &combine, &err), &err);
}

static void *read_all(proa_gpu *gpu, const void *from, size_t bytes)
{
    void *to = malloc(bytes);
    assert_non_null(to);
    gpu_read(gpu, to, from, bytes);
    return to;
}

static void compare_routed(proa_gpu *gpu, const routing *c, const routed *r)
{
    const proa_host host = host_of(false);
    const size_t slots = (size_t)r->slots, values = (size_t)c->rows * ROUTED_COLS;
    int32_t *ids = read_all(gpu, r->ids, sizeof *ids * slots),
            *place = read_all(gpu, r->place, sizeof *place * slots);
    int32_t *first = read_all(gpu, r->first, r->table), *count = read_all(gpu, r->count, r->table);
    int32_t *clear = read_all(gpu, r->clear, 2 * r->table), *want_ids = malloc(sizeof *want_ids * slots);
    float *weights = read_all(gpu, r->weights, sizeof *weights * slots),
          *want_weights = malloc(sizeof *want_weights * slots);
    float *out = gpu_read_bf16(gpu, r->out, (int64_t)r->out_rows * ROUTED_COLS),
          *y = gpu_read_bf16(gpu, r->y, (int64_t)values);
    float *want = malloc(sizeof *want * values);
    assert_non_null(want_ids), assert_non_null(want_weights), assert_non_null(want);
    proa_router_ref(&host, &(proa_router_args){.rows = c->rows,
                                               .experts = c->experts,
                                               .n_group = c->n_group,
                                               .topk_group = c->topk_group,
                                               .top_k = c->top_k,
                                               .norm_topk_prob = c->norm,
                                               .routed_scaling_factor = 2.5,
                                               .logits = r->sum,
                                               .bias = r->bias,
                                               .ids = want_ids,
                                               .weights = want_weights});
    compare_routes(c, ids, weights, want_ids, want_weights);
    compare_spread(c, ids, place, first, count, ROUTED_COLS, r->x, out, r->out_rows);
    for (int32_t i = 0; i < 2 * c->experts; i++)
        assert_int_equal(clear[i], 0);
    proa_combine_ref(&host, &(proa_combine_args){.rows = c->rows,
                                                 .cols = ROUTED_COLS,
                                                 .top_k = c->top_k,
                                                 .slots = out,
                                                 .place = place,
                                                 .weights = weights,
                                                 .shared = r->x,
                                                 .y = want});
    assert_near(y, want, (int64_t)values,
                2e-3); /* one value that rounds the other way, in the smallest case */
    free(ids), free(place), free(first), free(count), free(clear), free(want_ids), free(weights),
        free(want_weights);
    free(out), free(y), free(want);
}

static void route(proa_gpu *gpu, const routing *c)
{
    const routed r = make_routed(gpu, c);
    run_routed(gpu, c, &r);
    compare_routed(gpu, c, &r);
    free_routed(gpu, &r);
}

static void test_router_spread_combine(void **state)
{
    static const routing cases[] = {
        {1, 256, 8, 4, 8, true},  {130, 256, 8, 4, 8, true},  {7, 384, 1, 1, 8, true},
        {33, 16, 4, 2, 4, false}, {5, 1024, 32, 3, 32, true}, {3, 8, 8, 8, 8, true},
    };
    proa_gpu *gpu = gpu_of(state);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        route(gpu, &cases[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rmsnorm),
        cmocka_unit_test(test_swiglu),
        cmocka_unit_test(test_rope),
        cmocka_unit_test(test_kv_append),
        cmocka_unit_test(test_router_spread_combine),
    };
    return cmocka_run_group_tests(tests, gpu_open_state, gpu_close_state);
}
