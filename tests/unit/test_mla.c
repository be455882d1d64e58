/* test_mla.c - the cache and both forms of attention: cpu against ref, and law 2 bit by bit. */
#include "op/lanes.h"
#include "op/mla/mla.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <cmocka.h>

#include "op_fixture.h"

/* -- expanded -- */

typedef struct shape {
    int32_t heads, nope, rope, v, lora;
} shape;

static const shape shapes[] = {
    {4, 128, 64, 128, 512}, {3, 32, 32, 32, 64},   {2, 40, 32, 24, 72},
    {1, 17, 2, 19, 33},     {9, 64, 64, 100, 256},
};

/* Queries at position_first .. + rows - 1 over keys 0 .. position_first + rows - 1. */
typedef struct expanded_case {
    shape s;
    int32_t position_first, rows, keys;
    float *q, *kv, *k_pe;
} expanded_case;

typedef struct expanded_result {
    float *out, *lse;
} expanded_result;

static expanded_case make_expanded(shape s, int32_t position_first, int32_t rows, proa_precision precision)
{
    int32_t keys = position_first + rows;
    return (expanded_case){
        s,
        position_first,
        rows,
        keys,
        fixture_activations(1, (int64_t)rows * s.heads * (s.nope + s.rope), 1, precision),
        fixture_activations(2, (int64_t)keys * s.heads * (s.nope + s.v), 1, precision),
        fixture_activations(3, (int64_t)keys * s.rope, 1, precision),
    };
}

static void free_expanded(expanded_case *c)
{
    free(c->q);
    free(c->kv);
    free(c->k_pe);
}

typedef void (*expanded_op)(const proa_host *, const proa_mla_expanded_args *);

/* Runs the case in chunks of `chunk` rows and tiles of `tile` keys. */
static expanded_result run_expanded(proa_host *host, expanded_op op, const expanded_case *c, int32_t chunk,
                                    int32_t tile)
{
    shape s = c->s;
    int64_t qk = s.nope + s.rope, out_stride = (int64_t)s.heads * s.v + 5;
    expanded_result result = {fixture_floats((int64_t)c->rows * s.heads * s.v),
                              fixture_floats((int64_t)s.heads * c->rows)};
    fixture_reserve(host, proa_mla_expanded_scratch_bytes(host, chunk, s.heads, tile, s.nope, s.rope, s.v));
    for (int32_t row = 0; row < c->rows; row += chunk) {
        int32_t rows = c->rows - row < chunk ? c->rows - row : chunk;
        int32_t keys = c->position_first + row + rows;
        float *max = fixture_floats((int64_t)rows * s.heads), *sum = fixture_floats((int64_t)rows * s.heads);
        float *state = fixture_floats((int64_t)rows * s.heads * s.v),
              *out = fixture_floats(rows * out_stride);
        float *lse = fixture_floats((int64_t)rows * s.heads);
        for (int32_t first = 0; first < keys; first += tile) {
            int32_t count = keys - first < tile ? keys - first : tile;
            proa_mla_expanded_args args = {
                .rows = rows,
                .position_first = c->position_first + row,
                .heads = s.heads,
                .nope_dim = s.nope,
                .rope_dim = s.rope,
                .v_dim = s.v,
                .scale = 0.09f,
                .q = c->q + row * s.heads * qk,
                .q_row_stride = s.heads * qk,
                .tile_first = first,
                .tile_count = count,
                .kv = c->kv + (int64_t)first * s.heads * (s.nope + s.v),
                .k_pe = c->k_pe + (int64_t)first * s.rope,
                .first = first == 0,
                .last = first + count == keys,
                .state_max = max,
                .state_sum = sum,
                .state_out = state,
                .out = out,
                .out_row_stride = out_stride,
                .lse = lse,
            };
            op(host, &args);
        }
        for (int32_t r = 0; r < rows; r++) {
            memcpy(result.out + (int64_t)(row + r) * s.heads * s.v, out + r * out_stride,
                   (size_t)s.heads * s.v * sizeof(float));
            for (int32_t h = 0; h < s.heads; h++)
                result.lse[(int64_t)h * c->rows + row + r] = lse[h * rows + r];
        }
        free(max);
        free(sum);
        free(state);
        free(out);
        free(lse);
    }
    return result;
}

