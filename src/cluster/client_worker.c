/* client_worker.c - which workers there are (discovery's news), a link to each, and what they say.
 *
 * Discovery tells where to dial and that a worker has left; whether one is there is what its link says.
 */
#include "base/clock.h"
#include "base/log.h"
#include "cluster/client_internal.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

/* ---- discovery's thread ---- */

static client_news *find_news(proa_client *client, const char *key)
{
    client_news *unused = NULL;
    for (int32_t i = 0; i < CLIENT_WORKERS_MAX; i++) {
        client_news *n = &client->news[i];
        if (n->used && strcmp(n->key, key) == 0)
            return n;
        if (!n->used && unused == NULL)
            unused = n;
    }
    return unused;
}

static void on_put(void *context, const char *key, const char *value, size_t length)
{
    proa_client *client = context;
    proa_instance instance;
    proa_error err;
    if (proa_instance_parse(key, value, length, &instance, &err) != PROA_OK) {
        proa_log(PROA_LOG_WARN, "cluster", "discovery has a record that is not understood: %s", err.text);
        return;
    }
    if (strcmp(instance.endpoint, "generate") != 0)
        return;
    pthread_mutex_lock(&client->lock);
    client_news *n = find_news(client, key);
    if (n != NULL) {
        n->used = n->listed = n->changed = true;
        n->instance = instance;
        snprintf(n->key, sizeof n->key, "%s", key);
        client->news_came = true;
    }
    pthread_mutex_unlock(&client->lock);
    if (n == NULL)
        proa_log(PROA_LOG_ERROR, "cluster", "%s is left out: a frontend takes at most %d workers", key,
                 CLIENT_WORKERS_MAX);
    proa_loop_wake(client->loop);
}

static void on_gone(void *context, const char *key)
{
    proa_client *client = context;
    pthread_mutex_lock(&client->lock);
    client_news *n = find_news(client, key);
    if (n != NULL && n->used) {
        n->listed = false;
        n->changed = client->news_came = true;
    }
    pthread_mutex_unlock(&client->lock);
    proa_loop_wake(client->loop);
}

static void on_synced(void *context)
{
    (void)context; /* workers may come at any time: nobody waits for the first list */
}

void proa_client_watch_hooks(proa_client *client, proa_discovery_hooks *hooks)
{
    *hooks = (proa_discovery_hooks){.put = on_put, .gone = on_gone, .synced = on_synced, .context = client};
}

/* ---- coming and going ---- */

static const char *kind_of(const client_worker *worker)
{
    if (worker->card.vocab_size == 0)
        return "worker";
    return worker->card.leg == PROA_LEG_PREFILL  ? "prefill worker"
           : worker->card.leg == PROA_LEG_DECODE ? "decode worker"
                                                 : "combined worker";
}

static void set_state(client_worker *worker, client_worker_state state)
{
    worker->state = state;
    worker->since_us = proa_clock_us();
    worker->client->changed = true;
    proa_client_show(worker);
}

static client_worker *find_process(const proa_client *client, uint64_t instance, uint64_t epoch)
{
    for (int32_t i = 0; i < CLIENT_WORKERS_MAX; i++) {
        client_worker *w = client->workers[i];
        if (w != NULL && w->instance.id == instance && w->instance.epoch == epoch)
            return w;
    }
    return NULL;
}

static void set_listed(client_worker *worker, bool listed)
{
    worker->listed = listed;
    proa_router_listed(worker->client->router, worker->number, listed);
    worker->client->changed = true;
}

static void add(proa_client *client, const proa_instance *instance)
{
    int32_t number = proa_router_join(client->router, instance->id, instance->epoch);
    client_worker *worker = number >= 0 ? calloc(1, sizeof *worker) : NULL;
    if (worker == NULL) {
        proa_log(PROA_LOG_ERROR, "cluster", "the worker at %s is left out: %s", instance->address,
                 number < 0 ? "too many are known" : "out of memory");
        if (number >= 0)
            proa_router_leave(client->router, number);
        return;
    }
    *worker = (client_worker){.client = client, .number = number, .instance = *instance, .listed = true};
    worker->pause_us = CLIENT_DIAL_US_MIN;
    client->workers[number] = worker;
    set_state(worker, CLIENT_WORKER_DOWN);
}

