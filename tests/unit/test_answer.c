/* test_answer.c - from tokens to text: what is held back, where an answer ends, what counts as reasoning; and the bytes
 * of each reply format. */
#include "serve/answer.h"
#include "serve/reply.h"

#include "base/json.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static proa_tokenizer *tokenizer;
static proa_encoder *encoder;

static int load(void **state)
{
    (void)state;
    char path[4096];
    const char *tests = getenv("PROA_TEST_SOURCE");
    proa_error err;
    snprintf(path, sizeof path, "%s/../models/tiny-r1", tests != NULL ? tests : "tests");
    if (proa_tokenizer_load(path, &tokenizer, &err) != PROA_OK)
        fail_msg("%s", err.text);
    encoder = proa_encoder_create(tokenizer);
    return encoder == NULL;
}

static int unload(void **state)
{
    (void)state;
    proa_encoder_free(encoder);
    proa_tokenizer_free(tokenizer);
    return 0;
}

/* --- answers --- */

static const struct answer_case {
    const char *text; /* its tokens are fed one by one; the last is the end of sequence */
    const char *stop; /* NULL: none */
    int min_tokens;
    bool include;
    proa_reasoning_kind kind;
    const char *reasoning;
    const char *content;
    int matched;
} answers[] = {
    {"hello world", NULL, 0, false, PROA_REASONING_NONE, "", "hello world", -1},
    {"h\xc3\xa9llo \xe6\xaf\x95", NULL, 0, false, PROA_REASONING_NONE, "", "h\xc3\xa9llo \xe6\xaf\x95", -1},
    {"hello world", "o w", 0, false, PROA_REASONING_NONE, "", "hell", 0},
    {"hello world", "o w", 0, true, PROA_REASONING_NONE, "", "hello w", 0},
    {"ababab", "ab", 3, false, PROA_REASONING_NONE, "", "abab", 0},
    {"1+1</think>\n\n2", NULL, 0, false, PROA_REASONING_DEEPSEEK_R1, "1+1", "2", -1},
    {"<think>1+1</think>2", NULL, 0, false, PROA_REASONING_DEEPSEEK_R1, "1+1", "2", -1},
    {"1+1</think>\n\n2 and 3", " and", 0, false, PROA_REASONING_DEEPSEEK_R1, "1+1", "2", 0},
    {"1+1</think>\n\n2", "+", 0, false, PROA_REASONING_DEEPSEEK_R1, "1", "", 0},
    {"1 < 2", NULL, 0, false, PROA_REASONING_DEEPSEEK_R1, "1 < 2", "", -1}, /* never closed */
    {"a</thin", NULL, 0, false, PROA_REASONING_DEEPSEEK_R1, "a</thin", "", -1},
};

/* All tokens' text so far must be a beginning of the whole. */
static void run_answer(const struct answer_case *c, proa_buf *reasoning, proa_buf *content,
                       proa_answer *answer, const proa_answer_options *options)
{
    proa_ids ids = {0};
    proa_error err;
    assert_int_equal(proa_encode(encoder, c->text, strlen(c->text), true, &ids, &err), PROA_OK);
    proa_answer_init(answer, options);
    bool more = true;
    for (size_t i = 0; i < ids.count && more; i++) {
        more = proa_answer_push(answer, ids.data[i], false, reasoning, content);
        assert_memory_equal(proa_buf_text(reasoning), c->reasoning, reasoning->length);
        assert_memory_equal(proa_buf_text(content), c->content, content->length);
    }
    if (more) {
        int32_t end = proa_tokenizer_id(tokenizer, "<\xef\xbd\x9c"
                                                   "end\xe2\x96\x81of\xe2\x96\x81sentence\xef\xbd\x9c>");
        assert_true(proa_answer_push(answer, end, true, reasoning, content));
        assert_int_equal(answer->token_count, ids.count + 1);
    }
    proa_answer_finish(answer, reasoning, content);
    proa_ids_free(&ids);
}

static void answers_come_apart(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof answers / sizeof answers[0]; i++) {
        const struct answer_case *c = &answers[i];
        proa_arena *arena = proa_arena_create(0);
        proa_stop_string stop = {c->stop, c->stop != NULL ? strlen(c->stop) : 0};
        proa_stop_set stops;
        assert_true(proa_stop_set_init(&stops, &stop, c->stop != NULL, arena));
        const proa_answer_options options = {tokenizer,     &stops,  c->include, true,
                                             c->min_tokens, c->kind, false};
        proa_buf reasoning = {0}, content = {0};
        proa_answer answer;
        run_answer(c, &reasoning, &content, &answer, &options);
        assert_string_equal(proa_buf_text(&reasoning), c->reasoning);
        assert_string_equal(proa_buf_text(&content), c->content);
        assert_int_equal(answer.matched_stop, c->matched);
        if (c->kind == PROA_REASONING_NONE)
            assert_int_equal(answer.reasoning_token_count, 0);
        else
            assert_true(answer.reasoning_token_count > 0);
        proa_answer_free(&answer);
        proa_buf_free(&reasoning);
        proa_buf_free(&content);
        proa_arena_free(arena);
    }
}

