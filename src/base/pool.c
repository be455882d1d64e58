/* pool.c - fork and join over an epoch counter.
 *
 *   owner:  writes run, context, tasks; next = 0; pending = workers; epoch + 1 (release); takes tasks; waits pending == 0
 *   worker: waits for a new epoch (acquire), takes tasks until next >= tasks, pending - 1 (release)
 *
 * A worker spins SPIN_TURNS times before it sleeps on the condition variable; the owner wakes sleepers only when
 * there are any.
 */
#include "base/pool.h"

#include "base/stacks.h"
#include "base/status.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>

enum { SPIN_TURNS = 4000, YIELD_EVERY = 256 };

typedef struct worker {
    proa_pool *pool;
    pthread_t thread;
    int index;
} worker;

struct proa_pool {
    int threads;
    worker *workers; /* threads - 1 */
    proa_pool_task run;
    void *context;
    int tasks;
    _Atomic int next;
    _Atomic int pending;
    _Atomic unsigned epoch;
    _Atomic int sleepers;
    _Atomic bool stop;
    pthread_mutex_t mutex;
    pthread_cond_t wake;
};

static inline void relax(int turn)
{
    if (turn % YIELD_EVERY == YIELD_EVERY - 1)
        sched_yield();
#if defined(__x86_64__)
    else
        __builtin_ia32_pause();
#endif
}

static void take_tasks(proa_pool *pool, int thread)
{
    for (;;) {
        /* relaxed: the tasks' inputs were published by the epoch */
        int task = atomic_fetch_add_explicit(&pool->next, 1, memory_order_relaxed);
        if (task >= pool->tasks)
            return;
        pool->run(pool->context, task, thread);
    }
}

/* Waits until the epoch differs from `seen`; returns the new one. */
static unsigned wait_for_epoch(proa_pool *pool, unsigned seen)
{
    for (int turn = 0; turn < SPIN_TURNS; turn++) {
        unsigned epoch = atomic_load_explicit(&pool->epoch, memory_order_acquire);
        if (epoch != seen)
            return epoch;
        relax(turn);
    }
    pthread_mutex_lock(&pool->mutex);
    /* sequentially consistent with the owner's store of the epoch and load of sleepers: one sees the other */
    atomic_fetch_add(&pool->sleepers, 1);
    unsigned epoch;
    while ((epoch = atomic_load(&pool->epoch)) == seen)
        pthread_cond_wait(&pool->wake, &pool->mutex);
    atomic_fetch_sub(&pool->sleepers, 1);
    pthread_mutex_unlock(&pool->mutex);
    return epoch;
}

static void *worker_main(void *argument)
{
    worker *w = argument;
    proa_pool *pool = w->pool;
    unsigned seen = 0;
    proa_stacks_name_thread("compute");
    for (;;) {
        seen = wait_for_epoch(pool, seen);
        if (atomic_load_explicit(&pool->stop, memory_order_relaxed))
            return NULL;
        take_tasks(pool, w->index);
        atomic_fetch_sub_explicit(&pool->pending, 1, memory_order_release);
    }
}

static void start_epoch(proa_pool *pool)
{
    atomic_fetch_add(&pool->epoch, 1);
    if (atomic_load(&pool->sleepers) > 0) {
        pthread_mutex_lock(&pool->mutex);
        pthread_cond_broadcast(&pool->wake);
        pthread_mutex_unlock(&pool->mutex);
    }
}

proa_pool *proa_pool_create(int threads)
{
    PROA_ASSERT(threads >= 1);
    proa_pool *pool = calloc(1, sizeof *pool);
    if (pool == NULL)
        return NULL;
    pthread_mutex_init(&pool->mutex, NULL);
    pthread_cond_init(&pool->wake, NULL);
    pool->threads = 1;
    pool->workers = calloc((size_t)threads, sizeof *pool->workers);
    if (pool->workers == NULL) {
        proa_pool_free(pool);
        return NULL;
    }
    for (int i = 1; i < threads; i++) {
        worker *w = &pool->workers[i - 1];
        w->pool = pool;
        w->index = i;
        if (pthread_create(&w->thread, NULL, worker_main, w) != 0) {
            proa_pool_free(pool);
            return NULL;
        }
        pool->threads++;
    }
    return pool;
}

void proa_pool_free(proa_pool *pool)
{
    if (pool == NULL)
        return;
    atomic_store(&pool->stop, true);
    start_epoch(pool);
    for (int i = 1; i < pool->threads; i++)
        pthread_join(pool->workers[i - 1].thread, NULL);
    free(pool->workers);
    pthread_cond_destroy(&pool->wake);
    pthread_mutex_destroy(&pool->mutex);
    free(pool);
}

int proa_pool_threads(const proa_pool *pool)
{
    return pool != NULL ? pool->threads : 1;
}

void proa_pool_run(proa_pool *pool, proa_pool_task run, void *context, int tasks)
{
    if (pool == NULL || pool->threads == 1 || tasks <= 1) {
        for (int i = 0; i < tasks; i++)
            run(context, i, 0);
        return;
    }
    pool->run = run;
    pool->context = context;
    pool->tasks = tasks;
    atomic_store_explicit(&pool->next, 0, memory_order_relaxed);
    atomic_store_explicit(&pool->pending, pool->threads - 1, memory_order_relaxed);
    start_epoch(pool);
    take_tasks(pool, 0);
    for (int turn = 0; atomic_load_explicit(&pool->pending, memory_order_acquire) > 0; turn++)
        relax(turn);
}
