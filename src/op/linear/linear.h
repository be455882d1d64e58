/* linear.h - y = x W^T for dense weights, and the same per attention head.
 *
 * Equation: y[r][j] = sum_i x[r][i] * W[j][i].
 *  - W F32 or BF16: float x. In the default precision x holds bf16 values, products accumulate in float32.
 *  - W E4M3 with x.q given (the FP8 recipe): for each group g of 128 of K, part = sum of q * w (float32), then
 *    y += part * x.s[r][g] * scale[j / 128][g] (DeepGEMM's two-level accumulation).
 *  - W E4M3 with x.x alone (exact): w is dequantised, y = sum x * (w * scale).
 * Output is float32, rounded to bf16 when `round_output` is set and the precision is DEFAULT.
 * Law 2: the order of the sum over K depends on k and the instruction set alone, never on rows, n or threads.
 * Bound: bytes of W once (few rows), or 2 * rows * n * k operations (many).
 */
#ifndef PROA_OP_LINEAR_LINEAR_H
#define PROA_OP_LINEAR_LINEAR_H

#include "op/tensor.h"

typedef struct proa_linear_args {
    proa_rows x;          /* [rows, k]; rows may be 0 */
    const proa_weight *w; /* [n, k] */
    float *y;             /* [rows, n] */
    int64_t y_stride;     /* floats between rows of y, at least n */
    bool round_output;
} proa_linear_args;

void proa_linear_ref(const proa_host *host, const proa_linear_args *args);
void proa_linear_cpu(const proa_host *host, const proa_linear_args *args);
size_t proa_linear_scratch_bytes(const proa_host *host, int32_t rows, int32_t n, int32_t k);

/* Per head: y[r][h][j] = sum_i x[r][h][i] * W[h][j][i]; W is bf16 or float32, [heads, n, k].
 * For MLA's absorbed form: q_nope -> latent (W_UK transposed) and latent -> value (W_UV). */
typedef struct proa_linear_heads_args {
    int32_t rows;
    int32_t heads;
    int32_t n;
    int32_t k;
    const float *x; /* row r, head h at x + r * x_row_stride + h * x_head_stride, k floats */
    int64_t x_row_stride;
    int64_t x_head_stride;
    proa_dtype w_dtype; /* F32 or BF16 */
    const void *w;      /* [heads, n, k] */
    float *y;           /* row r, head h at y + r * y_row_stride + h * y_head_stride, n floats */
    int64_t y_row_stride;
    int64_t y_head_stride;
    bool round_output;
} proa_linear_heads_args;

void proa_linear_heads_ref(const proa_host *host, const proa_linear_heads_args *args);
void proa_linear_heads_cpu(const proa_host *host, const proa_linear_heads_args *args);
size_t proa_linear_heads_scratch_bytes(const proa_host *host, int32_t rows, int32_t heads, int32_t n,
                                       int32_t k);

#endif
