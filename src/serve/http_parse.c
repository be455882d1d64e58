/* http_parse.c - the states of a request:
 *
 *   LINES ──head complete──> READY ──┬──> BODY ────────────────────────────────────────────────> DONE
 *                                    └──> CHUNK_SIZE, _EXTENSION, _SIZE_LF ──size 0──> TRAILER ──> DONE
 *                                           ^                    └──> CHUNK_DATA, _CR, _LF ─┐
 *                                           └───────────────────────────────────────────────┘
 *   anything wrong, in any state ──> BAD
 *
 * The head is gathered line by line and taken apart once, when it is complete; header names and values then point
 * into it. What it lacks: trailers are read and dropped, chunk extensions too.
 */
#include "serve/http_parse.h"

#include "base/status.h"

#include <string.h>
#include <strings.h>

enum state {
    LINES,
    READY,
    BODY,
    CHUNK_SIZE,
    CHUNK_EXTENSION,
    CHUNK_SIZE_LF,
    CHUNK_DATA,
    CHUNK_CR,
    CHUNK_LF,
    TRAILER,
    TRAILER_LF,
    LAST_LF,
    DONE,
    BAD,
};

enum { HEX_DIGITS_MAX = 15 };

static proa_http_progress bad(proa_http_parser *p, int status, const char *message)
{
    p->state = BAD;
    p->status = status;
    p->message = message;
    return PROA_HTTP_BAD;
}

void proa_http_parser_init(proa_http_parser *parser, const proa_http_limits *limits)
{
    *parser = (proa_http_parser){.limits = *limits};
    proa_buf_init(&parser->head, 0);
    proa_buf_init(&parser->request.body, limits->body_bytes_max);
}

void proa_http_parser_free(proa_http_parser *parser)
{
    proa_buf_free(&parser->head);
    proa_buf_free(&parser->request.body);
}

void proa_http_parser_reset(proa_http_parser *parser)
{
    proa_http_limits limits = parser->limits;
    proa_http_parser_free(parser);
    proa_http_parser_init(parser, &limits);
}

bool proa_http_parser_started(const proa_http_parser *parser)
{
    return parser->state != LINES || parser->head.length > 0;
}

const char *proa_http_request_header(const proa_http_request *request, const char *name)
{
    for (int i = 0; i < request->header_count; i++) {
        if (strcasecmp(request->headers[i].name, name) == 0)
            return request->headers[i].value;
    }
    return NULL;
}

/* --- the head --- */

/* RFC 9110 5.6.2: characters of method and field names. */
static bool is_token_char(unsigned char c)
{
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
           (c != 0 && strchr("!#$%&'*+-.^_`|~", c) != NULL);
}

static proa_http_method method_of(const char *text)
{
    static const struct {
        const char *text;
        proa_http_method method;
    } methods[] = {
        {"GET", PROA_HTTP_GET}, {"HEAD", PROA_HTTP_HEAD},     {"POST", PROA_HTTP_POST},
        {"PUT", PROA_HTTP_PUT}, {"DELETE", PROA_HTTP_DELETE}, {"OPTIONS", PROA_HTTP_OPTIONS},
    };
    for (size_t i = 0; i < sizeof methods / sizeof methods[0]; i++) {
        if (strcmp(text, methods[i].text) == 0)
            return methods[i].method;
    }
    return PROA_HTTP_OTHER;
}

/* "http://host/path" becomes "/path": clients may send the absolute form, proxies do. */
static char *path_of(char *target)
{
    if (strncasecmp(target, "http://", 7) != 0 && strncasecmp(target, "https://", 8) != 0)
        return target;
    char *path = strpbrk(strstr(target, "//") + 2, "/?");
    return path != NULL && *path == '/' ? path : NULL;
}

