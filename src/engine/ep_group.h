/* ep_group.h - this rank among those that share its experts: runs the machine of group.h, and steps that cross ranks.
 *
 *   control thread                      proa_ep_group                          engine thread
 *   links, messages, time ── events ──> group ── BEGIN ──> step, idle <── what to compute
 *   other ranks  <────────── SEND ──────┘  └─ INSTALL ──> all-to-all, placement of the view
 *
 * A step of the engine (proa_ep_group_step) is done again, unseen by it, when the group changes under it: its content is this rank's
 * own, and what it has written to the KV cache is written once more with the same values. A rank without work takes part by
 * proa_ep_group_idle. Experts whose ranks are gone are taken over by those that are left (expert placement of a view): every rank
 * holds the whole checkpoint mapped, so that taking over means to read its pages.
 *
 * With `rebalance`, experts move between ranks while steps go on (rebalance.h); what rows choose is counted for it, once, when
 * their step has ended well.
 *
 * Threads: step and idle are the engine thread's; peer_up, peer_down, receive, receive_rebalance and tick one
 * other's; the rest says. A lock
 * lies between; `send` is called under it, from either.
 */
#ifndef PROA_ENGINE_EP_GROUP_H
#define PROA_ENGINE_EP_GROUP_H

#include "engine/eplb.h"
#include "engine/expert_location.h"
#include "engine/group.h"
#include "engine/rebalance.h"
#include "model/forward.h"
#include "net/a2a.h"

typedef struct proa_ep_group proa_ep_group;

typedef enum proa_ep_group_dispatch {
    PROA_EP_DISPATCH_STATIC,  /* a fixed copy for each (rank, expert), nearest first */
    PROA_EP_DISPATCH_DYNAMIC, /* another copy for each token */
    PROA_EP_DISPATCH_FAKE, /* experts in turn, whatever the router says: loads are even, and results mean nothing */
} proa_ep_group_dispatch;

typedef struct proa_ep_group_hooks {
    /* To one rank, whose link is up; the message is lent. Must not wait. */
    void (*send)(void *context, int32_t rank, const proa_group_message *message);
    /* Likewise, to each rank of `to` whose link is up; may be lost. Needed with options.rebalance. */
    void (*send_rebalance)(void *context, const proa_group_mask *to, const proa_rebalance_message *message);
    /* There is something for proa_ep_group_idle: wake the engine thread. Called without lock or with it; must not wait. */
    void (*nudge)(void *context);
    /* This process must end: its engine thread hangs, a step that was abandoned has not ended, or its memory is still written to. `why` also
     * says which step, epoch, layer and window that is, and which ranks it waits for. Called with the lock. */
    void (*stuck)(void *context, const char *why);
    void *context;
} proa_ep_group_hooks;

/* As in rebalance.h. */
typedef struct proa_ep_group_rebalance {
    int32_t iterations; /* 0: never */
    int32_t window;
    int32_t layers_per_chunk;
    double threshold;
} proa_ep_group_rebalance;

typedef struct proa_ep_group_options {
    int32_t ranks;
    int32_t rank;
    int32_t nodes;             /* ranks of a node are consecutive */
    uint64_t life;             /* of this process: no other of this rank has it; not 0 */
    int32_t redundant_experts; /* physical experts beyond the model's, over all ranks */
    proa_eplb_algorithm algorithm;
    proa_ep_group_dispatch dispatch;
    proa_ep_group_rebalance rebalance;
    /* Where experts are when a view begins: fitted to all layers, redundant_experts and ranks; borrowed until create returns. NULL: the
     * trivial one. On ranks that live alone, what is left of a placement, where that has all experts of a layer. */
    const proa_expert_location *location;
    bool record;            /* proa_ep_group_record may be called */
    bool two_batch_overlap; /* the exchange has a lane for each of two halves of a step */
    int32_t rows_max;       /* of a window of one rank */
    int32_t
        team_size; /* ranks that share the heads of the same requests (model/team.h): rank / team_size is their team; 0 counts as 1 */
    int32_t
        team_brought_max; /* blocks of the KV cache that a step brings to others of the team; 0: 16 MiB of them */
    proa_forward_limits step_limits; /* with a team_size over 1: of steps */
    /* Of an all-to-all's wait for a rank whose process lives, and of the group's for the engine thread: more than a layer takes
     * at a loaded rank; 0: 3 s. */
    int64_t deadline_us;
    int64_t formation_us; /* how long the first view waits for all ranks; 0: 600 s */
    int64_t agreement_us; /* how long a step waits to be agreed, before its requests end; 0: 30 s */
    /* How long a rank that is outside of the group, or has left it, waits to be taken in before its requests end; after half of that it is
     * away. 0: 3 s */
    int64_t outside_us;
    int64_t spin_us;    /* see a2a.h */
    proa_post_hub *hub; /* ranks are threads of this process; NULL: UCX */
    proa_ep_group_hooks hooks;
} proa_ep_group_options;

