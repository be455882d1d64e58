/* worker_session.c - room links between decode and prefill workers: greeting, losing, and when a lost peer is quiet.
 *
 * A decode worker dials a prefill worker's bootstrap address and greets with the descriptor of an inbox made for this link; the
 * prefill worker answers when it can write there. Either end that loses the link gives up the session: the prefill side
 * stops its writes before its end of the link is closed, the decode side closes the inbox.
 *
 * So the decode side knows that a lost peer is quiet when
 *   - the inbox is closed, and the transfer says that this is enough (ucx, local); or else, with nixl, when
 *   - the stream has ended (the prefill worker has closed it, or its process is gone),
 *   - nobody listens at the address any more, or
 *   - a new greeting has been answered (the prefill worker ends older sessions of the same decode worker first).
 * A link that has only fallen silent says nothing: blocks stay lent, and it is dialled again until one of these is known.
 */
#include "base/clock.h"
#include "base/log.h"
#include "cluster/worker_internal.h"

#include <stdlib.h>
#include <string.h>

enum { BACKOFF_US = 100000, BACKOFF_MAX_US = 1000000 };

void proa_worker_session_send(worker_session *s, uint16_t type)
{
    if (s == NULL || s->link == NULL)
        return;
    const proa_buf *body = &s->worker->scratch;
    if (proa_link_send(s->link, type, body->data, body->length) != PROA_OK)
        s->broken = true;
}

/* ---- losing ---- */

static bool has_calls(const worker_session *s)
{
    for (const worker_call *c = s->worker->calls; c != NULL; c = c->next) {
        if (c->session == s)
            return true;
    }
    return false;
}

static void prefill_lost(worker_session *s)
{
    for (worker_call *call = s->worker->calls, *next; call != NULL; call = next) {
        next = call->next;
        if (call->session != s || !call->has_room)
            continue;
        proa_prefill_actions actions;
        proa_prefill_link_lost(&call->prefill, &actions);
        proa_worker_prefill_act(call, &actions);
    }
    proa_kv_peer *peer = s->peer;
    s->peer = NULL;
    proa_kv_peer_close(peer); /* writes in flight end here */
    for (worker_call *call = s->worker->calls; call != NULL; call = call->next) {
        if (call->session == s)
            call->session = NULL;
    }
}

/* `quiet`: the peer cannot write any more. `closing_only`: rooms that are open belong to a new session. */
static void decode_lost(worker_session *s, bool quiet, bool closing_only)
{
    int64_t now = proa_clock_us();
    for (worker_call *call = s->worker->calls, *next; call != NULL; call = next) {
        next = call->next;
        if (call->session != s || !call->has_room)
            continue;
        if (closing_only && call->decode.state != PROA_DECODE_CLOSING)
            continue;
        proa_decode_actions actions;
        proa_decode_link_lost(&call->decode, quiet, now, &actions);
        proa_worker_decode_act(call, &actions);
    }
}

static void remove_session(worker_session *s)
{
    worker_session **at = &s->worker->sessions;
    while (*at != s)
        at = &(*at)->next;
    *at = s->next;
    free(s);
}

/* The link is gone or about to be closed by us. */
static void lose(worker_session *s, bool quiet)
{
    s->link = NULL;
    s->greeted = false;
    s->broken = false;
    if (s->inbound) {
        prefill_lost(s);
        remove_session(s);
        return;
    }
    proa_kv_inbox_close(s->inbox); /* what is still on a network does not arrive any more */
    s->inbox = NULL;
    decode_lost(s, quiet || proa_kv_transfer_closes_for_good(s->worker->transfer), false);
    s->dial_at_us = proa_clock_us() + s->backoff_us;
    s->backoff_us = s->backoff_us * 2 < BACKOFF_MAX_US ? s->backoff_us * 2 : BACKOFF_MAX_US;
}

static void end_session(worker_session *s, const char *why)
{
    proa_link *link = s->link;
    proa_log(PROA_LOG_WARN, "worker", "room link with %s ends: %s",
             link != NULL ? proa_link_address(link) : s->address, why);
    lose(s, false);
    proa_link_close(link);
}

