/* http_client.c - libcurl's multi interface, driven by its caller.
 *
 * Hooks never run inside libcurl: its write callback only collects (what one turn of curl_multi_perform reads is bounded by
 * libcurl's own buffers), and deliver() hands it on afterwards. So hooks may start, cancel and free whatever they like,
 * which inside a callback of libcurl would be an error.
 *
 * `calls` is an array with holes: a slot is emptied when its call ends, and holes are closed at the end of a run, since a
 * hook may end other calls while the array is being walked.
 */
#include "net/http_client.h"

#include "base/clock.h"

#include <curl/curl.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

enum {
    BODY_LIMIT_DEFAULT = 1 << 20,
    HEADER_BYTES_MAX = 256 << 10,
    UNREAD_LIMIT = 16 << 20, /* of a stream, collected in one run */
    CONNECT_TIMEOUT_DEFAULT_US = 5000000,
    UNACKNOWLEDGED_MS = 5000, /* a peer whose host is gone is noticed after this, also on an idle stream */
};

struct proa_http_call {
    proa_http_client *client;
    size_t slot;
    CURL *easy;
    struct curl_slist *headers;
    void (*data)(void *context, const char *bytes, size_t length);
    void (*done)(void *context, const proa_http_result *result);
    void *context;
    proa_buf body; /* kept, or of a stream collected and not delivered yet */
    int64_t silence_us;
    int64_t heard_us; /* when something arrived last */
    size_t header_bytes;
    bool silent;    /* it was ended for silence */
    char name[512]; /* method and URL, for errors */
    char cause[CURL_ERROR_SIZE];
};

struct proa_http_client {
    CURLM *multi;
    char *ca_path;
    proa_http_call **calls; /* [slots], NULL where a call has ended */
    size_t slots;
    size_t capacity;
    size_t active;
    bool running; /* inside proa_http_client_run */
    bool owned;
    pthread_t owner;
};

/* --- client --- */

static void check_owner(proa_http_client *client)
{
    if (!client->owned) {
        client->owned = true;
        client->owner = pthread_self();
    }
    PROA_ASSERT(pthread_equal(client->owner, pthread_self()));
}

proa_status proa_http_client_create(const proa_http_client_options *options, proa_http_client **client,
                                    proa_error *err)
{
    *client = NULL;
    /* counted by libcurl, and safe beside other threads from 7.84 on, which the build demands */
    if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
        return proa_error_set(err, PROA_ERR_MEMORY, "libcurl could not be initialised: memory is out");
    proa_http_client *c = calloc(1, sizeof *c);
    CURLM *multi = curl_multi_init();
    char *ca_path = options != NULL && options->ca_path != NULL ? strdup(options->ca_path) : NULL;
    if (c == NULL || multi == NULL || (ca_path == NULL && options != NULL && options->ca_path != NULL)) {
        if (multi != NULL)
            curl_multi_cleanup(multi);
        free(ca_path);
        free(c);
        curl_global_cleanup();
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for an HTTP client");
    }
    c->multi = multi;
    c->ca_path = ca_path;
    if (options != NULL && options->connections_per_host > 0)
        curl_multi_setopt(multi, CURLMOPT_MAX_HOST_CONNECTIONS, options->connections_per_host);
    *client = c;
    return PROA_OK;
}

static void call_free(proa_http_call *call)
{
    if (call->easy != NULL)
        curl_easy_cleanup(call->easy);
    curl_slist_free_all(call->headers);
    proa_buf_free(&call->body);
    free(call);
}

/* Takes a call out of libcurl and out of the array. */
static void detach(proa_http_call *call)
{
    curl_multi_remove_handle(call->client->multi, call->easy);
    call->client->calls[call->slot] = NULL;
    call->client->active--;
}

static void close_holes(proa_http_client *client)
{
    size_t kept = 0;
    for (size_t i = 0; i < client->slots; i++) {
        if (client->calls[i] != NULL) {
            client->calls[kept] = client->calls[i];
            client->calls[kept]->slot = kept;
            kept++;
        }
    }
    client->slots = kept;
}

void proa_http_client_free(proa_http_client *client)
{
    if (client == NULL)
        return;
    PROA_ASSERT(!client->running);
    for (size_t i = 0; i < client->slots; i++) {
        proa_http_call *call = client->calls[i];
        if (call != NULL) {
            detach(call);
            call_free(call);
        }
    }
    curl_multi_cleanup(client->multi);
    free(client->calls);
    free(client->ca_path);
    free(client);
    curl_global_cleanup();
}

size_t proa_http_client_active(const proa_http_client *client)
{
    return client->active;
}

/* --- starting --- */

