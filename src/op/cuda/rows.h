/* rows.h - rows of activations on a GPU. Activations are bf16 there; pointers are the GPU's. */
#ifndef PROA_OP_CUDA_ROWS_H
#define PROA_OP_CUDA_ROWS_H

#include <stdbool.h>
#include <stdint.h>

/* Rows in groups, each with a weight of its own. Group g has rows first[g] .. first[g] + count[g] - 1; counts are known on the GPU
 * alone, first[g] is a multiple of PROA_CUDA_GROUP_ALIGN, and rows between groups are never read into a result nor written. */
typedef struct proa_cuda_groups {
    int32_t groups;
    int32_t rows;         /* of each group, where first is NULL: all start at row 0 */
    const int32_t *first; /* [groups], or NULL */
    const int32_t *count; /* [groups] */
    int32_t expected; /* rows a group is likely to have: the choice of tiles alone hangs on it; 0: unknown */
} proa_cuda_groups;

enum { PROA_CUDA_GROUP_ALIGN = 128 };

/* Quantised rows. Scales stand by group of 128 channels, so that rows of a tile are neighbours. */
typedef struct proa_cuda_fp8_rows {
    uint8_t *q;     /* e4m3 [rows, cols]; NULL: none */
    float *scale;   /* [ceil(cols / 128)][stride] */
    int64_t stride; /* at least the rows, a multiple of 128 */
    bool ue8m0;     /* scales are powers of two */
} proa_cuda_fp8_rows;

#endif
