/* request.h - the engine's own copy of a request: its tokens, what its sampling needs, when it ends.
 *
 * Made by the submitting thread (checks and allocates), then owned by the engine thread, which allocates nothing for
 * it any more: tokens and counts have room for the longest output.
 */
#ifndef PROA_ENGINE_REQUEST_H
#define PROA_ENGINE_REQUEST_H

#include "engine/engine.h"

typedef struct proa_request {
    uint64_t id;
    int32_t *tokens; /* prompt, then output */
    int32_t prompt_count;
    int32_t output_count;
    int32_t max_new_tokens; /* cut to what the context leaves */
    int32_t min_new_tokens;
    int32_t *ends; /* ids that end it, ascending: stop ids, and the model's unless ignore_eos */
    int32_t end_count;
    proa_logit_bias *bias;
    proa_sample_params params; /* all but position, counts and banned */
    int32_t credit;            /* at submit */
    proa_engine_sink sink;

    /* occurrences, kept when a penalty is on; `places` finds an id's: an open hash table of index + 1 */
    proa_token_count *counts;
    int32_t count_count;
    int32_t *places;
    uint32_t place_mask;
} proa_request;

typedef enum proa_request_end {
    PROA_REQUEST_GOES_ON,
    PROA_REQUEST_STOPS, /* by an id of `ends` */
    PROA_REQUEST_FULL,  /* max_new_tokens reached */
} proa_request_end;

/* Checks what the client asked against the model and the longest context served here, and copies it. */
proa_status proa_request_create(const proa_engine_request *asked, const proa_model_config *config,
                                int32_t context_length, proa_request **request, proa_error *err);
void proa_request_free(proa_request *request); /* accepts NULL */

/* What the sampler needs for the request's next token. Borrows from the request until the next change. */
void proa_request_sample_params(const proa_request *request, proa_sample_params *params);

/* Adds a token that was drawn. */
proa_request_end proa_request_append(proa_request *request, int32_t token);

#endif
