/* client.c - the client's life, and what other threads call: requests, cancels and credit wait under the lock in a list of
 * rung calls until the loop looks at it. Nothing here waits for the loop.
 */
#include "base/clock.h"
#include "base/log.h"
#include "cluster/client_internal.h"

#include <stdlib.h>
#include <string.h>

/* ---- the loop's thread ---- */

static void finish_all(proa_client *client, const char *why)
{
    for (client_call *call = client->begun, *next; call != NULL; call = next) {
        next = call->next;
        proa_client_call_cancel(call, why);
    }
}

void proa_client_settle(proa_client *client)
{
    for (int32_t i = 0; i < CLIENT_WORKERS_MAX; i++) {
        if (client->workers[i] != NULL && client->workers[i]->broken)
            proa_client_worker_drop_broken(client->workers[i]);
    }
    if (client->worker_came) {
        client->worker_came = false;
        for (client_call *call = client->begun, *next; call != NULL; call = next) {
            next = call->next;
            proa_client_call_retry(call);
        }
    }
    if (client->changed)
        proa_client_publish(client);
}

/* Takes the rung calls over, in the order of their ringing. */
static client_call *take_rung(proa_client *client, bool *stopping, bool *flush)
{
    client_call *first = NULL;
    pthread_mutex_lock(&client->lock);
    for (client_call *call = client->rung, *next; call != NULL; call = next) {
        next = call->rung_next;
        call->rung = false;
        call->taken_grant = call->granted;
        call->taken_cancel = call->cancelled;
        call->granted = 0;
        call->taken_next = first;
        first = call;
    }
    client->rung = NULL;
    *stopping = client->stopping;
    *flush = client->flush_asked;
    client->flush_asked = false;
    pthread_mutex_unlock(&client->lock);
    return first;
}

static void look_at(client_call *call)
{
    call->looked_at = true; /* so that it outlives its end in what follows */
    if (!call->over && call->taken_grant > 0)
        proa_client_call_grant(call, call->taken_grant);
    if (!call->over && !call->begun)
        proa_client_call_begin(call, call->taken_cancel);
    if (!call->over && call->taken_cancel)
        proa_client_call_cancel(call, "the request was cancelled");
    call->looked_at = false;
    if (call->over)
        proa_client_call_release(call);
}

static void tell_workers(proa_client *client, proa_wire_type type)
{
    for (int32_t i = 0; i < CLIENT_WORKERS_MAX; i++) {
        client_worker *worker = client->workers[i];
        if (worker == NULL || worker->state != CLIENT_WORKER_READY)
            continue;
        proa_buf_clear(&client->scratch);
        proa_client_worker_send(worker, type);
    }
}

static void tell_of_records(proa_client *client)
{
    static const proa_wire_type types[] = {PROA_WIRE_RECORD_START, PROA_WIRE_RECORD_STOP,
                                           PROA_WIRE_RECORD_DUMP};
    proa_wire_record asked[CLIENT_RECORDS_MAX];
    pthread_mutex_lock(&client->lock);
    int count = client->record_count;
    memcpy(asked, client->record_asked, sizeof asked);
    client->record_count = 0;
    pthread_mutex_unlock(&client->lock);
    for (int i = 0; i < count; i++)
        tell_workers(client, types[asked[i]]);
}

static void on_wake(void *context)
{
    proa_client *client = context;
    bool stopping, flush;
    proa_client_take_news(client);
    proa_client_nats_take(client);
    for (client_call *call = take_rung(client, &stopping, &flush), *next; call != NULL; call = next) {
        next = call->taken_next;
        look_at(call);
    }
    if (flush)
        tell_workers(client, PROA_WIRE_FLUSH);
    tell_of_records(client);
    if (stopping) {
        finish_all(client, "the frontend is stopping");
        proa_loop_stop(client->loop);
    }
    proa_client_settle(client);
}

static void on_tick(void *context)
{
    proa_client *client = context;
    int64_t now = proa_clock_us();
    for (int32_t i = 0; i < CLIENT_WORKERS_MAX; i++) {
        if (client->workers[i] != NULL)
            proa_client_nats_tick(client->workers[i], now);
        if (client->workers[i] != NULL)
            proa_client_worker_tick(client->workers[i], now);
    }
    proa_client_files_tick(client, now);
    client->worker_came = true; /* who waits tries again: back-offs end, loads fall */
    proa_client_settle(client);
}

static void *run(void *context)
{
    proa_client *client = context;
    proa_loop_run(client->loop);
    return NULL;
}

/* ---- life ---- */

static bool copy_text(const char **text)
{
    if (*text == NULL)
        return true;
    *text = strdup(*text);
    return *text != NULL;
}

