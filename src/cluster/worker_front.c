/* worker_front.c - request links: what frontends ask, and what they are told. */
#include "base/clock.h"
#include "base/log.h"
#include "cluster/worker_internal.h"

#include <stdlib.h>
#include <string.h>

enum { LOAD_IDLE_US = 1000000 };

/* ---- telling ---- */

void proa_worker_front_send(worker_front *front, uint16_t type)
{
    const proa_buf *body = &front->worker->scratch;
    if (proa_link_send(front->link, type, body->data, body->length) != PROA_OK)
        proa_log(PROA_LOG_WARN, "worker", "frontend %s does not read what it asked for",
                 proa_link_address(front->link));
}

void proa_worker_front_finish(worker_front *front, uint64_t id, const proa_engine_finish *finish,
                              uint64_t blame)
{
    proa_worker *w = front->worker;
    proa_buf_clear(&w->scratch);
    proa_wire_put_finish(&w->scratch, &(proa_wire_finish){.id = id, .finish = *finish, .blame = blame});
    proa_worker_front_send(front, PROA_WIRE_FINISH);
}

static void refuse(worker_front *front, uint64_t id, const proa_error *error)
{
    proa_engine_finish finish = {.reason = PROA_FINISH_ABORT, .matched = -1, .error = *error};
    proa_worker_front_finish(front, id, &finish, 0);
}

void proa_worker_send_card(proa_worker *w, worker_front *front)
{
    w->card.draining = w->load.draining;
    for (worker_front *f = w->fronts; f != NULL; f = f->next) {
        if (front != NULL && f != front)
            continue;
        proa_buf_clear(&w->scratch);
        proa_wire_put_card(&w->scratch, &w->card);
        proa_worker_front_send(f, PROA_WIRE_CARD);
    }
}

void proa_worker_send_loads(proa_worker *w)
{
    int64_t now = proa_clock_us();
    proa_engine_get_stats(w->engine, &w->load.stats);
    w->load.quarantined = (uint32_t)w->load.stats.kv_blocks_lent;
    w->load.rooms = (uint32_t)w->rooms.count;
    w->starved = w->load.stats.queued > 0;
    if (memcmp(&w->load, &w->sent, sizeof w->load) == 0 && now - w->sent_us < LOAD_IDLE_US)
        return;
    w->sent = w->load;
    w->sent_us = now;
    for (worker_front *f = w->fronts; f != NULL; f = f->next) {
        proa_buf_clear(&w->scratch);
        proa_wire_put_load(&w->scratch, &w->load);
        proa_worker_front_send(f, PROA_WIRE_LOAD);
    }
}

/* ---- the prefix cache's changes ---- */

static void send_events(proa_worker *w, worker_front *front, bool snapshot, const uint64_t *hashes,
                        const bool *stored, size_t count)
{
    size_t at = 0;
    do {
        size_t left = count - at, now = left < PROA_WIRE_EVENTS_MAX ? left : PROA_WIRE_EVENTS_MAX;
        proa_buf_clear(&w->scratch);
        proa_wire_put_kv_events(&w->scratch, &(proa_wire_kv_events){.snapshot = snapshot && at == 0,
                                                                    .count = (uint32_t)now,
                                                                    .hashes = hashes + at,
                                                                    .stored = stored + at});
        proa_worker_front_send(front, PROA_WIRE_KV_EVENTS);
        at += now;
    } while (at < count);
}

void proa_worker_send_kv_events(proa_worker *w)
{
    size_t count = w->events.length / 9;
    if (count == 0)
        return;
    proa_arena_reset(w->arena);
    uint64_t *hashes = proa_arena_array(w->arena, count, sizeof *hashes);
    bool *stored = proa_arena_array(w->arena, count, sizeof *stored);
    bool lost = w->events.failed || hashes == NULL || stored == NULL;
    proa_reader reader = proa_reader_of(w->events.data, w->events.length);
    for (size_t i = 0; i < count && !lost; i++) {
        stored[i] = proa_get_u8(&reader) != 0;
        hashes[i] = proa_get_u64(&reader);
    }
    for (worker_front *f = w->fronts; f != NULL && !lost; f = f->next)
        send_events(w, f, false, hashes, stored, count);
    proa_buf_clear(&w->events); /* what was lost only costs a hit: events are hints */
}

