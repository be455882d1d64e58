/* loop.c - an event loop over libevent's epoll.
 *
 * Other threads reach it through an eventfd alone, so that libevent needs no locks. Several wakes before the loop gets to it are
 * one write and one call of the hook.
 *
 * The precise timer (a timerfd) is asked for since the coarse clock that libevent takes otherwise moves every 4 ms: KV transfers
 * are moved along every millisecond.
 */
#include "net/loop_internal.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* A timer or a watch: an event in the loop's list. */
typedef struct loop_item {
    proa_loop *loop;
    struct loop_item *next;
    struct loop_item *previous;
    struct event *event;
    proa_loop_hook hook;
    void *context;
} loop_item;

struct proa_timer {
    loop_item item;
    int64_t period_us;
};

struct proa_watch {
    loop_item item;
};

struct proa_loop {
    struct event_base *base;
    struct event *wake_event;
    int wake_fd;
    proa_loop_hook woken;
    void *context;
    loop_item *items;
    proa_resolver *resolver;
    pthread_t owner;      /* valid while running */
    _Atomic bool running; /* release/acquire: who sees it set sees `owner` */
    _Atomic bool ringing; /* a wake is on its way; see proa_loop_wake */
    _Atomic bool stopping;
};

/* ---- waking ---- */

static void on_wake(evutil_socket_t fd, short what, void *context)
{
    (void)what;
    proa_loop *loop = context;
    uint64_t count;
    if (read(fd, &count, sizeof count) != (ssize_t)sizeof count)
        return;
    /* acquire: what was written before a wake that found `ringing` set, and so wrote nothing, is seen by the hook */
    bool rang = atomic_exchange_explicit(&loop->ringing, false, memory_order_acq_rel);
    if (atomic_load_explicit(&loop->stopping, memory_order_acquire))
        event_base_loopbreak(loop->base);
    else if (rang && loop->woken != NULL)
        loop->woken(loop->context);
}

static void ring(proa_loop *loop)
{
    uint64_t one = 1;
    ssize_t written = write(loop->wake_fd, &one, sizeof one);
    (void)written; /* a full counter is a ring that has not been heard yet */
}

void proa_loop_wake(proa_loop *loop)
{
    if (!atomic_exchange_explicit(&loop->ringing, true, memory_order_acq_rel))
        ring(loop);
}

void proa_loop_stop(proa_loop *loop)
{
    /* release: what the caller did before is seen by who waits for proa_loop_run */
    atomic_store_explicit(&loop->stopping, true, memory_order_release);
    ring(loop);
}

/* ---- life ---- */

/* Without epoll's change list: what is taken off the loop must be off before its descriptor is closed, maybe by another thread. */
static struct event_base *create_base(void)
{
    struct event_config *config = event_config_new();
    if (config == NULL)
        return NULL;
    event_config_set_flag(config, EVENT_BASE_FLAG_NOLOCK); /* one thread */
    event_config_set_flag(config, EVENT_BASE_FLAG_IGNORE_ENV);
    event_config_set_flag(config, EVENT_BASE_FLAG_PRECISE_TIMER);
    struct event_base *base = event_base_new_with_config(config);
    event_config_free(config);
    return base;
}

