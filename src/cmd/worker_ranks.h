/* worker_ranks.h - what `proa worker` does so that it is several ranks: the flags of group "Ranks" as a place in the worker, the
 * parent of this node's ranks, and a rank's way to the others.
 *
 *   proa worker --tp-size 8 --nnodes 2 --node-rank 1       the parent (ranks.h)
 *     ├── proa worker --rank 4 --rank-ready-fd 5 ...        a rank: links to the others (rank_mesh.h), then the model, then serving
 *     ├── proa worker --rank 5 ...
 */
#ifndef PROA_CMD_WORKER_RANKS_H
#define PROA_CMD_WORKER_RANKS_H

#include "base/buf.h"
#include "base/option.h"
#include "cluster/wire.h"
#include "cmd/rank_mesh.h"
#include "model/rank_world.h"

/* How many ranks the command line asks for, and where they are. */
proa_rank_flags proa_worker_ranks_flags(const proa_options *options);

/* Of --rank, or of the node's first rank. */
proa_status proa_worker_ranks_world(const proa_options *options, proa_rank_world *world, proa_error *err);

/* Whether this process is to be the parent: several ranks, and no --rank. */
bool proa_worker_ranks_is_parent(const proa_options *options, const proa_rank_world *world);
/* Runs the node's ranks to their end; returns the exit status. Called before there are threads. */
int proa_worker_ranks_run(const proa_options *options, const proa_rank_world *world);

/* A rank's: opens its links. The terms are the model, the digest of the experts' `location` and the flags on which a step or an answer
 * depends. Hooks, blob and tick as
 * in mesh.h and rank_mesh.h; `security` stays until the mesh is closed. */
proa_status proa_worker_ranks_join(const proa_options *options, const proa_link_security *security,
                                   const proa_rank_world *world, uint64_t location, const proa_buf *blob,
                                   const proa_mesh_hooks *hooks, void (*tick)(void *context),
                                   proa_rank_mesh **mesh, proa_error *err);
/* The card's part about dp ranks: which worker, which rank, and --load-balance-method with SGLang's meaning of auto. */
void proa_worker_ranks_card(const proa_options *options, const proa_rank_world *world, proa_wire_card *card);
/* Tells that this rank serves: the parent, which tells the service manager when all its ranks do, or without one that manager. */
void proa_worker_ranks_tell_ready(const proa_options *options);

#endif
