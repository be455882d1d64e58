/* discovery.c - the backend's thread, and what callers want of it.
 *
 * Callers change `wishes` and `views` under the lock and wake the thread, which hands changes to the backend. Of several changes
 * to a key between two turns only the last counts. The backend holds a copy of each key and value: what is asked of it is done
 * again as often as its server forgets.
 */
#include "cluster/discovery_internal.h"

#include "base/clock.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum {
    TURN_US = 1000000,    /* a wake ends a turn at once; this only bounds a wait (law 4) */
    LETTING_US = 1000000, /* how long unregister and free wait for the backend */
};
static const double lease_s_default = 10, lease_s_min = 1, lease_s_max = 3600;

/* What shall be true of a key. */
typedef struct wish {
    char *key;
    char *value;  /* NULL: it shall be gone */
    bool changed; /* the backend has not been told */
} wish;

/* A caller inside unregister. */
typedef struct waiter {
    struct waiter *next;
    const char *key;
    bool done;
} waiter;

struct proa_discovery {
    const proa_discovery_backend *backend;
    void *state; /* the thread's, once it runs */
    int wake_fd;
    pthread_t thread;

    pthread_mutex_t lock;
    pthread_cond_t let_go; /* a waiter is done */
    wish wishes[PROA_DISCOVERY_KEYS_MAX];
    size_t wish_count;
    waiter *waiters;
    proa_view views[PROA_DISCOVERY_WATCHES_MAX]; /* below `told`: the thread's */
    size_t view_count;
    bool stop;

    size_t told; /* the thread's: views that the backend knows */
};

static void wake(proa_discovery *d)
{
    const uint64_t one = 1;
    ssize_t written = write(d->wake_fd, &one, sizeof one);
    (void)written; /* it fails only when it is readable anyway */
}

/* --- the thread --- */

/* The next change to a key, taken over; false: there is none. */
static bool take_change(proa_discovery *d, wish *change)
{
    bool found = false;
    pthread_mutex_lock(&d->lock);
    for (size_t i = 0; i < d->wish_count && !found; i++) {
        wish *w = &d->wishes[i];
        if (!w->changed)
            continue;
        found = true;
        *change = *w;
        if (w->value == NULL) {
            *w = d->wishes[--d->wish_count];
        } else {
            w->changed = false;
            change->key = strdup(w->key);
            change->value = strdup(w->value);
            if (change->key == NULL || change->value == NULL) { /* memory is out: in the next turn */
                free(change->key);
                free(change->value);
                w->changed = true;
                found = false;
                break;
            }
        }
    }
    pthread_mutex_unlock(&d->lock);
    return found;
}

static void tell_changes(proa_discovery *d)
{
    wish change;
    while (take_change(d, &change)) {
        if (change.value != NULL) {
            d->backend->put(d->state, change.key, change.value);
        } else {
            d->backend->remove(d->state, change.key);
            free(change.key);
        }
    }
    pthread_mutex_lock(&d->lock);
    size_t count = d->view_count;
    pthread_mutex_unlock(&d->lock);
    while (d->told < count)
        d->backend->watch(d->state, &d->views[d->told++]);
}

static wish *find_wish(proa_discovery *d, const char *key)
{
    for (size_t i = 0; i < d->wish_count; i++) {
        if (strcmp(d->wishes[i].key, key) == 0)
            return &d->wishes[i];
    }
    return NULL;
}

/* Releases those whose key is let go, or wanted again. */
static void answer_waiters(proa_discovery *d)
{
    pthread_mutex_lock(&d->lock);
    for (waiter *w = d->waiters; w != NULL; w = w->next) {
        const wish *wanted = find_wish(d, w->key);
        if (!w->done && (wanted != NULL ? wanted->value != NULL : !d->backend->holds(d->state, w->key))) {
            w->done = true;
            pthread_cond_broadcast(&d->let_go);
        }
    }
    pthread_mutex_unlock(&d->lock);
}

static bool is_stopping(proa_discovery *d)
{
    pthread_mutex_lock(&d->lock);
    bool stop = d->stop;
    pthread_mutex_unlock(&d->lock);
    return stop;
}

static int64_t expire_views(proa_discovery *d, int64_t until)
{
    int64_t now = proa_clock_us();
    for (size_t i = 0; i < d->told; i++) {
        int64_t next = proa_view_expire(&d->views[i], now);
        until = next < until ? next : until;
    }
    return until;
}

