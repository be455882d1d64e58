/* prepare.c - jobs and their threads. */
#include "serve/prepare.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { JSON_VALUES_MAX = 4 << 20, THREADS_MAX = 8 };

void proa_job_free(proa_job *job)
{
    if (job == NULL)
        return;
    for (int32_t i = 0; job->prompts != NULL && i < job->request->prompt_count; i++)
        proa_ids_free(&job->prompts[i]);
    for (int32_t i = 0; job->echoes != NULL && i < job->request->prompt_count; i++)
        proa_buf_free(&job->echoes[i]);
    free(job->prompts);
    free(job->echoes);
    proa_api_request_free(job->request);
    proa_buf_free(&job->body);
    proa_buf_free(&job->reply);
    free(job);
}

size_t proa_serve_token_bytes_max(const proa_tokenizer *tokenizer)
{
    size_t most = 1;
    for (int32_t id = 0; id < proa_tokenizer_vocab_size(tokenizer); id++) {
        size_t length;
        if (proa_tokenizer_bytes(tokenizer, id, &length) != NULL && length > most)
            most = length;
    }
    return most;
}

/* --- checks --- */

/* A parsed value takes about forty bytes, whatever it is: commas outside of strings bound their number. */
static bool check_weight(const proa_buf *body, proa_api_error *error)
{
    size_t commas = 0;
    bool quoted = false;
    const char *text = proa_buf_text(body);
    for (size_t i = 0; i < body->length; i++) {
        if (text[i] == '"')
            quoted = !quoted;
        else if (text[i] == '\\' && quoted)
            i++;
        else if (text[i] == ',' && !quoted)
            commas++;
    }
    if (commas < JSON_VALUES_MAX)
        return true;
    return proa_api_error_set(error, 413, NULL, NULL, "the body has over %d JSON values", JSON_VALUES_MAX);
}

static bool too_long(const proa_serve_model *model, const proa_api_request *request, size_t tokens,
                     const char *about, proa_api_error *error)
{
    const char *param = request->api == PROA_API_CHAT          ? "messages"
                        : request->api == PROA_API_COMPLETIONS ? "prompt"
                                                               : "text";
    int32_t context = model->limits.context_length, wanted = request->params.max_tokens;
    if (wanted == 0 || tokens >= (size_t)context)
        return proa_api_error_set(
            error, 400, param, "context_length_exceeded",
            "This model's maximum context length is %d tokens. However, your prompt has %s%zu "
            "tokens. Please shorten it.",
            context, about, tokens);
    return proa_api_error_set(
        error, 400, param, "context_length_exceeded",
        "This model's maximum context length is %d tokens. However, you requested %zu tokens "
        "(%zu in the prompt, %d in the completion). Please reduce either.",
        context, tokens + (size_t)wanted, tokens, wanted);
}

/* Before any work is spent on a text: even if all of it were the longest token, would it fit? */
static bool check_bytes(const proa_serve_model *model, const proa_api_request *request, size_t bytes,
                        proa_api_error *error)
{
    size_t least = bytes / model->token_bytes_max;
    return least < (size_t)model->limits.context_length ||
           too_long(model, request, least, "at least ", error);
}

static bool check_tokens(const proa_serve_model *model, const proa_api_request *request, size_t tokens,
                         proa_api_error *error)
{
    int64_t context = model->limits.context_length;
    if (tokens == 0)
        return proa_api_error_field(error, request->api == PROA_API_GENERATE ? "text" : "prompt",
                                    "the prompt is empty: this model needs at least one token to begin with");
    /* without max_tokens there must be room for one */
    int64_t wanted = request->params.max_tokens > 0 ? request->params.max_tokens : 1;
    return (int64_t)tokens + wanted <= context || too_long(model, request, tokens, "", error);
}

/* --- prompts --- */