static void free_result(expanded_result *r)
{
    free(r->out);
    free(r->lse);
}

static void expect_close(proa_precision precision, const expanded_result *a, const expanded_result *b,
                         int64_t out_count, int64_t lse_count)
{
    if (precision == PROA_PRECISION_EXACT) {
        fixture_close("out", a->out, b->out, out_count, 2e-6, 2e-5);
    } else { /* one rounding of a probability or of an output may fall the other way */
        fixture_close("out", a->out, b->out, out_count, 2e-2, 1e-2);
        double distance = fixture_distance(a->out, b->out, out_count);
        if (distance > 1e-3)
            fail_msg("default precision: distance %g", distance);
    }
    fixture_close("lse", a->lse, b->lse, lse_count, 2e-6, 2e-6);
}

static void expanded_equals_ref(void **state)
{
    (void)state;
    static const int32_t places[][2] = {{0, 1},  {0, 70},  {63, 1},   {64, 1},
                                        {65, 3}, {127, 2}, {128, 65}, {200, 33}};
    for (size_t p = 0; p < 2; p++)
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
            for (size_t j = 0; j < sizeof places / sizeof *places; j++) {
                proa_precision precision = fixture_precisions[p];
                expanded_case c = make_expanded(shapes[i], places[j][0], places[j][1], precision);
                proa_host ref = fixture_host(PROA_ISA_PORTABLE, 1, precision);
                expanded_result expected = run_expanded(&ref, proa_mla_expanded_ref, &c, c.rows, 1024);
                FIXTURE_EACH_ISA(isa)
                {
                    proa_host cpu = fixture_host(isa, 2, precision);
                    expanded_result actual = run_expanded(&cpu, proa_mla_expanded_cpu, &c, c.rows, 1024);
                    expect_close(precision, &actual, &expected, (int64_t)c.rows * c.s.heads * c.s.v,
                                 (int64_t)c.rows * c.s.heads);
                    free_result(&actual);
                    fixture_free(&cpu);
                }
                free_result(&expected);
                fixture_free(&ref);
                free_expanded(&c);
            }
}

/* Law 2: tiles, chunks and threads change no bit. */
static void expanded_ignores_the_batch(void **state)
{
    (void)state;
    static const int32_t tiles[] = {64, 128, 1024}, chunks[] = {1, 16, 64, 300};
    for (size_t p = 0; p < 2; p++)
        FIXTURE_EACH_ISA(isa)
        {
            proa_precision precision = fixture_precisions[p];
            expanded_case c = make_expanded((shape){2, 40, 32, 24, 0}, 50, 290, precision);
            size_t bytes = (size_t)c.rows * c.s.heads * c.s.v * sizeof(float);
            proa_host whole = fixture_host(isa, 1, precision);
            expanded_result expected = run_expanded(&whole, proa_mla_expanded_cpu, &c, c.rows, 4096);
            for (int threads = 1; threads <= 3; threads++)
                for (size_t i = 0; i < 3; i++)
                    for (size_t j = 0; j < 4; j++) {
                        proa_host host = fixture_host(isa, threads, precision);
                        expanded_result actual =
                            run_expanded(&host, proa_mla_expanded_cpu, &c, chunks[j], tiles[i]);
                        fixture_same_bits("out", actual.out, expected.out, bytes);
                        fixture_same_bits("lse", actual.lse, expected.lse,
                                          (size_t)c.rows * c.s.heads * sizeof(float));
                        free_result(&actual);
                        fixture_free(&host);
                    }
            free_result(&expected);
            fixture_free(&whole);
            free_expanded(&c);
        }
}

