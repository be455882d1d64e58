/* frontend.c - `proa frontend`: HTTP in, routing out. It has no weights: it learns the model's language from the first worker
 * (cluster/client.h fetches the small files), or from --model-path.
 *
 * The main thread runs the server's loop from the start; until a worker is there, /health says so with status 503.
 */
#include "base/log.h"
#include "cmd/cluster_flags.h"
#include "cmd/cmd.h"
#include "cmd/language.h"
#include "cmd/load.h"
#include "cmd/ready.h"
#include "cmd/serving.h"
#include "serve/server.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

typedef struct service {
    const proa_options *options;
    proa_cluster_flags flags;
    proa_discovery *discovery;
    proa_client *client;
    proa_server *server;
    proa_language language;
    proa_wire_card card; /* of the first worker */
    char dir[4096];
    char name[256];
    pthread_t loader;
    _Atomic bool loading; /* the loader was started: release, so that main sees what it joins */
    proa_error err;       /* why loading failed */
} service;

static proa_status load(service *s, proa_error *err)
{
    proa_model_config config;
    proa_generation_config generation;
    proa_status status = proa_model_config_load(s->dir, &config, err);
    if (status == PROA_OK)
        status = proa_generation_config_load(s->dir, &config, &generation, err);
    if (status == PROA_OK)
        status = proa_language_open(s->options, s->dir, s->name, &config, &generation, s->card.context_length,
                                    s->card.kv_tokens, &s->language, err);
    if (status != PROA_OK)
        return status;
    proa_backend backend = proa_backend_of_client(s->client);
    status = proa_server_set_ready(s->server, &s->language.model, &backend, err);
    if (status == PROA_OK)
        proa_log(PROA_LOG_INFO, "frontend", "ready: %s, context %d tokens", s->name, s->card.context_length);
    return status;
}

static void *run_loader(void *context)
{
    service *s = context;
    s->err.status = load(s, &s->err);
    if (s->err.status != PROA_OK)
        proa_server_stop(s->server);
    return NULL;
}

/* On the client's thread: a tokenizer takes a second to load, so it is loaded on a thread of its own. */
static void on_model(void *context, const proa_wire_card *card, const char *dir)
{
    service *s = context;
    const char *own = proa_options_string(s->options, "model-path");
    const char *name = proa_options_string(s->options, "served-model-name");
    s->card = *card;
    snprintf(s->dir, sizeof s->dir, "%s", own != NULL ? own : dir);
    snprintf(s->name, sizeof s->name, "%s", name != NULL ? name : card->model_name);
    if (pthread_create(&s->loader, NULL, run_loader, s) == 0)
        atomic_store_explicit(&s->loading, true, memory_order_release);
    else
        proa_server_stop(s->server);
}

static bool write_instances(void *context, proa_buf *out)
{
    return proa_client_write_instances(context, out);
}

static void write_metrics(void *context, proa_buf *out)
{
    proa_client_write_metrics(context, out);
}

static proa_status open_server(service *s, proa_error *err)
{
    proa_server_options options = proa_serving_options(s->options);
    options.http.host = proa_options_string(s->options, "http-host");
    options.http.port = (int)proa_options_int(s->options, "http-port");
    return proa_server_create(&options, &s->server, err);
}

static proa_status open_cluster(service *s, proa_error *err)
{
    proa_status status = proa_cluster_flags_read(s->options, &s->flags, err);
    if (status == PROA_OK)
        status = proa_discovery_create(&s->flags.discovery, &s->discovery, err);
    if (status != PROA_OK)
        return status;
    proa_client_options options = proa_cluster_client_options(s->options, &s->flags, s->discovery);
    options.wants_files = proa_options_string(s->options, "model-path") == NULL;
    options.on_model = on_model;
    options.context = s;
    return proa_client_create(&options, &s->client, err);
}

static void close_service(service *s)
{
    proa_discovery_free(s->discovery); /* first: its hooks lead into the client */
    proa_client_free(s->client);
    if (atomic_load_explicit(&s->loading, memory_order_acquire))
        pthread_join(s->loader, NULL);
    proa_server_free(s->server);
    proa_language_close(&s->language);

    proa_cluster_flags_free(&s->flags);
}

int proa_cmd_frontend(const proa_options *options)
{
    service s = {.options = options};
    proa_error err = {0};
    proa_log_set_level(proa_options_string(options, "log-level"));
    proa_serving_raise_descriptor_limit();
    proa_status status = open_server(&s, &err);
    if (status == PROA_OK)
        status = open_cluster(&s, &err);
    if (status == PROA_OK) {
        proa_server_set_cluster(s.server, &(proa_server_cluster){.write_instances = write_instances,
                                                                 .write_metrics = write_metrics,
                                                                 .context = s.client});
        proa_serving_print_address(options, "http-host", proa_server_port(s.server));
        proa_ready_tell(options);
        proa_server_run(s.server);
    }
    close_service(&s);
    if (status == PROA_OK && s.err.status != PROA_OK)
        return proa_cmd_fail(&s.err);
    return status == PROA_OK ? PROA_EXIT_OK : proa_cmd_fail(&err);
}
