/* memory.h - how much memory there is for a model, and how `proa serve` divides it. */
#ifndef PROA_CMD_MEMORY_H
#define PROA_CMD_MEMORY_H

#include "engine/engine.h"

/* Bytes that this process may still take: MemAvailable, or less where a control group says so. 0: not known. */
uint64_t proa_memory_available(void);

typedef struct proa_memory_plan {
    uint64_t available_bytes;
    uint64_t weight_bytes;
    uint64_t exchange_bytes; /* buffers of the all-to-all with other ranks */
    uint64_t buffer_bytes;   /* of steps, where they are counted: on a GPU */
    uint64_t block_bytes;    /* of one KV block over all layers */
    const char *where;       /* the memory's name in messages: "memory", "GPU memory" */
    int32_t kv_tokens;       /* a multiple of 64 */
} proa_memory_plan;

/* Fills plan->kv_tokens from the other fields: `wanted` when over 0 (--max-total-tokens, rounded up to blocks), else what
 * fraction * available - weights - exchange - buffers holds, but not more than running_max requests of context_length fill. */
proa_status proa_memory_plan_kv(proa_memory_plan *plan, double fraction, int64_t wanted, int32_t running_max,
                                int32_t context_length, proa_error *err);

#endif
