/* progress.c - drawing a bar, rate-limited by a compare-and-swap on the time of the next drawing. */
#include "base/progress.h"

#include "base/clock.h"
#include "base/log.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { BAR_CELLS = 20, DRAW_EVERY_US = 100000, LOG_EVERY_US = 10000000, LINE_BYTES = 160 };

const char *proa_format_bytes(double bytes, char text[24])
{
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB", "PB"};
    int unit = 0;
    while (bytes >= 999.5 && unit < 5) {
        bytes /= 1000;
        unit++;
    }
    snprintf(text, 24, unit == 0 || bytes >= 99.95 ? "%.0f %s" : "%.1f %s", bytes, units[unit]);
    return text;
}

static const char *amount(const proa_progress *p, double value, char text[24])
{
    if (strcmp(p->unit, "B") == 0)
        return proa_format_bytes(value, text);
    snprintf(text, 24, "%.0f %s", value, p->unit);
    return text;
}

size_t proa_progress_line(const proa_progress *p, uint64_t done, double seconds, char *line, size_t size)
{
    double share = p->total > 0 ? (double)done / (double)p->total : 1;
    if (share > 1)
        share = 1;
    char bar[BAR_CELLS + 1], now[24], all[24], rate[24], left[32] = "";
    int filled = (int)(share * BAR_CELLS);
    for (int i = 0; i < BAR_CELLS; i++)
        bar[i] = i < filled ? '#' : '-';
    bar[BAR_CELLS] = '\0';
    double speed = seconds > 0 ? (double)done / seconds : 0;
    if (speed > 0 && done < p->total)
        snprintf(left, sizeof left, "  %.0f s left", (double)(p->total - done) / speed);
    int n = snprintf(line, size, "%s  [%s] %3.0f%%  %s of %s  %s/s%s", p->label, bar, share * 100,
                     amount(p, (double)done, now), amount(p, (double)p->total, all), amount(p, speed, rate),
                     left);
    return n < 0 ? 0 : (size_t)n < size ? (size_t)n : size - 1;
}

static void draw(const proa_progress *p, uint64_t done, int64_t now_us)
{
    char line[LINE_BYTES] = "\r";
    if (!p->drawn) {
        proa_progress_line(p, done, (double)(now_us - p->start_us) * 1e-6, line, sizeof line);
        proa_log(PROA_LOG_INFO, "progress", "%s", line);
        return;
    }
    size_t n =
        1 + proa_progress_line(p, done, (double)(now_us - p->start_us) * 1e-6, line + 1, sizeof line - 5);
    memcpy(line + n, "\033[K", 4); /* clear what a longer line left behind */
    ssize_t written = write(STDERR_FILENO, line, n + 3);
    (void)written; /* nobody is left to tell */
}

void proa_progress_start(proa_progress *p, const char *label, uint64_t total, const char *unit)
{
    p->label = label;
    p->unit = unit;
    p->total = total;
    p->start_us = proa_clock_us();
    p->drawn = total > 0 && isatty(STDERR_FILENO);
    atomic_init(&p->done, 0);
    p->every_us = p->drawn ? DRAW_EVERY_US : LOG_EVERY_US;
    atomic_init(&p->next_draw_us, p->start_us + p->every_us);
}

void proa_progress_add(proa_progress *p, uint64_t added)
{
    /* relaxed: the count is only shown, and the bar's time is only a rate limit */
    uint64_t done = atomic_fetch_add_explicit(&p->done, added, memory_order_relaxed) + added;
    if (p->total == 0)
        return;
    int64_t now = proa_clock_us(), next = atomic_load_explicit(&p->next_draw_us, memory_order_relaxed);
    if (now >= next && atomic_compare_exchange_strong_explicit(&p->next_draw_us, &next, now + p->every_us,
                                                               memory_order_relaxed, memory_order_relaxed))
        draw(p, done, now);
}

double proa_progress_finish(proa_progress *p)
{
    int64_t elapsed = proa_clock_us() - p->start_us;
    if (p->drawn) {
        ssize_t written = write(STDERR_FILENO, "\r\033[K", 4);
        (void)written; /* nobody is left to tell */
    }
    return elapsed > 0 ? (double)elapsed * 1e-6 : 1e-6;
}
