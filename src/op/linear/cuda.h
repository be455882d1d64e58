/* cuda.h - linear.h and experts.h on a GPU: y = x W^T, for a weight, a weight a group of rows, or a weight a head.
 *
 * A row's bits depend on the row and the weight alone: not on the number of rows, on groups, or on the tile that was chosen (law 2;
 * tests/gpu/test_linear). Queued on the GPU's stream; fails when a shape is not served or CUDA refuses.
 */
#ifndef PROA_OP_LINEAR_CUDA_H
#define PROA_OP_LINEAR_CUDA_H

#include "op/cuda/gpu.h"
#include "op/cuda/rows.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A tile of y. The bits of y do not hang on it; `any` lets the launcher choose by its model of the GPU. */
typedef struct proa_cuda_tile {
    int32_t rows; /* 0: any */
    int32_t columns;
} proa_cuda_tile;

/* FP8 recipe: x e4m3 [rows_max, k] and its scales, W e4m3 [groups, n, k] with scales [groups, ceil(n / 128), ceil(k / 128)], y bf16. n a
 * multiple of 8, k of 16. */
typedef struct proa_cuda_fp8_linear_args {
    proa_cuda_groups rows;
    int32_t rows_max; /* rows that x has memory for */
    int32_t n;
    int32_t k;
    proa_cuda_fp8_rows x;
    const void *w;
    const float *w_scale;
    void *y;
    int64_t y_stride; /* elements, a multiple of 8 */
    proa_cuda_tile tile;
} proa_cuda_fp8_linear_args;

proa_status proa_cuda_fp8_linear(proa_gpu *gpu, const proa_cuda_fp8_linear_args *args, proa_error *err);

/* The i-th tile that is built; false: there are no more. */
bool proa_cuda_fp8_linear_tiles(int32_t i, proa_cuda_tile *tile);
/* The tile that a call with these rows, n, k and tile gets; false: none is built so. */
bool proa_cuda_fp8_linear_tile(const proa_gpu *gpu, const proa_cuda_fp8_linear_args *args,
                               proa_cuda_tile *tile);

typedef enum proa_cuda_linear_groups {
    PROA_CUDA_GROUPS_ROWS,  /* x [rows, k], W [groups, n, k] */
    PROA_CUDA_GROUPS_HEADS, /* x row r, head h at x + r * x_stride + h * x_head_stride; W [heads, n, k] */
    PROA_CUDA_GROUPS_SLICES, /* x [rows, groups * k], W [n, groups * k]: y has parts of sums, to be added up in order */
} proa_cuda_linear_groups;

/* bf16: group g, row r of y at y + g * y_group_stride + r * y_stride. n and k multiples of 8; k of slices a multiple of 64. */
typedef struct proa_cuda_bf16_linear_args {
    proa_cuda_groups rows;
    proa_cuda_linear_groups groups;
    int32_t rows_max;
    int32_t n;
    int32_t k;
    const void *x;
    int64_t x_stride; /* elements, a multiple of 8 */
    int64_t x_head_stride;
    const void *w;
    void *y;
    bool y_float; /* float32, else bf16 */
    int64_t y_stride;
    int64_t y_group_stride;
    proa_cuda_tile tile;
} proa_cuda_bf16_linear_args;

proa_status proa_cuda_bf16_linear(proa_gpu *gpu, const proa_cuda_bf16_linear_args *args, proa_error *err);

/* As for FP8. */
bool proa_cuda_bf16_linear_tiles(int32_t i, proa_cuda_tile *tile);
bool proa_cuda_bf16_linear_tile(const proa_gpu *gpu, const proa_cuda_bf16_linear_args *args,
                                proa_cuda_tile *tile);

#ifdef __cplusplus
}
#endif

#endif