static size_t on_body(char *bytes, size_t one, size_t length, void *context)
{
    (void)one; /* always 1 */
    proa_http_call *call = context;
    call->heard_us = proa_clock_us();
    proa_buf_append(&call->body, bytes, length);
    return call->body.failed ? 0 : length; /* 0 ends the call with CURLE_WRITE_ERROR */
}

static size_t on_header(char *bytes, size_t one, size_t length, void *context)
{
    (void)bytes;
    (void)one;
    proa_http_call *call = context;
    call->heard_us = proa_clock_us();
    call->header_bytes += length;
    return call->header_bytes > HEADER_BYTES_MAX ? 0 : length;
}

/* An idle stream from a host that has lost its power would otherwise stay open for ever. */
static int on_socket(void *context, curl_socket_t fd, curlsocktype purpose)
{
    (void)context;
    (void)purpose;
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    const struct {
        int level;
        int name;
        int value;
    } options[] = {
        {SOL_SOCKET, SO_KEEPALIVE, 1},
        {IPPROTO_TCP, TCP_KEEPIDLE, 2},
        {IPPROTO_TCP, TCP_KEEPINTVL, 1},
        {IPPROTO_TCP, TCP_USER_TIMEOUT, UNACKNOWLEDGED_MS},
    };
    for (size_t i = 0; i < sizeof options / sizeof options[0]; i++)
        setsockopt(fd, options[i].level, options[i].name, &options[i].value, sizeof(int));
    return CURL_SOCKOPT_OK;
}

static bool add_header(struct curl_slist **list, const char *text)
{
    struct curl_slist *longer = curl_slist_append(*list, text);
    if (longer != NULL)
        *list = longer;
    return longer != NULL;
}

static bool set_headers(proa_http_call *call, const proa_http_request *request)
{
    bool good = add_header(&call->headers, "Expect:"); /* no round trip before a long body */
    if (request->body != NULL)
        good = good && add_header(&call->headers, "Content-Type: application/json");
    for (size_t i = 0; i < request->header_count; i++)
        good = good && add_header(&call->headers, request->headers[i]);
    return good && curl_easy_setopt(call->easy, CURLOPT_HTTPHEADER, call->headers) == CURLE_OK;
}

static bool set_body(proa_http_call *call, const proa_http_request *request)
{
    bool good = true;
    if (request->body != NULL) {
        good = curl_easy_setopt(call->easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)request->length) ==
                   CURLE_OK &&
               curl_easy_setopt(call->easy, CURLOPT_COPYPOSTFIELDS, request->body) == CURLE_OK;
    }
    if (good && request->method != NULL)
        good = curl_easy_setopt(call->easy, CURLOPT_CUSTOMREQUEST, request->method) == CURLE_OK;
    return good;
}

static long to_ms(int64_t us)
{
    return (long)((us + 999) / 1000);
}

/* What differs from libcurl's defaults. False: memory is out. */
static bool set_options(proa_http_call *call, const proa_http_request *request)
{
    CURL *easy = call->easy;
    int64_t connect_us =
        request->connect_timeout_us > 0 ? request->connect_timeout_us : CONNECT_TIMEOUT_DEFAULT_US;
    bool good = curl_easy_setopt(easy, CURLOPT_URL, request->url) == CURLE_OK;
    good = good && curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https") == CURLE_OK;
    good = good && curl_easy_setopt(easy, CURLOPT_PROXY, "") == CURLE_OK; /* whatever the environment says */
    good = good && curl_easy_setopt(easy, CURLOPT_USERAGENT, "proa") == CURLE_OK;
    good = good && (call->client->ca_path == NULL ||
                    curl_easy_setopt(easy, CURLOPT_CAINFO, call->client->ca_path) == CURLE_OK);
    curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    /* a name server that does not answer must not hold up the end of a call, and with it the thread */
    curl_easy_setopt(easy, CURLOPT_QUICK_EXIT, 1L);
    curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, to_ms(connect_us));
    if (request->timeout_us > 0)
        curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, to_ms(request->timeout_us));
    curl_easy_setopt(easy, CURLOPT_SOCKOPTFUNCTION, on_socket);
    curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(easy, CURLOPT_HEADERDATA, call);
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, call);
    curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, call->cause);
    curl_easy_setopt(easy, CURLOPT_PRIVATE, call);
    return good && set_headers(call, request) && set_body(call, request);
}

static proa_http_call *call_create(proa_http_client *client, const proa_http_request *request)
{
    proa_http_call *call = calloc(1, sizeof *call);
    if (call == NULL)
        return NULL;
    call->client = client;
    call->easy = curl_easy_init();
    call->data = request->data;
    call->done = request->done;
    call->context = request->context;
    call->silence_us = request->silence_us;
    call->heard_us = proa_clock_us();
    size_t limit = request->body_limit > 0 ? request->body_limit : BODY_LIMIT_DEFAULT;
    proa_buf_init(&call->body, request->data != NULL ? UNREAD_LIMIT : limit);
    const char *method = request->method != NULL ? request->method : request->body != NULL ? "POST" : "GET";
    snprintf(call->name, sizeof call->name, "%s %s", method, request->url);
    if (call->easy == NULL || !set_options(call, request)) {
        call_free(call);
        return NULL;
    }
    return call;
}

