/* test_request.c - tables of requests that are taken and refused, with the field that each refusal names. */
#include "serve/request.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

static const proa_api_limits limits = {
    .model_name = "tiny",
    .vocab_size = 100,
    .context_length = 64,
    .choices_max = 128,
    .temperature = 0.6f,
    .top_p = 0.95f,
    .top_k = -1,
};

typedef bool (*parse_function)(proa_json *, const proa_api_limits *, proa_api_request **, proa_api_error *);
#define CHAT  proa_chat_request_parse
#define COMP  proa_completions_request_parse
#define GEN   proa_generate_request_parse
#define M     "\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]"
#define C(x)  CHAT, "{" M "," x "}"
#define P(x)  COMP, "{\"prompt\":\"hi\"," x "}"
#define SP(x) GEN, "{\"text\":\"hi\",\"sampling_params\":{" x "}}"
#define MS(x) CHAT, "{\"messages\":[" x "]}"

static const struct refusal_case {
    parse_function parse;
    const char *json;
    int status;
    const char *param;
} refused[] = {
    {CHAT, "[]", 400, ""},
    {CHAT, "3", 400, ""},
    {CHAT, "{}", 400, "messages"},
    {CHAT, "{\"messages\":[]}", 400, "messages"},
    {CHAT, "{\"messages\":null}", 400, "messages"},
    {CHAT, "{\"messages\":\"hi\"}", 400, "messages"},
    {MS("3"), 400, "messages"},
    {MS("{\"content\":\"hi\"}"), 400, "messages"},
    {MS("{\"role\":\"wizard\",\"content\":\"hi\"}"), 400, "messages"},
    {MS("{\"role\":5,\"content\":\"hi\"}"), 400, "messages[0].role"},
    {MS("{\"role\":\"user\"}"), 400, "messages"},
    {MS("{\"role\":\"user\",\"content\":null}"), 400, "messages"},
    {MS("{\"role\":\"user\",\"content\":5}"), 400, "messages[0].content"},
    {MS("{\"role\":\"user\",\"content\":[5]}"), 400, "messages[0].content"},
    {MS("{\"role\":\"user\",\"content\":[{\"type\":\"image_url\"}]}"), 400, "messages"},
    {MS("{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":5}]}"), 400, "messages"},
    {MS("{\"role\":\"assistant\",\"tool_calls\":[{}]}"), 400, "messages"},
    {MS("{\"role\":\"assistant\",\"tool_calls\":5}"), 400, "messages[0].tool_calls"},
    {C("\"model\":\"other\""), 404, "model"},
    {C("\"model\":5"), 400, "model"},
    {C("\"n\":0"), 400, "n"},
    {C("\"n\":129"), 400, "n"},
    {C("\"n\":-1"), 400, "n"},
    {C("\"n\":1.5"), 400, "n"},
    {C("\"n\":\"1\""), 400, "n"},
    {C("\"n\":2147483648"), 400, "n"},
    {C("\"n\":9223372036854775807"), 400, "n"},
    {C("\"n\":1e308"), 400, "n"},
    {C("\"n\":[]"), 400, "n"},
    {C("\"n\":true"), 400, "n"},
    {C("\"temperature\":2.1"), 400, "temperature"},
    {C("\"temperature\":-0.1"), 400, "temperature"},
    {C("\"temperature\":\"hot\""), 400, "temperature"},
    {C("\"top_p\":1.01"), 400, "top_p"},
    {C("\"top_p\":-1"), 400, "top_p"},
    {C("\"top_k\":-2"), 400, "top_k"},
    {C("\"min_p\":2"), 400, "min_p"},
    {C("\"repetition_penalty\":0"), 400, "repetition_penalty"},
    {C("\"frequency_penalty\":2.5"), 400, "frequency_penalty"},
    {C("\"presence_penalty\":-2.5"), 400, "presence_penalty"},
    {C("\"max_tokens\":0"), 400, "max_tokens"},
    {C("\"max_tokens\":-5"), 400, "max_tokens"},
    {C("\"max_completion_tokens\":\"5\""), 400, "max_completion_tokens"},
    {C("\"max_tokens\":4,\"min_tokens\":5"), 400, "min_tokens"},
    {C("\"seed\":1.5"), 400, "seed"},
    {C("\"stop\":5"), 400, "stop"},
    {C("\"stop\":\"\""), 400, "stop"},
    {C("\"stop\":[\"a\",5]"), 400, "stop"},
    {C("\"stop\":[\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\"]"),
     400, "stop"},
    {C("\"stop_token_ids\":[100]"), 400, "stop_token_ids"},
    {C("\"stop_token_ids\":[-1]"), 400, "stop_token_ids"},
    {C("\"stop_token_ids\":[\"1\"]"), 400, "stop_token_ids"},
    {C("\"stop_token_ids\":1"), 400, "stop_token_ids"},
    {C("\"logit_bias\":{\"100\":1}"), 400, "logit_bias"},
    {C("\"logit_bias\":{\"-1\":1}"), 400, "logit_bias"},
    {C("\"logit_bias\":{\"05\":1}"), 400, "logit_bias"},
    {C("\"logit_bias\":{\"x\":1}"), 400, "logit_bias"},
    {C("\"logit_bias\":{\"99999999999999999999\":1}"), 400, "logit_bias"},
    {C("\"logit_bias\":{\"5\":101}"), 400, "logit_bias"},
    {C("\"logit_bias\":{\"5\":\"1\"}"), 400, "logit_bias"},
    {C("\"logit_bias\":[]"), 400, "logit_bias"},
    {C("\"logprobs\":1"), 400, "logprobs"},
    {C("\"logprobs\":true,\"top_logprobs\":21"), 400, "top_logprobs"},
    {C("\"top_logprobs\":2"), 400, "top_logprobs"},
    {C("\"stream\":1"), 400, "stream"},
    {C("\"stream\":true,\"stream_options\":5"), 400, "stream_options"},
    {C("\"stream\":true,\"stream_options\":{\"include_usage\":1}"), 400, "stream_options.include_usage"},
    {C("\"tools\":5"), 400, "tools"},
    {C("\"tools\":[5]"), 400, "tools"},
    {C("\"tools\":[{\"type\":\"custom\"}]"), 400, "tools"},
    {C("\"tools\":[{\"type\":\"function\",\"function\":{}}]"), 400, "tools"},
    {C("\"tool_choice\":\"required\""), 400, "tool_choice"},
    {C("\"tool_choice\":\"maybe\""), 400, "tool_choice"},
    {C("\"tool_choice\":{\"type\":\"function\"}"), 400, "tool_choice"},
    {C("\"response_format\":{\"type\":\"json_object\"}"), 400, "response_format"},
    {C("\"response_format\":\"text\""), 400, "response_format"},
    {C("\"chat_template_kwargs\":[]"), 400, "chat_template_kwargs"},
    {C("\"chat_template_kwargs\":{\"messages\":[]}"), 400, "chat_template_kwargs"},
    {C("\"chat_template_kwargs\":{\"chat_template\":\"x\"}"), 400, "chat_template_kwargs"},
    {C("\"chat_template\":\"x\""), 400, "chat_template"},
    {C("\"functions\":[{}]"), 400, "functions"},
    {C("\"bootstrap_room\":1"), 400, "bootstrap_room"},
    {C("\"continue_final_message\":true"), 400, "continue_final_message"},
    {MS("{\"role\":\"assistant\",\"content\":\"a\"}],\"continue_final_message\":true,\"add_generation_"
        "prompt\":true,"
        "\"x\":["),
     400, "continue_final_message"},
    {COMP, "{}", 400, "prompt"},
    {COMP, "{\"prompt\":[]}", 400, "prompt"},
    {COMP, "{\"prompt\":5}", 400, "prompt"},
    {COMP, "{\"prompt\":[[]]}", 400, "prompt"},
    {COMP, "{\"prompt\":[\"a\",5]}", 400, "prompt"},
    {COMP, "{\"prompt\":[1,100]}", 400, "prompt"},
    {COMP, "{\"prompt\":[1,-1]}", 400, "prompt"},
    {COMP, "{\"prompt\":[[1],[2.5]]}", 400, "prompt"},
    {COMP, "{\"prompt\":[\"a\",\"b\"],\"n\":65}", 400, "n"},
    {P("\"best_of\":2"), 400, "best_of"},
    {P("\"suffix\":\"x\""), 400, "suffix"},
    {P("\"logprobs\":21"), 400, "logprobs"},
    {P("\"logprobs\":true"), 400, "logprobs"},
    {P("\"echo\":true,\"logprobs\":1"), 400, "echo"},
    {GEN, "{}", 400, "text"},
    {GEN, "{\"text\":\"a\",\"input_ids\":[1]}", 400, "text"},
    {GEN, "{\"input_ids\":[100]}", 400, "input_ids"},
    {SP("\"max_new_tokens\":0"), 400, "sampling_params.max_new_tokens"},
    {SP("\"temperature\":-1"), 400, "sampling_params.temperature"},
    {SP("\"json_schema\":\"{}\""), 400, "json_schema"},
    {GEN, "{\"text\":\"a\",\"sampling_params\":[]}", 400, "sampling_params"},
    {GEN, "{\"text\":\"a\",\"return_logprob\":true,\"logprob_start_len\":0}", 400, "logprob_start_len"},
};

