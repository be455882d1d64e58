/* ep_watch.h - whether the engine thread of a rank hangs: a pure judge of what the control thread sees at each tick.
 *
 * Two grounds. The thread has made no progress for the limit (--watchdog-timeout), whatever it does. Or it sleeps: an engine thread
 * that is wanted computes, looks after its transfers, or waits for other ranks in a wait that says so; found asleep elsewhere in each
 * of PROA_EP_WATCH_NAPS looks in a row, 2 s, it waits for what will not come (a lock that nobody gives back). Looks are counted, not time: a
 * process that was stopped and goes on has not slept. A machine that is merely slow keeps its threads runnable, so it raises no alarm.
 */
#ifndef PROA_ENGINE_EP_WATCH_H
#define PROA_ENGINE_EP_WATCH_H

#include <stdbool.h>
#include <stdint.h>

enum { PROA_EP_WATCH_NAPS = 20, PROA_EP_WATCH_NAP_US = 100000 };

/* What is seen. */
typedef struct proa_ep_look {
    int64_t now_us;
    bool wanted;    /* a step or a view waits for the thread to come */
    bool busy;      /* it is in one */
    bool waits;     /* and waits for other ranks: theirs to answer for */
    uint64_t moves; /* a count that grows with its progress */
} proa_ep_look;

typedef struct proa_ep_watch {
    proa_ep_look last;
    int64_t since_us;  /* of the last progress */
    int64_t looked_us; /* whether it sleeps */
    int32_t naps;
} proa_ep_watch;

/* Why it hangs, a literal; NULL: it does not. `asleep` is asked now and then, when there is no progress. */
const char *proa_ep_watch_tick(proa_ep_watch *watch, const proa_ep_look *look, int64_t limit_us,
                               bool (*asleep)(void *context), void *context);

#endif
