/* link_listener.c - accepting, and what strangers may cost.
 *
 * Until a connection is up, whoever is at its other end is a stranger, who may take: one of WAITING_MAX places (when all are taken,
 * the oldest goes: a link that means it is up within milliseconds), connect_us of time, 256 bytes a frame, and with others a share of ten
 * log lines a second.
 */
#include "net/link_internal.h"

#include "base/clock.h"
#include "base/log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    WAITING_MAX = 256,
    LISTEN_BACKLOG = 1024,
    TICK_US = 1000000,
    LINES_A_TICK = 10,
    ACCEPT_WARNING_US = 10000000
};

struct proa_listener {
    proa_loop *loop;
    proa_link_terms *terms;
    proa_link_hooks hooks;
    struct evconnlistener *accepting;
    proa_timer *timer;
    proa_link *newest, *oldest; /* accepted, not up */
    int waiting;
    int port;
    int lines; /* of refusals in this tick */
    int64_t lines_withheld;
    int64_t accept_warned_us; /* the latest accept that failed: one warning an episode */
    bool paused;              /* accept failed for want of descriptors; the next tick tries again */
};

/* ---- those that are not up ---- */

static void remember(proa_listener *l, proa_link *link)
{
    link->listener = l;
    link->next = l->newest;
    if (l->newest != NULL)
        l->newest->previous = link;
    else
        l->oldest = link;
    l->newest = link;
    l->waiting++;
}

void proa_listener_forget(proa_link *link)
{
    proa_listener *l = link->listener;
    if (link->previous != NULL)
        link->previous->next = link->next;
    else
        l->newest = link->next;
    if (link->next != NULL)
        link->next->previous = link->previous;
    else
        l->oldest = link->previous;
    link->listener = NULL;
    l->waiting--;
}

void proa_listener_refused(proa_link *link, const proa_error *why)
{
    proa_listener *l = link->listener;
    /* a connection that closes without a word is a probe of the port: monitoring does that all day */
    bool probe = why->status == PROA_ERR_UNREACHABLE && !link->heard_any;
    if (probe)
        proa_log(PROA_LOG_DEBUG, "link", "%s: %s", link->address, why->text);
    else if (l->lines++ < LINES_A_TICK)
        proa_log(PROA_LOG_WARN, "link", "refused %s: %s", link->address, why->text);
    else
        l->lines_withheld++;
}

/* ---- accepting ---- */

static void make_room(proa_listener *l)
{
    proa_error why;
    proa_error_set(&why, PROA_ERR_OVERLOADED,
                   "%d connections are open that have not proved who they are, and this one is the oldest",
                   WAITING_MAX);
    proa_link_fail(l->oldest, &why);
}

static void on_accept(struct evconnlistener *accepting, evutil_socket_t fd, struct sockaddr *from, int length,
                      void *context)
{
    (void)accepting;
    proa_listener *l = context;
    proa_address address = {0};
    memcpy(&address, from, (size_t)length < sizeof address ? (size_t)length : sizeof address);
    if (l->waiting >= WAITING_MAX)
        make_room(l);
    proa_link *link = proa_link_new(l->loop, l->terms, &l->hooks, false);
    if (link == NULL) {
        close(fd);
        return;
    }
    proa_address_write(&address, link->address, sizeof link->address);
    remember(l, link);
    proa_link_enter(link);
    proa_link_begin(link, fd);
    proa_link_leave(link);
}

static void on_accept_error(struct evconnlistener *accepting, void *context)
{
    proa_listener *l = context;
    int cause = errno;
    int64_t now = proa_clock_us();
    if (l->accept_warned_us == 0 || now - l->accept_warned_us > ACCEPT_WARNING_US)
        proa_log(PROA_LOG_WARN, "link",
                 "port %d cannot accept a connection: %s (trying again; raise ulimit -n?)", l->port,
                 strerror(cause));
    l->accept_warned_us = now;
    l->paused = true;
    evconnlistener_disable(accepting);
}

