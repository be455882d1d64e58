/* test_chat_format.c - templates found, prompts rendered and encoded, continued messages, where reasoning begins. */
#include "serve/chat_format.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#define TURNS                                                                                                \
    "{{bos_token}}{% for m in messages %}{% if m.role == 'user' %}<U>{{m.content}}{% else "                  \
    "%}<A>{{m.content}}"                                                                                     \
    "{{eos_token}}{% endif %}{% endfor %}"
#define R1 TURNS "{% if add_generation_prompt %}<A><think>\\n{% endif %}"
#define V31                                                                                                  \
    TURNS "{% if add_generation_prompt %}<A>{% if thinking %}<think>{% else %}</think>{% endif %}{% endif "  \
          "%}"
#define R528 TURNS "{# </think> is dropped from history #}{% if add_generation_prompt %}<A>{% endif %}"
#define V3   TURNS "{% if add_generation_prompt %}<A>{% endif %}"
#define CONFIG(template)                                                                                     \
    "{\"bos_token\":{\"content\":\"<s>\"},\"eos_token\":\"</s>\",\"chat_template\":\"" template "\"}"

static proa_chat_format *parse_format(const char *config, proa_error *err)
{
    proa_chat_format *format = NULL;
    proa_json *json = proa_json_parse(config, strlen(config), err);
    assert_non_null(json);
    proa_chat_format_parse(json, "test", NULL, 0, &format, err);
    proa_json_free(json);
    return format;
}

static proa_api_request *parse_request(const char *json)
{
    static const proa_api_limits limits = {
        .model_name = "m", .vocab_size = 10, .context_length = 10, .choices_max = 1};
    proa_error err;
    proa_api_error error = {0};
    proa_api_request *request;
    if (!proa_chat_request_parse(proa_json_parse(json, strlen(json), &err), &limits, &request, &error))
        fail_msg("%s: %s", json, error.message);
    return request;
}

#define ASK "{\"messages\":[{\"role\":\"user\",\"content\":\"q\"}]"
#define GO_ON(of)                                                                                            \
    "{\"messages\":[{\"role\":\"user\",\"content\":\"q\"},{\"role\":\"assistant\",\"content\":\"" of         \
    "\"}],\"continue_final_message\":true"

static const struct prompt_case {
    const char *template;
    const char *request;
    const char *prompt; /* NULL: refused */
    proa_reasoning_mode mode;
    proa_reasoning_kind kind;
    bool thinking;
} cases[] = {
    {R1, ASK "}", "<s><U>q<A><think>\n", PROA_REASONING_MODE_AUTO, PROA_REASONING_DEEPSEEK_R1, false},
    {R1, ASK "}", "<s><U>q<A><think>\n", PROA_REASONING_MODE_NONE, PROA_REASONING_NONE, false},
    {R1, ASK ",\"separate_reasoning\":false}", "<s><U>q<A><think>\n", PROA_REASONING_MODE_R1,
     PROA_REASONING_NONE, false},
    {R1, ASK ",\"add_generation_prompt\":false}", "<s><U>q", PROA_REASONING_MODE_R1,
     PROA_REASONING_DEEPSEEK_R1, false},
    {R528, ASK "}", "<s><U>q<A>", PROA_REASONING_MODE_AUTO, PROA_REASONING_DEEPSEEK_R1, false},
    {V3, ASK "}", "<s><U>q<A>", PROA_REASONING_MODE_AUTO, PROA_REASONING_NONE, false},
    {V3, ASK "}", "<s><U>q<A>", PROA_REASONING_MODE_V3, PROA_REASONING_DEEPSEEK_V3, false},
    {V31, ASK "}", "<s><U>q<A></think>", PROA_REASONING_MODE_AUTO, PROA_REASONING_NONE, false},
    {V31, ASK ",\"chat_template_kwargs\":{\"thinking\":true}}", "<s><U>q<A><think>", PROA_REASONING_MODE_AUTO,
     PROA_REASONING_DEEPSEEK_R1, true},
    {V31, ASK ",\"chat_template_kwargs\":{\"thinking\":true}}", "<s><U>q<A><think>", PROA_REASONING_MODE_V3,
     PROA_REASONING_DEEPSEEK_V3, true},
    {R1, GO_ON("so far") "}", "<s><U>q<A>so far", PROA_REASONING_MODE_AUTO, PROA_REASONING_NONE, false},
    {R1, GO_ON(" so far \\n") "}", "<s><U>q<A> so far \n", PROA_REASONING_MODE_AUTO, PROA_REASONING_NONE,
     false},
    {R1, GO_ON("<think>\\nso") "}", "<s><U>q<A><think>\nso", PROA_REASONING_MODE_AUTO,
     PROA_REASONING_DEEPSEEK_R1, false},
    {R1, GO_ON("<think>a</think>b") "}", "<s><U>q<A><think>a</think>b", PROA_REASONING_MODE_AUTO,
     PROA_REASONING_NONE, false},
    {"{{messages[-1].content|trim}}!", GO_ON(" so far ") "}", "so far", PROA_REASONING_MODE_AUTO,
     PROA_REASONING_NONE, false},
    {"{{messages[-1].content.split('|')[0]}}", GO_ON("a|b") "}", NULL, PROA_REASONING_MODE_AUTO,
     PROA_REASONING_NONE, false},
    {"nothing of it", GO_ON("s") "}", NULL, PROA_REASONING_MODE_AUTO, PROA_REASONING_NONE, false},
};

