/* worker.c - the worker's life: ports, thread, announcement, drain, end. */
#include "cluster/worker.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/stacks.h"
#include "cluster/worker_internal.h"

#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <stdlib.h>
#include <string.h>

enum {
    TICK_US = 20000,
    TRANSFER_TICK_US = 1000, /* while a room is open: kv_transfer.h wants it */
    TRANSFER_TURNS = 8,
    LOAD_US = 100000,
};

/* ---- addresses ---- */

static bool is_any(const char *host)
{
    return strcmp(host, "0.0.0.0") == 0 || strcmp(host, "::") == 0 || host[0] == 0;
}

/* This machine's first IPv4 address that is up and not loopback. */
static bool first_address(char *text, size_t bytes)
{
    struct ifaddrs *all = NULL;
    bool found = false;
    if (getifaddrs(&all) != 0)
        return false;
    for (const struct ifaddrs *i = all; i != NULL && !found; i = i->ifa_next) {
        bool usable = i->ifa_addr != NULL && i->ifa_addr->sa_family == AF_INET &&
                      (i->ifa_flags & IFF_UP) != 0 && (i->ifa_flags & IFF_LOOPBACK) == 0;
        const struct sockaddr_in *address = (const void *)i->ifa_addr;
        found = usable && inet_ntop(AF_INET, &address->sin_addr, text, (socklen_t)bytes) != NULL;
    }
    freeifaddrs(all);
    return found;
}

static void choose_hosts(proa_worker *w, const proa_worker_options *o)
{
    const char *host = o->host != NULL ? o->host : "127.0.0.1";
    if (o->security.key == NULL && strcmp(host, "127.0.0.1") != 0 && strcmp(host, "::1") != 0) {
        proa_log(PROA_LOG_WARN, "worker",
                 "without a cluster key (PROA_CLUSTER_KEY or --cluster-key-file) internal ports listen on "
                 "127.0.0.1 "
                 "alone, not on %s",
                 host);
        host = "127.0.0.1";
    }
    snprintf(w->host, sizeof w->host, "%s", host);
    if (o->advertise_host != NULL)
        snprintf(w->advertise, sizeof w->advertise, "%s", o->advertise_host);
    else if (!is_any(host) || !first_address(w->advertise, sizeof w->advertise))
        snprintf(w->advertise, sizeof w->advertise, "%s", is_any(host) ? "127.0.0.1" : host);
}

static void write_address(const proa_worker *w, int port, char *text, size_t bytes)
{
    bool v6 = strchr(w->advertise, ':') != NULL;
    snprintf(text, bytes, "%s%s%s:%d", v6 ? "[" : "", w->advertise, v6 ? "]" : "", port);
}

/* ---- the loop ---- */

static void tick_calls(proa_worker *w, int64_t now_us)
{
    for (worker_call *call = w->calls, *next; call != NULL; call = next) {
        next = call->next;
        proa_worker_call_tick(call, now_us);
    }
}

static void take_orders(proa_worker *w)
{
    pthread_mutex_lock(&w->lock);
    bool drain = w->drain_asked, stop = w->stop_asked;
    w->calls_left = w->call_count;
    if (w->calls_left == 0)
        pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->lock);
    if (drain && !w->load.draining) {
        w->load.draining = true;
        proa_worker_send_card(w, NULL);
    }
    if (stop)
        proa_loop_stop(w->loop);
}

static void on_wake(void *context)
{
    proa_worker *w = context;
    proa_worker_take_events(w);
    proa_worker_take_nats(w);
    if (w->transfer != NULL)
        proa_kv_transfer_progress(w->transfer); /* what has begun need not wait for the timer */
    proa_worker_tick_sessions(w, proa_clock_us());
    proa_worker_send_files(w);
    take_orders(w);
}

static void on_tick(void *context)
{
    proa_worker *w = context;
    int64_t now = proa_clock_us();
    tick_calls(w, now);
    proa_worker_send_kv_events(w);
    on_wake(w);
}

static void on_load(void *context)
{
    proa_worker_send_loads(context);
}

/* A few turns, and the loop is the links' again: rows may come without end. The timer goes on with them. */
static void on_transfer(void *context)
{
    proa_worker *w = context;
    for (int turns = 0; turns < TRANSFER_TURNS && proa_kv_transfer_progress(w->transfer); turns++) {
    }
    if (w->rooms.count == 0)
        proa_timer_set_period(w->transfer_timer, TICK_US); /* a thousand times a second is dear for nothing */
}

