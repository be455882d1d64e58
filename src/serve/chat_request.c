/* chat_request.c - /v1/chat/completions: messages, tools and template variables.
 *
 * Messages reach the template as the client sent them, with these changes: content given as parts is joined with one space
 * (as SGLang does for templates that want text), an absent content becomes null, the role "developer" becomes "system",
 * tool call arguments given as an object become their JSON text. Everything under `variables` is the user's: special
 * tokens in it stay text.
 */
#include "serve/request.h"

#include <stdio.h>
#include <string.h>

static const proa_field_refusal refusals[] = {
    {"functions", "use tools"},
    {"function_call", "use tool_choice"},
    {"audio", "this server makes text alone"},
    {"prediction", "there is no predicted output here"},
    {"web_search_options", "there is no web search here"},
    {"chat_template", "no template is taken from requests: start the server with --chat-template"},
    {"documents", "put them into a message"},
    {"input_ids", "use /v1/completions or /generate"},
};

static bool no_memory(const proa_fields *fields)
{
    return proa_api_error_set(fields->error, 503, NULL, "overloaded", "out of memory for this request");
}

/* --- content --- */

/* The text of one part; parts that are not text are refused with what they are. */
static bool append_part(const proa_fields *fields, const proa_json *part, proa_buf *text)
{
    const char *type = proa_json_string(proa_json_get(part, "type"), NULL);
    if (type == NULL)
        return proa_field_wrong(fields, "content",
                                "a string or a list of {\"type\": \"text\", \"text\": ...}", part);
    bool refusal = strcmp(type, "refusal") == 0;
    if (!refusal && strcmp(type, "text") != 0)
        return proa_api_error_set(fields->error, 400, "messages", "unsupported_content",
                                  "%scontent has a part of type \"%.40s\": this model reads text alone",
                                  fields->prefix, type);
    const proa_json *value = proa_json_get(part, type);
    if (!proa_json_is(value, PROA_JSON_STRING))
        return proa_api_error_field(fields->error, "messages", "%scontent has a part without \"%s\"",
                                    fields->prefix, type);
    if (text->length > 0)
        proa_buf_append_char(text, ' ');
    proa_buf_append(text, proa_json_string(value, ""), proa_json_string_length(value));
    return true;
}

/* A new reference to what the template gets as content, or NULL with an error. */
static proa_json *read_content(const proa_fields *fields, const char *role)
{
    proa_json *value = proa_field(fields, "content");
    if (value == NULL) {
        if (strcmp(role, "assistant") == 0)
            return proa_json_new_null();
        proa_api_error_field(fields->error, "messages", "%scontent is missing", fields->prefix);
        return NULL;
    }
    if (proa_json_is(value, PROA_JSON_STRING))
        return proa_json_ref(value);
    if (!proa_json_is(value, PROA_JSON_ARRAY)) {
        proa_field_wrong(fields, "content", "a string or a list of parts", value);
        return NULL;
    }
    proa_buf text = {0};
    bool good = true;
    for (size_t i = 0; good && i < proa_json_size(value); i++)
        good = append_part(fields, proa_json_at(value, i), &text);
    proa_json *joined = good ? proa_json_new_string(proa_buf_text(&text), text.length) : NULL;
    if (good && joined == NULL)
        no_memory(fields);
    proa_buf_free(&text);
    return joined;
}

/* --- tool calls in the history --- */

static proa_json *copy_object(const proa_json *object)
{
    proa_json *copy = proa_json_new_object();
    for (void *it = proa_json_first(object); it != NULL; it = proa_json_next(object, it)) {
        if (!proa_json_set(copy, proa_json_key(it), proa_json_ref(proa_json_value(it)))) {
            proa_json_free(copy);
            return NULL;
        }
    }
    return copy;
}

/* One call, its arguments as text. */
static proa_json *read_tool_call(const proa_fields *fields, const proa_json *call)
{
    const proa_json *function = proa_json_get(call, "function");
    const proa_json *arguments = proa_json_get(function, "arguments");
    if (!proa_json_is(proa_json_get(function, "name"), PROA_JSON_STRING) ||
        (!proa_json_is(arguments, PROA_JSON_STRING) && !proa_json_is(arguments, PROA_JSON_OBJECT))) {
        proa_api_error_field(fields->error, "messages",
                             "%stool_calls must have function.name and function.arguments (a string)",
                             fields->prefix);
        return NULL;
    }
    proa_json *call_copy = copy_object(call), *function_copy = copy_object(function);
    bool good = call_copy != NULL && function_copy != NULL;
    if (good && proa_json_is(arguments, PROA_JSON_OBJECT)) {
        proa_buf text = {0};
        proa_json_write(arguments, 0, &text);
        good = proa_json_set(function_copy, "arguments",
                             proa_json_new_string(proa_buf_text(&text), text.length));
        proa_buf_free(&text);
    }
    if (good && proa_json_set(call_copy, "function", proa_json_ref(function_copy))) {
        proa_json_free(function_copy);
        return call_copy;
    }
    proa_json_free(call_copy);
    proa_json_free(function_copy);
    no_memory(fields);
    return NULL;
}

