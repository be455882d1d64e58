/* ep_team.h - this rank among those that share its heads (model/team.h): what their leader computes, its followers compute with it.
 *
 *   leader                                        follower
 *   note of the step (team_wire.h)  ══ swap ══>   reads it
 *   blocks of the KV cache          ══ swaps ═>   writes them     those that followers have not (team_kv.h), so many a step at most;
 *   the step (forward.h)            <═ swaps ═>   the step        while more are due, the step has no rows
 *
 * The engine thread's.
 */
#ifndef PROA_ENGINE_EP_TEAM_H
#define PROA_ENGINE_EP_TEAM_H

#include "model/forward.h"
#include "net/a2a.h"

typedef struct proa_ep_team proa_ep_team;

typedef struct proa_ep_team_options {
    int32_t first; /* rank of the leader; the followers are the next ones */
    int32_t size;
    int32_t rank;
    proa_forward_limits
        limits; /* of steps; a follower's may be larger than its leader's. The forward's cache may be smaller */
    int32_t brought_max; /* blocks that a step brings to followers; 0: 16 MiB of them */
    int64_t deadline_us; /* of a swap: longer than the all-to-all's, in which the other may be */
    int64_t spin_us;
} proa_ep_team_options;

/* PROA_ERR_INVALID: the heads do not divide. */
proa_status proa_ep_team_create(const proa_ep_team_options *options, const proa_model_config *config,
                                proa_precision precision, proa_a2a *a2a, proa_ep_team **team,
                                proa_error *err);
void proa_ep_team_free(proa_ep_team *team); /* before the all-to-all; accepts NULL */

size_t proa_ep_team_bytes(const proa_ep_team *team); /* of its buffers */

/* For the forward's limits; then the forward. */
proa_team proa_ep_team_members(proa_ep_team *team);
void proa_ep_team_attach(proa_ep_team *team, proa_forward *forward);

bool proa_ep_team_leads(const proa_ep_team *team);

/* A view: leave, proa_a2a_begin, then begin with the lives [size] of the processes in it, 0 for one that is not. */
void proa_ep_team_leave(proa_ep_team *team);
void proa_ep_team_begin(proa_ep_team *team, uint64_t epoch, const uint64_t *lives);
/* All members are in the view: only then are there steps with rows. */
bool proa_ep_team_is_whole(const proa_ep_team *team);

/* As proa_forward_step; a follower's rows are its leader's, not those of `step`. *computed: false when the step had no rows since followers
 * lack blocks: to be done again. */
proa_status proa_ep_team_step(proa_ep_team *team, const proa_step *step, float **logits, bool *computed,
                              proa_error *err);

/* The leader's: the blocks are written here alone. */
void proa_ep_team_written(proa_ep_team *team, const int32_t *blocks, int32_t count);

#endif