/* A key behind the query must not matter, not even a NaN (a probability of 0 times NaN is NaN). */
static void expanded_never_touches_later_keys(void **state)
{
    (void)state;
    for (size_t p = 0; p < 2; p++)
        FIXTURE_EACH_ISA(isa)
        {
            proa_precision precision = fixture_precisions[p];
            expanded_case c = make_expanded((shape){2, 32, 32, 40, 0}, 0, 75, precision);
            size_t row = (size_t)c.s.heads * c.s.v;
            proa_host host = fixture_host(isa, 2, precision);
            expanded_result clean = run_expanded(&host, proa_mla_expanded_cpu, &c, c.rows, 1024);
            for (int32_t bad = 1; bad < c.rows; bad += 6) {
                expanded_case d = make_expanded(c.s, 0, 75, precision);
                for (int32_t i = 0; i < c.s.heads * (c.s.nope + c.s.v); i++)
                    d.kv[(int64_t)bad * c.s.heads * (c.s.nope + c.s.v) + i] = NAN;
                expanded_result actual = run_expanded(&host, proa_mla_expanded_cpu, &d, d.rows, 1024);
                fixture_same_bits("rows before the NaN", actual.out, clean.out,
                                  (size_t)bad * row * sizeof(float));
                assert_true(isnan(actual.out[(size_t)bad * row]));
                free_result(&actual);
                free_expanded(&d);
            }
            free_result(&clean);
            fixture_free(&host);
            free_expanded(&c);
        }
}

/* -- the cache and the absorbed form -- */

/* Sequences of `keys` tokens each in shuffled blocks of one cache. */
typedef struct absorbed_case {
    shape s;
    int32_t sequences, keys;
    proa_kv_layer kv;
    int32_t *blocks; /* [sequences][blocks_each] */
    int32_t blocks_each;
    float *q_lat, *q_pe;        /* of every position of every sequence */
    float *lora_rows, *pe_rows; /* what was appended */
} absorbed_case;

static absorbed_case make_absorbed(const proa_host *host, shape s, int32_t sequences, int32_t keys,
                                   proa_dtype dtype, proa_precision precision)
{
    absorbed_case c = {.s = s, .sequences = sequences, .keys = keys, .blocks_each = (keys + 63) / 64};
    int32_t blocks = sequences * c.blocks_each, rows = sequences * keys;
    size_t cache = (size_t)(blocks + 1) * 64 * (size_t)proa_kv_row_of(dtype, s.lora, s.rope).bytes;
    c.kv = (proa_kv_layer){fixture_alloc(cache), dtype, s.lora, s.rope};
    memset(c.kv.base, 0xff, cache); /* NaN wherever nothing was appended */
    c.blocks = fixture_alloc((size_t)blocks * sizeof *c.blocks);
    for (int32_t i = 0; i < blocks; i++)
        c.blocks[i] = i;
    for (int32_t i = blocks - 1; i > 0; i--) { /* shuffle */
        uint32_t words[4];
        proa_random_philox(9, (uint64_t)i, 0, words);
        int32_t j = (int32_t)(words[0] % (uint32_t)(i + 1)), swapped = c.blocks[i];
        c.blocks[i] = c.blocks[j];
        c.blocks[j] = swapped;
    }
    c.q_lat = fixture_activations(4, (int64_t)rows * s.heads * s.lora, 1, precision);
    c.q_pe = fixture_activations(5, (int64_t)rows * s.heads * s.rope, 1, precision);
    c.lora_rows = fixture_activations(6, (int64_t)rows * s.lora, 1, precision);
    c.pe_rows = fixture_activations(7, (int64_t)rows * s.rope, 1, precision);
    for (int32_t i = 0; i < sequences; i++) {
        proa_segment segment = {i * keys, keys, 0, c.blocks + i * c.blocks_each, false};
        proa_kv_append_args args = {&segment, 1, c.lora_rows, s.lora, c.pe_rows, s.rope, &c.kv};
        proa_kv_append_cpu(host, &args);
    }
    return c;
}

static void free_absorbed(absorbed_case *c)
{
    free(c->kv.base);
    free(c->blocks);
    free(c->q_lat);
    free(c->q_pe);
    free(c->lora_rows);
    free(c->pe_rows);
}

typedef void (*absorbed_op)(const proa_host *, const proa_mla_absorbed_args *);

