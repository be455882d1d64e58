/* loop.h - an event loop: one thread that waits for sockets, timers and wakes. net/event.h has the library's headers.
 *
 * Created, set up and run on one thread (or set up before that thread starts); only proa_loop_wake and proa_loop_stop may be
 * called from others. Hooks run on the loop's thread.
 */
#ifndef PROA_NET_LOOP_H
#define PROA_NET_LOOP_H

#include "base/status.h"

#include <stdint.h>

typedef struct proa_loop proa_loop;
typedef struct proa_timer proa_timer;
typedef struct proa_watch proa_watch;

typedef void (*proa_loop_hook)(void *context);

/* `woken` (may be NULL) runs after proa_loop_wake; several wakes may become one. */
proa_status proa_loop_create(proa_loop_hook woken, void *context, proa_loop **loop, proa_error *err);
void proa_loop_free(
    proa_loop *loop); /* after proa_loop_run returned; frees timers and watches too; accepts NULL */
void proa_loop_run(proa_loop *loop);  /* until proa_loop_stop */
void proa_loop_wake(proa_loop *loop); /* any thread */
void proa_loop_stop(proa_loop *loop); /* any thread */

/* Runs `hook` every period_us. NULL when memory is out. */
proa_timer *proa_loop_add_timer(proa_loop *loop, int64_t period_us, proa_loop_hook hook, void *context);
/* From now on; the next time is a period away. Costs nothing when it is the timer's period already. */
void proa_timer_set_period(proa_timer *timer, int64_t period_us);
void proa_timer_free(proa_timer *timer); /* also from inside its hook; accepts NULL */

/* Runs `hook` while the descriptor is readable. The descriptor stays the caller's. NULL when memory is out. */
proa_watch *proa_loop_add_watch(proa_loop *loop, int fd, proa_loop_hook hook, void *context);
void proa_watch_free(proa_watch *watch); /* accepts NULL */

/* Of libevent, which it is made with. */
const char *proa_loop_library_version(void);

#endif
