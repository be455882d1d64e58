/* test_cuda_ops.c - the stand-in's GPU (tests/stand_in) where the programs of tests/gpu do not try it: attention, the cache's way to prompts,
 * quantisation, embedding against ref.c. Linear, norms, SwiGLU, RoPE, router are theirs. */
#include "../gpu/gpu_test.h"
#include "op/embed/cuda.h"
#include "op/mla/cuda.h"
#include "op/mla/mla.h"
#include "op/quantise/cuda.h"
#include "op/quantise/quantise.h"
#include "op/rope/cuda.h"

/* What a probability that rounds the other way does, and the order of sums. */
static const double near_attention = 4e-3;

static proa_host host_of(bool ue8m0)
{
    return (proa_host){.precision = PROA_PRECISION_DEFAULT, .ue8m0 = ue8m0};
}

static void *room_of(size_t bytes)
{
    void *memory = malloc(bytes > 0 ? bytes : 1);
    assert_non_null(memory);
    return memory;
}

static uint16_t *narrowed(const float *x, int64_t count)
{
    uint16_t *bits = room_of(sizeof *bits * (size_t)count);
    for (int64_t i = 0; i < count; i++)
        bits[i] = proa_f32_to_bf16(x[i]);
    return bits;
}

/* ---- rows ---- */

static void test_quantise(void **state)
{
    static const struct {
        int32_t rows, cols, stride;
        bool ue8m0;
    } cases[] = {{1, 8, 8, false}, {3, 136, 160, true}, {130, 128, 128, false}, {5, 520, 528, true}};
    proa_gpu *gpu = gpu_of(state);
    proa_error err = {0};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const int32_t rows = cases[i].rows, cols = cases[i].cols, stride = cases[i].stride,
                      groups = (cols + 127) / 128, room = (rows + 127) / 128 * 128;
        const proa_host host = host_of(cases[i].ue8m0);
        float *x = test_floats(i, (int64_t)rows * stride, 3);
        uint8_t *q = room_of((size_t)(rows * cols)), *got_q = room_of((size_t)(rows * cols));
        float *s = room_of(sizeof *s * (size_t)(rows * groups)),
              *got_s = room_of(sizeof *s * (size_t)(room * groups));
        void *there = gpu_bf16(gpu, x, (int64_t)rows * stride);
        const proa_cuda_fp8_rows to = {.q = gpu_room(gpu, (size_t)(rows * cols)),
                                       .scale = gpu_room(gpu, sizeof *s * (size_t)(room * groups)),
                                       .stride = room,
                                       .ue8m0 = cases[i].ue8m0};
        const proa_cuda_quantise_args args = {
            .rows = rows, .cols = cols, .x = there, .x_stride = stride, .q = to};
        gpu_good(proa_cuda_quantise(gpu, &args, &err), &err);
        gpu_read(gpu, got_q, to.q, (size_t)(rows * cols));
        gpu_read(gpu, got_s, to.scale, sizeof *s * (size_t)(room * groups));
        proa_quantise_ref(&host, &(proa_quantise_args){
                                     .rows = rows, .cols = cols, .x = x, .x_stride = stride, .q = q, .s = s});
        assert_memory_equal(got_q, q, (size_t)(rows * cols));
        for (int32_t r = 0; r < rows; r++)
            for (int32_t g = 0; g < groups; g++)
                assert_true(got_s[g * room + r] == s[r * groups + g]);
        proa_gpu_free(gpu, there), proa_gpu_free(gpu, to.q), proa_gpu_free(gpu, to.scale);
        free(x), free(q), free(s), free(got_q), free(got_s);
    }
}

