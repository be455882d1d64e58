/* room_decode.c - the decode side's machine; drawn in room.h. */
#include "cluster/room.h"

#include <stddef.h>

/* The frontend hears it once. */
static void tell(proa_decode_room *r, proa_status status, const char *why, bool blame, proa_decode_actions *a)
{
    if (r->told)
        return;
    r->told = true;
    a->tell_ended = true;
    a->blame = blame;
    a->status = status;
    a->why = why;
}

static void over(proa_decode_room *r, proa_decode_actions *a)
{
    r->state = PROA_DECODE_OVER;
    a->release = true;
    a->forget = true;
}

/* It ends badly. `quiet`: nothing can be written any more. */
static void end(proa_decode_room *r, proa_status status, const char *why, bool blame, bool quiet,
                int64_t now_us, proa_decode_actions *a)
{
    if (r->state != PROA_DECODE_RESERVING && r->state != PROA_DECODE_OPEN)
        return;
    bool opened = r->state == PROA_DECODE_OPEN;
    tell(r, status, why, blame, a);
    a->cancel = true;
    if (!opened || quiet) {
        over(r, a);
        return;
    }
    r->state = PROA_DECODE_CLOSING;
    a->send_abort = r->linked;
    r->abort_us = now_us;
}

static void open_room(proa_decode_room *r, int64_t now_us, proa_decode_actions *a)
{
    if (r->state != PROA_DECODE_RESERVING || !r->reserved || !r->linked)
        return;
    r->state = PROA_DECODE_OPEN;
    r->since_us = now_us;
    a->send_open = true;
}

void proa_decode_begin(proa_decode_room *r, int64_t now_us)
{
    *r = (proa_decode_room){.state = PROA_DECODE_RESERVING, .since_us = now_us};
}

void proa_decode_reserved(proa_decode_room *r, int64_t now_us, proa_decode_actions *a)
{
    *a = (proa_decode_actions){0};
    r->reserved = true;
    r->since_us = now_us;
    open_room(r, now_us, a);
}

void proa_decode_linked(proa_decode_room *r, int64_t now_us, proa_decode_actions *a)
{
    *a = (proa_decode_actions){0};
    r->linked = true;
    open_room(r, now_us, a);
}

void proa_decode_done(proa_decode_room *r, bool intact, proa_decode_actions *a)
{
    *a = (proa_decode_actions){0};
    if (r->state == PROA_DECODE_CLOSING) { /* too late, but the peer writes no more */
        over(r, a);
        return;
    }
    if (r->state != PROA_DECODE_OPEN)
        return;
    if (!intact) {
        end(r, PROA_ERR_PROTOCOL, "the KV rows that arrived are not those that were sent", true, true, 0, a);
        return;
    }
    r->state = PROA_DECODE_ADOPTED;
    r->told = true; /* from here on the engine's own end is the end */
    a->adopt = true;
    a->forget = true;
}

void proa_decode_fail(proa_decode_room *r, proa_status status, const char *why, proa_decode_actions *a)
{
    *a = (proa_decode_actions){0};
    if (r->state == PROA_DECODE_CLOSING)
        over(r, a);
    else
        end(r, status, why, false, true, 0, a); /* the prefill worker tells the frontend whose fault it is */
}

void proa_decode_quiet(proa_decode_room *r, proa_decode_actions *a)
{
    *a = (proa_decode_actions){0};
    if (r->state == PROA_DECODE_CLOSING)
        over(r, a);
    else /* it ended there before it was opened here */
        end(r, PROA_ERR_UNREACHABLE, "the prefill worker has given it up", false, true, 0, a);
}

void proa_decode_cancel(proa_decode_room *r, int64_t now_us, proa_decode_actions *a)
{
    *a = (proa_decode_actions){0};
    end(r, PROA_ERR_CANCELLED, "the frontend has cancelled it", false, false, now_us, a);
}

void proa_decode_engine_ended(proa_decode_room *r, proa_status status, const char *why, int64_t now_us,
                              proa_decode_actions *a)
{
    *a = (proa_decode_actions){0};
    end(r, status, why, false, false, now_us, a);
}

void proa_decode_link_lost(proa_decode_room *r, bool quiet, int64_t now_us, proa_decode_actions *a)
{
    *a = (proa_decode_actions){0};
    r->linked = false;
    if (r->state == PROA_DECODE_CLOSING) {
        if (quiet)
            over(r, a);
        return;
    }
    end(r, PROA_ERR_UNREACHABLE, "the link to the prefill worker is lost", true, quiet, now_us, a);
}

void proa_decode_tick(proa_decode_room *r, const proa_room_limits *limits, int64_t now_us,
                      proa_decode_actions *a)
{
    *a = (proa_decode_actions){0};
    int64_t waited = now_us - r->since_us;
    if (r->state == PROA_DECODE_RESERVING && waited > limits->waiting_us) {
        end(r, PROA_ERR_DEADLINE,
            r->reserved ? "the prefill worker was not reached in time" : "no memory was free for it in time",
            r->reserved, false, now_us, a);
    } else if (r->state == PROA_DECODE_OPEN && waited > limits->waiting_us) {
        end(r, PROA_ERR_DEADLINE, "the prefill worker has not written its rows in time", true, false, now_us,
            a);
    } else if (r->state == PROA_DECODE_CLOSING && r->linked && now_us - r->abort_us > limits->abort_us) {
        a->send_abort = true;
        r->abort_us = now_us;
    }
}