static void send_snapshot(worker_front *front)
{
    proa_worker *w = front->worker;
    proa_worker_send_kv_events(w); /* so that no pending change comes after the snapshot that has it */
    proa_arena_reset(w->arena);
    size_t count = w->cached.count, i = 0;
    uint64_t *hashes = proa_arena_array(w->arena, count, sizeof *hashes), key;
    bool *stored = proa_arena_array(w->arena, count, sizeof *stored);
    void *value;
    if (hashes == NULL || stored == NULL)
        return;
    for (size_t at = 0; i < count && proa_table_next(&w->cached, &at, &key, &value);) {
        hashes[i] = key;
        stored[i++] = true;
    }
    send_events(w, front, true, hashes, stored, i);
}

/* ---- SUBMIT ---- */

/* May this request come in? Fills the error. */
static bool admit(proa_worker *w, worker_front *front, const proa_wire_submit *m, proa_error *err)
{
    const char *from = proa_link_address(front->link);
    if (m->epoch != w->self.epoch)
        proa_error_set(err, PROA_ERR_PROTOCOL,
                       "a request of %s is meant for epoch %016llx, but this worker is %016llx", from,
                       (unsigned long long)m->epoch, (unsigned long long)w->self.epoch);
    else if (m->leg != w->options.leg)
        proa_error_set(err, PROA_ERR_PROTOCOL, "a request of %s asks for leg %d, but this worker does %d",
                       from, m->leg, w->options.leg);
    else if ((m->leg == PROA_LEG_COMBINED) != (m->room == 0))
        proa_error_set(err, PROA_ERR_PROTOCOL, "a request of %s has room %016llx with leg %d", from,
                       (unsigned long long)m->room, m->leg);
    else if (m->request.credit > PROA_WIRE_CREDIT_MAX)
        proa_error_set(err, PROA_ERR_PROTOCOL,
                       "a request of %s has a credit of %d tokens; at most %d are given", from,
                       m->request.credit, PROA_WIRE_CREDIT_MAX);
    else if (w->load.draining)
        return proa_error_set(err, PROA_ERR_OVERLOADED, "the worker is shutting down") == PROA_OK;
    else
        return true;
    proa_log(PROA_LOG_WARN, "worker", "refused: %s", err->text);
    return false;
}

static proa_status submit(worker_call *call, proa_wire_submit *m, proa_error *err)
{
    m->request.sink = proa_worker_sink(call);
    proa_status status = proa_engine_submit(call->worker->engine, &m->request, &call->engine_id, err);
    call->submitted = status == PROA_OK;
    return status;
}

static void submit_combined(proa_worker *w, worker_front *front, proa_wire_submit *m)
{
    proa_error err = {0};
    worker_call *call = proa_worker_call_new(w, front, m->id);
    if (call == NULL) {
        proa_error_set(&err, PROA_ERR_OVERLOADED, "out of memory for a request");
        refuse(front, m->id, &err);
        return;
    }
    proa_status status = submit(call, m, &err);
    if (status != PROA_OK)
        proa_worker_call_fail(call, status, err.text, 0);
    proa_worker_call_settle(call);
}

/* The call of a room: a new one, or the one that the decode worker has opened. NULL: refused, and said so. */
static worker_call *room_call(proa_worker *w, worker_front *front, const proa_wire_submit *m, int32_t rows)
{
    proa_error err = {0};
    worker_call *call = proa_table_get(&w->rooms, m->room);
    if (proa_graves_has(w->graves, m->room) || (call != NULL && call->front != NULL) ||
        (call != NULL && call->leg != PROA_LEG_PREFILL)) {
        proa_error_set(&err, PROA_ERR_PROTOCOL, "a request of %s has room %016llx, which was used before",
                       proa_link_address(front->link), (unsigned long long)m->room);
        proa_log(PROA_LOG_WARN, "worker", "refused: %s", err.text);
        refuse(front, m->id, &err);
        return NULL;
    }
    proa_error_set(&err, PROA_ERR_OVERLOADED, "out of memory for a request");
    bool opened = call != NULL;
    if (opened && proa_table_put(&front->calls, m->id, call)) {
        call->front = front;
        call->id = m->id;
        return call;
    }
    if (!opened)
        call = proa_worker_call_new(w, front, m->id);
    if (opened || call == NULL) {
        refuse(front, m->id, &err);
        return NULL;
    }
    if (!proa_worker_call_rows(call, rows) || !proa_worker_call_open_room(call, m->room)) {
        proa_worker_call_fail(call, err.status, err.text, 0);
        proa_worker_call_settle(call);
        return NULL;
    }
    return call;
}

