/* ep_watch.c - see ep_watch.h. */
#include "engine/ep_watch.h"

#include <stddef.h>

/* It has nothing to do, waits for others, or has come further since the last look. */
static bool well(const proa_ep_watch *w, const proa_ep_look *look)
{
    bool due = look->wanted || (look->busy && !look->waits);
    return !due || look->moves != w->last.moves || look->wanted != w->last.wanted ||
           look->busy != w->last.busy || look->waits != w->last.waits;
}

const char *proa_ep_watch_tick(proa_ep_watch *w, const proa_ep_look *look, int64_t limit_us,
                               bool (*asleep)(void *context), void *context)
{
    bool good = well(w, look);
    w->last = *look;
    if (good) {
        w->since_us = w->looked_us = look->now_us;
        w->naps = 0;
        return NULL;
    }
    if (look->now_us - w->since_us > limit_us)
        return look->busy ? "its engine thread makes no progress"
                          : "its engine thread does not come for a step or a view";
    if (look->now_us - w->looked_us < PROA_EP_WATCH_NAP_US)
        return NULL;
    w->looked_us = look->now_us;
    w->naps = asleep(context) ? w->naps + 1 : 0;
    return w->naps >= PROA_EP_WATCH_NAPS ? "its engine thread sleeps, and nothing will wake it" : NULL;
}
