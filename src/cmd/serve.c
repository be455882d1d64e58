/* serve.c - `proa serve`: one process that loads a checkpoint and answers over HTTP.
 *
 * The main thread runs the server's loop from the start, so that probes are answered while a loader thread reads the
 * weights and starts the engine. At the end: loop, then engine, then everything that they borrowed.
 */
#include "base/log.h"
#include "cmd/cmd.h"
#include "cmd/load.h"
#include "cmd/memory.h"
#include "model/forward.h"
#include "serve/server.h"

#include <malloc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

typedef struct service {
    const proa_options *options;
    char dir[4096];   /* of the model */
    const char *name; /* of the model, in answers */
    proa_server *server;
    proa_loaded loaded;
    proa_tokenizer *tokenizer;
    proa_chat_format *chat;
    proa_forward *forward;
    proa_engine *engine;
    proa_serve_model model;
    _Atomic bool loading; /* the loader thread runs */
    proa_error err;       /* why loading failed */
} service;

static const double mib = 1048576.0;

/* --served-model-name, else --model-path as given, else the folder's name of the bundled model. */
static proa_status find_model(service *s, proa_error *err)
{
    proa_status status = proa_model_dir(s->options, s->dir, sizeof s->dir, err);
    const char *slash = strrchr(s->dir, '/');
    s->name = proa_options_string(s->options, "served-model-name");
    if (s->name == NULL)
        s->name = proa_options_string(s->options, "model-path");
    if (s->name == NULL)
        s->name = slash != NULL ? slash + 1 : s->dir;
    return status;
}

/* --- loading --- */

static proa_reasoning_mode reasoning_mode(const char *name)
{
    return strcmp(name, "none") == 0          ? PROA_REASONING_MODE_NONE
           : strcmp(name, "deepseek-r1") == 0 ? PROA_REASONING_MODE_R1
           : strcmp(name, "deepseek-v3") == 0 ? PROA_REASONING_MODE_V3
                                              : PROA_REASONING_MODE_AUTO;
}

static proa_status load_text(service *s, proa_error *err)
{
    const char *dir = proa_options_string(s->options, "tokenizer-path");
    if (dir == NULL)
        dir = s->dir;
    proa_status status = proa_tokenizer_load(dir, &s->tokenizer, err);
    if (status == PROA_OK)
        status = proa_chat_format_load(dir, proa_options_string(s->options, "chat-template"), &s->chat, err);
    if (status != PROA_OK)
        return status;
    int32_t tokens = proa_tokenizer_vocab_size(s->tokenizer), rows = s->loaded.config.vocab_size;
    if (tokens > rows)
        return proa_error_set(
            err, PROA_ERR_INVALID,
            "%s/tokenizer.json has token ids up to %d, but the model's vocab_size is %d: they do not "
            "belong together",
            dir, tokens - 1, rows);
    if (!proa_chat_format_has_template(s->chat))
        proa_log(PROA_LOG_WARN, "serve", "%s has no chat template: /v1/chat/completions will refuse requests",
                 dir);
    return PROA_OK;
}

static proa_status choose_context(const service *s, int32_t *context, proa_error *err)
{
    int32_t own = s->loaded.config.max_position_embeddings;
    *context = own;
    if (!proa_options_given(s->options, "context-length"))
        return PROA_OK;
    *context = (int32_t)proa_options_int(s->options, "context-length");
    if (*context > own)
        return proa_error_set(err, PROA_ERR_INVALID,
                              "--context-length %d is longer than the %d positions of config.json "
                              "(max_position_embeddings)",
                              *context, own);
    return PROA_OK;
}

static proa_engine_options engine_options(const service *s, int32_t kv_tokens, int32_t context)
{
    const proa_options *o = s->options;
    return (proa_engine_options){
        .max_running_requests = (int32_t)proa_options_int(o, "max-running-requests"),
        .max_queued_requests = (int32_t)proa_options_int(o, "max-queued-requests"),
        .max_total_tokens = kv_tokens,
        .chunked_prefill_size = (int32_t)proa_options_int(o, "chunked-prefill-size"),
        .context_length = context,
        .page_size = (int32_t)proa_options_int(o, "page-size"),
        .disable_radix_cache = proa_options_bool(o, "disable-radix-cache"),
        .schedule_policy = strcmp(proa_options_string(o, "schedule-policy"), "lpm") == 0 ? PROA_SCHEDULE_LPM
                                                                                         : PROA_SCHEDULE_FCFS,
        .decode_log_interval = (int32_t)proa_options_int(o, "decode-log-interval"),
    };
}

static uint64_t allocated_bytes(void)
{
    struct mallinfo2 info = mallinfo2();
    return (uint64_t)info.uordblks + (uint64_t)info.hblkhd;
}