static proa_http_progress parse_request_line(proa_http_parser *p, char *line)
{
    proa_http_request *r = &p->request;
    char *target = strchr(line, ' ');
    char *version = target != NULL ? strchr(target + 1, ' ') : NULL;
    if (version == NULL)
        return bad(p, 400, "the request line is not \"METHOD target HTTP/1.1\"");
    *target++ = 0;
    *version++ = 0;
    for (const char *c = line; *c != 0; c++) {
        if (!is_token_char((unsigned char)*c))
            return bad(p, 400, "the method has a character that is not allowed");
    }
    for (const char *c = target; *c != 0; c++) {
        if ((unsigned char)*c <= 0x20 || (unsigned char)*c >= 0x7f)
            return bad(p, 400, "the request target has a character that is not allowed: percent-encode it");
    }
    if (strncmp(version, "HTTP/", 5) != 0)
        return bad(p, 400, "the request line does not end in HTTP/1.1");
    if (strcmp(version, "HTTP/1.1") != 0 && strcmp(version, "HTTP/1.0") != 0)
        return bad(p, 505, "only HTTP/1.1 and HTTP/1.0 are spoken here");
    if (strlen(target) > p->limits.target_bytes_max)
        return bad(p, 414, "the request target is too long");
    r->version_minor = version[7] - '0';
    r->keep_alive = r->version_minor == 1;
    r->method_text = line;
    r->method = method_of(line);
    char *path = path_of(target);
    bool asterisk = strcmp(target, "*") == 0 && r->method == PROA_HTTP_OPTIONS;
    if (*line == 0 || path == NULL || (*path != '/' && !asterisk))
        return bad(p, 400, "the request target is not a path that starts with /");
    char *query = strchr(path, '?');
    if (query != NULL)
        *query++ = 0;
    r->path = path;
    r->query = query != NULL ? query : "";
    return PROA_HTTP_MORE;
}

static proa_http_progress parse_header_line(proa_http_parser *p, char *line)
{
    proa_http_request *r = &p->request;
    if (r->header_count == PROA_HTTP_HEADERS_MAX)
        return bad(p, 431, "too many header lines");
    if (*line == ' ' || *line == '\t')
        return bad(p, 400, "folded header lines are not accepted");
    char *colon = line;
    while (is_token_char((unsigned char)*colon))
        colon++;
    if (colon == line || *colon != ':')
        return bad(p, 400, "a header line is not \"name: value\"");
    *colon = 0;
    char *value = colon + 1;
    value += strspn(value, " \t");
    char *end = value + strlen(value);
    while (end > value && (end[-1] == ' ' || end[-1] == '\t'))
        *--end = 0;
    for (const char *c = value; *c != 0; c++) {
        if (((unsigned char)*c < 0x20 && *c != '\t') || *c == 0x7f)
            return bad(p, 400, "a header value has a control character");
    }
    r->headers[r->header_count++] = (proa_http_header){line, value};
    return PROA_HTTP_MORE;
}

static int count_headers(const proa_http_request *r, const char *name)
{
    int count = 0;
    for (int i = 0; i < r->header_count; i++)
        count += strcasecmp(r->headers[i].name, name) == 0;
    return count;
}

/* Is `word` an element of the comma-separated list? */
static bool list_has(const char *list, const char *word)
{
    size_t length = strlen(word);
    while (list != NULL && *list != 0) {
        list += strspn(list, " \t,");
        size_t n = strcspn(list, " \t,");
        if (n == length && strncasecmp(list, word, n) == 0)
            return true;
        list += n;
    }
    return false;
}

static proa_http_progress parse_content_length(proa_http_parser *p, const char *text)
{
    uint64_t length = 0;
    size_t digits = strspn(text, "0123456789");
    if (digits == 0 || text[digits] != 0)
        return bad(p, 400, "Content-Length is not a number");
    if (digits > 18)
        return bad(p, 413, "the body is larger than this server accepts");
    for (const char *c = text; *c != 0; c++)
        length = length * 10 + (uint64_t)(*c - '0');
    if (length > p->limits.body_bytes_max)
        return bad(p, 413, "the body is larger than this server accepts");
    p->left = length;
    p->request.has_body = length > 0;
    return PROA_HTTP_MORE;
}

/* RFC 9112 6: how long the body is. Both lengths at once are how requests are smuggled past proxies. */
static proa_http_progress parse_framing(proa_http_parser *p)
{
    proa_http_request *r = &p->request;
    const char *encoding = proa_http_request_header(r, "transfer-encoding");
    const char *length = proa_http_request_header(r, "content-length");
    if (encoding != NULL && length != NULL)
        return bad(p, 400, "Content-Length and Transfer-Encoding exclude each other");
    if (count_headers(r, "transfer-encoding") > 1 || count_headers(r, "content-length") > 1)
        return bad(p, 400, "Content-Length or Transfer-Encoding is given more than once");
    if (encoding != NULL) {
        if (r->version_minor == 0)
            return bad(p, 400, "HTTP/1.0 has no Transfer-Encoding");
        if (strcasecmp(encoding, "chunked") != 0)
            return bad(p, 501, "Transfer-Encoding other than \"chunked\" is not supported");
        p->chunked = true;
        r->has_body = true;
        return PROA_HTTP_MORE;
    }
    return length != NULL ? parse_content_length(p, length) : PROA_HTTP_MORE;
}

