/* rank_leave.h - when a rank that is told to end may go: not before the others have no use for it.
 *
 * All ranks of a worker are told to end at about the same time. One without requests is drained at once, but the requests of another need
 * its experts: so each rank says that it drains, and when it is drained, and goes when all that drain are drained.
 *
 *   serves ──SIGTERM──> DRAINS ──no requests are left──> DRAINED ──all peers are gone or DRAINED──> it goes
 *                                                           └──the rest serves on, 1 s after the signal──> it goes, they go on without it
 *
 * A peer that serves on may not have got its signal yet; PROA_RANK_LEAVE_SETTLE_US is the time for that. --shutdown-timeout bounds all.
 *
 * note is one thread's, may_go any one's.
 */
#ifndef PROA_CMD_RANK_LEAVE_H
#define PROA_CMD_RANK_LEAVE_H

#include <stdbool.h>
#include <stdint.h>

enum { PROA_RANK_LEAVE_SETTLE_US = 1000000 };

typedef enum proa_rank_standing {
    PROA_RANK_GONE, /* no link */
    PROA_RANK_SERVES,
    PROA_RANK_DRAINS,
    PROA_RANK_DRAINED,
    PROA_RANK_STANDINGS,
} proa_rank_standing;

typedef struct proa_rank_leave proa_rank_leave;

proa_rank_leave *proa_rank_leave_create(int32_t ranks); /* all GONE; NULL when memory is out */
void proa_rank_leave_free(proa_rank_leave *leave);      /* accepts NULL */

void proa_rank_leave_note(proa_rank_leave *leave, int32_t peer, proa_rank_standing standing);
/* For a rank that is drained, so long after its signal. */
bool proa_rank_leave_may_go(const proa_rank_leave *leave, int64_t since_signal_us);

#endif
