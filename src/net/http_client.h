/* http_client.h - HTTP/1.1 requests to other servers (etcd's gateway, a server that is evaluated). The only file that
 * includes libcurl.
 *
 *   start ──> under way ──> data* ──> done          cancel at any moment: no further hook
 *
 * A client holds any number of concurrent calls and reuses their connections. It has no thread: everything happens inside
 * proa_http_client_run, on the caller's thread, hooks included; hooks may start and cancel calls. One owner thread: the first
 * that starts or runs (so that a client may be created by another one); creation and freeing are free of that.
 *
 * Nothing is read from the environment (no proxy), no redirect is followed, no signal is used, nothing is decompressed. Of an
 * answer at most `body_limit` bytes are kept; a stream is handed on as it arrives, and keeps nothing.
 */
#ifndef PROA_NET_HTTP_CLIENT_H
#define PROA_NET_HTTP_CLIENT_H

#include "base/buf.h"
#include "base/status.h"

#include <stdint.h>

typedef struct proa_http_client proa_http_client;
typedef struct proa_http_call proa_http_call;

typedef struct proa_http_client_options {
    const char *ca_path;       /* PEM of authorities for https; NULL: the system's */
    long connections_per_host; /* further calls wait for one of these; 0: no limit */
} proa_http_client_options;

/* All valid during the hook. */
typedef struct proa_http_result {
    proa_status status;      /* PROA_OK: an answer has arrived whole, with any code */
    int code;                /* 200; 0 when nothing arrived */
    const char *body;        /* terminated; "" for what went to `data` */
    size_t length;           /* of body */
    int64_t us;              /* from start to end */
    int64_t first_byte_us;   /* from start to the first byte of the answer; 0: none came */
    int64_t retry_after_us;  /* the header Retry-After; 0: absent */
    const proa_error *error; /* with method, URL and cause, when status is no PROA_OK */
    const char *cause;       /* the cause alone, inside of error */
} proa_http_result;

typedef struct proa_http_request {
    const char *method;         /* NULL: POST when there is a body, else GET */
    const char *url;            /* http or https */
    const void *body;           /* copied; NULL: none. Sent as application/json */
    size_t length;              /* of body */
    const char *const *headers; /* "Name: value", copied */
    size_t header_count;
    int64_t connect_timeout_us; /* 0: 5 s */
    int64_t timeout_us;         /* of the whole call; 0: none, for streams */
    int64_t silence_us;         /* ends a call that receives nothing for so long; 0: never */
    size_t body_limit;          /* 0: 1 MiB */
    /* For streams: called with the body's bytes of an answer with code 2xx as they come; other answers are kept in
     * result.body. NULL: all bodies are kept. */
    void (*data)(void *context, const char *bytes, size_t length);
    void (*done)(void *context, const proa_http_result *result); /* exactly once, last, unless cancelled */
    void *context;
} proa_http_request;

/* `options` may be NULL. */
proa_status proa_http_client_create(const proa_http_client_options *options, proa_http_client **client,
                                    proa_error *err);
/* Calls under way end without a hook. Accepts NULL; not from inside a hook. */
void proa_http_client_free(proa_http_client *client);

/* Begins a call; `call` may be NULL. Fails for a malformed URL and for want of memory alone: no hook is called then. No hook
 * is called before proa_http_client_run. */
proa_status proa_http_client_start(proa_http_client *client, const proa_http_request *request,
                                   proa_http_call **call, proa_error *err);

/* Ends a call now: no hook comes any more. Not after its `done` (whose call is gone). Accepts NULL. */
void proa_http_call_cancel(proa_http_call *call);

/* Moves what can be moved and runs hooks. Waits before that, at most timeout_us, until there is something to do or extra_fd
 * (-1: none) is readable. */
void proa_http_client_run(proa_http_client *client, int extra_fd, int64_t timeout_us);

/* Calls under way. */
size_t proa_http_client_active(const proa_http_client *client);

/* One call from begin to end, for those who have nothing else to do: the request needs a timeout_us and has no hooks. PROA_OK:
 * `code` and `body` (appended to) have the answer. Not from inside a hook. */
proa_status proa_http_client_fetch(proa_http_client *client, const proa_http_request *request, int *code,
                                   proa_buf *body, proa_error *err);

/* Of libcurl and what it uses: "libcurl/7.88.1 OpenSSL/3.0.19 ...". */
const char *proa_http_client_library_version(void);

#endif