void proa_worker_hurry_transfer(proa_worker *w)
{
    if (w->transfer_timer != NULL)
        proa_timer_set_period(w->transfer_timer, TRANSFER_TICK_US);
}

static void *run(void *context)
{
    proa_worker *w = context;
    proa_stacks_name_thread("worker");
    proa_loop_run(w->loop);
    return NULL;
}

/* ---- life ---- */

static bool allocate(proa_worker *w)
{
    w->arena = proa_arena_create(WORKER_ARENA_BYTES);
    w->graves = proa_graves_create(WORKER_GRAVES);
    return w->arena != NULL && w->graves != NULL;
}

static void identify(proa_worker *w)
{
    const proa_worker_options *o = &w->options;
    const char *component = o->leg == PROA_LEG_PREFILL ? "prefill" : "backend";
    w->self = proa_link_identity_draw(component);
    w->instance = (proa_instance){.endpoint = "generate", .id = w->self.instance, .epoch = w->self.epoch};
    snprintf(w->instance.namespace_name, sizeof w->instance.namespace_name, "%s", o->namespace_name);
    snprintf(w->instance.component, sizeof w->instance.component, "%s", component);
    if (o->nats_server != NULL)
        proa_nats_subject(&w->instance, w->instance.nats_subject, sizeof w->instance.nats_subject);
}

static proa_status listen_on_ports(proa_worker *w, proa_error *err)
{
    const proa_worker_options *o = &w->options;
    proa_link_hooks hooks;
    proa_status status = proa_listener_create(w->loop, &o->security, &w->self, w->host, o->port,
                                              proa_worker_front_hooks(w, &hooks), &w->requests, err);
    if (status != PROA_OK)
        return proa_error_prefix(err, "--port %d, for requests", o->port);
    write_address(w, proa_listener_port(w->requests), w->instance.address, sizeof w->instance.address);
    if (o->leg != PROA_LEG_PREFILL)
        return PROA_OK;
    status = proa_listener_create(w->loop, &o->security, &w->self, w->host, o->bootstrap_port,
                                  proa_worker_session_hooks(w, &hooks), &w->bootstrap, err);
    if (status != PROA_OK)
        return proa_error_prefix(err, "--disaggregation-bootstrap-port %d", o->bootstrap_port);
    return PROA_OK;
}

