/* backend.c - the engine of this process as a backend. */
#include "serve/backend.h"

static proa_status submit(void *context, const proa_engine_request *request, uint64_t *id, proa_error *err)
{
    return proa_engine_submit(context, request, id, err);
}

static void cancel(void *context, uint64_t id)
{
    proa_engine_cancel(context, id);
}

static void grant(void *context, uint64_t id, int32_t tokens)
{
    proa_engine_grant(context, id, tokens);
}

static void get_stats(void *context, proa_engine_stats *stats)
{
    proa_engine_get_stats(context, stats);
}

static proa_status flush_cache(void *context)
{
    return proa_engine_flush_cache(context);
}

proa_backend proa_backend_of_engine(proa_engine *engine)
{
    return (proa_backend){
        .submit = submit,
        .cancel = cancel,
        .grant = grant,
        .get_stats = get_stats,
        .flush_cache = flush_cache,
        .context = engine,
    };
}
