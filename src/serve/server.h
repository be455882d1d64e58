/* server.h - the HTTP API in front of a backend: OpenAI's and SGLang's endpoints, health, metrics.
 *
 * It listens from proa_server_create on, so that clients and probes see 503 (not a closed port) while the model loads;
 * proa_server_set_ready opens it. One thread runs proa_server_run and owns all state; set_ready and stop may be called from
 * any. SIGINT and SIGTERM end it: no new requests, those in flight finish or are cancelled within drain_s; a
 * second signal ends it at once.
 *
 * Order at the end: proa_server_run returns, the backend is stopped (its last callbacks still touch the server), then
 * proa_server_free.
 */
#ifndef PROA_SERVE_SERVER_H
#define PROA_SERVE_SERVER_H

#include "serve/backend.h"
#include "serve/http.h"
#include "serve/prepare.h"

typedef struct proa_server proa_server;

typedef struct proa_server_options {
    proa_http_options http;
    const char *api_key; /* NULL: none is asked for */
    const char *model_name;
    const char *version;
    const char *trace_dir; /* where /start_profile may write; NULL: nowhere */
    int prepare_threads;
    int32_t streams_max; /* engine requests of all clients together; more are refused with 503 */
    double drain_s;      /* requests in flight may take this long after SIGTERM */
    double stall_s;      /* busy without a step for this long: /health answers 503 */
    double watchdog_s;   /* and for this long: requests in flight fail */
} proa_server_options;

/* What a server that stands before a cluster can also tell. Called on the loop's thread. */
typedef struct proa_server_cluster {
    /* Appends a JSON array of the workers for /health; returns whether requests can be served now. */
    bool (*write_instances)(void *context, proa_buf *out);
    void (*write_metrics)(void *context, proa_buf *out); /* Prometheus lines */
    void *context;
} proa_server_cluster;

proa_server_options proa_server_default_options(void);

/* `options` is copied, its strings are borrowed. */
proa_status proa_server_create(const proa_server_options *options, proa_server **server, proa_error *err);
/* Before proa_server_run; copied. */
void proa_server_set_cluster(proa_server *server, const proa_server_cluster *cluster);
void proa_server_free(proa_server *server); /* accepts NULL */
int proa_server_port(const proa_server *server);

/* Borrows `model` until proa_server_free, the backend until it is stopped. */
proa_status proa_server_set_ready(proa_server *server, const proa_serve_model *model,
                                  const proa_backend *backend, proa_error *err);

void proa_server_run(proa_server *server);
void proa_server_stop(proa_server *server); /* ends proa_server_run at once */

#endif
