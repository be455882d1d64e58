/* log.h - lines for people who run the program, on standard error.
 *
 * Form: `12:31:07.123 info  area: message`, lower case, no key=value; in a process that is one rank of several `12:31:07.123
 * info  rank 3 area: message`. Colours only when standard error is a terminal. Any thread may call; a line is written by one write(2), so lines never mix.
 */
#ifndef PROA_BASE_LOG_H
#define PROA_BASE_LOG_H

typedef enum proa_log_level {
    PROA_LOG_ERROR, /* something was lost */
    PROA_LOG_WARN,  /* something is not as it should be, and the program goes on */
    PROA_LOG_INFO,  /* a handful of lines in a process's life, and its periodic summary */
    PROA_LOG_DEBUG, /* lines in proportion to connections and requests */
    PROA_LOG_TRACE, /* lines in proportion to steps and tokens */
} proa_log_level;

/* Sets the level from "error", "warn", "info", "debug" or "trace"; returns 0, or -1 for another word. */
int proa_log_set_level(const char *name);

proa_log_level proa_log_get_level(void);

/* From now on lines carry "rank N"; N >= 0. */
void proa_log_set_rank(int rank);

/* `area` is the room or module ("model", "http"). */
void proa_log(proa_log_level level, const char *area, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