static void forget(client_worker *worker)
{
    proa_client *client = worker->client;
    proa_router_leave(client->router, worker->number);
    proa_client_hide(worker);
    client->workers[worker->number] = NULL;
    client->changed = true;
    proa_client_worker_free(worker);
}

void proa_client_worker_free(client_worker *worker)
{
    proa_client_nats_unlinked(worker);
    proa_link_close(worker->link);
    free(worker);
}

static void take_listed(proa_client *client, const proa_instance *instance)
{
    for (int32_t i = 0; i < CLIENT_WORKERS_MAX; i++) {
        client_worker *w = client->workers[i];
        if (w == NULL || w->instance.id != instance->id || w->instance.epoch == instance->epoch)
            continue;
        w->superseded = true; /* what still runs there may end */
        set_listed(w, false);
    }
    client_worker *worker = find_process(client, instance->id, instance->epoch);
    if (worker == NULL) {
        add(client, instance);
        return;
    }
    worker->instance = *instance; /* its address may be another one */
    worker->superseded = false;
    set_listed(worker, true);
}

/* Takes over what has changed of one instance; false: nothing. */
static bool take_change(proa_client *client, int32_t number, proa_instance *instance, bool *listed)
{
    pthread_mutex_lock(&client->lock);
    client_news *n = &client->news[number];
    bool changed = n->changed;
    *listed = n->listed;
    *instance = n->instance;
    n->changed = false;
    if (changed && !n->listed)
        n->used = false;
    pthread_mutex_unlock(&client->lock);
    return changed;
}

void proa_client_take_news(proa_client *client)
{
    pthread_mutex_lock(&client->lock);
    bool any = client->news_came;
    client->news_came = false; /* before looking: what comes meanwhile sets it again, and wakes again */
    pthread_mutex_unlock(&client->lock);
    for (int32_t i = 0; i < CLIENT_WORKERS_MAX && any; i++) {
        proa_instance instance;
        bool listed;
        if (!take_change(client, i, &instance, &listed))
            continue;
        client_worker *worker = find_process(client, instance.id, instance.epoch);
        if (listed)
            take_listed(client, &instance);
        else if (worker != NULL)
            set_listed(worker, false);
    }
}

/* ---- links ---- */

/* The link is gone already. */
static void went_down(client_worker *worker, const proa_error *why)
{
    proa_client *client = worker->client;
    bool was_ready = worker->state == CLIENT_WORKER_READY;
    int64_t now = proa_clock_us();
    proa_error lost;
    worker->link = NULL;
    worker->broken = false;
    proa_client_nats_unlinked(worker);
    worker->dial_at_us = now + worker->pause_us;
    worker->pause_us = 2 * worker->pause_us < CLIENT_DIAL_US_MAX ? 2 * worker->pause_us : CLIENT_DIAL_US_MAX;
    worker->load.stats.running = worker->load.stats.queued = 0;
    worker->load.stats.kv_blocks_used = worker->load.stats.kv_blocks_total = 0;
    worker->load.stats.kv_blocks_cached = worker->load.stats.kv_blocks_lent = 0;
    worker->load.rooms = worker->load.quarantined = 0;
    if (was_ready)
        proa_router_unready(client->router, worker->number);
    set_state(worker, CLIENT_WORKER_DOWN);
    proa_client_files_lost(worker);
    if (!was_ready) {
        proa_log(PROA_LOG_DEBUG, "cluster", "no link to the worker at %s: %s", worker->instance.address,
                 why->text);
        return;
    }
    worker->connected_us = now;
    client->counts.links_lost++;
    proa_router_failed(client->router, worker->number, now);
    proa_error_set(&lost, why->status, "the %s at %s was lost: %s", kind_of(worker), worker->instance.address,
                   why->text);
    int32_t calls = proa_client_calls_lost(worker, &lost);
    proa_log(worker->load.draining ? PROA_LOG_INFO : PROA_LOG_WARN, "cluster", "%s; it had %d requests",
             lost.text, calls);
}

void proa_client_worker_break(client_worker *worker, proa_status status, const char *format, ...)
{
    if (worker->broken)
        return;
    va_list args;
    va_start(args, format);
    worker->broken = true;
    worker->why.status = status;
    vsnprintf(worker->why.text, sizeof worker->why.text, format, args);
    va_end(args);
}

void proa_client_worker_drop_broken(client_worker *worker)
{
    proa_error why = worker->why;
    proa_link_close(worker->link);
    went_down(worker, &why);
}

