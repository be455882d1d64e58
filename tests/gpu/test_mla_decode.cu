/* test_mla_decode.cu - decode attention against a double-precision reference, its bits under other batches, and its speed.
 *
 *   test_mla_decode          checks; exits 1 if one fails
 *   test_mla_decode bench    times beside their bounds, too
 *   test_mla_decode small    a small case alone, for compute-sanitizer
 */
#include "mla_decode_case.cuh"

#ifdef PEER
extern "C" void peer_meta(int b, int heads, int sms, int *len, cudaStream_t s);
extern "C" void peer_run(int b, int heads, int sms, const void *q, const void *k, void *o, const int *table,
                         int max_blocks, const int *len, int num_blocks, float scale, cudaStream_t s);
#endif

static int failures;

static void parity(const Pool *pool, const char *name, int32_t sequences, const int32_t *lengths, int32_t s_q,
                   int32_t heads, int32_t lora)
{
    Case c = make_case(pool, sequences, lengths, s_q, heads, lora, 11);
    run_case(&c);
    Result r = take(&c);
    double worst = 0, worst_lse = 0;
    int32_t at = 0;
    for (int32_t row = 0; row < c.args.rows; row++)
        for (int32_t k = 0; k < 2; k++) {
            double lse = 0;
            const double e =
                error_of(&c, &r, row, (int32_t)(mixed((uint64_t)row * 2 + k) % (uint64_t)heads), &lse);
            if (!(e <= worst)) {
                worst = e;
                at = row;
            }
            worst_lse = lse <= worst_lse ? worst_lse : lse;
        }
    const bool good = worst < 6e-3 && worst_lse < 2e-4;
    printf("%s parity %-26s rows %3d s_q %d heads %3d: error %.5f (length %d), lse %.2e\n",
           good ? "ok  " : "FAIL", name, c.args.rows, s_q, heads, worst, row_length(&c, at), worst_lse);
    failures += !good;
    drop(&r);
    drop_case(&c);
}

/* The rows of `c`, each against the same queries and keys in other surroundings. */
static void same_bits(const Pool *pool, int32_t sequences, const int32_t *lengths, int32_t heads,
                      int32_t lora)
{
    Case c = make_case(pool, sequences, lengths, 1, heads, lora, 11);
    run_case(&c);
    const Result want = take(&c);
    const size_t row_out = (size_t)heads * lora * 2, row_lse = (size_t)heads * 4;
    int32_t other = 0, checked = 0;
    const int32_t parts[] = {1, 3, 17, 40};
    for (int32_t p : parts) { /* spread over other numbers of blocks */
        c.args.parts = p;
        CHECK(cudaMemset(c.args.out, 0xff, c.out_count * 2));
        run_case(&c);
        Result r = take(&c);
        for (int32_t row = 0; row < c.args.rows; row++, checked++)
            other += memcmp(r.out + row * row_out / 2, want.out + row * row_out / 2, row_out) != 0 ||
                     memcmp(r.lse + row * row_lse / 4, want.lse + row * row_lse / 4, row_lse) != 0;
        drop(&r);
    }
    for (int32_t row = 0; row < c.args.rows; row++, checked++) { /* alone */
        Case one = c;
        one.args.parts = 0;
        one.args.rows = 1;
        one.args.table += row * c.args.table_stride;
        one.args.lengths += row;
        one.args.q = (const uint8_t *)one.args.q + (size_t)row * heads * pool->dim * 2;
        CHECK(cudaMemset(c.args.out, 0xff, row_out));
        CHECK(proa_mla_decode_plan(&one.args, 0));
        CHECK(proa_mla_decode(&one.args, 0));
        uint8_t *got = (uint8_t *)malloc(row_out);
        CHECK(cudaMemcpy(got, c.args.out, row_out, cudaMemcpyDeviceToHost));
        other += memcmp(got, want.out + row * row_out / 2, row_out) != 0;
        free(got);
    }
    printf("%s bits   %d rows under other spreads, and alone: %d of %d differ\n",
           other == 0 ? "ok  " : "FAIL", sequences, other, checked);
    failures += other != 0;
    Result held = want;
    drop(&held);
    drop_case(&c);
}