static void test_embed(void **state)
{
    enum { ROWS = 5, COLS = 24, TABLE = 9 };
    static const int32_t ids[ROWS] = {8, 0, 3, 3, 1};
    proa_gpu *gpu = gpu_of(state);
    proa_error err = {0};
    float *table = test_floats(3, TABLE * COLS, 1);
    void *there[] = {gpu_copy(gpu, ids, sizeof ids), gpu_bf16(gpu, table, TABLE * COLS),
                     gpu_room(gpu, 2 * ROWS * COLS)};
    const proa_cuda_embed_args args = {
        .rows = ROWS, .cols = COLS, .ids = there[0], .table = there[1], .y = there[2]};
    gpu_good(proa_cuda_embed(gpu, &args, &err), &err);
    float *y = gpu_read_bf16(gpu, there[2], ROWS * COLS);
    for (int32_t r = 0; r < ROWS; r++)
        assert_memory_equal(y + r * COLS, table + ids[r] * COLS, sizeof *y * COLS);
    for (size_t i = 0; i < 3; i++)
        proa_gpu_free(gpu, there[i]);
    free(table), free(y);
}

static void test_gather(void **state)
{
    enum { ROWS = 6, LORA = 136, ROPE = 8, CELLS = 2 * PROA_KV_BLOCK_TOKENS, ROW = LORA + ROPE, GROUPS = 2 };
    static const int32_t slots[ROWS] = {127, -1, 0, 64, 63, -1};
    proa_gpu *gpu = gpu_of(state);
    proa_error err = {0};
    const proa_host host = host_of(false);
    float *cache = test_floats(5, CELLS * ROW, 1), scale[GROUPS * 128], s[GROUPS];
    uint8_t q[LORA], got_q[ROWS * LORA];
    void *there[] = {gpu_copy(gpu, slots, sizeof slots), gpu_bf16(gpu, cache, CELLS * ROW),
                     gpu_room(gpu, 2 * ROWS * LORA),     gpu_room(gpu, 2 * ROWS * ROPE),
                     gpu_room(gpu, ROWS * LORA),         gpu_room(gpu, sizeof scale)};
    const proa_cuda_kv_gather_args args = {.rows = ROWS,
                                           .kv_lora_rank = LORA,
                                           .rope_dim = ROPE,
                                           .slots = there[0],
                                           .cache = there[1],
                                           .kv_lora = there[2],
                                           .q = {.q = there[4], .scale = there[5], .stride = 128},
                                           .k_pe = there[3]};
    gpu_good(proa_cuda_kv_gather(gpu, &args, &err), &err);
    float *lora = gpu_read_bf16(gpu, there[2], ROWS * LORA),
          *k_pe = gpu_read_bf16(gpu, there[3], ROWS * ROPE);
    gpu_read(gpu, got_q, there[4], sizeof got_q);
    gpu_read(gpu, scale, there[5], sizeof scale);
    for (int32_t r = 0; r < ROWS; r++) {
        if (slots[r] < 0) { /* left as it was */
            assert_true(isnan(lora[r * LORA]) && isnan(k_pe[r * ROPE]) && isnan(scale[r]));
            continue;
        }
        const float *from = cache + slots[r] * ROW;
        assert_memory_equal(lora + r * LORA, from, sizeof *from * LORA);
        assert_memory_equal(k_pe + r * ROPE, from + LORA, sizeof *from * ROPE);
        proa_quantise_ref(&host, &(proa_quantise_args){
                                     .rows = 1, .cols = LORA, .x = from, .x_stride = LORA, .q = q, .s = s});
        assert_memory_equal(got_q + r * LORA, q, LORA);
        assert_true(scale[r] == s[0] && scale[128 + r] == s[1]);
    }
    for (size_t i = 0; i < sizeof there / sizeof *there; i++)
        proa_gpu_free(gpu, there[i]);
    free(cache), free(lora), free(k_pe);
}

/* ---- decode ---- */

enum { TABLES = 4, TABLE_STRIDE = 4, CACHE_BLOCKS = TABLES * TABLE_STRIDE };