/* --- replies --- */

static const int32_t best[2] = {67, 68};
static const float best_logprobs[2] = {-0.25f, -1.5f};

static void add_text(proa_buf *buf, const char *text)
{
    proa_buf_append_text(buf, text);
}

static proa_reply new_reply(const proa_reply_format *format, const proa_api_params *params,
                            proa_reply_choice *choice)
{
    *choice = (proa_reply_choice){.matched_id = -1,
                                  .prompt_tokens = 5,
                                  .cached_tokens = 4,
                                  .completion_tokens = 2,
                                  .reasoning_tokens = 1,
                                  .counts_prompt = true,
                                  .seconds = 1.5};
    return (proa_reply){.format = format,
                        .params = params,
                        .tokenizer = tokenizer,
                        .id = "1",
                        .model = "m\"",
                        .created = 9,
                        .choices = choice,
                        .choice_count = 1};
}

#define HEAD(prefix, object)                                                                                 \
    "{\"id\":\"" prefix "-1\",\"object\":\"" object "\",\"created\":9,\"model\":\"m\\\"\""
#define CHUNK HEAD("chatcmpl", "chat.completion.chunk") ",\"choices\":[{\"index\":0,\"delta\":{"
#define OPEN  "},\"logprobs\":null,\"finish_reason\":null}],\"usage\":null}\n\n"

static const char usage[] = "\"usage\":{\"prompt_tokens\":5,\"total_tokens\":7,\"completion_tokens\":2,"
                            "\"prompt_tokens_details\":{\"cached_tokens\":4},"
                            "\"completion_tokens_details\":{\"reasoning_tokens\":1}}";

/* Takes `out` over; %s in `wanted` stands for the usage. */
static void assert_bytes(proa_buf *out, const char *wanted)
{
    proa_buf full = {0};
    proa_buf_append_format(&full, wanted, usage);
    assert_string_equal(proa_buf_text(out), proa_buf_text(&full));
    proa_buf_free(&full);
    proa_buf_free(out);
}

static void chat_chunks_have_these_bytes(void **state)
{
    (void)state;
    const proa_api_params params = {.top_logprobs = -1, .include_usage = true};
    proa_reply_choice choice;
    proa_reply reply = new_reply(&proa_reply_chat, &params, &choice);
    proa_buf out = {0};
    const proa_reply_token token = {67, -0.25f, 0, NULL, NULL};
    reply.format->token(&reply, &choice, &token);
    assert_false(reply.format->pending(&reply, &choice));
    add_text(&choice.reasoning, "why\n");
    assert_true(reply.format->pending(&reply, &choice));
    reply.format->chunk(&reply, &choice, &out);
    add_text(&choice.content, "so\xff");
    reply.format->chunk(&reply, &choice, &out);
    choice.end = PROA_REPLY_STOP;
    choice.matched_text = "END";
    reply.format->last(&reply, &choice, &out);
    reply.format->end(&reply, &out);
    assert_bytes(&out,
                 "data: " CHUNK "\"role\":\"assistant\",\"content\":\"\"" OPEN "data: " CHUNK
                 "\"reasoning_content\":\"why\\n\"" OPEN "data: " CHUNK "\"content\":\"so\xef\xbf\xbd\"" OPEN
                 "data: " CHUNK "},\"logprobs\":null,\"finish_reason\":\"stop\",\"matched_stop\":\"END\"}],"
                 "\"usage\":null}\n\n"
                 "data: " HEAD("chatcmpl", "chat.completion.chunk") ",\"choices\":[],%s}\n\n"
                                                                    "data: [DONE]\n\n");
    proa_reply_choice_free(&choice);
}

