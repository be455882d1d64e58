/* row.h - internal to quantise: one row at a time, for each instruction set. Shapes as in quantise.h. */
#ifndef PROA_OP_QUANTISE_ROW_H
#define PROA_OP_QUANTISE_ROW_H

#include "op/tensor.h"

/* x [cols], q [cols], s [ceil(cols / 128)]. The bits are proa_quantise_ref's. */
typedef void (*proa_quantise_row)(const float *x, int32_t cols, bool ue8m0, uint8_t *q, float *s);

/* What every processor of the family runs; NULL: the reference. */
proa_quantise_row proa_quantise_row_portable(void);
/* NULL where the processor family has no such instructions. */
proa_quantise_row proa_quantise_row_avx2(void);
proa_quantise_row proa_quantise_row_avx512(void);

#endif
