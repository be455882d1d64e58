/* room_prefill.c - the prefill side's machine; drawn in room.h. Each event changes the state, then settle() says what follows. */
#include "cluster/room.h"

#include <stddef.h>

enum { BLOCK_TOKENS = 64 }; /* rows travel in whole blocks until the last */

/* Nothing more can be done for the room once no write is in flight: says so to everybody who waits. */
static void close_room(proa_prefill_room *r, proa_prefill_actions *a)
{
    r->state = PROA_PREFILL_OVER;
    a->send_quiet = r->linked && r->aborted;
    a->send_fail = r->linked && r->offered && !r->aborted;
    a->release = r->asked;
    a->tell_ended = r->asked;
    a->forget = true;
    a->status = r->status;
    a->why = r->why;
}

static void end(proa_prefill_room *r, proa_status status, const char *why, proa_prefill_actions *a)
{
    if (r->state == PROA_PREFILL_OVER)
        return;
    if (r->status == PROA_OK) { /* the first cause is the one that counts */
        r->status = status;
        r->why = why;
    }
    if (r->writing == 0) {
        close_room(r, a);
        return;
    }
    r->state = PROA_PREFILL_CLOSING; /* the write ends by itself, or the tick stops it */
}

/* Rows that are worth a write now: whole blocks, and at the end what is left. */
static int32_t writable(const proa_prefill_room *r)
{
    int32_t until = r->computed >= r->rows ? r->rows : r->computed / BLOCK_TOKENS * BLOCK_TOKENS;
    return until - r->written;
}

/* Goes on with writing, or to the end. */
static void settle(proa_prefill_room *r, proa_prefill_actions *a)
{
    if (r->state != PROA_PREFILL_WRITING || r->writing > 0)
        return;
    int32_t rows = writable(r);
    if (rows > 0) {
        r->writing = rows;
        a->write_first = r->written;
        a->write_count = rows;
        return;
    }
    if (r->written < r->rows || !r->first_known)
        return;
    r->state = PROA_PREFILL_OVER;
    a->send_done = true;
    a->release = true;
    a->tell_ok = true;
    a->forget = true;
}

void proa_prefill_asked(proa_prefill_room *r, int32_t rows, int64_t now_us)
{
    *r = (proa_prefill_room){.state = PROA_PREFILL_ASKED, .rows = rows, .asked = true, .since_us = now_us};
}

void proa_prefill_offered(proa_prefill_room *r, int32_t rows, int64_t now_us)
{
    *r = (proa_prefill_room){
        .state = PROA_PREFILL_OFFERED, .rows = rows, .offered = true, .linked = true, .since_us = now_us};
}

static void meet(proa_prefill_room *r, int32_t rows, int64_t now_us, proa_prefill_actions *a)
{
    if (r->state == PROA_PREFILL_OVER || r->state == PROA_PREFILL_CLOSING)
        return;
    if (rows != r->rows) {
        end(r, PROA_ERR_PROTOCOL, "frontend and decode worker disagree on the number of rows", a);
        return;
    }
    r->state = PROA_PREFILL_WRITING;
    r->since_us = now_us;
    settle(r, a);
}

void proa_prefill_ask(proa_prefill_room *r, int32_t rows, int64_t now_us, proa_prefill_actions *a)
{
    *a = (proa_prefill_actions){0};
    if (r->asked)
        return;
    r->asked = true;
    meet(r, rows, now_us, a);
}

void proa_prefill_offer(proa_prefill_room *r, int32_t rows, int64_t now_us, proa_prefill_actions *a)
{
    *a = (proa_prefill_actions){0};
    if (r->offered)
        return;
    r->offered = true;
    r->linked = true;
    meet(r, rows, now_us, a);
}

void proa_prefill_computed(proa_prefill_room *r, int32_t rows, int64_t now_us, proa_prefill_actions *a)
{
    *a = (proa_prefill_actions){0};
    if (rows > r->computed) {
        r->computed = rows;
        r->since_us = now_us;
    }
    settle(r, a);
}

void proa_prefill_first(proa_prefill_room *r, int64_t now_us, proa_prefill_actions *a)
{
    *a = (proa_prefill_actions){0};
    r->first_known = true;
    r->computed = r->rows;
    r->since_us = now_us;
    settle(r, a);
}

void proa_prefill_written(proa_prefill_room *r, proa_status status, int64_t now_us, proa_prefill_actions *a)
{
    *a = (proa_prefill_actions){0};
    if (r->writing == 0)
        return;
    int32_t rows = r->writing;
    r->writing = 0;
    if (r->state == PROA_PREFILL_CLOSING) {
        close_room(r, a);
        return;
    }
    if (status != PROA_OK) {
        end(r, status, "the KV transfer to the decode worker failed", a);
        return;
    }
    r->written += rows;
    r->since_us = now_us;
    settle(r, a);
}

void proa_prefill_engine_ended(proa_prefill_room *r, proa_status status, const char *why,
                               proa_prefill_actions *a)
{
    *a = (proa_prefill_actions){0};
    end(r, status, why, a);
}

void proa_prefill_cancel(proa_prefill_room *r, proa_prefill_actions *a)
{
    *a = (proa_prefill_actions){0};
    end(r, PROA_ERR_CANCELLED, "the frontend has cancelled it", a);
}

void proa_prefill_abort(proa_prefill_room *r, proa_prefill_actions *a)
{
    *a = (proa_prefill_actions){0};
    r->aborted = true;
    end(r, PROA_ERR_CANCELLED, "the decode worker has given it up", a);
}

void proa_prefill_link_lost(proa_prefill_room *r, proa_prefill_actions *a)
{
    *a = (proa_prefill_actions){0};
    r->linked = false;
    a->stop_writes = r->writing > 0;
    if (r->offered)
        end(r, PROA_ERR_UNREACHABLE, "the link to the decode worker is lost", a);
}

void proa_prefill_tick(proa_prefill_room *r, const proa_room_limits *limits, bool starved, int64_t now_us,
                       proa_prefill_actions *a)
{
    *a = (proa_prefill_actions){0};
    int64_t waited = now_us - r->since_us;
    if (r->state == PROA_PREFILL_CLOSING)
        a->stop_writes = waited > limits->transfer_us;
    else if (r->state == PROA_PREFILL_OFFERED && waited > limits->waiting_us)
        end(r, PROA_ERR_DEADLINE, "no frontend has asked for it in time", a);
    else if (r->state == PROA_PREFILL_ASKED && r->first_known && starved && waited > limits->starved_us)
        end(r, PROA_ERR_DEADLINE, "the decode worker has no memory for it while others wait here", a);
    else if (r->state == PROA_PREFILL_ASKED && waited > limits->waiting_us)
        end(r, PROA_ERR_DEADLINE, "the decode worker has not opened its room in time", a);
    else if (r->state == PROA_PREFILL_WRITING && r->writing > 0 && waited > limits->transfer_us)
        end(r, PROA_ERR_DEADLINE, "the KV transfer to the decode worker makes no progress", a);
    else if (r->state == PROA_PREFILL_WRITING && waited > limits->waiting_us)
        end(r, PROA_ERR_DEADLINE, "its rows were not computed in time", a);
}
