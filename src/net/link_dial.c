/* link_dial.c - from "host:port" to a connected socket: the name's addresses one after another, each with its share of the time
 * that is left. Nothing is called before the loop runs: a dial only sets a timer. */
#include "net/link_internal.h"

#include "base/clock.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- one address ---- */

static void drop_socket(proa_link_dialling *d)
{
    if (d->event != NULL)
        event_free(d->event);
    if (d->fd >= 0)
        close(d->fd);
    d->event = NULL;
    d->fd = -1;
}

static void note_failure(proa_link *link, const proa_address *address, int cause)
{
    char text[80];
    proa_address_write(address, text, sizeof text);
    drop_socket(link->dialling);
    proa_status status = cause == ECONNREFUSED ? PROA_ERR_NOT_FOUND : PROA_ERR_UNREACHABLE;
    proa_error_set(&link->dialling->latest, status, "connecting to %s: %s", text, strerror(cause));
}

static void on_connected(evutil_socket_t fd, short what, void *context)
{
    (void)what;
    proa_link *link = context;
    proa_link_dialling *d = link->dialling;
    const proa_address *address = &d->addresses.list[d->next - 1];
    int cause = 0;
    socklen_t length = sizeof cause;
    proa_link_enter(link);
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &cause, &length) != 0)
        cause = errno;
    if (cause == 0) {
        proa_address_write(address, link->address, sizeof link->address);
        d->fd = -1; /* the link's now */
        proa_link_dialling_free(link);
        proa_link_begin(link, fd);
    } else {
        note_failure(link, address, cause);
        proa_link_dial_next(link);
    }
    proa_link_leave(link);
}

/* False: this address does not do, `latest` says why. */
static bool try_address(proa_link *link, const proa_address *address)
{
    proa_link_dialling *d = link->dialling;
    d->fd = socket(address->any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (d->fd >= 0 &&
        (connect(d->fd, &address->any, proa_address_length(address)) == 0 || errno == EINPROGRESS)) {
        d->event = event_new(proa_loop_base(link->loop), d->fd, EV_WRITE, on_connected, link);
        if (d->event != NULL && event_add(d->event, NULL) == 0)
            return true;
        errno = ENOMEM;
    }
    note_failure(link, address, errno);
    return false;
}

/* Without a key, only loopback. */
static bool may_dial(const proa_link *link, const proa_address *address, proa_error *err)
{
    if (link->terms->key != NULL || proa_address_is_loopback(address))
        return true;
    char text[80];
    proa_address_write(address, text, sizeof text);
    proa_error_set(err, PROA_ERR_INVALID,
                   "%s is not this machine, and without a cluster key nobody else is talked to: set "
                   "PROA_CLUSTER_KEY to the same secret everywhere",
                   text);
    return false;
}

void proa_link_dial_next(proa_link *link)
{
    proa_link_dialling *d = link->dialling;
    if (d->fd >= 0) { /* its share of the time is over */
        note_failure(link, &d->addresses.list[d->next - 1], ETIMEDOUT);
        d->latest.status = PROA_ERR_DEADLINE;
    }
    while (d->next < d->addresses.count) {
        const proa_address *address = &d->addresses.list[d->next++];
        if (!may_dial(link, address, &d->latest) || !try_address(link, address))
            continue;
        int64_t left_us = link->deadline_us - proa_clock_us();
        proa_link_arm(link, left_us / (d->addresses.count - d->next + 1));
        return;
    }
    proa_error why = d->latest;
    proa_link_fail(link, &why);
}

/* ---- names ---- */

static void on_found(void *context)
{
    proa_link *link = context;
    proa_link_dialling *d = link->dialling;
    proa_error err;
    proa_link_enter(link);
    proa_status status = proa_lookup_result(d->lookup, &d->addresses, &err);
    proa_lookup_free(d->lookup);
    d->lookup = NULL;
    link->state = PROA_LINK_CONNECT;
    if (status == PROA_OK)
        proa_link_dial_next(link);
    else
        proa_link_fail(link, &err);
    proa_link_leave(link);
}

/* ---- life ---- */

void proa_link_dialling_free(proa_link *link)
{
    if (link->dialling == NULL)
        return;
    drop_socket(link->dialling);
    proa_lookup_free(link->dialling->lookup);
    free(link->dialling);
    link->dialling = NULL;
}

static proa_status start(proa_link *link, const char *host, uint16_t port, proa_error *err)
{
    proa_link_dialling *d = calloc(1, sizeof *d);
    if (d == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for a link");
    d->fd = -1;
    link->dialling = d;
    if (!proa_address_numeric(host, port, &d->addresses)) {
        proa_link_arm(link, link->terms->connect_us);
        return proa_lookup_start(link->loop, host, port, on_found, link, &d->lookup, err);
    }
    if (!may_dial(link, &d->addresses.list[0], err))
        return PROA_ERR_INVALID;
    link->state = PROA_LINK_CONNECT;
    proa_link_arm(link, 0);
    return PROA_OK;
}

proa_status proa_link_dial(proa_loop *loop, const proa_link_security *security,
                           const proa_link_identity *self, const char *address, const proa_link_hooks *hooks,
                           void *user, proa_link **link, proa_error *err)
{
    char host[PROA_HOST_BYTES];
    uint16_t port;
    proa_link_terms *terms = NULL;
    proa_loop_assert_owner(loop);
    proa_status status = proa_address_split(address, host, &port, err);
    if (status == PROA_OK)
        status = proa_link_terms_create(security, self, &terms, err);
    if (status != PROA_OK)
        return status;
    proa_link *l = proa_link_new(loop, terms, hooks, true);
    proa_link_terms_release(terms);
    if (l == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for a link");
    snprintf(l->address, sizeof l->address, "%s", address);
    l->user = user;
    status = start(l, host, port, err);
    if (status != PROA_OK) {
        proa_link_close(l);
        return status;
    }
    *link = l;
    return PROA_OK;
}