/* The options' strings become the client's own. */
static bool copy_options(proa_client *client, const proa_client_options *options)
{
    proa_client_options *o = &client->options;
    *o = *options;
    const char **texts[] = {
        &o->namespace_name,         &o->nats_server,           &o->cache_dir,           &o->security.key,
        &o->security.tls_cert_path, &o->security.tls_key_path, &o->security.tls_ca_path};
    bool good = true;
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        good = copy_text(texts[i]) && good; /* all: what stays is freed */
    return good;
}

static void free_options(proa_client_options *o)
{
    free((void *)o->namespace_name);
    free((void *)o->nats_server);
    free((void *)o->cache_dir);
    if (o->security.key != NULL)
        explicit_bzero((void *)o->security.key, strlen(o->security.key));
    free((void *)o->security.key);
    free((void *)o->security.tls_cert_path);
    free((void *)o->security.tls_key_path);
    free((void *)o->security.tls_ca_path);
}

static bool allocate(proa_client *client)
{
    uint64_t seed;
    proa_random_bytes(&seed, sizeof seed);
    client->slots = calloc(CLIENT_CALLS_MAX, sizeof *client->slots);
    client->free_slots = calloc(CLIENT_CALLS_MAX, sizeof *client->free_slots);
    client->by_slot = calloc(CLIENT_CALLS_MAX, sizeof(client_call *));
    client->arena = proa_arena_create(CLIENT_ARENA_BYTES);
    client->router = proa_router_create(&(proa_router_options){
        .mode = client->options.router_mode,
        .kv_overlap_weight = client->options.kv_overlap_weight,
        .seed = seed,
    });
    if (client->slots == NULL || client->free_slots == NULL || client->by_slot == NULL ||
        client->arena == NULL || client->router == NULL)
        return false;
    for (uint32_t i = 0; i < CLIENT_CALLS_MAX; i++) {
        client->slots[i].generation = 1;
        client->free_slots[i] = CLIENT_CALLS_MAX - 1 - i;
    }
    client->free_count = CLIENT_CALLS_MAX;
    return true;
}

/* The thread is not there, or not any more. */
static void destroy(proa_client *client)
{
    for (int32_t i = 0; i < CLIENT_WORKERS_MAX; i++) {
        if (client->workers[i] != NULL)
            proa_client_worker_free(client->workers[i]);
    }
    for (client_call *call = client->rung, *next; call != NULL; call = next) { /* rung after their end */
        next = call->rung_next;
        call->rung = false;
        proa_client_call_release(call);
    }
    proa_client_files_end(client);
    proa_nats_free(client->nats);
    proa_loop_free(client->loop);
    proa_router_free(client->router);
    proa_arena_free(client->arena);
    proa_buf_free(&client->scratch);
    free(client->slots);
    free(client->free_slots);
    free(client->by_slot);
    free_options(&client->options);
    pthread_mutex_destroy(&client->lock);
    free(client);
}

static proa_status set_up(proa_client *client, const proa_client_options *options, proa_error *err)
{
    if (!copy_options(client, options) || !allocate(client))
        return proa_error_set(err, PROA_ERR_MEMORY, "out of memory for the client of workers");
    if (!proa_client_files_start(client, err))
        return err->status;
    proa_status status = proa_loop_create(on_wake, client, &client->loop, err);
    if (status != PROA_OK)
        return status;
    if (proa_loop_add_timer(client->loop, CLIENT_TICK_US, on_tick, client) == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "out of memory for a timer");
    status = proa_client_nats_start(client, err);
    if (status != PROA_OK)
        return status;
    proa_client_publish(client);
    int failed = pthread_create(&client->thread, NULL, run, client);
    if (failed != 0)
        return proa_error_set(err, PROA_ERR_MEMORY, "the client's thread does not start: %s",
                              strerror(failed));
    client->thread_runs = true;
    /* last: from here on discovery's thread comes in */
    char prefix[PROA_DISCOVERY_KEY_BYTES_MAX];
    proa_discovery_hooks hooks;
    proa_instance_prefix(options->namespace_name, prefix, sizeof prefix);
    proa_client_watch_hooks(client, &hooks);
    return proa_discovery_watch(options->discovery, prefix, &hooks, err);
}

static void stop(proa_client *client)
{
    if (!client->thread_runs)
        return;
    pthread_mutex_lock(&client->lock);
    client->stopping = true;
    pthread_mutex_unlock(&client->lock);
    proa_loop_wake(client->loop);
    pthread_join(client->thread, NULL);
    client->thread_runs = false;
}

proa_status proa_client_create(const proa_client_options *options, proa_client **created, proa_error *err)
{
    proa_error own;
    if (err == NULL)
        err = &own;
    if (!proa_instance_name_valid(options->namespace_name))
        return proa_error_set(err, PROA_ERR_INVALID,
                              "the namespace is \"%s\"; it may have lower-case letters, digits, - and _",
                              options->namespace_name);
    proa_client *client = calloc(1, sizeof *client);
    if (client == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "out of memory for the client of workers");
    pthread_mutex_init(&client->lock, NULL);
    client->files.worker = client->files.tried = -1;
    proa_status status = set_up(client, options, err);
    if (status != PROA_OK) {
        stop(client);
        destroy(client);
        return status;
    }
    *created = client;
    return PROA_OK;
}