/* Takes the complete head apart. Lines end in CRLF; the last one is empty. */
static proa_http_progress parse_head(proa_http_parser *p)
{
    proa_http_request *r = &p->request;
    char *line = p->head.data;
    if (memchr(line, 0, p->head.length) != NULL)
        return bad(p, 400, "the head has a zero byte");
    for (bool first = true; *line != '\r'; first = false) {
        char *end = strstr(line, "\r\n");
        PROA_ASSERT(end != NULL);
        *end = 0;
        proa_http_progress progress = first ? parse_request_line(p, line) : parse_header_line(p, line);
        if (progress == PROA_HTTP_BAD)
            return progress;
        line = end + 2;
    }
    int hosts = count_headers(r, "host");
    if (hosts > 1 || (hosts == 0 && r->version_minor == 1))
        return bad(p, 400, "HTTP/1.1 wants exactly one Host header");
    const char *connection = proa_http_request_header(r, "connection");
    if (list_has(connection, "close"))
        r->keep_alive = false;
    else if (list_has(connection, "keep-alive"))
        r->keep_alive = true;
    const char *expect = proa_http_request_header(r, "expect");
    r->expect_continue = expect != NULL && strcasecmp(expect, "100-continue") == 0;
    if (parse_framing(p) == PROA_HTTP_BAD)
        return PROA_HTTP_BAD;
    p->state = READY;
    return PROA_HTTP_READY;
}

/* Appends up to and with the next LF to the head. True when a line is complete. */
static bool take_line(proa_http_parser *p, const char *bytes, size_t length, size_t *used)
{
    const char *feed = memchr(bytes, '\n', length);
    *used = feed != NULL ? (size_t)(feed - bytes) + 1 : length;
    proa_buf_append(&p->head, bytes, *used);
    return feed != NULL;
}

static proa_http_progress push_lines(proa_http_parser *p, const char *bytes, size_t length, size_t *used)
{
    while (*used < length) {
        if (p->head.length == 0 && !is_token_char((unsigned char)bytes[*used]) && bytes[*used] != '\r')
            return bad(p, 400, "this is not HTTP (TLS is not spoken on this port)");
        size_t n;
        bool complete = take_line(p, bytes + *used, length - *used, &n);
        *used += n;
        if (p->head.failed)
            return bad(p, 500, "out of memory");
        if (p->head.length > p->limits.head_bytes_max)
            return p->line_start == 0 && p->head.length > p->limits.target_bytes_max
                       ? bad(p, 414, "the request target is too long")
                       : bad(p, 431, "the header lines are too long");
        if (!complete)
            break;
        size_t line_length = p->head.length - p->line_start;
        /* the first CR must be the one before the LF: a CR alone is where parsers begin to disagree */
        const char *line = p->head.data + p->line_start;
        if (line_length < 2 || memchr(line, '\r', line_length) != line + line_length - 2)
            return bad(p, 400, "a line of the head does not end in CR LF");
        if (line_length == 2 && p->line_start == 0) {
            proa_buf_clear(&p->head); /* RFC 9112 2.2: an empty line before the request line is ignored */
            continue;
        }
        p->line_start = p->head.length;
        if (line_length == 2)
            return parse_head(p);
    }
    return PROA_HTTP_MORE;
}

/* --- the body --- */

static proa_http_progress finish(proa_http_parser *p)
{
    p->state = DONE;
    return PROA_HTTP_DONE;
}

/* Moves up to `left` bytes into the body. */
static void take_body(proa_http_parser *p, const char *bytes, size_t length, size_t *used)
{
    size_t n = length - *used;
    if (n > p->left)
        n = (size_t)p->left;
    proa_buf_append(&p->request.body, bytes + *used, n);
    *used += n;
    p->left -= n;
}

