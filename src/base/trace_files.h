/* trace_files.h - names of trace files: of a rank's own, and of those that were there before. Pure but for proa_trace_keep. */
#ifndef PROA_BASE_TRACE_FILES_H
#define PROA_BASE_TRACE_FILES_H

#include "base/status.h"

#include <stddef.h>

enum { PROA_TRACE_KEPT_MAX = 9 };

/* `given` with `.name` before the last dot of the file's name: trace.json and rank3 make trace.rank3.json. An empty name changes nothing. False: it
 * does not fit. */
bool proa_trace_path(const char *given, const char *name, char *path, size_t bytes);

/* A trace is about to be written to `path`: a file that is there already, of a process that has died perhaps, becomes trace.1.json; trace.1.json
 * becomes trace.2.json before, and so on to 9, whose old content is lost. What is no regular file, or empty, is left alone. */
proa_status proa_trace_keep(const char *path, proa_error *err);

#endif
