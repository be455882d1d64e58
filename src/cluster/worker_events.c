/* worker_events.c - what the engine's thread leaves for the loop's: records in a buffer under the lock.
 *
 * A record is a head and a payload of its kind. The engine's callbacks only append and wake; a call outlives them, since its
 * `finish` record is the last that leads to it.
 */
#include "base/clock.h"
#include "cluster/worker_internal.h"

#include <string.h>

typedef enum event_kind {
    EVENT_TOKEN,  /* proa_sample_result */
    EVENT_FINISH, /* proa_engine_finish */
    EVENT_ROWS,   /* rows_head, blocks, generations */
    EVENT_KV,     /* kv_change */
} event_kind;

typedef struct event_head {
    worker_call *call;
    uint32_t kind;
    uint32_t bytes; /* of the payload */
    bool flag;      /* TOKEN: stop; ROWS: reserved */
} event_head;

typedef struct rows_head {
    int32_t rows;
    int32_t block_count;
    int32_t cached_tokens;
    int32_t unused;
} rows_head;

typedef struct kv_change {
    uint64_t hash;
    bool stored;
} kv_change;

/* ---- posting ---- */

static size_t padded(size_t bytes)
{
    return (bytes + 7) / 8 * 8;
}

typedef struct piece {
    const void *data;
    size_t bytes;
} piece;

/* Payloads are padded, so that each head and each array behind one is aligned. */
static void post(proa_worker *w, event_head head, const piece *pieces, int count)
{
    static const char padding[8];
    size_t bytes = 0;
    for (int i = 0; i < count; i++)
        bytes += pieces[i].bytes;
    head.bytes = (uint32_t)bytes;
    pthread_mutex_lock(&w->lock);
    bool wake = w->posted.length == 0;
    proa_buf_append(&w->posted, &head, sizeof head);
    for (int i = 0; i < count; i++)
        proa_buf_append(&w->posted, pieces[i].data, pieces[i].bytes);
    proa_buf_append(&w->posted, padding, padded(bytes) - bytes);
    bool lost = w->posted.failed;
    pthread_mutex_unlock(&w->lock);
    PROA_ASSERT(!lost); /* a lost record would be a lost token: better no worker than a wrong one */
    if (wake)
        proa_loop_wake(w->loop);
}

static void on_token(void *context, const proa_sample_result *token, bool stop)
{
    worker_call *call = context;
    post(call->worker, (event_head){.call = call, .kind = EVENT_TOKEN, .flag = stop},
         &(piece){token, sizeof *token}, 1);
}

static void on_finish(void *context, const proa_engine_finish *finish)
{
    worker_call *call = context;
    post(call->worker, (event_head){.call = call, .kind = EVENT_FINISH}, &(piece){finish, sizeof *finish}, 1);
}

static void post_rows(worker_call *call, const proa_engine_rows *rows, bool reserved)
{
    const rows_head head = {
        .rows = rows->rows, .block_count = rows->block_count, .cached_tokens = rows->cached_tokens};
    size_t bytes = (size_t)rows->block_count * sizeof *rows->blocks;
    const piece pieces[] = {{&head, sizeof head}, {rows->blocks, bytes}, {rows->generations, bytes}};
    post(call->worker, (event_head){.call = call, .kind = EVENT_ROWS, .flag = reserved}, pieces, 3);
}

static void on_computed(void *context, const proa_engine_rows *rows)
{
    post_rows(context, rows, false);
}

static void on_reserved(void *context, const proa_engine_rows *rows)
{
    post_rows(context, rows, true);
}

proa_engine_sink proa_worker_sink(worker_call *call)
{
    return (proa_engine_sink){.token = on_token,
                              .finish = on_finish,
                              .context = call,
                              .computed = on_computed,
                              .reserved = on_reserved};
}

void proa_worker_kv_event(void *worker, bool stored, uint64_t hash)
{
    const kv_change change = {.hash = hash, .stored = stored};
    post(worker, (event_head){.kind = EVENT_KV}, &(piece){&change, sizeof change}, 1);
}

/* ---- taking ---- */