proa_status proa_client_worker_send(client_worker *worker, proa_wire_type type)
{
    const proa_buf *body = &worker->client->scratch;
    proa_error why = {.status = PROA_ERR_UNREACHABLE};
    if (worker->broken || worker->link == NULL)
        return PROA_ERR_UNREACHABLE;
    proa_status status = body->failed
                             ? PROA_ERR_MEMORY
                             : proa_link_send(worker->link, (uint16_t)type, body->data, body->length);
    if (status == PROA_OK)
        return status;
    proa_client_worker_break(worker, why.status, "a message of %zu bytes could not be sent: %s", body->length,
                             status == PROA_BUSY ? "the worker does not read" : proa_status_name(status));
    return status;
}

static void on_up(void *context, proa_link *link)
{
    proa_client *client = context;
    client_worker *worker = proa_link_user(link);
    const proa_link_identity *peer = proa_link_peer(link);
    if (peer->instance != worker->instance.id || peer->epoch != worker->instance.epoch)
        proa_client_worker_break(worker, PROA_ERR_UNREACHABLE,
                                 "another process (%s, instance %016" PRIx64 ") answers at its address",
                                 peer->name, peer->instance);
    else
        set_state(worker, CLIENT_WORKER_GREETED);
    if (!worker->broken)
        proa_client_nats_linked(worker);
    proa_client_settle(client);
}

static void on_down(void *context, proa_link *link, const proa_error *why)
{
    went_down(proa_link_user(link), why);
    proa_client_settle(context);
}

/* ---- messages ---- */

static void refuse(client_worker *worker)
{
    const proa_client *client = worker->client;
    if (!worker->complained)
        proa_log(PROA_LOG_ERROR, "cluster",
                 "the worker at %s is left out: its model %s (%s, digest %016" PRIx64
                 ") is not the one served here, %s (digest %016" PRIx64
                 ")%s: a cluster serves one model, use another namespace for this one",
                 worker->instance.address, worker->card.model_name, worker->card.model_path,
                 worker->card.model_digest, client->model_card.model_name, client->model_card.model_digest,
                 proa_wire_digest_hint(worker->card.model_digest, client->model_card.model_digest));
    worker->complained = true;
    if (worker->state == CLIENT_WORKER_READY) {
        proa_client_worker_break(worker, PROA_ERR_PROTOCOL, "its card is of another model now");
        return;
    }
    proa_client_nats_unlinked(worker);
    proa_link_close(worker->link);
    worker->link = NULL;
    set_state(worker, CLIENT_WORKER_REFUSED);
}

static void take_card(client_worker *worker, const uint8_t *body, size_t length, proa_error *err)
{
    proa_client *client = worker->client;
    if (!proa_wire_get_card(body, length, &worker->card, err))
        return;
    if (!proa_client_files_card(worker)) {
        refuse(worker);
        return;
    }
    proa_router_ready(client->router, worker->number, &worker->card);
    worker->load.draining = worker->card.draining;
    client->worker_came = client->changed = true;
    if (worker->state == CLIENT_WORKER_READY) {
        proa_client_show(worker);
        return;
    }
    worker->pause_us = CLIENT_DIAL_US_MIN;
    worker->connected_us = proa_clock_us();
    set_state(worker, CLIENT_WORKER_READY);
    proa_log(PROA_LOG_INFO, "cluster", "the %s at %s is ready: %s, %d requests at a time", kind_of(worker),
             worker->instance.address, worker->card.model_name, worker->card.running_max);
}

static void take_load(client_worker *worker, const uint8_t *body, size_t length, proa_error *err)
{
    proa_wire_load load;
    if (!proa_wire_get_load(body, length, &load, err))
        return;
    if (load.stats.device_lost && !worker->load.stats.device_lost)
        proa_log(PROA_LOG_ERROR, "cluster", "the %s at %s is out of order: its engine has lost its device",
                 kind_of(worker), worker->instance.address);
    if (load.stats.away != worker->load.stats.away)
        proa_log(PROA_LOG_INFO, "cluster", "the %s at %s %s", kind_of(worker), worker->instance.address,
                 load.stats.away ? "is outside of its group of ranks: it gets nothing new"
                                 : "is back in its group of ranks");
    if (load.draining && !worker->load.draining)
        proa_log(PROA_LOG_INFO, "cluster", "the %s at %s is draining: it gets nothing new", kind_of(worker),
                 worker->instance.address);
    worker->load = load;
    proa_router_load(worker->client->router, worker->number, &load);
    worker->client->changed = true;
    proa_client_show(worker);
}

