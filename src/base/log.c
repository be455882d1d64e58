/* log.c - one line, one write. The level and the rank are the only state of the process that this module keeps. */
#include "base/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* relaxed: a changed level may be seen a few lines late, nothing depends on it */
static _Atomic int log_level = PROA_LOG_INFO;
/* -1: this process is no rank; relaxed: set before there are threads */
static _Atomic int log_rank = -1;

static const char *const level_names[] = {"error", "warn", "info", "debug", "trace"};
static const char *const level_colours[] = {"\033[31m", "\033[33m", "\033[32m", "\033[36m", "\033[90m"};

int proa_log_set_level(const char *name)
{
    for (int i = 0; i <= PROA_LOG_TRACE; i++) {
        if (strcmp(name, level_names[i]) == 0) {
            atomic_store_explicit(&log_level, i, memory_order_relaxed);
            return 0;
        }
    }
    return -1;
}

proa_log_level proa_log_get_level(void)
{
    return (proa_log_level)atomic_load_explicit(&log_level, memory_order_relaxed);
}

void proa_log_set_rank(int rank)
{
    atomic_store_explicit(&log_rank, rank, memory_order_relaxed);
}

void proa_log(proa_log_level level, const char *area, const char *format, ...)
{
    if (level > proa_log_get_level())
        return;
    struct timespec now;
    struct tm local;
    clock_gettime(CLOCK_REALTIME, &now);
    localtime_r(&now.tv_sec, &local);
    int colour = isatty(STDERR_FILENO);
    char line[2048], tag[24] = "";
    int rank = atomic_load_explicit(&log_rank, memory_order_relaxed);
    if (rank >= 0)
        snprintf(tag, sizeof tag, "rank %d ", rank);
    int n = snprintf(line, sizeof line, "%02d:%02d:%02d.%03ld %s%-5s%s %s%s: ", local.tm_hour, local.tm_min,
                     local.tm_sec, now.tv_nsec / 1000000, colour ? level_colours[level] : "",
                     level_names[level], colour ? "\033[0m" : "", tag, area);
    va_list args;
    va_start(args, format);
    int m = vsnprintf(line + n, sizeof line - (size_t)n - 1, format, args);
    va_end(args);
    size_t length = (size_t)n + (m > 0 ? (size_t)m : 0);
    if (length > sizeof line - 2)
        length = sizeof line - 2;
    line[length++] = '\n';
    ssize_t written = write(STDERR_FILENO, line, length);
    (void)written; /* nobody is left to tell */
}
