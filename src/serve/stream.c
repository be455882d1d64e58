/* stream.c - a ring with one writer and one reader. */
#include "serve/stream.h"

#include "base/clock.h"

#include <stdlib.h>
#include <string.h>

bool proa_stream_init(proa_stream *stream, proa_mailbox *mailbox, int32_t top_logprobs)
{
    *stream = (proa_stream){.mailbox = mailbox, .top_max = top_logprobs > 0 ? top_logprobs : 0};
    stream->ready = (proa_stream_message){stream, false};
    stream->finished = (proa_stream_message){stream, true};
    if (stream->top_max == 0)
        return true;
    size_t count = (size_t)stream->top_max * PROA_STREAM_WINDOW;
    stream->top_ids = calloc(count, sizeof *stream->top_ids);
    stream->top_logprobs = calloc(count, sizeof *stream->top_logprobs);
    return stream->top_ids != NULL && stream->top_logprobs != NULL;
}

void proa_stream_free(proa_stream *stream)
{
    free(stream->top_ids);
    free(stream->top_logprobs);
    stream->top_ids = NULL;
    stream->top_logprobs = NULL;
}

static void on_token(void *context, const proa_sample_result *token, bool stop)
{
    proa_stream *s = context;
    /* relaxed: only this thread writes it */
    uint32_t written = atomic_load_explicit(&s->written, memory_order_relaxed);
    /* acquire: the reader is done with the slot */
    PROA_ASSERT(written - atomic_load_explicit(&s->read, memory_order_acquire) < PROA_STREAM_WINDOW);
    uint32_t slot = written % PROA_STREAM_WINDOW;
    proa_stream_record *r = &s->records[slot];
    r->token = token->token;
    r->logprob = token->logprob;
    r->top_count = token->top_count < s->top_max ? token->top_count : s->top_max;
    r->stop = stop;
    r->time_us = proa_clock_us();
    if (r->top_count > 0) {
        size_t first = (size_t)slot * (size_t)s->top_max, bytes = (size_t)r->top_count * 4;
        memcpy(&s->top_ids[first], token->top_ids, bytes);
        memcpy(&s->top_logprobs[first], token->top_logprobs, bytes);
    }
    /* sequentially consistent, as the reader's clearing of `signalled`: either the reader sees this token, or this
     * thread sees that it must ring again */
    atomic_store(&s->written, written + 1);
    if (!atomic_exchange(&s->signalled, true))
        proa_mailbox_send(s->mailbox, &s->ready);
}

static void on_finish(void *context, const proa_engine_finish *finish)
{
    proa_stream *s = context;
    s->finish = *finish; /* the mailbox's lock publishes it */
    proa_status status = proa_mailbox_send(s->mailbox, &s->finished);
    PROA_ASSERT(status != PROA_BUSY); /* the mailbox has room for two messages of every stream */
}

proa_engine_sink proa_stream_sink(proa_stream *stream)
{
    return (proa_engine_sink){.token = on_token, .finish = on_finish, .context = stream};
}

void proa_stream_woken(proa_stream *stream)
{
    atomic_store(&stream->signalled, false);
}

const proa_stream_record *proa_stream_peek(proa_stream *stream, const int32_t **ids, const float **logprobs)
{
    /* relaxed: only this thread writes `read` */
    uint32_t read = atomic_load_explicit(&stream->read, memory_order_relaxed);
    if (read == atomic_load(&stream->written))
        return NULL;
    uint32_t slot = read % PROA_STREAM_WINDOW;
    size_t first = (size_t)slot * (size_t)stream->top_max;
    *ids = stream->top_ids != NULL ? &stream->top_ids[first] : NULL;
    *logprobs = stream->top_logprobs != NULL ? &stream->top_logprobs[first] : NULL;
    return &stream->records[slot];
}

void proa_stream_next(proa_stream *stream)
{
    /* release: what was read of the slot is done before the writer may use it again */
    atomic_fetch_add_explicit(&stream->read, 1, memory_order_release);
}
