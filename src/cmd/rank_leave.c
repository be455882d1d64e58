/* rank_leave.c - see rank_leave.h. */
#include "cmd/rank_leave.h"

#include "base/status.h"

#include <stdatomic.h>
#include <stdlib.h>

struct proa_rank_leave {
    int32_t ranks;
    _Atomic(uint8_t) standing[]; /* relaxed: each is a fact of its own, and only grows stale */
};

proa_rank_leave *proa_rank_leave_create(int32_t ranks)
{
    proa_rank_leave *l = calloc(1, sizeof *l + (size_t)ranks * sizeof l->standing[0]);
    if (l != NULL)
        l->ranks = ranks;
    return l;
}

void proa_rank_leave_free(proa_rank_leave *l)
{
    free(l);
}

void proa_rank_leave_note(proa_rank_leave *l, int32_t peer, proa_rank_standing standing)
{
    PROA_ASSERT(peer >= 0 && peer < l->ranks);
    atomic_store_explicit(&l->standing[peer], (uint8_t)standing, memory_order_relaxed);
}

bool proa_rank_leave_may_go(const proa_rank_leave *l, int64_t since_signal_us)
{
    bool settled = since_signal_us >= PROA_RANK_LEAVE_SETTLE_US;
    for (int32_t i = 0; i < l->ranks; i++) {
        uint8_t standing = atomic_load_explicit(&l->standing[i], memory_order_relaxed);
        if (standing == PROA_RANK_DRAINS || (standing == PROA_RANK_SERVES && !settled))
            return false;
    }
    return true;
}
