/* client_call.c - carries out what a request's plan says: picks workers, sends SUBMIT, CANCEL and GRANT, gives tokens to the
 * sink, and finishes it.
 *
 * A leg's id on its link is  serial << 17 | slot << 1 | leg,  so that a message finds its call without a table; the serial is
 * never used twice, so one for a leg that is over finds nothing.
 */
#include "base/clock.h"
#include "base/log.h"
#include "cluster/client_internal.h"

#include <stdlib.h>
#include <string.h>

enum { SLOT_BITS = 16 };
_Static_assert(CLIENT_CALLS_MAX == 1 << SLOT_BITS, "a slot's number fits the field of a leg's id");

/* ---- legs ---- */

static uint32_t slot_of(const client_call *call)
{
    return (uint32_t)call->id - 1;
}

/* The worker that the leg was sent to, or NULL when it is forgotten. */
static client_worker *worker_of(const client_call *call, proa_call_leg leg)
{
    const client_leg *l = &call->legs[leg];
    client_worker *worker = l->epoch != 0 ? call->client->workers[l->worker] : NULL;
    return worker != NULL && worker->instance.epoch == l->epoch ? worker : NULL;
}

/* The leg is over: later messages with its id find nothing. */
static void close_leg(client_call *call, proa_call_leg leg)
{
    client_leg *l = &call->legs[leg];
    const client_worker *worker = worker_of(call, leg);
    if (l->id == 0)
        return;
    l->id = 0;
    if (worker != NULL)
        proa_router_released(call->client->router, worker->number, l->tokens);
    call->client->changed = true;
}

static void send_cancel(client_worker *worker, uint64_t id)
{
    proa_client_nats_settle(worker, id);
    proa_buf *scratch = &worker->client->scratch;
    proa_buf_clear(scratch);
    proa_wire_put_cancel(scratch, &(proa_wire_cancel){.id = id});
    proa_client_worker_send(worker, PROA_WIRE_CANCEL);
}

static void cancel_leg(client_call *call, proa_call_leg leg)
{
    uint64_t id = call->legs[leg].id;
    client_worker *worker = worker_of(call, leg);
    close_leg(call, leg);
    if (id != 0 && worker != NULL && worker->state == CLIENT_WORKER_READY)
        send_cancel(worker, id);
}

static void send_grant(client_call *call, int32_t tokens)
{
    client_worker *worker = worker_of(call, PROA_CALL_MAIN);
    proa_buf *scratch = &call->client->scratch;
    while (worker != NULL && tokens > 0) {
        int32_t now = tokens < PROA_WIRE_CREDIT_MAX ? tokens : PROA_WIRE_CREDIT_MAX;
        proa_buf_clear(scratch);
        proa_wire_put_grant(scratch,
                            &(proa_wire_grant){.id = call->legs[PROA_CALL_MAIN].id, .tokens = (uint32_t)now});
        if (proa_client_worker_send(worker, PROA_WIRE_GRANT) != PROA_OK)
            return;
        tokens -= now;
    }
}

/* ---- an attempt ---- */

static void place_leg(client_call *call, proa_call_leg leg, int32_t number)
{
    proa_client *client = call->client;
    client_leg *l = &call->legs[leg];
    *l = (client_leg){
        .id = ++client->leg_serial << (SLOT_BITS + 1) | (uint64_t)slot_of(call) << 1 | (uint64_t)leg,
        .worker = number,
        .epoch = client->workers[number]->instance.epoch,
        .tokens = proa_call_plan_length(call->plan),
    };
    proa_router_placed(client->router, number, l->tokens);
    client->workers[number]->requests++;
    client->changed = true;
}

static proa_status submit_leg(client_call *call, proa_call_leg leg)
{
    client_worker *worker = worker_of(call, leg);
    const client_worker *other = worker_of(call, leg == PROA_CALL_MAIN ? PROA_CALL_PREFILL : PROA_CALL_MAIN);
    proa_wire_submit submit = {.id = call->legs[leg].id, .epoch = worker->instance.epoch};
    proa_call_plan_submit(call->plan, leg, &submit);
    if (submit.room != 0) {
        submit.peer_instance = other->instance.id;
        submit.peer_epoch = other->instance.epoch;
    }
    if (submit.leg == PROA_LEG_DECODE)
        memcpy(submit.bootstrap, other->card.bootstrap, sizeof submit.bootstrap);
    proa_buf_clear(&call->client->scratch);
    proa_wire_put_submit(&call->client->scratch, &submit);
    return proa_client_send_submit(worker, submit.id);
}

static uint64_t draw_room(void)
{
    uint64_t room;
    do
        proa_random_bytes(&room, sizeof room);
    while (room == 0);
    return room;
}

