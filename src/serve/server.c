/* server.c - routes, what is checked before a body is read, readiness and shutdown.
 *
 * No CORS headers are sent: browsers of other origins get nothing, which is the safe default for a server without
 * cookies; a proxy may add them. What it lacks: several models, per-key quotas, /v1/responses, Anthropic's API.
 */
#include "serve/server_internal.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/stacks.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>
#include <unistd.h>

enum { JOBS_MAX = 1024, STACK_US = 500000 };

typedef struct route {
    const char *path;
    int methods;       /* bits of proa_http_method; GET brings HEAD with it */
    bool prefix;       /* and whatever follows */
    bool open;         /* needs no key */
    bool json;         /* wants a JSON body */
    bool needs_model;  /* 503 while it loads */
    proa_job_kind job; /* for those without an answer function */
    void (*answer)(proa_server *server, proa_http_exchange *exchange);
} route;

enum { GET = PROA_HTTP_GET | PROA_HTTP_HEAD, POST = PROA_HTTP_POST };

/* clang-format off */
static const route routes[] = {
    {.path = "/v1/chat/completions", .methods = POST, .json = true, .needs_model = true, .job = PROA_JOB_CHAT},
    {.path = "/v1/completions", .methods = POST, .json = true, .needs_model = true, .job = PROA_JOB_COMPLETIONS},
    {.path = "/generate", .methods = POST | PROA_HTTP_PUT, .json = true, .needs_model = true, .job = PROA_JOB_GENERATE},
    {.path = "/tokenize", .methods = POST, .json = true, .needs_model = true, .job = PROA_JOB_TOKENIZE},
    {.path = "/detokenize", .methods = POST, .json = true, .needs_model = true, .job = PROA_JOB_DETOKENIZE},
    {.path = "/v1/tokenize", .methods = POST, .json = true, .needs_model = true, .job = PROA_JOB_TOKENIZE},
    {.path = "/v1/detokenize", .methods = POST, .json = true, .needs_model = true, .job = PROA_JOB_DETOKENIZE},
    {.path = "/v1/models", .methods = GET, .answer = proa_endpoint_models},
    {.path = "/v1/models/", .methods = GET, .prefix = true, .answer = proa_endpoint_model},
    {.path = "/health", .methods = GET, .open = true, .answer = proa_endpoint_health},
    {.path = "/health_generate", .methods = GET, .open = true, .needs_model = true, .answer = proa_call_start_health},
    {.path = "/ping", .methods = GET, .open = true, .answer = proa_endpoint_ping},
    {.path = "/metrics", .methods = GET, .open = true, .answer = proa_endpoint_metrics},
    {.path = "/version", .methods = GET, .answer = proa_endpoint_version},
    {.path = "/get_model_info", .methods = GET, .answer = proa_endpoint_model_info},
    {.path = "/model_info", .methods = GET, .answer = proa_endpoint_model_info},
    {.path = "/get_server_info", .methods = GET, .answer = proa_endpoint_server_info},
    {.path = "/server_info", .methods = GET, .answer = proa_endpoint_server_info},
    {.path = "/flush_cache", .methods = GET | POST, .answer = proa_endpoint_flush_cache},
    {.path = "/start_profile", .methods = GET | POST, .answer = proa_endpoint_start_profile},
    {.path = "/stop_profile", .methods = GET | POST, .answer = proa_endpoint_stop_profile},
    {.path = "/start_expert_distribution_record", .methods = GET | POST, .answer = proa_endpoint_start_record},
    {.path = "/stop_expert_distribution_record", .methods = GET | POST, .answer = proa_endpoint_stop_record},
    {.path = "/dump_expert_distribution_record", .methods = GET | POST, .answer = proa_endpoint_dump_record},
};
/* clang-format on */

static const route *find_route(const char *path)
{
    for (size_t i = 0; i < sizeof routes / sizeof routes[0]; i++) {
        const route *r = &routes[i];
        size_t n = strlen(r->path);
        if (r->prefix ? strncmp(path, r->path, n) == 0 && path[n] != 0 : strcmp(path, r->path) == 0)
            return r;
    }
    return NULL;
}

/* --- before the body --- */

