/* ranks.h - the parent of a node's ranks: starts one process a rank, keeps them running, ends them.
 *
 *            start            says that it is ready
 *   WAITS ──────────> RUNS ──────────────────────> RUNS, ready
 *     ^                 │                             │
 *     └─ 1 s, 2 s, ... ─┴─────── ends by itself ──────┘         with restart, and not while stopping
 *                       └──────────────────────────────> ENDED  without, or while stopping
 *
 * A child is this program again, with the same words and "--rank N --rank-ready-fd M" after the first ones. It writes one byte into M when
 * it is ready. It has an even share of the cores that the parent may use, so long as there is one for each; otherwise none is bound, and
 * children are told `crowded_word`.
 *
 * A child that ends with a status before it was ever ready says that it cannot: the others are stopped, and that is the worker's
 * end. All other ends are accidents: the others go on, and with `restart` the rank is started again, after a second, which doubles up to
 * half a minute while it dies soon.
 *
 * Signals: SIGTERM and SIGINT go to all children, which have shutdown_s and GRACE_S for it; who is then still there is killed. A
 * second signal goes to them too and leaves GRACE_S. Children are process groups of their own, so that a terminal's ^C reaches them once;
 * they are killed when the parent dies, whatever it dies of (PR_SET_PDEATHSIG). No way out of proa_ranks_run leaves a child behind.
 *
 * For the main thread of a process that has no other one and no other children.
 */
#ifndef PROA_CMD_RANKS_H
#define PROA_CMD_RANKS_H

#include "base/status.h"

enum { PROA_RANKS_GRACE_S = 5 };

typedef struct proa_ranks_options {
    int first;                 /* rank of the first child */
    int count;                 /* children, 1 or more */
    const char *name;          /* the children's argv[0] */
    char *const *words;        /* of the command line behind it, NULL after the last; borrowed */
    int words_before;          /* of them stand before --rank */
    const char *more_words[4]; /* behind --rank and its like; unused ones are NULL */
    const char *crowded_word;  /* "--threads=1"; NULL: none */
    bool restart;
    double shutdown_s;
    double backoff_s;             /* the first; 0: 1 s */
    void (*ready)(void *context); /* once: all children are */
    void *context;
} proa_ranks_options;

/* Returns when no child is left. *exit_status is 0 when all that ended for good ended well, else the status of the first one
 * that did not (128 + its number for a signal). Fails when the children cannot be started. */
proa_status proa_ranks_run(const proa_ranks_options *options, int *exit_status, proa_error *err);

#endif