/* Experts must divide: experts + redundant_experts a multiple of ranks (PROA_ERR_INVALID says which numbers would do). */
proa_status proa_ep_group_create(const proa_ep_group_options *options, const proa_model_config *config,
                                 proa_precision precision, proa_ep_group **ranks, proa_error *err);
void proa_ep_group_free(proa_ep_group *ranks); /* accepts NULL; after engine and forward */

/* For the forward's limits, before it is made; then the forward, before the engine starts. */
proa_exchange proa_ep_group_exchange(proa_ep_group *ranks);
size_t proa_ep_group_exchange_bytes(const proa_ep_group *ranks); /* that its buffers take */
/* The same of the ranks that share the heads; false: there are none. */
bool proa_ep_group_team(const proa_ep_group *ranks, proa_team *team);
void proa_ep_group_attach(proa_ep_group *ranks, proa_forward *forward, int32_t step_rows_max);

/* What messages of rebalance.h are about. */
proa_expert_shape proa_ep_group_expert_shape(const proa_ep_group *ranks);

proa_forward *proa_ep_group_forward(const proa_ep_group *ranks);

/* What peers need to reach this rank's all-to-all: the blob of proa_ep_group_peer_up there. */
const void *proa_ep_group_address(const proa_ep_group *ranks, size_t *bytes);

/* ---- control thread ---- */

void proa_ep_group_peer_up(proa_ep_group *ranks, int32_t peer, uint64_t life, const void *address,
                           size_t bytes);
void proa_ep_group_peer_down(proa_ep_group *ranks, int32_t peer, uint64_t life);
void proa_ep_group_receive(proa_ep_group *ranks, const proa_group_message *message);
void proa_ep_group_receive_rebalance(proa_ep_group *ranks, const proa_rebalance_message *message);
void proa_ep_group_tick(proa_ep_group *ranks); /* every 20 ms or so */

/* ---- engine thread ---- */

/* As proa_forward_step; waits until the ranks have agreed on a step. PROA_ERR_DEADLINE: none was agreed in time, this rank is not in the
 * group, or one that shares its heads is not: the requests of this step may be tried elsewhere. PROA_ERR_CANCELLED: proa_ep_group_stop. */
proa_status proa_ep_group_step(proa_ep_group *ranks, const proa_step *step, float **logits, proa_error *err);
/* As proa_forward_kv_copy, before that step. */
proa_status proa_ep_group_kv_copy(proa_ep_group *ranks, const proa_kv_copy *copies, int32_t count,
                                  proa_error *err);
/* These blocks are written by a peer, at this rank alone. */
void proa_ep_group_kv_written(proa_ep_group *ranks, const int32_t *blocks, int32_t count);
/* This rank has nothing to compute: takes part in a step if others have, or installs a view. False: there was nothing to do. */
bool proa_ep_group_idle(proa_ep_group *ranks);

/* ---- any thread ---- */

/* Counts anew from now on what this rank's rows choose, or counts no more. With options.record alone. */
void proa_ep_group_record(proa_ep_group *ranks, bool on);
/* What was counted, [layers, experts], which is forgotten here. */
void proa_ep_group_take_record(proa_ep_group *ranks, uint64_t *counts);

/* Outside of the group for a while, or without a rank that shares its heads: frontends should look elsewhere. */
bool proa_ep_group_is_away(const proa_ep_group *ranks);

/* Waits of the engine thread end; no hook is called any more. */
void proa_ep_group_stop(proa_ep_group *ranks);

typedef struct proa_ep_group_stats {
    uint64_t steps;      /* completed, idle ones included */
    uint64_t idle_steps; /* without rows here */
    uint64_t abandoned;
    uint64_t views;    /* installed */
    int32_t live;      /* members of the view; 0: this rank is outside */
    uint64_t agree_us; /* in waits for a step to be agreed on */
    int64_t
        recovery_us; /* of the last view after a loss: from the first sign here to the first step completed; 0: none */
    uint64_t messages; /* of the group and of rebalance.h, sent */
    uint32_t version;  /* of the placement, in this view; 0: experts do not move */
    uint64_t layers_moved;
    uint64_t experts_read;
    uint64_t rebalances; /* plans in force; at the coordinator of the view alone, as is: */
    double utilisation; /* by the last loads: mean load of a rank over that of the fullest; 0: not measured */
    proa_a2a_stats a2a; /* as of the last step */
} proa_ep_group_stats;
void proa_ep_group_get_stats(proa_ep_group *ranks, proa_ep_group_stats *stats);

#endif