static void prompts_and_reasoning(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const struct prompt_case *c = &cases[i];
        proa_error err = {0};
        proa_buf config = {0};
        proa_buf_append_format(&config, CONFIG("%s"), c->template);
        proa_chat_format *format = parse_format(proa_buf_text(&config), &err);
        if (format == NULL)
            fail_msg("case %zu: %s", i, err.text);
        proa_api_request *request = parse_request(c->request);
        proa_template_output prompt = {0};
        proa_status status = proa_chat_format_render(format, request, &prompt, &err);
        assert_int_equal(status, c->prompt != NULL ? PROA_OK : PROA_ERR_INVALID);
        if (status == PROA_OK) {
            proa_reasoning_choice choice = proa_chat_format_reasoning(format, c->mode, request, &prompt);
            assert_string_equal(proa_buf_text(&prompt.text), c->prompt);
            if (choice.kind != c->kind || choice.thinking != c->thinking)
                fail_msg("case %zu: kind %d, thinking %d", i, choice.kind, choice.thinking);
            const proa_template_piece *last = &prompt.pieces[prompt.piece_count - 1];
            assert_int_equal(last->start + last->length, prompt.text.length);
        }
        proa_template_output_free(&prompt);
        proa_api_request_free(request);
        proa_chat_format_free(format);
        proa_buf_free(&config);
    }
}

static void named_templates_are_picked(void **state)
{
    (void)state;
    static const char config[] =
        "{\"chat_template\":[{\"name\":\"tool_use\",\"template\":\"tools: {{tools[0].function.name}}\"},"
        "{\"name\":\"default\",\"template\":\"plain{{tools}}\"},{\"name\":\"x\",\"template\":\"{%\"}]}";
    static const struct {
        const char *request, *prompt;
    } picks[] = {
        {ASK "}", "plainNone"},
        {ASK ",\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}]}", "tools: f"},
        {ASK ",\"tool_choice\":\"none\",\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}]}",
         "plainNone"},
    };
    proa_error err;
    proa_chat_format *format = parse_format(config, &err);
    for (size_t i = 0; i < sizeof picks / sizeof picks[0]; i++) {
        proa_api_request *request = parse_request(picks[i].request);
        proa_template_output prompt = {0};
        assert_int_equal(proa_chat_format_render(format, request, &prompt, &err), PROA_OK);
        assert_string_equal(proa_buf_text(&prompt.text), picks[i].prompt);
        proa_template_output_free(&prompt);
        proa_api_request_free(request);
    }
    proa_chat_format_free(format);
}

static void bad_configurations_are_named(void **state)
{
    (void)state;
    static const struct {
        const char *config, *word;
    } bad[] = {
        {"{\"chat_template\":5}", "chat_template"},
        {"{\"chat_template\":[5]}", "chat_template"},
        {"{\"chat_template\":[{\"name\":\"default\"}]}", "chat_template"},
        {"{\"chat_template\":\"{% for %}\"}", "test"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        proa_error err = {0};
        assert_null(parse_format(bad[i].config, &err));
        assert_non_null(strstr(err.text, bad[i].word));
    }
    proa_error err;
    proa_chat_format *format = parse_format("{\"add_bos_token\":true,\"bos_token\":null}", &err);
    assert_false(proa_chat_format_has_template(format));
    assert_false(proa_chat_format_adds_bos(format));
    proa_api_request *request = parse_request(ASK "}");
    proa_template_output prompt = {0};
    assert_int_equal(proa_chat_format_render(format, request, &prompt, &err), PROA_ERR_UNSUPPORTED);
    proa_template_output_free(&prompt);
    proa_api_request_free(request);
    proa_chat_format_free(format);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(prompts_and_reasoning),
        cmocka_unit_test(named_templates_are_picked),
        cmocka_unit_test(bad_configurations_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
