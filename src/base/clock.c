/* clock.c - the clocks of the program. */
#include "base/clock.h"

#include <time.h>

int64_t proa_clock_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

int64_t proa_clock_unix_seconds(void)
{
    return (int64_t)time(NULL);
}

int64_t proa_clock_thread_ns(void)
{
    struct timespec used;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
    return (int64_t)used.tv_sec * 1000000000 + used.tv_nsec;
}
