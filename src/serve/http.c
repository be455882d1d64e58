/* http.c - listener, event loop, ticks, signals and wake-ups; http_connection.c has what happens on a connection.
 *
 * What it lacks: TLS (a proxy's task for now), HTTP/2, compression.
 */
#include "serve/http_internal.h"

#include "base/clock.h"
#include "base/log.h"
#include "net/resolve.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

enum { LISTEN_BACKLOG = 1024, TICK_US = 250000, ACCEPT_WARNING_US = 10000000 };

proa_http_options proa_http_default_options(void)
{
    return (proa_http_options){
        .host = "127.0.0.1",
        .port = 30000,
        .connections_max = 4096,
        .limits = {.target_bytes_max = 8192, .head_bytes_max = 32768, .body_bytes_max = (size_t)32 << 20},
        .bodies_bytes_max = (size_t)512 << 20,
        .drained_bytes = 8192,
        .idle_s = 75,
        .head_s = 10,
        .body_s = 30,
        .body_bytes_per_s = 65536,
        .write_stall_s = 300,
    };
}

/* --- the loop's events --- */

static void on_wake(evutil_socket_t fd, short what, void *context)
{
    (void)what;
    proa_http *http = context;
    uint64_t count;
    if (read(fd, &count, sizeof count) != (ssize_t)sizeof count)
        return;
    if (atomic_load_explicit(&http->stopping, memory_order_acquire)) {
        event_base_loopbreak(http->base);
        return;
    }
    http->hooks.wake(http->hooks.context);
}

static void on_tick(evutil_socket_t fd, short what, void *context)
{
    (void)fd;
    (void)what;
    proa_http *http = context;
    int64_t now = proa_clock_us();
    for (proa_http_exchange *c = http->connections, *next; c != NULL; c = next) {
        next = c->next;
        proa_http_connection_check_deadline(c, now);
    }
    if (http->listener_paused && http->listener != NULL) {
        http->listener_paused = false;
        evconnlistener_enable(http->listener);
    }
    http->hooks.tick(http->hooks.context);
}

static void on_signal(evutil_socket_t signal_number, short what, void *context)
{
    (void)signal_number;
    (void)what;
    proa_http *http = context;
    http->hooks.signalled(http->hooks.context, ++http->signal_count);
}

/* --- accepting --- */

static void refuse(proa_http *http, evutil_socket_t fd)
{
    static const char reply[] = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nRetry-After: 1\r\n"
                                "Connection: close\r\n\r\n";
    http->stats.refused++;
    ssize_t sent = send(fd, reply, sizeof reply - 1, MSG_DONTWAIT | MSG_NOSIGNAL);
    (void)sent; /* best effort: the connection ends either way */
    close(fd);
}

static void on_accept(struct evconnlistener *listener, evutil_socket_t fd, struct sockaddr *address,
                      int length, void *context)
{
    (void)listener;
    (void)address;
    (void)length;
    proa_http *http = context;
    if (http->stats.connections >= http->options.connections_max) {
        refuse(http, fd);
        return;
    }
    http->stats.accepted++;
    proa_http_connection_create(http, fd);
}

static void on_accept_error(struct evconnlistener *listener, void *context)
{
    proa_http *http = context;
    int64_t now = proa_clock_us();
    if (http->accept_warned_us == 0 || now - http->accept_warned_us > ACCEPT_WARNING_US)
        proa_log(PROA_LOG_WARN, "http", "cannot accept a connection: %s (trying again; raise ulimit -n?)",
                 strerror(errno));
    http->accept_warned_us = now;
    evconnlistener_disable(listener);
    http->listener_paused = true;
}

static proa_status listen_on(const proa_http_options *options, int *fd, proa_error *err)
{
    proa_addresses found;
    proa_status status = proa_address_passive(options->host, (uint16_t)options->port, &found, err);
    if (status != PROA_OK) {
        proa_error_prefix(err, "--host");
        return status;
    }
    *fd = proa_address_listen(&found, LISTEN_BACKLOG);
    if (*fd >= 0)
        return PROA_OK;
    int saved = errno;
    if (saved == EADDRINUSE)
        return proa_error_set(err, PROA_ERR_IO,
                              "port %d of %s is in use by another program: choose another with --port, or "
                              "stop that one (ss -ltnp shows it)",
                              options->port, options->host);
    return proa_error_set(err, PROA_ERR_IO, "cannot listen on port %d of %s: %s", options->port,
                          options->host, strerror(saved));
}

/* --- life --- */

static bool add_event(proa_http *http, struct event **event, evutil_socket_t fd, short what,
                      event_callback_fn callback, const struct timeval *every)
{
    *event = event_new(http->base, fd, (short)(what | EV_PERSIST), callback, http);
    return *event != NULL && event_add(*event, every) == 0;
}