/* Begins an attempt at the workers picked, with this room when they are two; `todo` gets what follows when that fails at once. */
static void attempt(client_call *call, const proa_router_pick *pick, uint64_t room, int64_t now_us,
                    proa_call_todo *todo)
{
    proa_client *client = call->client;
    const proa_wire_card *card = &client->workers[pick->main]->card;
    proa_call_pick to = {
        .pair = pick->prefill >= 0,
        .room = pick->prefill >= 0 ? room : 0,
        .context_length = card->context_length < card->kv_tokens ? card->context_length : card->kv_tokens,
        .vocab_size = card->vocab_size,
    };
    memset(call->legs, 0, sizeof call->legs);
    place_leg(call, PROA_CALL_MAIN, pick->main);
    if (to.pair)
        place_leg(call, PROA_CALL_PREFILL, pick->prefill);
    for (int leg = 0; leg < PROA_CALL_LEGS; leg++)
        to.epochs[leg] = call->legs[leg].epoch;
    proa_call_plan_picked(call->plan, &to);
    *todo = (proa_call_todo){0};
    for (int leg = to.pair ? PROA_CALL_PREFILL : PROA_CALL_MAIN; leg < PROA_CALL_LEGS; leg++) {
        if (submit_leg(call, (proa_call_leg)leg) == PROA_OK)
            continue;
        proa_error why = worker_of(call, (proa_call_leg)leg)->why; /* it is broken now */
        close_leg(call, (proa_call_leg)leg);
        proa_call_plan_lost(call->plan, proa_call_plan_attempt(call->plan), (proa_call_leg)leg, &why, now_us,
                            todo);
        return;
    }
}

static void pick(client_call *call, proa_call_todo *todo)
{
    int64_t now = proa_clock_us();
    const proa_engine_request *request = proa_call_plan_request(call->plan);
    proa_router_ask ask = {
        .prompt_ids = request->prompt_ids,
        .prompt_count = request->prompt_count,
        .room = draw_room(),
        .now_us = now,
    };
    ask.refused_count = proa_call_plan_refused(call->plan, &ask.refused);
    proa_router_pick found;
    proa_error err;
    if (proa_router_choose(call->client->router, &ask, &found, &err) == PROA_OK)
        attempt(call, &found, ask.room, now, todo);
    else
        proa_call_plan_unpicked(call->plan, &err, now, todo);
}

/* ---- ends ---- */

void proa_client_call_release(client_call *call)
{
    pthread_mutex_lock(&call->client->lock);
    bool rung = call->rung;
    pthread_mutex_unlock(&call->client->lock);
    if (rung || call->looked_at)
        return; /* the loop comes by once more */
    proa_call_plan_free(call->plan);
    free(call);
}

/* The slot and the room at the workers are free before the sink hears of the end, so that it may submit again. */
static void finish(client_call *call, const proa_engine_finish *said)
{
    proa_client *client = call->client;
    uint32_t slot = slot_of(call);
    if (call->previous != NULL)
        call->previous->next = call->next;
    else
        client->begun = call->next;
    if (call->next != NULL)
        call->next->previous = call->previous;
    client->by_slot[slot] = NULL;
    client->changed = true;
    bool own = proa_is_request_error(said->error.status) && said->error.status != PROA_ERR_DEADLINE;
    client->counts.failures += said->reason == PROA_FINISH_ABORT && !own;
    if (said->reason == PROA_FINISH_ABORT)
        proa_log(PROA_LOG_DEBUG, "cluster", "a request failed: %s", said->error.text);
    pthread_mutex_lock(&client->lock);
    client->slots[slot].call = NULL;
    client->slots[slot].generation++;
    client->free_slots[client->free_count++] = slot;
    pthread_mutex_unlock(&client->lock);
    proa_client_publish(client);
    call->over = true;
    call->sink.finish(call->sink.context, said);
    proa_client_call_release(call);
}

/* ---- what the plan says ---- */

static void tell_router(client_call *call, const proa_call_todo *todo)
{
    proa_router *router = call->client->router;
    const client_worker *main = worker_of(call, PROA_CALL_MAIN);
    const client_worker *prefill = worker_of(call, PROA_CALL_PREFILL);
    int64_t now = proa_clock_us();
    for (int leg = 0; leg < PROA_CALL_LEGS; leg++) {
        const client_worker *worker = leg == PROA_CALL_MAIN ? main : prefill;
        if (worker != NULL && todo->failed[leg])
            proa_router_failed(router, worker->number, now);
        if (worker != NULL && todo->worked[leg])
            proa_router_worked(router, worker->number);
    }
    if (main != NULL && prefill != NULL && todo->pair_failed)
        proa_router_pair_failed(router, prefill->number, main->number, now);
    if (main != NULL && prefill != NULL && todo->pair_worked)
        proa_router_pair_worked(router, prefill->number, main->number);
}

