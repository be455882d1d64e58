/* eval_http.c - `proa eval --url`: the same questions, asked of a server that runs elsewhere.
 *
 * Each question is one chat request, greedy, whose answer comes in one piece with the reasoning left in place, so that what is judged is
 * what the engine would have given. Nothing is asked twice: a request that fails is an error of the server under test. (The library itself
 * repeats a request when a kept connection turns out to have been closed before it.)
 */
#include "cmd/eval.h"

#include "base/progress.h"
#include "net/http_client.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ANSWER_BYTES_MAX = 16 << 20, ANSWER_US = 600000000, MODELS_US = 10000000, TURN_US = 100000 };

typedef struct interview {
    const proa_options *options;
    proa_http_client *client;
    char url[2048]; /* of /v1/chat/completions */
    char bearer[1100];
    const char *headers[1];
    size_t header_count;
    proa_json *model; /* the name to send */
    proa_question *questions;
    size_t count;
    size_t next;   /* to be asked */
    size_t active; /* asked, not answered */
    proa_arena *arena;
    proa_progress progress;
    size_t errors;
    proa_error first; /* of those */
} interview;

typedef struct asking {
    interview *owner;
    proa_question *question;
} asking;

/* ---- one answer ---- */

static void note_error(interview *v, proa_question *q, const proa_error *why)
{
    if (v->errors++ == 0)
        v->first = *why;
    q->output = q->answer = "";
    q->right = false;
}

/* What the server says went wrong: the error's message, or the body's beginning. */
static void set_refusal(const proa_question *q, const proa_http_result *result, proa_error *err)
{
    proa_json *body = proa_json_parse(result->body, result->length, NULL);
    const char *text = proa_json_string(proa_json_get(proa_json_get(body, "error"), "message"), result->body);
    proa_error_set(err, PROA_ERR_INTERNAL, "question %lld: status %d: %.300s", (long long)q->id, result->code,
                   text);
    proa_json_free(body);
}

/* Some servers take the reasoning out in spite of separate_reasoning: then it is put back in front. */
static bool join_text(const proa_json *message, proa_buf *text)
{
    const proa_json *reasoning = proa_json_get(message, "reasoning_content");
    const proa_json *content = proa_json_get(message, "content");
    if (proa_json_is(reasoning, PROA_JSON_STRING)) {
        proa_buf_append(text, proa_json_string(reasoning, ""), proa_json_string_length(reasoning));
        proa_buf_append_text(text, "</think>");
    }
    if (proa_json_is(content, PROA_JSON_STRING))
        proa_buf_append(text, proa_json_string(content, ""), proa_json_string_length(content));
    else if (text->length == 0)
        return false;
    return !text->failed;
}

static proa_status read_answer(interview *v, proa_question *q, const proa_http_result *result,
                               proa_error *err)
{
    proa_buf text = {0};
    proa_json *body = proa_json_parse(result->body, result->length, err);
    if (body == NULL)
        return proa_error_prefix(err, "question %lld: the answer", (long long)q->id);
    const proa_json *choice = proa_json_at(proa_json_get(body, "choices"), 0);
    const proa_json *finish = proa_json_get(choice, "finish_reason");
    proa_status status;
    if (join_text(proa_json_get(choice, "message"), &text))
        status = proa_question_judge(q, proa_buf_text(&text), text.length, v->arena, err);
    else
        status =
            proa_error_set(err, PROA_ERR_PROTOCOL,
                           "question %lld: the answer has no choices[0].message.content", (long long)q->id);
    /* usage counts the token that stopped the answer; `proa eval` does not */
    q->tokens = (int32_t)proa_json_int(proa_json_get(proa_json_get(body, "usage"), "completion_tokens"), 0);
    if (q->tokens > 0 && strcmp(proa_json_string(finish, ""), "stop") == 0)
        q->tokens--;
    proa_buf_free(&text);
    proa_json_free(body);
    return status;
}

static void take_answer(void *context, const proa_http_result *result)
{
    asking *a = context;
    interview *v = a->owner;
    proa_error err = {0};
    if (result->status != PROA_OK)
        err = *result->error;
    else if (result->code != 200)
        set_refusal(a->question, result, &err);
    else
        read_answer(v, a->question, result, &err);
    if (err.status != PROA_OK)
        note_error(v, a->question, &err);
    proa_progress_add(&v->progress, 1);
    v->active--;
    free(a);
}

