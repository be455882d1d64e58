/* sse.h - server-sent events as strict clients want them: "data: " with one space, one line of JSON an event, LF only,
 * no comments, no event names. */
#ifndef PROA_SERVE_SSE_H
#define PROA_SERVE_SSE_H

#include "base/buf.h"
#include "serve/errors.h"

#define PROA_SSE_CONTENT_TYPE "text/event-stream; charset=utf-8"

/* An event is what is appended between these two; it must have no line break. */
void proa_sse_begin(proa_buf *out);
void proa_sse_end(proa_buf *out);

/* data: [DONE] */
void proa_sse_done(proa_buf *out);

/* data: {"error": ...}: the last event of a stream that failed. */
void proa_sse_error(const proa_api_error *error, proa_buf *out);

#endif