static bool prepare_chat(proa_job *job, const proa_serve_model *model, proa_encoder *encoder)
{
    proa_template_output prompt = {0};
    proa_error err = {0};
    proa_status status = proa_chat_format_render(model->chat, job->request, &prompt, &err);
    bool good = status == PROA_OK || proa_api_error_from(&job->error, &err, "messages");
    good = good && check_bytes(model, job->request, prompt.text.length, &job->error);
    if (good) {
        job->reasoning = proa_chat_format_reasoning(model->chat, model->reasoning, job->request, &prompt);
        status = proa_chat_format_encode(encoder, &prompt, &job->prompts[0], &err);
        good = status == PROA_OK || proa_api_error_from(&job->error, &err, "messages");
    }
    proa_template_output_free(&prompt);
    return good;
}

static bool no_memory(proa_api_error *error)
{
    return proa_api_error_set(error, 503, NULL, "overloaded", "out of memory for this request");
}

/* A plain text: added tokens in it count, since its author writes the model's language directly. */
static bool encode_text(const proa_serve_model *model, proa_encoder *encoder, const char *text, size_t length,
                        bool add_special_tokens, proa_ids *ids, proa_api_error *error)
{
    const char *bos = proa_chat_format_bos(model->chat);
    proa_error err = {0};
    if (add_special_tokens && proa_chat_format_adds_bos(model->chat) &&
        strncmp(text, bos, strlen(bos)) != 0 && !proa_ids_push(ids, proa_tokenizer_id(model->tokenizer, bos)))
        return no_memory(error);
    return proa_encode(encoder, text, length, true, ids, &err) == PROA_OK ||
           proa_api_error_from(error, &err, "prompt");
}

static bool prepare_prompt(proa_job *job, const proa_serve_model *model, proa_encoder *encoder, int32_t i)
{
    const proa_api_request *request = job->request;
    const proa_api_prompt *prompt = &request->prompts[i];
    proa_ids *ids = &job->prompts[i];
    if (prompt->ids == NULL) {
        if (!check_bytes(model, request, prompt->text_length, &job->error) ||
            !encode_text(model, encoder, prompt->text, prompt->text_length, request->add_special_tokens, ids,
                         &job->error))
            return false;
    }
    for (int32_t k = 0; prompt->ids != NULL && k < prompt->id_count; k++) {
        if (!proa_ids_push(ids, prompt->ids[k]))
            return no_memory(&job->error);
    }
    if (job->echoes != NULL && prompt->ids == NULL)
        proa_buf_append(&job->echoes[i], prompt->text, prompt->text_length);
    else if (job->echoes != NULL)
        proa_decode(model->tokenizer, ids->data, ids->count, request->params.skip_special_tokens,
                    &job->echoes[i]);
    return true;
}

static bool prepare_prompts(proa_job *job, const proa_serve_model *model, proa_encoder *encoder)
{
    proa_api_request *request = job->request;
    job->prompts = calloc((size_t)request->prompt_count, sizeof *job->prompts);
    job->echoes = request->echo ? calloc((size_t)request->prompt_count, sizeof *job->echoes) : NULL;
    if (job->prompts == NULL || (request->echo && job->echoes == NULL))
        return no_memory(&job->error);
    for (int32_t i = 0; i < request->prompt_count; i++) {
        bool good = request->api == PROA_API_CHAT ? prepare_chat(job, model, encoder)
                                                  : prepare_prompt(job, model, encoder, i);
        if (!good || !check_tokens(model, request, job->prompts[i].count, &job->error))
            return false;
    }
    return proa_stop_set_init(&job->stops, request->params.stops, request->params.stop_count,
                              request->arena) ||
           no_memory(&job->error);
}

static bool prepare_generation(proa_job *job, proa_json *body, const proa_serve_model *model,
                               proa_encoder *encoder)
{
    static bool (*const parsers[])(proa_json *, const proa_api_limits *, proa_api_request **,
                                   proa_api_error *) = {
        [PROA_JOB_CHAT] = proa_chat_request_parse,
        [PROA_JOB_COMPLETIONS] = proa_completions_request_parse,
        [PROA_JOB_GENERATE] = proa_generate_request_parse,
    };
    if (!parsers[job->kind](body, &model->limits, &job->request, &job->error))
        return false;
    bool good = prepare_prompts(job, model, encoder);
    proa_api_request_drop_body(job->request);
    return good;
}

