/* backend.h - what answers requests, as the server sees it: an engine of this process, or a client of a cluster's workers.
 *
 * The functions have the contracts of engine.h's proa_engine_*: thread-safe, none of them blocks.
 */
#ifndef PROA_SERVE_BACKEND_H
#define PROA_SERVE_BACKEND_H

#include "cluster/client.h"
#include "engine/engine.h"

typedef struct proa_backend {
    proa_status (*submit)(void *context, const proa_engine_request *request, uint64_t *id, proa_error *err);
    void (*cancel)(void *context, uint64_t id);
    void (*grant)(void *context, uint64_t id, int32_t tokens);
    void (*get_stats)(void *context, proa_engine_stats *stats);
    proa_status (*flush_cache)(void *context);
    /* NULL: nothing is recorded here. */
    proa_status (*record)(void *context, proa_wire_record action);
    void *context;
    proa_trace *trace; /* of the engine here, or NULL */
    bool is_here;      /* it computes in this process */
} proa_backend;

/* An engine of this process; it stays the caller's. */
proa_backend proa_backend_of_engine(proa_engine *engine);

/* The workers that a client knows; it stays the caller's. */
proa_backend proa_backend_of_client(proa_client *client);

#endif
