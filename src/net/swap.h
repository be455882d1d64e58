/* swap.h - swaps among the ranks of a team (model/team.h), by messages on the post of an all-to-all: its waits make progress with these, and
 * these with its.
 *
 * Each message names epoch and turn, a count of swaps since the epoch began, the same at all members. Since each member has heard of all in
 * each turn, none is more than one ahead: two regions for each member, by the turn's lowest bit, hold all that can come.
 *
 * Nothing is allocated after creation. One owner thread, that of the all-to-all, whose abandon ends these waits too.
 */
#ifndef PROA_NET_SWAP_H
#define PROA_NET_SWAP_H

#include "model/team.h"
#include "net/a2a.h"

typedef struct proa_swap proa_swap;

typedef struct proa_swap_options {
    int32_t first; /* rank of the team's first member; the others follow */
    int32_t size;  /* 2 .. PROA_TEAM_MAX */
    int32_t rank;
    proa_team_bytes bytes;
    int64_t deadline_us; /* as of the all-to-all; 0: 3 s */
    int64_t spin_us;
} proa_swap_options;

proa_status proa_swap_create(const proa_swap_options *options, proa_a2a *a2a, proa_swap **swap,
                             proa_error *err);
void proa_swap_free(proa_swap *swap); /* before the all-to-all; accepts NULL */

size_t proa_swap_bytes(const proa_swap *swap); /* of its buffers */

/* A swap that fails blames the members that were missing, as proa_a2a_suspects says. */
proa_team proa_swap_team(proa_swap *swap);
/* What this member has sent makes no sense. */
void proa_swap_blame(proa_swap *swap, int32_t member);

/* Nothing is taken any more, until the next begin. Before proa_a2a_begin, which waits for what is under way. */
void proa_swap_leave(proa_swap *swap);
/* All members take part, from turn 0 of this epoch; after proa_a2a_begin. */
void proa_swap_begin(proa_swap *swap, uint64_t epoch);

#endif
