/* http_parse.h - one HTTP/1.1 request, parsed as its bytes arrive. Pure: no socket, no clock.
 *
 * Strict where leniency has cost others: CRLF only, one Content-Length or one "chunked" and never both, no folded
 * lines, no space before a colon, one Host. Everything has a limit, and the work is linear in the bytes.
 * A parser belongs to one connection. After DONE, what proa_http_parser_push did not use belongs to the next request.
 */
#ifndef PROA_SERVE_HTTP_PARSE_H
#define PROA_SERVE_HTTP_PARSE_H

#include "base/buf.h"

#include <stdint.h>

enum { PROA_HTTP_HEADERS_MAX = 100 };

typedef struct proa_http_limits {
    size_t target_bytes_max; /* of the request target; over it: 414 */
    size_t head_bytes_max;   /* request line and header lines, trailers too; over it: 431 */
    size_t body_bytes_max;   /* over it: 413 */
} proa_http_limits;

typedef enum proa_http_method {
    PROA_HTTP_GET = 1,
    PROA_HTTP_HEAD = 2,
    PROA_HTTP_POST = 4,
    PROA_HTTP_PUT = 8,
    PROA_HTTP_DELETE = 16,
    PROA_HTTP_OPTIONS = 32,
    PROA_HTTP_OTHER = 64,
} proa_http_method;

typedef struct proa_http_header {
    const char *name;
    const char *value; /* without the white space around it */
} proa_http_header;

typedef struct proa_http_request {
    proa_http_method method;
    const char *method_text;
    const char *path;  /* of the target, as sent: not decoded, not normalised */
    const char *query; /* after '?', "" without */
    int version_minor; /* 0 or 1 */
    bool keep_alive;
    bool expect_continue;
    bool has_body; /* a Content-Length over 0, or chunked */
    proa_http_header headers[PROA_HTTP_HEADERS_MAX];
    int header_count;
    proa_buf body;
} proa_http_request;

/* The value of the first header of that name (any case), or NULL. */
const char *proa_http_request_header(const proa_http_request *request, const char *name);

typedef enum proa_http_progress {
    PROA_HTTP_MORE,  /* all bytes used, more are needed */
    PROA_HTTP_READY, /* the head is complete; comes once, before the body: push the rest again */
    PROA_HTTP_DONE,  /* the request is complete */
    PROA_HTTP_BAD,   /* `status` and `message` say why; nothing more can be read from this connection */
} proa_http_progress;

typedef struct proa_http_parser {
    proa_http_limits limits;
    proa_http_request request;
    int state;          /* enum in http_parse.c, drawn there */
    proa_buf head;      /* request line and header lines as received */
    size_t line_start;  /* in head */
    size_t extra_bytes; /* of chunk extensions and trailers: bounded by head_bytes_max */
    uint64_t left;      /* of the body or of the chunk */
    int digits;         /* of a chunk size */
    bool chunked;
    int status; /* of a BAD request: the HTTP status to answer */
    const char *message;
} proa_http_parser;

void proa_http_parser_init(proa_http_parser *parser, const proa_http_limits *limits);
void proa_http_parser_free(proa_http_parser *parser);
/* For the next request of the connection. Keeps nothing but the limits. */
void proa_http_parser_reset(proa_http_parser *parser);

proa_http_progress proa_http_parser_push(proa_http_parser *parser, const char *bytes, size_t length,
                                         size_t *used);

/* Has any byte of a request arrived? Tells an idle connection from one that is slow. */
bool proa_http_parser_started(const proa_http_parser *parser);

#endif
