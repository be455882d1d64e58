/* bench_slice.h - for bench_slice.c: what each op of a step must at least do, bytes and operations, summed over the layers; the table of
 * --table. */
#ifndef PROA_CMD_BENCH_SLICE_H
#define PROA_CMD_BENCH_SLICE_H

#include "base/json.h"
#include "cmd/gpu_step.h"

#include <stdio.h>

typedef struct bench_slice_cost {
    double bytes;
    double fp8_flops;
    double bf16_flops;
} bench_slice_cost;

bench_slice_cost proa_bench_slice_cost(const proa_model_config *config, int32_t local_experts,
                                       proa_kv_cache kv_cache, const proa_gpu_step_shape *shape,
                                       proa_cuda_op op);

enum {
    BENCH_SLICE_BATCHES = 5,
    BENCH_SLICE_CONTEXTS = 4,
    BENCH_SLICE_PAIRS = BENCH_SLICE_BATCHES * BENCH_SLICE_CONTEXTS,
};

typedef enum bench_slice_state {
    BENCH_SLICE_NOT_ASKED, /* --shape names others */
    BENCH_SLICE_NO_ROOM,   /* not even for what a measurement takes */
    BENCH_SLICE_MEASURED,
} bench_slice_state;

/* A decode step of the table. */
typedef struct bench_slice_pair {
    proa_gpu_step_shape shape;
    bench_slice_state state;
    double us;
    uint64_t buffers, cache; /* bytes of a worker that does such steps: the cache of all layers */
} bench_slice_pair;

/* Bytes of the GPU, and of the weights on it. */
typedef struct bench_slice_room {
    uint64_t memory, weights;
} bench_slice_room;

/* All of them, none asked for; a row of the table after the other. */
void proa_bench_slice_pairs(bench_slice_pair pairs[BENCH_SLICE_PAIRS]);

/* With which pairs do not fit, below. */
void proa_bench_slice_table_print(FILE *out, const bench_slice_room *room,
                                  const bench_slice_pair pairs[BENCH_SLICE_PAIRS]);

/* Of the pairs that were asked for; one without room has no step_ms. The caller frees it. */
proa_json *proa_bench_slice_table_json(const bench_slice_room *room,
                                       const bench_slice_pair pairs[BENCH_SLICE_PAIRS]);

#endif
