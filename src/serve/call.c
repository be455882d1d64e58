/* call.c - the life of a call; drawn in call.h. Entry points end in settle(), which alone frees. */
#include "serve/call.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/random.h"
#include "serve/answer.h"
#include "serve/reply.h"
#include "serve/server_internal.h"
#include "serve/sse.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    WAITING_BYTES_MAX = 32768, /* of a stream in the connection: beyond, no token is taken */
    HEALTH_DEADLINE_US = 20000000,
};

/* One choice on its way. */
typedef struct lane {
    proa_stream stream; /* first: messages lead here */
    proa_call *call;
    uint64_t id; /* the backend's */
    proa_answer answer;
    proa_reply_choice *choice;
    int64_t token_us; /* when its latest token came; 0: none yet */
    bool submitted;
    bool finished; /* the backend has said its last */
    bool ended;    /* the reply has said how it ended */
} lane;

struct proa_call {
    proa_server *server;
    proa_call *next;
    proa_call *previous;
    proa_http_exchange *exchange; /* NULL: nobody listens any more */
    proa_job *job;                /* while it is here */
    bool job_out;
    bool health;
    bool started; /* the stream's head is written */
    bool failed;
    int64_t start_us;
    int64_t deadline_us; /* 0: none */
    proa_answer_options answer_options;
    proa_reply reply;
    char id[132];
    proa_reply_choice *choices;
    lane *lanes;
    int32_t lane_count;
    int32_t submitted;
    int32_t open; /* submitted and not finished */
    int32_t ended;
};

/* --- life --- */

static proa_call *create(proa_server *server, proa_http_exchange *exchange, proa_job_kind kind)
{
    proa_call *c = calloc(1, sizeof *c);
    proa_job *job = calloc(1, sizeof *job);
    if (c == NULL || job == NULL) {
        free(c);
        free(job);
        return NULL;
    }
    job->kind = kind;
    job->owner = c;
    c->job = job;
    c->server = server;
    c->exchange = exchange;
    c->start_us = proa_clock_us();
    snprintf(c->id, sizeof c->id, "%s", proa_http_exchange_id(exchange));
    c->next = server->calls;
    if (c->next != NULL)
        c->next->previous = c;
    server->calls = c;
    server->call_count++;
    proa_http_exchange_set_user(exchange, c);
    return c;
}

static void free_call(proa_call *c)
{
    proa_server *s = c->server;
    if (c->previous != NULL)
        c->previous->next = c->next;
    else
        s->calls = c->next;
    if (c->next != NULL)
        c->next->previous = c->previous;
    s->call_count--;
    s->stream_count -= c->lane_count;
    for (int32_t i = 0; i < c->lane_count; i++) {
        proa_stream_free(&c->lanes[i].stream);
        proa_answer_free(&c->lanes[i].answer);
        proa_reply_choice_free(&c->choices[i]);
    }
    free(c->lanes);
    free(c->choices);
    proa_job_free(c->job);
    free(c);
}

/* Frees the call when nobody needs it any more. */
static void settle(proa_call *c)
{
    if (c->exchange == NULL && !c->job_out && c->open == 0)
        free_call(c);
}

static void cancel_lane(lane *l)
{
    if (l->submitted && !l->finished)
        l->call->server->backend.cancel(l->call->server->backend.context, l->id);
}

/* Nobody will read more: stops what runs. */
static void abandon(proa_call *c)
{
    c->failed = true;
    c->exchange = NULL;
    for (int32_t i = 0; i < c->lane_count; i++)
        cancel_lane(&c->lanes[i]);
    if (!c->health)
        c->server->metrics.aborted += (uint64_t)(c->lane_count - c->ended);
}

/* Tells the client, if it has not heard the end yet, and stops what runs. */
static void fail(proa_call *c, const proa_api_error *error)
{
    proa_http_exchange *exchange = c->exchange;
    abandon(c);
    if (exchange == NULL)
        return;
    if (!c->started) {
        proa_http_reply_error(exchange, error);
        return;
    }
    proa_log(PROA_LOG_DEBUG, "serve", "stream %s failed: %s", c->id, error->message);
    proa_buf *out = &c->server->scratch;
    proa_buf_clear(out);
    proa_sse_error(error, out);
    proa_http_stream_write(exchange, proa_buf_text(out), out->length);
    proa_http_stream_cut(exchange);
}