static void on_down(void *context, proa_link *link, const proa_error *why)
{
    (void)context;
    worker_session *s = proa_link_user(link);
    if (s == NULL)
        return;
    bool quiet = why->status == PROA_ERR_UNREACHABLE && s->greeted;
    quiet |= why->status == PROA_ERR_NOT_FOUND; /* nobody listens there */
    if (s->greeted || has_calls(s))
        proa_log(PROA_LOG_WARN, "worker", "room link with %s is lost%s: %s",
                 s->inbound ? proa_link_address(link) : s->address,
                 quiet || s->inbound || proa_kv_transfer_closes_for_good(s->worker->transfer)
                     ? ""
                     : "; blocks that it may write to stay lent",
                 why->text);
    lose(s, quiet);
}

/* ---- greeting ---- */

static bool agrees(const proa_worker *w, const proa_wire_room_hello *m, proa_error *err)
{
    if (m->kv_dtype != w->layout.dtype)
        proa_error_set(err, PROA_ERR_PROTOCOL,
                       "it keeps its KV cache in %s, this worker in %s: give both the same --kv-cache-dtype "
                       "and --activation-dtype",
                       proa_kv_cache_name((proa_dtype)m->kv_dtype), proa_kv_cache_name(w->layout.dtype));
    else if (m->model_digest != w->card.model_digest)
        proa_error_set(err, PROA_ERR_PROTOCOL, "it serves another model (digest %016llx, here %016llx)%s",
                       (unsigned long long)m->model_digest, (unsigned long long)w->card.model_digest,
                       proa_wire_digest_hint(m->model_digest, w->card.model_digest));
    else if (m->transfer != w->options.transfer)
        proa_error_set(err, PROA_ERR_PROTOCOL, "it has another --disaggregation-transfer-backend");
    else
        return true;
    return false;
}

static bool greet(worker_session *s, proa_error *err)
{
    proa_worker *w = s->worker;
    proa_buf descriptor = {0};
    proa_wire_room_hello hello = {
        .model_digest = w->card.model_digest,
        .kv_dtype = (uint8_t)w->layout.dtype,
        .transfer = (uint8_t)w->options.transfer,
        .block_tokens = PROA_KV_BLOCK_TOKENS,
    };
    if (!s->inbound && proa_kv_inbox_open(w->transfer, &descriptor, &s->inbox, err) != PROA_OK)
        return false;
    hello.descriptor = (const uint8_t *)proa_buf_text(&descriptor);
    hello.descriptor_bytes = (uint32_t)descriptor.length;
    proa_buf_clear(&w->scratch);
    proa_wire_put_room_hello(&w->scratch, &hello);
    proa_buf_free(&descriptor);
    proa_worker_session_send(s, PROA_WIRE_ROOM_HELLO);
    return true;
}

/* Older links of the same decode worker end first: their writes are over before this one is answered. */
static void end_older(worker_session *fresh)
{
    proa_worker *w = fresh->worker;
    uint64_t instance = proa_link_peer(fresh->link)->instance;
    for (worker_session *s = w->sessions, *next; s != NULL; s = next) {
        next = s->next;
        if (s != fresh && s->inbound && s->link != NULL && proa_link_peer(s->link)->instance == instance)
            end_session(s, "the decode worker has dialled again");
    }
}

static bool take_hello(worker_session *s, const uint8_t *body, size_t length, proa_error *err)
{
    proa_worker *w = s->worker;
    proa_wire_room_hello m;
    if (!proa_wire_get_room_hello(body, length, &m, err) || !agrees(w, &m, err))
        return false;
    if (s->greeted)
        return proa_error_set(err, PROA_ERR_PROTOCOL, "it greets twice") == PROA_OK;
    if (s->inbound) {
        end_older(s);
        if (proa_kv_peer_connect(w->transfer, m.descriptor, m.descriptor_bytes, proa_link_address(s->link),
                                 &s->peer, &s->peer_blocks, err) != PROA_OK)
            return false;
        s->greeted = true;
        const char *path = proa_kv_peer_path(s->peer);
        proa_log(PROA_LOG_INFO, "worker", "decode worker %s is linked, KV rows go by %s%s%s",
                 proa_link_address(s->link), proa_kv_transfer_name(w->transfer), *path != '\0' ? " " : "",
                 path);
        return greet(s, err);
    }
    s->greeted = true;
    s->backoff_us = BACKOFF_US;
    decode_lost(s, true, true); /* what an older session left behind is quiet now */
    int64_t now = proa_clock_us();
    uint64_t epoch = proa_link_peer(s->link)->epoch;
    for (worker_call *call = w->calls, *next; call != NULL; call = next) {
        next = call->next;
        if (call->session != s || !call->has_room)
            continue;
        proa_decode_actions actions;
        if (call->peer_epoch != epoch) /* another process has its place */
            proa_decode_link_lost(&call->decode, true, now, &actions);
        else
            proa_decode_linked(&call->decode, now, &actions);
        proa_worker_decode_act(call, &actions);
    }
    return true;
}