/* A step of the last `tail` positions of sequences first .. first + count - 1, one segment each. */
static expanded_result run_absorbed(proa_host *host, absorbed_op op, const absorbed_case *c, int32_t first,
                                    int32_t count, int32_t tail)
{
    shape s = c->s;
    int32_t rows = count * tail;
    int64_t lat = (int64_t)s.heads * s.lora, pe = (int64_t)s.heads * s.rope;
    proa_segment *segments = fixture_alloc((size_t)count * sizeof *segments);
    float *q_lat = fixture_floats(rows * lat), *q_pe = fixture_floats(rows * pe);
    expanded_result result = {fixture_floats(rows * lat), fixture_floats((int64_t)rows * s.heads)};
    for (int32_t i = 0; i < count; i++) {
        int32_t position = c->keys - tail;
        int64_t from = (int64_t)(first + i) * c->keys + position;
        segments[i] =
            (proa_segment){i * tail, tail, position, c->blocks + (first + i) * c->blocks_each, true};
        memcpy(q_lat + i * tail * lat, c->q_lat + from * lat, (size_t)(tail * lat) * sizeof(float));
        memcpy(q_pe + i * tail * pe, c->q_pe + from * pe, (size_t)(tail * pe) * sizeof(float));
    }
    fixture_reserve(host, proa_mla_absorbed_scratch_bytes(host, rows, s.heads, s.lora, s.rope));
    proa_mla_absorbed_args args = {segments, count,  s.heads, 0.05f,      q_lat,     q_pe,
                                   pe,       s.rope, &c->kv,  result.out, result.lse};
    op(host, &args);
    free(segments);
    free(q_lat);
    free(q_pe);
    return result;
}

/* What an FP8 cache keeps of rows of latents, by the rule in kv_row.h in double precision. */
static void quantise_rows(float *rows, int64_t count, int32_t lora)
{
    for (int64_t r = 0; r < count; r++)
        for (int32_t first = 0; first < lora; first += 128) {
            float *x = rows + r * lora + first;
            int32_t n = lora - first < 128 ? lora - first : 128;
            double amax = 0, s = 0x1p-117;
            for (int32_t i = 0; i < n; i++)
                amax = fmax(amax, fabs((double)x[i]));
            while (amax / s > 448)
                s *= 2;
            for (int32_t i = 0; i < n; i++)
                x[i] = (float)(proa_e4m3_to_f32(proa_f32_to_e4m3((float)(x[i] / s))) * s);
        }
}

static void cache_gives_back_what_was_appended(void **state)
{
    (void)state;
    enum { LORA = 208 }; /* a whole group and a part of one */
    static const proa_dtype dtypes[] = {PROA_DTYPE_F32, PROA_DTYPE_BF16, PROA_DTYPE_E4M3};
    for (size_t d = 0; d < 3; d++) {
        proa_host host = fixture_host(proa_cpu_isa(), 2, PROA_PRECISION_DEFAULT);
        absorbed_case c =
            make_absorbed(&host, (shape){1, 0, 32, 0, LORA}, 3, 130, dtypes[d], PROA_PRECISION_DEFAULT);
        float *lora = fixture_floats(130 * LORA), *pe = fixture_floats(130 * 32);
        if (dtypes[d] == PROA_DTYPE_E4M3)
            quantise_rows(c.lora_rows, 3 * 130, LORA);
        for (int32_t i = 0; i < 3; i++)
            for (int ref = 0; ref < 2; ref++) {
                proa_kv_gather_args args = {&c.kv, c.blocks + i * c.blocks_each, 5, 125, lora, pe};
                (ref ? proa_kv_gather_ref : proa_kv_gather_cpu)(&host, &args);
                fixture_same_bits("kv_lora", lora, c.lora_rows + (i * 130 + 5) * LORA,
                                  125 * LORA * sizeof *lora);
                fixture_same_bits("k_pe", pe, c.pe_rows + (i * 130 + 5) * 32, 125 * 32 * sizeof *pe);
            }
        free(lora);
        free(pe);
        free_absorbed(&c);
        fixture_free(&host);
    }
}

