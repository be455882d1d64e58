/* sse.c - framing of events. */
#include "serve/sse.h"

void proa_sse_begin(proa_buf *out)
{
    proa_buf_append(out, "data: ", 6);
}

void proa_sse_end(proa_buf *out)
{
    proa_buf_append(out, "\n\n", 2);
}

void proa_sse_done(proa_buf *out)
{
    proa_buf_append_text(out, "data: [DONE]\n\n");
}

void proa_sse_error(const proa_api_error *error, proa_buf *out)
{
    proa_sse_begin(out);
    proa_api_error_write(error, out);
    proa_sse_end(out);
}
