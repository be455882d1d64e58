/* discovery_mem.c - a registry in memory, shared by the discoveries of one process.
 *
 * Each discovery is a member of the registry: it has its own keys and is woken when those of any member change. A change is told as a
 * new list, since there is a handful of keys. The last member to register a key owns it.
 */
#include "cluster/discovery_internal.h"

#include "base/buf.h"
#include "base/clock.h"

#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct member {
    proa_registry *registry;
    int wake_fd;
    struct record {
        char *key;
        char *value;
    } records[PROA_DISCOVERY_KEYS_MAX]; /* under the registry's lock */
    size_t count;
    struct member *next; /* the registry's */

    uint64_t seen; /* the registry's version that the views know */
    proa_view *views[PROA_DISCOVERY_WATCHES_MAX];
    size_t view_count;
} member;

struct proa_registry {
    pthread_mutex_t lock;
    uint64_t version; /* counts changes, from 1 */
    member *members;
};

proa_registry *proa_registry_create(void)
{
    proa_registry *registry = calloc(1, sizeof *registry);
    if (registry != NULL) {
        pthread_mutex_init(&registry->lock, NULL);
        registry->version = 1;
    }
    return registry;
}

void proa_registry_free(proa_registry *registry)
{
    if (registry == NULL)
        return;
    PROA_ASSERT(registry->members == NULL);
    pthread_mutex_destroy(&registry->lock);
    free(registry);
}

/* --- under the registry's lock --- */

static void changed(proa_registry *registry)
{
    registry->version++;
    for (const member *m = registry->members; m != NULL; m = m->next) {
        const uint64_t one = 1;
        ssize_t written = write(m->wake_fd, &one, sizeof one);
        (void)written; /* it fails only when it is readable anyway */
    }
}

static bool take_out(member *m, const char *key)
{
    for (size_t i = 0; i < m->count; i++) {
        if (strcmp(m->records[i].key, key) == 0) {
            free(m->records[i].key);
            free(m->records[i].value);
            m->records[i] = m->records[--m->count];
            return true;
        }
    }
    return false;
}

/* --- the backend --- */

static proa_status mem_open(const proa_discovery_options *options, int wake_fd, void **state, proa_error *err)
{
    PROA_ASSERT(options->registry != NULL);
    member *m = calloc(1, sizeof *m);
    if (m == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for discovery");
    m->registry = options->registry;
    m->wake_fd = wake_fd;
    pthread_mutex_lock(&m->registry->lock);
    m->next = m->registry->members;
    m->registry->members = m;
    pthread_mutex_unlock(&m->registry->lock);
    *state = m;
    return PROA_OK;
}

static void mem_put(void *state, char *key, char *value)
{
    member *m = state;
    pthread_mutex_lock(&m->registry->lock);
    for (member *other = m->registry->members; other != NULL; other = other->next)
        take_out(other, key);
    PROA_ASSERT(m->count < PROA_DISCOVERY_KEYS_MAX);
    m->records[m->count++] = (struct record){key, value};
    changed(m->registry);
    pthread_mutex_unlock(&m->registry->lock);
}

static void mem_remove(void *state, const char *key)
{
    member *m = state;
    pthread_mutex_lock(&m->registry->lock);
    if (take_out(m, key))
        changed(m->registry);
    pthread_mutex_unlock(&m->registry->lock);
}

static bool mem_holds(const void *state, const char *key)
{
    (void)state;
    (void)key;
    return false; /* remove has removed it */
}

static void mem_watch(void *state, proa_view *view)
{
    member *m = state;
    m->views[m->view_count++] = view;
    m->seen = 0;
}

/* All keys and values, each with its zero byte: hooks must not run under the lock, since they may register. */
static void copy_records(member *m, proa_buf *copy)
{
    pthread_mutex_lock(&m->registry->lock);
    for (const member *other = m->registry->members; other != NULL; other = other->next) {
        for (size_t i = 0; i < other->count; i++) {
            proa_buf_append(copy, other->records[i].key, strlen(other->records[i].key) + 1);
            proa_buf_append(copy, other->records[i].value, strlen(other->records[i].value) + 1);
        }
    }
    if (!copy->failed) /* else the next turn tries again */
        m->seen = m->registry->version;
    pthread_mutex_unlock(&m->registry->lock);
}

static void tell_views(member *m)
{
    proa_buf copy = {0};
    copy_records(m, &copy);
    int64_t now = proa_clock_us();
    for (size_t v = 0; v < m->view_count && !copy.failed; v++) {
        proa_view_list_begin(m->views[v], 0);
        for (size_t at = 0; at < copy.length;) {
            const char *key = copy.data + at, *value = key + strlen(key) + 1;
            proa_view_list_put(m->views[v], key, value, strlen(value), 0);
            at += (size_t)(value - key) + strlen(value) + 1;
        }
        proa_view_list_end(m->views[v], now, 0);
    }
    proa_buf_free(&copy);
}

static void mem_run(void *state, int64_t until_us)
{
    member *m = state;
    pthread_mutex_lock(&m->registry->lock);
    bool news = m->seen != m->registry->version;
    pthread_mutex_unlock(&m->registry->lock);
    if (news && m->view_count > 0)
        tell_views(m);
    struct pollfd wake = {.fd = m->wake_fd, .events = POLLIN};
    int64_t wait_us = until_us - proa_clock_us();
    poll(&wake, 1, wait_us > 0 ? (int)((wait_us + 999) / 1000) : 0);
}

static void mem_close(void *state)
{
    member *m = state;
    m->view_count = 0;
    pthread_mutex_lock(&m->registry->lock);
    while (m->count > 0)
        take_out(m, m->records[0].key);
    changed(m->registry);
    pthread_mutex_unlock(&m->registry->lock);
}

static bool mem_closed(const void *state)
{
    (void)state;
    return true;
}

static void mem_free(void *state)
{
    member *m = state;
    pthread_mutex_lock(&m->registry->lock);
    member **link = &m->registry->members;
    while (*link != m)
        link = &(*link)->next;
    *link = m->next;
    pthread_mutex_unlock(&m->registry->lock);
    free(m);
}

const proa_discovery_backend proa_discovery_mem = {
    .name = "mem",
    .open = mem_open,
    .put = mem_put,
    .remove = mem_remove,
    .holds = mem_holds,
    .watch = mem_watch,
    .run = mem_run,
    .close = mem_close,
    .closed = mem_closed,
    .free = mem_free,
};
