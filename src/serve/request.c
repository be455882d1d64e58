/* request.c - what the three request parsers share: life of a request, sampling fields, prompts. */
#include "serve/request.h"

#include <float.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The arena holds what is copied out of the JSON: ids of prompts above all. A body of 32 MiB cannot hold more ids than
 * 16 Mi, 64 MiB of them. */
static const size_t arena_bytes_max = (size_t)96 << 20;

/* Below it, dividing by the temperature would overflow, and the distribution is greedy's anyway. */
static const float temperature_least = 1e-6f;

static bool out_of_memory(const proa_fields *fields)
{
    return proa_api_error_set(fields->error, 503, NULL, "overloaded", "out of memory for this request");
}

proa_api_request *proa_api_request_begin(proa_api api, proa_json *body, proa_api_error *error)
{
    if (!proa_json_is(body, PROA_JSON_OBJECT)) {
        proa_api_error_set(error, 400, NULL, NULL, "the request body must be a JSON object, got %s",
                           body != NULL ? proa_json_type_name(proa_json_type_of(body)) : "nothing");
        proa_json_free(body);
        return NULL;
    }
    proa_api_request *request = calloc(1, sizeof *request);
    proa_arena *arena = request != NULL ? proa_arena_create(arena_bytes_max) : NULL;
    if (arena == NULL) {
        proa_api_error_set(error, 503, NULL, "overloaded", "out of memory for this request");
        proa_json_free(body);
        free(request);
        return NULL;
    }
    request->api = api;
    request->arena = arena;
    request->body = body;
    request->add_special_tokens = true;
    request->params = (proa_api_params){
        .temperature = 1,
        .top_p = 1,
        .top_k = -1,
        .repetition_penalty = 1,
        .n = 1,
        .skip_special_tokens = true,
        .top_logprobs = -1,
    };
    return request;
}

void proa_api_request_drop_body(proa_api_request *request)
{
    proa_json_free(request->body);
    proa_json_free(request->variables);
    request->body = NULL;
    request->variables = NULL;
    request->prompts = NULL;
}

void proa_api_request_free(proa_api_request *request)
{
    if (request == NULL)
        return;
    proa_api_request_drop_body(request);
    proa_arena_free(request->arena);
    free(request);
}

bool proa_api_request_end(proa_api_request *r, bool good, proa_api_request **request, proa_api_error *error)
{
    if (!good && error->status == 0)
        proa_api_error_set(error, 503, NULL, "overloaded", "out of memory for this request");
    if (!good)
        proa_api_request_free(r);
    *request = good ? r : NULL;
    return good;
}

/* --- what is known and not served --- */

static const proa_field_refusal refused_everywhere[] = {
    {"regex", "constrained output is not served yet"},
    {"ebnf", "constrained output is not served yet"},
    {"json_schema", "constrained output is not served yet"},
    {"structural_tag", "constrained output is not served yet"},
    {"structured_outputs", "constrained output is not served yet"},
    {"guided_json", "constrained output is not served yet"},
    {"guided_regex", "constrained output is not served yet"},
    {"guided_choice", "constrained output is not served yet"},
    {"guided_grammar", "constrained output is not served yet"},
    {"stop_regex", "use stop"},
    {"allowed_token_ids", "use logit_bias"},
    {"bad_words", "use logit_bias"},
    {"prompt_logprobs", "log probabilities of the prompt are not served yet"},
    {"logprob_token_ids", "use top_logprobs"},
    {"use_beam_search", "beam search is not served"},
    {"custom_logit_processor", "no code is taken from requests"},
    {"lora_path", "adapters are not served"},
    {"session_params", "sessions are not served"},
    {"return_hidden_states", "hidden states are not served"},
    {"kv_transfer_params", "this is for the cluster's inside"},
    {"bootstrap_host", "this is for the cluster's inside"},
    {"bootstrap_port", "this is for the cluster's inside"},
    {"bootstrap_room", "this is for the cluster's inside"},
    {"bootstrap_pair_key", "this is for the cluster's inside"},
    {"disagg_prefill_dp_rank", "this is for the cluster's inside"},
    {"routed_dp_rank", "this is for the cluster's inside"},
    {"data_parallel_rank", "this is for the cluster's inside"},
};