static void take(client_worker *worker, uint16_t type, const uint8_t *body, size_t length, proa_error *err)
{
    proa_client *client = worker->client;
    union {
        proa_wire_file file;
        proa_wire_kv_events events;
        proa_wire_tokens tokens;
        proa_wire_finish finish;
        proa_wire_taken taken;
    } m;
    switch ((proa_wire_type)type) {
    case PROA_WIRE_CARD: take_card(worker, body, length, err); break;
    case PROA_WIRE_LOAD: take_load(worker, body, length, err); break;
    case PROA_WIRE_FILE:
        if (proa_wire_get_file(body, length, &m.file, err))
            proa_client_files_take(worker, &m.file);
        break;
    case PROA_WIRE_KV_EVENTS:
        if (proa_wire_get_kv_events(body, length, client->arena, &m.events, err))
            proa_router_kv_events(client->router, worker->number, &m.events);
        break;
    case PROA_WIRE_TOKENS:
        if (proa_wire_get_tokens(body, length, client->arena, &m.tokens, err))
            proa_client_call_tokens(worker, &m.tokens);
        break;
    case PROA_WIRE_FINISH:
        if (proa_wire_get_finish(body, length, &m.finish, err))
            proa_client_call_finish(worker, &m.finish);
        break;
    case PROA_WIRE_TAKEN:
        if (proa_wire_get_taken(body, length, &m.taken, err))
            proa_client_nats_taken(worker, &m.taken);
        break;
    default:
        proa_error_set(err, PROA_ERR_PROTOCOL, "message type %u does not come from a worker", type);
        break;
    }
}

static void on_message(void *context, proa_link *link, uint16_t type, const uint8_t *body, size_t length)
{
    proa_client *client = context;
    client_worker *worker = proa_link_user(link);
    proa_error err = {0};
    if (worker->broken)
        return;
    proa_arena_reset(client->arena);
    if (type != PROA_WIRE_CARD && worker->state != CLIENT_WORKER_READY)
        proa_error_set(&err, PROA_ERR_PROTOCOL, "message type %u came before the card", type);
    else
        take(worker, type, body, length, &err);
    if (err.status != PROA_OK)
        proa_client_worker_break(worker, PROA_ERR_PROTOCOL, "%s", err.text);
    proa_client_settle(client);
}

/* ---- time ---- */

static void dial(client_worker *worker)
{
    proa_client *client = worker->client;
    const proa_link_hooks hooks = {.up = on_up, .message = on_message, .down = on_down, .context = client};
    proa_error err;
    proa_status status = proa_link_dial(client->loop, &client->options.security, &client->options.identity,
                                        worker->instance.address, &hooks, worker, &worker->link, &err);
    if (status == PROA_OK) {
        set_state(worker, CLIENT_WORKER_DIALLING);
        return;
    }
    worker->link = NULL;
    worker->dial_at_us = proa_clock_us() + CLIENT_DIAL_US_MAX;
    if (!worker->complained)
        proa_log(PROA_LOG_ERROR, "cluster", "the worker at %s cannot be reached: %s",
                 worker->instance.address, err.text);
    worker->complained = true;
}

void proa_client_worker_tick(client_worker *worker, int64_t now_us)
{
    bool recent = worker->connected_us != 0 && now_us - worker->connected_us < CLIENT_FORGET_US;
    switch (worker->state) {
    case CLIENT_WORKER_DOWN:
        if (worker->superseded || (!worker->listed && !recent))
            forget(worker);
        else if (now_us >= worker->dial_at_us)
            dial(worker);
        break;
    case CLIENT_WORKER_GREETED:
        if (now_us - worker->since_us > CLIENT_CARD_US)
            proa_client_worker_break(worker, PROA_ERR_DEADLINE, "it sent no card within %d s",
                                     CLIENT_CARD_US / 1000000);
        break;
    case CLIENT_WORKER_REFUSED:
        if (!worker->listed)
            forget(worker);
        break;
    case CLIENT_WORKER_READY:
    case CLIENT_WORKER_DIALLING:
    case CLIENT_WORKER_STATES: break;
    }
}
