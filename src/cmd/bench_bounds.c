/* bench_bounds.c - the most that this machine reads, copies and multiplies: simple loops on all threads at once.
 *
 * The arithmetic loops keep CHAINS sums in registers, enough to hide the latency of a multiply-add on every
 * processor that we know of (5 cycles, two a cycle). A try takes a millisecond or two, less than a time slice, and
 * there are many: on a busy machine some run undisturbed. Lacks: NUMA (threads of one node, reading its memory).
 */
#include "cmd/bench.h"

#include "base/clock.h"

#include <string.h>

enum {
    TRIES = 100,
    ROUNDS = 200000,
    PART_BYTES = 1 << 18,
    PARTS = 192, /* of a try; the next one takes the next of the buffer */
    SLOTS = 1024,
};

typedef struct sweep {
    const proa_bench_memory *buffer;
    proa_isa isa;
    bool bf16;
    int part_first;
    float out[SLOTS]; /* what the loops gave, so that they are not optimised away */
    uint64_t words[SLOTS];
} sweep;

double proa_bench_now_us(const proa_pool *pool)
{
    return proa_pool_threads(pool) == 1 ? (double)proa_clock_thread_ns() / 1e3 : (double)proa_clock_us();
}

/* --- memory --- */

static uint64_t read_part(const char *data)
{
    typedef uint64_t words __attribute__((vector_size(32), aligned(32), may_alias));
    const words *at = (const words *)(const void *)data;
    words a = {0}, b = {0}, c = {0}, d = {0};
    for (size_t i = 0; i < PART_BYTES / sizeof(words); i += 4) {
        a |= at[i];
        b |= at[i + 1];
        c |= at[i + 2];
        d |= at[i + 3];
    }
    a = (a | b) | (c | d);
    return a[0] | a[1] | a[2] | a[3];
}

static void read_task(void *context, int task, int thread)
{
    sweep *s = context;
    s->words[thread % SLOTS] |= read_part(s->buffer->data + (size_t)(s->part_first + task) * PART_BYTES);
}

static void copy_task(void *context, int task, int thread)
{
    (void)thread;
    sweep *s = context;
    const char *from = s->buffer->data + (size_t)(s->part_first + task) * PART_BYTES;
    memcpy(s->buffer->data + s->buffer->bytes / 2 + (from - s->buffer->data), from, PART_BYTES);
}

/* Over the first `part_count` parts of the buffer, again and again. */
static double best_gbps(proa_pool *pool, proa_pool_task task, sweep *s, int part_count, double part_bytes)
{
    double best = 0;
    s->part_first = 0;
    for (int i = 0; i < TRIES; i++) {
        double start = proa_bench_now_us(pool);
        proa_pool_run(pool, task, s, PARTS);
        double gbps = PARTS * part_bytes / 1e3 / (proa_bench_now_us(pool) - start);
        best = gbps > best ? gbps : best;
        s->part_first = s->part_first + 2 * PARTS <= part_count ? s->part_first + PARTS : 0;
    }
    return best;
}

/* --- arithmetic: ROUNDS times CHAINS multiply-adds of vectors --- */

#if defined(__aarch64__)
enum { CHAINS = 16 }; /* four pipes, a latency of four */
#define CHANGED(x) __asm__ volatile("" : "+w"(x))
#else
enum { CHAINS = 12 };
#define CHANGED(x) __asm__ volatile("" : "+v"(x))
#endif

/* The loop with vectors of TYPE; `x` looks changed each round, so that nothing moves out of it. */
#define MULTIPLY(type, multiply_add)                                                                         \
    type sums[CHAINS];                                                                                       \
    for (int i = 0; i < CHAINS; i++)                                                                         \
        sums[i] = x * (float)i; /* no two alike */                                                           \
    for (int64_t round = 0; round < ROUNDS; round++) {                                                       \
        CHANGED(x);                                                                                          \
        _Pragma("GCC unroll 16") for (int i = 0; i < CHAINS; i++) sums[i] = multiply_add;                    \
    }                                                                                                        \
    float sum = 0;                                                                                           \
    for (int i = 0; i < CHAINS; i++)                                                                         \
        sum += sums[i][0];                                                                                   \
    return sum;

