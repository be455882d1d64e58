/* gpu_test.h - what tests on a GPU share: the GPU (or a skip, aloud), buffers on both sides, random values. */
#ifndef PROA_TESTS_GPU_GPU_TEST_H
#define PROA_TESTS_GPU_GPU_TEST_H

#include "base/number.h"
#include "base/random.h"
#include "op/cuda/gpu.h"
#include "op/tensor.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
/* cmocka.h wants the four above */
#include <cmocka.h>

/* Fails the test with the error's text. */
static inline void gpu_good(proa_status status, const proa_error *err)
{
    if (status != PROA_OK)
        fail_msg("%s", err->text);
}

/* For cmocka's group set-up: *state is the GPU, or NULL where there is none. */
static inline int gpu_open_state(void **state)
{
    proa_error err = {0};
    proa_gpu *gpu = NULL;
    if (proa_gpu_count(&err) == 0)
        printf("no GPU: %s\n", err.text);
    else
        gpu_good(proa_gpu_open(0, &gpu, &err), &err);
    *state = gpu;
    return 0;
}

static inline int gpu_close_state(void **state)
{
    proa_gpu_close(*state);
    return 0;
}

static inline proa_gpu *gpu_of(void **state)
{
    if (*state == NULL)
        skip();
    return *state;
}

/* A stand-in (tests/stand_in) computes what it must, but it is no GPU: large cases are left out. */
static inline bool gpu_is_slow(const proa_gpu *gpu)
{
    return strcmp(proa_gpu_facts_of(gpu)->name, "stand-in") == 0;
}

static inline void *gpu_room(proa_gpu *gpu, size_t bytes)
{
    proa_error err = {0};
    void *memory;
    gpu_good(proa_gpu_alloc(gpu, bytes > 0 ? bytes : 1, &memory, &err), &err);
    gpu_good(proa_gpu_set(gpu, memory, 0xff, bytes, &err), &err); /* NaN: what is not written shows */
    return memory;
}

static inline void *gpu_copy(proa_gpu *gpu, const void *from, size_t bytes)
{
    proa_error err = {0};
    void *memory = gpu_room(gpu, bytes);
    gpu_good(proa_gpu_upload(gpu, memory, from, bytes, &err), &err);
    gpu_good(proa_gpu_sync(gpu, &err), &err);
    return memory;
}

static inline void gpu_read(proa_gpu *gpu, void *to, const void *from, size_t bytes)
{
    proa_error err = {0};
    gpu_good(proa_gpu_download(gpu, to, from, bytes, &err), &err);
    gpu_good(proa_gpu_sync(gpu, &err), &err);
}

/* ---- values ---- */

static inline float test_uniform(uint64_t seed, uint64_t i)
{
    return (float)(2 * proa_random_uniform(seed, i) - 1);
}

/* bf16 values as floats, around `spread`. */
static inline float *test_floats(uint64_t seed, int64_t count, float spread)
{
    float *x = malloc((size_t)count * sizeof *x);
    assert_non_null(x);
    for (int64_t i = 0; i < count; i++)
        x[i] = proa_round_bf16(
            spread * (test_uniform(seed, 2 * (uint64_t)i) + test_uniform(seed, 2 * (uint64_t)i + 1)));
    return x;
}

static inline void *gpu_bf16(proa_gpu *gpu, const float *x, int64_t count)
{
    uint16_t *bits = malloc((size_t)count * sizeof *bits + 1);
    assert_non_null(bits);
    for (int64_t i = 0; i < count; i++)
        bits[i] = proa_f32_to_bf16(x[i]);
    void *memory = gpu_copy(gpu, bits, (size_t)count * sizeof *bits);
    free(bits);
    return memory;
}

static inline float *gpu_read_bf16(proa_gpu *gpu, const void *from, int64_t count)
{
    uint16_t *bits = malloc((size_t)count * sizeof *bits + 1);
    float *x = malloc((size_t)count * sizeof *x + 1);
    assert_non_null(bits);
    assert_non_null(x);
    gpu_read(gpu, bits, from, (size_t)count * sizeof *bits);
    for (int64_t i = 0; i < count; i++)
        x[i] = proa_bf16_to_f32(bits[i]);
    free(bits);
    return x;
}

/* ||got - want|| / ||want||; NaN when anything is none. */
static inline double test_distance(const float *got, const float *want, int64_t count)
{
    double off = 0, all = 0;
    for (int64_t i = 0; i < count; i++) {
        off += ((double)got[i] - want[i]) * ((double)got[i] - want[i]);
        all += (double)want[i] * want[i];
    }
    return sqrt(off / (all > 0 ? all : 1));
}

/* A NaN is never near. */
#define assert_near(got, want, count, most)                                                                  \
    do {                                                                                                     \
        double distance_ = test_distance(got, want, count);                                                  \
        if (!(distance_ <= (most)))                                                                          \
            fail_msg("%s: relative distance %g, at most %g", #got, distance_, (double)(most));               \
    } while (0)

#endif
