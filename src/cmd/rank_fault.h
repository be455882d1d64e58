/* rank_fault.h - for tests of what happens when a rank dies: ends, stops or hangs this process at a chosen point of a step.
 *
 * The file of the hidden flag --fault-file holds one line, "ORDER RANK STAGE COUNT ACTION", and is replaced as a whole. A rank that finds a
 * larger ORDER than before with its own number does ACTION when it passes STAGE for the COUNT-th time from then on:
 *
 *   STAGE   dispatch receive put give-back collect       before that call of the all-to-all (model/exchange.h)
 *           propose shape ask report view status join    before that message is sent (engine/group.h)
 *   ACTION  kill stop                                    SIGKILL, SIGSTOP to itself
 *           hang spin                                    the thread sleeps, or computes, for ever
 *
 * What is in the file when the process starts is of an earlier life. Without the flag nothing of this is in the way of a step.
 *
 * tick is the control thread's; the other calls come from where the step and the group are.
 */
#ifndef PROA_CMD_RANK_FAULT_H
#define PROA_CMD_RANK_FAULT_H

#include "engine/group.h"
#include "model/exchange.h"

typedef struct proa_rank_fault proa_rank_fault;

proa_rank_fault *proa_rank_fault_create(const char *path, int32_t rank); /* NULL when memory is out */
void proa_rank_fault_free(proa_rank_fault *fault);                       /* accepts NULL */

/* The exchange with a look at the order before each call. */
proa_exchange proa_rank_fault_wrap(proa_rank_fault *fault, const proa_exchange *exchange);
void proa_rank_fault_message(proa_rank_fault *fault, proa_group_kind kind);
void proa_rank_fault_tick(proa_rank_fault *fault);

/* Where "hang" and "spin" are, so that stacks have their names. */
_Noreturn void proa_rank_fault_hang(void);
_Noreturn void proa_rank_fault_spin(void);

#endif
