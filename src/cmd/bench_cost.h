/* bench_cost.h - what a step of the layer graph must at least do: bytes that come from memory, operations. */
#ifndef PROA_CMD_BENCH_COST_H
#define PROA_CMD_BENCH_COST_H

#include "model/forward.h"

typedef struct proa_bench_cost {
    double bytes; /* weights that the step touches, once; embeddings of its rows; its sequences' KV, once */
    double flops; /* of matrix products and attention; a multiply-add counts 2 */
} proa_bench_cost;

/* `experts`: how many routed experts the step's rows have chosen, summed over the layers. */
proa_bench_cost proa_bench_step_cost(const proa_model_config *config, const proa_weights *weights,
                                     proa_precision precision, proa_kv_cache kv_cache, const proa_step *step,
                                     double experts);

#endif
