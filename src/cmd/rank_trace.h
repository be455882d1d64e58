/* rank_trace.h - the trace of a rank: --trace, --trace-start-step and --trace-steps. */
#ifndef PROA_CMD_RANK_TRACE_H
#define PROA_CMD_RANK_TRACE_H

#include "base/trace.h"
#include "cmd/rank.h"

/* A recorder, with a file where --trace names one. Ranks and roles have files of their own: trace.json is trace.rank3.json for rank 3 of several,
 * trace.prefill0.json for a role (proa_rank_use.name). A file that is there already is kept under another name (proa_trace_keep): a rank that is
 * started again after its death does not overwrite what led to it. */
proa_status proa_rank_trace_open(const proa_options *options, const proa_rank_use *use, proa_trace **trace,
                                 proa_error *err);

#endif
