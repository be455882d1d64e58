/* rank_group.h - a rank's part in the group that shares the experts (engine/ep_group.h), over its links to the other ranks (rank_mesh.h).
 *
 * Created before the rank's forward, joined when its engine runs. One thread calls these functions.
 */
#ifndef PROA_CMD_RANK_GROUP_H
#define PROA_CMD_RANK_GROUP_H

#include "base/option.h"
#include "cluster/wire.h"
#include "engine/engine.h"
#include "engine/ep_group.h"
#include "model/rank_world.h"
#include "net/link.h"

typedef struct proa_rank_group proa_rank_group;

/* --chunked-prefill-size of the rank, but in the low-latency mode no more than what a step can have beside the tokens of `running` requests:
 * SGLang's command lines for decode workers give both as if they had a step each. Answers do not depend on it. When not even one prompt token has
 * room, it stays, and creating the group fails. */
int32_t proa_rank_group_chunk(const proa_options *options, const proa_rank_world *world, int32_t running);

/* Reads the flags of group "Ranks". `limits`: of steps of the engine; its KV cache may become smaller. */
proa_status proa_rank_group_create(const proa_options *options, const proa_rank_world *world,
                                   const proa_model_config *config, proa_precision precision,
                                   const proa_forward_limits *limits, proa_rank_group **group,
                                   proa_error *err);
/* With --expert-distribution-recorder-mode; then a worker's `record`, with the group as context. */
bool proa_rank_group_records(const proa_rank_group *group);
void proa_rank_group_record(void *group, proa_wire_record action);
proa_ep_group *proa_rank_group_ep(proa_rank_group *group);
proa_exchange proa_rank_group_exchange(proa_rank_group *group); /* for the forward; once */
void proa_rank_group_set_engine(proa_rank_group *group, proa_engine *engine);

/* Opens the links; `security` stays until the group is closed. */
proa_status proa_rank_group_join(proa_rank_group *group, const proa_link_security *security, proa_error *err);
/* PROA_OK: all ranks were linked, and this one has made a step with those that live. PROA_BUSY: not within `seconds`. Otherwise the links
 * have failed, which may happen later too. */
proa_status proa_rank_group_wait(proa_rank_group *group, double seconds, proa_error *err);

/* This rank is told to end: it takes nothing new; then, it has no requests any more. The others hear of it. */
void proa_rank_group_drain(proa_rank_group *group);
void proa_rank_group_drained(proa_rank_group *group);
/* The others have no use for it either (rank_leave.h). */
bool proa_rank_group_may_go(const proa_rank_group *group);

void proa_rank_group_stop(proa_rank_group *group);  /* before the engine; accepts NULL */
void proa_rank_group_close(proa_rank_group *group); /* after engine and forward; accepts NULL */

#endif
