/* rank.h - one rank of a worker from the command line: checkpoint, memory plan, layer graph and engine; or, with
 * `--load-format proof`, the model that proves the cache (engine/proof.h).
 */
#ifndef PROA_CMD_RANK_H
#define PROA_CMD_RANK_H

#include "cmd/load.h"
#include "cluster/worker.h"
#include "cmd/rank_group.h"
#include "engine/engine.h"
#include "engine/proof.h"
#include "model/rank_world.h"

typedef struct proa_rank {
    proa_loaded loaded;
    proa_forward *forward; /* NULL with proof */
    proa_proof *proof;     /* NULL without */
    proa_engine *engine;
    proa_trace *trace;
    proa_rank_group *group; /* NULL: the only rank */
    proa_kv_layout layout;
    proa_precision precision;
    proa_dtype kv_dtype;    /* of the KV cache */
    int32_t context_length; /* prompt and output of a request, as far as memory allows */
    int32_t kv_tokens;
    int32_t running_max;
    int32_t queued_max;
} proa_rank;

/* What the engine is for; {0}: a combined one without listeners. */
typedef struct proa_rank_use {
    proa_engine_role role;
    proa_kv_event_hook kv_event;
    void *kv_event_context;
    double memory_share;          /* of --mem-fraction-static that this rank may take; 0 counts as 1 */
    const proa_rank_world *world; /* NULL: the only rank */
    const char *name; /* where one process has several: for files of their own; NULL: the only one */
} proa_rank_use;

/* Reads the flags of groups "Model", "Device" and "Memory and scheduling"; logs what takes how much memory. */
proa_status proa_rank_open(const proa_options *options, const proa_rank_use *use, proa_rank *rank,
                           proa_error *err);
/* Fills all of a worker's model but the card's part that proa_worker_describe_model knows. Borrows from the rank. */
void proa_rank_describe(const proa_rank *rank, proa_worker_model *model);
void proa_rank_stop(proa_rank *rank);  /* the engine; its last callbacks come before this returns */
void proa_rank_close(proa_rank *rank); /* everything; accepts a half-built one */

#endif
