/* rank_trace.c - see rank_trace.h. */
#include "cmd/rank_trace.h"

#include "base/trace_files.h"

#include <stdio.h>

enum { NAME_BYTES = 32, PATH_BYTES = 4096 };

/* Which of several ranks or roles it is; "": the only one. */
static void name_of(const proa_rank_use *use, char name[NAME_BYTES])
{
    name[0] = 0;
    if (use->world != NULL && use->world->world > 1)
        snprintf(name, NAME_BYTES, "rank%d", use->world->rank);
    else if (use->name != NULL)
        snprintf(name, NAME_BYTES, "%s", use->name);
}

proa_status proa_rank_trace_open(const proa_options *o, const proa_rank_use *use, proa_trace **trace,
                                 proa_error *err)
{
    const char *given = proa_options_string(o, "trace");
    char name[NAME_BYTES], process[NAME_BYTES + 8], path[PATH_BYTES];
    name_of(use, name);
    snprintf(process, sizeof process, "proa%s%s", name[0] != 0 ? " " : "", name);
    proa_status status = proa_trace_create(process, trace, err);
    if (status != PROA_OK || given == NULL)
        return status;
    if (!proa_trace_path(given, name, path, sizeof path))
        return proa_error_set(err, PROA_ERR_TOO_LONG, "--trace: the path is longer than %d bytes",
                              PATH_BYTES - 1);
    status = proa_trace_keep(path, err);
    return status != PROA_OK ? status
                             : proa_trace_start(*trace, path, proa_options_int(o, "trace-start-step"),
                                                proa_options_int(o, "trace-steps"), err);
}