proa_status proa_loop_create(proa_loop_hook woken, void *context, proa_loop **loop, proa_error *err)
{
    proa_loop *l = calloc(1, sizeof *l);
    if (l == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for an event loop");
    l->woken = woken;
    l->context = context;
    l->resolver = proa_resolver_create();
    l->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (l->wake_fd >= 0)
        l->base = create_base();
    if (l->base != NULL)
        l->wake_event = event_new(l->base, l->wake_fd, EV_READ | EV_PERSIST, on_wake, l);
    if (l->resolver == NULL || l->wake_event == NULL || event_add(l->wake_event, NULL) != 0) {
        proa_status status =
            proa_error_set(err, PROA_ERR_IO, "cannot set up an event loop: %s", strerror(errno));
        proa_loop_free(l);
        return status;
    }
    signal(SIGPIPE, SIG_IGN); /* a peer that leaves is an error of write(2), not of the process */
    *loop = l;
    return PROA_OK;
}

static void free_item(loop_item *item)
{
    proa_loop_assert_owner(item->loop);
    if (item->previous != NULL)
        item->previous->next = item->next;
    else
        item->loop->items = item->next;
    if (item->next != NULL)
        item->next->previous = item->previous;
    event_free(item->event);
    free(item);
}

void proa_loop_free(proa_loop *loop)
{
    if (loop == NULL)
        return;
    PROA_ASSERT(!atomic_load_explicit(&loop->running, memory_order_acquire));
    while (loop->items != NULL)
        free_item(loop->items);
    if (loop->wake_event != NULL)
        event_free(loop->wake_event);
    if (loop->base != NULL)
        event_base_free(loop->base);
    if (loop->wake_fd >= 0)
        close(loop->wake_fd);
    proa_resolver_release(loop->resolver);
    free(loop);
}

void proa_loop_run(proa_loop *loop)
{
    loop->owner = pthread_self();
    /* release: publishes `owner` */
    atomic_store_explicit(&loop->running, true, memory_order_release);
    event_base_loop(loop->base, EVLOOP_NO_EXIT_ON_EMPTY);
    atomic_store_explicit(&loop->stopping, false, memory_order_release);
    atomic_store_explicit(&loop->running, false, memory_order_release);
}

struct event_base *proa_loop_base(proa_loop *loop)
{
    return loop->base;
}

proa_resolver *proa_loop_resolver(proa_loop *loop)
{
    return loop->resolver;
}

void proa_loop_assert_owner(const proa_loop *loop)
{
    if (atomic_load_explicit(&loop->running, memory_order_acquire))
        PROA_ASSERT(pthread_equal(loop->owner, pthread_self()));
}

struct timeval proa_loop_timeval(int64_t us)
{
    if (us < 0)
        us = 0;
    return (struct timeval){.tv_sec = us / 1000000, .tv_usec = us % 1000000};
}

/* ---- timers and watches ---- */

static void on_item(evutil_socket_t fd, short what, void *context)
{
    (void)fd;
    (void)what;
    loop_item *item = context;
    item->hook(item->context); /* which may free the item */
}

static bool add_item(proa_loop *loop, loop_item *item, int fd, short what, int64_t period_us)
{
    proa_loop_assert_owner(loop);
    struct timeval period = proa_loop_timeval(period_us);
    item->event = event_new(loop->base, fd, (short)(what | EV_PERSIST), on_item, item);
    if (item->event == NULL)
        return false;
    if (event_add(item->event, what == EV_TIMEOUT ? &period : NULL) != 0) {
        event_free(item->event);
        return false;
    }
    item->loop = loop;
    item->next = loop->items;
    if (loop->items != NULL)
        loop->items->previous = item;
    loop->items = item;
    return true;
}

proa_timer *proa_loop_add_timer(proa_loop *loop, int64_t period_us, proa_loop_hook hook, void *context)
{
    PROA_ASSERT(period_us > 0);
    proa_timer *timer = calloc(1, sizeof *timer);
    if (timer == NULL)
        return NULL;
    timer->item.hook = hook;
    timer->item.context = context;
    timer->period_us = period_us;
    if (!add_item(loop, &timer->item, -1, EV_TIMEOUT, period_us)) {
        free(timer);
        return NULL;
    }
    return timer;
}

void proa_timer_set_period(proa_timer *timer, int64_t period_us)
{
    PROA_ASSERT(period_us > 0);
    proa_loop_assert_owner(timer->item.loop);
    if (period_us == timer->period_us)
        return;
    struct timeval period = proa_loop_timeval(period_us);
    timer->period_us = period_us;
    PROA_ASSERT(event_add(timer->item.event, &period) ==
                0); /* it is among the events: nothing is allocated */
}

void proa_timer_free(proa_timer *timer)
{
    if (timer != NULL)
        free_item(&timer->item);
}

proa_watch *proa_loop_add_watch(proa_loop *loop, int fd, proa_loop_hook hook, void *context)
{
    proa_watch *watch = calloc(1, sizeof *watch);
    if (watch == NULL)
        return NULL;
    watch->item.hook = hook;
    watch->item.context = context;
    if (!add_item(loop, &watch->item, fd, EV_READ, 0)) {
        free(watch);
        return NULL;
    }
    return watch;
}

void proa_watch_free(proa_watch *watch)
{
    if (watch != NULL)
        free_item(&watch->item);
}

const char *proa_loop_library_version(void)
{
    return event_get_version();
}