static bool reserve_slot(proa_http_client *client)
{
    if (client->slots < client->capacity)
        return true;
    size_t capacity = client->capacity == 0 ? 16 : client->capacity * 2;
    proa_http_call **calls = realloc(client->calls, capacity * sizeof(proa_http_call *));
    if (calls == NULL)
        return false;
    client->calls = calls;
    client->capacity = capacity;
    return true;
}

/* libcurl would add a scheme, or find out later. */
static bool is_url(const char *url)
{
    CURLU *parts = curl_url();
    bool good = parts != NULL &&
                (strncasecmp(url, "http://", 7) == 0 || strncasecmp(url, "https://", 8) == 0) &&
                curl_url_set(parts, CURLUPART_URL, url, 0) == CURLUE_OK;
    curl_url_cleanup(parts);
    return good;
}

proa_status proa_http_client_start(proa_http_client *client, const proa_http_request *request,
                                   proa_http_call **call, proa_error *err)
{
    check_owner(client);
    PROA_ASSERT(request->done != NULL);
    if (call != NULL)
        *call = NULL;
    if (!is_url(request->url))
        return proa_error_set(err, PROA_ERR_INVALID, "\"%s\" is no URL: write http://host:port/path",
                              request->url);
    proa_http_call *started = reserve_slot(client) ? call_create(client, request) : NULL;
    if (started == NULL || curl_multi_add_handle(client->multi, started->easy) != CURLM_OK) {
        if (started != NULL)
            call_free(started);
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for a request to %s", request->url);
    }
    started->slot = client->slots;
    client->calls[client->slots++] = started;
    client->active++;
    if (call != NULL)
        *call = started;
    return PROA_OK;
}

void proa_http_call_cancel(proa_http_call *call)
{
    if (call == NULL)
        return;
    check_owner(call->client);
    detach(call);
    call_free(call);
}

/* --- running --- */

static bool is_success(CURL *easy)
{
    long code = 0;
    curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &code);
    return code >= 200 && code < 300;
}

static bool has_collected(const proa_http_call *call)
{
    return call != NULL && call->data != NULL && call->body.length > 0 && is_success(call->easy);
}

/* Hands on what a stream has collected. The call may be gone afterwards. */
static void deliver(proa_http_call *call)
{
    if (!has_collected(call))
        return;
    proa_buf collected = call->body; /* it outlives the call */
    proa_buf_init(&call->body, UNREAD_LIMIT);
    call->data(call->context, collected.data, collected.length);
    proa_buf_free(&collected);
}

static proa_status status_of(CURLcode code, const proa_http_call *call)
{
    if (call->silent)
        return PROA_ERR_DEADLINE;
    switch (code) {
    case CURLE_OK: return PROA_OK;
    case CURLE_OPERATION_TIMEDOUT: return PROA_ERR_DEADLINE;
    case CURLE_OUT_OF_MEMORY: return PROA_ERR_MEMORY;
    case CURLE_WRITE_ERROR: return PROA_ERR_TOO_LONG;
    case CURLE_URL_MALFORMAT: return PROA_ERR_INVALID;
    case CURLE_UNSUPPORTED_PROTOCOL: /* no HTTP at all: schemes were checked at the start */
    case CURLE_WEIRD_SERVER_REPLY: return PROA_ERR_PROTOCOL;
    default: return PROA_ERR_UNREACHABLE;
    }
}

static void explain(const proa_http_call *call, CURLcode code, proa_error *error)
{
    proa_status status = status_of(code, call);
    if (call->silent)
        proa_error_set(error, status, "%s: nothing arrived for %.1f s", call->name,
                       (double)call->silence_us / 1e6);
    else if (status == PROA_ERR_TOO_LONG)
        proa_error_set(error, status, "%s: the answer is longer than %zu bytes", call->name,
                       call->body.failed ? call->body.limit : (size_t)HEADER_BYTES_MAX);
    else
        proa_error_set(error, status, "%s: %s", call->name,
                       call->cause[0] != 0 ? call->cause : curl_easy_strerror(code));
}

