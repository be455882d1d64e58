/* profile.c - /start_profile and /stop_profile: SGLang's way to a trace of the steps that run now (base/trace.h).
 *
 * Where files may go is the operator's to say: output_dir of a request must lie within the server's trace_dir, and without one nothing is written.
 * Fields that choose what SGLang's profiler notes (activities, with_stack, record_shapes, ...) change nothing here.
 */
#include "base/clock.h"
#include "base/json.h"
#include "serve/fields.h"
#include "serve/server_internal.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STEPS_MAX = 1000000, STEPS_UNTIL_STOP = 10000, MICROS = 1000000 };

typedef struct wish {
    const char *output_dir;
    int64_t steps;
    int64_t start_step; /* of the engine's; -1: the next one */
} wish;

static void reply_text(proa_http_exchange *exchange, const char *text)
{
    proa_http_reply(exchange, 200, "text/plain; charset=utf-8", text, strlen(text));
}

static bool check_server(const proa_server *server, proa_api_error *error)
{
    if (server->model == NULL)
        return proa_api_error_set(error, 503, NULL, NULL, "the model is loading: try again later");
    if (server->backend.trace == NULL)
        return proa_api_error_set(
            error, 400, NULL, NULL,
            "this server has no engine of its own: start its workers with --trace FILE");
    if (server->options.trace_dir == NULL)
        return proa_api_error_set(
            error, 400, NULL, NULL,
            "traces are not written on request here: start the server with --trace-dir DIR, "
            "or with --trace FILE for its first steps");
    return true;
}

static bool read_wish(const proa_json *object, wish *w, proa_api_error *error)
{
    const proa_fields fields = {.object = object, .prefix = "", .error = error};
    return proa_field_string(&fields, "output_dir", &w->output_dir) &&
           proa_field_int(&fields, "num_steps", 1, STEPS_MAX, &w->steps) &&
           proa_field_int(&fields, "start_step", 0, INT32_MAX, &w->start_step);
}

/* The folder itself, or one within it; what links and ".." lead to counts. */
static bool resolve(const char *trace_dir, const char *wanted, char folder[PATH_MAX], proa_api_error *error)
{
    char root[PATH_MAX];
    if (realpath(trace_dir, root) == NULL)
        return proa_api_error_set(error, 503, NULL, NULL, "--trace-dir %.200s is not there", trace_dir);
    const size_t n = strcmp(root, "/") == 0 ? 0 : strlen(root);
    if (realpath(wanted != NULL ? wanted : trace_dir, folder) == NULL || strncmp(folder, root, n) != 0 ||
        (folder[n] != 0 && folder[n] != '/'))
        return proa_api_error_field(
            error, "output_dir",
            "output_dir must be --trace-dir of the server, or a folder within it, got "
            "\"%.200s\"",
            wanted != NULL ? wanted : trace_dir);
    return true;
}

static bool start(proa_server *server, const wish *w, char path[PATH_MAX + 64], proa_api_error *error)
{
    char folder[PATH_MAX];
    proa_engine_stats stats;
    proa_error err = {0};
    if (!resolve(server->options.trace_dir, w->output_dir, folder, error))
        return false;
    server->backend.get_stats(server->backend.context, &stats);
    const int64_t skip = w->start_step > (int64_t)stats.steps ? w->start_step - (int64_t)stats.steps : 0;
    snprintf(path, PATH_MAX + 64, "%s/proa-%lld.%06lld.trace.json", folder,
             (long long)proa_clock_unix_seconds(), (long long)(proa_clock_us() % MICROS));
    const proa_status status = proa_trace_start(server->backend.trace, path, skip, w->steps, &err);
    return status == PROA_OK ||
           proa_api_error_set(error, status == PROA_BUSY ? 400 : 503, NULL, NULL, "%s", err.text);
}

/* The body may be missing. */
static bool start_as_asked(proa_server *server, const proa_buf *body, char path[PATH_MAX + 64],
                           proa_api_error *error)
{
    wish w = {.steps = STEPS_UNTIL_STOP, .start_step = -1};
    proa_error err = {0};
    if (body->length == 0)
        return start(server, &w, path, error);
    proa_json *object = proa_json_parse(body->data, body->length, &err);
    bool good;
    if (object == NULL)
        good = proa_api_error_set(error, 400, NULL, NULL, "the body is not JSON: %s", err.text);
    else if (!proa_json_is(object, PROA_JSON_OBJECT))
        good = proa_api_error_set(error, 400, NULL, NULL, "the body must be a JSON object");
    else
        good = read_wish(object, &w, error) && start(server, &w, path, error);
    proa_json_free(object);
    return good;
}

void proa_endpoint_start_profile(proa_server *server, proa_http_exchange *exchange)
{
    char path[PATH_MAX + 64], text[PATH_MAX + 128];
    proa_api_error error = {0};
    proa_buf body = proa_http_take_body(exchange);
    const bool good = check_server(server, &error) && start_as_asked(server, &body, path, &error);
    proa_http_release_body(server->http, body.length);
    proa_buf_free(&body);
    if (!good) {
        proa_http_reply_error(exchange, &error);
        return;
    }
    snprintf(text, sizeof text, "Start profiling.\n%s\n", path);
    reply_text(exchange, text);
}

void proa_endpoint_stop_profile(proa_server *server, proa_http_exchange *exchange)
{
    proa_api_error error = {0};
    proa_error err = {0};
    bool good = check_server(server, &error);
    const proa_status status = good ? proa_trace_stop(server->backend.trace, &err) : PROA_OK;
    if (status == PROA_BUSY)
        good = proa_api_error_set(&error, 400, NULL, NULL, "%s: start one with /start_profile", err.text);
    else if (status != PROA_OK)
        good = proa_api_error_set(&error, 503, NULL, NULL, "%s", err.text);
    if (good)
        reply_text(exchange, "Stop profiling.\n");
    else
        proa_http_reply_error(exchange, &error);
}
