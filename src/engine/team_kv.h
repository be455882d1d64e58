/* team_kv.h - whether the ranks that share a leader's heads (model/team.h) are there, and which rows of its KV cache they have. Pure.
 *
 * Each member has all rows. A step writes its rows at all members. Rows that only the leader has (a peer wrote them, they were copied from another
 * block, another process has taken a follower's place) must be brought to the followers before a step reads them. So followers have
 * nothing that is not either computed with the leader or brought by it, and the leader keeps its requests and its prefix cache
 * whatever comes and goes.
 *
 *   rows of a block that followers have, from its first one
 *
 *     0 ── brought ──> 64 (all that a step can read)
 *     n ── computed, rows .. m - 1 ──> m
 *     any ── written at the leader alone; the team has changed ──> 0
 */
#ifndef PROA_ENGINE_TEAM_KV_H
#define PROA_ENGINE_TEAM_KV_H

#include "model/forward.h"

typedef struct proa_team_kv proa_team_kv;

/* NULL: out of memory. */
proa_team_kv *proa_team_kv_create(int32_t members, int32_t blocks);
void proa_team_kv_free(proa_team_kv *kv); /* accepts NULL */

/* A new view of the group: lives [members] of the processes that are in it, 0 for one that is not. Steps can be computed when the team is
 * whole. */
void proa_team_kv_view(proa_team_kv *kv, const uint64_t *lives);
bool proa_team_kv_is_whole(const proa_team_kv *kv);

/* These blocks are written at the leader alone. */
void proa_team_kv_written(proa_team_kv *kv, const int32_t *blocks, int32_t count);

/* Blocks that must be brought to the followers before the step, `most` of them at most, each once. *all: there are no more. */
int32_t proa_team_kv_missing(proa_team_kv *kv, const proa_step *step, int32_t *blocks, int32_t most,
                             bool *all);
/* They were, in a step that was completed. */
void proa_team_kv_brought(proa_team_kv *kv, const int32_t *blocks, int32_t count);
/* The step was completed at the leader; so all followers have its rows (each layer's heads come from all). */
void proa_team_kv_computed(proa_team_kv *kv, const proa_step *step);

#endif