bool proa_api_refuse(const proa_fields *fields, const proa_field_refusal *refusals, size_t count)
{
    return proa_fields_refuse(fields, refusals, count) &&
           proa_fields_refuse(fields, refused_everywhere,
                              sizeof refused_everywhere / sizeof refused_everywhere[0]);
}

bool proa_api_check_response_format(const proa_fields *fields)
{
    proa_json *format = NULL;
    if (!proa_field_typed(fields, "response_format", PROA_JSON_OBJECT, &format))
        return false;
    const char *type = format != NULL ? proa_json_string(proa_json_get(format, "type"), "") : "text";
    if (strcmp(type, "text") == 0)
        return true;
    return proa_api_error_set(fields->error, 400, "response_format", "unsupported_parameter",
                              "response_format of type \"%.40s\" is not supported yet: only \"text\" is",
                              type);
}

/* --- stops --- */

static bool parse_stop_string(const proa_fields *fields, const proa_json *value, proa_api_request *request,
                              proa_stop_string *stop)
{
    const char *text = proa_json_string(value, NULL);
    size_t length = proa_json_string_length(value);
    if (text == NULL)
        return proa_field_wrong(fields, "stop", "a string or a list of strings", value);
    if (length == 0 || length > PROA_API_STOP_BYTES_MAX)
        return proa_api_error_field(fields->error, "stop", "a stop string must have 1 to %d bytes, got %zu",
                                    PROA_API_STOP_BYTES_MAX, length);
    stop->text = proa_arena_string(request->arena, text, length);
    stop->length = length;
    return stop->text != NULL || out_of_memory(fields);
}

bool proa_api_parse_stops(const proa_fields *fields, proa_api_request *request)
{
    const proa_json *value = proa_field(fields, "stop");
    if (value == NULL)
        return true;
    bool list = proa_json_is(value, PROA_JSON_ARRAY);
    size_t count = list ? proa_json_size(value) : 1;
    if (count > PROA_API_STOPS_MAX)
        return proa_api_error_field(fields->error, "stop", "stop has %zu strings, at most %d are supported",
                                    count, PROA_API_STOPS_MAX);
    proa_stop_string *stops = proa_arena_array(request->arena, count, sizeof *stops);
    if (stops == NULL)
        return out_of_memory(fields);
    for (size_t i = 0; i < count; i++) {
        if (!parse_stop_string(fields, list ? proa_json_at(value, i) : value, request, &stops[i]))
            return false;
    }
    request->params.stops = stops;
    request->params.stop_count = (int32_t)count;
    return true;
}

/* --- token ids --- */

static bool parse_id(const proa_fields *fields, const char *name, const proa_json *value, int32_t vocab_size,
                     int32_t *id)
{
    int64_t number = proa_json_int(value, -1);
    if (number < 0 || number >= vocab_size) {
        char wanted[80];
        snprintf(wanted, sizeof wanted, "made of token ids from 0 to %d", vocab_size - 1);
        return proa_field_wrong(fields, name, wanted, value);
    }
    *id = (int32_t)number;
    return true;
}

static bool parse_ids(const proa_fields *fields, const char *name, const proa_json *list, int32_t vocab_size,
                      proa_arena *arena, const int32_t **ids_out)
{
    size_t count = proa_json_size(list);
    int32_t *ids = proa_arena_array(arena, count, sizeof *ids);
    if (ids == NULL)
        return out_of_memory(fields);
    for (size_t i = 0; i < count; i++) {
        if (!parse_id(fields, name, proa_json_at(list, i), vocab_size, &ids[i]))
            return false;
    }
    *ids_out = ids;
    return true;
}

static bool parse_stop_ids(const proa_fields *fields, const proa_api_limits *limits,
                           proa_api_request *request)
{
    proa_json *list = NULL;
    if (!proa_field_typed(fields, "stop_token_ids", PROA_JSON_ARRAY, &list))
        return false;
    if (list == NULL)
        return true;
    size_t count = proa_json_size(list);
    if (count > PROA_API_STOP_IDS_MAX)
        return proa_api_error_field(fields->error, "stop_token_ids",
                                    "stop_token_ids has %zu ids, at most %d are supported", count,
                                    PROA_API_STOP_IDS_MAX);
    request->params.stop_id_count = (int32_t)count;
    return parse_ids(fields, "stop_token_ids", list, limits->vocab_size, request->arena,
                     &request->params.stop_ids);
}

