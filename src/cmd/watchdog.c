/* watchdog.c - see watchdog.h. */
#include "cmd/watchdog.h"

#include "base/log.h"
#include "base/stacks.h"

#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

enum { EACH_US = 500000, LATEST_S = 20 };

_Noreturn void proa_watchdog_end(const char *area, const char *format, ...)
{
    char text[1200];
    va_list args;
    signal(SIGALRM, SIG_DFL);
    alarm(LATEST_S); /* whatever lock the log may wait for, this process ends */
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    proa_log(PROA_LOG_ERROR, area, "%s; the stacks of its threads follow", text);
    proa_stacks_write(STDERR_FILENO, EACH_US);
    _exit(PROA_WATCHDOG_STATUS); /* what it holds is the system's to free: a step may still run */
}