static struct event_base *create_base(void)
{
    struct event_config *config = event_config_new();
    if (config == NULL)
        return NULL;
    event_config_set_flag(config, EVENT_BASE_FLAG_NOLOCK); /* one thread */
    event_config_set_flag(config, EVENT_BASE_FLAG_EPOLL_USE_CHANGELIST);
    struct event_base *base = event_base_new_with_config(config);
    event_config_free(config);
    return base;
}

static bool create_events(proa_http *http, int listen_fd)
{
    static const int signals[2] = {SIGINT, SIGTERM};
    const struct timeval tick = {.tv_usec = TICK_US};
    http->base = create_base();
    http->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (http->base == NULL || http->wake_fd < 0)
        return false;
    for (int i = 0; i < 2; i++) {
        if (!add_event(http, &http->signal_events[i], signals[i], EV_SIGNAL, on_signal, NULL))
            return false;
    }
    http->listener = evconnlistener_new(http->base, on_accept, http, LEV_OPT_CLOSE_ON_EXEC, 0, listen_fd);
    if (http->listener == NULL)
        return false;
    evconnlistener_set_error_cb(http->listener, on_accept_error);
    return add_event(http, &http->wake_event, http->wake_fd, EV_READ, on_wake, NULL) &&
           add_event(http, &http->tick_event, -1, EV_TIMEOUT, on_tick, &tick);
}

static proa_status create_tls(const proa_http_options *o, proa_tls **tls, proa_error *err)
{
    if (o->tls_cert_path == NULL || o->tls_key_path == NULL)
        return proa_error_set(err, PROA_ERR_INVALID, "TLS needs both --tls-cert-path and --tls-key-path");
    return proa_tls_create_server(o->tls_cert_path, o->tls_key_path, tls, err);
}

proa_status proa_http_create(const proa_http_options *options, const proa_http_hooks *hooks, proa_http **http,
                             proa_error *err)
{
    int fd = -1;
    proa_status status = listen_on(options, &fd, err);
    if (status != PROA_OK)
        return status;
    proa_http *h = calloc(1, sizeof *h);
    if (h == NULL) {
        close(fd);
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for the HTTP server");
    }
    h->wake_fd = -1;
    h->listen_fd = fd;
    if (options->tls_cert_path != NULL || options->tls_key_path != NULL) {
        status = create_tls(options, &h->tls, err);
        if (status != PROA_OK) {
            proa_http_free(h);
            return status;
        }
    }

    h->options = *options;
    h->hooks = *hooks;
    h->port = proa_socket_port(fd);
    h->accepting = true;
    if (getrandom(h->id_key, sizeof h->id_key, 0) != (ssize_t)sizeof h->id_key || !create_events(h, fd)) {
        proa_http_free(h);
        return proa_error_set(err, PROA_ERR_IO, "cannot set up the event loop: %s", strerror(errno));
    }
    signal(SIGPIPE, SIG_IGN); /* a client that leaves is an error of write(2), not of the process */
    *http = h;
    return PROA_OK;
}

static void free_event(struct event *event)
{
    if (event != NULL)
        event_free(event);
}

static void close_listener(proa_http *http)
{
    if (http->listener != NULL)
        evconnlistener_free(http->listener);
    http->listener = NULL;
    if (http->listen_fd >= 0)
        close(http->listen_fd);
    http->listen_fd = -1;
}

void proa_http_free(proa_http *http)
{
    if (http == NULL)
        return;
    while (http->connections != NULL)
        proa_http_connection_free(http->connections);
    close_listener(http);
    free_event(http->wake_event);
    free_event(http->tick_event);
    free_event(http->signal_events[0]);
    free_event(http->signal_events[1]);
    if (http->wake_fd >= 0)
        close(http->wake_fd);
    if (http->base != NULL)
        event_base_free(http->base);
    proa_tls_free(http->tls);
    free(http);
}

int proa_http_port(const proa_http *http)
{
    return http->port;
}

void proa_http_run(proa_http *http)
{
    event_base_dispatch(http->base);
}

void proa_http_wake(proa_http *http)
{
    uint64_t one = 1;
    ssize_t written = write(http->wake_fd, &one, sizeof one);
    (void)written; /* a full counter means that a wake-up is pending already */
}

void proa_http_stop(proa_http *http)
{
    /* release: what the caller did before is seen by the loop when it ends */
    atomic_store_explicit(&http->stopping, true, memory_order_release);
    proa_http_wake(http);
}

void proa_http_stop_accepting(proa_http *http)
{
    http->accepting = false;
    close_listener(http);
    for (proa_http_exchange *c = http->connections, *next; c != NULL; c = next) {
        next = c->next;
        proa_http_connection_retire(c);
    }
}

proa_http_stats proa_http_get_stats(const proa_http *http)
{
    return http->stats;
}