/* Keys are ids in decimal without leading zeros, so that an id cannot come twice. */
static bool parse_bias_key(const char *key, int32_t vocab_size, int32_t *id)
{
    size_t digits = strspn(key, "0123456789");
    if (digits == 0 || digits > 9 || key[digits] != 0 || (key[0] == '0' && digits > 1))
        return false;
    *id = (int32_t)strtol(key, NULL, 10);
    return *id < vocab_size;
}

static bool parse_bias(const proa_fields *fields, const proa_api_limits *limits, proa_api_request *request)
{
    proa_json *map = NULL;
    if (!proa_field_typed(fields, "logit_bias", PROA_JSON_OBJECT, &map))
        return false;
    size_t count = proa_json_size(map);
    if (count == 0)
        return true;
    if (count > PROA_API_BIAS_MAX)
        return proa_api_error_field(fields->error, "logit_bias",
                                    "logit_bias has %zu entries, at most %d are supported", count,
                                    PROA_API_BIAS_MAX);
    proa_logit_bias *bias = proa_arena_array(request->arena, count, sizeof *bias);
    if (bias == NULL)
        return out_of_memory(fields);
    size_t i = 0;
    for (void *it = proa_json_first(map); it != NULL; it = proa_json_next(map, it), i++) {
        double value = proa_json_real(proa_json_value(it), 1e9);
        if (!parse_bias_key(proa_json_key(it), limits->vocab_size, &bias[i].id))
            return proa_api_error_field(
                fields->error, "logit_bias",
                "logit_bias has the key \"%.40s\": keys must be token ids from 0 to %d", proa_json_key(it),
                limits->vocab_size - 1);
        if (!(value >= -100 && value <= 100))
            return proa_api_error_field(fields->error, "logit_bias",
                                        "logit_bias of token %d must be a number from -100 to 100",
                                        bias[i].id);
        bias[i].bias = (float)value;
    }
    request->params.bias = bias;
    request->params.bias_count = (int32_t)count;
    return true;
}

/* --- numbers --- */

static bool parse_seed(const proa_fields *fields, const char *name, proa_api_params *params)
{
    int64_t seed = 0;
    if (!proa_field_int(fields, name, INT64_MIN, INT64_MAX, &seed))
        return false;
    if (proa_field(fields, name) != NULL) {
        params->has_seed = true;
        params->seed = (uint64_t)seed;
    }
    return true;
}

bool proa_api_parse_sampling(const proa_fields *fields, const proa_api_limits *limits,
                             proa_api_request *request)
{
    proa_api_params *p = &request->params;
    bool generate = request->api == PROA_API_GENERATE;
    const char *min_tokens = generate ? "min_new_tokens" : "min_tokens";
    bool no_stop_trim = false;
    bool good = proa_field_real(fields, "temperature", 0, generate ? 100 : 2, &p->temperature) &&
                proa_field_real(fields, "top_p", 0, 1, &p->top_p) &&
                proa_field_int32(fields, "top_k", -1, INT32_MAX, &p->top_k) &&
                proa_field_real(fields, "min_p", 0, 1, &p->min_p) &&
                proa_field_real(fields, "repetition_penalty", 0, 2, &p->repetition_penalty) &&
                proa_field_real(fields, "frequency_penalty", -2, 2, &p->frequency_penalty) &&
                proa_field_real(fields, "presence_penalty", -2, 2, &p->presence_penalty) &&
                proa_field_int32(fields, min_tokens, 0, INT32_MAX, &p->min_tokens) &&
                proa_field_int32(fields, "n", 1, PROA_API_N_MAX, &p->n) &&
                parse_seed(fields, generate ? "sampling_seed" : "seed", p) &&
                proa_field_bool(fields, "ignore_eos", &p->ignore_eos) &&
                proa_field_bool(fields, "skip_special_tokens", &p->skip_special_tokens) &&
                proa_field_bool(fields, "include_stop_str_in_output", &p->include_stop) &&
                proa_field_bool(fields, "no_stop_trim", &no_stop_trim) &&
                proa_api_parse_stops(fields, request) && parse_stop_ids(fields, limits, request) &&
                parse_bias(fields, limits, request);
    if (!good)
        return false;
    if (p->repetition_penalty <= 0)
        return proa_field_wrong(fields, "repetition_penalty", "over 0 and at most 2",
                                proa_field(fields, "repetition_penalty"));
    if (p->max_tokens > 0 && p->min_tokens > p->max_tokens)
        return proa_api_error_field(fields->error, min_tokens,
                                    "%s is %d, more than the %d tokens that may come", min_tokens,
                                    p->min_tokens, p->max_tokens);
    p->include_stop = p->include_stop || no_stop_trim;
    if (p->temperature < temperature_least)
        p->temperature = 0;
    if (p->top_p < FLT_MIN)
        p->top_p = FLT_MIN; /* 0 means "as few as can be": one token */
    if (p->top_k == 0)
        p->top_k = -1;
    return true;
}

