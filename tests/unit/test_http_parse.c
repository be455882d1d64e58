/* test_http_parse.c - requests that strict servers accept and refuse, whole and byte by byte. */
#include "serve/http_parse.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#define HOST    "Host: a\r\n"
#define LONG_64 "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

static const proa_http_limits limits = {.target_bytes_max = 64, .head_bytes_max = 512, .body_bytes_max = 100};

static const struct parse_case {
    const char *in;
    int status; /* 0: good */
    const char *path;
    const char *body;
    bool keep_alive;
} cases[] = {
    {"GET / HTTP/1.1\r\n" HOST "\r\n", 0, "/", "", true},
    {"\r\nGET / HTTP/1.1\r\n" HOST "\r\n", 0, "/", "", true},
    {"GET /a?b=c?d HTTP/1.1\r\n" HOST "\r\n", 0, "/a", "", true},
    {"GET http://h:1/x HTTP/1.1\r\n" HOST "\r\n", 0, "/x", "", true},
    {"OPTIONS * HTTP/1.1\r\n" HOST "\r\n", 0, "*", "", true},
    {"GET / HTTP/1.0\r\n\r\n", 0, "/", "", false},
    {"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", 0, "/", "", true},
    {"GET / HTTP/1.1\r\n" HOST "Connection: x, CLOSE\r\n\r\n", 0, "/", "", false},
    {"POST /p HTTP/1.1\r\n" HOST "Content-Length: 3\r\n\r\nabc", 0, "/p", "abc", true},
    {"POST /p HTTP/1.1\r\n" HOST "Content-Length:\t0 \r\n\r\n", 0, "/p", "", true},
    {"POST /p HTTP/1.1\r\n" HOST "Transfer-Encoding: Chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", 0, "/p", "abc",
     true},
    {"POST /p HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n"
     "1;x=\"y\"\r\na\r\n00B\r\nbcdefghijkl\r\n0 \r\nA: b\r\nC: d\r\n\r\n",
     0, "/p", "abcdefghijkl", true},
    /* refused */
    {"\x16\x03\x01", 400, NULL, NULL, false},
    {" GET / HTTP/1.1\r\n" HOST "\r\n", 400, NULL, NULL, false},
    {"GET / HTTP/1.1\n" HOST "\r\n", 400, NULL, NULL, false},
    {"GET / HTTP/1.1\r\nHost: a\n\r\n", 400, NULL, NULL, false},
    {"\r\x05GET / HTTP/1.1\r\n" HOST "\r\n", 400, NULL, NULL, false},
    {"GET / HTTP/1.1\r\n" HOST "\rA: b\r\n\r\n", 400, NULL, NULL, false},
    {"GET /\r\n" HOST "\r\n", 400, NULL, NULL, false},
    {"GET  / HTTP/1.1\r\n" HOST "\r\n", 400, NULL, NULL, false},
    {"GET / HTTP/2.0\r\n" HOST "\r\n", 505, NULL, NULL, false},
    {"GET / HTTX/1.1\r\n" HOST "\r\n", 400, NULL, NULL, false},
    {"GET a HTTP/1.1\r\n" HOST "\r\n", 400, NULL, NULL, false},
    {"GET http://h HTTP/1.1\r\n" HOST "\r\n", 400, NULL, NULL, false},
    {"GET /\xc3\xa9 HTTP/1.1\r\n" HOST "\r\n", 400, NULL, NULL, false},
    {"G(T / HTTP/1.1\r\n" HOST "\r\n", 400, NULL, NULL, false},
    {"GET /" LONG_64 " HTTP/1.1\r\n" HOST "\r\n", 414, NULL, NULL, false},
    {"GET / HTTP/1.1\r\n\r\n", 400, NULL, NULL, false},
    {"GET / HTTP/1.1\r\n" HOST HOST "\r\n", 400, NULL, NULL, false},
    {"GET / HTTP/1.1\r\n" HOST "A : b\r\n\r\n", 400, NULL, NULL, false},
    {"GET / HTTP/1.1\r\n" HOST ": b\r\n\r\n", 400, NULL, NULL, false},
    {"GET / HTTP/1.1\r\n" HOST "A: b\r\n folded\r\n\r\n", 400, NULL, NULL, false},
    {"GET / HTTP/1.1\r\n" HOST "A: b\x01\r\n\r\n", 400, NULL, NULL, false},
    {"GET / HTTP/1.1\r\n" HOST "A: b\rc\r\n\r\n", 400, NULL, NULL, false},
    {"GET / HTTP/1.1\r\n" HOST "A: " LONG_64 LONG_64 LONG_64 LONG_64 LONG_64 LONG_64 LONG_64 LONG_64
     "\r\n\r\n",
     431, NULL, NULL, false},
    {"POST / HTTP/1.1\r\n" HOST "Content-Length: 101\r\n\r\n", 413, NULL, NULL, false},
    {"POST / HTTP/1.1\r\n" HOST "Content-Length: 99999999999999999999\r\n\r\n", 413, NULL, NULL, false},
    {"POST / HTTP/1.1\r\n" HOST "Content-Length: -1\r\n\r\n", 400, NULL, NULL, false},
    {"POST / HTTP/1.1\r\n" HOST "Content-Length: 1, 1\r\n\r\n", 400, NULL, NULL, false},
    {"POST / HTTP/1.1\r\n" HOST "Content-Length:\r\n\r\n", 400, NULL, NULL, false},
    {"POST / HTTP/1.1\r\n" HOST "Content-Length: 1\r\nContent-Length: 1\r\n\r\n", 400, NULL, NULL, false},
    {"POST / HTTP/1.1\r\n" HOST "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400, NULL, NULL,
     false},
    {"POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: gzip, chunked\r\n\r\n", 501, NULL, NULL, false},
    {"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400, NULL, NULL, false},
    {"POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n65\r\n", 413, NULL, NULL, false},
    {"POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n", 400, NULL, NULL,
     false},
    {"POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n0x1\r\n", 400, NULL, NULL, false},
    {"POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n-1\r\n", 400, NULL, NULL, false},
    {"POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n;a\r\n", 400, NULL, NULL, false},
    {"POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n1\na", 400, NULL, NULL, false},
    {"POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n1\r\nab", 400, NULL, NULL, false},
    {"POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n0\r\nA: b\n", 400, NULL, NULL, false},
};

/* Pushes `length` bytes in pieces of `step`. */
static proa_http_progress push_all(proa_http_parser *p, const char *in, size_t length, size_t step,
                                   size_t *total)
{
    proa_http_progress progress = PROA_HTTP_MORE;
    *total = 0;
    while (progress != PROA_HTTP_DONE && progress != PROA_HTTP_BAD) {
        size_t n = length - *total < step ? length - *total : step, used;
        progress = proa_http_parser_push(p, in + *total, n, &used);
        assert_true(used <= n);
        *total += used;
        if (progress == PROA_HTTP_MORE && *total == length)
            break;
    }
    return progress;
}

static void requests_are_accepted_and_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const struct parse_case *c = &cases[i];
        for (size_t step = 1; step <= 1000; step += step < 9 ? 1 : 991) {
            proa_http_parser p;
            size_t used, length = strlen(c->in);
            proa_http_parser_init(&p, &limits);
            proa_http_progress progress = push_all(&p, c->in, length, step, &used);
            if (progress != (c->status == 0 ? PROA_HTTP_DONE : PROA_HTTP_BAD) ||
                (c->status != 0 && p.status != c->status))
                fail_msg("case %zu step %zu: progress %d status %d, wanted %d", i, step, progress, p.status,
                         c->status);
            if (c->status == 0) {
                assert_int_equal(used, length);
                assert_string_equal(p.request.path, c->path);
                assert_string_equal(proa_buf_text(&p.request.body), c->body);
                assert_int_equal(p.request.keep_alive, c->keep_alive);
            }
            proa_http_parser_free(&p);
        }
    }
}

