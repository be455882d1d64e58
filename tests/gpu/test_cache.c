/* test_cache.c - rows of the KV cache on a GPU: an FP8 row is the quantised bf16 row to the bit, as kv_row.h has it and as the CPU's, and what is
 * gathered from either is what stands there, as bf16 and in the FP8 of activations. */
#include "gpu_test.h"
#include "kv_row_reference.h"
#include "op/quantise/cuda.h"
#include "op/rope/cuda.h"

enum {
    ROWS = 11,
    BLOCKS = 3,
    CELLS = BLOCKS * PROA_KV_BLOCK_TOKENS,
    POSITIONS = 64,
    LORA_MAX = 512,
    ROPE_MAX = 64
};

/* Places of the rows; two go nowhere, which leaves a place that is gathered as nothing. */
static const int32_t slots[ROWS] = {0, 63, 64, -1, 100, 191, 7, 8, -1, 128, 1};

typedef struct shape {
    int32_t lora, rope;
} shape;

/* DeepSeek-R1's; k_pe behind one scale, at 4 bytes' alignment, and zeros at the row's end; half a group at the end. */
static const shape shapes[] = {{512, 64}, {64, 16}, {192, 8}};

/* On the GPU. */
typedef struct fixture {
    proa_gpu *gpu;
    shape s;
    void *kv_a, *w, *slots, *positions, *cos_table, *sin_table;
} fixture;

/* Of the norm's weights, 32 neighbours each: small and large ones in one group, and none. */
static const float sizes[] = {1, 1e-3f, 300, 1e-30f, 3e30f, 0, 20};
enum { SIZES = sizeof sizes / sizeof *sizes };

static void open_fixture(fixture *f, proa_gpu *gpu, shape s)
{
    const int32_t dim = s.lora + s.rope, pairs = POSITIONS * s.rope / 2;
    float *x = test_floats(1, ROWS * dim, 1), *w = test_floats(2, s.lora, 1),
          *angles = test_floats(3, 2 * pairs, 1);
    int32_t positions[ROWS];
    for (int32_t r = 0; r < ROWS; r++)
        positions[r] = (r * 31 + 2) % POSITIONS;
    memset(x + 2 * dim, 0, sizeof *x * (size_t)s.lora); /* a row of zeros */
    for (int32_t i = 0; i < s.lora; i++)
        w[i] = proa_round_bf16(w[i] * sizes[i / 32 % SIZES]);
    *f = (fixture){.gpu = gpu,
                   .s = s,
                   .kv_a = gpu_bf16(gpu, x, ROWS * dim),
                   .w = gpu_bf16(gpu, w, s.lora),
                   .slots = gpu_copy(gpu, slots, sizeof slots),
                   .positions = gpu_copy(gpu, positions, sizeof positions),
                   .cos_table = gpu_copy(gpu, angles, sizeof *angles * (size_t)pairs),
                   .sin_table = gpu_copy(gpu, angles + pairs, sizeof *angles * (size_t)pairs)};
    free(x), free(w), free(angles);
}

static void close_fixture(fixture *f)
{
    void *all[] = {f->kv_a, f->w, f->slots, f->positions, f->cos_table, f->sin_table};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        proa_gpu_free(f->gpu, all[i]);
}

static proa_kv_row row_of(const fixture *f, bool fp8)
{
    return proa_kv_row_of(fp8 ? PROA_DTYPE_E4M3 : PROA_DTYPE_BF16, f->s.lora, f->s.rope);
}

/* A cache with the rows in it; 0xff elsewhere. */
static void *append(const fixture *f, bool fp8)
{
    proa_error err = {0};
    void *cache = gpu_room(f->gpu, (size_t)CELLS * (size_t)row_of(f, fp8).bytes);
    gpu_good(proa_cuda_kv_append(f->gpu,
                                 &(proa_cuda_kv_append_args){.table = {.positions = f->positions,
                                                                       .cos_table = f->cos_table,
                                                                       .sin_table = f->sin_table},
                                                             .rows = ROWS,
                                                             .kv_lora_rank = f->s.lora,
                                                             .rope_dim = f->s.rope,
                                                             .kv_a = f->kv_a,
                                                             .stride = f->s.lora + f->s.rope,
                                                             .w = f->w,
                                                             .eps = 1e-6f,
                                                             .slots = f->slots,
                                                             .cache = cache,
                                                             .fp8 = fp8},
                                 &err),
             &err);
    return cache;
}

static unsigned char *read_cache(const fixture *f, const void *cache, bool fp8)
{
    const size_t bytes = (size_t)CELLS * (size_t)row_of(f, fp8).bytes;
    unsigned char *here = malloc(bytes);
    assert_non_null(here);
    gpu_read(f->gpu, here, cache, bytes);
    return here;
}