bool proa_api_parse_stream(const proa_fields *fields, proa_api_params *params)
{
    proa_json *options = NULL;
    if (!proa_field_bool(fields, "stream", &params->stream) ||
        !proa_field_typed(fields, "stream_options", PROA_JSON_OBJECT, &options))
        return false;
    const proa_fields inner = {options, "stream_options.", fields->error};
    return proa_field_bool(&inner, "include_usage", &params->include_usage) &&
           proa_field_bool(&inner, "continuous_usage_stats", &params->continuous_usage);
}

bool proa_api_check_model(const proa_fields *fields, const proa_api_limits *limits)
{
    const char *model = "default"; /* SGLang's name for "the one that is served" */
    if (!proa_field_string(fields, "model", &model))
        return false;
    if (*model == 0 || strcmp(model, "default") == 0 || strcmp(model, limits->model_name) == 0)
        return true;
    return proa_api_error_set(fields->error, 404, "model", "model_not_found",
                              "the model \"%.200s\" does not exist here; this server has \"%.200s\"", model,
                              limits->model_name);
}

/* --- prompts --- */

static bool parse_prompt(const proa_fields *fields, const char *name, const proa_json *value,
                         const proa_api_limits *limits, proa_arena *arena, proa_api_prompt *prompt)
{
    if (proa_json_is(value, PROA_JSON_STRING)) {
        prompt->text = proa_json_string(value, "");
        prompt->text_length = proa_json_string_length(value);
        return true;
    }
    if (!proa_json_is(value, PROA_JSON_ARRAY))
        return proa_field_wrong(fields, name, "a string, a list of token ids, or a list of either", value);
    size_t count = proa_json_size(value);
    if (count == 0)
        return proa_api_error_field(fields->error, name, "%s has an empty list of token ids", name);
    prompt->id_count = (int32_t)count; /* a body has far fewer than 2^31 */
    return parse_ids(fields, name, value, limits->vocab_size, arena, &prompt->ids);
}

bool proa_api_parse_prompts(const proa_fields *fields, const char *name, const proa_api_limits *limits,
                            proa_api_request *request)
{
    const proa_json *value = proa_field(fields, name);
    if (value == NULL)
        return proa_api_error_field(fields->error, name, "%s is missing", name);
    bool list = proa_json_is(value, PROA_JSON_ARRAY);
    if (list && proa_json_size(value) == 0)
        return proa_api_error_field(fields->error, name, "%s is an empty list", name);
    bool many = list && !proa_json_is(proa_json_at(value, 0), PROA_JSON_INT);
    size_t count = many ? proa_json_size(value) : 1;
    if (count > (size_t)limits->choices_max)
        return proa_api_error_field(fields->error, name, "%s has %zu prompts, at most %d are allowed", name,
                                    count, limits->choices_max);
    proa_api_prompt *prompts = proa_arena_array(request->arena, count, sizeof *prompts);
    if (prompts == NULL)
        return out_of_memory(fields);
    for (size_t i = 0; i < count; i++) {
        if (!parse_prompt(fields, name, many ? proa_json_at(value, i) : value, limits, request->arena,
                          &prompts[i]))
            return false;
    }
    request->batch = many;
    request->prompts = prompts;
    request->prompt_count = (int32_t)count;
    return true;
}

bool proa_api_check_choices(const proa_fields *fields, const proa_api_limits *limits,
                            const proa_api_request *request)
{
    if ((int64_t)request->prompt_count * request->params.n <= limits->choices_max)
        return true;
    return proa_api_error_field(fields->error, "n",
                                "%d prompts times n = %d are more than the %d answers that one "
                                "request may ask for",
                                request->prompt_count, request->params.n, limits->choices_max);
}