static bool read_tool_calls(const proa_fields *fields, proa_json *message)
{
    proa_json *calls = NULL;
    if (!proa_field_typed(fields, "tool_calls", PROA_JSON_ARRAY, &calls))
        return false;
    if (calls == NULL)
        return true;
    proa_json *list = proa_json_new_array();
    for (size_t i = 0; i < proa_json_size(calls); i++) {
        proa_json *call = read_tool_call(fields, proa_json_at(calls, i));
        if (call == NULL || !proa_json_append(list, call)) {
            proa_json_free(list);
            return false;
        }
    }
    return proa_json_set(message, "tool_calls", list) || no_memory(fields);
}

/* --- messages --- */

static bool read_role(const proa_fields *fields, const char **role)
{
    static const char *const roles[] = {"system", "user", "assistant", "tool"};
    if (!proa_field_string(fields, "role", role))
        return false;
    if (strcmp(*role, "developer") == 0)
        *role = "system";
    for (size_t i = 0; i < sizeof roles / sizeof roles[0]; i++) {
        if (strcmp(*role, roles[i]) == 0)
            return true;
    }
    return proa_api_error_field(fields->error, "messages",
                                "%srole must be system, developer, user, assistant or tool, got \"%.40s\"",
                                fields->prefix, *role);
}

/* A new reference to the message as the template gets it, or NULL with an error. */
static proa_json *read_message(const proa_json *message, size_t index, proa_api_error *error)
{
    char prefix[32];
    snprintf(prefix, sizeof prefix, "messages[%zu].", index);
    const proa_fields fields = {message, prefix, error};
    const char *role = "";
    if (!proa_json_is(message, PROA_JSON_OBJECT)) {
        proa_api_error_field(error, "messages", "messages[%zu] must be an object", index);
        return NULL;
    }
    if (!read_role(&fields, &role))
        return NULL;
    proa_json *content = read_content(&fields, role);
    if (content == NULL)
        return NULL;
    proa_json *copy = copy_object(message);
    bool good = copy != NULL && proa_json_set(copy, "content", proa_json_ref(content)) &&
                proa_json_set(copy, "role", proa_json_new_text(role));
    proa_json_free(content);
    if (good && read_tool_calls(&fields, copy))
        return copy;
    if (!good)
        no_memory(&fields);
    proa_json_free(copy);
    return NULL;
}

static bool read_messages(const proa_fields *fields, proa_api_request *request)
{
    proa_json *messages = NULL;
    if (!proa_field_typed(fields, "messages", PROA_JSON_ARRAY, &messages))
        return false;
    if (proa_json_size(messages) == 0)
        return proa_api_error_field(fields->error, "messages",
                                    "messages must be a list of at least one message");
    proa_json *list = proa_json_new_array();
    for (size_t i = 0; i < proa_json_size(messages); i++) {
        proa_json *message = read_message(proa_json_at(messages, i), i, fields->error);
        if (message == NULL || !proa_json_append(list, message)) {
            proa_json_free(list);
            return false;
        }
    }
    return proa_json_set(request->variables, "messages", list) || no_memory(fields);
}

/* --- tools --- */

static bool check_tools(const proa_fields *fields, const proa_json *tools)
{
    for (size_t i = 0; i < proa_json_size(tools); i++) {
        const proa_json *tool = proa_json_at(tools, i);
        const char *type = proa_json_string(proa_json_get(tool, "type"), "");
        const proa_json *name = proa_json_get(proa_json_get(tool, "function"), "name");
        if (strcmp(type, "function") != 0 || !proa_json_is(name, PROA_JSON_STRING))
            return proa_api_error_field(
                fields->error, "tools",
                "tools[%zu] must be {\"type\": \"function\", \"function\": {\"name\": ...}}", i);
    }
    return true;
}

/* What the template gets as `tools`: null without, and with tool_choice "none". */
static bool read_tools(const proa_fields *fields, proa_api_request *request)
{
    proa_json *tools = NULL;
    const proa_json *choice = proa_field(fields, "tool_choice");
    const char *word = choice != NULL ? proa_json_string(choice, "") : "auto";
    if (!proa_field_typed(fields, "tools", PROA_JSON_ARRAY, &tools) || !check_tools(fields, tools))
        return false;
    if (strcmp(word, "none") != 0 && strcmp(word, "auto") != 0) {
        if (strcmp(word, "required") != 0 && !proa_json_is(choice, PROA_JSON_OBJECT))
            return proa_field_wrong(fields, "tool_choice", "\"none\", \"auto\", \"required\" or an object",
                                    choice);
        return proa_api_error_set(
            fields->error, 400, "tool_choice", "unsupported_parameter",
            "tool_choice that forces a call is not supported yet: use \"auto\" or \"none\"");
    }
    request->has_tools = proa_json_size(tools) > 0 && strcmp(word, "auto") == 0;
    return proa_json_set(request->variables, "tools",
                         request->has_tools ? proa_json_ref(tools) : proa_json_new_null()) ||
           no_memory(fields);
}

/* --- the rest --- */