static void on_up(void *context, proa_link *link)
{
    proa_worker *w = context;
    worker_session *s = proa_link_user(link);
    proa_error err = {0};
    if (s != NULL) { /* dialled */
        if (!greet(s, &err))
            end_session(s, err.text);
        return;
    }
    s = calloc(1, sizeof *s);
    if (s == NULL) {
        proa_link_close(link);
        return;
    }
    s->worker = w;
    s->inbound = true;
    s->link = link;
    s->next = w->sessions;
    w->sessions = s;
    proa_link_set_user(link, s);
}

/* ---- dialling ---- */

static void dial(worker_session *s)
{
    proa_worker *w = s->worker;
    proa_link_hooks hooks;
    proa_error err = {0};
    proa_status status = proa_link_dial(w->loop, &w->options.security, &w->self, s->address,
                                        proa_worker_session_hooks(w, &hooks), s, &s->link, &err);
    if (status == PROA_OK)
        return;
    proa_log(PROA_LOG_WARN, "worker", "the prefill worker at %s cannot be dialled: %s", s->address, err.text);
    lose(s, false);
}

worker_session *proa_worker_session_of(proa_worker *w, const char *address)
{
    for (worker_session *s = w->sessions; s != NULL; s = s->next) {
        if (!s->inbound && strcmp(s->address, address) == 0)
            return s;
    }
    worker_session *s = calloc(1, sizeof *s);
    if (s == NULL)
        return NULL;
    s->worker = w;
    s->backoff_us = BACKOFF_US;
    s->next = w->sessions;
    w->sessions = s;
    snprintf(s->address, sizeof s->address, "%s", address);
    proa_loop_wake(w->loop); /* dialled by the tick that follows, not from inside a request */
    return s;
}

void proa_worker_tick_sessions(proa_worker *w, int64_t now_us)
{
    for (worker_session *s = w->sessions, *next; s != NULL; s = next) {
        next = s->next;
        if (s->broken && s->link != NULL)
            end_session(s, "it does not take what it is sent, or a KV transfer does not move");
        else if (!s->inbound && s->link == NULL && now_us >= s->dial_at_us) {
            if (has_calls(s))
                dial(s);
            else
                remove_session(s); /* lost, and nothing waits for it */
        }
    }
}

void proa_worker_close_sessions(proa_worker *w)
{
    while (w->sessions != NULL) {
        worker_session *s = w->sessions;
        proa_link *link = s->link;
        bool inbound = s->inbound;
        lose(s, false);
        if (!inbound) { /* an inbound one is removed with its link */
            for (worker_call *call = w->calls; call != NULL; call = call->next) {
                if (call->session == s)
                    call->session = NULL;
            }
            remove_session(s);
        }
        proa_link_close(link);
    }
}

/* ---- messages ---- */

/* The decode side's blocks, into the call's arrays; checked against the peer's pool. */
static bool take_blocks(worker_session *s, worker_call *call, const proa_wire_room_open *m, proa_error *err)
{
    if ((int32_t)m->block_count != call->block_count)
        return proa_error_set(err, PROA_ERR_PROTOCOL, "room %016llx is opened with %u blocks for %d rows",
                              (unsigned long long)m->room, m->block_count, m->tokens) == PROA_OK;
    for (uint32_t i = 0; i < m->block_count; i++) {
        if (m->blocks[i] < 0 || m->blocks[i] >= s->peer_blocks)
            return proa_error_set(err, PROA_ERR_PROTOCOL, "room %016llx is opened with block %d of %d",
                                  (unsigned long long)m->room, m->blocks[i], s->peer_blocks) == PROA_OK;
        call->peer_blocks[i] = m->blocks[i];
        call->generations[i] = m->generations[i];
    }
    return true;
}

static bool check_epoch(const proa_worker *w, uint64_t room, uint64_t epoch, proa_error *err)
{
    if (epoch == w->self.epoch)
        return true;
    proa_error_set(err, PROA_ERR_PROTOCOL, "room %016llx is meant for epoch %016llx, this worker is %016llx",
                   (unsigned long long)room, (unsigned long long)epoch, (unsigned long long)w->self.epoch);
    return false;
}

