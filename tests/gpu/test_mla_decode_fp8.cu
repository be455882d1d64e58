/* test_mla_decode_fp8.cu - decode attention over an FP8 cache: the same bits as over a bf16 cache of the same numbers, and its speed beside
 * that. The numbers of a cache are made by CUDA's own conversions here.
 *
 *   test_mla_decode_fp8          checks; exits 1 if one fails
 *   test_mla_decode_fp8 bench    times of both, too
 *   test_mla_decode_fp8 small    a small case alone, for compute-sanitizer
 */
#include "op/mla/kv_row.cuh"

#include "mla_decode_case.cuh"

#include <cuda_fp8.h>

static int failures;

/* Rows of an FP8 cache, whose numbers a pool of bf16 ones has. */
typedef struct Codes {
    void *rows;
    size_t row_bytes;
} Codes;

/* Every code by every scale, as kv_widen has them: the bits of four codes a thread, of blockIdx.x's exponent. */
static __global__ void widen_all(uint2 *to)
{
    const uint32_t first = threadIdx.x * 4, exponent = blockIdx.x + (uint32_t)(127 + PROA_KV_SCALE_LEAST);
    const uint32_t codes = first | (first + 1) << 8 | (first + 2) << 16 | (first + 3) << 24;
    to[blockIdx.x * 64 + threadIdx.x] = proa::kv_widen(codes, proa::kv_scale_pair(exponent));
}

/* By another way: CUDA's own conversion, and a product of floats. */
static float widened(uint8_t code, int32_t exponent)
{
    const __half_raw half = __nv_cvt_fp8_to_halfraw(code, __NV_E4M3);
    return ldexpf(__half2float(__half(half)), exponent);
}

static void widening(void)
{
    enum { SCALES = PROA_KV_SCALE_MOST - PROA_KV_SCALE_LEAST + 1 };
    uint16_t *there = (uint16_t *)device_bytes(SCALES * 256 * 2),
             *bits = (uint16_t *)malloc(SCALES * 256 * 2);
    int32_t wrong = 0;
    widen_all<<<SCALES, 64>>>((uint2 *)there);
    CHECK(cudaMemcpy(bits, there, SCALES * 256 * 2, cudaMemcpyDeviceToHost));
    for (int32_t s = 0; s < SCALES; s++)
        for (int32_t code = 0; code < 256; code++) {
            const float want = widened((uint8_t)code, s + PROA_KV_SCALE_LEAST),
                        got = bf16_value(bits[s * 256 + code]);
            if ((code & 127) == 127 || memcmp(&want, &got, 4) == 0)
                continue;
            if (wrong++ < 4)
                printf("code %02x by 2^%d: %g, not %g\n", code, s + PROA_KV_SCALE_LEAST, got, want);
        }
    printf("%s codes  %d of %d widened otherwise than by CUDA's conversion\n", wrong == 0 ? "ok  " : "FAIL",
           wrong, SCALES * 254);
    failures += wrong != 0;
    free(bits);
    CHECK(cudaFree(there));
}

/* A block a row: the row's latents, made smaller by powers of two that differ by group, go to FP8, and come back as the numbers these are. */
static __global__ void make_code_rows(__nv_bfloat16 *cache, uint8_t *codes, proa_kv_row row, int32_t lora,
                                      int32_t rope)
{
    __nv_bfloat16 *x = cache + (int64_t)blockIdx.x * (lora + rope);
    uint8_t *to = codes + (int64_t)blockIdx.x * row.bytes;
    for (int32_t g = (int32_t)threadIdx.x; g < row.groups; g += (int32_t)blockDim.x) {
        const int32_t from = g * PROA_KV_SCALE_GROUP, end = min(from + PROA_KV_SCALE_GROUP, lora);
        const float smaller = exp2f(-(float)(mixed((uint64_t)blockIdx.x * 16 + (uint64_t)g) % 5));
        float most = 0;
        for (int32_t i = from; i < end; i++)
            most = fmaxf(most, fabsf(__bfloat162float(x[i]) * smaller));
        const uint32_t bits = proa_kv_scale_bits(__float_as_uint(most));
        const float scale = __uint_as_float(bits);
        for (int32_t i = from; i < end; i++) {
            to[i] = (uint8_t)__nv_cvt_float_to_fp8(__bfloat162float(x[i]) * smaller / scale, __NV_SATFINITE,
                                                   __NV_E4M3);
            x[i] = __float2bfloat16(__half2float(__half(__nv_cvt_fp8_to_halfraw(to[i], __NV_E4M3))) * scale);
        }
        ((uint32_t *)(to + row.scales))[g] = bits;
    }
    for (int32_t i = (int32_t)threadIdx.x; i < rope; i += (int32_t)blockDim.x)
        ((__nv_bfloat16 *)(to + row.k_pe))[i] = x[lora + i];
}