static proa_status ask(interview *v, proa_question *q, proa_error *err)
{
    proa_buf body = {0};
    proa_buf_append_text(&body, "{\"messages\":[{\"role\":\"user\",\"content\":");
    proa_json_write_string(q->text, strlen(q->text), &body);
    proa_buf_append_format(&body, "}],\"temperature\":0,\"max_tokens\":%lld,\"separate_reasoning\":false,",
                           (long long)proa_options_int(v->options, "max-new-tokens"));
    proa_buf_append_text(&body, "\"skip_special_tokens\":false,\"model\":");
    proa_json_write(v->model, 0, &body);
    proa_buf_append_char(&body, '}');
    asking *a = malloc(sizeof *a);
    proa_status status = PROA_ERR_MEMORY;
    if (a != NULL && !body.failed) {
        *a = (asking){v, q};
        const proa_http_request request = {.url = v->url,
                                           .body = body.data,
                                           .length = body.length,
                                           .headers = v->headers,
                                           .header_count = v->header_count,
                                           .timeout_us = ANSWER_US,
                                           .body_limit = ANSWER_BYTES_MAX,
                                           .done = take_answer,
                                           .context = a};
        status = proa_http_client_start(v->client, &request, NULL, err);
    } else {
        proa_error_set(err, status, "no memory for the questions");
    }
    if (status == PROA_OK)
        v->active++;
    else
        free(a);
    proa_buf_free(&body);
    return status;
}

/* ---- the whole ---- */

/* The first model that the server has. Also shows at once when there is no server, or a key is needed. */
static proa_status find_model(interview *v, const char *base, proa_error *err)
{
    char url[2100];
    proa_buf body = {0};
    int code = 0;
    snprintf(url, sizeof url, "%s/v1/models", base);
    const proa_http_request request = {
        .url = url, .headers = v->headers, .header_count = v->header_count, .timeout_us = MODELS_US};
    proa_status status = proa_http_client_fetch(v->client, &request, &code, &body, err);
    proa_json *json = status == PROA_OK ? proa_json_parse(proa_buf_text(&body), body.length, NULL) : NULL;
    proa_json *id = proa_json_get(proa_json_at(proa_json_get(json, "data"), 0), "id");
    if (status == PROA_OK && code == 401)
        status = proa_error_set(err, PROA_ERR_INVALID, "%s asks for a key: give --api-key", base);
    else if (status == PROA_OK && (code != 200 || !proa_json_is(id, PROA_JSON_STRING)))
        status = proa_error_set(err, PROA_ERR_PROTOCOL, "%s answers with status %d and no model: %.200s", url,
                                code, proa_buf_text(&body));
    if (status == PROA_OK)
        v->model = proa_json_ref(id);
    proa_json_free(json);
    proa_buf_free(&body);
    return status;
}

static proa_status open_interview(interview *v, proa_error *err)
{
    char base[1024];
    const char *url = proa_options_string(v->options, "url"),
               *key = proa_options_string(v->options, "api-key");
    size_t length = strlen(url);
    while (length > 0 && url[length - 1] == '/')
        length--;
    if (length >= sizeof base || (key != NULL && strlen(key) > 1000))
        return proa_error_set(err, PROA_ERR_TOO_LONG, "--url or --api-key is longer than 1000 characters");
    snprintf(base, sizeof base, "%.*s", (int)length, url);
    snprintf(v->url, sizeof v->url, "%s/v1/chat/completions", base);
    if (key != NULL) {
        snprintf(v->bearer, sizeof v->bearer, "Authorization: Bearer %s", key);
        v->headers[v->header_count++] = v->bearer;
    }
    const proa_http_client_options options = {.connections_per_host = 0};
    proa_status status = proa_http_client_create(&options, &v->client, err);
    return status == PROA_OK ? find_model(v, base, err) : status;
}

proa_status proa_eval_over_http(const proa_options *options, proa_question *questions, size_t count,
                                proa_arena *arena, proa_eval_run *run, proa_error *err)
{
    interview v = {.options = options, .questions = questions, .count = count, .arena = arena};
    size_t concurrency = (size_t)proa_options_int(options, "concurrency");
    proa_status status = open_interview(&v, err);
    if (status == PROA_OK) {
        proa_progress_start(&v.progress, "asking", count, "questions");
        while (status == PROA_OK && (v.next < count || v.active > 0)) {
            while (status == PROA_OK && v.next < count && v.active < concurrency)
                status = ask(&v, &questions[v.next++], err);
            proa_http_client_run(v.client, -1, TURN_US);
        }
        run->seconds = proa_progress_finish(&v.progress);
    }
    run->errors = v.errors;
    run->first_error = v.first;
    proa_http_client_free(v.client);
    proa_json_free(v.model);
    return status;
}
