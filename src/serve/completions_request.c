/* completions_request.c - /v1/completions: a prompt as it stands, no template. */
#include "serve/request.h"

#include <string.h>

static const proa_field_refusal refusals[] = {
    {"suffix", "the model does not fill in the middle here"},
    {"prompt_embeds", "only text and token ids are"},
};

enum { DEFAULT_MAX_TOKENS = 16 }; /* OpenAI's */

static bool check_best_of(const proa_fields *fields, const proa_api_params *p)
{
    int32_t best_of = p->n;
    if (!proa_field_int32(fields, "best_of", 0, PROA_API_N_MAX, &best_of))
        return false;
    if (best_of == p->n)
        return true;
    return proa_api_error_set(
        fields->error, 400, "best_of", "unsupported_parameter",
        "best_of must be equal to n (%d), got %d: choosing among answers is not supported", p->n, best_of);
}

bool proa_completions_request_parse(proa_json *body, const proa_api_limits *limits,
                                    proa_api_request **request, proa_api_error *error)
{
    *request = NULL;
    proa_api_request *r = proa_api_request_begin(PROA_API_COMPLETIONS, body, error);
    if (r == NULL)
        return false;
    const proa_fields fields = {body, "", error};
    proa_api_params *p = &r->params;
    p->temperature = limits->temperature;
    p->top_p = limits->top_p;
    p->top_k = limits->top_k;
    p->max_tokens = DEFAULT_MAX_TOKENS;
    bool good = proa_api_check_model(&fields, limits) &&
                proa_api_parse_prompts(&fields, "prompt", limits, r) &&
                proa_field_int32(&fields, "max_tokens", 1, INT32_MAX, &p->max_tokens) &&
                proa_field_int32(&fields, "logprobs", 0, PROA_SAMPLE_MAX_TOP_LOGPROBS, &p->top_logprobs) &&
                proa_field_bool(&fields, "echo", &r->echo) &&
                proa_field_bool(&fields, "add_special_tokens", &r->add_special_tokens) &&
                proa_api_parse_stream(&fields, p) && proa_api_parse_sampling(&fields, limits, r) &&
                proa_api_check_choices(&fields, limits, r) && check_best_of(&fields, p) &&
                proa_api_check_response_format(&fields) &&
                proa_api_refuse(&fields, refusals, sizeof refusals / sizeof refusals[0]);
    if (good && r->echo && p->top_logprobs >= 0)
        good = proa_api_error_set(error, 400, "echo", "unsupported_parameter",
                                  "echo together with logprobs is not supported yet: it needs the log "
                                  "probabilities of the prompt");
    return proa_api_request_end(r, good, request, error);
}
