/* trace.h - what an engine's steps are made of, as a file of Chrome's trace events: Perfetto (ui.perfetto.dev) and chrome://tracing open it.
 *
 * Spans lie on tracks: what the engine's thread does, and what the GPU's two streams do. They nest and do not overlap on a track. Times are
 * microseconds of CLOCK_MONOTONIC. A trace begins with a step and has a number of them; then its file is closed, and a line of the
 * log says so. Each step is written whole when it is over, so that a process that dies leaves a file that opens: only the list's closing
 * bracket is missing, which the format allows.
 *
 * A recorder lives as long as its engine, whether it has a file or not: without one a step costs a load and a branch or two. One owner thread,
 * the engine's; start and stop are any thread's.
 */
#ifndef PROA_BASE_TRACE_H
#define PROA_BASE_TRACE_H

#include "base/status.h"

#include <stdint.h>

typedef struct proa_trace proa_trace;

typedef enum proa_trace_track {
    PROA_TRACE_HOST,
    PROA_TRACE_GPU,        /* its first stream */
    PROA_TRACE_GPU_BESIDE, /* its second one */
    PROA_TRACE_TRACKS,
} proa_trace_track;

/* `process` names it in the file. */
proa_status proa_trace_create(const char *process, proa_trace **trace, proa_error *err);
void proa_trace_free(proa_trace *trace); /* accepts NULL; closes the file */

/* Any thread. Writes `steps` steps to a new file, after `skip` others: of these the last two are recorded too and thrown away, so that what is
 * made for a recording is there, and the ones before are as if there were none. PROA_BUSY: a file is open already; the error has its name. */
proa_status proa_trace_start(proa_trace *trace, const char *path, int64_t skip, int64_t steps,
                             proa_error *err);
/* Any thread. The file is closed; the step that runs is not in it. PROA_BUSY: there is none. PROA_ERR_IO: it is closed, without its end. */
proa_status proa_trace_stop(proa_trace *trace, proa_error *err);

/* ---- the owner's; a trace that is NULL records nothing ---- */

/* A step begins, or what may become one; it is noted where `end` says that it was one. `args` is what stands between the braces of a JSON
 * object, about the step. */
void proa_trace_step_begin(proa_trace *trace);
void proa_trace_step_end(proa_trace *trace, const char *args);
void proa_trace_step_drop(proa_trace *trace);

/* Is the step at hand recorded? */
bool proa_trace_on(const proa_trace *trace);

/* What the owner's thread does, nested at most 8 deep; all has ended before the step does. `name` must live until then. Of a step's spans the
 * first 256 are noted. */
void proa_trace_begin(proa_trace *trace, const char *name);
void proa_trace_end(proa_trace *trace);

/* What was done elsewhere, or is over. Of spans that begin at the same time the outer one comes first. `args` as above, or NULL. */
void proa_trace_span(proa_trace *trace, proa_trace_track track, const char *name, double start_us,
                     double end_us, const char *args);

#endif