#if defined(__aarch64__)
#include <arm_neon.h>

static float multiply_least(void)
{
    float32x4_t x = vdupq_n_f32(0.5f);
    MULTIPLY(float32x4_t, vfmaq_f32(sums[i], x, x))
}
#else
typedef float float4 __attribute__((vector_size(16)));

static float multiply_least(void)
{
    float4 sums[CHAINS];
    volatile float half = 0.5f;
    float4 x = {half, half, half, half};
    for (int i = 0; i < CHAINS; i++)
        sums[i] = x * (float)i;
    for (int64_t round = 0; round < ROUNDS; round++)
        for (int i = 0; i < CHAINS; i++)
            sums[i] = (sums[i] + x) * x;
    float sum = 0;
    for (int i = 0; i < CHAINS; i++)
        sum += sums[i][0];
    return sum;
}
#endif

#if defined(__x86_64__)
#include <immintrin.h>

PROA_TARGET_AVX2 static float multiply_avx2(void)
{
    __m256 x = _mm256_set1_ps(0.5f);
    MULTIPLY(__m256, _mm256_fmadd_ps(x, x, sums[i]))
}

PROA_TARGET_AVX512 static float multiply_avx512(void)
{
    __m512 x = _mm512_set1_ps(0.5f);
    MULTIPLY(__m512, _mm512_fmadd_ps(x, x, sums[i]))
}

PROA_TARGET_AVX512_BF16 static float multiply_bf16(void)
{
    __m512 x = _mm512_castsi512_ps(_mm512_set1_epi32(0x3f003f00));
    MULTIPLY(__m512, _mm512_dpbf16_ps(sums[i], (__m512bh)x, (__m512bh)x))
}
#endif

/* Operations of a round of one chain: two a product. */
static double flops_each(proa_isa isa, bool bf16)
{
    if (isa >= PROA_ISA_AVX512_BF16 && bf16)
        return 64;
    return isa >= PROA_ISA_AVX512 ? 32 : isa >= PROA_ISA_AVX2 ? 16 : 8;
}

static void multiply_task(void *context, int task, int thread)
{
    (void)thread;
    sweep *s = context;
    float out;
#if defined(__x86_64__)
    if (s->isa >= PROA_ISA_AVX512_BF16 && s->bf16)
        out = multiply_bf16();
    else if (s->isa >= PROA_ISA_AVX512)
        out = multiply_avx512();
    else if (s->isa >= PROA_ISA_AVX2)
        out = multiply_avx2();
    else
#endif
        out = multiply_least();
    s->out[task % SLOTS] = out;
}

static double best_gflops(proa_pool *pool, sweep *s, bool bf16)
{
    int threads = proa_pool_threads(pool);
    double flops = (double)threads * ROUNDS * CHAINS * flops_each(s->isa, bf16), best = 0;
    s->bf16 = bf16;
    for (int i = 0; i < TRIES; i++) {
        double start = proa_bench_now_us(pool);
        proa_pool_run(pool, multiply_task, s, threads);
        double gflops = flops / 1e3 / (proa_bench_now_us(pool) - start);
        best = gflops > best ? gflops : best;
    }
    return best;
}

void proa_bench_bounds_measure(proa_pool *pool, proa_isa isa, const proa_bench_memory *buffer,
                               proa_bench_bounds *bounds)
{
    sweep s = {.buffer = buffer, .isa = isa};
    int parts = (int)(buffer->bytes / PART_BYTES);
    PROA_ASSERT(parts >= 2 * PARTS);
    bounds->read_gbps = best_gbps(pool, read_task, &s, parts, PART_BYTES);
    bounds->copy_gbps = best_gbps(pool, copy_task, &s, parts / 2, 2.0 * PART_BYTES);
    bounds->f32_gflops = best_gflops(pool, &s, false);
    bounds->bf16_gflops = best_gflops(pool, &s, true);
}