/* Two new rows at once against one and one. */
static void same_bits_rows(const Pool *pool)
{
    const int32_t lengths[3] = {1025, 700, 4097}, before[3] = {1024, 699, 4096};
    Case two = make_case(pool, 3, lengths, 2, 128, 512, 11),
         first = make_case(pool, 3, before, 1, 128, 512, 11);
    const size_t row = 128 * 576 * 2, out = 128 * 512;
    /* the tables of `first` are not those of `two`: a block less each */
    CHECK(cudaMemcpy2D((void *)first.args.table, (size_t)first.args.table_stride * 4, two.args.table,
                       (size_t)two.args.table_stride * 4, (size_t)first.args.table_stride * 4, 3,
                       cudaMemcpyDeviceToDevice));
    for (int32_t i = 0; i < 3; i++)
        CHECK(cudaMemcpy((uint8_t *)first.args.q + i * row, (const uint8_t *)two.args.q + 2 * i * row, row,
                         cudaMemcpyDeviceToDevice));
    run_case(&two);
    run_case(&first);
    Result a = take(&two), b = take(&first);
    int32_t other = 0;
    for (int32_t i = 0; i < 3; i++)
        other += memcmp(a.out + 2 * i * out, b.out + i * out, out * 2) != 0;
    printf("%s bits   first of two new rows against it alone: %d of 3 differ\n", other == 0 ? "ok  " : "FAIL",
           other);
    failures += other != 0;
    drop(&a);
    drop(&b);
    drop_case(&two);
    drop_case(&first);
}

static void bench(const Pool *pool, const char *name, int32_t sequences, const int32_t *lengths, int32_t s_q,
                  int32_t heads)
{
    enum { LAYERS = 8 };
    Case layer[LAYERS];
    int64_t keys = 0, blocks = 0, read = 0;
    for (int32_t i = 0; i < sequences; i++) {
        read += lengths[i];
        blocks += (lengths[i] + BLOCK - 1) / BLOCK;
        for (int32_t j = 0; j < s_q; j++)
            keys += lengths[i] - j;
    }
    for (int32_t i = 0; i < LAYERS; i++) {
        layer[i] = make_case(pool, sequences, lengths, s_q, heads, 512, 11 + (uint64_t)i * blocks);
        CHECK(proa_mla_decode_plan(&layer[i].args, 0));
    }
    const float us =
        timed(LAYERS, [&](int32_t i, cudaStream_t s) { CHECK(proa_mla_decode(&layer[i].args, s)); });
    const float plan =
        timed(LAYERS, [&](int32_t i, cudaStream_t s) { CHECK(proa_mla_decode_plan(&layer[i].args, s)); });
    const double flop = 2.0 * heads * keys * (576 + 512),
                 bytes = 1152.0 * read + (double)sequences * s_q * heads * (576 + 512) * 2;
    const double bound_compute = flop / 989e12 * 1e6, bound_memory = bytes / 3.35e12 * 1e6;
    printf("%-12s B %3d s_q %d heads %3d: %8.1f us %6.1f TFLOP/s %6.0f GB/s | bound %6.1f compute %6.1f "
           "memory | plan %5.1f us",
           name, sequences, s_q, heads, us, flop / us * 1e-6, bytes / us * 1e-3, bound_compute, bound_memory,
           plan);
#ifdef PEER
    if (s_q == 1) {
        peer_meta(sequences, heads, 132, (int *)layer[0].args.lengths, 0);
        CHECK(cudaDeviceSynchronize());
        const float peer = timed(LAYERS, [&](int32_t i, cudaStream_t s) {
            const proa_mla_decode_args *a = &layer[i].args;
            peer_run(sequences, heads, 132, a->q, a->cache, a->out, a->table, a->table_stride, a->lengths,
                     a->cache_blocks, SCALE, s);
        });
        printf(" | peer %8.1f us %6.1f TFLOP/s: ratio %.3f", peer, flop / peer * 1e-6, peer / us);
    }
#endif
    printf("\n");
    fflush(stdout);
    for (int32_t i = 0; i < LAYERS; i++)
        drop_case(&layer[i]);
}