static bool parse(parse_function function, const char *json, proa_api_request **request,
                  proa_api_error *error)
{
    proa_error err = {0};
    proa_json *body = proa_json_parse(json, strlen(json), &err);
    if (body == NULL)
        fail_msg("%s: %s", json, err.text);
    *error = (proa_api_error){0};
    return function(body, &limits, request, error);
}

static void wrong_fields_are_named(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        const struct refusal_case *c = &refused[i];
        proa_api_request *request;
        proa_api_error error;
        if (parse(c->parse, c->json, &request, &error))
            fail_msg("case %zu was taken: %s", i, c->json);
        assert_null(request);
        if (error.status != c->status || strcmp(error.param, c->param) != 0)
            fail_msg("case %zu: %d \"%s\" (%s), wanted %d \"%s\": %s", i, error.status, error.param,
                     error.message, c->status, c->param, c->json);
        assert_true(strlen(error.message) > 10);
    }
}

static const struct {
    parse_function parse;
    const char *json;
} taken[] = {
    {C("\"model\":\"tiny\"")},
    {C("\"model\":\"default\"")},
    {C("\"unknown_field\":{\"a\":[1]}")},
    {C("\"temperature\":0,\"top_p\":0,\"top_k\":0,\"n\":128")},
    {C("\"n\":null,\"stop\":null,\"logit_bias\":null,\"seed\":null,\"tools\":null,\"max_tokens\":null")},
    {C("\"n\":2.0")},
    {C("\"stop\":[]")},
    {C("\"functions\":[],\"use_beam_search\":false,\"regex\":null")},
    {C("\"response_format\":{\"type\":\"text\"}")},
    {C("\"tools\":[],\"tool_choice\":\"auto\"")},
    {MS("{\"role\":\"system\",\"content\":\"a\"},{\"role\":\"assistant\"},{\"role\":\"tool\",\"content\":"
        "\"\"}")},
    {P("\"best_of\":1,\"suffix\":null,\"response_format\":{\"type\":\"text\"}")},
    {P("\"best_of\":3,\"n\":3")},
    {P("\"echo\":true")},
    {COMP, "{\"prompt\":\"\"}"},
    {COMP, "{\"prompt\":[\"a\",[1,2],\"b\"]}"},
    {GEN, "{\"input_ids\":[[1],[2,3]],\"stream\":true,\"rid\":[\"a\",\"b\"]}"},
};