static void fail_memory(proa_call *c)
{
    proa_api_error error;
    proa_api_error_set(&error, 503, NULL, "overloaded", "out of memory for this request");
    fail(c, &error);
}

/* --- replying --- */

static bool streams(const proa_call *c)
{
    return c->reply.params->stream && !c->health;
}

/* Writes what the scratch buffer holds as one piece of the stream. */
static void write_scratch(proa_call *c)
{
    proa_buf *out = &c->server->scratch;
    if (out->failed) {
        fail_memory(c);
        return;
    }
    if (!c->started) {
        c->started = true;
        proa_http_add_header(c->exchange, "Cache-Control", "no-cache");
        proa_http_add_header(c->exchange, "X-Accel-Buffering", "no");
        proa_http_stream_start(c->exchange, 200, PROA_SSE_CONTENT_TYPE);
    }
    proa_http_stream_write(c->exchange, proa_buf_text(out), out->length);
}

static void write_event(lane *l, void (*write)(const proa_reply *, proa_reply_choice *, proa_buf *))
{
    proa_call *c = l->call;
    proa_buf_clear(&c->server->scratch);
    write(&c->reply, l->choice, &c->server->scratch);
    write_scratch(c);
}

/* A chunk with what the choice has gathered, when it streams and there is something. */
static void write_chunk(lane *l)
{
    proa_call *c = l->call;
    if (!c->failed && streams(c) && c->reply.format->pending(&c->reply, l->choice))
        write_event(l, c->reply.format->chunk);
}

static void observe_end(const proa_call *c)
{
    proa_metrics *m = &c->server->metrics;
    if (c->health)
        return;
    proa_histogram_add(&m->request_latency, (double)(proa_clock_us() - c->start_us) / 1e6);
    for (int32_t i = 0; i < c->lane_count; i++)
        proa_histogram_add(&m->generation_tokens, c->choices[i].completion_tokens);
    for (int32_t i = 0; i < c->job->request->prompt_count; i++)
        proa_histogram_add(&m->prompt_tokens, (double)c->job->prompts[i].count);
}

static void reply_with(proa_call *c, const proa_buf *body)
{
    proa_http_exchange *exchange = c->exchange;
    if (body->failed) {
        fail_memory(c);
        return;
    }
    c->exchange = NULL;
    proa_http_reply(exchange, 200, "application/json", proa_buf_text(body), body->length);
}

/* All choices have ended and the backend has let go of them. */
static void complete(proa_call *c)
{
    proa_http_exchange *exchange = c->exchange;
    proa_buf *out = &c->server->scratch;
    observe_end(c);
    proa_buf_clear(out);
    if (streams(c)) {
        c->reply.format->end(&c->reply, out);
        write_scratch(c);
        if (c->failed)
            return;
        c->exchange = NULL;
        proa_http_stream_end(exchange);
        return;
    }
    if (c->health)
        proa_buf_append_text(out, "{}");
    else
        c->reply.format->whole(&c->reply, out);
    reply_with(c, out);
}

/* --- tokens --- */

static void end_lane(lane *l, proa_reply_end end, int32_t matched_id)
{
    proa_call *c = l->call;
    proa_reply_choice *choice = l->choice;
    l->ended = true;
    c->ended++;
    choice->end = end;
    choice->matched_id = matched_id;
    if (l->answer.matched_stop >= 0)
        choice->matched_text = c->job->request->params.stops[l->answer.matched_stop].text;
    choice->seconds = (double)(proa_clock_us() - c->start_us) / 1e6;
    if (!streams(c) || c->failed)
        return;
    if (c->reply.format->chunk != c->reply.format->last) /* else the last event says both */
        write_chunk(l);
    if (!c->failed)
        write_event(l, c->reply.format->last);
}

static void observe_token(lane *l, int64_t time_us)
{
    proa_metrics *m = &l->call->server->metrics;
    if (l->token_us == 0)
        proa_histogram_add(&m->time_to_first_token, (double)(time_us - l->call->start_us) / 1e6);
    else
        proa_histogram_add(&m->inter_token_latency, (double)(time_us - l->token_us) / 1e6);
    l->token_us = time_us;
}

