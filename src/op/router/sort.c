/* sort.c - a stable counting sort of (token, slot) pairs by expert. */
#include "op/router/router.h"

#include "base/status.h"

#include <string.h>

void proa_router_sort(int32_t rows, int32_t top_k, int32_t experts, const int32_t *ids, int32_t *offsets,
                      int32_t *order, int32_t *row_index, int32_t *place)
{
    int32_t slots = rows * top_k;
    int32_t next[PROA_ROUTER_MAX_EXPERTS];
    PROA_ASSERT(experts <= PROA_ROUTER_MAX_EXPERTS);
    memset(offsets, 0, ((size_t)experts + 1) * sizeof *offsets);
    for (int32_t slot = 0; slot < slots; slot++) {
        PROA_ASSERT(ids[slot] >= 0);
        PROA_ASSERT(ids[slot] < experts);
        offsets[ids[slot] + 1]++;
    }
    for (int32_t e = 0; e < experts; e++) {
        next[e] = offsets[e];
        offsets[e + 1] += offsets[e];
    }
    for (int32_t slot = 0; slot < slots; slot++) {
        int32_t at = next[ids[slot]]++;
        order[at] = slot;
        row_index[at] = slot / top_k;
        place[slot] = at;
    }
}