static void good_requests_are_taken(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof taken / sizeof taken[0]; i++) {
        proa_api_request *request;
        proa_api_error error;
        if (!parse(taken[i].parse, taken[i].json, &request, &error))
            fail_msg("case %zu: %s: %s", i, taken[i].json, error.message);
        proa_api_request_free(request);
    }
}

static void chat_fields_arrive(void **state)
{
    (void)state;
    proa_api_request *r;
    proa_api_error error;
    assert_true(
        parse(C("\"temperature\":1e-9,\"seed\":-1,\"stop\":[\"x\",\"yz\"],\"stop_token_ids\":[3,99],"
                "\"logit_bias\":{\"7\":-100,\"8\":2.5},\"logprobs\":true,\"top_logprobs\":5,\"max_tokens\":9,"
                "\"max_completion_tokens\":7,\"min_tokens\":2,\"stream\":true,"
                "\"stream_options\":{\"include_usage\":true},\"chat_template_kwargs\":{\"thinking\":true}"),
              &r, &error));
    const proa_api_params *p = &r->params;
    assert_true(p->temperature == 0);
    assert_true(p->top_p == 0.95f);
    assert_true(p->has_seed);
    assert_true(p->seed == UINT64_MAX);
    assert_int_equal(p->stop_count, 2);
    assert_string_equal(p->stops[1].text, "yz");
    assert_int_equal(p->stop_ids[1], 99);
    assert_int_equal(p->bias_count, 2);
    assert_int_equal(p->bias[0].id, 7);
    assert_true(p->bias[1].bias == 2.5f);
    assert_int_equal(p->top_logprobs, 5);
    assert_int_equal(p->max_tokens, 7);
    assert_int_equal(p->min_tokens, 2);
    assert_true(p->stream && p->include_usage && !p->continuous_usage);
    assert_true(r->thinking && r->add_generation_prompt && r->separate_reasoning);
    proa_api_request_free(r);
}

