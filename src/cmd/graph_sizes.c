/* graph_sizes.c - see graph_sizes.h. */
#include "cmd/graph_sizes.h"

#include <stdlib.h>
#include <string.h>

enum { MOST_DEFAULT = 256, MOST_ROWS = 65536, FINE = 8, COARSE = 64 };

static proa_status add(int32_t value, int32_t *rows, int32_t *count, proa_error *err)
{
    int32_t at = *count;
    while (at > 0 && rows[at - 1] >= value)
        at--;
    if (at < *count && rows[at] == value)
        return PROA_OK;
    if (*count == PROA_GRAPH_SIZES_MAX)
        return proa_error_set(err, PROA_ERR_INVALID, "--cuda-graph-bs: more than %d sizes",
                              PROA_GRAPH_SIZES_MAX);
    memmove(rows + at + 1, rows + at, sizeof *rows * (size_t)(*count - at));
    rows[at] = value;
    ++*count;
    return PROA_OK;
}

static proa_status parse(const char *list, int32_t *rows, int32_t *count, proa_error *err)
{
    const char *at = list;
    proa_status status = PROA_OK;
    while (status == PROA_OK && *(at += strspn(at, ", ")) != 0) {
        char *end;
        const long value = strtol(at, &end, 10);
        if (end == at || (*end != 0 && strchr(", ", *end) == NULL) || value < 1 || value > MOST_ROWS)
            return proa_error_set(
                err, PROA_ERR_INVALID,
                "--cuda-graph-bs \"%s\": numbers of 1 to %d, between commas, are needed, as in 1,8,128", list,
                MOST_ROWS);
        status = add((int32_t)value, rows, count, err);
        at = end;
    }
    if (status == PROA_OK && *count == 0)
        return proa_error_set(err, PROA_ERR_INVALID,
                              "--cuda-graph-bs is empty: name batch sizes, as in 1,8,128");
    return status;
}

static int32_t next(int32_t rows)
{
    return rows < FINE ? 2 * rows : rows < MOST_DEFAULT ? rows + FINE : rows + COARSE;
}

proa_status proa_graph_sizes(const char *list, int32_t most, int32_t running_max, int32_t *rows,
                             int32_t *count, proa_error *err)
{
    const int32_t last = most > 0 ? most : MOST_DEFAULT;
    *count = 0;
    if (list != NULL)
        return parse(list, rows, count, err);
    for (int32_t size = 1; *count < PROA_GRAPH_SIZES_MAX - 1; size = next(size)) {
        const int32_t capped = size < last ? size : last;
        rows[(*count)++] = capped;
        if (capped == last || capped >= running_max)
            return PROA_OK;
    }
    rows[(*count)++] = last < running_max ? last : running_max;
    return PROA_OK;
}

proa_status proa_graph_sizes_asked(const proa_options *o, int32_t running_max, int32_t *rows, int32_t *count,
                                   proa_error *err)
{
    const int32_t most =
        proa_options_given(o, "cuda-graph-max-bs") ? (int32_t)proa_options_int(o, "cuda-graph-max-bs") : 0;
    *count = 0;
    if (proa_options_bool(o, "disable-cuda-graph"))
        return PROA_OK;
    return proa_graph_sizes(proa_options_string(o, "cuda-graph-bs"), most, running_max, rows, count, err);
}