/* The KV cache's size, then forward and engine. Logs what takes how much memory. */
static proa_status start_engine(service *s, uint64_t available, proa_error *err)
{
    const proa_options *o = s->options;
    int32_t context, running = (int32_t)proa_options_int(o, "max-running-requests");
    proa_status status = choose_context(s, &context, err);
    if (status != PROA_OK)
        return status;
    const proa_weights *weights = proa_checkpoint_weights(s->loaded.checkpoint);
    proa_precision precision = s->loaded.device->host.precision;
    proa_memory_plan plan = {
        .available_bytes = available,
        .weight_bytes = weights->bytes,
        .block_bytes = proa_forward_kv_block_bytes(&s->loaded.config, precision),
    };
    int64_t wanted = proa_options_given(o, "max-total-tokens") ? proa_options_int(o, "max-total-tokens") : 0;
    status = proa_memory_plan_kv(&plan, proa_options_real(o, "mem-fraction-static"), wanted, running, context,
                                 err);
    if (status != PROA_OK)
        return status;
    proa_engine_options options = engine_options(s, plan.kv_tokens, context);
    proa_forward_limits limits;
    uint64_t before = allocated_bytes();
    status = proa_engine_forward_limits(&options, &limits, err);
    if (status == PROA_OK)
        status = proa_forward_create(&s->loaded.config, weights, s->loaded.device, &limits, &s->forward, err);
    if (status == PROA_OK)
        status =
            proa_engine_start(&options, &s->loaded.config, s->forward, s->loaded.device, &s->engine, err);
    if (status != PROA_OK)
        return status;
    double kv = (double)limits.kv_blocks * (double)plan.block_bytes,
           all = (double)(allocated_bytes() - before);
    proa_log(PROA_LOG_INFO, "serve",
             "memory: %.0f MiB available; weights %.1f MiB, KV cache %.1f MiB (%d blocks of 64 tokens, %d "
             "tokens), "
             "buffers %.1f MiB",
             (double)available / mib, (double)weights->bytes / mib, kv / mib, limits.kv_blocks,
             plan.kv_tokens, all > kv ? (all - kv) / mib : 0);
    s->model.limits.context_length = limits.positions_max;
    s->model.kv_tokens = plan.kv_tokens;
    return PROA_OK;
}

static void describe_model(service *s)
{
    const proa_generation_config *g = &s->loaded.generation;
    bool openai = strcmp(proa_options_string(s->options, "sampling-defaults"), "openai") == 0;
    s->model.path = s->dir;
    s->model.tokenizer = s->tokenizer;
    s->model.chat = s->chat;
    s->model.reasoning = reasoning_mode(proa_options_string(s->options, "reasoning-parser"));
    s->model.token_bytes_max = proa_serve_token_bytes_max(s->tokenizer);
    s->model.limits.model_name = s->name;
    s->model.limits.vocab_size = s->loaded.config.vocab_size;
    s->model.limits.choices_max = 1024;
    s->model.limits.temperature = openai ? 1 : g->temperature;
    s->model.limits.top_p = openai ? 1 : g->top_p;
    s->model.limits.top_k = openai ? -1 : g->top_k;
}

static proa_status load(service *s, proa_error *err)
{
    uint64_t available = proa_memory_available();
    proa_status status = proa_loaded_open(s->options, &s->loaded, err);
    if (status == PROA_OK)
        status = load_text(s, err);
    if (status == PROA_OK)
        status = start_engine(s, available, err);
    if (status != PROA_OK)
        return status;
    describe_model(s);
    proa_backend backend = proa_backend_of_engine(s->engine);
    status = proa_server_set_ready(s->server, &s->model, &backend, err);
    if (status == PROA_OK)
        proa_log(PROA_LOG_INFO, "serve", "ready: %s, context %d tokens, device %s with %d threads",
                 s->model.limits.model_name, s->model.limits.context_length, s->loaded.device->ops->name,
                 proa_pool_threads(s->loaded.device->host.pool));
    return status;
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

/* --- life --- */

static void close_service(service *s)
{
    proa_engine_stop(s->engine);
    proa_server_free(s->server);
    proa_forward_free(s->forward);
    proa_chat_format_free(s->chat);
    proa_tokenizer_free(s->tokenizer);
    proa_loaded_close(&s->loaded);
}

static proa_server_options server_options(const service *s)
{
    const proa_options *o = s->options;
    proa_server_options options = proa_server_default_options();
    options.http.host = proa_options_string(o, "host");
    options.http.port = (int)proa_options_int(o, "port");
    options.api_key = proa_options_string(o, "api-key");
    options.model_name = s->name;
    options.version = proa_options_program(o)->version;
    options.drain_s = proa_options_real(o, "shutdown-timeout");
    options.watchdog_s = proa_options_real(o, "watchdog-timeout");
    int64_t streams =
        proa_options_int(o, "max-running-requests") + proa_options_int(o, "max-queued-requests") + 1024;
    options.streams_max = streams < 1 << 20 ? (int32_t)streams : 1 << 20;
    return options;
}

/* Each connection takes a descriptor. */
static void raise_descriptor_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

int proa_cmd_serve(const proa_options *options)
{
    service s = {.options = options};
    proa_log_set_level(proa_options_string(options, "log-level"));
    if (find_model(&s, &s.err) != PROA_OK)
        return proa_cmd_fail(&s.err);
    raise_descriptor_limit();
    proa_server_options server = server_options(&s);
    if (proa_server_create(&server, &s.server, &s.err) != PROA_OK)
        return proa_cmd_fail(&s.err);
    bool v6 = strchr(server.http.host, ':') != NULL;
    printf("proa: listening on http://%s%s%s:%d\n", v6 ? "[" : "", server.http.host, v6 ? "]" : "",
           proa_server_port(s.server));
    fflush(stdout);
    pthread_t loader;
    atomic_store(&s.loading, true);
    if (pthread_create(&loader, NULL, run_loader, &s) != 0) {
        proa_server_free(s.server);
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
