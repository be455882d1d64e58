/* trace.c - see trace.h. */
#include "base/trace.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    DEPTH_MAX = 8,
    SPANS_MAX = 256,
    NO_FILE = -1,
    PATH_BYTES = 4096,
    WARM_STEPS = 2, /* of those that are left out: recorded, and thrown away */
};

/* Of the owner's thread. */
typedef struct host_span {
    const char *name;
    int64_t start_us, end_us;
} host_span;

struct proa_trace {
    char *process;
    _Atomic bool active; /* there is a file; relaxed: who sees it late begins a step later */

    pthread_mutex_t lock;
    int fd; /* or NO_FILE */
    char path[PATH_BYTES];
    off_t bytes;       /* of the file: all events whole */
    int64_t origin_us; /* time 0 of it */
    int64_t skip, left, written;
    uint64_t generation; /* of the file: a step belongs to the one that it began with */

    /* the owner's */
    bool on;
    bool passed_over; /* one that is left out, and not recorded */
    uint64_t mine;    /* generation */
    int64_t mine_origin_us, step_us;
    host_span spans[SPANS_MAX]; /* in the order of their beginnings */
    int span_count;
    int open[DEPTH_MAX]; /* those that have not ended, or -1: there was no room */
    int depth;
    proa_buf events; /* of the step at hand */
};

proa_status proa_trace_create(const char *process, proa_trace **out, proa_error *err)
{
    proa_trace *t = calloc(1, sizeof *t);
    *out = NULL;
    if (t != NULL && (t->process = strdup(process)) == NULL) {
        free(t);
        t = NULL;
    }
    if (t == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for a trace");
    pthread_mutex_init(&t->lock, NULL);
    t->fd = NO_FILE;
    *out = t;
    return PROA_OK;
}

/* ---- the file; all under lock ---- */

static bool write_all(int fd, const char *text, size_t length)
{
    while (length > 0) {
        const ssize_t n = write(fd, text, length);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return false;
        text += n;
        length -= (size_t)n;
    }
    return true;
}

/* False: its end could not be written, and errno says why. */
static bool close_file(proa_trace *t)
{
    static const char end[] = "\n]\n";
    bool good = write_all(t->fd, end, sizeof end - 1);
    int why = errno;
    if (close(t->fd) != 0 && good) {
        good = false;
        why = errno;
    }
    t->fd = NO_FILE;
    atomic_store_explicit(&t->active, false, memory_order_relaxed);
    if (good)
        proa_log(PROA_LOG_INFO, "trace", "%lld steps are in %s; open it with ui.perfetto.dev",
                 (long long)t->written, t->path);
    errno = why;
    return good;
}

static void finish_file(proa_trace *t)
{
    if (!close_file(t))
        proa_log(PROA_LOG_ERROR, "trace", "%s: the trace's end cannot be written: %s", t->path,
                 strerror(errno));
}

/* Names of the process and its tracks, in the order that they are shown in. Later events begin with a comma. */
static void write_head(proa_trace *t, proa_buf *head)
{
    static const char *const names[PROA_TRACE_TRACKS] = {
        [PROA_TRACE_HOST] = "engine thread",
        [PROA_TRACE_GPU] = "GPU stream",
        [PROA_TRACE_GPU_BESIDE] = "GPU stream beside",
    };
    const int pid = (int)getpid();
    proa_buf_append_format(head,
                           "[\n{\"ph\":\"M\",\"name\":\"process_name\",\"pid\":%d,\"args\":{\"name\":", pid);
    proa_json_write_string(t->process, strlen(t->process), head);
    proa_buf_append_text(head, "}}");
    for (int i = 0; i < PROA_TRACE_TRACKS; i++)
        proa_buf_append_format(
            head,
            ",\n{\"ph\":\"M\",\"name\":\"thread_name\",\"pid\":%d,\"tid\":%d,\"args\":{\"name\":\"%s\"}}"
            ",\n{\"ph\":\"M\",\"name\":\"thread_sort_index\",\"pid\":%d,\"tid\":%d,\"args\":{\"sort_index\":%"
            "d}}",
            pid, i + 1, names[i], pid, i + 1, i);
}

static proa_status open_file(proa_trace *t, const char *path, proa_error *err)
{
    proa_buf head = {0};
    if (strlen(path) >= sizeof t->path)
        return proa_error_set(err, PROA_ERR_TOO_LONG, "the trace's path is longer than %zu bytes",
                              sizeof t->path - 1);
    const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0)
        return proa_error_set(err, PROA_ERR_IO, "%s: the trace cannot be written: %s", path, strerror(errno));
    write_head(t, &head);
    const bool good = !head.failed && write_all(fd, proa_buf_text(&head), head.length);
    const off_t length = (off_t)head.length;
    const int why = head.failed ? ENOMEM : errno;
    proa_buf_free(&head);
    if (!good) {
        close(fd);
        return proa_error_set(err, PROA_ERR_IO, "%s: the trace cannot be written: %s", path, strerror(why));
    }
    t->fd = fd;
    t->bytes = length;
    snprintf(t->path, sizeof t->path, "%s", path);
    return PROA_OK;
}

proa_status proa_trace_start(proa_trace *t, const char *path, int64_t skip, int64_t steps, proa_error *err)
{
    pthread_mutex_lock(&t->lock);
    proa_status status = PROA_OK;
    if (t->fd != NO_FILE) {
        proa_error_set(err, PROA_BUSY, "a trace is being written already, to %s", t->path);
        status = PROA_BUSY;
    } else {
        status = open_file(t, path, err);
    }
    if (status == PROA_OK) {
        t->origin_us = proa_clock_us();
        t->skip = skip;
        t->left = steps;
        t->written = 0;
        t->generation++;
        atomic_store_explicit(&t->active, true, memory_order_relaxed);
    }
    pthread_mutex_unlock(&t->lock);
    return status;
}

