/* op_fixture.h - for tests of ops: hosts of every instruction set and thread count, reproducible numbers, and
 * comparison with a tolerance that says where it failed. Include after cmocka.h. */
#ifndef PROA_TESTS_OP_FIXTURE_H
#define PROA_TESTS_OP_FIXTURE_H

#include "base/number.h"
#include "base/random.h"
#include "op/tensor.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A host that owns its pool and scratch. */
static inline proa_host fixture_host(proa_isa isa, int threads, proa_precision precision)
{
    proa_host host = {.pool = proa_pool_create(threads), .isa = isa, .precision = precision};
    assert_non_null(host.pool);
    return host;
}

static inline void fixture_reserve(proa_host *host, size_t bytes)
{
    if (bytes <= host->scratch_bytes)
        return;
    free(host->scratch);
    host->scratch_bytes = (bytes + 63) / 64 * 64;
    host->scratch = aligned_alloc(64, host->scratch_bytes);
    assert_non_null(host->scratch);
    memset(host->scratch, 0xff, host->scratch_bytes); /* NaNs: what an op reads it must have written */
}

static inline void fixture_free(proa_host *host)
{
    proa_pool_free(host->pool);
    free(host->scratch);
}

static inline void *fixture_alloc(size_t bytes)
{
    void *p = calloc(1, bytes > 0 ? bytes : 1);
    assert_non_null(p);
    return p;
}

static inline float *fixture_floats(int64_t count)
{
    return fixture_alloc((size_t)count * sizeof(float));
}

/* About normal with deviation `size`; the i-th value depends on (seed, i) alone. */
static inline float fixture_normal(uint64_t seed, int64_t i, float size)
{
    uint32_t words[4];
    proa_random_philox(seed, (uint64_t)i, 77, words);
    double sum = 0; /* of four uniform numbers in [-1/2, 1/2): variance 1/3 */
    for (int w = 0; w < 4; w++)
        sum += words[w] * 0x1p-32 - 0.5;
    return (float)(sum * sqrt(3) * size);
}

/* Values as they stand between ops: bf16 ones in the default precision. */
static inline float *fixture_activations(uint64_t seed, int64_t count, float size, proa_precision precision)
{
    float *x = fixture_floats(count);
    for (int64_t i = 0; i < count; i++) {
        x[i] = fixture_normal(seed, i, size);
        if (precision == PROA_PRECISION_DEFAULT)
            x[i] = proa_round_bf16(x[i]);
    }
    return x;
}

/* |actual - expected| <= absolute + relative * |expected|, everywhere; NaN and infinities must agree. */
static inline void fixture_close(const char *what, const float *actual, const float *expected, int64_t count,
                                 double absolute, double relative)
{
    for (int64_t i = 0; i < count; i++) {
        if (isnan(expected[i]) ? isnan(actual[i]) : actual[i] == expected[i])
            continue;
        double error = fabs((double)actual[i] - expected[i]);
        if (!(error <= absolute + relative * fabs(expected[i])) || isinf(expected[i]))
            fail_msg("%s: [%lld] is %.9g, expected %.9g (allowed %g + %g relative)", what, (long long)i,
                     actual[i], expected[i], absolute, relative);
    }
}

/* || actual - expected || / || expected ||. */
static inline double fixture_distance(const float *actual, const float *expected, int64_t count)
{
    double error = 0, size = 0;
    for (int64_t i = 0; i < count; i++) {
        error += ((double)actual[i] - expected[i]) * ((double)actual[i] - expected[i]);
        size += (double)expected[i] * expected[i];
    }
    return sqrt(error / (size > 0 ? size : 1));
}

static inline void fixture_same_bits(const char *what, const void *actual, const void *expected, size_t bytes)
{
    const unsigned char *a = actual, *b = expected;
    for (size_t i = 0; i < bytes; i++)
        if (a[i] != b[i])
            fail_msg("%s: differs at byte %zu of %zu", what, i, bytes);
}

static const proa_precision fixture_precisions[] = {PROA_PRECISION_EXACT, PROA_PRECISION_DEFAULT};

static inline const char *fixture_precision_name(proa_precision precision)
{
    return precision == PROA_PRECISION_EXACT ? "exact" : "default";
}

/* Every instruction set that this processor has. */
#define FIXTURE_EACH_ISA(isa) for (proa_isa isa = PROA_ISA_PORTABLE; isa <= proa_cpu_isa(); isa++)

#endif