static void whole_chats_have_these_bytes(void **state)
{
    (void)state;
    const proa_api_params params = {.top_logprobs = 2};
    proa_reply_choice choice;
    proa_reply reply = new_reply(&proa_reply_chat, &params, &choice);
    proa_buf out = {0};
    const proa_reply_token token = {67, -0.25f, 2, best, best_logprobs};
    reply.format->token(&reply, &choice, &token);
    add_text(&choice.content, "a");
    choice.end = PROA_REPLY_LENGTH;
    reply.format->whole(&reply, &out);
    assert_bytes(
        &out,
        HEAD("chatcmpl",
             "chat.completion") ",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":"
                                "\"a\",\"refusal\":null,\"reasoning_content\":null},\"logprobs\":{"
                                "\"content\":[{\"token\":\"a\",\"logprob\":"
                                "-0.25,\"bytes\":[97],\"top_logprobs\":[{\"token\":\"a\",\"logprob\":-0.25,"
                                "\"bytes\":[97]},{\"token\":\"b\","
                                "\"logprob\":-1.5,\"bytes\":[98]}]}],\"refusal\":null},\"finish_reason\":"
                                "\"length\",\"matched_stop\":null}],%s}");
    proa_reply_choice_free(&choice);
}

static void completions_have_these_bytes(void **state)
{
    (void)state;
    const proa_api_params params = {.top_logprobs = 1};
    proa_reply_choice choice;
    proa_reply reply = new_reply(&proa_reply_completions, &params, &choice);
    proa_buf out = {0};
    const proa_reply_token tokens[2] = {{68, -1.5f, 1, best, best_logprobs},
                                        {67, -0.25f, 1, best, best_logprobs}};
    reply.format->token(&reply, &choice, &tokens[0]);
    reply.format->token(&reply, &choice, &tokens[1]);
    add_text(&choice.content, "ba");
    choice.end = PROA_REPLY_STOP;
    choice.matched_id = 1;
    reply.format->whole(&reply, &out);
    assert_bytes(
        &out,
        HEAD("cmpl", "text_completion") ",\"choices\":[{\"index\":0,\"text\":\"ba\",\"logprobs\":{\"tokens\":"
                                        "[\"b\",\"a\"],"
                                        "\"token_logprobs\":[-1.5,-0.25],\"top_logprobs\":[{\"a\":-0.25,"
                                        "\"b\":-1.5},{\"a\":-0.25}],\"text_offset\":[0,1]},"
                                        "\"finish_reason\":\"stop\",\"matched_stop\":1}],%s}");
    proa_reply_choice_free(&choice);
}

static void generated_replies_have_these_bytes(void **state)
{
    (void)state;
    const proa_api_params params = {.top_logprobs = -1};
    proa_reply_choice choice;
    proa_reply reply = new_reply(&proa_reply_generate, &params, &choice);
    proa_buf out = {0};
    const proa_reply_token token = {67, -0.25f, 0, NULL, NULL};
    reply.format->token(&reply, &choice, &token);
    add_text(&choice.content, "a");
    reply.format->chunk(&reply, &choice, &out);
    choice.end = PROA_REPLY_LENGTH;
    reply.batch = true;
    reply.format->whole(&reply, &out);
    assert_string_equal(proa_buf_text(&out), "data: "
                                             "{\"text\":\"a\",\"output_ids\":[67],\"meta_info\":{\"id\":"
                                             "\"1\",\"finish_reason\":null,\"prompt_tokens\":5,"
                                             "\"completion_tokens\":2,\"cached_tokens\":4,\"total_"
                                             "retractions\":0,\"weight_version\":\"default\"}}\n\n"
                                             "[{\"text\":\"a\",\"output_ids\":[67],\"meta_info\":{\"id\":"
                                             "\"1\",\"finish_reason\":{\"type\":\"length\",\"length\":2},"
                                             "\"prompt_tokens\":5,\"completion_tokens\":2,\"cached_tokens\":"
                                             "4,\"total_retractions\":0,\"weight_version\":"
                                             "\"default\",\"e2e_latency\":1.500000}}]");
    proa_buf_free(&out);
    proa_reply_choice_free(&choice);
}

/* What every client does with it first. */
static void logprobs_are_numbers_json_knows(void **state)
{
    (void)state;
    static const float values[] = {0, -0.0f, -1e-30f, -123.456f, -1.0f / 3, 1.0f / 0.0f, -1.0f / 0.0f};
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
        proa_buf out = {0};
        proa_error err;
        proa_reply_write_logprob(values[i], &out);
        proa_json *json = proa_json_parse(proa_buf_text(&out), out.length, &err);
        assert_non_null(json);
        if (i < 5)
            assert_true((float)proa_json_real(json, 1) == values[i]);
        else
            assert_true(proa_json_real(json, 1) == -9999.0);
        proa_json_free(json);
        proa_buf_free(&out);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers_come_apart),
        cmocka_unit_test(chat_chunks_have_these_bytes),
        cmocka_unit_test(whole_chats_have_these_bytes),
        cmocka_unit_test(completions_have_these_bytes),
        cmocka_unit_test(generated_replies_have_these_bytes),
        cmocka_unit_test(logprobs_are_numbers_json_knows),
    };
    return cmocka_run_group_tests(tests, load, unload);
}
