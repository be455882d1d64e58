/* fake_model.h - a model that proves its KV: a row of its cache is a hash of all tokens and forms up to it, its next
 * token a hash of all rows read through the block list. A stale, lost, foreign or wrongly formed row changes what it
 * says, and the oracle, which knows tokens and no blocks, says what it should. */
#ifndef PROA_TESTS_FAKE_MODEL_H
#define PROA_TESTS_FAKE_MODEL_H

#include "engine/scheduler.h"
#include "model/forward.h"

typedef struct fake_model {
    int32_t blocks;
    int32_t vocab;
    uint64_t *rows; /* [blocks][64] */
} fake_model;

/* Allocates; aborts when memory is out. The rows start as noise. */
void fake_model_init(fake_model *model, int32_t blocks, int32_t vocab);
void fake_model_free(fake_model *model);

void fake_model_copy(fake_model *model, const proa_kv_copy *copies, int32_t count);

/* digests [step->logit_count]: what is read for each logit row. */
void fake_model_step(fake_model *model, const proa_step *step, uint64_t *digests);

/* A plan's copies, then its segments; `tokens` [slots] has each request's tokens. digests [plan->segment_count] has what is
 * read for the segments with logits. At most FAKE_PLAN_ROWS rows in FAKE_PLAN_SEGMENTS segments. */
enum { FAKE_PLAN_ROWS = 16384, FAKE_PLAN_SEGMENTS = 64 };
void fake_model_execute(fake_model *model, const proa_schedule_plan *plan, const int32_t *const *tokens,
                        uint64_t *digests);

/* The row of a position in the sequence that has these blocks. */
uint64_t *fake_model_row(fake_model *model, const int32_t *blocks, int32_t position);

/* The greedy token that a digest stands for. */
int32_t fake_model_token(const fake_model *model, uint64_t digest);

/* The digest that the fake must arrive at for these tokens, of which the first prompt_count are the prompt. */
typedef struct fake_oracle {
    uint64_t row;
    uint64_t digest;
    int32_t count;
} fake_oracle;
void fake_oracle_feed(fake_oracle *oracle, int32_t token, bool absorbed); /* from {0} */

uint64_t fake_mix(uint64_t a, uint64_t b);

#endif
