/* client.h - the frontend's side of the cluster: finds workers, picks them, sends requests, survives their deaths.
 *
 * It answers requests with the contracts of engine.h (proa_client_submit is proa_engine_submit, and so on), so that the server
 * sees one backend whatever stands behind it. Inside: a thread with a loop that owns discovery's news, a link to each worker,
 * the router (router.h, pure) and the calls (call_plan.h, pure).
 *
 * A request needs a prefill and a decode worker, or a combined one; which, the router says. When a worker dies, stalls, drains or
 * fails a request, the request goes on elsewhere from the tokens that it has (at most migration_limit times): the client
 * sees a pause and no difference.
 *
 * Sinks are called on the client's thread, with no lock held, and must not block.
 */
#ifndef PROA_CLUSTER_CLIENT_H
#define PROA_CLUSTER_CLIENT_H

#include "cluster/discovery.h"
#include "cluster/wire.h"
#include "net/link.h"

typedef struct proa_client proa_client;

typedef enum proa_router_mode {
    PROA_ROUTER_ROUND_ROBIN,
    PROA_ROUTER_RANDOM,
    PROA_ROUTER_LEAST_LOADED,
    PROA_ROUTER_KV, /* longest cached prefix weighed against load */
} proa_router_mode;

typedef struct proa_client_options {
    const char *namespace_name;  /* "dynamo" */
    proa_discovery *discovery;   /* its hooks lead here: it must be freed before the client */
    proa_link_security security; /* copied */
    proa_link_identity identity;
    proa_router_mode router_mode;
    double kv_overlap_weight; /* PROA_ROUTER_KV: blocks of load that a cached block is worth; default 1 */
    int32_t migration_limit;  /* replays of a request, default 3 */
    const char *nats_server;  /* request plane nats: "nats://host:4222"; NULL: tcp */
    const char
        *cache_dir;   /* where model files of workers are kept; NULL: a folder that is removed at the end */
    bool wants_files; /* fetch the model's small files from the first worker */
    /* A worker's card has come and, when wanted, its files are in `dir`. Called once, on the client's thread. Workers whose
     * model digest differs from that card's are refused with a log line. */
    void (*on_model)(void *context, const proa_wire_card *card, const char *dir);
    void *context;
} proa_client_options;

proa_status proa_client_create(const proa_client_options *options, proa_client **client, proa_error *err);
/* Requests in flight finish with ABORT (PROA_ERR_CANCELLED). Accepts NULL. */
void proa_client_free(proa_client *client);

/* As proa_engine_submit and its siblings. PROA_ERR_OVERLOADED: all workers are full (text says which kind);
 * PROA_ERR_UNREACHABLE: there is no worker that could take it. */
proa_status proa_client_submit(proa_client *client, const proa_engine_request *request, uint64_t *id,
                               proa_error *err);
void proa_client_cancel(proa_client *client, uint64_t id);
void proa_client_grant(proa_client *client, uint64_t id, int32_t tokens);
void proa_client_get_stats(proa_client *client, proa_engine_stats *stats); /* sums over workers */
proa_status proa_client_flush_cache(proa_client *client);

/* Tells all workers that are connected to start, stop or dump the record of what their experts have to do. PROA_BUSY: too much was asked
 * at once. Thread-safe, does not wait. */
proa_status proa_client_record(proa_client *client, proa_wire_record action);

/* Appends a JSON array for /health: [{"component", "endpoint", "instance_id", "namespace", "transport", "status", ...}]; returns
 * whether a request could be served now. Thread-safe. */
bool proa_client_write_instances(proa_client *client, proa_buf *out);
/* Appends Prometheus lines: workers, migrations, hand-offs, transfer bytes and microseconds. Thread-safe. */
void proa_client_write_metrics(proa_client *client, proa_buf *out);

#endif
