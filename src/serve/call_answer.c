/* call_answer.c - from the backend's tokens to bytes of the reply. */
#include "base/clock.h"
#include "serve/call_internal.h"
#include "serve/sse.h"

#include <string.h>

enum {
    WAITING_BYTES_MAX = 32768,    /* of a stream in the connection: beyond, no token is taken */
    SCRATCH_BYTES_KEPT = 1 << 20, /* what a large reply leaves behind is given back */
};

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
        proa_call_fail_memory(c);
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

static void write_event(proa_lane *l, void (*write)(const proa_reply *, proa_reply_choice *, proa_buf *))
{
    proa_call *c = l->call;
    proa_buf_clear(&c->server->scratch);
    write(&c->reply, l->choice, &c->server->scratch);
    write_scratch(c);
}

/* A chunk with what the choice has gathered, when it streams and there is something. */
static void write_chunk(proa_lane *l)
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

void proa_call_reply(proa_call *c, const proa_buf *body)
{
    proa_http_exchange *exchange = c->exchange;
    if (body->failed) {
        proa_call_fail_memory(c);
        return;
    }
    c->exchange = NULL;
    proa_http_reply(exchange, 200, "application/json", proa_buf_text(body), body->length);
    if (c->server->scratch.capacity > SCRATCH_BYTES_KEPT)
        proa_buf_free(&c->server->scratch);
}

void proa_call_complete(proa_call *c)
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
    proa_call_reply(c, out);
}

/* --- tokens --- */

static void end_lane(proa_lane *l, proa_reply_end end, int32_t matched_id)
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

static void observe_token(proa_lane *l, int64_t time_us)
{
    proa_metrics *m = &l->call->server->metrics;
    if (l->token_us == 0)
        proa_histogram_add(&m->time_to_first_token, (double)(time_us - l->call->start_us) / 1e6);
    else
        proa_histogram_add(&m->inter_token_latency, (double)(time_us - l->token_us) / 1e6);
    l->token_us = time_us;
}

static void take_token(proa_lane *l, const proa_stream_record *record, const int32_t *ids,
                       const float *logprobs)
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
    if (proa_reply_choice_failed(choice)) {
        proa_call_fail_memory(c);
    } else if (!more) {
        end_lane(l, PROA_REPLY_STOP, -1);
        proa_call_cancel_lane(l);
    }
}

/* The engine's last word, once all tokens before it are taken. */
static void end_by_engine(proa_lane *l)
{
    proa_call *c = l->call;
    const proa_engine_finish *f = &l->stream.finish;
    if (f->reason == PROA_FINISH_ABORT) {
        proa_api_error error;
        if (f->error.status == PROA_ERR_CANCELLED) /* not by the client: it would not be here */
            proa_api_error_set(&error, 503, NULL, NULL, "the server is shutting down");
        else
            proa_api_error_from(&error, &f->error, NULL);
        proa_call_fail(c, &error);
        return;
    }
    proa_answer_finish(&l->answer, &l->choice->reasoning, &l->choice->content);
    if (proa_reply_choice_failed(l->choice)) {
        proa_call_fail_memory(c);
        return;
    }
    bool by_text = l->answer.matched_stop >= 0; /* what was held back at the end */
    bool stopped = f->reason == PROA_FINISH_STOP || by_text;
    end_lane(l, stopped ? PROA_REPLY_STOP : PROA_REPLY_LENGTH, by_text ? -1 : f->matched);
}

void proa_call_pump(proa_lane *l)
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