static void refuse_room(worker_session *s, uint64_t room, const proa_error *error)
{
    proa_log(PROA_LOG_WARN, "worker", "refused %s: %s", proa_link_address(s->link), error->text);
    proa_buf_clear(&s->worker->scratch);
    proa_wire_put_room_fail(
        &s->worker->scratch,
        &(proa_wire_room_fail){.room = room, .epoch = proa_link_peer(s->link)->epoch, .error = *error});
    proa_worker_session_send(s, PROA_WIRE_ROOM_FAIL);
}

static void answer_room(worker_session *s, uint64_t room, uint16_t type)
{
    proa_buf_clear(&s->worker->scratch);
    proa_wire_put_room(&s->worker->scratch,
                       &(proa_wire_room){.room = room, .epoch = proa_link_peer(s->link)->epoch});
    proa_worker_session_send(s, type);
}

/* A room whose request has not come yet. */
static worker_call *offered_call(worker_session *s, const proa_wire_room_open *m, proa_error *err)
{
    proa_worker *w = s->worker;
    worker_call *call = proa_worker_call_new(w, NULL, 0);
    if (call == NULL || !proa_worker_call_rows(call, m->tokens) ||
        !proa_worker_call_open_room(call, m->room)) {
        proa_error_set(err, PROA_ERR_OVERLOADED, "out of memory for room %016llx",
                       (unsigned long long)m->room);
        if (call != NULL)
            proa_worker_call_settle(call);
        return NULL;
    }
    call->has_room = true;
    return call;
}

/* False: refused, the decode worker hears FAIL. */
static bool open_room(worker_session *s, const proa_wire_room_open *m, proa_error *err)
{
    proa_worker *w = s->worker;
    worker_call *call = proa_table_get(&w->rooms, m->room);
    proa_prefill_actions actions = {0};
    if (!check_epoch(w, m->room, m->epoch, err))
        return false;
    if (proa_graves_has(w->graves, m->room)) { /* it ended here before: nothing is written there */
        answer_room(s, m->room, PROA_WIRE_ROOM_QUIET);
        return true;
    }
    if (call != NULL && call->prefill.offered) {
        proa_log(PROA_LOG_WARN, "worker", "refused: room %016llx is opened twice, now by %s",
                 (unsigned long long)m->room, proa_link_address(s->link));
        return true; /* not even FAIL: it is the same room, and it goes on */
    }
    bool fresh = call == NULL;
    if (fresh && (call = offered_call(s, m, err)) == NULL)
        return false;
    if (!take_blocks(s, call, m, err)) {
        if (fresh)
            proa_worker_call_drop_room(call);
        return false;
    }
    call->session = s;
    call->peer_instance = proa_link_peer(s->link)->instance;
    call->peer_epoch = proa_link_peer(s->link)->epoch;
    if (fresh)
        proa_prefill_offered(&call->prefill, m->tokens, proa_clock_us());
    else
        proa_prefill_offer(&call->prefill, m->tokens, proa_clock_us(), &actions);
    proa_worker_prefill_act(call, &actions);
    return true;
}

static bool take_open(worker_session *s, const uint8_t *body, size_t length, proa_error *err)
{
    proa_wire_room_open open;
    if (!proa_wire_get_room_open(body, length, s->worker->arena, &open, err))
        return false;
    if (!open_room(s, &open, err))
        refuse_room(s, open.room, err);
    return true;
}

static bool abort_room(worker_session *s, const proa_wire_room *m)
{
    proa_worker *w = s->worker;
    worker_call *call = proa_table_get(&w->rooms, m->room);
    if (call == NULL)
        proa_graves_add(w->graves, m->room); /* an offer that comes late opens nothing */
    if (call == NULL || call->session != s)  /* nothing is in flight to there */
        answer_room(s, m->room, PROA_WIRE_ROOM_QUIET);
    if (call == NULL || (call->session != s && call->prefill.offered))
        return true;

    proa_prefill_actions actions;
    proa_prefill_abort(&call->prefill, &actions);
    proa_worker_prefill_act(call, &actions);
    return true;
}