proa_status proa_trace_stop(proa_trace *t, proa_error *err)
{
    proa_status status = PROA_OK;
    pthread_mutex_lock(&t->lock);
    if (t->fd == NO_FILE) {
        proa_error_set(err, PROA_BUSY, "no trace is being written");
        status = PROA_BUSY;
    } else if (!close_file(t)) {
        status = proa_error_set(err, PROA_ERR_IO, "%s: the trace's end cannot be written: %s", t->path,
                                strerror(errno));
    }
    pthread_mutex_unlock(&t->lock);
    return status;
}

void proa_trace_free(proa_trace *t)
{
    if (t == NULL)
        return;
    if (t->fd != NO_FILE)
        finish_file(t);
    pthread_mutex_destroy(&t->lock);
    proa_buf_free(&t->events);
    free(t->process);
    free(t);
}

/* ---- steps ---- */

bool proa_trace_on(const proa_trace *t)
{
    return t != NULL && t->on;
}

void proa_trace_step_begin(proa_trace *t)
{
    if (t == NULL)
        return;
    t->on = t->passed_over = false;
    if (!atomic_load_explicit(&t->active, memory_order_relaxed))
        return;
    pthread_mutex_lock(&t->lock);
    t->on = t->fd != NO_FILE && t->skip <= WARM_STEPS;
    t->passed_over = t->fd != NO_FILE && !t->on;
    t->mine = t->generation;
    t->mine_origin_us = t->origin_us;
    pthread_mutex_unlock(&t->lock);
    proa_buf_clear(&t->events);
    t->depth = t->span_count = 0;
    t->step_us = proa_clock_us();
}

void proa_trace_step_drop(proa_trace *t)
{
    if (t != NULL)
        t->on = t->passed_over = false;
}

/* Under lock. */
static void write_step(proa_trace *t)
{
    if (t->fd == NO_FILE || t->generation != t->mine)
        return; /* stopped meanwhile */
    if (t->skip > 0) {
        t->skip--;
        return;
    }
    if (t->events.failed || !write_all(t->fd, proa_buf_text(&t->events), t->events.length)) {
        proa_log(PROA_LOG_ERROR, "trace", "%s: the trace ends after %lld steps: %s", t->path,
                 (long long)t->written, t->events.failed ? "no memory" : strerror(errno));
        if (ftruncate(t->fd, t->bytes) == 0) /* what was written of the step goes */
            (void)lseek(t->fd, t->bytes, SEEK_SET);
        (void)close_file(t); /* it was told */
        return;
    }
    t->bytes += (off_t)t->events.length;
    t->written++;
    if (--t->left == 0)
        finish_file(t);
}

void proa_trace_step_end(proa_trace *t, const char *args)
{
    if (t == NULL || (!t->on && !t->passed_over))
        return;
    if (t->on) {
        PROA_ASSERT(t->depth == 0);
        proa_trace_span(t, PROA_TRACE_HOST, "step", (double)t->step_us, (double)proa_clock_us(), args);
        for (int i = 0; i < t->span_count; i++)
            proa_trace_span(t, PROA_TRACE_HOST, t->spans[i].name, (double)t->spans[i].start_us,
                            (double)t->spans[i].end_us, NULL);
    }
    t->on = t->passed_over = false;
    pthread_mutex_lock(&t->lock);
    write_step(t);
    pthread_mutex_unlock(&t->lock);
}

void proa_trace_begin(proa_trace *t, const char *name)
{
    if (!proa_trace_on(t))
        return;
    PROA_ASSERT(t->depth < DEPTH_MAX);
    const bool room = t->span_count < SPANS_MAX;
    t->open[t->depth++] = room ? t->span_count : -1;
    if (room)
        t->spans[t->span_count++] = (host_span){.name = name, .start_us = proa_clock_us()};
}

void proa_trace_end(proa_trace *t)
{
    if (!proa_trace_on(t))
        return;
    PROA_ASSERT(t->depth > 0);
    const int at = t->open[--t->depth];
    if (at >= 0)
        t->spans[at].end_us = proa_clock_us();
}

/* Ends are rounded as beginnings are, so that neighbours stay neighbours. */
void proa_trace_span(proa_trace *t, proa_trace_track track, const char *name, double start_us, double end_us,
                     const char *args)
{
    if (!proa_trace_on(t))
        return;
    const int64_t start_ns = llround((start_us - (double)t->mine_origin_us) * 1e3),
                  end_ns = llround((end_us - (double)t->mine_origin_us) * 1e3),
                  length_ns = end_ns > start_ns ? end_ns - start_ns : 0;
    proa_buf_append_text(&t->events, ",\n{\"ph\":\"X\",\"name\":");
    proa_json_write_string(name, strlen(name), &t->events);
    proa_buf_append_format(&t->events, ",\"pid\":%d,\"tid\":%d,\"ts\":%.3f,\"dur\":%.3f", (int)getpid(),
                           (int)track + 1, (double)start_ns / 1e3, (double)length_ns / 1e3);
    if (args != NULL)
        proa_buf_append_format(&t->events, ",\"args\":{%s}", args);
    proa_buf_append_char(&t->events, '}');
}
