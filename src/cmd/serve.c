/* serve.c - `proa serve`: a service on this machine in one process.
 *
 * Without more flags, the server in front of one engine. With --prefill-workers and --decode-workers, the roles of a cluster in this
 * process (roles.h): the same code as `proa frontend` and `proa worker`, found through memory, with KV rows copied.
 *
 * The main thread runs the server's loop from the start, so that probes are answered while a loader thread reads the
 * weights and starts the engines. At the end: loop, then engines, then everything that they borrowed.
 */
#include "base/log.h"
#include "base/stacks.h"
#include "cmd/cmd.h"
#include "cmd/language.h"
#include "cmd/rank.h"
#include "cmd/ready.h"
#include "cmd/roles.h"
#include "cmd/serving.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

typedef struct service {
    const proa_options *options;
    char dir[4096];   /* of the model */
    const char *name; /* of the model, in answers */
    proa_server *server;
    proa_rank rank;    /* of the one engine; unused with roles */
    proa_roles *roles; /* NULL: one engine */
    proa_language language;
    _Atomic bool loading; /* the loader thread runs */
    proa_error err;       /* why loading failed */
} service;

static bool wants_roles(const proa_options *o)
{
    return proa_options_int(o, "prefill-workers") > 0 || proa_options_int(o, "decode-workers") > 0;
}

static proa_status load_engine(service *s, proa_backend *backend, proa_error *err)
{
    proa_status status = proa_rank_open(s->options, &(proa_rank_use){0}, &s->rank, err);
    if (status == PROA_OK)
        status = proa_language_open(s->options, s->dir, s->name, &s->rank.loaded.config,
                                    &s->rank.loaded.generation, s->rank.context_length, s->rank.kv_tokens,
                                    &s->language, err);
    if (status == PROA_OK)
        *backend = proa_backend_of_engine(s->rank.engine);
    return status;
}

static proa_status load_roles(service *s, proa_backend *backend, proa_error *err)
{
    proa_status status = proa_roles_open(s->options, s->dir, s->name, s->roles, err);
    if (status != PROA_OK)
        return status;
    const proa_rank *rank = proa_roles_rank(s->roles);
    status = proa_language_open(s->options, s->dir, s->name, &rank->loaded.config, &rank->loaded.generation,
                                rank->context_length, rank->kv_tokens, &s->language, err);
    if (status == PROA_OK)
        *backend = proa_backend_of_client(proa_roles_client(s->roles));
    return status;
}

static proa_status load(service *s, proa_error *err)
{
    proa_backend backend;
    proa_status status = s->roles != NULL ? load_roles(s, &backend, err) : load_engine(s, &backend, err);
    const proa_rank *rank = s->roles != NULL ? proa_roles_rank(s->roles) : &s->rank;
    s->language.model.kv_dtype = proa_kv_cache_name(rank->kv_dtype);
    if (status == PROA_OK)
        status = proa_server_set_ready(s->server, &s->language.model, &backend, err);
    if (status != PROA_OK)
        return status;
    const proa_device *device = rank->loaded.device;
    proa_log(PROA_LOG_INFO, "serve", "ready: %s, context %d tokens, device %s with %d threads", s->name,
             s->language.model.limits.context_length,
             device == NULL ? "none (proof)" : proa_options_string(s->options, "device"),
             device != NULL ? proa_pool_threads(device->host.pool) : 0);
    proa_ready_tell(s->options);
    return PROA_OK;
}

static void *run_loader(void *context)
{
    service *s = context;
    proa_status status = load(s, &s->err);
    s->err.status = status;
    atomic_store(&s->loading, false); /* before the stop: main reads both */
    if (status != PROA_OK)
        proa_server_stop(s->server);
    return NULL;
}

static void close_service(service *s)
{
    proa_roles_stop(s->roles);
    proa_rank_stop(&s->rank);
    proa_server_free(s->server);
    proa_language_close(&s->language);
    proa_roles_free(s->roles);
    proa_rank_close(&s->rank);
}

static proa_status open_server(service *s, proa_error *err)
{
    const proa_options *o = s->options;
    proa_server_options options = proa_serving_options(o);
    options.http.host = proa_options_string(o, "host");
    options.http.port = (int)proa_options_int(o, "port");
    options.model_name = s->name;
    options.trace_dir = proa_options_string(o, "trace-dir");
    int64_t streams =
        proa_options_int(o, "max-running-requests") + proa_options_int(o, "max-queued-requests") + 1024;
    options.streams_max = streams < 1 << 20 ? (int32_t)streams : 1 << 20;
    proa_status status = proa_server_create(&options, &s->server, err);
    if (status == PROA_OK && wants_roles(o)) {
        status = proa_roles_create(o, &s->roles, err);
        if (status == PROA_OK)
            proa_server_set_cluster(s->server, proa_roles_cluster(s->roles));
    }
    return status;
}

int proa_cmd_serve(const proa_options *options)
{
    service s = {.options = options};
    proa_log_set_level(proa_options_string(options, "log-level"));
    if (proa_model_dir(options, s.dir, sizeof s.dir, &s.err) != PROA_OK)
        return proa_cmd_fail(&s.err);
    s.name = proa_served_model_name(options, s.dir);
    proa_serving_raise_descriptor_limit();
    proa_stacks_prepare();
    if (open_server(&s, &s.err) != PROA_OK) {
        proa_error err = s.err;
        close_service(&s);
        return proa_cmd_fail(&err);
    }
    proa_serving_print_address(options, "host", proa_server_port(s.server));
    pthread_t loader;
    atomic_store(&s.loading, true);
    if (pthread_create(&loader, NULL, run_loader, &s) != 0) {
        close_service(&s);
        proa_error_set(&s.err, PROA_ERR_MEMORY, "cannot start a thread");
        return proa_cmd_fail(&s.err);
    }
    proa_server_run(s.server);
    if (atomic_load(&s.loading))
        _exit(
            PROA_EXIT_OK); /* told to end while loading: there is nothing to finish, and reading cannot be interrupted */
    pthread_join(loader, NULL);
    proa_error err = s.err;
    close_service(&s);
    return err.status == PROA_OK ? PROA_EXIT_OK : proa_cmd_fail(&err);
}
