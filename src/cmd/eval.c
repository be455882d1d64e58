/* eval.c - `proa eval`: asks a model questions whose answers can be checked, greedily, and counts.
 *
 * The questions go the way of chat requests (template, tokenizer, engine with its scheduler and caches), all at once, so
 * that every feature that a flag turns on is under the same test: accuracy must not move. With --url another process is asked
 * instead (eval_http.c).
 */
#include "cmd/eval.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/progress.h"
#include "cmd/cmd.h"
#include "cmd/load.h"
#include "cmd/record.h"
#include "engine/engine.h"
#include "serve/prepare.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STALL_S = 120, ARENA_BYTES_MAX = 1 << 30 };

typedef struct evaluation evaluation;

/* One question on its way through the engine. The engine's thread writes ids; finish publishes them. */
typedef struct asking {
    evaluation *owner;
    proa_ids ids;
    bool failed;
    bool done;
    proa_error error;
} asking;

struct evaluation {
    const proa_options *options;
    proa_loaded loaded;
    proa_tokenizer *tokenizer;
    proa_encoder *encoder;
    proa_chat_format *chat;
    proa_forward *forward;
    proa_engine *engine;
    proa_recording recording;
    proa_serve_model model;
    proa_arena *arena;
    proa_question *questions;
    size_t count;
    asking *askings;
    proa_progress progress;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    size_t done; /* under the mutex */
};

static void take_token(void *context, const proa_sample_result *token, bool stop)
{
    asking *a = context;
    if (!stop && !proa_ids_push(&a->ids, token->token))
        a->failed = true;
}

static void take_finish(void *context, const proa_engine_finish *finish)
{
    asking *a = context;
    evaluation *e = a->owner;
    if (finish->reason == PROA_FINISH_ABORT) {
        a->failed = true;
        a->error = finish->error;
    }
    proa_progress_add(&e->progress, 1);
    pthread_mutex_lock(&e->mutex);
    a->done = true;
    e->done++;
    pthread_cond_signal(&e->changed);
    pthread_mutex_unlock(&e->mutex);
}