static void template_variables_are_normalised(void **state)
{
    (void)state;
    proa_api_request *r;
    proa_api_error error;
    assert_true(
        parse(CHAT,
              "{\"messages\":[{\"role\":\"developer\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},"
              "{\"type\":\"text\",\"text\":\"b\"}]},{\"role\":\"assistant\",\"tool_calls\":[{\"id\":\"1\","
              "\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":{\"x\":1}}}]}],"
              "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}],\"tool_choice\":\"none\","
              "\"chat_template_kwargs\":{\"style\":\"short\"}}",
              &r, &error));
    proa_buf text = {0};
    proa_json_write(r->variables, 0, &text);
    assert_string_equal(
        proa_buf_text(&text),
        "{\"messages\":[{\"role\":\"system\",\"content\":\"a b\"},{\"role\":\"assistant\","
        "\"tool_calls\":[{\"id\":\"1\",\"type\":\"function\",\"function\":{\"name\":\"f\","
        "\"arguments\":\"{\\\"x\\\":1}\"}}],\"content\":null}],\"tools\":null,\"documents\":null,"
        "\"style\":\"short\"}");
    proa_buf_free(&text);
    proa_api_request_free(r);
}

static void prompts_of_all_kinds_arrive(void **state)
{
    (void)state;
    proa_api_request *r;
    proa_api_error error;
    assert_true(parse(COMP, "{\"prompt\":[\"a\\u0000b\",[5,6,7]],\"n\":64}", &r, &error));
    assert_int_equal(r->prompt_count, 2);
    assert_null(r->prompts[0].ids);
    assert_int_equal(r->prompts[0].text_length, 3);
    assert_int_equal(r->prompts[1].id_count, 3);
    assert_int_equal(r->prompts[1].ids[2], 7);
    assert_int_equal(r->params.max_tokens, 16);
    proa_api_request_free(r);
    assert_true(parse(COMP, "{\"prompt\":[5,6]}", &r, &error));
    assert_int_equal(r->prompt_count, 1);
    assert_int_equal(r->prompts[0].id_count, 2);
    assert_false(r->batch);
    proa_api_request_free(r);
    assert_true(parse(GEN, "{\"text\":[\"a\"]}", &r, &error));
    assert_true(r->batch);
    assert_int_equal(r->params.max_tokens, 128);
    assert_true(r->params.temperature == 1.0f);
    proa_api_request_free(r);
}

static void errors_have_all_four_fields(void **state)
{
    (void)state;
    proa_api_error error;
    proa_buf text = {0};
    proa_api_error_set(&error, 404, "model", "model_not_found", "no \"%s\"", "x");
    proa_api_error_write(&error, &text);
    assert_string_equal(proa_buf_text(&text),
                        "{\"error\":{\"message\":\"no \\\"x\\\"\",\"type\":\"invalid_request_error\","
                        "\"param\":\"model\",\"code\":\"model_not_found\"}}");
    proa_buf_clear(&text);
    proa_api_error_set(&error, 503, NULL, NULL, "later");
    proa_api_error_write(&error, &text);
    assert_string_equal(proa_buf_text(&text),
                        "{\"error\":{\"message\":\"later\",\"type\":\"service_unavailable_error\","
                        "\"param\":null,\"code\":null}}");
    proa_buf_free(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(wrong_fields_are_named),      cmocka_unit_test(good_requests_are_taken),
        cmocka_unit_test(chat_fields_arrive),          cmocka_unit_test(template_variables_are_normalised),
        cmocka_unit_test(prompts_of_all_kinds_arrive), cmocka_unit_test(errors_have_all_four_fields),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
