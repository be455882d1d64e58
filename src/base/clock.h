/* clock.h - time. Pure modules never call this: `now` reaches them as an argument. Any thread may call. */
#ifndef PROA_BASE_CLOCK_H
#define PROA_BASE_CLOCK_H

#include <pthread.h>
#include <stdint.h>
#include <time.h>

/* Microseconds of CLOCK_MONOTONIC: for deadlines and durations. */
int64_t proa_clock_us(void);

/* Seconds since 1970 UTC: for what people and OpenAI's `created` field see. */
int64_t proa_clock_unix_seconds(void);

/* Nanoseconds of processor time that the calling thread has used: for benchmarks on machines that do other work. */
int64_t proa_clock_thread_ns(void);

/* A condition variable whose timed waits count on CLOCK_MONOTONIC: setting the time of day neither cuts nor stretches them. */
void proa_clock_cond_init(pthread_cond_t *condition);

/* The point of time `us` microseconds from now, `us` >= 0, for pthread_cond_timedwait on such a condition variable. */
struct timespec proa_clock_deadline(int64_t us);

#endif