/* Takes the same time wherever the first difference is. */
static bool equal_secret(const char *given, const char *secret)
{
    size_t given_length = strlen(given), length = strlen(secret);
    unsigned difference = given_length != length;
    for (size_t i = 0; i < length; i++)
        difference |=
            (unsigned char)given[given_length > 0 ? i % given_length : 0] ^ (unsigned char)secret[i];
    return difference == 0;
}

static bool has_key(const proa_http_request *request, const char *key)
{
    const char *bearer = proa_http_request_header(request, "authorization");
    const char *header = proa_http_request_header(request, "x-api-key");
    if (bearer != NULL && strncasecmp(bearer, "bearer ", 7) == 0 && equal_secret(bearer + 7, key))
        return true;
    return header != NULL && equal_secret(header, key);
}

static bool is_json(const char *content_type)
{
    static const char json[] = "application/json";
    if (content_type == NULL || strncasecmp(content_type, json, sizeof json - 1) != 0)
        return false;
    char next = content_type[sizeof json - 1];
    return next == 0 || next == ';' || next == ' ' || next == '\t';
}

static bool check_body(const proa_http_request *request, proa_api_error *error)
{
    const char *encoding = proa_http_request_header(request, "content-encoding");
    const char *type = proa_http_request_header(request, "content-type");
    if (!request->has_body && proa_http_request_header(request, "content-length") == NULL)
        return proa_api_error_set(error, 411, NULL, NULL,
                                  "the request has no body: send JSON with Content-Length");
    if (encoding != NULL && strcasecmp(encoding, "identity") != 0)
        return proa_api_error_set(error, 415, NULL, NULL,
                                  "Content-Encoding \"%.40s\" is not supported: send the "
                                  "body as it is",
                                  encoding);
    if (!is_json(type))
        return proa_api_error_set(error, 415, NULL, NULL,
                                  "Content-Type must be application/json, got \"%.80s\"",
                                  type != NULL ? type : "none");
    return true;
}

static const char *allowed_methods(int methods)
{
    return methods == POST           ? "POST"
           : methods == GET          ? "GET, HEAD"
           : methods == (GET | POST) ? "GET, HEAD, POST"
                                     : "POST, PUT";
}

/* May this request go on? Otherwise fills the error. */
static bool admit(proa_server *server, proa_http_exchange *exchange, const route *r, proa_api_error *error)
{
    const proa_http_request *request = proa_http_exchange_request(exchange);
    const char *key = server->options.api_key;
    if (key != NULL && !(r != NULL && r->open) && !has_key(request, key)) {
        proa_http_add_header(exchange, "WWW-Authenticate", "Bearer");
        return proa_api_error_set(error, 401, NULL, "invalid_api_key",
                                  "the API key is missing or wrong: send \"Authorization: Bearer KEY\"");
    }
    if (r == NULL)
        return proa_api_error_set(error, 404, NULL, "not_found", "there is no %s here", request->path);
    if ((r->methods & (int)request->method) == 0) {
        proa_http_add_header(exchange, "Allow", allowed_methods(r->methods));
        return proa_api_error_set(error, 405, NULL, NULL, "%s takes %s, not %s", request->path,
                                  allowed_methods(r->methods), request->method_text);
    }
    if (r->json && !check_body(request, error))
        return false;
    if (r->needs_model && server->model == NULL)
        return proa_api_error_set(error, 503, NULL, "starting", "the model is loading: try again later");
    if (r->needs_model && server->draining)
        return proa_api_error_set(error, 503, NULL, NULL, "the server is shutting down");
    return true;
}

static void on_head(void *context, proa_http_exchange *exchange)
{
    proa_api_error error = {0};
    if (!admit(context, exchange, find_route(proa_http_exchange_request(exchange)->path), &error))
        proa_http_reply_error(exchange, &error);
}

static void on_request(void *context, proa_http_exchange *exchange)
{
    const route *r = find_route(proa_http_exchange_request(exchange)->path);
    PROA_ASSERT(r != NULL);
    if (r->answer != NULL)
        r->answer(context, exchange);
    else
        proa_call_start(context, exchange, r->job);
}

static void on_drained(void *context, proa_http_exchange *exchange)
{
    (void)context;
    proa_call *call = proa_http_exchange_user(exchange);
    if (call != NULL)
        proa_call_drained(call);
}