static Codes make_codes(const Pool *pool, int32_t lora)
{
    const proa_kv_row row = proa_kv_row_of(PROA_DTYPE_E4M3, lora, pool->dim - lora);
    const size_t rows = (size_t)pool->blocks * BLOCK;
    const Codes codes = {device_bytes(rows * (size_t)row.bytes), (size_t)row.bytes};
    CHECK(cudaMemset(codes.rows, 0, rows * codes.row_bytes));
    make_code_rows<<<(unsigned)rows, 32>>>((__nv_bfloat16 *)pool->cache, (uint8_t *)codes.rows, row, lora,
                                           pool->dim - lora);
    CHECK(cudaDeviceSynchronize());
    return codes;
}

static void use_codes(Case *c, const Codes *codes)
{
    c->args.cache = codes->rows;
    c->args.fp8 = true;
    CHECK(cudaMemset(c->args.out, 0xff, c->out_count * 2));
    CHECK(cudaMemset(c->args.lse, 0xff, (size_t)c->args.rows * c->args.heads * 4));
}

/* How many heads of rows differ; the first one is told. */
static int32_t other_heads(const Case *c, const Result *got, const Result *want, int32_t parts)
{
    const size_t lora = (size_t)c->args.kv_lora_rank;
    int32_t other = 0;
    for (int32_t i = 0; i < c->args.rows * c->args.heads; i++) {
        const uint16_t *a = got->out + i * lora, *b = want->out + i * lora;
        if (memcmp(a, b, lora * 2) == 0 && memcmp(got->lse + i, want->lse + i, 4) == 0)
            continue;
        if (other++ > 0)
            continue;
        size_t at = 0;
        while (at + 1 < lora && a[at] == b[at])
            at++;
        const int32_t row = i / c->args.heads;
        printf("parts %d, row %d of length %d, head %d: lse %.9g, with bf16 %.9g; channel %zu: %g, with bf16 "
               "%g\n",
               parts, row, row_length(c, row), i % c->args.heads, got->lse[i], want->lse[i], at,
               bf16_value(a[at]), bf16_value(b[at]));
    }
    return other;
}

/* Rows behind a sequence's last key hold NaNs meanwhile, in place of codes, scales and k_pe; `kept` [sequences, 64 rows]. */
static void spoil_ends(const Case *c, const Codes *codes, uint8_t *kept, bool restore)
{
    for (int32_t i = 0; i < c->sequences; i++) {
        const size_t keys = (size_t)(c->lengths[i] % BLOCK), bytes = (BLOCK - keys) * codes->row_bytes;
        if (keys == 0)
            continue;
        const size_t block = (size_t)c->table[i * c->args.table_stride + c->lengths[i] / BLOCK];
        uint8_t *end = (uint8_t *)codes->rows + (block * BLOCK + keys) * codes->row_bytes,
                *here = kept + (size_t)i * BLOCK * codes->row_bytes;
        CHECK(cudaMemcpy(restore ? end : here, restore ? here : end, bytes, cudaMemcpyDefault));
        if (!restore)
            CHECK(cudaMemset(end, 0xff, bytes));
    }
}

/* An FP8 cache against the bf16 one of the same numbers: the same bits, however the work is spread. */
static void same_bits(const Pool *pool, const Codes *codes, const char *name, int32_t sequences,
                      const int32_t *lengths, int32_t s_q, int32_t heads, int32_t lora)
{
    Case c = make_case(pool, sequences, lengths, s_q, heads, lora, 11);
    uint8_t *kept = (uint8_t *)malloc((size_t)sequences * BLOCK * codes->row_bytes);
    const int32_t parts[] = {0, 1, 3, 17, 40};
    int32_t other = 0;
    double lse = 0;
    run_case(&c);
    Result want = take(&c);
    const double error = error_of(&c, &want, c.args.rows - 1, 0, &lse);
    spoil_ends(&c, codes, kept, false);
    for (int32_t p : parts) {
        use_codes(&c, codes);
        c.args.parts = p;
        run_case(&c);
        Result got = take(&c);
        other += other_heads(&c, &got, &want, p);
        drop(&got);
    }
    spoil_ends(&c, codes, kept, true);
    const bool good = other == 0 && error < 6e-3 && lse < 2e-4;
    printf(
        "%s fp8    %-26s rows %3d s_q %d heads %3d: %d of %d differ from bf16's; its error %.5f, lse %.2e\n",
        good ? "ok  " : "FAIL", name, c.args.rows, s_q, heads, other, 5 * c.args.rows * heads, error, lse);
    failures += !good;
    free(kept);
    drop(&want);
    drop_case(&c);
}

