/* rank_record.h - the record of what experts had to do, of all ranks of a worker: started, stopped and dumped as by SGLang's endpoints.
 *
 *   frontend ── dump ──> each rank: takes what it has counted ──> rank 0: adds, writes one file, once all are in or COLLECT_US after the first
 *
 * The file is expert_distribution_recorder_TIME.json with {"logical_count": [layers][experts]}, what `proa eplb --expert-load` and
 * --init-expert-location read. A rank that is down then, or whose part comes late, is not in it; the log says of how many ranks it is.
 *
 * act: any thread; receive and tick: the mesh's.
 */
#ifndef PROA_CMD_RANK_RECORD_H
#define PROA_CMD_RANK_RECORD_H

#include "base/option.h"
#include "cluster/worker.h"
#include "engine/ep_group.h"
#include "model/rank_world.h"

typedef struct proa_rank_record proa_rank_record;

typedef struct proa_rank_record_hooks {
    void (*send)(void *context, const proa_buf *body); /* to rank 0 */
    void *context;
} proa_rank_record_hooks;

/* At rank 0, before anything is started, whether the folder is there to write into: after a record is too late. */
proa_status proa_rank_record_check(const proa_options *options, const proa_rank_world *world,
                                   proa_error *err);

/* NULL: out of memory. */
proa_rank_record *proa_rank_record_create(const proa_options *options, const proa_rank_world *world,
                                          const proa_model_config *config,
                                          const proa_rank_record_hooks *hooks);
void proa_rank_record_free(proa_rank_record *record); /* accepts NULL */

void proa_rank_record_act(proa_rank_record *record, proa_ep_group *ep, proa_wire_record action);
/* Of another rank, at rank 0. */
void proa_rank_record_receive(proa_rank_record *record, int rank, const uint8_t *body, size_t length,
                              proa_error *err);
void proa_rank_record_tick(proa_rank_record *record);

#endif
