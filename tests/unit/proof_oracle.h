/* proof_oracle.h - the closed form of engine/proof.h, by tokens alone: what a request must say next. Written from the header's
 * formulas and not from the engine's code. */
#ifndef PROA_TESTS_PROOF_ORACLE_H
#define PROA_TESTS_PROOF_ORACLE_H

#include <stdint.h>

typedef struct proof_oracle {
    uint64_t row;
    uint64_t fold;
    int32_t count; /* tokens fed */
} proof_oracle;

void proof_oracle_start(proof_oracle *oracle, uint64_t key);
void proof_oracle_feed(proof_oracle *oracle, int32_t token);

/* After at least one token was fed. `logprob` may be NULL. */
int32_t proof_oracle_next(const proof_oracle *oracle, int32_t vocab_size, float *logprob);

/* tokens [prompt_count + new_count]: the prompt is given, what follows is filled in. */
void proof_closed_form(uint64_t key, int32_t vocab_size, int32_t *tokens, int32_t prompt_count,
                       int32_t new_count);

#endif
