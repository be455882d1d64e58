/* expert_load.h - records how many tokens each expert of each layer gets, step by step: what experts are placed by.
 *
 * With a window of n steps it keeps the last n and their sum; without one, the sum of all. Memory is taken at creation
 * alone: (n + 1) * layers * experts * 4 bytes for the window. Counts of a step are 32 bits, sums 64.
 *
 * Owner: the thread that steps; others may read once it has ended.
 */
#ifndef PROA_ENGINE_EXPERT_LOAD_H
#define PROA_ENGINE_EXPERT_LOAD_H

#include "base/buf.h"

#include <stdint.h>

typedef struct proa_expert_load proa_expert_load;

/* How a record is written, by the names of SGLang's recorder. */
typedef enum proa_expert_load_form {
    PROA_EXPERT_LOAD_STAT,     /* [layers][experts]: the sum */
    PROA_EXPERT_LOAD_PER_PASS, /* [steps][layers][experts]: the steps of the window, oldest first */
} proa_expert_load_form;

/* `window` steps, 0 for none. `layers` are all layers of the model. NULL when memory is out. */
proa_expert_load *proa_expert_load_create(int32_t layers, int32_t experts, int32_t window);
void proa_expert_load_free(proa_expert_load *load); /* accepts NULL */

/* Counts `count` choices of a router in a layer, any number of times a step. */
void proa_expert_load_record(proa_expert_load *load, int32_t layer, int32_t count, const int32_t *expert_ids);

/* What is recorded next belongs to another step. */
void proa_expert_load_end_step(proa_expert_load *load);

/* Steps that have ended, forgotten ones included. */
int64_t proa_expert_load_steps(const proa_expert_load *load);

/* Choices of layer and expert in the window (all without one), the step that has not ended included. */
int64_t proa_expert_load_count(const proa_expert_load *load, int32_t layer, int32_t expert);

/* Forgets everything. */
void proa_expert_load_reset(proa_expert_load *load);

/* Appends {"logical_count": ...} as --init-expert-location reads it. PER_PASS needs a window and writes ended steps alone. */
void proa_expert_load_write(const proa_expert_load *load, proa_expert_load_form form, proa_buf *out);

/* The same of sums that were made elsewhere, [layers, experts]. */
void proa_expert_load_write_sums(int32_t layers, int32_t experts, const uint64_t *sums, proa_buf *out);

#endif
