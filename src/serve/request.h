/* request.h - what a client asks for, checked: JSON in, plain structs out.
 *
 * One struct serves the three ways to ask (/v1/chat/completions, /v1/completions, /generate), since they differ in how the
 * prompt is given and in how the reply is written, not in what the engine does. Unknown fields are ignored, as OpenAI's
 * clients expect; a known field of a wrong type or range is an error that names it; a known field that would change the answer
 * and is not served is refused, never dropped.
 *
 * Pure: any thread may parse. Untrusted (law 9): numbers that cost something are checked before anything is sized by them.
 * A request owns its memory (proa_api_request_free).
 */
#ifndef PROA_SERVE_REQUEST_H
#define PROA_SERVE_REQUEST_H

#include "base/arena.h"
#include "base/json.h"
#include "op/sample/sample.h"
#include "serve/errors.h"
#include "serve/fields.h"

enum {
    PROA_API_N_MAX = 128,
    PROA_API_STOPS_MAX = 16,
    PROA_API_STOP_BYTES_MAX = 1024,
    PROA_API_STOP_IDS_MAX = 128,
    PROA_API_BIAS_MAX = 4096,
};

typedef enum proa_api { PROA_API_CHAT, PROA_API_COMPLETIONS, PROA_API_GENERATE } proa_api;

/* What the server allows, and its defaults. */
typedef struct proa_api_limits {
    const char *model_name;
    int32_t vocab_size;
    int32_t context_length;
    int32_t choices_max; /* prompts times n of one request */
    float temperature;   /* --sampling-defaults model: of generation_config.json; for the OpenAI endpoints */
    float top_p;
    int32_t top_k;
} proa_api_limits;

typedef struct proa_stop_string {
    const char *text;
    size_t length;
} proa_stop_string;

typedef struct proa_api_params {
    float temperature;
    float top_p;
    int32_t top_k; /* -1: off */
    float min_p;
    float repetition_penalty;
    float frequency_penalty;
    float presence_penalty;
    int32_t max_tokens; /* 0: what the context leaves */
    int32_t min_tokens;
    int32_t n;
    bool has_seed;
    uint64_t seed;
    bool ignore_eos;
    bool skip_special_tokens;
    bool include_stop; /* the stop string stays in the text */
    const proa_stop_string *stops;
    int32_t stop_count;
    const int32_t *stop_ids;
    int32_t stop_id_count;
    const proa_logit_bias *bias;
    int32_t bias_count;
    int32_t top_logprobs; /* -1: no log probabilities */
    bool stream;
    bool include_usage;    /* a last chunk with the usage */
    bool continuous_usage; /* and in every chunk */
} proa_api_params;

/* Text, or ids (ids != NULL). Borrowed from the request's JSON or arena. */
typedef struct proa_api_prompt {
    const char *text;
    size_t text_length;
    const int32_t *ids;
    int32_t id_count;
} proa_api_prompt;

typedef struct proa_api_request {
    proa_api api;
    proa_arena *arena;
    proa_json *body; /* dropped with proa_api_request_drop_body once the prompt is made */
    proa_api_params params;
    /* completions and generate */
    const proa_api_prompt *prompts;
    int32_t prompt_count;
    bool add_special_tokens; /* bos before a text prompt, when the tokenizer's configuration says so */
    bool echo;               /* completions: the prompt's text comes before the answer's */
    bool batch;              /* generate: the reply is a list */
    const char *rid;         /* generate: the client's name for the request; NULL: none */
    /* chat */
    proa_json *variables; /* tainted template variables: messages, tools, chat_template_kwargs */
    bool has_tools;
    bool add_generation_prompt;
    bool continue_final_message;
    bool separate_reasoning;
    bool thinking; /* chat_template_kwargs.thinking or .enable_thinking */
} proa_api_request;

/* Takes over `body` (also on failure). On failure *request is NULL. */
bool proa_chat_request_parse(proa_json *body, const proa_api_limits *limits, proa_api_request **request,
                             proa_api_error *error);
bool proa_completions_request_parse(proa_json *body, const proa_api_limits *limits,
                                    proa_api_request **request, proa_api_error *error);
bool proa_generate_request_parse(proa_json *body, const proa_api_limits *limits, proa_api_request **request,
                                 proa_api_error *error);
void proa_api_request_drop_body(proa_api_request *request);
void proa_api_request_free(proa_api_request *request); /* accepts NULL */

/* --- shared by the three parsers --- */

/* Checks that `body` (taken over) is an object and makes an empty request with its arena; NULL with an error. */
proa_api_request *proa_api_request_begin(proa_api api, proa_json *body, proa_api_error *error);
/* Hands the request out when `good`, else frees it; an error that nobody named was a lack of memory. Returns good. */
bool proa_api_request_end(proa_api_request *r, bool good, proa_api_request **request, proa_api_error *error);
/* Refuses these fields and those that no endpoint serves. */
bool proa_api_refuse(const proa_fields *fields, const proa_field_refusal *refusals, size_t count);
bool proa_api_check_response_format(const proa_fields *fields);
/* temperature ... logit_bias, n, seed, stop: under the names that OpenAI, vLLM and SGLang share. */
bool proa_api_parse_sampling(const proa_fields *fields, const proa_api_limits *limits,
                             proa_api_request *request);
bool proa_api_parse_stream(const proa_fields *fields, proa_api_params *params);
bool proa_api_parse_stops(const proa_fields *fields, proa_api_request *request);
/* 404 for a model that is not served. */
bool proa_api_check_model(const proa_fields *fields, const proa_api_limits *limits);
/* A string, a list of strings, a list of ids or a list of lists of ids. */
bool proa_api_parse_prompts(const proa_fields *fields, const char *name, const proa_api_limits *limits,
                            proa_api_request *request);
/* prompts * n within choices_max. */
bool proa_api_check_choices(const proa_fields *fields, const proa_api_limits *limits,
                            const proa_api_request *request);

#endif
