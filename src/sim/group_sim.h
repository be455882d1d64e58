/* group_sim.h - the ranks of a worker in virtual time: machines of engine/group.h and engine/rebalance.h, the links between them, an engine at each rank, and
 * what goes wrong, from one seed.
 *
 * Links keep their order and lose nothing until they break; then what is in flight is lost, and each end hears of it by itself, at
 * once or after some 2.5 s of silence. Partitions are whole, of a pair, or one way. A process crashes and is started again with the next
 * life, while messages of its last one may still come; or it stops for up to ten seconds and goes on with its old state; or its engine
 * hangs. An engine's step ends when the rows of all members of the view have arrived, so a step that a member does not run ends
 * for nobody. Work comes to ranks by chance, and with it loads of experts; plans of the coordinator (engine/rebalance.h) take
 * their time to be read in, and in some lives messages about them are lost.
 *
 * All ranks that run the same step have the same experts in every slot of every layer. After the trouble everything heals: then all
 * ranks must be in one view, all work done, and no plan left unfinished but for a step that nobody needs.
 */
#ifndef PROA_SIM_GROUP_SIM_H
#define PROA_SIM_GROUP_SIM_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

typedef enum proa_group_sim_trouble {
    PROA_GROUP_SIM_CALM, /* nothing goes wrong: one view for all */
    PROA_GROUP_SIM_CRASH, /* one process ends and comes again, all else is well: how long until the others go on? */
    PROA_GROUP_SIM_TROUBLE, /* all of the above */
} proa_group_sim_trouble;

typedef struct proa_group_sim_result {
    int32_t ranks;
    int64_t views;     /* epochs that any rank installed */
    int64_t steps;     /* (epoch, step) that all their ranks began */
    int64_t abandoned; /* by a rank */
    int64_t switches;  /* of placement within an epoch, at a rank */
    int64_t plans;     /* of a coordinator, that were carried out */
    int64_t moved;     /* layers, at a rank */
    int64_t resets;    /* a rank yielded */
    int64_t crashes, stalls, breaks, partitions, hangs;
    int64_t ghosts; /* messages of an earlier life that came to the machine */
    int64_t messages;
    int64_t step_messages; /* PROPOSE and SHAPE */
    int64_t events;
    int64_t recovery_us;  /* CRASH: from the first link that went down to the last INSTALL of a survivor */
    int64_t converged_us; /* TROUBLE: from the end of the trouble until all ranks were in one view */
    char finding[240];    /* "": nothing is wrong */
} proa_group_sim_result;

/* Runs the life of `seed`; the same seed gives the same life. `ranks` 0: by chance, 2 to 16. `log` (may be NULL): a line for each event
 * that matters. */
void proa_group_sim_run(uint64_t seed, proa_group_sim_trouble trouble, int32_t ranks, FILE *log,
                        proa_group_sim_result *result);

#endif