/* Strides, several segments in one call, positions in the middle of a block; ref and cpu write the same bytes. */
static void append_equals_ref(void **state)
{
    (void)state;
    enum { LORA = 24, ROPE = 8, STRIDE = 40, ROWS = 150 };
    proa_host host = fixture_host(proa_cpu_isa(), 3, PROA_PRECISION_DEFAULT);
    float *rows = fixture_activations(1, ROWS * STRIDE, 1, PROA_PRECISION_EXACT);
    int32_t blocks_a[] = {4, 1, 2}, blocks_b[] = {3, 0};
    proa_segment segments[] = {{0, 90, 61, blocks_a, false}, {90, 1, 64, blocks_b, true}};
    uint16_t cache[2][5 * 64 * (LORA + ROPE)];
    memset(cache, 0, sizeof cache);
    for (int i = 0; i < 2; i++) {
        proa_kv_layer kv = {cache[i], PROA_DTYPE_BF16, LORA, ROPE};
        proa_kv_append_args args = {segments, 2, rows, STRIDE, rows + LORA, STRIDE, &kv};
        (i == 0 ? proa_kv_append_ref : proa_kv_append_cpu)(&host, &args);
    }
    fixture_same_bits("cache", cache[1], cache[0], sizeof cache[0]);
    const uint16_t *row = cache[0] + (4 * 64 + 61) * (LORA + ROPE);
    assert_int_equal(row[0], proa_f32_to_bf16(rows[0]));
    assert_int_equal(row[LORA], proa_f32_to_bf16(rows[LORA]));
    row = cache[0] + (0 * 64 + 0) * (LORA + ROPE); /* position 64 of the second sequence */
    assert_int_equal(row[1], proa_f32_to_bf16(rows[90 * STRIDE + 1]));
    free(rows);
    fixture_free(&host);
}

/* FP8 rows: values of every size, groups of zeros, one beyond every scale, and those that have a NaN or an infinity, which stay no numbers; ref
 * and cpu write the same bytes. */
static void fp8_append_equals_ref(void **state)
{
    (void)state;
    enum { LORA = 144, ROPE = 8, STRIDE = LORA + ROPE, ROWS = 260 };
    proa_host host = fixture_host(proa_cpu_isa(), 3, PROA_PRECISION_DEFAULT);
    float *rows = fixture_activations(1, ROWS * STRIDE, 1, PROA_PRECISION_EXACT);
    for (int32_t r = 0; r < ROWS; r++)
        for (int32_t i = 0; i < LORA; i++)
            rows[r * STRIDE + i] *= ldexpf(1, r - 140 - i % 14);
    memset(rows + 7 * STRIDE, 0, LORA * sizeof *rows);
    rows[8 * STRIDE + 5] = -0.0f;
    rows[9 * STRIDE + 5] = NAN;
    rows[10 * STRIDE + 5] = -INFINITY;
    rows[11 * STRIDE + 5] = 0x1.ffp127f;
    int32_t blocks[] = {4, 1, 2, 3, 0};
    proa_segment segment = {0, ROWS, 3, blocks, false};
    size_t bytes = (size_t)5 * 64 * (size_t)proa_kv_row_of(PROA_DTYPE_E4M3, LORA, ROPE).bytes;
    unsigned char *cache[2] = {fixture_alloc(bytes), fixture_alloc(bytes)};
    for (int i = 0; i < 2; i++) {
        memset(cache[i], 0xee, bytes);
        proa_kv_layer kv = {cache[i], PROA_DTYPE_E4M3, LORA, ROPE};
        proa_kv_append_args args = {&segment, 1, rows, STRIDE, rows + LORA, STRIDE, &kv};
        (i == 0 ? proa_kv_append_ref : proa_kv_append_cpu)(&host, &args);
    }
    fixture_same_bits("cache", cache[1], cache[0], bytes);
    proa_kv_layer kv = {cache[1], PROA_DTYPE_E4M3, LORA, ROPE};
    const unsigned char *at = proa_kv_layer_at(&kv, blocks, 3 + 9);
    const uint32_t infinite = PROA_KV_SCALE_INFINITE;
    assert_memory_equal(at + LORA, &infinite, sizeof infinite);
    assert_memory_not_equal(at + LORA + sizeof infinite, &infinite,
                            sizeof infinite); /* the row's other group */
    assert_int_equal(at[5], PROA_KV_CODE_ONE);
    assert_int_equal(at[6], PROA_KV_CODE_ONE);
    at = proa_kv_layer_at(&kv, blocks, 3 + 10);
    assert_memory_equal(at + LORA, &infinite, sizeof infinite);
    for (int32_t i = 168; i < 176; i++) /* behind the k_pe */
        assert_int_equal(at[i], 0);
    free(cache[0]);
    free(cache[1]);
    free(rows);
    fixture_free(&host);
}

