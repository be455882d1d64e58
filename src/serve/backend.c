/* backend.c - the engine of this process, or a cluster, as a backend. */
#include "serve/backend.h"

static proa_status engine_submit(void *context, const proa_engine_request *request, uint64_t *id,
                                 proa_error *err)
{
    return proa_engine_submit(context, request, id, err);
}

static void engine_cancel(void *context, uint64_t id)
{
    proa_engine_cancel(context, id);
}

static void engine_grant(void *context, uint64_t id, int32_t tokens)
{
    proa_engine_grant(context, id, tokens);
}

static void engine_get_stats(void *context, proa_engine_stats *stats)
{
    proa_engine_get_stats(context, stats);
}

static proa_status engine_flush_cache(void *context)
{
    return proa_engine_flush_cache(context);
}

proa_backend proa_backend_of_engine(proa_engine *engine)
{
    return (proa_backend){
        .submit = engine_submit,
        .cancel = engine_cancel,
        .grant = engine_grant,
        .get_stats = engine_get_stats,
        .is_here = true,
        .flush_cache = engine_flush_cache,
        .context = engine,
        .trace = proa_engine_trace(engine),
    };
}

static proa_status client_submit(void *context, const proa_engine_request *request, uint64_t *id,
                                 proa_error *err)
{
    return proa_client_submit(context, request, id, err);
}

static void client_cancel(void *context, uint64_t id)
{
    proa_client_cancel(context, id);
}

static void client_grant(void *context, uint64_t id, int32_t tokens)
{
    proa_client_grant(context, id, tokens);
}

static void client_get_stats(void *context, proa_engine_stats *stats)
{
    proa_client_get_stats(context, stats);
}

static proa_status client_flush_cache(void *context)
{
    return proa_client_flush_cache(context);
}

static proa_status client_record(void *context, proa_wire_record action)
{
    return proa_client_record(context, action);
}

proa_backend proa_backend_of_client(proa_client *client)
{
    return (proa_backend){
        .submit = client_submit,
        .cancel = client_cancel,
        .grant = client_grant,
        .get_stats = client_get_stats,
        .flush_cache = client_flush_cache,
        .record = client_record,
        .context = client,
    };
}
