/* proof_oracle.c - see proof_oracle.h. */
#include "proof_oracle.h"

#include <stddef.h>

static const uint64_t golden = 0x9E3779B97F4A7C15;

static uint64_t mix(uint64_t a, uint64_t b)
{
    uint64_t sum = b + golden + (a << 6) + (a >> 2);
    uint64_t x = a ^ sum;
    x ^= x >> 32;
    x *= 0xD6E8FEB86659FD93;
    x ^= x >> 29;
    x *= 0xBF58476D1CE4E5B9;
    x ^= x >> 32;
    return x;
}

void proof_oracle_start(proof_oracle *oracle, uint64_t key)
{
    *oracle = (proof_oracle){.row = mix(key, 0), .fold = key};
}

void proof_oracle_feed(proof_oracle *oracle, int32_t token)
{
    oracle->row = mix(oracle->row, (uint64_t)token);
    oracle->fold ^= oracle->row;
    oracle->fold *= golden;
    oracle->count++;
}

int32_t proof_oracle_next(const proof_oracle *oracle, int32_t vocab_size, float *logprob)
{
    uint64_t last = (uint64_t)oracle->count - 1;
    if (logprob != NULL)
        *logprob = -(float)(mix(oracle->fold, last + (1ull << 32)) % 4096) / 256;
    return (int32_t)(mix(oracle->fold, last) % (uint64_t)vocab_size);
}

void proof_closed_form(uint64_t key, int32_t vocab_size, int32_t *tokens, int32_t prompt_count,
                       int32_t new_count)
{
    proof_oracle oracle;
    proof_oracle_start(&oracle, key);
    for (int32_t i = 0; i < prompt_count; i++)
        proof_oracle_feed(&oracle, tokens[i]);
    for (int32_t i = prompt_count; i < prompt_count + new_count; i++) {
        tokens[i] = proof_oracle_next(&oracle, vocab_size, NULL);
        proof_oracle_feed(&oracle, tokens[i]);
    }
}