static void bench_even(const Pool *pool, int32_t sequences, int32_t length, int32_t s_q, int32_t heads)
{
    int32_t *lengths = (int32_t *)malloc((size_t)sequences * 4);
    char name[32];
    for (int32_t i = 0; i < sequences; i++)
        lengths[i] = length;
    snprintf(name, sizeof name, "L %d", length);
    bench(pool, name, sequences, lengths, s_q, heads);
    free(lengths);
}

static void bench_all(const Pool *pool)
{
    const int32_t shapes[][2] = {{128, 4096}, {128, 1024}, {128, 8192}, {1, 4096},  {32, 4096},
                                 {64, 4096},  {256, 4096}, {1, 8192},   {128, 4096}};
    for (const auto &s : shapes)
        bench_even(pool, s[0], s[1], 1, 128);
    bench_even(pool, 128, 4096, 2, 128);
    bench_even(pool, 128, 4096, 1, 64);
    int32_t lengths[128];
    for (int32_t i = 0; i < 128; i++)
        lengths[i] = 64 + (int32_t)(mixed((uint64_t)i) % 8064);
    bench(pool, "64..8128", 128, lengths, 1, 128);
    for (int32_t i = 0; i < 128; i++)
        lengths[i] = i == 77 ? 65536 : 2048;
    bench(pool, "2048, 65536", 128, lengths, 1, 128);
}

int main(int argc, char **argv)
{
    const bool small = argc > 1 && strcmp(argv[1], "small") == 0,
               timing = argc > 1 && strcmp(argv[1], "bench") == 0;
    const Pool pool = open_pool(small ? 256 : 65536);

    const int32_t tiny[4] = {65, 1, 2112, 64}; /* two splits */
    parity(&pool, "1 to 1,100", 4, tiny, 1, 128, 512);
    same_bits(&pool, 4, tiny, 128, 512);
    if (!small) {
        const int32_t awkward[14] = {1, 63, 64, 65, 0, 1023, 1024, 1025, 4095, 4096, 4097, 8192, 2049, 127};
        int32_t many[150];
        for (int32_t i = 0; i < 150; i++)
            many[i] = i < 14 ? awkward[i] : (int32_t)(mixed((uint64_t)i) % 6000);
        parity(&pool, "awkward", 14, awkward, 1, 128, 512);
        parity(&pool, "many", 150, many, 1, 128, 512);
        parity(&pool, "awkward, 64 heads", 14, awkward, 1, 64, 512);
        parity(&pool, "awkward, 16 heads", 14, awkward, 1, 16, 512);
        parity(&pool, "awkward, 100 heads", 14, awkward, 1, 100, 512);
        parity(&pool, "awkward, two rows", 14, awkward, 2, 128, 512);
        parity(&pool, "awkward, four rows", 14, awkward, 4, 128, 512);
        Pool other = {pool.cache, 65536, 48}; /* the same memory as narrower rows: for the generic kernel */
        parity(&other, "generic, 32 + 16", 14, awkward, 1, 4, 32);
        other.dim = 72;
        parity(&other, "generic, 64 + 8, two rows", 14, awkward, 2, 3, 64);
        other.dim = 320;
        parity(&other, "generic, 256 + 64", 4, tiny, 1, 16, 256);
        same_bits(&pool, 150, many, 128, 512);
        same_bits(&pool, 14, awkward, 64, 512);
        const int32_t deep[5] = {20000, 33333, 4097, 16384, 70};
        parity(&pool, "long", 5, deep, 1, 128, 512);
        same_bits(&pool, 5, deep, 128, 512);
        same_bits(&other, 4, tiny, 16, 256);
        same_bits_rows(&pool);
    }
    if (timing)
        bench_all(&pool);
    printf(failures == 0 ? "all good\n" : "%d FAILED\n", failures);
    return failures != 0;
}