static void *run(void *context)
{
    proa_discovery *d = context;
    while (!is_stopping(d)) {
        uint64_t wakes;
        ssize_t taken = read(d->wake_fd, &wakes, sizeof wakes); /* before looking at what it announced */
        (void)taken;
        tell_changes(d);
        d->backend->run(d->state, expire_views(d, proa_clock_us() + TURN_US));
        answer_waiters(d);
    }
    int64_t until = proa_clock_us() + LETTING_US;
    d->backend->close(d->state);
    while (!d->backend->closed(d->state) && proa_clock_us() < until) {
        uint64_t wakes;
        ssize_t taken = read(d->wake_fd, &wakes, sizeof wakes);
        (void)taken;
        d->backend->run(d->state, until);
    }
    d->backend->free(d->state);
    return NULL;
}

/* --- life --- */

static const proa_discovery_backend *const backends[] = {&proa_discovery_mem, &proa_discovery_file,
                                                         &proa_discovery_etcd};

static const proa_discovery_backend *find_backend(const char *name)
{
    for (size_t i = 0; i < sizeof backends / sizeof backends[0]; i++) {
        if (name != NULL && strcmp(backends[i]->name, name) == 0)
            return backends[i];
    }
    return NULL;
}

static proa_status check_options(proa_discovery_options *options, const proa_discovery_backend *backend,
                                 proa_error *err)
{
    if (backend == NULL)
        return proa_error_set(err, PROA_ERR_INVALID,
                              "--discovery-backend: \"%s\" is not known; it is mem, file or etcd",
                              options->backend != NULL ? options->backend : "");
    if (options->lease_s == 0)
        options->lease_s = lease_s_default;
    if (!(options->lease_s >= lease_s_min && options->lease_s <= lease_s_max))
        return proa_error_set(err, PROA_ERR_INVALID, "--discovery-lease is %g s; it must be from %g to %g s",
                              options->lease_s, lease_s_min, lease_s_max);
    return PROA_OK;
}

static void init_lock(proa_discovery *d)
{
    pthread_mutex_init(&d->lock, NULL);
    proa_clock_cond_init(&d->let_go);
}

static void destroy_lock(proa_discovery *d)
{
    pthread_cond_destroy(&d->let_go);
    pthread_mutex_destroy(&d->lock);
}