/* `tokens` are the event's, to be delivered when the plan says so. The call is gone when it has finished. */
static void carry_out(client_call *call, proa_call_todo *todo, const proa_wire_tokens *tokens)
{
    for (bool again = true; again;) {
        for (int leg = 0; leg < PROA_CALL_LEGS; leg++) {
            if (todo->cancel[leg])
                cancel_leg(call, (proa_call_leg)leg);
        }
        tell_router(call, todo);
        for (uint32_t i = 0; todo->deliver && i < tokens->count; i++)
            call->sink.token(call->sink.context, &tokens->tokens[i], tokens->stop && i + 1 == tokens->count);
        if (todo->grant > 0)
            send_grant(call, todo->grant);
        if (todo->replaying) {
            call->client->counts.migrations++;
            proa_log(PROA_LOG_DEBUG, "cluster", "a request goes on elsewhere after %d tokens",
                     proa_call_plan_request(call->plan)->output_count);
        }
        again = todo->pick;
        if (todo->finished)
            finish(call, &todo->finish);
        else if (todo->pick)
            pick(call, todo);
    }
}

/* ---- events ---- */

void proa_client_call_begin(client_call *call, bool cancelled)
{
    proa_client *client = call->client;
    proa_call_todo todo;
    call->begun = true;
    call->next = client->begun;
    if (call->next != NULL)
        call->next->previous = call;
    client->begun = call;
    client->by_slot[slot_of(call)] = call;
    client->begun_count++;
    client->counts.requests++;
    client->changed = true;
    if (cancelled)
        return; /* and will be ended before it has gone anywhere */
    proa_call_plan_start(call->plan, &todo);
    carry_out(call, &todo, NULL);
}

void proa_client_call_cancel(client_call *call, const char *why)
{
    proa_call_todo todo;
    proa_call_plan_cancel(call->plan, why, &todo);
    carry_out(call, &todo, NULL);
}

void proa_client_call_grant(client_call *call, int32_t tokens)
{
    proa_call_todo todo;
    proa_call_plan_grant(call->plan, tokens, proa_clock_us(), &todo);
    carry_out(call, &todo, NULL);
}

void proa_client_call_retry(client_call *call)
{
    proa_call_todo todo;
    proa_call_plan_retry(call->plan, &todo);
    carry_out(call, &todo, NULL);
}

/* The call and the leg that a worker's message is for; NULL when they are over or the worker is another one. */
static client_call *find(const client_worker *worker, uint64_t id, proa_call_leg *leg)
{
    *leg = (proa_call_leg)(id & 1);
    client_call *call = worker->client->by_slot[id >> 1 & (CLIENT_CALLS_MAX - 1)];
    if (id == 0 || call == NULL || call->legs[*leg].id != id || worker_of(call, *leg) != worker)
        return NULL;
    return call;
}

void proa_client_call_tokens(client_worker *worker, const proa_wire_tokens *tokens)
{
    proa_call_leg leg;
    proa_call_todo todo;
    client_call *call = find(worker, tokens->id, &leg);
    if (call == NULL) { /* it may have missed a CANCEL that overtook its SUBMIT */
        send_cancel(worker, tokens->id);
        return;
    }
    if (leg != PROA_CALL_MAIN) {
        proa_client_worker_break(worker, PROA_ERR_PROTOCOL, "it sent tokens of a prefill leg");
        return;
    }
    proa_call_plan_tokens(call->plan, proa_call_plan_attempt(call->plan), tokens, proa_clock_us(), &todo);
    carry_out(call, &todo, tokens);
}

void proa_client_call_finish(client_worker *worker, const proa_wire_finish *said)
{
    proa_call_leg leg;
    proa_call_todo todo;
    client_call *call = find(worker, said->id, &leg);
    if (call == NULL)
        return; /* of a leg that was cancelled */
    bool blamed = said->blame != 0 && said->blame != worker->instance.id;
    close_leg(call, leg);
    proa_call_plan_ended(call->plan, proa_call_plan_attempt(call->plan), leg, &said->finish, blamed,
                         proa_clock_us(), &todo);
    carry_out(call, &todo, NULL);
}

int32_t proa_client_calls_lost(client_worker *worker, const proa_error *why)
{
    int32_t lost = 0;
    int64_t now = proa_clock_us();
    for (client_call *call = worker->client->begun, *next; call != NULL; call = next) {
        next = call->next;
        for (int leg = 0; leg < PROA_CALL_LEGS; leg++) {
            proa_call_todo todo;
            if (call->legs[leg].id == 0 || worker_of(call, (proa_call_leg)leg) != worker)
                continue;
            lost++;
            close_leg(call, (proa_call_leg)leg);
            proa_call_plan_lost(call->plan, proa_call_plan_attempt(call->plan), (proa_call_leg)leg, why, now,
                                &todo);
            carry_out(call, &todo, NULL);
            break; /* the other leg was elsewhere, and the call may be gone */
        }
    }
    return lost;
}