typedef struct decode_case {
    int32_t heads, lora, rope, rows_per_table;
    int32_t lengths[TABLES];
} decode_case;

typedef struct decoded {
    const decode_case *c;
    int32_t rows, dim;
    int32_t table[CACHE_BLOCKS];
    float *q, *cache;
    void *gq, *gcache, *gtable, *glengths, *gout, *glse, *workspace;
} decoded;

static decoded make_decode(proa_gpu *gpu, const decode_case *c)
{
    decoded d = {.c = c, .rows = TABLES * c->rows_per_table, .dim = c->lora + c->rope};
    const int64_t queries = (int64_t)d.rows * c->heads,
                  cells = (int64_t)CACHE_BLOCKS * PROA_KV_BLOCK_TOKENS * d.dim;
    for (int32_t i = 0; i < CACHE_BLOCKS; i++)
        d.table[i] = i * 5 % CACHE_BLOCKS;
    d.q = test_floats(1, queries * d.dim, 1);
    d.cache = test_floats(2, cells, 1);
    d.gq = gpu_bf16(gpu, d.q, queries * d.dim);
    d.gcache = gpu_bf16(gpu, d.cache, cells);
    d.gtable = gpu_copy(gpu, d.table, sizeof d.table);
    d.glengths = gpu_copy(gpu, c->lengths, sizeof c->lengths);
    d.gout = gpu_room(gpu, 2 * (size_t)(queries * c->lora));
    d.glse = gpu_room(gpu, sizeof(float) * (size_t)queries);
    d.workspace = gpu_room(gpu, proa_mla_decode_workspace_bytes(d.rows, c->heads, d.rows));
    return d;
}

static void free_decode(proa_gpu *gpu, decoded *d)
{
    void *const there[] = {d->gq, d->gcache, d->gtable, d->glengths, d->gout, d->glse, d->workspace};
    for (size_t i = 0; i < sizeof there / sizeof *there; i++)
        proa_gpu_free(gpu, there[i]);
    free(d->q), free(d->cache);
}

static proa_mla_decode_args decode_args(const decoded *d)
{
    return (proa_mla_decode_args){.rows = d->rows,
                                  .heads = d->c->heads,
                                  .kv_lora_rank = d->c->lora,
                                  .rope_dim = d->c->rope,
                                  .rows_per_table = d->c->rows_per_table,
                                  .table_stride = TABLE_STRIDE,
                                  .table = d->gtable,
                                  .lengths = d->glengths,
                                  .q = d->gq,
                                  .cache = d->gcache,
                                  .cache_blocks = CACHE_BLOCKS,
                                  .scale = 0.05f,
                                  .out = d->gout,
                                  .lse = d->glse,
                                  .workspace = d->workspace,
                                  .splits_max = d->rows};
}

static void run_decode(proa_gpu *gpu, const proa_mla_decode_args *args)
{
    proa_error err = {0};
    gpu_good(proa_cuda_mla_plan(gpu, args, &err), &err);
    gpu_good(proa_cuda_mla_decode(gpu, args, &err), &err);
}

/* Row `row` by ref.c: out [heads, lora], lse [heads]. */
static void decode_ref(const decoded *d, int32_t row, int32_t keys, float *out, float *lse)
{
    const decode_case *c = d->c;
    const proa_host host = host_of(false);
    uint16_t *cache = narrowed(d->cache, (int64_t)CACHE_BLOCKS * PROA_KV_BLOCK_TOKENS * d->dim);
    float *q_lat = room_of(sizeof *q_lat * (size_t)(c->heads * c->lora));
    const float *q = d->q + (int64_t)row * c->heads * d->dim;
    for (int32_t h = 0; h < c->heads; h++)
        memcpy(q_lat + h * c->lora, q + h * d->dim, sizeof *q * (size_t)c->lora);
    const proa_kv_layer kv = {
        .base = cache, .dtype = PROA_DTYPE_BF16, .kv_lora_rank = c->lora, .rope_dim = c->rope};
    const proa_segment segment = {.row_count = 1,
                                  .position_first = keys - 1,
                                  .blocks = d->table + row / c->rows_per_table * TABLE_STRIDE,
                                  .absorbed = true};
    proa_mla_absorbed_ref(&host, &(proa_mla_absorbed_args){.segments = &segment,
                                                           .segment_count = 1,
                                                           .heads = c->heads,
                                                           .scale = 0.05f,
                                                           .q_lat = q_lat,
                                                           .q_pe = q + c->lora,
                                                           .q_pe_row_stride = 0,
                                                           .q_pe_head_stride = d->dim,
                                                           .kv = &kv,
                                                           .o_lat = out,
                                                           .lse = lse});
    free(cache), free(q_lat);
}