static void on_tick(void *context)
{
    proa_listener *l = context;
    if (l->lines_withheld > 0)
        proa_log(PROA_LOG_WARN, "link", "refused %lld more on port %d within a second",
                 (long long)l->lines_withheld, l->port);
    l->lines = 0;
    l->lines_withheld = 0;
    if (l->paused) {
        l->paused = false;
        evconnlistener_enable(l->accepting);
    }
}

/* ---- the socket ---- */

static proa_status may_listen(const proa_link_terms *terms, const proa_addresses *found, proa_error *err)
{
    for (int i = 0; i < found->count && terms->key == NULL; i++) {
        char text[80];
        proa_address_write(&found->list[i], text, sizeof text);
        if (!proa_address_is_loopback(&found->list[i]))
            return proa_error_set(
                err, PROA_ERR_INVALID,
                "%s can be reached from other machines, and there is no cluster key to tell friends "
                "from strangers: set PROA_CLUSTER_KEY to the same secret everywhere, or listen on 127.0.0.1",
                text);
    }
    return PROA_OK;
}

static proa_status open_socket(const proa_link_terms *terms, const char *host, int port, int *fd,
                               proa_error *err)
{
    proa_addresses found;
    if (port < 0 || port > 65535)
        return proa_error_set(err, PROA_ERR_INVALID, "there is no port %d", port);
    proa_status status = proa_address_passive(host, (uint16_t)port, &found, err);
    if (status == PROA_OK)
        status = may_listen(terms, &found, err);
    if (status != PROA_OK)
        return status;
    *fd = proa_address_listen(&found, LISTEN_BACKLOG);
    if (*fd >= 0)
        return PROA_OK;
    if (errno == EADDRINUSE)
        return proa_error_set(err, PROA_ERR_IO,
                              "port %d of %s is in use by another program (ss -ltnp shows it)", port, host);
    return proa_error_set(err, PROA_ERR_IO, "cannot listen on port %d of %s: %s", port, host,
                          strerror(errno));
}

/* ---- life ---- */

/* On failure the descriptor is still the caller's. */
static bool start(proa_listener *l, int fd)
{
    l->port = proa_socket_port(fd);
    l->timer = proa_loop_add_timer(l->loop, TICK_US, on_tick, l);
    if (l->timer == NULL)
        return false;
    l->accepting = evconnlistener_new(proa_loop_base(l->loop), on_accept, l,
                                      LEV_OPT_CLOSE_ON_EXEC | LEV_OPT_CLOSE_ON_FREE, 0, fd);
    if (l->accepting == NULL)
        return false;
    evconnlistener_set_error_cb(l->accepting, on_accept_error);
    return true;
}

proa_status proa_listener_create(proa_loop *loop, const proa_link_security *security,
                                 const proa_link_identity *self, const char *host, int port,
                                 const proa_link_hooks *hooks, proa_listener **listener, proa_error *err)
{
    proa_loop_assert_owner(loop);
    proa_listener *l = calloc(1, sizeof *l);
    if (l == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for a listener");
    l->loop = loop;
    l->hooks = *hooks;
    int fd = -1;
    proa_status status = proa_link_terms_create(security, self, &l->terms, err);
    if (status == PROA_OK)
        status = open_socket(l->terms, host, port, &fd, err);
    if (status == PROA_OK && !start(l, fd)) {
        close(fd);
        status = proa_error_set(err, PROA_ERR_MEMORY, "no memory for a listener");
    }
    if (status != PROA_OK) {
        proa_listener_free(l);
        return status;
    }
    *listener = l;
    return PROA_OK;
}

void proa_listener_free(proa_listener *listener)
{
    if (listener == NULL)
        return;
    proa_loop_assert_owner(listener->loop);
    while (listener->oldest != NULL)
        proa_link_close(listener->oldest);
    if (listener->accepting != NULL)
        evconnlistener_free(listener->accepting);
    proa_timer_free(listener->timer);
    proa_link_terms_release(listener->terms);
    free(listener);
}

int proa_listener_port(const proa_listener *listener)
{
    return listener->port;
}