/* Does DONE say what was asked for, and are the rows here those that were sent? */
static bool intact(const worker_call *call, const proa_wire_room_done *m)
{
    const proa_kv_layout *layout = &call->worker->layout;
    if (m->tokens != call->rows || (int32_t)m->block_count != call->block_count)
        return false;
    for (int32_t i = 0; i < call->block_count; i++) {
        int32_t left = call->rows - i * PROA_KV_BLOCK_TOKENS;
        int32_t rows = left < PROA_KV_BLOCK_TOKENS ? left : PROA_KV_BLOCK_TOKENS;
        if (m->generations[i] != call->generations[i] ||
            proa_kv_digest(layout, call->blocks[i], rows, call->room) != m->digests[i])
            return false;
    }
    return m->first.token >= 0 && m->first.token < call->worker->card.vocab_size;
}

static void end_decode_room(worker_session *s, worker_call *call, const proa_wire_room_done *done,
                            const proa_wire_room_fail *fail)
{
    proa_worker *w = s->worker;
    proa_decode_actions actions;
    if (done != NULL) {
        bool good = call->decode.state != PROA_DECODE_OPEN || intact(call, done);
        if (!good)
            proa_log(PROA_LOG_ERROR, "worker", "room %016llx: KV rows from %s are not those that were sent",
                     (unsigned long long)call->room, s->address);
        call->first = done->first;
        call->cached_tokens = done->cached_tokens;
        w->load.transfers_failed += !good; /* the prefill worker counts those that are well */

        proa_decode_done(&call->decode, good, &actions);
    } else if (fail != NULL) {
        w->load.transfers_failed++;
        proa_decode_fail(&call->decode, fail->error.status, fail->error.text, &actions);
    } else {
        proa_decode_quiet(&call->decode, &actions);
    }
    proa_worker_decode_act(call, &actions);
}

static bool take_room_end(worker_session *s, uint16_t type, const uint8_t *body, size_t length,
                          proa_error *err)
{
    proa_worker *w = s->worker;
    proa_wire_room_done done;
    proa_wire_room_fail fail;
    proa_wire_room quiet;
    uint64_t room = 0, epoch = 0;
    bool good = false;
    if (type == PROA_WIRE_ROOM_DONE && (good = proa_wire_get_room_done(body, length, w->arena, &done, err))) {
        room = done.room;
        epoch = done.epoch;
    } else if (type == PROA_WIRE_ROOM_FAIL && (good = proa_wire_get_room_fail(body, length, &fail, err))) {
        room = fail.room;
        epoch = fail.epoch;
    } else if (type == PROA_WIRE_ROOM_QUIET && (good = proa_wire_get_room(body, length, &quiet, err))) {
        room = quiet.room;
        epoch = quiet.epoch;
    }
    if (!good)
        return false;
    if (!check_epoch(w, room, epoch, err)) {
        proa_log(PROA_LOG_WARN, "worker", "refused %s: %s", proa_link_address(s->link), err->text);
        return true;
    }
    worker_call *call = proa_table_get(&w->rooms, room);
    if (call != NULL && call->session == s)
        end_decode_room(s, call, type == PROA_WIRE_ROOM_DONE ? &done : NULL,
                        type == PROA_WIRE_ROOM_FAIL ? &fail : NULL);
    return true;
}

static void on_message(void *context, proa_link *link, uint16_t type, const uint8_t *body, size_t length)
{
    proa_worker *w = context;
    worker_session *s = proa_link_user(link);
    proa_wire_room room;
    proa_error err = {0};
    bool good = false;
    proa_arena_reset(w->arena);
    if (type == PROA_WIRE_ROOM_HELLO)
        good = take_hello(s, body, length, &err);
    else if (!s->greeted)
        proa_error_set(&err, PROA_ERR_PROTOCOL, "it does not greet first");
    else if (type == PROA_WIRE_ROOM_OPEN && s->inbound)
        good = take_open(s, body, length, &err);
    else if (type == PROA_WIRE_ROOM_ABORT && s->inbound)
        good = proa_wire_get_room(body, length, &room, &err) && abort_room(s, &room);
    else if (!s->inbound)
        good = take_room_end(s, type, body, length, &err);
    else
        proa_error_set(&err, PROA_ERR_PROTOCOL, "message type %u is not known on room links", type);
    if (!good && s->link != NULL)
        end_session(s, err.text);
}

const proa_link_hooks *proa_worker_session_hooks(proa_worker *w, proa_link_hooks *hooks)
{
    *hooks = (proa_link_hooks){.up = on_up, .message = on_message, .down = on_down, .context = w};
    return hooks;
}