static void compare_decode(proa_gpu *gpu, const decoded *d)
{
    const decode_case *c = d->c;
    const int64_t width = (int64_t)c->heads * c->lora;
    float *out = gpu_read_bf16(gpu, d->gout, d->rows * width), *want = room_of(sizeof *want * (size_t)width);
    float *lse = room_of(sizeof *lse * (size_t)(d->rows * c->heads)),
          *want_lse = room_of(sizeof *lse * (size_t)c->heads);
    gpu_read(gpu, lse, d->glse, sizeof *lse * (size_t)(d->rows * c->heads));
    for (int32_t r = 0; r < d->rows; r++) {
        const int32_t behind = c->rows_per_table - 1 - r % c->rows_per_table,
                      keys = c->lengths[r / c->rows_per_table] - behind;
        const float *got = out + r * width;
        if (keys <= 0) {
            for (int64_t i = 0; i < width; i++)
                assert_true(got[i] == 0);
            continue;
        }
        decode_ref(d, r, keys, want, want_lse);
        assert_near(got, want, width, near_attention);
        for (int32_t h = 0; h < c->heads; h++)
            assert_true(fabsf(lse[r * c->heads + h] - want_lse[h]) < 1e-4f);
    }
    free(out), free(want), free(lse), free(want_lse);
}

/* A sequence alone has the bits that it has among the others. */
static void compare_alone(proa_gpu *gpu, const decoded *d)
{
    const decode_case *c = d->c;
    const size_t bytes = 2 * (size_t)(c->rows_per_table * c->heads * c->lora);
    unsigned char *all = room_of(TABLES * bytes), *one = room_of(bytes);
    gpu_read(gpu, all, d->gout, TABLES * bytes);
    for (int32_t t = 0; t < TABLES; t++) {
        proa_mla_decode_args args = decode_args(d);
        args.rows = c->rows_per_table;
        args.table += t * TABLE_STRIDE;
        args.lengths += t;
        args.q = (const uint16_t *)args.q + (int64_t)t * c->rows_per_table * c->heads * d->dim;
        run_decode(gpu, &args);
        gpu_read(gpu, one, d->gout, bytes);
        assert_memory_equal(one, all + (size_t)t * bytes, bytes);
    }
    free(all), free(one);
}

static void test_decode(void **state)
{
    static const decode_case cases[] = {{2, 512, 64, 1, {0, 1, 64, 130}},
                                        {3, 512, 64, 2, {1, 65, 63, 256}},
                                        {1, 40, 8, 1, {3, 0, 129, 64}},
                                        {5, 72, 24, 3, {2, 67, 3, 255}}};
    proa_gpu *gpu = gpu_of(state);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        decoded d = make_decode(gpu, &cases[i]);
        const proa_mla_decode_args args = decode_args(&d);
        run_decode(gpu, &args);
        compare_decode(gpu, &d);
        compare_alone(gpu, &d);
        free_decode(gpu, &d);
    }
}

/* ---- prefill ---- */

enum { SEGMENTS = 4, PREFILL_ROWS = 1 + 150 + 5 + 64, KEYS_MAX = 4 * 256 };

