/* server_internal.h - the server's state, for server.c, call.c and endpoints.c. All of it belongs to the loop's thread. */
#ifndef PROA_SERVE_SERVER_INTERNAL_H
#define PROA_SERVE_SERVER_INTERNAL_H

#include "serve/call.h"
#include "serve/metrics.h"
#include "serve/server.h"
#include "serve/stream.h"

struct proa_server {
    proa_server_options options;
    proa_http *http;
    const proa_serve_model *model; /* NULL while it loads */
    proa_backend backend;
    proa_server_cluster cluster; /* {0}: the backend is an engine of this process */
    proa_preparer *preparer;
    proa_mailbox *ready_box;  /* one struct ready_message, from proa_server_set_ready */
    proa_mailbox *job_box;    /* jobs that came back */
    proa_mailbox *stream_box; /* proa_stream_message */
    proa_metrics metrics;
    proa_call *calls; /* all, doubly linked */
    int32_t call_count;
    int32_t stream_count;
    proa_buf scratch;
    uint64_t seed_key[2]; /* of seeds for requests that give none */
    uint64_t seed_count;
    int64_t progress_us; /* when the backend last was idle or had done another step */
    uint64_t progress_steps;
    bool stall_told;  /* the stacks of this stall are in the log */
    bool device_lost; /* of an engine of this process: it answers nothing any more */
    bool draining;
    int64_t drain_until_us;
    int64_t empty_since_us; /* while draining: since when no call is left; 0: some are */
};

/* The served model's name: in answers, /v1/models and metrics. */
const char *proa_server_model_name(const proa_server *server);

/* Is the model loaded and the backend alive? Otherwise fills the error, 503. */
bool proa_server_check_health(const proa_server *server, proa_api_error *error);

/* endpoints.c: those that answer at once. */
void proa_endpoint_models(proa_server *server, proa_http_exchange *exchange);
void proa_endpoint_model(proa_server *server, proa_http_exchange *exchange); /* /v1/models/{id} */
void proa_endpoint_health(proa_server *server, proa_http_exchange *exchange);
void proa_endpoint_ping(proa_server *server, proa_http_exchange *exchange);
void proa_endpoint_metrics(proa_server *server, proa_http_exchange *exchange);
void proa_endpoint_model_info(proa_server *server, proa_http_exchange *exchange);
void proa_endpoint_server_info(proa_server *server, proa_http_exchange *exchange);
void proa_endpoint_flush_cache(proa_server *server, proa_http_exchange *exchange);
void proa_endpoint_start_record(proa_server *server, proa_http_exchange *exchange);
void proa_endpoint_stop_record(proa_server *server, proa_http_exchange *exchange);
void proa_endpoint_dump_record(proa_server *server, proa_http_exchange *exchange);
void proa_endpoint_version(proa_server *server, proa_http_exchange *exchange);

/* profile.c */
void proa_endpoint_start_profile(proa_server *server, proa_http_exchange *exchange);
void proa_endpoint_stop_profile(proa_server *server, proa_http_exchange *exchange);

#endif
