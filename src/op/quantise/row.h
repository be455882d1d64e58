/* row.h - internal to quantise: one row at a time, for each instruction set. Shapes as in quantise.h. */
#ifndef PROA_OP_QUANTISE_ROW_H
#define PROA_OP_QUANTISE_ROW_H

#include "op/tensor.h"

#include <string.h>

/* Of a group whose largest magnitude, or 1e-4, is amax; with ue8m0 the next power of two. */
static inline __attribute__((always_inline)) float proa_quantise_scale(float amax, bool ue8m0)
{
    float s = amax / 448.0f;
    uint32_t bits;
    memcpy(&bits, &s, sizeof bits);
    if (ue8m0 && (bits & 0x7fffffu) != 0) {
        bits = (bits & 0x7f800000u) + 0x800000u;
        memcpy(&s, &bits, sizeof s);
    }
    return s;
}

/* x [cols], q [cols], s [ceil(cols / 128)]. The bits are proa_quantise_ref's. */
typedef void (*proa_quantise_row)(const float *x, int32_t cols, bool ue8m0, uint8_t *q, float *s);

/* What every processor of the family runs; NULL: the reference. */
proa_quantise_row proa_quantise_row_portable(void);
/* NULL where the processor family has no such instructions. */
proa_quantise_row proa_quantise_row_avx2(void);
proa_quantise_row proa_quantise_row_avx512(void);

#endif
