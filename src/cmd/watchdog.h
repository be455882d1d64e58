/* watchdog.h - the end of a process whose engine hangs: what it was doing is written down, and then it is gone, whatever hangs in it.
 */
#ifndef PROA_CMD_WATCHDOG_H
#define PROA_CMD_WATCHDOG_H

enum { PROA_WATCHDOG_STATUS = 70 };

/* Logs the line and the stacks of all threads, and ends the process with PROA_WATCHDOG_STATUS; if that does not come to its end within 20 s,
 * by SIGALRM. */
_Noreturn void proa_watchdog_end(const char *area, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

#endif
