/* stand_in.h - the fake model in the forward's place, for tests of the engine's thread. Its next token is a hash of all
 * rows read and of everything that sampling depends on. It fails at a step when told so, and within a step any
 * allocation is a failed assertion: tests that use it are linked with wrap_allocation. */
#ifndef PROA_TESTS_STAND_IN_H
#define PROA_TESTS_STAND_IN_H

#include "engine/engine_internal.h"
#include "fake_model.h"

enum { STAND_IN_VOCAB = 211, STAND_IN_EOS = 3, STAND_IN_ROWS_MAX = 64 /* with logits, in a step */ };

typedef struct stand_in {
    fake_model fake;
    uint64_t digests[STAND_IN_ROWS_MAX];
    float logits[1];
    int steps;
    int fail_at; /* the step that fails, from 1; 0: none */
    proa_status fail_with;
    int no_token_at; /* the step that draws no token */
    int guarded;
    pthread_mutex_t gate; /* a test that holds it holds the steps */
} stand_in;

/* An engine with this model; ends the test when it does not start. */
proa_engine *stand_in_start(stand_in *model, const proa_engine_options *options);
void stand_in_free(stand_in *model); /* after the engine has stopped */

/* The token for a digest and all that sampling depends on. */
int32_t stand_in_token(uint64_t digest, const proa_sample_params *params);

#endif
