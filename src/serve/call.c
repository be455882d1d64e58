/* call.c - the life of a call; drawn in call.h. Entry points end in settle(), which alone frees. */
#include "serve/call_internal.h"

#include "base/clock.h"
#include "base/log.h"
#include "serve/sse.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HEALTH_DEADLINE_US = 20000000 };

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

void proa_call_cancel_lane(proa_lane *l)
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
        proa_call_cancel_lane(&c->lanes[i]);
    if (!c->health)
        c->server->metrics.aborted += (uint64_t)(c->lane_count - c->ended);
}

void proa_call_fail(proa_call *c, const proa_api_error *error)
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

void proa_call_fail_memory(proa_call *c)
{
    proa_api_error error;
    proa_api_error_set(&error, 503, NULL, "overloaded", "out of memory for this request");
    proa_call_fail(c, &error);
}

/* --- entry points --- */

static void send_job(proa_call *c)
{
    proa_server *s = c->server;
    size_t bytes = c->job->body.length;
    if (proa_preparer_send(s->preparer, c->job) == PROA_OK) {
        c->job = NULL;
        c->job_out = true;
        return;
    }
    proa_http_release_body(s->http, bytes);
    proa_api_error error;
    proa_api_error_set(&error, 503, NULL, "overloaded", "too many requests wait to be read: try again later");
    proa_call_fail(c, &error);
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
    c->job = job;
    c->job_out = false;
    proa_http_release_body(server->http, job->body.length);
    proa_buf_free(&job->body);
    if (c->exchange != NULL && job->error.status != 0) {
        proa_call_fail(c, &job->error);
    } else if (c->exchange != NULL && job->kind > PROA_JOB_GENERATE) {
        proa_call_reply(c, &job->reply);
    } else if (c->exchange != NULL) {
        proa_call_begin(c);
    }
    settle(c);
}

void proa_call_message(proa_stream_message *message)
{
    proa_lane *l = (proa_lane *)message->stream;
    proa_call *c = l->call;
    if (!message->finished)
        proa_stream_woken(&l->stream);
    if (message->finished) {
        l->finished = true;
        c->open--;
        l->choice->cached_tokens = l->stream.finish.usage.cached_tokens;
        l->choice->retractions = l->stream.finish.usage.retractions;
    }
    proa_call_pump(l);
    if (message->finished && !c->failed)
        proa_call_submit(c);
    if (!c->failed && c->ended == c->lane_count && c->open == 0)
        proa_call_complete(c);
    settle(c);
}

void proa_call_drained(proa_call *call)
{
    for (int32_t i = 0; i < call->lane_count && !call->failed; i++)
        proa_call_pump(&call->lanes[i]);
    if (!call->failed && call->lane_count > 0 && call->ended == call->lane_count && call->open == 0)
        proa_call_complete(call);
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
        proa_call_fail(c, &error);
        settle(c);
    }
}

void proa_call_fail_all(proa_server *server, const proa_api_error *error)
{
    for (proa_call *c = server->calls, *next; c != NULL; c = next) {
        next = c->next;
        if (c->exchange != NULL)
            proa_call_fail(c, error);
        settle(c);
    }
}

void proa_call_free_all(proa_server *server)
{
    for (proa_call *c = server->calls, *next; c != NULL; c = next) {
        next = c->next;
        free_call(c);
    }
}
