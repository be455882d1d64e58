/* stream.h - tokens of one engine request on their way from the engine's thread to the loop's.
 *
 * A ring of PROA_STREAM_WINDOW tokens, as many as the request has credit for at any time: so the engine never waits and
 * nothing overflows. A wake-up message goes to the loop's mailbox when the ring was empty for the loop, and a last
 * one when the request has finished; both live in the stream, so sending allocates nothing.
 *
 * Threads: the sink runs on the engine's, everything else on the loop's. After the `finished` message no other
 * message of the stream exists and the engine does not touch it again: it may be freed.
 */
#ifndef PROA_SERVE_STREAM_H
#define PROA_SERVE_STREAM_H

#include "base/mailbox.h"
#include "engine/engine.h"

#include <stdatomic.h>

enum { PROA_STREAM_WINDOW = 64 };

typedef struct proa_stream_record {
    int32_t token;
    float logprob;
    int32_t top_count;
    bool stop;
    int64_t time_us; /* when the engine delivered it */
} proa_stream_record;

typedef struct proa_stream_message {
    struct proa_stream *stream;
    bool finished;
} proa_stream_message;

typedef struct proa_stream {
    proa_mailbox *mailbox;
    proa_stream_message ready;
    proa_stream_message finished;
    proa_stream_record records[PROA_STREAM_WINDOW];
    int32_t *top_ids; /* [window, top_logprobs]; NULL without */
    float *top_logprobs;
    int32_t top_max;
    _Atomic uint32_t written; /* tokens ever written; by the engine's thread */
    _Atomic uint32_t read;    /* tokens ever read; by the loop's */
    _Atomic bool signalled;   /* `ready` is in the mailbox */
    proa_engine_finish finish;
} proa_stream;

/* top_logprobs as in the engine's request. False when memory is out. */
bool proa_stream_init(proa_stream *stream, proa_mailbox *mailbox, int32_t top_logprobs);
void proa_stream_free(proa_stream *stream); /* what it holds */
proa_engine_sink proa_stream_sink(proa_stream *stream);

/* Call for each `ready` message before taking tokens. */
void proa_stream_woken(proa_stream *stream);

/* The oldest token, without taking it; NULL when there is none. Its alternatives are at *ids and *logprobs. */
const proa_stream_record *proa_stream_peek(proa_stream *stream, const int32_t **ids, const float **logprobs);
/* Drops what proa_stream_peek gave. */
void proa_stream_next(proa_stream *stream);

#endif
