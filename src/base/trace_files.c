/* trace_files.c - see trace_files.h. */
#include "base/trace_files.h"

#include "base/log.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

bool proa_trace_path(const char *given, const char *name, char *path, size_t bytes)
{
    const char *slash = strrchr(given, '/'), *file = slash != NULL ? slash + 1 : given,
               *dot = strrchr(file, '.');
    const size_t stem = dot != NULL && dot > file ? (size_t)(dot - given) : strlen(given);
    const int n = name[0] == 0 ? snprintf(path, bytes, "%s", given)
                               : snprintf(path, bytes, "%.*s.%s%s", (int)stem, given, name, given + stem);
    return n >= 0 && (size_t)n < bytes;
}

static proa_status keep_as(const char *from, const char *to, proa_error *err)
{
    if (rename(from, to) == 0 || errno == ENOENT) /* nothing was there */
        return PROA_OK;
    return proa_error_set(err, PROA_ERR_IO, "%s: the trace that is there cannot be kept as %s: %s", from, to,
                          strerror(errno));
}

proa_status proa_trace_keep(const char *path, proa_error *err)
{
    struct stat st;
    char number[8], from[PATH_MAX], to[PATH_MAX];
    if (lstat(path, &st) != 0 || !S_ISREG(st.st_mode) || st.st_size == 0)
        return PROA_OK;
    proa_status status = PROA_OK;
    for (int i = PROA_TRACE_KEPT_MAX; i >= 1 && status == PROA_OK; i--) {
        snprintf(number, sizeof number, "%d", i);
        bool fits = proa_trace_path(path, number, to, sizeof to);
        snprintf(number, sizeof number, "%d", i - 1);
        if (!fits || !proa_trace_path(path, i > 1 ? number : "", from, sizeof from))
            return proa_error_set(err, PROA_ERR_TOO_LONG, "the trace's path is longer than %d bytes",
                                  PATH_MAX - 1);
        status = keep_as(from, to, err);
    }
    if (status == PROA_OK)
        proa_log(PROA_LOG_INFO, "trace", "the file that was %s is kept as %s", path, to);
    return status;
}