/* The bf16 row at `from`, as the CPU appends it to an FP8 cache of one block. */
static void quantise_row(const fixture *f, const unsigned char *from, unsigned char *to)
{
    float x[LORA_MAX + ROPE_MAX];
    for (int32_t i = 0; i < f->s.lora + f->s.rope; i++) {
        uint16_t bits;
        memcpy(&bits, from + 2 * i, sizeof bits);
        x[i] = proa_bf16_to_f32(bits);
    }
    kv_row_reference(f->s.lora, f->s.rope, x, to);
}

static void compare_row(const fixture *f, int32_t cell, const unsigned char *got, const unsigned char *want)
{
    const proa_kv_row row = row_of(f, true);
    for (int32_t i = 0; i < row.bytes; i++)
        if (got[i] != want[i])
            fail_msg("rows of %d + %d, place %d, byte %d (%s): %02x, the CPU has %02x", f->s.lora, f->s.rope,
                     cell, i,
                     i < row.scales ? "codes"
                     : i < row.k_pe ? "scales"
                                    : "k_pe or zeros",
                     got[i], want[i]);
}

/* The row stays no number in the cache. */
static void put_nan(const fixture *f, int32_t row)
{
    static const uint16_t nan_bits = 0x7fc0;
    proa_error err = {0};
    gpu_good(proa_gpu_upload(f->gpu, (uint16_t *)f->kv_a + (int64_t)row * (f->s.lora + f->s.rope) + 1,
                             &nan_bits, sizeof nan_bits, &err),
             &err);
    gpu_good(proa_gpu_sync(f->gpu, &err), &err);
}

static void test_append(void **state)
{
    proa_gpu *gpu = gpu_of(state);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        fixture f;
        open_fixture(&f, gpu, shapes[i]);
        put_nan(&f, 4);
        void *bf16 = append(&f, false), *fp8 = append(&f, true);
        unsigned char *wide = read_cache(&f, bf16, false), *codes = read_cache(&f, fp8, true);
        const proa_kv_row row = row_of(&f, true);
        unsigned char *want = malloc((size_t)row.bytes * PROA_KV_BLOCK_TOKENS);
        assert_non_null(want);
        for (int32_t cell = 0; cell < CELLS; cell++) {
            bool filled = false;
            for (int32_t r = 0; r < ROWS; r++)
                filled |= slots[r] == cell;
            memset(want, 0xff, (size_t)row.bytes);
            if (filled)
                quantise_row(&f, wide + (int64_t)cell * row_of(&f, false).bytes, want);
            compare_row(&f, cell, codes + (int64_t)cell * row.bytes, want);
        }
        free(wide), free(codes), free(want);
        proa_gpu_free(gpu, bf16), proa_gpu_free(gpu, fp8);
        close_fixture(&f);
    }
}

typedef struct gathered {
    void *kv_lora, *k_pe;
    proa_cuda_fp8_rows q;
} gathered;

static gathered gather(const fixture *f, const void *cache, bool fp8, bool ue8m0)
{
    proa_error err = {0};
    const int32_t groups = (f->s.lora + PROA_QUANT_GROUP - 1) / PROA_QUANT_GROUP;
    gathered g = {.kv_lora = gpu_room(f->gpu, 2 * (size_t)(ROWS * f->s.lora)),
                  .k_pe = gpu_room(f->gpu, 2 * (size_t)(ROWS * f->s.rope)),
                  .q = {.q = gpu_room(f->gpu, (size_t)(ROWS * f->s.lora)),
                        .scale = gpu_room(f->gpu, sizeof(float) * (size_t)groups * 128),
                        .stride = 128,
                        .ue8m0 = ue8m0}};
    gpu_good(proa_cuda_kv_gather(f->gpu,
                                 &(proa_cuda_kv_gather_args){.rows = ROWS,
                                                             .kv_lora_rank = f->s.lora,
                                                             .rope_dim = f->s.rope,
                                                             .slots = f->slots,
                                                             .cache = cache,
                                                             .fp8 = fp8,
                                                             .kv_lora = g.kv_lora,
                                                             .q = g.q,
                                                             .k_pe = g.k_pe},
                                 &err),
             &err);
    return g;
}

static void drop(proa_gpu *gpu, gathered *g)
{
    proa_gpu_free(gpu, g->kv_lora), proa_gpu_free(gpu, g->k_pe);
    proa_gpu_free(gpu, g->q.q), proa_gpu_free(gpu, g->q.scale);
}