/* --- /tokenize and /detokenize, as vLLM has them --- */

static bool tokenize_messages(proa_job *job, proa_json *body, const proa_serve_model *model,
                              proa_encoder *encoder)
{
    proa_json_ref(body); /* the parser takes one reference over */
    if (!proa_chat_request_parse(body, &model->limits, &job->request, &job->error))
        return false;
    job->prompts = calloc(1, sizeof *job->prompts);
    if (job->prompts == NULL)
        return no_memory(&job->error);
    return prepare_chat(job, model, encoder);
}

static bool tokenize_prompt(proa_job *job, const proa_fields *fields, const proa_serve_model *model,
                            proa_encoder *encoder, proa_ids *ids)
{
    bool add_special_tokens = true;
    const proa_json *prompt = proa_field(fields, "prompt");
    if (!proa_json_is(prompt, PROA_JSON_STRING))
        return proa_api_error_field(fields->error, "prompt", "give prompt (a string) or messages");
    return proa_field_bool(fields, "add_special_tokens", &add_special_tokens) &&
           encode_text(model, encoder, proa_json_string(prompt, ""), proa_json_string_length(prompt),
                       add_special_tokens, ids, &job->error);
}

static bool run_tokenize(proa_job *job, proa_json *body, const proa_serve_model *model, proa_encoder *encoder)
{
    const proa_fields fields = {body, "", &job->error};
    bool with_strings = false, messages = proa_field(&fields, "messages") != NULL;
    proa_ids own = {0};
    bool good = proa_field_bool(&fields, "return_token_strs", &with_strings) &&
                (messages ? tokenize_messages(job, body, model, encoder)
                          : tokenize_prompt(job, &fields, model, encoder, &own));
    const proa_ids *ids = messages && good ? &job->prompts[0] : &own;
    proa_buf *out = &job->reply;
    proa_buf_append_format(out, "{\"count\":%zu,\"max_model_len\":%d,\"tokens\":[", ids->count,
                           model->limits.context_length);
    for (size_t i = 0; i < ids->count; i++)
        proa_buf_append_format(out, i > 0 ? ",%d" : "%d", ids->data[i]);
    proa_buf_append_text(out, "],\"token_strs\":");
    proa_buf_append_text(out, with_strings ? "[" : "null}");
    for (size_t i = 0; with_strings && i < ids->count; i++) {
        size_t length;
        const char *bytes = proa_tokenizer_bytes(model->tokenizer, ids->data[i], &length);
        if (i > 0)
            proa_buf_append_char(out, ',');
        proa_json_write_string(bytes != NULL ? bytes : "", length, out);
    }
    if (with_strings)
        proa_buf_append_text(out, "]}");
    proa_ids_free(&own);
    return good;
}

static bool run_detokenize(proa_job *job, proa_json *body, const proa_serve_model *model)
{
    const proa_fields fields = {body, "", &job->error};
    proa_json *tokens = NULL;
    if (!proa_field_typed(&fields, "tokens", PROA_JSON_ARRAY, &tokens))
        return false;
    if (tokens == NULL)
        return proa_api_error_field(&job->error, "tokens", "tokens is missing");
    proa_ids ids = {0};
    proa_buf text = {0};
    bool good = true;
    for (size_t i = 0; good && i < proa_json_size(tokens); i++) {
        int64_t id = proa_json_int(proa_json_at(tokens, i), -1);
        if (id < 0 || id >= model->limits.vocab_size)
            good = proa_api_error_field(&job->error, "tokens", "tokens must be ids from 0 to %d",
                                        model->limits.vocab_size - 1);
        else if (!proa_ids_push(&ids, (int32_t)id))
            good = no_memory(&job->error);
    }
    proa_decode(model->tokenizer, ids.data, ids.count, false, &text);
    proa_buf_append_text(&job->reply, "{\"prompt\":");
    proa_json_write_string(proa_buf_text(&text), text.length, &job->reply);
    proa_buf_append_char(&job->reply, '}');
    proa_buf_free(&text);
    proa_ids_free(&ids);
    return good;
}

