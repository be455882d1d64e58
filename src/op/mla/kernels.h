/* kernels.h - what the attention of one split is made of, per instruction set. For the .c files of this folder.
 *
 * Both forms of attention come down to this: a batch of query vectors [depth] meets one split of up to 64 keys
 * [depth] with values [dim]. Expanded: one head, queries = rows. Absorbed: one row, queries = heads.
 *
 * Keys and values of the split are packed once and used by all queries, so that a sum runs down the packed rows
 * while the lanes of a vector are different keys (scores) or different columns (values): no sum crosses lanes, and
 * its order is the order of the dimensions (scores) or of the keys (values), whatever the batch is (law 2).
 *
 *   element         keys                    values                                   query, probabilities
 *   float           [depth][64]             [cols / 32][64][32]                      [depth], [64]
 *   pair of bf16    [depth / 2][64][2]      [cols / 32][32][32][2]                   [depth], [64]
 *
 * depth is even (pieces are padded with zeros), cols is dim rounded up to 32. A block of 32 columns of values is
 * contiguous: it stays in the first-level cache while a batch of queries passes over it, which rows of 512 columns,
 * 2 KiB apart and hence in few cache sets, would not.
 */
#ifndef PROA_OP_MLA_KERNELS_H
#define PROA_OP_MLA_KERNELS_H

#include "op/tensor.h"

enum {
    PROA_MLA_SPLIT = PROA_KV_BLOCK_TOKENS,
    PROA_MLA_COLS = 32,  /* columns of a block of values */
    PROA_MLA_BATCH = 32, /* queries whose scores exist at once */
};

/* Row j of a split's keys (or values), `dim` elements of F32 or BF16, starts at data + j * stride elements. */
typedef struct proa_mla_source {
    const void *data;
    proa_dtype dtype;
    int64_t stride;
    int32_t dim;
} proa_mla_source;

typedef struct proa_mla_kernels {
    size_t element_bytes; /* 4: float, 2: bf16 in pairs */

    /* Elements at .. at + even(source->dim) - 1 of each of `keys` keys; the lanes beyond become zero. */
    void (*pack_keys)(void *packed, int32_t at, const proa_mla_source *source, int32_t keys);
    void (*pack_values)(void *packed, int32_t cols, const proa_mla_source *source, int32_t keys);
    /* Elements at .. at + even(dim) - 1 of one query. */
    void (*pack_query)(void *packed, int32_t at, const float *query, int32_t dim);

    /* scores[i][j] = scale * (query i . key j), i < n <= PROA_MLA_BATCH; all 64 lanes are written. */
    void (*scores)(const void *queries, int32_t n, const void *keys, int32_t depth, float scale,
                   float *scores);

    /* Takes one query's `count` scores into its running maximum and sum, and writes the probabilities p [64], zero
     * from `count` on, rounded to bf16 if `round` is set. Returns the factor by which its output shrinks. */
    float (*weigh)(const float *scores, int32_t count, bool round, float *max, float *sum, void *p);

    /* out[i][c] = out[i][c] * shrink[i] + sum over j < count of p[i][j] * values[j][c], i < n, c < dim.
     * Values from `count` on are not touched: a NaN there stays there. */
    void (*accumulate)(const void *p, const float *shrink, int32_t n, int32_t count, const void *values,
                       int32_t dim, int32_t cols, float *out, int64_t out_stride);

    /* The end of a query's walk: out[c] = weighted[c] / sum, rounded to bf16 if `round` is set; may be in place. */
    void (*finish)(const float *weighted, float sum, bool round, int32_t dim, float *out);
} proa_mla_kernels;

extern const proa_mla_kernels proa_mla_kernels_portable;
extern const proa_mla_kernels proa_mla_kernels_avx2;
extern const proa_mla_kernels proa_mla_kernels_avx512;
extern const proa_mla_kernels proa_mla_kernels_avx512_bf16; /* default precision */

/* pack_query of kernels whose element is a float (attend.c). */
void proa_mla_pack_query_f32(void *packed, int32_t at, const float *query, int32_t dim);

static inline int32_t proa_mla_even(int32_t n)
{
    return n + (n & 1);
}

#endif
