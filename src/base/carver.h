/* carver.h - hands out aligned pieces of one allocation. The same code runs twice: without a base it only measures, with one it places. */
#ifndef PROA_BASE_CARVER_H
#define PROA_BASE_CARVER_H

#include "base/minmax.h"

typedef struct proa_carver {
    unsigned char *base; /* NULL: it measures */
    size_t alignment;    /* of each piece, and of base */
    size_t used;
} proa_carver;

/* NULL when it measures. */
static inline void *proa_carve(proa_carver *c, int64_t count, size_t element_bytes)
{
    void *piece = c->base != NULL ? c->base + c->used : NULL;
    c->used += proa_round_up((size_t)count * element_bytes, c->alignment);
    return piece;
}

#endif