/* Rows and where they begin. */
static const int32_t segment_rows[SEGMENTS] = {1, 150, 5, 64}, segment_at[SEGMENTS] = {0, 0, 127, 130};

typedef struct prefill_case {
    int32_t heads, nope, rope, v;
} prefill_case;

/* Keys [key_first, key_end) of every segment; a segment's own begin at key row 256 * its number. */
static void make_segments(proa_mla_prefill_segment *to, int32_t key_first, int32_t key_end)
{
    for (int32_t i = 0, row = 0; i < SEGMENTS; row += segment_rows[i++]) {
        const int32_t all = segment_at[i] + segment_rows[i], end = all < key_end ? all : key_end;
        to[i] = (proa_mla_prefill_segment){.row_first = row,
                                           .row_count = segment_rows[i],
                                           .position_first = segment_at[i],
                                           .key_row = 256 * i + key_first,
                                           .key_first = key_first,
                                           .key_count = end > key_first ? end - key_first : 0};
    }
}

typedef struct prefilled {
    const prefill_case *c;
    float *q, *kv, *k_pe;
    void *gq, *gkv, *gk_pe, *gout, *glse, *tickets, *gmax, *gsum, *gstate;
} prefilled;

static prefilled make_prefill(proa_gpu *gpu, const prefill_case *c)
{
    static const int32_t tickets[2];
    prefilled p = {.c = c};
    const int64_t queries = (int64_t)PREFILL_ROWS * c->heads, qs = queries * (c->nope + c->rope),
                  kvs = (int64_t)KEYS_MAX * c->heads * (c->nope + c->v), pes = (int64_t)KEYS_MAX * c->rope;
    p.q = test_floats(3, qs, 1), p.kv = test_floats(4, kvs, 1), p.k_pe = test_floats(5, pes, 1);
    p.gq = gpu_bf16(gpu, p.q, qs), p.gkv = gpu_bf16(gpu, p.kv, kvs), p.gk_pe = gpu_bf16(gpu, p.k_pe, pes);
    p.gout = gpu_room(gpu, 2 * (size_t)(queries * c->v));
    p.glse = gpu_room(gpu, sizeof(float) * (size_t)queries);
    p.tickets = gpu_copy(gpu, tickets, sizeof tickets);
    p.gmax = gpu_room(gpu, sizeof(float) * (size_t)queries);
    p.gsum = gpu_room(gpu, sizeof(float) * 4 * (size_t)queries);
    p.gstate = gpu_room(gpu, sizeof(float) * (size_t)(queries * c->v));
    return p;
}

static void free_prefill(proa_gpu *gpu, prefilled *p)
{
    void *const there[] = {p->gq,      p->gkv,  p->gk_pe, p->gout,  p->glse,
                           p->tickets, p->gmax, p->gsum,  p->gstate};
    for (size_t i = 0; i < sizeof there / sizeof *there; i++)
        proa_gpu_free(gpu, there[i]);
    free(p->q), free(p->kv), free(p->k_pe);
}

static void run_prefill(proa_gpu *gpu, const prefilled *p, int32_t key_first, int32_t key_end)
{
    const prefill_case *c = p->c;
    proa_error err = {0};
    proa_mla_prefill_segment segments[SEGMENTS];
    make_segments(segments, key_first, key_end);
    void *there = gpu_copy(gpu, segments, sizeof segments);
    const proa_mla_prefill_args args = {.segments = there,
                                        .segment_count = SEGMENTS,
                                        .rows = PREFILL_ROWS,
                                        .keys = KEYS_MAX,
                                        .heads = c->heads,
                                        .nope_dim = c->nope,
                                        .rope_dim = c->rope,
                                        .v_dim = c->v,
                                        .scale = 0.1f,
                                        .q = p->gq,
                                        .kv = p->gkv,
                                        .k_pe = p->gk_pe,
                                        .out = p->gout,
                                        .lse = p->glse,
                                        .state_max = p->gmax,
                                        .state_sum = p->gsum,
                                        .state_out = p->gstate,
                                        .tickets = p->tickets};
    gpu_good(proa_cuda_mla_prefill(gpu, &args, &err), &err);
    gpu_good(proa_gpu_sync(gpu, &err), &err);
    proa_gpu_free(gpu, there);
}

