/* graph_sizes.h - batch sizes that have a CUDA graph of their own: --cuda-graph-bs, --cuda-graph-max-bs, --disable-cuda-graph. */
#ifndef PROA_CMD_GRAPH_SIZES_H
#define PROA_CMD_GRAPH_SIZES_H

#include "base/option.h"

#include <stdint.h>

enum { PROA_GRAPH_SIZES_MAX = 64 };

/* Fills rows [PROA_GRAPH_SIZES_MAX], ascending; returns how many in *count. `list` (may be NULL): numbers between commas or spaces, each once
 * at least 1. Without one: 1, 2, 4, 8, then steps of 8 to 256 and of 64 beyond, to `most` (0: 256), and no further than `running_max` needs. */
proa_status proa_graph_sizes(const char *list, int32_t most, int32_t running_max, int32_t *rows,
                             int32_t *count, proa_error *err);

/* The same by the command line's flags; none with --disable-cuda-graph. */
proa_status proa_graph_sizes_asked(const proa_options *options, int32_t running_max, int32_t *rows,
                                   int32_t *count, proa_error *err);

#endif
