/* worker_call.c - a request at the worker: what the room machines want is done here. */
#include "base/clock.h"
#include "base/log.h"
#include "cluster/worker_internal.h"

#include <stdlib.h>
#include <string.h>

/* ---- life ---- */

worker_call *proa_worker_call_new(proa_worker *w, worker_front *front, uint64_t id)
{
    worker_call *call = calloc(1, sizeof *call);
    if (call == NULL)
        return NULL;
    if (front != NULL && !proa_table_put(&front->calls, id, call)) {
        free(call);
        return NULL;
    }
    call->worker = w;
    call->front = front;
    call->id = id;
    call->leg = w->options.leg;
    call->next = w->calls;
    if (call->next != NULL)
        call->next->previous = call;
    w->calls = call;
    w->call_count++;
    return call;
}

bool proa_worker_call_rows(worker_call *call, int32_t rows)
{
    call->rows = rows;
    call->block_count = (rows + PROA_KV_BLOCK_TOKENS - 1) / PROA_KV_BLOCK_TOKENS;
    size_t count = (size_t)call->block_count;
    call->blocks = calloc(count, sizeof *call->blocks);
    call->generations = calloc(count, sizeof *call->generations);
    call->peer_blocks = calloc(count, sizeof *call->peer_blocks);
    return call->blocks != NULL && call->generations != NULL && call->peer_blocks != NULL;
}

void proa_worker_call_settle(worker_call *call)
{
    proa_worker *w = call->worker;
    if (call->has_room || (call->submitted && !call->finished))
        return;
    PROA_ASSERT(call->told || call->front == NULL);
    if (call->front != NULL)
        proa_table_take(&call->front->calls, call->id);
    if (call->previous != NULL)
        call->previous->next = call->next;
    else
        w->calls = call->next;
    if (call->next != NULL)
        call->next->previous = call->previous;
    w->call_count--;
    free(call->blocks);
    free(call->generations);
    free(call->peer_blocks);
    free(call);
}

/* ---- the frontend's side ---- */

void proa_worker_call_tell(worker_call *call, const proa_engine_finish *finish, uint64_t blame)
{
    if (call->told)
        return;
    call->told = true;
    if (call->front != NULL)
        proa_worker_front_finish(call->front, call->id, finish, blame);
}

void proa_worker_call_fail(worker_call *call, proa_status status, const char *why, uint64_t blame)
{
    proa_engine_finish finish = {.reason = PROA_FINISH_ABORT, .matched = -1};
    proa_error_set(&finish.error, status, "%s", why);
    finish.error.status = status;
    proa_worker_call_tell(call, &finish, blame);
}

void proa_worker_call_cancel(worker_call *call)
{
    if (call->has_room && call->leg == PROA_LEG_PREFILL) {
        proa_prefill_actions actions;
        proa_prefill_cancel(&call->prefill, &actions);
        proa_worker_prefill_act(call, &actions);
    } else if (call->has_room) {
        proa_decode_actions actions;
        proa_decode_cancel(&call->decode, proa_clock_us(), &actions);
        proa_worker_decode_act(call, &actions);
    } else if (call->submitted && !call->finished) {
        proa_engine_cancel(call->worker->engine, call->engine_id); /* its finish is the answer */
    }
}

static void forget_room(worker_call *call)
{
    proa_worker *w = call->worker;
    proa_table_take(&w->rooms, call->room);
    proa_graves_add(w->graves, call->room);
    call->has_room = false;
    call->session = NULL;
}

bool proa_worker_call_open_room(worker_call *call, uint64_t room)
{
    if (!proa_table_put(&call->worker->rooms, room, call))
        return false;
    call->room = room;
    proa_worker_hurry_transfer(call->worker);
    return true;
}

void proa_worker_call_drop_room(worker_call *call)
{
    forget_room(call);
    proa_worker_call_settle(call);
}

/* ---- prefill ---- */

static void on_written(void *context, const proa_kv_write_result *result)
{
    worker_call *call = context;
    proa_worker *w = call->worker;
    if (result->status == PROA_OK) {
        call->bytes += result->bytes;
        call->write_us += result->us;
    }
    proa_prefill_actions actions;
    proa_prefill_written(&call->prefill, result->status, proa_clock_us(), &actions);
    w->load.transfer_bytes += result->bytes;
    w->load.transfer_us += (uint64_t)result->us;
    proa_worker_prefill_act(call, &actions);
}

/* The last thing that is done with `call` in an action: `done` may come at once, and end it. */
static void begin_write(worker_call *call, int32_t first, int32_t count)
{
    proa_error err = {0};
    const proa_kv_write write = {.from = call->blocks,
                                 .to = call->peer_blocks,
                                 .row_first = first,
                                 .row_count = count,
                                 .done = on_written,
                                 .context = call};
    proa_kv_peer *peer = call->session != NULL ? call->session->peer : NULL;
    proa_status status = PROA_ERR_UNREACHABLE;
    if (peer != NULL)
        status = proa_kv_peer_write(peer, &write, &err);
    if (status != PROA_OK)
        on_written(call, &(proa_kv_write_result){.status = status});
}