/* Rows of lora + rope values over the pool's memory, before that has its own codes. */
static void generic(const Pool *pool, const char *name, int32_t sequences, const int32_t *lengths,
                    int32_t s_q, int32_t heads, int32_t lora, int32_t rope)
{
    const Pool other = {pool->cache, 4096, lora + rope};
    const Codes codes = make_codes(&other, lora);
    same_bits(&other, &codes, name, sequences, lengths, s_q, heads, lora);
    CHECK(cudaFree(codes.rows));
}

static const int32_t tiny[4] = {65, 1, 2112, 64}, deep[5] = {20000, 33333, 4097, 16384, 70};
static const int32_t awkward[14] = {1, 63, 64, 65, 0, 1023, 1024, 1025, 4095, 4096, 4097, 8192, 2049, 127};

static void check_all(const Pool *pool, const Codes *codes)
{
    int32_t many[150];
    for (int32_t i = 0; i < 150; i++)
        many[i] = i < 14 ? awkward[i] : (int32_t)(mixed((uint64_t)i) % 6000);
    same_bits(pool, codes, "awkward", 14, awkward, 1, 128, 512);
    same_bits(pool, codes, "awkward, 16 heads", 14, awkward, 1, 16, 512);
    same_bits(pool, codes, "awkward, 100 heads", 14, awkward, 1, 100, 512);
    same_bits(pool, codes, "awkward, four rows", 14, awkward, 4, 128, 512);
    same_bits(pool, codes, "many", 150, many, 1, 128, 512);
    same_bits(pool, codes, "long", 5, deep, 1, 128, 512);
}

/* Both caches' times: the second's bound is the products', or its bytes. */
static void bench(const Pool *pool, const Codes *codes, int32_t sequences, int32_t length)
{
    enum { LAYERS = 8, HEADS = 128 };
    Case layer[LAYERS];
    int32_t *lengths = (int32_t *)malloc((size_t)sequences * 4);
    for (int32_t i = 0; i < sequences; i++)
        lengths[i] = length;
    const uint64_t blocks = (uint64_t)sequences * (uint64_t)((length + BLOCK - 1) / BLOCK);
    for (int32_t i = 0; i < LAYERS; i++) {
        layer[i] = make_case(pool, sequences, lengths, 1, HEADS, 512, 11 + (uint64_t)i * blocks);
        CHECK(proa_mla_decode_plan(&layer[i].args, 0));
    }
    const auto run = [&](int32_t i, cudaStream_t s) { CHECK(proa_mla_decode(&layer[i].args, s)); };
    const float bf16 = timed(LAYERS, run);
    for (int32_t i = 0; i < LAYERS; i++)
        use_codes(&layer[i], codes);
    const float fp8 = timed(LAYERS, run);
    const double keys = (double)sequences * length, queries = (double)sequences * (int32_t)HEADS,
                 flop = 2 * queries * length * (576 + 512),
                 bytes = (double)codes->row_bytes * keys + queries * (576 + 512) * 2;
    printf(
        "B %3d L %5d: bf16 %8.1f us, fp8 %8.1f us (time ratio %.3f) %6.1f TFLOP/s %6.0f GB/s | bound %6.1f "
        "compute %6.1f memory\n",
        sequences, length, bf16, fp8, fp8 / bf16, flop / fp8 * 1e-6, bytes / fp8 * 1e-3, flop / 989e12 * 1e6,
        bytes / 3.35e12 * 1e6);
    fflush(stdout);
    for (int32_t i = 0; i < LAYERS; i++)
        drop_case(&layer[i]);
    free(lengths);
}

int main(int argc, char **argv)
{
    const bool small = argc > 1 && strcmp(argv[1], "small") == 0,
               timing = argc > 1 && strcmp(argv[1], "bench") == 0;
    const Pool pool = open_pool(small ? 256 : 65536);

    widening();
    if (!small) {
        generic(&pool, "generic, 32 + 16", 14, awkward, 1, 4, 32, 16);
        generic(&pool, "generic, 64 + 8, two rows", 14, awkward, 2, 3, 64, 8);
        generic(&pool, "generic, 192 + 64", 4, tiny, 1, 16, 192, 64);
    }
    const Codes codes = make_codes(&pool, 512);
    same_bits(&pool, &codes, "1 to 2,112", 4, tiny, 1, 128, 512);
    if (!small)
        check_all(&pool, &codes);
    const int32_t shapes[][2] = {{128, 4096}, {128, 1024}, {128, 8192}, {1, 4096},
                                 {32, 4096},  {64, 4096},  {256, 4096}, {128, 4096}};
    for (int32_t i = 0; timing && i < 8; i++)
        bench(&pool, &codes, shapes[i][0], shapes[i][1]);
    printf(failures == 0 ? "all good\n" : "%d FAILED\n", failures);
    return failures != 0;
}