static void take_token(lane *l, const proa_stream_record *record, const int32_t *ids, const float *logprobs)
{
    proa_call *c = l->call;
    proa_reply_choice *choice = l->choice;
    if (!c->health)
        observe_token(l, record->time_us);
    const proa_reply_token token = {record->token, record->logprob, record->top_count, ids, logprobs};
    bool more =
        proa_answer_push(&l->answer, record->token, record->stop, &choice->reasoning, &choice->content);
    choice->completion_tokens = l->answer.token_count;
    choice->reasoning_tokens = l->answer.reasoning_token_count;
    c->reply.format->token(&c->reply, choice, &token);
    if (choice->content.failed || choice->reasoning.failed) {
        fail_memory(c);
    } else if (!more) {
        end_lane(l, PROA_REPLY_STOP, -1);
        cancel_lane(l);
    }
}

/* The engine's last word, once all tokens before it are taken. */
static void end_by_engine(lane *l)
{
    proa_call *c = l->call;
    const proa_engine_finish *f = &l->stream.finish;
    if (f->reason == PROA_FINISH_ABORT) {
        proa_api_error error;
        if (f->error.status == PROA_ERR_CANCELLED) /* not by the client: it would not be here */
            proa_api_error_set(&error, 503, NULL, NULL, "the server is shutting down");
        else
            proa_api_error_from(&error, &f->error, NULL);
        fail(c, &error);
        return;
    }
    proa_answer_finish(&l->answer, &l->choice->reasoning, &l->choice->content);
    bool by_text = l->answer.matched_stop >= 0; /* what was held back at the end */
    bool stopped = f->reason == PROA_FINISH_STOP || by_text;
    end_lane(l, stopped ? PROA_REPLY_STOP : PROA_REPLY_LENGTH, by_text ? -1 : f->matched);
}

/* Takes tokens as long as the connection takes their text. */
static void pump(lane *l)
{
    proa_call *c = l->call;
    const int32_t *ids;
    const float *logprobs;
    const proa_stream_record *record = NULL;
    bool cumulative = c->reply.format->cumulative;
    int32_t taken = 0;
    while (!l->ended && !c->failed && proa_http_pending(c->exchange) <= WAITING_BYTES_MAX &&
           (record = proa_stream_peek(&l->stream, &ids, &logprobs)) != NULL) {
        take_token(l, record, ids, logprobs);
        proa_stream_next(&l->stream);
        taken++;
        if (!cumulative && !l->ended)
            write_chunk(l);
    }
    if (l->ended || c->failed) {
        while (proa_stream_peek(&l->stream, &ids, &logprobs) != NULL) /* run ahead of the end: dropped */
            proa_stream_next(&l->stream);
        return;
    }
    if (cumulative && taken > 0)
        write_chunk(l);
    if (taken > 0 && !l->finished)
        c->server->backend.grant(c->server->backend.context, l->id, taken);
    if (l->finished && !c->failed && proa_stream_peek(&l->stream, &ids, &logprobs) == NULL)
        end_by_engine(l);
}

/* --- submitting --- */

static proa_engine_request engine_request(const proa_call *c, int32_t index)
{
    const proa_api_params *p = &c->job->request->params;
    const proa_ids *prompt = &c->job->prompts[index / p->n];
    uint32_t w[4];
    proa_random_philox(c->server->seed_key[0], c->server->seed_count++, c->server->seed_key[1], w);
    uint64_t seed = p->has_seed ? p->seed + (uint64_t)(index % p->n) : (uint64_t)w[0] << 32 | w[1];
    int32_t left = c->server->model->limits.context_length - (int32_t)prompt->count;
    return (proa_engine_request){
        .prompt_ids = prompt->data,
        .prompt_count = (int32_t)prompt->count,
        .max_new_tokens = p->max_tokens > 0 ? p->max_tokens : left,
        .min_new_tokens = p->min_tokens,
        .ignore_eos = p->ignore_eos,
        .stop_ids = p->stop_ids,
        .stop_count = p->stop_id_count,
        .temperature = p->temperature,
        .top_k = p->top_k,
        .top_p = p->top_p,
        .min_p = p->min_p,
        .repetition_penalty = p->repetition_penalty,
        .frequency_penalty = p->frequency_penalty,
        .presence_penalty = p->presence_penalty,
        .seed = seed,
        .bias = p->bias,
        .bias_count = p->bias_count,
        .top_logprobs = p->top_logprobs,
        .credit = PROA_STREAM_WINDOW,
        .sink = proa_stream_sink(&c->lanes[index].stream),
    };
}

