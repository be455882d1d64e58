/* cuda.h - sample.h on a GPU: logits stay there, parameters go there in one copy, results come back in one.
 *
 *   pack (pack.h) ── upload ──> kernel: a cluster of 8 blocks a row ── download ──> results, after the caller's proa_gpu_sync
 *
 * The contract is sample.h's. Edits, greedy tokens, top_k, alternatives and their order are ref's exactly; weights are float32, summed
 * in integers or in an order that the row and the vocabulary alone decide (law 2), so that a token may differ from ref's where a sum
 * comes within about 1e-6 of top_p, of the draw, or a weight of min_p; a reported log probability differs as little. A token that
 * weighs less than 2^-40 of the greatest in its bucket (cuda_select.cuh) may count as weightless.
 *
 * Bound: a row's bytes, read once; everything else happens in the blocks' shared memory. 128 rows of 129,280: 66 MB, 14 us at 4.8 TB/s.
 * Counts for penalties travel anew with each run, 8 bytes a different token: 128 rows of 4,000 are 4 MB, about 80 us of PCIe 5.
 */
#ifndef PROA_OP_SAMPLE_CUDA_H
#define PROA_OP_SAMPLE_CUDA_H

#include "op/cuda/gpu.h"
#include "op/sample/sample.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Owns the blocks on both sides. One owner thread, the GPU's. */
typedef struct proa_cuda_sampler proa_cuda_sampler;

typedef struct proa_cuda_sample_args {
    int32_t rows;                     /* at most rows_max */
    const float *logits;              /* on the GPU: [any, vocab], aligned to 16 bytes; only read */
    const proa_sample_params *params; /* [rows]; read during the call */
    const int32_t *row_of; /* [rows] row of logits of each; NULL: its own index. Read during the call */
} proa_cuda_sample_args;

/* Fails where the vocabulary is too large for the shared memory of 8 blocks: over about 440,000. */
proa_status proa_cuda_sampler_create(proa_gpu *gpu, int32_t rows_max, int32_t vocab,
                                     proa_cuda_sampler **sampler, proa_error *err);
void proa_cuda_sampler_free(proa_cuda_sampler *sampler); /* accepts NULL; after proa_gpu_sync */

/* Queues all; not before the run before it is over (proa_gpu_sync), nor while a graph is recorded. There is room for the biases, counts and
 * bans of one row that has every id in each, and 8,192 more, for ids that come again; a row with more still is PROA_ERR_TOO_LONG. Where
 * those of all rows do not fit together, rows go in several rounds, and the call waits for the GPU between them. */
proa_status proa_cuda_sampler_run(proa_cuda_sampler *sampler, const proa_cuda_sample_args *args,
                                  proa_error *err);

/* [rows] of the last run, after proa_gpu_sync; until the next run. */
const proa_sample_result *proa_cuda_sampler_results(const proa_cuda_sampler *sampler);

#ifdef __cplusplus
}
#endif

#endif