static void on_gone(void *context, proa_http_exchange *exchange)
{
    (void)context;
    proa_call *call = proa_http_exchange_user(exchange);
    if (call != NULL)
        proa_call_gone(call);
}

static void on_answered(void *context, proa_http_exchange *exchange, int status)
{
    proa_server *server = context;
    const proa_http_request *request = proa_http_exchange_request(exchange);
    const route *r = request->path != NULL ? find_route(request->path) : NULL;
    proa_metrics_count_response(&server->metrics, r != NULL ? r->path : "other", status);
    if (proa_log_get_level() >= PROA_LOG_DEBUG)
        proa_log(PROA_LOG_DEBUG, "http", "%s %s: %d (%s)",
                 request->method_text != NULL ? request->method_text : "?",
                 request->path != NULL ? request->path : "?", status, proa_http_exchange_id(exchange));
}

/* --- the loop --- */

typedef struct ready_message {
    const proa_serve_model *model;
    proa_backend backend;
    proa_preparer *preparer;
} ready_message;

static void on_wake(void *context)
{
    proa_server *server = context;
    ready_message *ready = proa_mailbox_take(server->ready_box);
    if (ready != NULL) {
        server->backend = ready->backend;
        server->preparer = ready->preparer;
        server->model = ready->model;
        server->progress_us = proa_clock_us();
        free(ready);
    }
    for (proa_job *job; (job = proa_mailbox_take(server->job_box)) != NULL;)
        proa_call_job_done(server, job);
    for (proa_stream_message *m; (m = proa_mailbox_take(server->stream_box)) != NULL;)
        proa_call_message(m);
}

static void watch_progress(proa_server *server, int64_t now_us)
{
    if (server->model == NULL)
        return;
    proa_engine_stats stats;
    server->backend.get_stats(server->backend.context, &stats);
    proa_metrics_sample(&server->metrics, &stats, now_us);
    server->device_lost = stats.device_lost;
    bool idle = stats.running == 0 && stats.queued == 0;
    if (idle || stats.steps != server->progress_steps) {
        server->progress_steps = stats.steps;
        server->progress_us = now_us;
        server->stall_told = false;
        return;
    }
    double stalled = (double)(now_us - server->progress_us) / 1e6;
    if (stalled > server->options.watchdog_s && server->calls != NULL) {
        proa_api_error error;
        proa_api_error_set(&error, 503, NULL, NULL, "no step was made for %.0f s", stalled);
        proa_log(PROA_LOG_ERROR, "serve", "no step was made for %.0f s: %d requests fail", stalled,
                 server->call_count);
        if (server->backend.is_here && !server->stall_told)
            proa_stacks_write(STDERR_FILENO, STACK_US);
        server->stall_told = true;
        proa_call_fail_all(server, &error);
    }
}

static void watch_drain(proa_server *server, int64_t now_us)
{
    if (!server->draining)
        return;
    if (now_us >= server->drain_until_us) {
        proa_api_error error;
        proa_api_error_set(&error, 503, NULL, NULL, "the server is shutting down");
        proa_call_fail_all(server, &error);
    }
    bool empty = proa_http_get_stats(server->http).connections == 0;
    if (server->call_count > 0)
        server->empty_since_us = 0;
    else if (server->empty_since_us == 0)
        server->empty_since_us = now_us;
    /* what was said last gets a second to be sent; a backend that does not let go of its requests, two */
    if ((server->empty_since_us != 0 && (empty || now_us - server->empty_since_us > 1000000)) ||
        now_us > server->drain_until_us + 2000000)
        proa_http_stop(server->http);
}

static void on_tick(void *context)
{
    proa_server *server = context;
    int64_t now = proa_clock_us();
    watch_progress(server, now);
    proa_call_tick_all(server, now);
    watch_drain(server, now);
}

static void on_signal(void *context, int count)
{
    proa_server *server = context;
    int64_t now = proa_clock_us();
    if (server->model == NULL || count > 2) {
        proa_http_stop(server->http);
        return;
    }
    server->drain_until_us = count > 1 ? now : now + (int64_t)(server->options.drain_s * 1e6);
    if (count == 1) {
        proa_log(PROA_LOG_INFO, "serve",
                 "stopping: %d requests in flight may take %.0f s; a second signal ends them",
                 server->call_count, server->options.drain_s);
        server->draining = true;
        proa_http_stop_accepting(server->http);
    }
    watch_drain(server, now);
}

