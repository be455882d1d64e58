/* progress.h - a bar on standard error for work that takes a while; a line of the log every ten seconds when that is no terminal.
 *
 *   loading  [##########----------]  51%  1.4 of 2.7 GB  512 MB/s  3 s left
 *
 * The struct lives on the stack of whoever does the work. proa_progress_add may be called from any thread; one of
 * them redraws, at most ten times a second (or logs). Between start and finish nothing else should write to the terminal.
 */
#ifndef PROA_BASE_PROGRESS_H
#define PROA_BASE_PROGRESS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct proa_progress {
    const char *label;
    const char *unit; /* "B" is scaled to kB, MB, GB; others are counted as they are */
    uint64_t total;
    int64_t start_us;
    bool drawn; /* standard error is a terminal */
    int64_t every_us;
    _Atomic uint64_t done;
    _Atomic int64_t next_draw_us;
} proa_progress;

/* `label` and `unit` outlive the progress. total 0 draws no bar. */
void proa_progress_start(proa_progress *progress, const char *label, uint64_t total, const char *unit);
void proa_progress_add(proa_progress *progress, uint64_t amount);
/* Removes the bar. Returns the seconds since the start, at least one microsecond. */
double proa_progress_finish(proa_progress *progress);

/* "1.4 GB", "512 B"; 1000s, as disks and links are measured. Returns `text`. */
const char *proa_format_bytes(double bytes, char text[24]);

/* What the bar shows after `seconds` with `done` of the total; for the tests. Returns the length. */
size_t proa_progress_line(const proa_progress *progress, uint64_t done, double seconds, char *line,
                          size_t size);

#endif