void proa_job_run(proa_job *job, const proa_serve_model *model, proa_encoder *encoder)
{
    if (!check_weight(&job->body, &job->error))
        return;
    proa_error err = {0};
    proa_json *body = proa_json_parse(proa_buf_text(&job->body), job->body.length, &err);
    if (body == NULL) {
        proa_api_error_from(&job->error, &err, NULL);
        return;
    }
    bool good;
    if (job->kind <= PROA_JOB_GENERATE) {
        good = prepare_generation(job, body, model, encoder); /* takes the body over */
    } else {
        good = job->kind == PROA_JOB_TOKENIZE ? run_tokenize(job, body, model, encoder)
                                              : run_detokenize(job, body, model);
        proa_json_free(body);
    }
    PROA_ASSERT(good == (job->error.status == 0));
}

/* --- threads --- */

struct proa_preparer {
    const proa_serve_model *model;
    proa_mailbox *jobs;
    proa_mailbox *done;
    int count;
    pthread_t threads[THREADS_MAX];
    proa_encoder *encoders[THREADS_MAX];
    _Atomic bool stopping;
    _Atomic int started; /* hands each thread its encoder */
};

static void *run_thread(void *context)
{
    proa_preparer *p = context;
    proa_encoder *encoder = p->encoders[atomic_fetch_add(&p->started, 1)];
    while (!atomic_load(&p->stopping)) {
        proa_job *job = proa_mailbox_wait(p->jobs, 1000000);
        if (job == NULL)
            continue;
        proa_job_run(job, p->model, encoder);
        if (proa_mailbox_send(p->done, job) != PROA_OK)
            proa_job_free(job); /* closed: the server has stopped */
    }
    return NULL;
}

proa_status proa_preparer_start(const proa_serve_model *model, int threads, size_t jobs_max,
                                proa_mailbox *done, proa_preparer **preparer, proa_error *err)
{
    proa_preparer *p = calloc(1, sizeof *p);
    if (p == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for the tokenizer threads");
    p->model = model;
    p->done = done;
    p->jobs = proa_mailbox_create(jobs_max, NULL, NULL);
    bool good = p->jobs != NULL;
    for (int i = 0; good && i < threads && i < THREADS_MAX; i++) {
        p->encoders[i] = proa_encoder_create(model->tokenizer);
        good = p->encoders[i] != NULL;
    }
    for (int i = 0; good && i < threads && i < THREADS_MAX; i++) {
        good = pthread_create(&p->threads[i], NULL, run_thread, p) == 0;
        p->count += good;
    }
    if (!good) {
        proa_preparer_stop(p);
        return proa_error_set(err, PROA_ERR_MEMORY, "cannot start %d tokenizer threads", threads);
    }
    *preparer = p;
    return PROA_OK;
}

void proa_preparer_stop(proa_preparer *preparer)
{
    if (preparer == NULL)
        return;
    atomic_store(&preparer->stopping, true);
    if (preparer->jobs != NULL)
        proa_mailbox_close(preparer->jobs);
    for (int i = 0; i < preparer->count; i++)
        pthread_join(preparer->threads[i], NULL);
    for (int i = 0; i < THREADS_MAX; i++)
        proa_encoder_free(preparer->encoders[i]);
    for (proa_job *job; preparer->jobs != NULL && (job = proa_mailbox_take(preparer->jobs)) != NULL;)
        proa_job_free(job);
    proa_mailbox_free(preparer->jobs);
    free(preparer);
}

proa_status proa_preparer_send(proa_preparer *preparer, proa_job *job)
{
    return proa_mailbox_send(preparer->jobs, job);
}