/* --- life --- */

proa_server_options proa_server_default_options(void)
{
    return (proa_server_options){
        .http = proa_http_default_options(),
        .model_name = "default",
        .version = "",
        .prepare_threads = 2,
        .streams_max = 16384,
        .drain_s = 5,
        .stall_s = 30,
        .watchdog_s = 300,
    };
}

static void wake_loop(void *context)
{
    proa_server *server = context;
    proa_http_wake(server->http);
}

proa_status proa_server_create(const proa_server_options *options, proa_server **server, proa_error *err)
{
    const proa_http_hooks hooks = {
        .head = on_head,
        .request = on_request,
        .drained = on_drained,
        .gone = on_gone,
        .answered = on_answered,
        .wake = on_wake,
        .tick = on_tick,
        .signalled = on_signal,
        .context = NULL,
    };
    proa_server *s = calloc(1, sizeof *s);
    if (s == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for the server");
    s->options = *options;
    proa_metrics_init(&s->metrics);
    s->ready_box = proa_mailbox_create(1, wake_loop, s);
    s->job_box = proa_mailbox_create(JOBS_MAX + 64, wake_loop, s);
    s->stream_box = proa_mailbox_create((size_t)options->streams_max * 2, wake_loop, s);
    proa_status status = PROA_OK;
    if (s->ready_box == NULL || s->job_box == NULL || s->stream_box == NULL ||
        getrandom(s->seed_key, sizeof s->seed_key, 0) != (ssize_t)sizeof s->seed_key)
        status = proa_error_set(err, PROA_ERR_MEMORY, "no memory for the server's mailboxes");
    proa_http_hooks with_context = hooks;
    with_context.context = s;
    if (status == PROA_OK)
        status = proa_http_create(&options->http, &with_context, &s->http, err);
    if (status != PROA_OK) {
        proa_server_free(s);
        return status;
    }
    *server = s;
    return PROA_OK;
}

void proa_server_free(proa_server *server)
{
    if (server == NULL)
        return;
    if (server->job_box != NULL)
        proa_mailbox_close(server->job_box);
    proa_preparer_stop(server->preparer);
    ready_message *ready = server->ready_box != NULL ? proa_mailbox_take(server->ready_box) : NULL;
    if (ready != NULL) /* it came after the end */
        proa_preparer_stop(ready->preparer);
    free(ready);
    for (proa_job *job; server->job_box != NULL && (job = proa_mailbox_take(server->job_box)) != NULL;)
        proa_job_free(job);
    proa_http_free(server->http);
    proa_call_free_all(server);
    proa_mailbox_free(server->ready_box);
    proa_mailbox_free(server->job_box);
    proa_mailbox_free(server->stream_box);
    proa_buf_free(&server->scratch);
    free(server);
}

void proa_server_set_cluster(proa_server *server, const proa_server_cluster *cluster)
{
    server->cluster = *cluster;
}

const char *proa_server_model_name(const proa_server *server)
{
    return server->model != NULL ? server->model->limits.model_name : server->options.model_name;
}

int proa_server_port(const proa_server *server)
{
    return proa_http_port(server->http);
}

proa_status proa_server_set_ready(proa_server *server, const proa_serve_model *model,
                                  const proa_backend *backend, proa_error *err)
{
    ready_message *message = calloc(1, sizeof *message);
    if (message == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for the server");
    message->model = model;
    message->backend = *backend;
    proa_status status = proa_preparer_start(model, server->options.prepare_threads, JOBS_MAX,
                                             server->job_box, &message->preparer, err);
    if (status == PROA_OK)
        status = proa_mailbox_send(server->ready_box, message);
    if (status != PROA_OK)
        free(message);
    return status;
}

void proa_server_run(proa_server *server)
{
    proa_http_run(server->http);
    proa_api_error error;
    proa_api_error_set(&error, 503, NULL, NULL, "the server is shutting down");
    proa_call_fail_all(server, &error); /* from here on nothing calls the backend */
    server->model = NULL;
}

void proa_server_stop(proa_server *server)
{
    proa_http_stop(server->http);
}
