/* clock.h - time. Pure modules never call this: `now` reaches them as an argument. Any thread may call. */
#ifndef PROA_BASE_CLOCK_H
#define PROA_BASE_CLOCK_H

#include <stdint.h>

/* Microseconds of CLOCK_MONOTONIC: for deadlines and durations. */
int64_t proa_clock_us(void);

/* Seconds since 1970 UTC: for what people and OpenAI's `created` field see. */
int64_t proa_clock_unix_seconds(void);

/* Nanoseconds of processor time that the calling thread has used: for benchmarks on machines that do other work. */
int64_t proa_clock_thread_ns(void);

#endif
