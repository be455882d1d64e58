/* test_http_client.c - calls against a small server of this test: answers, streams, limits, deadlines, cancelling. */
#include "http_server_fixture.h"

#include "base/clock.h"
#include "net/http_client.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum { MANY = 64, SECOND = 1000000 };

/* --- a server: the path says what it answers --- */

static void answer_stream(int fd, bool whole)
{
    say(fd, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    for (int i = 0; i < 5; i++) {
        say(fd, i % 2 == 0 ? "4\r\nab\nc\r\n" : "2\r\nd\n\r\n");
        usleep(20000);
    }
    if (whole)
        say(fd, "0\r\n\r\n");
}

static void answer_endless_headers(int fd)
{
    char line[1024];
    say(fd, "HTTP/1.1 200 OK\r\n");
    memset(line, 'x', sizeof line);
    memcpy(line, "X: ", 3);
    memcpy(line + sizeof line - 3, "\r\n", 3);
    for (int i = 0; i < 400; i++)
        say(fd, line);
}

static bool answer(void *context, int fd, const char *request, const char *body)
{
    (void)context;
    char path[64] = "";
    sscanf(request, "%*s %63s", path);
    if (strcmp(path, "/echo") == 0) {
        answer_body(fd, "200 OK", "", body);
    } else if (strcmp(path, "/header") == 0) {
        answer_body(fd, "200 OK", "", strstr(request, "\r\nX-Test: yes\r\n") != NULL ? "seen" : "not seen");
    } else if (strcmp(path, "/method") == 0) {
        char method[16] = "";
        sscanf(request, "%15s", method);
        answer_body(fd, "200 OK", "", method);
    } else if (strcmp(path, "/busy") == 0) {
        answer_body(fd, "503 Service Unavailable", "Retry-After: 7\r\n", "{\"error\":\"busy\"}");
    } else if (strcmp(path, "/stream") == 0) {
        answer_stream(fd, true);
    } else if (strcmp(path, "/cut") == 0) {
        answer_stream(fd, false);
        return false;
    } else if (strcmp(path, "/headers") == 0) {
        answer_endless_headers(fd);
        return false;
    } else if (strcmp(path, "/nonsense") == 0) {
        say(fd, "220 smtp ready\r\n");
        return false;
    } else if (strcmp(path, "/pause") == 0) { /* answers, then says nothing more for a while */
        say(fd, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\na\n\r\n");
        return wait_for_client(fd);
    } else if (strcmp(path, "/silent") == 0) {
        return wait_for_client(fd);
    }
    return true;
}

static int setup(void **state)
{
    *state = http_server_create(answer, NULL);
    return *state == NULL;
}

static int teardown(void **state)
{
    return http_server_free(*state) ? 0 : -1; /* a client that was freed has closed its connections */
}

/* --- what a call told --- */

typedef struct told {
    proa_http_client *client;
    proa_http_call *call;
    proa_buf data;
    proa_buf body;
    proa_status status;
    int code, pieces, ended;
    int cancel_at; /* after so many pieces */
    int64_t retry_after_us;
    char text[1000], cause[1000];
} told;

static void on_data(void *context, const char *bytes, size_t length)
{
    told *t = context;
    proa_buf_append(&t->data, bytes, length);
    if (++t->pieces == t->cancel_at)
        proa_http_call_cancel(t->call);
}

static void on_done(void *context, const proa_http_result *result)
{
    told *t = context;
    t->ended++;
    t->status = result->status;
    t->code = result->code;
    t->retry_after_us = result->retry_after_us;
    proa_buf_append(&t->body, result->body, result->length);
    snprintf(t->text, sizeof t->text, "%s", result->error->text);
    snprintf(t->cause, sizeof t->cause, "%s", result->cause);
}

static void told_free(told *t)
{
    proa_buf_free(&t->data);
    proa_buf_free(&t->body);
}

static proa_http_client *new_client(void)
{
    proa_http_client *client = NULL;
    proa_error err = {0};
    if (proa_http_client_create(NULL, &client, &err) != PROA_OK)
        fail_msg("%s", err.text);
    return client;
}

static const char *url_of(const http_server *s, const char *path, char *url, size_t bytes)
{
    snprintf(url, bytes, "http://127.0.0.1:%d%s", s->port, path);
    return url;
}

/* Runs until the call has ended, ten seconds at most. */
static void begin_and_wait(proa_http_client *client, proa_http_request *request, told *t)
{
    proa_error err = {0};
    request->done = on_done;
    request->context = t;
    t->client = client;
    if (proa_http_client_start(client, request, &t->call, &err) != PROA_OK)
        fail_msg("%s", err.text);
    int64_t until = proa_clock_us() + 10 * SECOND;
    while (proa_http_client_active(client) > 0 && proa_clock_us() < until)
        proa_http_client_run(client, -1, SECOND);
    assert_int_equal(proa_http_client_active(client), 0);
}

static void test_answers(void **state)
{
    static const struct {
        const char *path, *method, *body;
        int code;
        const char *answer;
        int64_t retry_after_us;
    } table[] = {
        {"/echo", NULL, "{\"a\":1}", 200, "{\"a\":1}", 0},
        {"/echo", NULL, "", 200, "", 0},
        {"/header", NULL, NULL, 200, "seen", 0},
        {"/method", NULL, NULL, 200, "GET", 0},
        {"/method", NULL, "x", 200, "POST", 0},
        {"/method", "DELETE", NULL, 200, "DELETE", 0},
        {"/busy", NULL, "{}", 503, "{\"error\":\"busy\"}", 7 * SECOND},
    };
    proa_http_client *client = new_client();
    char url[128];
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        told t = {0};
        static const char *const headers[] = {"X-Test: yes"};
        proa_http_request request = {.url = url_of(*state, table[i].path, url, sizeof url),
                                     .method = table[i].method,
                                     .body = table[i].body,
                                     .length = table[i].body != NULL ? strlen(table[i].body) : 0,
                                     .headers = headers,
                                     .header_count = 1,
                                     .timeout_us = 5 * SECOND};
        begin_and_wait(client, &request, &t);
        assert_int_equal(t.ended, 1);
        assert_int_equal(t.status, PROA_OK);
        assert_int_equal(t.code, table[i].code);
        assert_string_equal(proa_buf_text(&t.body), table[i].answer);
        assert_int_equal(t.retry_after_us, table[i].retry_after_us);
        told_free(&t);
    }
    assert_int_equal(atomic_load(&((http_server *)*state)->connections), 1); /* one connection for all */
    proa_http_client_free(client);
}

static void test_stream(void **state)
{
    proa_http_client *client = new_client();
    char url[128];
    told whole = {0}, cut = {0}, cancelled = {.cancel_at = 2}, refused = {0};
    proa_http_request request = {.url = url_of(*state, "/stream", url, sizeof url), .data = on_data};
    begin_and_wait(client, &request, &whole);
    assert_int_equal(whole.status, PROA_OK);
    assert_string_equal(proa_buf_text(&whole.data), "ab\ncd\nab\ncd\nab\nc");
    assert_true(whole.pieces >= 3); /* as they came, not at the end */
    assert_int_equal(whole.body.length, 0);

    request.url = url_of(*state, "/cut", url, sizeof url);
    begin_and_wait(client, &request, &cut);
    assert_int_equal(cut.status, PROA_ERR_UNREACHABLE);
    assert_string_equal(proa_buf_text(&cut.data), "ab\ncd\nab\ncd\nab\nc");

    request.url = url_of(*state, "/stream", url, sizeof url);
    begin_and_wait(client, &request, &cancelled);
    assert_int_equal(cancelled.pieces, 2);
    assert_int_equal(cancelled.ended, 0);

    request.url = url_of(*state, "/busy", url, sizeof url); /* an error is no stream */
    begin_and_wait(client, &request, &refused);
    assert_int_equal(refused.pieces, 0);
    assert_string_equal(proa_buf_text(&refused.body), "{\"error\":\"busy\"}");
    told_free(&whole);
    told_free(&cut);
    told_free(&cancelled);
    told_free(&refused);
    proa_http_client_free(client);
}

static void test_failures(void **state)
{
    static const struct {
        const char *path;
        proa_http_request with;
        proa_status status;
        const char *names;
    } table[] = {
        {"/silent", {.timeout_us = 100000}, PROA_ERR_DEADLINE, "/silent: "},
        {"/silent", {.silence_us = 100000}, PROA_ERR_DEADLINE, "nothing arrived for 0.1 s"},
        {"/pause", {.silence_us = 100000, .data = on_data}, PROA_ERR_DEADLINE, "nothing arrived for 0.1 s"},
        {"/stream", {.timeout_us = 5 * SECOND, .body_limit = 4}, PROA_ERR_TOO_LONG, "longer than 4 bytes"},
        {"/headers", {.timeout_us = 5 * SECOND}, PROA_ERR_TOO_LONG, "longer than 262144 bytes"},
        {"/nonsense", {.timeout_us = 5 * SECOND}, PROA_ERR_PROTOCOL, "GET http://127.0.0.1"},
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        proa_http_client *client = new_client();
        told t = {0};
        char url[128];
        proa_http_request request = table[i].with;
        request.url = url_of(*state, table[i].path, url, sizeof url);
        int64_t start = proa_clock_us();
        begin_and_wait(client, &request, &t);
        assert_int_equal(t.ended, 1);
        if (t.status != table[i].status || strstr(t.text, table[i].names) == NULL)
            fail_msg("row %zu: status %d, \"%s\"", i, t.status, t.text);
        assert_true(proa_clock_us() - start < 3 * SECOND);
        told_free(&t);
        proa_http_client_free(client);
    }
}

static void test_nobody_there(void **state)
{
    (void)state;
    proa_http_client *client = new_client();
    told t = {0};
    proa_http_request request = {.url = "http://127.0.0.1:1/", .timeout_us = 2 * SECOND};
    begin_and_wait(client, &request, &t);
    assert_int_equal(t.status, PROA_ERR_UNREACHABLE);
    assert_non_null(strstr(t.text, "GET http://127.0.0.1:1/: "));
    assert_true(strlen(t.cause) > 5);
    assert_string_equal(t.text + strlen("GET http://127.0.0.1:1/: "), t.cause);
    told_free(&t);
    static const char *const malformed[] = {"",        "127.0.0.1:2379",  "http://",    "file:///etc/passwd",
                                            "ftp://a", "http://a:99999/", "http://a b/"};
    for (size_t i = 0; i < sizeof malformed / sizeof malformed[0]; i++) {
        proa_error err = {0};
        request.url = malformed[i];
        if (proa_http_client_start(client, &request, NULL, &err) != PROA_ERR_INVALID)
            fail_msg("\"%s\" was taken for a URL", malformed[i]);
        assert_non_null(strstr(err.text, "is no URL"));
    }
    proa_http_client_free(client);
}

/* Many at once, each with its own answer; one ends the others that it is told to. */
static void test_many(void **state)
{
    proa_http_client *client = new_client();
    told t[MANY] = {0};
    char url[128], body[MANY][32];
    for (int i = 0; i < MANY; i++) {
        snprintf(body[i], sizeof body[i], "body %d", i);
        proa_http_request request = {.url = url_of(*state, "/echo", url, sizeof url),
                                     .body = body[i],
                                     .length = strlen(body[i]),
                                     .timeout_us = 5 * SECOND,
                                     .done = on_done,
                                     .context = &t[i]};
        assert_int_equal(proa_http_client_start(client, &request, &t[i].call, NULL), PROA_OK);
    }
    proa_http_call_cancel(t[7].call);
    assert_int_equal(proa_http_client_active(client), MANY - 1);
    for (int i = 0; i < 1000 && proa_http_client_active(client) > 0; i++)
        proa_http_client_run(client, -1, 10000);
    for (int i = 0; i < MANY; i++) {
        assert_int_equal(t[i].ended, i != 7);
        assert_string_equal(proa_buf_text(&t[i].body), i != 7 ? body[i] : "");
        told_free(&t[i]);
    }
    proa_http_client_free(client);
}

/* Freed with calls under way; woken by another descriptor; the call that waits for itself. */
static void test_life(void **state)
{
    proa_http_client *client = new_client();
    char url[128];
    told t = {0};
    int wake = eventfd(1, EFD_CLOEXEC);
    proa_http_request request = {
        .url = url_of(*state, "/silent", url, sizeof url), .done = on_done, .context = &t};
    assert_int_equal(proa_http_client_start(client, &request, NULL, NULL), PROA_OK);
    int64_t start = proa_clock_us();
    for (int i = 0; i < 10; i++)
        proa_http_client_run(client, wake, 5 * SECOND);
    assert_true(proa_clock_us() - start < SECOND);
    start = proa_clock_us();
    proa_http_client_run(client, -1, 50000);
    proa_http_client_run(client, -1, 50000);
    assert_true(proa_clock_us() - start >= 50000); /* else it spins */
    int code = 0;
    proa_buf body = {0};
    proa_http_request fetched = {.url = url_of(*state, "/method", url, sizeof url), .timeout_us = 5 * SECOND};
    assert_int_equal(proa_http_client_fetch(client, &fetched, &code, &body, NULL), PROA_OK);
    assert_int_equal(code, 200);
    assert_string_equal(proa_buf_text(&body), "GET");
    assert_int_equal(proa_http_client_active(client), 1);
    proa_http_client_free(client);
    assert_int_equal(t.ended, 0);
    proa_buf_free(&body);
    close(wake);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_answers, setup, teardown),
        cmocka_unit_test_setup_teardown(test_stream, setup, teardown),
        cmocka_unit_test_setup_teardown(test_failures, setup, teardown),
        cmocka_unit_test_setup_teardown(test_nobody_there, setup, teardown),
        cmocka_unit_test_setup_teardown(test_many, setup, teardown),
        cmocka_unit_test_setup_teardown(test_life, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
