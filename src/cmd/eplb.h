/* eplb.h - what `proa eplb` has planned, for its table (eplb_report.c) and its picture (eplb_svg.c). */
#ifndef PROA_CMD_EPLB_H
#define PROA_CMD_EPLB_H

#include "base/buf.h"
#include "engine/expert_balance.h"

/* Two placements of one load. */
typedef struct proa_eplb_study {
    proa_expert_shape shape;
    proa_eplb_algorithm algorithm;    /* resolved */
    bool moe[PROA_EXPERT_LAYERS_MAX]; /* layers with experts; the others are not shown */
    const char *load_name;            /* where the load is from */
    const char *before_name;          /* a word */
    const double *load;               /* [layers, experts] */
    const int32_t *before;            /* [layers, physical] */
    const int32_t *after;             /* [layers, physical] */
} proa_eplb_study;

/* A line a layer and the sum, in colour when `terminal`. */
void proa_eplb_print(const proa_eplb_study *study, bool terminal);

/* A heat map of the load of ranks, before and after: appends a whole SVG file. */
void proa_eplb_draw(const proa_eplb_study *study, proa_buf *out);

#endif