proa_status proa_discovery_create(const proa_discovery_options *options, proa_discovery **discovery,
                                  proa_error *err)
{
    *discovery = NULL;
    proa_discovery_options own = *options;
    const proa_discovery_backend *backend = find_backend(own.backend);
    proa_status status = check_options(&own, backend, err);
    if (status != PROA_OK)
        return status;
    proa_discovery *d = calloc(1, sizeof *d);
    if (d == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for discovery");
    d->backend = backend;
    d->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (d->wake_fd < 0) {
        status = proa_error_set(err, PROA_ERR_IO, "eventfd for discovery: %s", strerror(errno));
        goto free_memory;
    }
    status = backend->open(&own, d->wake_fd, &d->state, err);
    if (status != PROA_OK)
        goto close_wake;
    init_lock(d);
    int failed = pthread_create(&d->thread, NULL, run, d);
    if (failed != 0) {
        status = proa_error_set(err, PROA_ERR_IO, "no thread for discovery: %s", strerror(failed));
        goto free_state;
    }
    *discovery = d;
    return PROA_OK;

free_state:
    destroy_lock(d);
    backend->free(d->state);
close_wake:
    close(d->wake_fd);
free_memory:
    free(d);
    return status;
}

void proa_discovery_free(proa_discovery *discovery)
{
    proa_discovery *d = discovery;
    if (d == NULL)
        return;
    PROA_ASSERT(!pthread_equal(pthread_self(), d->thread));
    pthread_mutex_lock(&d->lock);
    d->stop = true;
    pthread_mutex_unlock(&d->lock);
    wake(d);
    pthread_join(d->thread, NULL);
    for (size_t i = 0; i < d->view_count; i++)
        proa_view_free(&d->views[i]);
    for (size_t i = 0; i < d->wish_count; i++) {
        free(d->wishes[i].key);
        free(d->wishes[i].value);
    }
    destroy_lock(d);
    close(d->wake_fd);
    free(d);
}

/* --- what callers want --- */

proa_status proa_discovery_watch(proa_discovery *discovery, const char *prefix,
                                 const proa_discovery_hooks *hooks, proa_error *err)
{
    proa_discovery *d = discovery;
    PROA_ASSERT(hooks->put != NULL);
    PROA_ASSERT(hooks->gone != NULL);
    size_t length = strlen(prefix);
    if (length == 0 || length > PROA_DISCOVERY_KEY_BYTES_MAX)
        return proa_error_set(err, PROA_ERR_INVALID,
                              "a watch of discovery needs a prefix of 1 to %d bytes, not %zu",
                              PROA_DISCOVERY_KEY_BYTES_MAX, length);
    proa_status status = PROA_OK;
    pthread_mutex_lock(&d->lock);
    if (d->view_count == PROA_DISCOVERY_WATCHES_MAX)
        status = proa_error_set(err, PROA_ERR_OVERLOADED, "discovery has %d watches already, the most it can",
                                PROA_DISCOVERY_WATCHES_MAX);
    else
        proa_view_init(&d->views[d->view_count++], prefix, hooks);
    pthread_mutex_unlock(&d->lock);
    wake(d);
    return status;
}

/* Keys are paths of printable ASCII. Parts that begin with a dot would be special to a file system. */
static proa_status check_key(const proa_discovery_backend *backend, const char *key, proa_error *err)
{
    size_t length = strlen(key);
    bool good = length > 0 && length <= PROA_DISCOVERY_KEY_BYTES_MAX && key[length - 1] != '/';
    for (size_t i = 0; i < length && good; i++) {
        bool begins = i == 0 || key[i - 1] == '/';
        good = key[i] > 0x20 && key[i] < 0x7f && !(begins && (key[i] == '.' || key[i] == '/'));
    }
    if (!good)
        return proa_error_set(
            err, PROA_ERR_INVALID,
            "the key \"%.100s\" is malformed: 1 to %d printable characters, parts divided by "
            "single slashes, none beginning with a dot",
            key, PROA_DISCOVERY_KEY_BYTES_MAX);
    return backend->check_key != NULL ? backend->check_key(key, err) : PROA_OK;
}

/* Takes `key` and `value` over when it is PROA_OK. Under the lock. */
static proa_status add_wish(proa_discovery *d, char *key, char *value, proa_error *err)
{
    wish *known = find_wish(d, key);
    if (known == NULL && d->wish_count == PROA_DISCOVERY_KEYS_MAX)
        return proa_error_set(err, PROA_ERR_OVERLOADED, "discovery keeps %d keys already, the most it can",
                              PROA_DISCOVERY_KEYS_MAX);
    if (known == NULL) {
        d->wishes[d->wish_count++] = (wish){key, value, true};
    } else {
        free(key);
        free(known->value);
        known->value = value;
        known->changed = true;
    }
    return PROA_OK;
}

proa_status proa_discovery_register(proa_discovery *discovery, const char *key, const char *value,
                                    proa_error *err)
{
    proa_status status = check_key(discovery->backend, key, err);
    if (status != PROA_OK)
        return status;
    if (strlen(value) > PROA_DISCOVERY_VALUE_BYTES_MAX)
        return proa_error_set(err, PROA_ERR_TOO_LONG, "the value of %s has %zu bytes, at most %d are allowed",
                              key, strlen(value), PROA_DISCOVERY_VALUE_BYTES_MAX);
    char *own_key = strdup(key), *own_value = strdup(value);
    if (own_key == NULL || own_value == NULL) {
        status = proa_error_set(err, PROA_ERR_MEMORY, "no memory to register %s", key);
    } else {
        pthread_mutex_lock(&discovery->lock);
        status = add_wish(discovery, own_key, own_value, err);
        pthread_mutex_unlock(&discovery->lock);
    }
    if (status != PROA_OK) {
        free(own_key);
        free(own_value);
        return status;
    }
    wake(discovery);
    return PROA_OK;
}

/* Under the lock. */
static void wait_until_gone(proa_discovery *d, const char *key)
{
    struct timespec deadline = proa_clock_deadline(LETTING_US);
    waiter self = {.next = d->waiters, .key = key};
    d->waiters = &self;
    while (!self.done && pthread_cond_timedwait(&d->let_go, &d->lock, &deadline) != ETIMEDOUT)
        ;
    waiter **link = &d->waiters;
    while (*link != &self)
        link = &(*link)->next;
    *link = self.next;
}

void proa_discovery_unregister(proa_discovery *discovery, const char *key)
{
    proa_discovery *d = discovery;
    pthread_mutex_lock(&d->lock);
    wish *known = find_wish(d, key);
    if (known != NULL) {
        free(known->value);
        known->value = NULL;
        known->changed = true;
        wake(d);
        if (!pthread_equal(pthread_self(), d->thread)) /* a hook cannot wait for itself */
            wait_until_gone(d, key);
    }
    pthread_mutex_unlock(&d->lock);
}
