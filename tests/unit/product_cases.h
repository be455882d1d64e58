/* product_cases.h - random operands for the tests of linear, linear_heads and experts, and the error that their
 * arithmetic allows. */
#ifndef PRODUCT_CASES_H
#define PRODUCT_CASES_H

#include "base/number.h"
#include "base/random.h"
#include "op/tensor.h"

#include <stdlib.h>

/* Which operands meet. */
typedef enum operands { KIND_F32, KIND_BF16_EXACT, KIND_BF16, KIND_E4M3_EXACT, KIND_RECIPE, KINDS } operands;

static inline const char *kind_name(operands kind)
{
    static const char *const names[KINDS] = {"f32", "bf16 exact", "bf16", "e4m3 exact", "recipe"};
    return names[kind];
}

static inline proa_dtype kind_dtype(operands kind)
{
    return kind == KIND_F32                               ? PROA_DTYPE_F32
           : kind == KIND_BF16 || kind == KIND_BF16_EXACT ? PROA_DTYPE_BF16
                                                          : PROA_DTYPE_E4M3;
}

static inline proa_precision kind_precision(operands kind)
{
    return kind == KIND_BF16 || kind == KIND_RECIPE ? PROA_PRECISION_DEFAULT : PROA_PRECISION_EXACT;
}

static inline uint32_t random_word(uint64_t key, uint64_t counter)
{
    uint32_t out[4];
    proa_random_philox(key, counter, 0, out);
    return out[0];
}

/* Roughly normal, mean 0, deviation 1. */
static inline float random_normal(uint64_t key, uint64_t counter)
{
    uint32_t w[4];
    proa_random_philox(key, counter, 0, w);
    double sum = 0;
    for (int i = 0; i < 4; i++)
        sum += (double)(w[i] & 0xffff) + (double)(w[i] >> 16) - 65535.0;
    return (float)(sum / 65536.0 * 1.2247);
}

/* Any code but NaN: denormals and the largest are as likely as the others. */
static inline uint8_t random_e4m3(uint64_t key, uint64_t counter)
{
    uint8_t q = (uint8_t)random_word(key, counter);
    return (q & 0x7f) == 0x7f ? 0 : q;
}

static inline void *checked_malloc(size_t bytes)
{
    void *p = malloc(bytes > 0 ? bytes : 1);
    if (p == NULL)
        abort();
    return p;
}

static inline proa_weight make_weight(operands kind, uint64_t key, int32_t n, int32_t k, int32_t block_n,
                                      int32_t block_k)
{
    int64_t count = (int64_t)n * k;
    proa_weight w = {.dtype = kind_dtype(kind), .n = n, .k = k, .block_n = block_n, .block_k = block_k};
    char *data = checked_malloc((size_t)count * proa_dtype_bytes(w.dtype));
    for (int64_t i = 0; i < count; i++) {
        float f = random_normal(key, (uint64_t)i);
        uint16_t h = proa_f32_to_bf16(f);
        if (w.dtype == PROA_DTYPE_F32)
            memcpy(data + i * 4, &f, 4);
        else if (w.dtype == PROA_DTYPE_BF16)
            memcpy(data + i * 2, &h, 2);
        else
            data[i] = (char)random_e4m3(key, (uint64_t)i);
    }
    w.data = data;
    if (w.dtype == PROA_DTYPE_E4M3) {
        int64_t blocks = (int64_t)((n + block_n - 1) / block_n) * ((k + block_k - 1) / block_k);
        float *scale = checked_malloc((size_t)blocks * sizeof *scale);
        for (int64_t i = 0; i < blocks; i++)
            scale[i] = (float)(0.001 + proa_random_uniform(key + 1, (uint64_t)i));
        w.scale = scale;
    }
    return w;
}

static inline void free_weight(proa_weight *w)
{
    free((void *)w->data);
    free((void *)w->scale);
}

static inline proa_rows make_rows(operands kind, uint64_t key, int32_t rows, int32_t k)
{
    int64_t count = (int64_t)rows * k, groups = (int64_t)rows * ((k + 127) / 128);
    proa_rows x = {.rows = rows, .cols = k};
    if (kind == KIND_RECIPE) {
        uint8_t *q = checked_malloc((size_t)count);
        float *s = checked_malloc((size_t)groups * sizeof *s);
        for (int64_t i = 0; i < count; i++)
            q[i] = random_e4m3(key, (uint64_t)i);
        for (int64_t i = 0; i < groups; i++)
            s[i] = (float)(0.001 + proa_random_uniform(key + 1, (uint64_t)i));
        x.q = q;
        x.s = s;
        return x;
    }
    float *f = checked_malloc((size_t)count * sizeof *f);
    for (int64_t i = 0; i < count; i++) {
        f[i] = random_normal(key, (uint64_t)i);
        if (kind == KIND_BF16)
            f[i] = proa_round_bf16(f[i]);
    }
    x.x = f;
    return x;
}

static inline void free_rows(proa_rows *x)
{
    free((void *)x->x);
    free((void *)x->q);
    free((void *)x->s);
}

/* The same operands without signs: |x| times |w| bounds what rounding can do. */
static inline void take_magnitudes(proa_weight *w, proa_rows *x)
{
    for (int64_t i = 0; i < (int64_t)w->n * w->k; i++) {
        char *at = (char *)w->data + (size_t)i * proa_dtype_bytes(w->dtype);
        at[proa_dtype_bytes(w->dtype) - 1] = (char)(at[proa_dtype_bytes(w->dtype) - 1] & 0x7f);
    }
    for (int64_t i = 0; i < (int64_t)x->rows * x->cols; i++) {
        if (x->q != NULL)
            ((uint8_t *)x->q)[i] &= 0x7f;
        else
            ((float *)x->x)[i] = fabsf(x->x[i]);
    }
}

/* Float32 sums over at least 4 lanes: each lane adds k / 4 products, each addition (and the scale and its product,
 * and the reduction of the lanes) rounds by 2^-24 of what is there, which is at most the sum of magnitudes. */
static inline float sum_tolerance(int32_t k, float magnitude)
{
    return (float)(k / 4 + 16) * 0x1p-24f * magnitude;
}

#endif