static int hex_digit(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

static proa_http_progress end_of_size(proa_http_parser *p)
{
    if (p->left > p->limits.body_bytes_max - p->request.body.length)
        return bad(p, 413, "the body is larger than this server accepts");
    p->digits = 0;
    p->state = p->left == 0 ? TRAILER : CHUNK_DATA;
    return PROA_HTTP_MORE;
}

/* What stands in a chunk's first line beside its size is skipped, but counts against a limit: sizes do not, ten
 * million small chunks are no error. */
static proa_http_progress push_size_char(proa_http_parser *p, char c)
{
    int digit = hex_digit(c);
    if (p->state == CHUNK_SIZE && digit >= 0 && p->digits < HEX_DIGITS_MAX) {
        p->left = p->digits++ == 0 ? (uint64_t)digit : p->left << 4 | (uint64_t)digit;
        return PROA_HTTP_MORE;
    }
    if (p->digits == 0 || (p->state == CHUNK_SIZE && (c == 0 || strchr("\r; \t", c) == NULL)))
        return bad(p, 400, "a chunk size is not a hexadecimal number");
    if (c == '\n')
        return bad(p, 400, "a chunk size line does not end in CR LF");
    p->state = c == '\r' ? CHUNK_SIZE_LF : CHUNK_EXTENSION;
    if (c != '\r' && ++p->extra_bytes > p->limits.head_bytes_max)
        return bad(p, 431, "too many bytes of chunk extensions");
    return PROA_HTTP_MORE;
}

/* Trailer lines are dropped; an empty one ends the request. */
static proa_http_progress push_trailer_char(proa_http_parser *p, char c)
{
    if (++p->extra_bytes > p->limits.head_bytes_max)
        return bad(p, 431, "the trailer lines are too long");
    if (c == '\n')
        return bad(p, 400, "a trailer line does not end in CR LF");
    if (c == '\r')
        p->state = p->left == 0 ? LAST_LF : TRAILER_LF;
    else
        p->left++; /* bytes of this line */
    return PROA_HTTP_MORE;
}

static proa_http_progress push_framing_char(proa_http_parser *p, char c)
{
    if (p->state == CHUNK_SIZE || p->state == CHUNK_EXTENSION)
        return push_size_char(p, c);
    if (p->state == TRAILER)
        return push_trailer_char(p, c);
    if (c != (p->state == CHUNK_CR ? '\r' : '\n'))
        return bad(p, 400, "a chunk or its lines do not end in CR LF where they should");
    switch (p->state) {
    case CHUNK_SIZE_LF: return end_of_size(p);
    case CHUNK_CR: p->state = CHUNK_LF; break;
    case CHUNK_LF: p->state = CHUNK_SIZE; break;
    case TRAILER_LF:
        p->left = 0;
        p->state = TRAILER;
        break;
    default: PROA_ASSERT(p->state == LAST_LF); return finish(p);
    }
    return PROA_HTTP_MORE;
}

static proa_http_progress push_chunked(proa_http_parser *p, const char *bytes, size_t length, size_t *used)
{
    proa_http_progress progress = PROA_HTTP_MORE;
    while (*used < length && progress == PROA_HTTP_MORE) {
        if (p->state != CHUNK_DATA) {
            progress = push_framing_char(p, bytes[(*used)++]);
            continue;
        }
        take_body(p, bytes, length, used);
        if (p->left == 0)
            p->state = CHUNK_CR;
    }
    return progress;
}

proa_http_progress proa_http_parser_push(proa_http_parser *parser, const char *bytes, size_t length,
                                         size_t *used)
{
    proa_http_parser *p = parser;
    *used = 0;
    if (p->state == READY)
        p->state = p->chunked ? CHUNK_SIZE : BODY;
    proa_http_progress progress = PROA_HTTP_MORE;
    switch (p->state) {
    case LINES: return push_lines(p, bytes, length, used);
    case BODY:
        take_body(p, bytes, length, used);
        if (p->left == 0)
            progress = finish(p);
        break;
    case DONE: return PROA_HTTP_DONE;
    case BAD: return PROA_HTTP_BAD;
    default: progress = push_chunked(p, bytes, length, used); break;
    }
    if (p->request.body.failed)
        return bad(p, 500, "out of memory");
    return progress;
}
