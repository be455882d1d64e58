/* client_nats.c - SUBMITs that go through nats-server, and what goes over the link instead (nats_message.h).
 *
 * A SUBMIT goes by NATS when the plane is up, the worker has said where it listens, and its last ones were acknowledged in time. In all other
 * cases, and whenever an acknowledgement is missed, the link takes it: so nats-server may go at any moment, and costs
 * at most PROA_NATS_ACK_US.
 */
#include "base/clock.h"
#include "base/log.h"
#include "cluster/client_internal.h"

static void wake(void *context)
{
    proa_loop_wake(context);
}

proa_status proa_client_nats_start(proa_client *client, proa_error *err)
{
    const proa_client_options *o = &client->options;
    const proa_nats_options options = {
        .server = o->nats_server, .name = o->identity.name, .wake = wake, .context = client->loop};
    if (o->nats_server == NULL)
        return PROA_OK;
    if (o->identity.instance == 0) /* by it a worker finds the link that a request belongs to */
        return proa_error_set(err, PROA_ERR_INVALID, "a frontend needs an instance id for requests by NATS");
    return proa_nats_create(&options, &client->nats, err);
}

void proa_client_nats_linked(client_worker *worker)
{
    const proa_client *client = worker->client;
    if (client->nats == NULL || worker->instance.nats_subject[0] == 0 || worker->outbox != NULL)
        return;
    worker->outbox =
        proa_nats_outbox_create(proa_link_session_key(worker->link), client->options.identity.instance);
}

void proa_client_nats_unlinked(client_worker *worker)
{
    proa_nats_outbox_free(worker->outbox);
    worker->outbox = NULL;
}

proa_status proa_client_send_submit(client_worker *worker, uint64_t id)
{
    proa_client *client = worker->client;
    const proa_buf *body = &client->scratch;
    int64_t now = proa_clock_us();
    if (worker->outbox != NULL && !body->failed && proa_nats_is_up(client->nats) &&
        proa_nats_outbox_ready(worker->outbox, now)) {
        uint64_t sequence;
        const proa_buf *sealed =
            proa_nats_outbox_seal(worker->outbox, id, body->data, body->length, now, &sequence);
        if (sealed != NULL &&
            proa_nats_publish(client->nats, worker->instance.nats_subject, worker->instance.id, sequence,
                              sealed->data, sealed->length) == PROA_OK) {
            client->counts.by_nats++;
            return PROA_OK;
        }
        if (sealed != NULL)
            proa_nats_outbox_forget(worker->outbox, sequence);
    }
    return proa_client_worker_send(worker, PROA_WIRE_SUBMIT);
}

/* Sends a letter over the link, and frees it. */
static void relay(client_worker *worker, proa_buf *letter, const char *why)
{
    proa_client *client = worker->client;
    proa_log(PROA_LOG_DEBUG, "nats", "a request for %s goes over its link: %s", worker->instance.address,
             why);
    client->counts.relayed++;
    proa_buf_clear(&client->scratch);
    proa_buf_append(&client->scratch, letter->data, letter->length);
    proa_buf_free(letter);
    proa_client_worker_send(worker, PROA_WIRE_RELAY);
}

void proa_client_nats_settle(client_worker *worker, uint64_t id)
{
    proa_buf letter;
    if (worker->outbox != NULL && proa_nats_outbox_take_id(worker->outbox, id, &letter))
        relay(worker, &letter, "it is cancelled and was not acknowledged yet");
}

void proa_client_nats_taken(client_worker *worker, const proa_wire_taken *taken)
{
    if (worker->outbox != NULL)
        proa_nats_outbox_forget(worker->outbox, taken->sequence);
}

void proa_client_nats_tick(client_worker *worker, int64_t now_us)
{
    proa_buf letter;
    while (worker->outbox != NULL && proa_nats_outbox_take_due(worker->outbox, now_us, &letter))
        relay(worker, &letter, "nats-server has it, and the worker did not acknowledge it");
}

static void take_undelivered(proa_client *client, const proa_nats_event *event)
{
    proa_buf letter;
    for (int32_t i = 0; i < CLIENT_WORKERS_MAX; i++) {
        client_worker *worker = client->workers[i];
        if (worker != NULL && worker->outbox != NULL && worker->instance.id == event->worker &&
            proa_nats_outbox_take(worker->outbox, event->sequence, proa_clock_us(), &letter))
            relay(worker, &letter, "nats-server could not deliver it");
    }
}

void proa_client_nats_take(proa_client *client)
{
    proa_nats_event event;
    while (client->nats != NULL && proa_nats_take(client->nats, &event)) {
        if (event.undelivered)
            take_undelivered(client, &event);
    }
}