static void pipelined_requests_are_left_alone(void **state)
{
    (void)state;
    static const char in[] = "POST /a HTTP/1.1\r\n" HOST "Content-Length: 2\r\n\r\nhi"
                             "GET /b HTTP/1.1\r\n" HOST "X-Y: z\r\n\r\n";
    proa_http_parser p;
    size_t used, more;
    proa_http_parser_init(&p, &limits);
    assert_int_equal(push_all(&p, in, sizeof in - 1, 1000, &used), PROA_HTTP_DONE);
    assert_string_equal(proa_buf_text(&p.request.body), "hi");
    assert_int_equal(p.request.method, PROA_HTTP_POST);
    proa_http_parser_reset(&p);
    assert_false(proa_http_parser_started(&p));
    assert_int_equal(push_all(&p, in + used, sizeof in - 1 - used, 1000, &more), PROA_HTTP_DONE);
    assert_string_equal(p.request.path, "/b");
    assert_string_equal(proa_http_request_header(&p.request, "x-y"), "z");
    assert_null(proa_http_request_header(&p.request, "x"));
    proa_http_parser_free(&p);
}

static void many_small_chunks_are_fine_and_long_extensions_are_not(void **state)
{
    (void)state;
    static const char head[] = "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n";
    const proa_http_limits wide = {.target_bytes_max = 64, .head_bytes_max = 512, .body_bytes_max = 1000000};
    proa_http_parser p;
    size_t used;
    proa_http_parser_init(&p, &wide);
    push_all(&p, head, sizeof head - 1, 1000, &used);
    for (int i = 0; i < 200000; i++)
        assert_int_equal(push_all(&p, "1\r\nx\r\n", 6, 6, &used), PROA_HTTP_MORE);
    assert_int_equal(p.request.body.length, 200000);
    assert_int_equal(push_all(&p, "1;", 2, 2, &used), PROA_HTTP_MORE);
    int sent = 0;
    while (push_all(&p, "e", 1, 1, &used) == PROA_HTTP_MORE)
        sent++;
    assert_int_equal(p.status, 431);
    assert_true(sent < 600);
    proa_http_parser_free(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(requests_are_accepted_and_refused),
        cmocka_unit_test(pipelined_requests_are_left_alone),
        cmocka_unit_test(many_small_chunks_are_fine_and_long_extensions_are_not),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
