/* rank_trace.h - the trace of a rank: --trace, --trace-start-step and --trace-steps. */
#ifndef PROA_CMD_RANK_TRACE_H
#define PROA_CMD_RANK_TRACE_H

#include "base/trace.h"
#include "cmd/rank.h"

/* A recorder, with a file where --trace names one. Ranks and roles have files of their own: trace.json is trace.rank3.json for rank 3 of several,
 * trace.prefill0.json for a role (proa_rank_use.name). */
proa_status proa_rank_trace_open(const proa_options *options, const proa_rank_use *use, proa_trace **trace,
                                 proa_error *err);

#endif