/* What was gathered of row r is the row as kv_gather_ref reads it. */
static void compare_gathered(const fixture *f, const unsigned char *cache, bool fp8, int32_t r,
                             const float *kv_lora, const float *k_pe)
{
    const int32_t block = slots[r] / PROA_KV_BLOCK_TOKENS, lora = f->s.lora, rope = f->s.rope;
    const proa_host host = {.precision = PROA_PRECISION_DEFAULT};
    const proa_kv_layer kv = {.base = (void *)(uintptr_t)cache,
                              .dtype = fp8 ? PROA_DTYPE_E4M3 : PROA_DTYPE_BF16,
                              .kv_lora_rank = lora,
                              .rope_dim = rope};
    const int32_t blocks[1] = {block};
    float want[LORA_MAX], want_pe[ROPE_MAX];
    proa_kv_gather_ref(&host, &(proa_kv_gather_args){.kv = &kv,
                                                     .blocks = blocks,
                                                     .first = slots[r] % PROA_KV_BLOCK_TOKENS,
                                                     .count = 1,
                                                     .kv_lora = want,
                                                     .k_pe = want_pe});
    assert_memory_equal(kv_lora + r * lora, want, sizeof *want * (size_t)lora);
    assert_memory_equal(k_pe + r * rope, want_pe, sizeof *want_pe * (size_t)rope);
}

/* q of what was gathered is what quantising kv_lora makes. */
static void compare_quantised(const fixture *f, const gathered *g)
{
    proa_error err = {0};
    const int32_t lora = f->s.lora, groups = (lora + PROA_QUANT_GROUP - 1) / PROA_QUANT_GROUP;
    const size_t scales = sizeof(float) * (size_t)groups * 128;
    const proa_cuda_fp8_rows q = {.q = gpu_room(f->gpu, (size_t)(ROWS * lora)),
                                  .scale = gpu_room(f->gpu, scales),
                                  .stride = 128,
                                  .ue8m0 = g->q.ue8m0};
    uint8_t *got = malloc((size_t)(ROWS * lora)), *want = malloc((size_t)(ROWS * lora));
    float *got_scale = malloc(scales), *want_scale = malloc(scales);
    assert_non_null(got), assert_non_null(want), assert_non_null(got_scale), assert_non_null(want_scale);
    gpu_good(proa_cuda_quantise(f->gpu,
                                &(proa_cuda_quantise_args){
                                    .rows = ROWS, .cols = lora, .x = g->kv_lora, .x_stride = lora, .q = q},
                                &err),
             &err);
    gpu_read(f->gpu, got, g->q.q, (size_t)(ROWS * lora)), gpu_read(f->gpu, want, q.q, (size_t)(ROWS * lora));
    gpu_read(f->gpu, got_scale, g->q.scale, scales), gpu_read(f->gpu, want_scale, q.scale, scales);
    for (int32_t r = 0; r < ROWS; r++) {
        if (slots[r] < 0)
            continue;
        assert_memory_equal(got + r * lora, want + r * lora, (size_t)lora);
        for (int32_t i = 0; i < groups; i++)
            assert_true(got_scale[i * 128 + r] == want_scale[i * 128 + r]);
    }
    free(got), free(want), free(got_scale), free(want_scale);
    proa_gpu_free(f->gpu, q.q), proa_gpu_free(f->gpu, q.scale);
}

static void test_gather(void **state)
{
    proa_gpu *gpu = gpu_of(state);
    for (size_t i = 0; i < 2 * sizeof shapes / sizeof *shapes; i++) {
        const bool fp8 = i % 2 != 0;
        fixture f;
        open_fixture(&f, gpu, shapes[i / 2]);
        void *cache = append(&f, fp8);
        unsigned char *here = read_cache(&f, cache, fp8);
        gathered g = gather(&f, cache, fp8, i / 2 % 2 != 0);
        float *kv_lora = gpu_read_bf16(gpu, g.kv_lora, ROWS * f.s.lora),
              *k_pe = gpu_read_bf16(gpu, g.k_pe, ROWS * f.s.rope);
        for (int32_t r = 0; r < ROWS; r++) {
            if (slots[r] >= 0)
                compare_gathered(&f, here, fp8, r, kv_lora, k_pe);
            else
                assert_true(isnan(kv_lora[r * f.s.lora]) && isnan(k_pe[r * f.s.rope]));
        }
        compare_quantised(&f, &g);
        free(kv_lora), free(k_pe), free(here);
        drop(gpu, &g);
        proa_gpu_free(gpu, cache);
        close_fixture(&f);
    }
}

static void test_refused(void **state)
{
    proa_gpu *gpu = gpu_of(state);
    proa_error err = {0};
    assert_int_equal(
        proa_cuda_kv_append(
            gpu, &(proa_cuda_kv_append_args){.rows = 1, .kv_lora_rank = 40, .rope_dim = 8, .fp8 = true},
            &err),
        PROA_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.text, "40 + 8"));
    assert_int_equal(
        proa_cuda_kv_gather(
            gpu, &(proa_cuda_kv_gather_args){.rows = 1, .kv_lora_rank = 40, .rope_dim = 8, .fp8 = true},
            &err),
        PROA_ERR_UNSUPPORTED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_append),
        cmocka_unit_test(test_gather),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, gpu_open_state, gpu_close_state);
}
