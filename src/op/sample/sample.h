/* sample.h - from logits to a token and its log probabilities, one row a request.
 *
 * Order: raw logits -> log probabilities reported to the client (log_softmax of the raw logits) -> logit_bias ->
 * repetition penalty (HF: over prompt and output; positive logits divided, negative multiplied) -> frequency and
 * presence penalties (OpenAI: over output) -> banned ids (min_tokens) -> greedy when temperature is 0, else
 * temperature -> softmax -> top_k -> top_p (smallest set whose sum reaches top_p; at least one token) -> min_p
 * (probability at least min_p * the largest) -> one draw u = proa_random_uniform(seed, position) by inverse CDF
 * over the kept tokens in descending order of probability, ties to the lower id.
 * Probabilities are those of the whole softmax throughout: top_p is not measured against what top_k has left
 * (SGLang's "joint" filter). Descending order of probability means descending order of logit.
 * Greedy ties go to the lower id. Every sum has a fixed order (law 2); a NaN logit counts as -inf; a row of nothing
 * but -inf or NaN gives token -1 (log probability -inf); +inf counts as the largest float.
 * Ids of bias, counts and banned are checked by the caller (0 <= id < vocab).
 */
#ifndef PROA_OP_SAMPLE_SAMPLE_H
#define PROA_OP_SAMPLE_SAMPLE_H

#include "op/tensor.h"

enum { PROA_SAMPLE_MAX_TOP_LOGPROBS = 20 };

/* One (id, value) of logit_bias. */
typedef struct proa_logit_bias {
    int32_t id;
    float bias;
} proa_logit_bias;

/* How often a token has occurred, for the penalties; each id at most once. */
typedef struct proa_token_count {
    int32_t id;
    int32_t prompt; /* occurrences in the prompt */
    int32_t output; /* occurrences in the output so far */
} proa_token_count;

typedef struct proa_sample_params {
    float temperature;        /* 0: greedy */
    int32_t top_k;            /* <= 0: off */
    float top_p;              /* (0, 1]; 1: off */
    float min_p;              /* [0, 1]; 0: off */
    float repetition_penalty; /* > 0; 1: off */
    float frequency_penalty;  /* 0: off */
    float presence_penalty;   /* 0: off */
    uint64_t seed;
    int64_t position; /* of the token to be drawn */
    const proa_logit_bias *bias;
    int32_t bias_count;
    const proa_token_count *counts; /* only needed when a penalty is on */
    int32_t count_count;
    const int32_t *banned;
    int32_t banned_count;
    int32_t top_logprobs; /* -1: no log probabilities at all; 0 .. 20: how many alternatives */
} proa_sample_params;

typedef struct proa_sample_result {
    int32_t token;
    float logprob; /* natural, of the raw logits */
    int32_t top_count;
    int32_t top_ids[PROA_SAMPLE_MAX_TOP_LOGPROBS];
    float top_logprobs[PROA_SAMPLE_MAX_TOP_LOGPROBS]; /* descending */
} proa_sample_result;

typedef struct proa_sample_args {
    int32_t rows;
    int32_t vocab;
    float *logits;                    /* [rows, vocab]; overwritten */
    const proa_sample_params *params; /* [rows] */
    proa_sample_result *results;      /* [rows] */
} proa_sample_args;

void proa_sample_ref(const proa_host *host, const proa_sample_args *args);
void proa_sample_cpu(const proa_host *host, const proa_sample_args *args);
size_t proa_sample_scratch_bytes(const proa_host *host, int32_t rows, int32_t vocab);

#endif