/* Submits the choices that are not yet. When the backend's queue is full the rest waits for one of this call's to
 * finish; a call with none running is refused. */
static void submit_more(proa_call *c)
{
    proa_server *s = c->server;
    while (c->submitted < c->lane_count && !c->failed) {
        lane *l = &c->lanes[c->submitted];
        proa_engine_request request = engine_request(c, c->submitted);
        proa_error err = {0};
        proa_status status = s->backend.submit(s->backend.context, &request, &l->id, &err);
        if (status == PROA_ERR_OVERLOADED && c->open > 0)
            return;
        if (status != PROA_OK) {
            proa_api_error error;
            proa_api_error_from(&error, &err, NULL);
            fail(c, &error);
            return;
        }
        l->submitted = true;
        c->submitted++;
        c->open++;
        s->metrics.requests += !c->health;
    }
}

static const proa_reply_format *format_of(proa_api api)
{
    return api == PROA_API_CHAT          ? &proa_reply_chat
           : api == PROA_API_COMPLETIONS ? &proa_reply_completions
                                         : &proa_reply_generate;
}

static void set_up_reply(proa_call *c)
{
    const proa_api_request *r = c->job->request;
    c->answer_options = (proa_answer_options){
        .tokenizer = c->server->model->tokenizer,
        .stops = &c->job->stops,
        .include_stop = r->params.include_stop,
        .skip_special_tokens = r->params.skip_special_tokens,
        .min_tokens = r->params.min_tokens,
        .reasoning = c->job->reasoning.kind,
        .thinking = c->job->reasoning.thinking,
    };
    c->reply = (proa_reply){
        .format = format_of(r->api),
        .params = &r->params,
        .tokenizer = c->server->model->tokenizer,
        .id = r->rid != NULL ? r->rid : c->id,
        .model = c->server->options.model_name,
        .created = proa_clock_unix_seconds(),
        .batch = r->batch,
        .choices = c->choices,
        .choice_count = c->lane_count,
    };
}

static bool set_up_lane(proa_call *c, int32_t index)
{
    const proa_api_request *r = c->job->request;
    lane *l = &c->lanes[index];
    int32_t prompt = index / r->params.n;
    l->call = c;
    l->choice = &c->choices[index];
    l->choice->index = index;
    l->choice->matched_id = -1;
    l->choice->prompt_tokens = (int32_t)c->job->prompts[prompt].count;
    l->choice->counts_prompt = index % r->params.n == 0;
    proa_answer_init(&l->answer, &c->answer_options);
    if (c->job->echoes != NULL)
        proa_buf_append(&l->choice->content, proa_buf_text(&c->job->echoes[prompt]),
                        c->job->echoes[prompt].length);
    return proa_stream_init(&l->stream, c->server->stream_box, r->params.top_logprobs) &&
           !l->choice->content.failed;
}

static void begin_generation(proa_call *c)
{
    const proa_api_request *r = c->job->request;
    proa_server *s = c->server;
    int32_t count = r->prompt_count * r->params.n;
    if (s->stream_count + count > s->options.streams_max) {
        proa_api_error error;
        proa_api_error_set(&error, 503, NULL, "overloaded",
                           "%d generations are under way, at most %d are taken: try again later",
                           s->stream_count, s->options.streams_max);
        fail(c, &error);
        return;
    }
    c->lanes = calloc((size_t)count, sizeof *c->lanes);
    c->choices = calloc((size_t)count, sizeof *c->choices);
    bool good = c->lanes != NULL && c->choices != NULL;
    if (good) {
        c->lane_count = count;
        s->stream_count += count;
        set_up_reply(c);
    }
    for (int32_t i = 0; good && i < count; i++)
        good = set_up_lane(c, i);
    if (good)
        submit_more(c);
    else
        fail_memory(c);
}

