/* row.h - what ref.c and cpu.c share of one row: the edits of its logits. For the .c files of this folder.
 *
 * The edits are float32 arithmetic in the order of sample.h, the same on every host device. */
#ifndef PROA_OP_SAMPLE_ROW_H
#define PROA_OP_SAMPLE_ROW_H

#include "op/sample/sample.h"

#include <float.h>
#include <math.h>

/* A logit as the rest sees it: NaN counts as -inf, +inf as the largest float (so that differences exist). */
static inline float proa_sample_clean(float logit)
{
    return logit <= FLT_MAX ? logit : isnan(logit) ? -INFINITY : FLT_MAX;
}

/* Whether proa_sample_edit would change anything. */
bool proa_sample_edits(const proa_sample_params *params);

/* Bias, penalties and bans, on cleaned logits; the result is clean. */
void proa_sample_edit(const proa_sample_params *params, float *logits, int32_t vocab);

#endif
