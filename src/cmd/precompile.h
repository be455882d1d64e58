/* precompile.h - `proa precompile`: what a worker with these flags will run on its GPU, measured before it serves.
 *
 *   flags ──share_of──> a rank's share of the model ──steps──> steps of every size that it will make ──tune──> tiles ──> cache, report
 *           (pure)                                   (pure)                                   (GPU)
 */
#ifndef PROA_CMD_PRECOMPILE_H
#define PROA_CMD_PRECOMPILE_H

#include "base/json.h"
#include "base/option.h"
#include "cmd/gpu_step.h"
#include "cmd/graph_sizes.h"

/* What one rank of the worker has of the model and of its limits. */
typedef struct proa_precompile_share {
    bool decodes, prefills;
    int32_t ranks;
    int32_t heads;
    int32_t experts; /* of a layer, at this rank, copies included; 0: dense */
    int32_t running; /* requests at once */
    int32_t chunk;   /* prompt rows of a step */
    int32_t context;
    int32_t graph_count;
    int32_t graphs[PROA_GRAPH_SIZES_MAX]; /* rows of decode steps that have one, ascending */
} proa_precompile_share;

/* By the flags of a worker; errors as the worker's. */
proa_status proa_precompile_share_of(const proa_options *options, const proa_model_config *config,
                                     proa_precompile_share *share, proa_error *err);

enum {
    PROA_PRECOMPILE_STEPS_MAX = 256,
    PROA_PRECOMPILE_ROWS_MOST =
        16384, /* of a step that is measured: larger ones have waves enough for any tile */
    PROA_PRECOMPILE_KEYS_MOST = 32768,
};

/* Steps to measure, those with more rows first; returns how many. Decode steps of every graph's size and up to `running` rows; prompts of
 * 1, 2, 4, ... rows up to a step's most; prompts with longer and longer prefixes. */
int32_t proa_precompile_steps(const proa_precompile_share *share,
                              proa_gpu_step_shape steps[PROA_PRECOMPILE_STEPS_MAX]);

/* The most rows that a product of this shape may have and still run as many tiles (of experts: about as many): what is measured once holds up
 * to there. */
int32_t proa_precompile_class(const proa_cuda_shape *shape);

/* What was found for a product of an op. */
typedef struct proa_precompile_row {
    proa_cuda_op op;
    proa_cuda_choice choice; /* times are those of the whole op in one layer */
    proa_cuda_tile built_in;
} proa_precompile_row;

typedef struct proa_precompile_result {
    proa_precompile_row *rows;
    int32_t count, room;
    proa_cuda_tiles tiles; /* the same, to be kept */
} proa_precompile_result;

void proa_precompile_result_free(proa_precompile_result *result);

/* Measures every tile of every product of these steps. A progress bar where standard error is a terminal. */
proa_status proa_precompile_tune(proa_gpu *gpu, const proa_cuda_weights *weights,
                                 const proa_gpu_step_shape *steps, int32_t count,
                                 proa_precompile_result *result, proa_error *err);

/* The table for people, on standard output: a line for each run of numbers of rows that have one tile. */
void proa_precompile_print(const proa_model_config *config, const proa_precompile_result *result);
/* The same as JSON; a new reference. */
proa_json *proa_precompile_json(const proa_model_config *config, const proa_precompile_result *result);

/* The whole on a GPU; a program that was built without CUDA says so. */
proa_status proa_precompile_run(const proa_options *options, proa_error *err);

#endif
