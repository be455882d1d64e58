/* run.h - internal to swiglu: a run of elements. Any thread. */
#ifndef PROA_OP_SWIGLU_RUN_H
#define PROA_OP_SWIGLU_RUN_H

#include <stdbool.h>
#include <stdint.h>

/* y = gate / (1 + e^-gate) * up, rounded to bf16 values if `round` is set. An element's bits do not depend on its place. */
typedef void (*proa_swiglu_run)(const float *gate, const float *up, float *y, int32_t count, bool round);

/* What every processor of the family runs. */
proa_swiglu_run proa_swiglu_run_portable(void);

#endif