/* The last of a call: rest of its stream, then `done`. */
static void finish(proa_http_call *call, CURLcode code)
{
    proa_http_client *client = call->client;
    size_t slot = call->slot;
    deliver(call);
    if (client->calls[slot] == NULL) /* its own hook has cancelled it */
        return;
    proa_error error = {0};
    explain(call, code, &error);
    long http_code = 0;
    curl_off_t first_byte_us = 0, us = 0, retry_after_s = 0;
    curl_easy_getinfo(call->easy, CURLINFO_RESPONSE_CODE, &http_code);
    curl_easy_getinfo(call->easy, CURLINFO_STARTTRANSFER_TIME_T, &first_byte_us);
    curl_easy_getinfo(call->easy, CURLINFO_TOTAL_TIME_T, &us);
    curl_easy_getinfo(call->easy, CURLINFO_RETRY_AFTER, &retry_after_s);
    proa_http_result result = {
        .status = error.status,
        .code = (int)http_code,
        .body = proa_buf_text(&call->body),
        .length = call->body.length,
        .us = us,
        .first_byte_us = first_byte_us,
        .retry_after_us = retry_after_s * 1000000,
        .error = &error,
        .cause = error.status != PROA_OK ? error.text + strlen(call->name) + strlen(": ") : "",
    };
    detach(call);
    call->done(call->context, &result);
    call_free(call);
}

static void finish_ended(proa_http_client *client)
{
    int left;
    CURLMsg *message;
    while ((message = curl_multi_info_read(client->multi, &left)) != NULL) {
        if (message->msg != CURLMSG_DONE)
            continue;
        proa_http_call *call = NULL;
        CURLcode code = message->data.result; /* the message is gone once its handle is removed */
        curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, (char **)&call);
        finish(call, code);
    }
}

/* When the next call will have been silent for too long, or `until`. */
static int64_t next_silence(const proa_http_client *client, int64_t until)
{
    for (size_t i = 0; i < client->slots; i++) {
        const proa_http_call *call = client->calls[i];
        if (call != NULL && call->silence_us > 0 && call->heard_us + call->silence_us < until)
            until = call->heard_us + call->silence_us;
    }
    return until;
}

static void finish_silent(proa_http_client *client)
{
    int64_t now = proa_clock_us();
    for (size_t i = 0; i < client->slots; i++) {
        proa_http_call *call = client->calls[i];
        if (call != NULL && call->silence_us > 0 && call->heard_us + call->silence_us <= now) {
            call->silent = true;
            finish(call, CURLE_OPERATION_TIMEDOUT);
        }
    }
}

/* Nothing to wait for: something has ended, or has brought bytes. */
static bool has_news(const proa_http_client *client, int underway)
{
    bool news = (size_t)underway < client->active;
    for (size_t i = 0; i < client->slots && !news; i++)
        news = has_collected(client->calls[i]);
    return news;
}

void proa_http_client_run(proa_http_client *client, int extra_fd, int64_t timeout_us)
{
    check_owner(client);
    PROA_ASSERT(!client->running);
    client->running = true;
    int64_t until = next_silence(client, proa_clock_us() + timeout_us);
    int underway;
    curl_multi_perform(client->multi, &underway); /* what was just started must be in what is waited for */
    struct curl_waitfd extra = {.fd = extra_fd, .events = CURL_WAIT_POLLIN};
    int64_t now = proa_clock_us();
    int64_t wait_us = until > now && !has_news(client, underway) ? until - now : 0;
    /* libcurl shortens the wait to its own next timer */
    curl_multi_poll(client->multi, extra_fd >= 0 ? &extra : NULL, extra_fd >= 0 ? 1 : 0, (int)to_ms(wait_us),
                    NULL);
    curl_multi_perform(client->multi, &underway);
    for (size_t i = 0; i < client->slots; i++)
        deliver(client->calls[i]);
    finish_ended(client);
    finish_silent(client);
    close_holes(client);
    client->running = false;
}

/* --- one call --- */

typedef struct fetch {
    bool ended;
    proa_status status;
    int *code;
    proa_buf *body;
    proa_error *err;
} fetch;

static void on_fetched(void *context, const proa_http_result *result)
{
    fetch *f = context;
    f->ended = true;
    f->status = result->status;
    *f->code = result->code;
    if (result->status == PROA_OK)
        proa_buf_append(f->body, result->body, result->length);
    else if (f->err != NULL)
        *f->err = *result->error;
}

proa_status proa_http_client_fetch(proa_http_client *client, const proa_http_request *request, int *code,
                                   proa_buf *body, proa_error *err)
{
    PROA_ASSERT(request->timeout_us > 0);
    fetch f = {.code = code, .body = body, .err = err};
    proa_http_request own = *request;
    own.data = NULL;
    own.done = on_fetched;
    own.context = &f;
    proa_status status = proa_http_client_start(client, &own, NULL, err);
    while (status == PROA_OK && !f.ended)
        proa_http_client_run(client, -1, request->timeout_us);
    return status == PROA_OK ? f.status : status;
}

const char *proa_http_client_library_version(void)
{
    return curl_version();
}
