/* generate_request.c - /generate, SGLang's own way to ask: text or input_ids, sampling_params, defaults of its own. */
#include "serve/request.h"

#include <string.h>

static const proa_field_refusal refusals[] = {
    {"input_embeds", "only text and token ids are"}, {"image_data", "this model reads text alone"},
    {"audio_data", "this model reads text alone"},   {"video_data", "this model reads text alone"},
    {"token_ids_logprob", "use top_logprobs_num"},
};

enum { DEFAULT_MAX_NEW_TOKENS = 128 }; /* SGLang's */

static bool read_sampling(const proa_fields *fields, const proa_api_limits *limits, proa_api_request *r)
{
    proa_json *params = NULL;
    if (!proa_field_typed(fields, "sampling_params", PROA_JSON_OBJECT, &params))
        return false;
    const proa_fields inner = {params, "sampling_params.", fields->error};
    r->params.max_tokens = DEFAULT_MAX_NEW_TOKENS;
    return proa_field_int32(&inner, "max_new_tokens", 1, INT32_MAX, &r->params.max_tokens) &&
           proa_api_parse_sampling(&inner, limits, r) && proa_api_check_choices(&inner, limits, r) &&
           proa_api_refuse(&inner, NULL, 0);
}

static bool read_logprobs(const proa_fields *fields, proa_api_params *p)
{
    bool wanted = false;
    int32_t top = 0, start = -1;
    if (!proa_field_bool(fields, "return_logprob", &wanted) ||
        !proa_field_int32(fields, "top_logprobs_num", 0, PROA_SAMPLE_MAX_TOP_LOGPROBS, &top) ||
        !proa_field_int32(fields, "logprob_start_len", -1, INT32_MAX, &start))
        return false;
    if (wanted && start >= 0)
        return proa_api_error_set(
            fields->error, 400, "logprob_start_len", "unsupported_parameter",
            "logprob_start_len must be -1: log probabilities of the prompt are not served yet");
    p->top_logprobs = wanted ? top : -1;
    return true;
}

static bool read_prompts(const proa_fields *fields, const proa_api_limits *limits, proa_api_request *r)
{
    bool text = proa_field(fields, "text") != NULL, ids = proa_field(fields, "input_ids") != NULL;
    if (text == ids)
        return proa_api_error_field(fields->error, "text", "give either text or input_ids");
    return proa_api_parse_prompts(fields, text ? "text" : "input_ids", limits, r);
}

bool proa_generate_request_parse(proa_json *body, const proa_api_limits *limits, proa_api_request **request,
                                 proa_api_error *error)
{
    *request = NULL;
    proa_api_request *r = proa_api_request_begin(PROA_API_GENERATE, body, error);
    if (r == NULL)
        return false;
    const proa_fields fields = {body, "", error};
    bool good = read_prompts(&fields, limits, r) && read_sampling(&fields, limits, r) &&
                read_logprobs(&fields, &r->params) && proa_field_bool(&fields, "stream", &r->params.stream) &&
                proa_api_refuse(&fields, refusals, sizeof refusals / sizeof refusals[0]);
    const char *rid = NULL;
    if (good && proa_json_is(proa_json_get(body, "rid"), PROA_JSON_STRING))
        good = proa_field_string(&fields, "rid", &rid);
    if (good && rid != NULL)
        r->rid = proa_arena_string(r->arena, rid, strlen(rid));
    return proa_api_request_end(r, good, request, error);
}
