/* attend.h - one split against any number of queries, and the scratch that it takes. For cpu.c's two forms. */
#ifndef PROA_OP_MLA_ATTEND_H
#define PROA_OP_MLA_ATTEND_H

#include "op/mla/kernels.h"

/* One thread's working memory and what it holds for the split at hand. */
typedef struct proa_mla_work {
    const proa_mla_kernels *kernels;
    int32_t depth; /* padded */
    int32_t dim;   /* of the values */
    int32_t cols;  /* dim, padded */
    float scale;
    bool round; /* probabilities to bf16 */
    void *queries;
    void *keys;
    void *values;
    float *scores;  /* [PROA_MLA_BATCH][64] */
    void *p;        /* [PROA_MLA_BATCH][64] elements */
    uint16_t *rows; /* [64][depth]: the split's rows of an FP8 cache as bf16 */
    float *max;     /* [queries], for a form that has no such state of its own */
    float *sum;
} proa_mla_work;

/* Query i has max[i], sum[i] and out + i * out_stride. It sees the first min(64, count_first + i * count_step) keys of the split, at least one. */
typedef struct proa_mla_queries {
    const void *packed;
    int32_t n;
    int32_t count_first;
    int32_t count_step;
    float *max;
    float *sum;
    float *out;
    int64_t out_stride;
} proa_mla_queries;

/* The kernels of the host's instruction set and precision. */
const proa_mla_kernels *proa_mla_pick_kernels(const proa_host *host);

/* Bytes of one thread's work for that many queries; a multiple of 64. */
size_t proa_mla_work_bytes(int32_t queries, int32_t depth, int32_t dim);

/* Lays the work out in thread `thread`'s part of the host's scratch. */
proa_mla_work proa_mla_work_at(const proa_host *host, int thread, int32_t queries, int32_t depth, int32_t dim,
                               float scale);

void proa_mla_attend(const proa_mla_work *work, const proa_mla_queries *queries);

#endif