proa_status proa_worker_create(const proa_worker_options *options, proa_worker **worker, proa_error *err)
{
    if (!proa_instance_name_valid(options->namespace_name))
        return proa_error_set(err, PROA_ERR_INVALID,
                              "--namespace is \"%s\"; it must be of a-z, 0-9, _ and - alone",
                              options->namespace_name);
    proa_worker *w = calloc(1, sizeof *w);
    if (w == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for the worker");
    proa_clock_cond_init(&w->changed);
    pthread_mutex_init(&w->lock, NULL);
    w->options = *options;
    identify(w);
    choose_hosts(w, options);
    proa_status status = PROA_OK;
    if (!allocate(w))
        status = proa_error_set(err, PROA_ERR_MEMORY, "no memory for the worker");
    if (status == PROA_OK)
        status = proa_loop_create(on_wake, w, &w->loop, err);
    if (status == PROA_OK)
        status = listen_on_ports(w, err);
    if (status != PROA_OK) {
        proa_worker_free(w);
        return status;
    }
    *worker = w;
    return PROA_OK;
}

static proa_status start_transfer(proa_worker *w, proa_error *err)
{
    if (w->options.leg == PROA_LEG_COMBINED)
        return PROA_OK;
    proa_status status = proa_kv_transfer_create(w->options.transfer, &w->layout,
                                                 &w->options.transfer_options, &w->transfer, err);
    if (status != PROA_OK)
        return status;
    int fd = proa_kv_transfer_fd(w->transfer);
    w->transfer_timer = proa_loop_add_timer(w->loop, TICK_US, on_transfer, w);
    bool good = w->transfer_timer != NULL;
    if (good && fd >= 0)
        good = proa_loop_add_watch(w->loop, fd, on_transfer, w) != NULL;
    return good ? PROA_OK : proa_error_set(err, PROA_ERR_MEMORY, "no memory for the transfer's events");
}

static proa_status announce(proa_worker *w, proa_error *err)
{
    proa_buf value = {0};
    proa_instance_key(&w->instance, w->key, sizeof w->key);
    proa_instance_write(&w->instance, &value);
    proa_status status = proa_discovery_register(w->options.discovery, w->key, proa_buf_text(&value), err);
    proa_buf_free(&value);
    return status;
}

proa_status proa_worker_start(proa_worker *w, const proa_worker_model *model, proa_error *err)
{
    w->record = model->record;
    w->record_context = model->record_context;
    w->engine = model->engine;
    w->layout = *model->layout;
    w->card = model->card;
    w->card.leg = (uint8_t)w->options.leg;
    snprintf(w->dir, sizeof w->dir, "%s", model->dir);
    if (w->bootstrap != NULL)
        write_address(w, proa_listener_port(w->bootstrap), w->card.bootstrap, sizeof w->card.bootstrap);
    proa_status status = start_transfer(w, err);
    if (status == PROA_OK)
        status = proa_worker_start_nats(w, err);
    if (status != PROA_OK)
        return status;
    proa_engine_get_stats(w->engine, &w->load.stats);
    if (proa_loop_add_timer(w->loop, TICK_US, on_tick, w) == NULL ||
        proa_loop_add_timer(w->loop, LOAD_US, on_load, w) == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for the worker's timers");
    int failed = pthread_create(&w->thread, NULL, run, w);
    if (failed != 0)
        return proa_error_set(err, PROA_ERR_MEMORY, "the worker's thread does not start: %s",
                              strerror(failed));
    w->thread_runs = true;
    return announce(w, err);
}

bool proa_worker_drain(proa_worker *w, double seconds)
{
    struct timespec deadline = proa_clock_deadline((int64_t)(seconds * 1e6));
    proa_discovery_unregister(w->options.discovery, w->key);
    pthread_mutex_lock(&w->lock);
    w->drain_asked = true;
    w->calls_left = 1; /* until the loop has said otherwise */
    pthread_mutex_unlock(&w->lock);
    proa_loop_wake(w->loop);
    pthread_mutex_lock(&w->lock);
    while (w->calls_left > 0 && pthread_cond_timedwait(&w->changed, &w->lock, &deadline) != ETIMEDOUT) {
    }
    bool done = w->calls_left == 0;
    pthread_mutex_unlock(&w->lock);
    return done;
}

void proa_worker_stop(proa_worker *w)
{
    if (!w->thread_runs)
        return;
    proa_discovery_unregister(w->options.discovery, w->key);
    pthread_mutex_lock(&w->lock);
    w->stop_asked = true;
    pthread_mutex_unlock(&w->lock);
    proa_loop_wake(w->loop);
    pthread_join(w->thread, NULL);
    w->thread_runs = false;
    for (worker_call *call = w->calls; call != NULL; call = call->next)
        proa_worker_call_fail(call, PROA_ERR_UNREACHABLE, "the worker has shut down", 0);
    proa_worker_close_sessions(w);
    proa_worker_close_fronts(w);
    for (worker_call *call = w->calls; call != NULL; call = call->next) {
        if (call->submitted && !call->finished)
            proa_engine_release(w->engine, call->engine_id);
    }
}

/* What is left has no thread, no link and no engine any more. */
static void free_calls(proa_worker *w)
{
    for (worker_call *call = w->calls, *next; call != NULL; call = next) {
        next = call->next;
        call->front = NULL;
        call->told = true;
        call->finished = true;
        call->has_room = false;
        proa_worker_call_settle(call);
    }
}

void proa_worker_free(proa_worker *w)
{
    if (w == NULL)
        return;
    PROA_ASSERT(!w->thread_runs);
    free_calls(w);
    proa_listener_free(w->requests);
    proa_listener_free(w->bootstrap);
    proa_nats_free(w->nats);
    proa_kv_transfer_free(w->transfer);
    proa_loop_free(w->loop);
    proa_graves_free(w->graves);
    proa_arena_free(w->arena);
    proa_table_free(&w->rooms);
    proa_table_free(&w->cached);
    proa_buf_free(&w->posted);
    proa_buf_free(&w->taken);
    proa_buf_free(&w->scratch);
    proa_buf_free(&w->events);
    pthread_cond_destroy(&w->changed);
    pthread_mutex_destroy(&w->lock);
    free(w);
}

const char *proa_worker_address(const proa_worker *w)
{
    return w->instance.address;
}

int proa_worker_port(const proa_worker *w)
{
    return proa_listener_port(w->requests);
}

int proa_worker_bootstrap_port(const proa_worker *w)
{
    return w->bootstrap != NULL ? proa_listener_port(w->bootstrap) : 0;
}
