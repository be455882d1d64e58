/* worker_nats.c - requests that come through nats-server, or over the link in the same seal (nats_message.h).
 *
 * Whoever can publish to the subject can send bytes here. So nothing is believed before the seal has been checked with the key
 * of the link that the frontend has to this worker; a frontend without a link has no request here.
 */
#include "base/clock.h"
#include "cluster/worker_internal.h"

#include <stdlib.h>

enum {
    MESSAGES_A_TURN = 256
}; /* the rest waits for the next wake or tick, so that a flood does not hold the loop */

static void wake(void *context)
{
    proa_loop_wake(context);
}

proa_status proa_worker_start_nats(proa_worker *w, proa_error *err)
{
    const proa_nats_options options = {.server = w->options.nats_server,
                                       .name = w->self.name,
                                       .subject = w->instance.nats_subject,
                                       .wake = wake,
                                       .context = w->loop};
    return w->options.nats_server != NULL ? proa_nats_create(&options, &w->nats, err) : PROA_OK;
}

static void complain(proa_worker *w, const proa_error *err)
{
    proa_nats_complain(&w->nats_complaints, proa_clock_us(), err->text);
}

static void take_message(proa_worker *w, const uint8_t *message, size_t length)
{
    proa_error err = {0};
    proa_nats_letter letter;
    uint64_t frontend;
    if (!proa_nats_peek(message, length, &frontend, &err)) {
        complain(w, &err);
        return;
    }
    worker_front *front = proa_worker_find_front(w, frontend);
    if (front == NULL) {
        proa_error_set(&err, PROA_ERR_PROTOCOL, "it says that it is of frontend %llx, which has no link here",
                       (unsigned long long)frontend);
        complain(w, &err);
        return;
    }
    proa_status status = proa_nats_inbox_open(&front->inbox, false, message, length, &letter, &err);
    if (status == PROA_ERR_PROTOCOL)
        complain(w, &err);
    if (status != PROA_OK)
        return;
    proa_buf_clear(&w->scratch);
    proa_wire_put_taken(&w->scratch, &(proa_wire_taken){.sequence = letter.sequence});
    proa_worker_front_send(front, PROA_WIRE_TAKEN);
    proa_worker_front_submit(w, front, letter.body, letter.length);
}

void proa_worker_take_nats(proa_worker *w)
{
    proa_nats_event event;
    for (int i = 0; i < MESSAGES_A_TURN && w->nats != NULL && proa_nats_take(w->nats, &event); i++) {
        take_message(w, event.message, event.length);
        free(event.message);
    }
}

void proa_worker_front_relay(worker_front *front, const void *body, size_t length)
{
    proa_worker *w = front->worker;
    proa_error err = {0};
    proa_nats_letter letter;
    proa_status status = proa_nats_inbox_open(&front->inbox, true, body, length, &letter, &err);
    if (status == PROA_OK)
        proa_worker_front_submit(w, front, letter.body, letter.length);
    else if (status == PROA_ERR_PROTOCOL)
        complain(w, &err);
}