static proa_status read_questions(evaluation *e, const char *dir, proa_error *err)
{
    const char *given = proa_options_string(e->options, "questions");
    char path[4200];
    snprintf(path, sizeof path, "%s/eval.jsonl", dir);
    e->arena = proa_arena_create(ARENA_BYTES_MAX);
    if (e->arena == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for the questions");
    proa_status status =
        proa_questions_read(given != NULL ? given : path, proa_options_int(e->options, "limit"), e->arena,
                            &e->questions, &e->count, err);
    if (status == PROA_ERR_NOT_FOUND)
        return proa_error_set(err, status, "no questions: %s does not exist; give --questions FILE", path);
    if (status != PROA_OK)
        return status;
    e->askings = calloc(e->count, sizeof *e->askings);
    return e->askings != NULL ? PROA_OK : proa_error_set(err, PROA_ERR_MEMORY, "no memory for the questions");
}

static proa_status load_text(evaluation *e, proa_error *err)
{
    proa_status status = proa_tokenizer_load(e->loaded.dir, &e->tokenizer, err);
    if (status == PROA_OK)
        status = proa_chat_format_load(e->loaded.dir, NULL, &e->chat, err);
    if (status != PROA_OK)
        return status;
    if (!proa_chat_format_has_template(e->chat))
        return proa_error_set(err, PROA_ERR_INVALID,
                              "%s has no chat template, which questions are asked through", e->loaded.dir);
    e->encoder = proa_encoder_create(e->tokenizer);
    if (e->encoder == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for the tokenizer");
    e->model = (proa_serve_model){
        .path = e->loaded.dir,
        .tokenizer = e->tokenizer,
        .chat = e->chat,
        .reasoning = PROA_REASONING_MODE_NONE,
        .token_bytes_max = proa_serve_token_bytes_max(e->tokenizer),
        .limits = {.model_name = "eval",
                   .vocab_size = e->loaded.config.vocab_size,
                   .context_length = e->loaded.config.max_position_embeddings,
                   .choices_max = 1,
                   .top_p = 1,
                   .top_k = -1},
    };
    return PROA_OK;
}

static proa_status start_engine(evaluation *e, proa_error *err)
{
    int32_t running = (int32_t)proa_options_int(e->options, "max-running-requests");
    int32_t most_tokens = (int32_t)proa_options_int(e->options, "max-new-tokens");
    int32_t context = e->loaded.config.max_position_embeddings;
    int64_t tokens = proa_options_given(e->options, "max-total-tokens")
                         ? proa_options_int(e->options, "max-total-tokens")
                         : (int64_t)running * (most_tokens + 512);
    int64_t cap = (int64_t)running * context;
    tokens = (tokens < cap ? tokens : cap) / PROA_KV_BLOCK_TOKENS * PROA_KV_BLOCK_TOKENS;
    proa_engine_options options = {
        .max_running_requests = running,
        .max_queued_requests = (int32_t)e->count,
        .max_total_tokens = tokens >= PROA_KV_BLOCK_TOKENS ? (int32_t)tokens : PROA_KV_BLOCK_TOKENS,
        .chunked_prefill_size = (int32_t)proa_options_int(e->options, "chunked-prefill-size"),
        .context_length = context,
        .page_size = (int32_t)proa_options_int(e->options, "page-size"),
        .disable_radix_cache = proa_options_bool(e->options, "disable-radix-cache"),
        .schedule_policy = strcmp(proa_options_string(e->options, "schedule-policy"), "lpm") == 0
                               ? PROA_SCHEDULE_LPM
                               : PROA_SCHEDULE_FCFS,
    };
    proa_forward_limits limits;
    proa_status status = proa_engine_forward_limits(&options, &limits, err);
    limits.kv_cache = e->loaded.kv_cache;
    if (status == PROA_OK)
        status = proa_loaded_forward(&e->loaded, e->options, &limits, false, &e->forward, err);
    if (status == PROA_OK)
        status = proa_recording_start(&e->recording, e->options, &e->loaded.config, e->forward, err);
    if (status == PROA_OK)
        status =
            proa_engine_start(&options, &e->loaded.config, e->forward, e->loaded.device, &e->engine, err);
    return status;
}

/* The prompt's ids of a question, made as the server makes those of a chat request. */
static proa_status make_prompt(evaluation *e, const proa_question *q, proa_job **out, proa_error *err)
{
    proa_job *job = calloc(1, sizeof *job);
    if (job == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for a prompt");
    job->kind = PROA_JOB_CHAT;
    proa_buf_append_text(&job->body, "{\"messages\":[{\"role\":\"user\",\"content\":");
    proa_json_write_string(q->text, strlen(q->text), &job->body);
    proa_buf_append_format(&job->body, "}],\"temperature\":0,\"max_tokens\":%lld}",
                           (long long)proa_options_int(e->options, "max-new-tokens"));
    proa_job_run(job, &e->model, e->encoder);
    if (job->error.status != 0) {
        proa_error_set(err, PROA_ERR_INVALID, "question %lld: %s", (long long)q->id, job->error.message);
        proa_job_free(job);
        return PROA_ERR_INVALID;
    }
    *out = job;
    return PROA_OK;
}

static proa_status ask(evaluation *e, size_t index, proa_error *err)
{
    proa_job *job = NULL;
    proa_status status = make_prompt(e, &e->questions[index], &job, err);
    if (status != PROA_OK)
        return status;
    asking *a = &e->askings[index];
    a->owner = e;
    uint64_t id;
    proa_engine_request request = {
        .prompt_ids = job->prompts[0].data,
        .prompt_count = (int32_t)job->prompts[0].count,
        .max_new_tokens = (int32_t)proa_options_int(e->options, "max-new-tokens"),
        .temperature = 0,
        .top_k = -1,
        .top_p = 1,
        .repetition_penalty = 1,
        .top_logprobs = -1,
        .credit = INT32_MAX,
        .sink = {.token = take_token, .finish = take_finish, .context = a},
    };
    status = proa_engine_submit(e->engine, &request, &id, err);
    proa_job_free(job);
    return status;
}

/* Waits for all answers; fails when the engine makes no step for STALL_S. */
static proa_status wait_for_answers(evaluation *e, proa_error *err)
{
    int64_t last_progress_us = proa_clock_us(), last_step_us = 0;
    size_t done = 0;
    while (done < e->count) {
        struct timespec deadline = proa_clock_deadline(1000000);
        pthread_mutex_lock(&e->mutex);
        while (e->done < e->count && pthread_cond_timedwait(&e->changed, &e->mutex, &deadline) == 0)
            ;
        done = e->done;
        pthread_mutex_unlock(&e->mutex);
        proa_engine_stats stats;
        proa_engine_get_stats(e->engine, &stats);
        if (stats.last_step_us != last_step_us)
            last_progress_us = proa_clock_us();
        last_step_us = stats.last_step_us;
        if (done < e->count && proa_clock_us() - last_progress_us > (int64_t)STALL_S * 1000000)
            return proa_error_set(err, PROA_ERR_DEADLINE,
                                  "the engine has made no step for %d s, %zu of %zu answered", STALL_S, done,
                                  e->count);
    }
    return PROA_OK;
}

static proa_status judge(evaluation *e, proa_error *err)
{
    proa_status status = PROA_OK;
    for (size_t i = 0; status == PROA_OK && i < e->count; i++) {
        const asking *a = &e->askings[i];
        if (a->failed)
            return proa_error_set(err, PROA_ERR_INTERNAL, "question %lld failed: %s",
                                  (long long)e->questions[i].id, a->error.text);
        proa_buf text = {0};
        proa_decode(e->tokenizer, a->ids.data, a->ids.count, false, &text);
        e->questions[i].tokens = (int32_t)a->ids.count;
        status = proa_question_judge(&e->questions[i], proa_buf_text(&text), text.length, e->arena, err);
        proa_buf_free(&text);
    }
    return status;
}

static proa_status ask_here(evaluation *e, double *seconds, proa_error *err)
{
    proa_status status = proa_loaded_open(e->options, &e->loaded, err);
    if (status == PROA_OK)
        status = read_questions(e, e->loaded.dir, err);
    if (status == PROA_OK)
        status = load_text(e, err);
    if (status == PROA_OK)
        status = start_engine(e, err);
    if (status != PROA_OK)
        return status;
    proa_progress_start(&e->progress, "asking", e->count, "questions");
    for (size_t i = 0; status == PROA_OK && i < e->count; i++)
        status = ask(e, i, err);
    if (status == PROA_OK)
        status = wait_for_answers(e, err);
    *seconds = proa_progress_finish(&e->progress);
    if (status != PROA_OK)
        return status;
    proa_engine_stop(e->engine); /* nothing steps while the record is written */
    e->engine = NULL;
    status = proa_recording_write(&e->recording, err);
    return status == PROA_OK ? judge(e, err) : status;
}

static proa_status ask_server(evaluation *e, proa_eval_run *run, proa_error *err)
{
    char dir[4096];
    if (proa_options_string(e->options, "expert-load") != NULL)
        return proa_error_set(err, PROA_ERR_INVALID,
                              "--expert-load records a model that runs here; leave --url away");
    proa_status status = proa_model_dir(e->options, dir, sizeof dir, err);
    if (status == PROA_OK)
        status = read_questions(e, dir, err);
    if (status == PROA_OK)
        status = proa_eval_over_http(e->options, e->questions, e->count, e->arena, run, err);
    return status;
}

static void release(evaluation *e)
{
    proa_engine_stop(e->engine); /* first: its callbacks use the rest */
    proa_forward_free(e->forward);
    proa_recording_free(&e->recording);
    proa_encoder_free(e->encoder);
    proa_chat_format_free(e->chat);
    proa_tokenizer_free(e->tokenizer);
    proa_loaded_close(&e->loaded);
    for (size_t i = 0; e->askings != NULL && i < e->count; i++)
        proa_ids_free(&e->askings[i].ids);
    free(e->askings);
    proa_arena_free(e->arena);
    pthread_cond_destroy(&e->changed);
    pthread_mutex_destroy(&e->mutex);
}

static proa_status report(const evaluation *e, const proa_eval_run *run, proa_error *err)
{
    const char *output = proa_options_string(e->options, "output");
    const char *summary = proa_options_string(e->options, "json");
    proa_questions_print(e->questions, e->count, run);
    proa_status status = PROA_OK;
    if (output != NULL)
        status = proa_questions_write(e->questions, e->count, output, err);
    if (status == PROA_OK && summary != NULL)
        status = proa_questions_write_summary(e->questions, e->count, run, summary, err);
    if (status == PROA_OK && run->errors > 0)
        status =
            proa_error_set(err, run->first_error.status, "%zu of %zu questions had no answer; the first: %s",
                           run->errors, e->count, run->first_error.text);
    return status;
}

int proa_cmd_eval(const proa_options *options)
{
    evaluation e = {.options = options};
    proa_error err = {0};
    proa_eval_run run = {0};
    proa_log_set_level(proa_options_string(options, "log-level"));
    pthread_mutex_init(&e.mutex, NULL);
    proa_clock_cond_init(&e.changed);
    bool elsewhere = proa_options_string(options, "url") != NULL;
    proa_status status = elsewhere ? ask_server(&e, &run, &err) : ask_here(&e, &run.seconds, &err);
    if (status == PROA_OK)
        status = report(&e, &run, &err);
    release(&e);
    return status == PROA_OK ? PROA_EXIT_OK : proa_cmd_fail(&err);
}