/* --- entry points --- */

static void send_job(proa_call *c)
{
    proa_server *s = c->server;
    size_t bytes = c->job->body.length;
    if (proa_preparer_send(s->preparer, c->job) == PROA_OK) {
        c->job = NULL;
        c->job_out = true;
        s->jobs_out++;
        return;
    }
    proa_http_release_body(s->http, bytes);
    proa_api_error error;
    proa_api_error_set(&error, 503, NULL, "overloaded", "too many requests wait to be read: try again later");
    fail(c, &error);
}

void proa_call_start(proa_server *server, proa_http_exchange *exchange, proa_job_kind kind)
{
    proa_call *c = create(server, exchange, kind);
    if (c == NULL) {
        proa_api_error error;
        proa_api_error_set(&error, 503, NULL, "overloaded", "out of memory");
        proa_http_reply_error(exchange, &error);
        return;
    }
    c->job->body = proa_http_take_body(exchange);
    send_job(c);
    settle(c);
}

void proa_call_start_health(proa_server *server, proa_http_exchange *exchange)
{
    static const char body[] =
        "{\"input_ids\":[0],\"sampling_params\":{\"max_new_tokens\":1,\"temperature\":0}}";
    proa_call *c = create(server, exchange, PROA_JOB_GENERATE);
    if (c == NULL) {
        proa_api_error error;
        proa_api_error_set(&error, 503, NULL, NULL, "out of memory");
        proa_http_reply_error(exchange, &error);
        return;
    }
    c->health = true;
    c->deadline_us = c->start_us + HEALTH_DEADLINE_US;
    proa_buf_append(&c->job->body, body, sizeof body - 1);
    proa_http_charge_body(server->http, c->job->body.length);
    send_job(c);
    settle(c);
}

void proa_call_job_done(proa_server *server, proa_job *job)
{
    proa_call *c = job->owner;
    server->jobs_out--;
    c->job = job;
    c->job_out = false;
    proa_http_release_body(server->http, job->body.length);
    proa_buf_free(&job->body);
    if (c->exchange != NULL && job->error.status != 0) {
        fail(c, &job->error);
    } else if (c->exchange != NULL && job->kind > PROA_JOB_GENERATE) {
        reply_with(c, &job->reply);
    } else if (c->exchange != NULL) {
        begin_generation(c);
    }
    settle(c);
}

void proa_call_message(proa_stream_message *message)
{
    lane *l = (lane *)message->stream;
    proa_call *c = l->call;
    if (!message->finished)
        proa_stream_woken(&l->stream);
    if (message->finished) {
        l->finished = true;
        c->open--;
        l->choice->cached_tokens = l->stream.finish.usage.cached_tokens;
        l->choice->retractions = l->stream.finish.usage.retractions;
    }
    pump(l);
    if (message->finished && !c->failed)
        submit_more(c);
    if (!c->failed && c->ended == c->lane_count && c->open == 0)
        complete(c);
    settle(c);
}

void proa_call_drained(proa_call *call)
{
    for (int32_t i = 0; i < call->lane_count && !call->failed; i++)
        pump(&call->lanes[i]);
    if (!call->failed && call->lane_count > 0 && call->ended == call->lane_count && call->open == 0)
        complete(call);
    settle(call);
}

void proa_call_gone(proa_call *call)
{
    abandon(call);
    settle(call);
}

void proa_call_tick_all(proa_server *server, int64_t now_us)
{
    for (proa_call *c = server->calls, *next; c != NULL; c = next) {
        next = c->next;
        if (c->deadline_us == 0 || now_us < c->deadline_us || c->exchange == NULL)
            continue;
        proa_api_error error;
        proa_api_error_set(&error, 503, NULL, NULL, "no token within %d s", HEALTH_DEADLINE_US / 1000000);
        fail(c, &error);
        settle(c);
    }
}

void proa_call_fail_all(proa_server *server, const proa_api_error *error)
{
    for (proa_call *c = server->calls, *next; c != NULL; c = next) {
        next = c->next;
        if (c->exchange != NULL)
            fail(c, error);
        settle(c);
    }
}

void proa_call_free_all(proa_server *server)
{
    while (server->calls != NULL)
        free_call(server->calls);
}
