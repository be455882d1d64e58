/* product.h - the product that linear, linear_heads and experts share on the `cpu` device.
 *
 * Rows ("slots") come in segments; each segment goes through a matrix [n, k] of its own. A dense linear is one
 * segment, a head or an expert is one of many. Reads its arguments only; the scratch is the host's. Internal to
 * these ops.
 */
#ifndef PROA_OP_LINEAR_PRODUCT_H
#define PROA_OP_LINEAR_PRODUCT_H

#include "op/tensor.h"

typedef struct proa_product {
    int32_t n;
    int32_t k;
    int32_t segments;
    const int32_t *offsets; /* [segments + 1], slots of each segment; NULL: rows_each slots in each segment */
    int32_t rows_each;

    /* Segment e's matrix is weights[e], or, when w_segment_bytes is not 0, weights[0] moved by e times that. */
    const proa_weight *weights;
    size_t w_segment_bytes;
    proa_dtype w_dtype; /* of all matrices */

    /* Slot i, the r-th of segment e, reads row x_index[i] (NULL: row i, or row r where rows_each rules); float row
     * `row` of segment e is at x + row * x_row_stride + e * x_segment_stride; q and s are dense, one segment's. */
    const int32_t *x_index;
    const float *x;
    int64_t x_row_stride;
    int64_t x_segment_stride;
    const uint8_t *q; /* not NULL: the FP8 recipe */
    const float *s;

    /* ... and writes n floats at y + row * y_row_stride + e * y_segment_stride, where row is i (r likewise). */
    float *y;
    int64_t y_row_stride;
    int64_t y_segment_stride;
    bool round_bf16;
} proa_product;

void proa_product_run(const proa_host *host, const proa_product *product);
size_t proa_product_scratch_bytes(const proa_host *host, int64_t slots, int32_t segments, int32_t n,
                                  int32_t k);

#endif
