/* kernels.h - passes over one row of logits, per instruction set. For the .c files of this folder.
 *
 * A bucket holds the tokens whose distance z = (max - logit) / temperature from the best one lies in a range of
 * 1 / PROA_SAMPLE_BUCKETS_PER_UNIT; the last one takes all the rest but the logits of -inf, which are in none. */
#ifndef PROA_OP_SAMPLE_KERNELS_H
#define PROA_OP_SAMPLE_KERNELS_H

#include "base/cpu.h"

#include <math.h>
#include <stdbool.h>
#include <stdint.h>

enum {
    PROA_SAMPLE_BUCKETS_PER_UNIT = 128,
    PROA_SAMPLE_TAIL =
        128 * 16, /* the last bucket: z >= 16, less than e^-16 of the best token's weight each */
    PROA_SAMPLE_BUCKETS = PROA_SAMPLE_TAIL + 1,
};

typedef struct proa_sample_bucket {
    double weight; /* the sum of e^-z, in order of id */
    int32_t count;
} proa_sample_bucket;

typedef struct proa_sample_item {
    float z;
    int32_t id;
} proa_sample_item;

/* Logits of a row that are clean (row.h), the greatest of them, and 1 / temperature. */
typedef struct proa_sample_span {
    const float *logits;
    int32_t vocab;
    float max;
    float inverse_temperature;
} proa_sample_span;

typedef struct proa_sample_kernels {
    /* The first id of the greatest logit (0 when all are -inf). `clean` becomes false when there is a NaN or +inf; the
     * id means nothing then. */
    int32_t (*find_best)(const float *logits, int32_t vocab, bool *clean);

    /* The sum of e^(logit - max), in double and in an order that vocab alone decides. */
    double (*sum_exp)(const float *logits, int32_t vocab, float max);

    /* The first id >= from whose logit is greater than `bound`; vocab if there is none. */
    int32_t (*next_above)(const float *logits, int32_t from, int32_t vocab, float bound);

    /* Adds all tokens to buckets that are zero. */
    void (*fill)(const proa_sample_span *span, proa_sample_bucket *buckets);

    /* Writes the tokens of one bucket in order of id; returns how many. */
    int32_t (*collect)(const proa_sample_span *span, int32_t bucket, proa_sample_item *items);
} proa_sample_kernels;

extern const proa_sample_kernels proa_sample_kernels_portable;
extern const proa_sample_kernels proa_sample_kernels_avx2;
extern const proa_sample_kernels proa_sample_kernels_avx512;

static inline float proa_sample_distance(const proa_sample_span *span, float logit)
{
    return (span->max - logit) * span->inverse_temperature;
}

/* z >= 0, or NaN, which the tail takes. */
static inline int32_t proa_sample_bucket_of(float z)
{
    float index = z * PROA_SAMPLE_BUCKETS_PER_UNIT;
    return index < PROA_SAMPLE_TAIL ? (int32_t)index : PROA_SAMPLE_TAIL;
}

#endif