void proa_client_free(proa_client *client)
{
    if (client == NULL)
        return;
    stop(client);
    destroy(client);
}

/* ---- requests, from any thread ---- */

/* Under lock. Returns whether the loop must be woken. */
static bool ring(proa_client *client, client_call *call)
{
    if (call->rung)
        return false;
    bool first = client->rung == NULL;
    call->rung = true;
    call->rung_next = client->rung;
    client->rung = call;
    return first;
}

/* Under lock. */
static proa_status admit(const proa_client *client, proa_error *err)
{
    if (client->stopping)
        return proa_error_set(err, PROA_ERR_CANCELLED, "the frontend is stopping");
    if (client->free_count == 0)
        return proa_error_set(err, PROA_ERR_OVERLOADED,
                              "%d requests are under way, as many as a frontend takes: try again later",
                              CLIENT_CALLS_MAX);
    if (client->room == 0) {
        if (err != NULL)
            *err = client->no_room;
        return client->no_room.status;
    }
    if (client->pending >= client->room)
        return proa_error_set(err, PROA_ERR_OVERLOADED,
                              "the workers have room for %d requests more, and as many are about to be sent "
                              "there: try again later",
                              client->room);
    return PROA_OK;
}

proa_status proa_client_submit(proa_client *client, const proa_engine_request *request, uint64_t *id,
                               proa_error *err)
{
    proa_call_plan *plan = NULL;
    proa_status status = proa_call_plan_create(request, client->options.migration_limit, &plan, err);
    if (status != PROA_OK)
        return status;
    client_call *call = calloc(1, sizeof *call);
    if (call == NULL) {
        proa_call_plan_free(plan);
        return proa_error_set(err, PROA_ERR_MEMORY, "out of memory for a request");
    }
    call->client = client;
    call->plan = plan;
    call->sink = request->sink;
    bool wake = false;
    pthread_mutex_lock(&client->lock);
    status = admit(client, err);
    if (status == PROA_OK) {
        uint32_t slot = client->free_slots[--client->free_count];
        client->slots[slot].call = call;
        call->id = *id = (uint64_t)client->slots[slot].generation << 32 | (slot + 1);
        client->pending++;
        wake = ring(client, call);
    }
    pthread_mutex_unlock(&client->lock);
    if (status != PROA_OK) {
        proa_call_plan_free(plan);
        free(call);
    } else if (wake) {
        proa_loop_wake(client->loop);
    }
    return status;
}

/* The call that `id` names, if it has not finished. Under lock. */
static client_call *find(const proa_client *client, uint64_t id)
{
    uint32_t slot = (uint32_t)id - 1;
    if (slot >= CLIENT_CALLS_MAX || client->slots[slot].generation != (uint32_t)(id >> 32))
        return NULL;
    return client->slots[slot].call;
}

void proa_client_cancel(proa_client *client, uint64_t id)
{
    bool wake = false;
    pthread_mutex_lock(&client->lock);
    client_call *call = find(client, id);
    if (call != NULL) {
        call->cancelled = true;
        wake = ring(client, call);
    }
    pthread_mutex_unlock(&client->lock);
    if (wake)
        proa_loop_wake(client->loop);
}

void proa_client_grant(proa_client *client, uint64_t id, int32_t tokens)
{
    bool wake = false;
    pthread_mutex_lock(&client->lock);
    client_call *call = find(client, id);
    if (call != NULL && tokens > 0) {
        call->granted = tokens < INT32_MAX - call->granted ? call->granted + tokens : INT32_MAX;
        wake = ring(client, call);
    }
    pthread_mutex_unlock(&client->lock);
    if (wake)
        proa_loop_wake(client->loop);
}

proa_status proa_client_flush_cache(proa_client *client)
{
    proa_status status = PROA_OK;
    pthread_mutex_lock(&client->lock);
    if (client->stopping)
        status = PROA_ERR_CANCELLED;
    else if (client->free_count < CLIENT_CALLS_MAX)
        status = PROA_BUSY;
    else
        client->flush_asked = true;
    pthread_mutex_unlock(&client->lock);
    if (status == PROA_OK)
        proa_loop_wake(client->loop);
    return status;
}

proa_status proa_client_record(proa_client *client, proa_wire_record action)
{
    proa_status status = PROA_OK;
    pthread_mutex_lock(&client->lock);
    if (client->stopping)
        status = PROA_ERR_CANCELLED;
    else if (client->record_count == CLIENT_RECORDS_MAX)
        status = PROA_BUSY;
    else
        client->record_asked[client->record_count++] = action;
    pthread_mutex_unlock(&client->lock);
    if (status == PROA_OK)
        proa_loop_wake(client->loop);
    return status;
}
