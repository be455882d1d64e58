/* pool.h - a pool of threads that run one loop at a time, the caller among them.
 *
 * Tasks are handed out by an atomic counter; no result may depend on which thread runs which task (law 2).
 * Workers spin for a moment between loops, since a decode step is hundreds of short loops, then sleep.
 * One owner thread calls proa_pool_run; tasks must not call it again.
 */
#ifndef PROA_BASE_POOL_H
#define PROA_BASE_POOL_H

typedef struct proa_pool proa_pool;

/* `task` counts from 0 to tasks - 1; `thread` from 0 to threads - 1 names the scratch that a task may use. */
typedef void (*proa_pool_task)(void *context, int task, int thread);

/* threads >= 1, the caller included. NULL when a thread cannot be started. */
proa_pool *proa_pool_create(int threads);
void proa_pool_free(proa_pool *pool);
int proa_pool_threads(const proa_pool *pool);

/* Returns when all tasks are done. `pool` NULL runs them here, in order. */
void proa_pool_run(proa_pool *pool, proa_pool_task run, void *context, int tasks);

#endif
