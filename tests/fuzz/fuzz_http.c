/* fuzz_http.c - the HTTP parser: the same bytes in one piece and in pieces must give the same request. */
#include "serve/http_parse.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static proa_http_progress push_all(proa_http_parser *parser, const char *bytes, size_t length, size_t step)
{
    proa_http_progress progress = PROA_HTTP_MORE;
    for (size_t at = 0; progress == PROA_HTTP_MORE || progress == PROA_HTTP_READY;) {
        size_t n = length - at < step ? length - at : step, used;
        progress = proa_http_parser_push(parser, bytes + at, n, &used);
        if (used > n)
            abort();
        at += used;
        if (progress == PROA_HTTP_MORE && at == length)
            break;
    }
    return progress;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const proa_http_limits limits = {
        .target_bytes_max = 100, .head_bytes_max = 1000, .body_bytes_max = 1000};
    if (size < 1)
        return 0;
    char *bytes = malloc(size); /* exactly as large, so that reading past the end is seen */
    memcpy(bytes, data + 1, size - 1);
    proa_http_parser whole, pieces;
    proa_http_parser_init(&whole, &limits);
    proa_http_parser_init(&pieces, &limits);
    proa_http_progress a = push_all(&whole, bytes, size - 1, size);
    proa_http_progress b = push_all(&pieces, bytes, size - 1, data[0] % 16 + 1);
    if (a != b || (a == PROA_HTTP_BAD && whole.status != pieces.status))
        abort();
    if (a == PROA_HTTP_DONE) {
        const proa_http_request *x = &whole.request, *y = &pieces.request;
        if (strcmp(x->path, y->path) != 0 || x->header_count != y->header_count ||
            x->body.length != y->body.length || x->body.length > limits.body_bytes_max)
            abort();
    }
    proa_http_parser_free(&whole);
    proa_http_parser_free(&pieces);
    free(bytes);
    return 0;
}