static void compare_prefill(proa_gpu *gpu, const prefilled *p)
{
    const prefill_case *c = p->c;
    const proa_host host = host_of(false);
    const int64_t width = (int64_t)c->heads * c->v, q_width = (int64_t)c->heads * (c->nope + c->rope);
    const size_t queries = (size_t)(PREFILL_ROWS * c->heads);
    float *got = gpu_read_bf16(gpu, p->gout, PREFILL_ROWS * width), *lse = room_of(sizeof *lse * queries);
    float *out = room_of(sizeof *out * queries * (size_t)c->v), *max = room_of(sizeof *max * queries),
          *sum = room_of(sizeof *sum * queries), *state = room_of(sizeof *state * queries * (size_t)c->v),
          *want_lse = room_of(sizeof *lse * queries);
    gpu_read(gpu, lse, p->glse, sizeof *lse * queries);
    for (int32_t i = 0, row = 0; i < SEGMENTS; row += segment_rows[i++]) {
        const int32_t rows = segment_rows[i];
        proa_mla_expanded_ref(
            &host, &(proa_mla_expanded_args){.rows = rows,
                                             .position_first = segment_at[i],
                                             .heads = c->heads,
                                             .nope_dim = c->nope,
                                             .rope_dim = c->rope,
                                             .v_dim = c->v,
                                             .scale = 0.1f,
                                             .q = p->q + row * q_width,
                                             .q_row_stride = q_width,
                                             .tile_count = segment_at[i] + rows,
                                             .kv = p->kv + (int64_t)256 * i * c->heads * (c->nope + c->v),
                                             .k_pe = p->k_pe + (int64_t)256 * i * c->rope,
                                             .first = true,
                                             .last = true,
                                             .state_max = max,
                                             .state_sum = sum,
                                             .state_out = state,
                                             .out = out,
                                             .out_row_stride = width,
                                             .lse = want_lse});
        assert_near(got + row * width, out, rows * width, near_attention);
        for (int32_t h = 0; h < c->heads; h++)
            for (int32_t r = 0; r < rows; r++)
                assert_true(fabsf(lse[h * PREFILL_ROWS + row + r] - want_lse[h * rows + r]) < 1e-4f);
    }
    free(got), free(lse), free(out), free(max), free(sum), free(state), free(want_lse);
}

static void test_prefill(void **state)
{
    static const prefill_case cases[] = {{2, 128, 64, 128}, {3, 24, 8, 40}};
    proa_gpu *gpu = gpu_of(state);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        prefilled p = make_prefill(gpu, &cases[i]);
        const int64_t values = (int64_t)PREFILL_ROWS * cases[i].heads * cases[i].v;
        run_prefill(gpu, &p, 0, 256);
        compare_prefill(gpu, &p);
        float *whole = gpu_read_bf16(gpu, p.gout, values);
        run_prefill(gpu, &p, 0, 128); /* the same keys in two calls */
        run_prefill(gpu, &p, 128, 256);
        float *pieces = gpu_read_bf16(gpu, p.gout, values);
        assert_memory_equal(pieces, whole, sizeof *whole * (size_t)values);
        free(whole), free(pieces);
        free_prefill(gpu, &p);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_quantise), cmocka_unit_test(test_embed),   cmocka_unit_test(test_gather),
        cmocka_unit_test(test_decode),   cmocka_unit_test(test_prefill),
    };
    return cmocka_run_group_tests(tests, gpu_open_state, gpu_close_state);
}
