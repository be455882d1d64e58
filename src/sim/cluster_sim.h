/* cluster_sim.h - a whole cluster in virtual time: frontends, prefill and decode workers, the network between them, and what goes
 * wrong, from one seed.
 *
 * What decides is the program's own: router.h and call_plan.h at the frontends, room.h at the workers. Around them stand small
 * models of the shells (links, sessions, sinks) and of the engines: blocks with generations, KV rows that are real words in
 * memory, a next token that is a hash of all rows read. So a block that is lost, stale, foreign or written to by a peer that
 * should have been quiet changes tokens, and the oracle, which knows tokens alone, sees it.
 *
 * The network delays everything. Request links keep their order (TCP); messages of rooms are also lost, repeated and reordered, more
 * than any link would. Links break, seen by both ends or by silence alone; processes crash, restart with an empty memory under a new
 * epoch, or stall and go on as if nothing had happened, with writes still in their hands.
 *
 * After the trouble everything heals, and all that was begun must end.
 */
#ifndef PROA_SIM_CLUSTER_SIM_H
#define PROA_SIM_CLUSTER_SIM_H

#include <stdbool.h>
#include <stdint.h>

typedef struct proa_cluster_sim_result {
    int32_t calls;
    int32_t clean;     /* ended with all their tokens */
    int32_t cancelled; /* by the client */
    int32_t failed;    /* ended with an error */
    int32_t replays;
    int32_t crashes;
    int32_t stalls;
    int32_t breaks;
    int64_t events;
    int64_t virtual_us;
    int32_t late_writes; /* rows that a stalled worker wrote after its room had been given up there */
    char finding[200];   /* "": nothing is wrong. Else what, with the call or worker */
} proa_cluster_sim_result;

/* Runs the life of `seed`; `trouble` false: nothing goes wrong, and nothing may fail. The same seed gives the same life. */
void proa_cluster_sim_run(uint64_t seed, bool trouble, proa_cluster_sim_result *result);

#endif