/* Every code and every bf16 number, with and without a branch. */
static void e4m3_lanes_equal_the_scalar(void **state)
{
    (void)state;
    for (int code = 0; code < 256; code++) {
        float a = proa_lane_load_e4m3((uint8_t)code), b = proa_e4m3_to_f32((uint8_t)code);
        assert_true(isnan(b) ? isnan(a) : memcmp(&a, &b, sizeof a) == 0);
    }
    for (uint32_t half = 0; half < 0x10000; half++) {
        float x = proa_bf16_to_f32((uint16_t)half);
        for (int nudge = -1; nudge <= 1; nudge++) { /* and just beside it, where ties are decided */
            float y = nudge == 0 ? x : nextafterf(x, nudge < 0 ? -INFINITY : INFINITY);
            assert_int_equal(proa_lane_to_e4m3(y), proa_f32_to_e4m3(y));
        }
    }
}

/* An FP8 cache and a BF16 one that holds what it stands for give the same bits. */
static void fp8_reads_as_its_bf16(void **state)
{
    (void)state;
    FIXTURE_EACH_ISA(isa)
    {
        proa_host host = fixture_host(isa, 2, PROA_PRECISION_DEFAULT);
        shape s = {6, 0, 16, 0, 144};
        absorbed_case c = make_absorbed(&host, s, 3, 130, PROA_DTYPE_E4M3, PROA_PRECISION_DEFAULT);
        absorbed_case d = make_absorbed(&host, s, 3, 130, PROA_DTYPE_BF16, PROA_PRECISION_DEFAULT);
        quantise_rows(d.lora_rows, 3 * 130, s.lora);
        for (int32_t i = 0; i < 3; i++) {
            proa_segment segment = {i * 130, 130, 0, d.blocks + i * d.blocks_each, false};
            proa_kv_append_args args = {&segment, 1, d.lora_rows, s.lora, d.pe_rows, s.rope, &d.kv};
            proa_kv_append_cpu(&host, &args);
        }
        expanded_result a = run_absorbed(&host, proa_mla_absorbed_cpu, &c, 0, 3, 4);
        expanded_result b = run_absorbed(&host, proa_mla_absorbed_cpu, &d, 0, 3, 4);
        fixture_same_bits("out", a.out, b.out, (size_t)12 * s.heads * s.lora * sizeof(float));
        fixture_same_bits("lse", a.lse, b.lse, (size_t)12 * s.heads * sizeof(float));
        free_result(&a);
        free_result(&b);
        free_absorbed(&c);
        free_absorbed(&d);
        fixture_free(&host);
    }
}

/* What a cache may hold, and with which precision. */
static const struct {
    proa_precision precision;
    proa_dtype dtype;
} caches[] = {
    {PROA_PRECISION_EXACT, PROA_DTYPE_F32},
    {PROA_PRECISION_DEFAULT, PROA_DTYPE_BF16},
    {PROA_PRECISION_DEFAULT, PROA_DTYPE_E4M3},
};

static void absorbed_equals_ref(void **state)
{
    (void)state;
    static const int32_t keys[] = {1, 63, 64, 65, 127, 128, 129, 300};
    for (size_t p = 0; p < 3; p++)
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
            for (size_t j = 0; j < sizeof keys / sizeof *keys; j++) {
                proa_precision precision = caches[p].precision;
                proa_dtype dtype = caches[p].dtype;
                if (!proa_kv_row_fits(dtype, shapes[i].lora, shapes[i].rope))
                    continue;
                int32_t tail = keys[j] < 3 ? keys[j] : 3;
                proa_host ref = fixture_host(PROA_ISA_PORTABLE, 1, precision);
                absorbed_case c = make_absorbed(&ref, shapes[i], 2, keys[j], dtype, precision);
                expanded_result expected = run_absorbed(&ref, proa_mla_absorbed_ref, &c, 0, 2, tail);
                FIXTURE_EACH_ISA(isa)
                {
                    proa_host cpu = fixture_host(isa, 2, precision);
                    expanded_result actual = run_absorbed(&cpu, proa_mla_absorbed_cpu, &c, 0, 2, tail);
                    expect_close(precision, &actual, &expected, (int64_t)2 * tail * c.s.heads * c.s.lora,
                                 (int64_t)2 * tail * c.s.heads);
                    free_result(&actual);
                    fixture_free(&cpu);
                }
                free_result(&expected);
                free_absorbed(&c);
                fixture_free(&ref);
            }
}