static uint64_t *digests_of(const worker_call *call)
{
    const proa_worker *w = call->worker;
    uint64_t *digests = proa_arena_array(w->arena, (size_t)call->block_count, sizeof *digests);
    for (int32_t i = 0; digests != NULL && i < call->block_count; i++) {
        int32_t left = call->rows - i * PROA_KV_BLOCK_TOKENS;
        digests[i] = proa_kv_digest(&w->layout, call->blocks[i],
                                    left < PROA_KV_BLOCK_TOKENS ? left : PROA_KV_BLOCK_TOKENS, call->room);
    }
    return digests;
}

static void send_done(worker_call *call)
{
    proa_worker *w = call->worker;
    proa_arena_reset(w->arena);
    const proa_wire_room_done done = {
        .room = call->room,
        .epoch = call->peer_epoch,
        .first = call->first,
        .cached_tokens = call->cached_tokens,
        .tokens = call->rows,
        .bytes = call->bytes,
        .us = call->write_us,
        .block_count = (uint32_t)call->block_count,
        .digests = digests_of(call),
        .generations = call->generations,
    };
    w->load.transfers++;
    proa_buf_clear(&w->scratch);
    proa_wire_put_room_done(&w->scratch, &done);
    proa_worker_session_send(call->session, PROA_WIRE_ROOM_DONE);
}

static void send_fail(worker_call *call, proa_status status, const char *why)
{
    proa_worker *w = call->worker;
    proa_wire_room_fail fail = {.room = call->room, .epoch = call->peer_epoch};
    proa_error_set(&fail.error, status, "%s", why);
    proa_buf_clear(&w->scratch);
    proa_wire_put_room_fail(&w->scratch, &fail);
    proa_worker_session_send(call->session, PROA_WIRE_ROOM_FAIL);
}

static void send_room(worker_call *call, uint16_t type)
{
    proa_worker *w = call->worker;
    proa_buf_clear(&w->scratch);
    proa_wire_put_room(&w->scratch, &(proa_wire_room){.room = call->room, .epoch = call->peer_epoch});
    proa_worker_session_send(call->session, type);
}

static void tell_prefilled(worker_call *call)
{
    const proa_engine_finish finish = {
        .reason = PROA_FINISH_LENGTH,
        .matched = -1,
        .usage = {.prompt_tokens = call->rows, .cached_tokens = call->cached_tokens, .output_tokens = 1},
    };
    proa_worker_call_tell(call, &finish, 0);
}

void proa_worker_prefill_act(worker_call *call, const proa_prefill_actions *a)
{
    proa_worker *w = call->worker;
    if (a->write_count > 0) {
        begin_write(call, a->write_first, a->write_count);
        return; /* nothing else comes with a write */
    }
    if (a->stop_writes && call->session != NULL)
        call->session->broken = true; /* its end, now or at the next tick, ends the write */
    if (a->send_done)
        send_done(call);
    if (a->send_fail)
        send_fail(call, a->status, a->why);
    if (a->send_quiet)
        send_room(call, PROA_WIRE_ROOM_QUIET);
    if (a->release && call->submitted)
        proa_engine_release(w->engine, call->engine_id);
    if (a->tell_ok)
        tell_prefilled(call);
    if (a->tell_ended) {
        w->load.transfers_failed += a->status != PROA_ERR_CANCELLED;
        proa_worker_call_fail(call, a->status, a->why, 0);
    }
    if (a->forget) {
        forget_room(call);
        proa_worker_call_settle(call);
    }
}

/* ---- decode ---- */

static void send_open(worker_call *call)
{
    proa_worker *w = call->worker;
    const proa_wire_room_open open = {
        .room = call->room,
        .epoch = call->peer_epoch,
        .tokens = call->rows,
        .block_count = (uint32_t)call->block_count,
        .blocks = call->blocks,
        .generations = call->generations,
    };
    proa_buf_clear(&w->scratch);
    proa_wire_put_room_open(&w->scratch, &open);
    proa_worker_session_send(call->session, PROA_WIRE_ROOM_OPEN);
}

void proa_worker_decode_act(worker_call *call, const proa_decode_actions *a)
{
    proa_worker *w = call->worker;
    if (a->send_open)
        send_open(call);
    if (a->adopt)
        proa_engine_adopt(w->engine, call->engine_id, &call->first, call->cached_tokens);
    if (a->tell_ended)
        proa_worker_call_fail(call, a->status, a->why, a->blame ? call->peer_instance : 0);
    if (a->cancel && call->submitted && !call->finished)
        proa_engine_cancel(w->engine, call->engine_id);
    if (a->send_abort && call->session != NULL)
        send_room(call, PROA_WIRE_ROOM_ABORT);
    if (a->release && call->submitted)
        proa_engine_release(w->engine, call->engine_id);
    if (a->forget) {
        forget_room(call);
        proa_worker_call_settle(call);
    }
}

void proa_worker_call_tick(worker_call *call, int64_t now_us)
{
    proa_worker *w = call->worker;
    if (!call->has_room)
        return;
    if (call->leg == PROA_LEG_PREFILL) {
        proa_prefill_actions actions;
        proa_prefill_tick(&call->prefill, &w->options.limits, w->starved, now_us, &actions);
        proa_worker_prefill_act(call, &actions);
    } else {
        proa_decode_actions actions;
        proa_decode_tick(&call->decode, &w->options.limits, now_us, &actions);
        proa_worker_decode_act(call, &actions);
    }
}