static void submit_prefill(proa_worker *w, worker_front *front, proa_wire_submit *m)
{
    int32_t rows = m->request.prompt_count + m->request.output_count;
    worker_call *call = room_call(w, front, m, rows);
    if (call == NULL)
        return;
    proa_prefill_actions actions = {0};
    proa_error err = {0};
    int64_t now = proa_clock_us();
    if (call->has_room) {
        proa_prefill_ask(&call->prefill, rows, now, &actions);
    } else {
        call->has_room = true;
        proa_prefill_asked(&call->prefill, rows, now);
    }
    if (!actions.forget) {
        proa_status status = submit(call, m, &err);
        snprintf(call->why, sizeof call->why, "%s", err.text);
        if (status != PROA_OK)
            proa_prefill_engine_ended(&call->prefill, status, call->why, &actions);
    }
    proa_worker_prefill_act(call, &actions);
}

static void submit_decode(proa_worker *w, worker_front *front, proa_wire_submit *m)
{
    int32_t rows = m->request.prompt_count + m->request.output_count;
    worker_call *call = room_call(w, front, m, rows);
    if (call == NULL)
        return;
    proa_decode_actions actions = {0};
    proa_error err = {0};
    int64_t now = proa_clock_us();
    call->has_room = true;
    call->peer_instance = m->peer_instance;
    call->peer_epoch = m->peer_epoch;
    proa_decode_begin(&call->decode, now);
    proa_status status = submit(call, m, &err);
    call->session = status == PROA_OK ? proa_worker_session_of(w, m->bootstrap) : NULL;
    if (status != PROA_OK)
        proa_decode_engine_ended(&call->decode, status, err.text, now, &actions);
    else if (call->session == NULL)
        proa_decode_link_lost(&call->decode, true, now, &actions);
    else if (call->session->greeted && proa_link_peer(call->session->link)->epoch != m->peer_epoch)
        proa_decode_link_lost(&call->decode, true, now, &actions); /* another process has its place */
    else if (call->session->greeted)
        proa_decode_linked(&call->decode, now, &actions);
    proa_worker_decode_act(call, &actions);
}

void proa_worker_front_submit(proa_worker *w, worker_front *front, const void *body, size_t length)
{
    proa_wire_submit m;
    proa_error err = {0};
    proa_arena_reset(w->arena);
    if (!proa_wire_get_submit(body, length, w->arena, &m, &err)) {
        proa_log(PROA_LOG_WARN, "worker", "refused a message of %s: %s", proa_link_address(front->link),
                 err.text);
        return;
    }
    if (proa_table_get(&front->calls, m.id) != NULL) {
        proa_log(PROA_LOG_WARN, "worker", "refused: a request of %s has an id that is in use",
                 proa_link_address(front->link));
        return;
    }
    if (!admit(w, front, &m, &err)) {
        refuse(front, m.id, &err);
        return;
    }
    if (m.leg == PROA_LEG_COMBINED)
        submit_combined(w, front, &m);
    else if (m.leg == PROA_LEG_PREFILL)
        submit_prefill(w, front, &m);
    else
        submit_decode(w, front, &m);
}

/* ---- messages ---- */

static void take_cancel(worker_front *front, const void *body, size_t length, proa_error *err)
{
    proa_wire_cancel m;
    if (!proa_wire_get_cancel(body, length, &m, err))
        return;
    worker_call *call = proa_table_get(&front->calls, m.id);
    if (call != NULL)
        proa_worker_call_cancel(call);
}

static void take_grant(worker_front *front, const void *body, size_t length, proa_error *err)
{
    proa_wire_grant m;
    if (!proa_wire_get_grant(body, length, &m, err))
        return;
    const worker_call *call = proa_table_get(&front->calls, m.id);
    if (call != NULL && call->submitted && !call->finished && m.tokens <= PROA_WIRE_CREDIT_MAX)
        proa_engine_grant(front->worker->engine, call->engine_id, (int32_t)m.tokens);
}