static void take_token(worker_call *call, const proa_sample_result *token, bool stop)
{
    proa_worker *w = call->worker;
    if (call->leg == PROA_LEG_PREFILL) {
        proa_prefill_actions actions;
        call->first = *token;
        proa_prefill_first(&call->prefill, proa_clock_us(), &actions);
        proa_worker_prefill_act(call, &actions);
        return;
    }
    if (call->front == NULL || call->told)
        return;
    const proa_wire_tokens message = {.id = call->id, .count = 1, .tokens = token, .stop = stop};
    proa_buf_clear(&w->scratch);
    proa_wire_put_tokens(&w->scratch, &message);
    if (proa_link_send(call->front->link, PROA_WIRE_TOKENS, w->scratch.data, w->scratch.length) != PROA_OK)
        proa_worker_call_cancel(
            call); /* a frontend that does not read; credit makes this all but impossible */
}

static void take_finish(worker_call *call, const proa_engine_finish *finish)
{
    call->finished = true;
    if (call->has_room && call->leg == PROA_LEG_PREFILL) {
        proa_prefill_actions actions;
        snprintf(call->why, sizeof call->why, "%s", finish->error.text); /* the machine keeps the pointer */
        proa_prefill_engine_ended(&call->prefill, finish->error.status, call->why, &actions);
        proa_worker_prefill_act(call, &actions);
        return;
    }
    if (call->has_room) {
        proa_decode_actions actions;
        proa_decode_engine_ended(&call->decode, finish->error.status, finish->error.text, proa_clock_us(),
                                 &actions);
        proa_worker_decode_act(call, &actions);
        return;
    }
    proa_engine_release(call->worker->engine,
                        call->engine_id); /* blocks are lent when an adoption met a cancel */
    proa_worker_call_tell(call, finish, 0);
    proa_worker_call_settle(call);
}

static void take_rows(worker_call *call, const rows_head *head, const int32_t *arrays, bool reserved)
{
    int64_t now = proa_clock_us();
    if (!call->has_room)
        return;
    int32_t count = head->block_count < call->block_count ? head->block_count : call->block_count;
    memcpy(call->blocks, arrays, (size_t)count * sizeof *call->blocks);
    call->cached_tokens = head->cached_tokens;
    if (reserved) {
        proa_decode_actions actions;
        memcpy(call->generations, arrays + head->block_count, (size_t)count * sizeof *call->generations);
        proa_decode_reserved(&call->decode, now, &actions);
        proa_worker_decode_act(call, &actions);
    } else {
        proa_prefill_actions actions;
        proa_prefill_computed(&call->prefill, head->rows, now, &actions);
        proa_worker_prefill_act(call, &actions);
    }
}

static void take_kv(proa_worker *w, const kv_change *change)
{
    if (change->stored)
        proa_table_put(&w->cached, change->hash, w);
    else
        proa_table_take(&w->cached, change->hash);
    proa_put_u8(&w->events, change->stored);
    proa_put_u64(&w->events, change->hash);
}

static void take_one(proa_worker *w, const event_head *head, const void *payload)
{
    const rows_head *rows = payload;
    switch ((event_kind)head->kind) {
    case EVENT_TOKEN: take_token(head->call, payload, head->flag); break;
    case EVENT_FINISH: take_finish(head->call, payload); break;
    case EVENT_ROWS: take_rows(head->call, rows, (const int32_t *)(rows + 1), head->flag); break;
    case EVENT_KV: take_kv(w, payload); break;
    }
}

void proa_worker_take_events(proa_worker *w)
{
    for (;;) {
        pthread_mutex_lock(&w->lock);
        proa_buf taken = w->posted;
        w->posted = w->taken;
        pthread_mutex_unlock(&w->lock);
        for (size_t at = 0; at < taken.length;) {
            event_head head;
            memcpy(&head, taken.data + at, sizeof head);
            take_one(w, &head, taken.data + at + sizeof head);
            at += sizeof head + padded(head.bytes);
        }
        bool more = taken.length > 0;
        proa_buf_clear(&taken);
        w->taken = taken;
        if (!more)
            return;
    }
}