/* Law 2: a row alone, among the rows of its own segment, among other segments, with any threads. */
static void absorbed_ignores_the_batch(void **state)
{
    (void)state;
    enum { SEQUENCES = 5, KEYS = 200, TAIL = 20 };
    for (size_t p = 0; p < 3; p++)
        FIXTURE_EACH_ISA(isa)
        {
            proa_precision precision = caches[p].precision;
            proa_dtype dtype = caches[p].dtype;
            int32_t lora = dtype == PROA_DTYPE_E4M3 ? 80 : 72;
            proa_host one = fixture_host(isa, 1, precision);
            absorbed_case c =
                make_absorbed(&one, (shape){21, 0, 32, 0, lora}, SEQUENCES, KEYS, dtype, precision);
            size_t row = (size_t)c.s.heads * c.s.lora;
            for (int threads = 1; threads <= 3; threads++) {
                proa_host host = fixture_host(isa, threads, precision);
                expanded_result all = run_absorbed(&host, proa_mla_absorbed_cpu, &c, 0, SEQUENCES, TAIL);
                expanded_result last = run_absorbed(&host, proa_mla_absorbed_cpu, &c, 0, SEQUENCES, 1);
                for (int32_t i = 0; i < SEQUENCES; i++) {
                    expanded_result alone = run_absorbed(&one, proa_mla_absorbed_cpu, &c, i, 1, 1);
                    fixture_same_bits("among rows", all.out + (size_t)(i * TAIL + TAIL - 1) * row, alone.out,
                                      row * sizeof(float));
                    fixture_same_bits("among segments", last.out + (size_t)i * row, alone.out,
                                      row * sizeof(float));
                    for (int32_t h = 0; h < c.s.heads; h++)
                        assert_true(last.lse[h * SEQUENCES + i] == alone.lse[h]);
                    free_result(&alone);
                }
                free_result(&all);
                free_result(&last);
                fixture_free(&host);
            }
            free_absorbed(&c);
            fixture_free(&one);
        }
}

/* A step mixes both kinds: the rows of segments that are not absorbed stay as they are. */
static void absorbed_skips_other_segments(void **state)
{
    (void)state;
    proa_host host = fixture_host(proa_cpu_isa(), 2, PROA_PRECISION_EXACT);
    absorbed_case c =
        make_absorbed(&host, (shape){2, 0, 32, 0, 64}, 3, 66, PROA_DTYPE_F32, PROA_PRECISION_EXACT);
    proa_segment segments[] = {
        {0, 2, 10, c.blocks, false}, {2, 1, 65, c.blocks + c.blocks_each, true}, {3, 2, 3, c.blocks, false}};
    float out[5 * 2 * 64], lse[2 * 5];
    for (size_t i = 0; i < sizeof out / sizeof *out; i++)
        out[i] = 7;
    fixture_reserve(&host, proa_mla_absorbed_scratch_bytes(&host, 5, 2, 64, 32));
    proa_mla_absorbed_args args = {segments, 3, 2, 0.05f, c.q_lat, c.q_pe, 64, 32, &c.kv, out, lse};
    proa_mla_absorbed_cpu(&host, &args);
    for (int32_t i = 0; i < 5 * 2 * 64; i++)
        assert_true((out[i] == 7) == (i / 128 != 2));
    free_absorbed(&c);
    fixture_free(&host);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(expanded_equals_ref),
        cmocka_unit_test(expanded_ignores_the_batch),
        cmocka_unit_test(expanded_never_touches_later_keys),
        cmocka_unit_test(cache_gives_back_what_was_appended),
        cmocka_unit_test(append_equals_ref),
        cmocka_unit_test(fp8_append_equals_ref),
        cmocka_unit_test(e4m3_lanes_equal_the_scalar),
        cmocka_unit_test(fp8_reads_as_its_bf16),
        cmocka_unit_test(absorbed_equals_ref),
        cmocka_unit_test(absorbed_ignores_the_batch),
        cmocka_unit_test(absorbed_skips_other_segments),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