/* Variables that a client may not replace: the server's own, and names that other servers have been attacked through. */
static bool is_reserved(const char *name)
{
    static const char *const names[] = {
        "messages",
        "tools",
        "documents",
        "add_generation_prompt",
        "continue_final_message",
        "chat_template",
        "bos_token",
        "eos_token",
        "pad_token",
        "raise_exception",
        "tokenize",
    };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (strcmp(name, names[i]) == 0)
            return true;
    }
    return false;
}

static bool read_template_variables(const proa_fields *fields, proa_api_request *request)
{
    proa_json *kwargs = NULL;
    const char *effort = NULL;
    if (!proa_field_typed(fields, "chat_template_kwargs", PROA_JSON_OBJECT, &kwargs) ||
        !proa_field_string(fields, "reasoning_effort", &effort))
        return false;
    if (!proa_json_set(request->variables, "documents", proa_json_new_null()) ||
        (effort != NULL &&
         !proa_json_set(request->variables, "reasoning_effort", proa_json_new_text(effort))))
        return no_memory(fields);
    for (void *it = proa_json_first(kwargs); it != NULL; it = proa_json_next(kwargs, it)) {
        if (is_reserved(proa_json_key(it)))
            return proa_api_error_field(fields->error, "chat_template_kwargs",
                                        "chat_template_kwargs must not set \"%.40s\"", proa_json_key(it));
        if (!proa_json_set(request->variables, proa_json_key(it), proa_json_ref(proa_json_value(it))))
            return no_memory(fields);
    }
    request->thinking = proa_json_bool(proa_json_get(kwargs, "thinking"), false) ||
                        proa_json_bool(proa_json_get(kwargs, "enable_thinking"), false);
    return true;
}

/* max_completion_tokens, or the older max_tokens. */
static bool read_max_tokens(const proa_fields *fields, proa_api_params *p)
{
    return proa_field_int32(fields, "max_tokens", 1, INT32_MAX, &p->max_tokens) &&
           proa_field_int32(fields, "max_completion_tokens", 1, INT32_MAX, &p->max_tokens);
}

static bool read_logprobs(const proa_fields *fields, proa_api_params *p)
{
    bool wanted = false;
    int32_t top = 0;
    if (!proa_field_bool(fields, "logprobs", &wanted) ||
        !proa_field_int32(fields, "top_logprobs", 0, PROA_SAMPLE_MAX_TOP_LOGPROBS, &top))
        return false;
    if (!wanted && top > 0)
        return proa_api_error_field(fields->error, "top_logprobs", "top_logprobs needs \"logprobs\": true");
    p->top_logprobs = wanted ? top : -1;
    return true;
}

static bool read_switches(const proa_fields *fields, proa_api_request *request)
{
    bool good = proa_field_bool(fields, "add_generation_prompt", &request->add_generation_prompt) &&
                proa_field_bool(fields, "continue_final_message", &request->continue_final_message) &&
                proa_field_bool(fields, "separate_reasoning", &request->separate_reasoning);
    if (!good)
        return false;
    if (!request->continue_final_message)
        return true;
    if (proa_field(fields, "add_generation_prompt") != NULL && request->add_generation_prompt)
        return proa_api_error_field(fields->error, "continue_final_message",
                                    "continue_final_message and add_generation_prompt exclude each other");
    request->add_generation_prompt = false;
    const proa_json *messages = proa_json_get(request->variables, "messages");
    const proa_json *last = proa_json_at(messages, proa_json_size(messages) - 1);
    if (strcmp(proa_json_string(proa_json_get(last, "role"), ""), "assistant") != 0 ||
        proa_json_string_length(proa_json_get(last, "content")) == 0)
        return proa_api_error_field(
            fields->error, "continue_final_message",
            "continue_final_message needs a last message from the assistant with content");
    return true;
}

bool proa_chat_request_parse(proa_json *body, const proa_api_limits *limits, proa_api_request **request,
                             proa_api_error *error)
{
    *request = NULL;
    proa_api_request *r = proa_api_request_begin(PROA_API_CHAT, body, error);
    if (r == NULL)
        return false;
    const proa_fields fields = {body, "", error};
    r->variables = proa_json_new_object();
    r->add_generation_prompt = true;
    r->separate_reasoning = true;
    r->prompt_count = 1;
    r->params.temperature = limits->temperature;
    r->params.top_p = limits->top_p;
    r->params.top_k = limits->top_k;
    bool good = r->variables != NULL && proa_api_check_model(&fields, limits) && read_messages(&fields, r) &&
                read_tools(&fields, r) && read_template_variables(&fields, r) && read_switches(&fields, r) &&
                proa_api_check_response_format(&fields) && read_max_tokens(&fields, &r->params) &&
                read_logprobs(&fields, &r->params) && proa_api_parse_stream(&fields, &r->params) &&
                proa_api_parse_sampling(&fields, limits, r) && proa_api_check_choices(&fields, limits, r) &&
                proa_api_refuse(&fields, refusals, sizeof refusals / sizeof refusals[0]);
    return proa_api_request_end(r, good, request, error);
}