static void take_flush(proa_worker *w)
{
    if (w->call_count == 0) /* an idle engine answers at once */
        proa_engine_flush_cache(w->engine);
}

static void take_record(const proa_worker *w, proa_wire_record action)
{
    if (w->record != NULL)
        w->record(w->record_context, action);
    else
        proa_log(PROA_LOG_WARN, "worker",
                 "what experts have to do is not recorded here: workers of several ranks do, with "
                 "--expert-distribution-recorder-mode stat");
}

static void on_message(void *context, proa_link *link, uint16_t type, const uint8_t *body, size_t length)
{
    proa_worker *w = context;
    worker_front *front = proa_link_user(link);
    proa_error err = {0};
    switch ((proa_wire_type)type) {
    case PROA_WIRE_SUBMIT: proa_worker_front_submit(w, front, body, length); break;
    case PROA_WIRE_CANCEL: take_cancel(front, body, length, &err); break;
    case PROA_WIRE_GRANT: take_grant(front, body, length, &err); break;
    case PROA_WIRE_ASK_FILES: front->wants_files = true; break;
    case PROA_WIRE_FLUSH: take_flush(w); break;
    case PROA_WIRE_RECORD_START: take_record(w, PROA_RECORD_START); break;
    case PROA_WIRE_RECORD_STOP: take_record(w, PROA_RECORD_STOP); break;
    case PROA_WIRE_RECORD_DUMP: take_record(w, PROA_RECORD_DUMP); break;
    case PROA_WIRE_RELAY: proa_worker_front_relay(front, body, length); break;
    default:
        proa_error_set(&err, PROA_ERR_PROTOCOL, "message type %u is not known on request links", type);
        break;
    }
    if (err.status != PROA_OK)
        proa_log(PROA_LOG_WARN, "worker", "refused a message of %s: %s", proa_link_address(link), err.text);
}

/* ---- links ---- */

worker_front *proa_worker_find_front(proa_worker *w, uint64_t instance)
{
    worker_front *f = w->fronts;
    while (f != NULL && proa_link_peer(f->link)->instance != instance)
        f = f->next;
    return f;
}

static void on_up(void *context, proa_link *link)
{
    proa_worker *w = context;
    worker_front *front = calloc(1, sizeof *front);
    if (front == NULL) {
        proa_link_close(link);
        return;
    }
    front->worker = w;
    front->link = link;
    front->next = w->fronts;
    w->fronts = front;
    proa_link_set_user(link, front);
    proa_nats_inbox_init(&front->inbox, proa_link_session_key(link), proa_link_peer(link)->instance);
    proa_log(PROA_LOG_DEBUG, "worker", "frontend %s (%s) is here", proa_link_peer(link)->name,
             proa_link_address(link));
    proa_worker_send_card(w, front);
    proa_buf_clear(&w->scratch);
    proa_wire_put_load(&w->scratch, &w->load);
    proa_worker_front_send(front, PROA_WIRE_LOAD);
    send_snapshot(front);
}

/* Whoever asked is gone: nobody waits for its requests. */
static void drop_front(worker_front *front)
{
    proa_worker *w = front->worker;
    worker_front **at = &w->fronts;
    while (*at != front)
        at = &(*at)->next;
    *at = front->next;
    for (worker_call *call = w->calls, *next; call != NULL; call = next) {
        next = call->next;
        if (call->front != front)
            continue;
        call->front = NULL;
        call->told = true;
        proa_worker_call_cancel(call);
    }
    proa_table_free(&front->calls);
    if (front->file != NULL)
        fclose(front->file);
    free(front);
}

static void on_down(void *context, proa_link *link, const proa_error *why)
{
    (void)context;
    worker_front *front = proa_link_user(link);
    if (front == NULL)
        return;
    proa_log(PROA_LOG_INFO, "worker", "frontend %s is gone, its %zu requests end: %s",
             proa_link_address(link), front->calls.count, why->text);
    drop_front(front);
}

const proa_link_hooks *proa_worker_front_hooks(proa_worker *w, proa_link_hooks *hooks)
{
    *hooks = (proa_link_hooks){.up = on_up, .message = on_message, .down = on_down, .context = w};
    return hooks;
}

void proa_worker_close_fronts(proa_worker *w)
{
    while (w->fronts != NULL) {
        proa_link *link = w->fronts->link;
        drop_front(w->fronts);
        proa_link_close(link);
    }
}
