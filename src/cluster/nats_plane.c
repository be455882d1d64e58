/* nats_plane.c - the only file that includes nats.h: a thread that connects, publishes and connects again.
 *
 * One connection of the library is a session. The library's own reconnecting is off: a session that has ended is let go of and another one is
 * made, so that there is one place where the plane goes up or down, and no message is kept for a server that may come
 * back later, when its request has long gone over the link. Callbacks run on threads of the library and may come after the
 * plane is gone; so they hold a reference to the session, which forgets the plane under its lock.
 *
 *   thread:   connect ──> up: take from `outgoing`, publish ──session closed──> down: bounce, wait, connect ...
 *   library:  on_message ──> `events` ──wake──> the owner takes
 */
#include "cluster/nats_plane.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mailbox.h"
#include "cluster/nats_message.h"

#include <inttypes.h>
#include <nats/nats.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    SERVERS_MAX = 16,
    SUBJECT_BYTES = 192,
    SERVER_BYTES = 1024,
    WRITE_MS = 1000,
    PING_MS = 1000,
    PINGS_OUT = 2
};

typedef struct letter {
    char subject[SUBJECT_BYTES];
    uint64_t worker, sequence;
    size_t length;
    uint8_t message[];
} letter;

typedef struct session {
    pthread_mutex_t lock;
    proa_nats *nats;       /* NULL after the plane has let go of it; under lock */
    atomic_int references; /* the thread's, the closed callback's, the subscription's */
    atomic_bool closed;    /* relaxed: the thread looks at it in each turn */
    natsConnection *connection;
    natsSubscription *subscription;
} session;

struct proa_nats {
    char server[SERVER_BYTES];
    char shown[SERVER_BYTES]; /* without user and password */
    char name[128];
    char subject[SUBJECT_BYTES]; /* "" for a frontend */
    char inbox[64];              /* a frontend's: where the server says that nobody listens */
    pthread_t thread;
    proa_mailbox *outgoing; /* letter * */
    proa_mailbox *events;   /* proa_nats_event * */
    /* relaxed: each is a hint or a sum, and orders nothing else */
    atomic_bool up, stops;
    atomic_size_t outgoing_bytes, event_bytes;
    atomic_int_least64_t max_payload;
    /* the thread's */
    session *session;
    bool told_down;
    int64_t lost_us; /* since when it is down; 0: it has never been up */
};

static bool get(const atomic_bool *flag)
{
    return atomic_load_explicit(flag, memory_order_relaxed);
}

static void set(atomic_bool *flag, bool value)
{
    atomic_store_explicit(flag, value, memory_order_relaxed);
}

/* ---- queues: bounded by count (the mailbox) and by bytes ---- */

static bool reserve(atomic_size_t *bytes, size_t length)
{
    if (atomic_fetch_add_explicit(bytes, length, memory_order_relaxed) + length <= PROA_NATS_QUEUED_BYTES_MAX)
        return true;
    atomic_fetch_sub_explicit(bytes, length, memory_order_relaxed);
    return false;
}

static void release(atomic_size_t *bytes, size_t length)
{
    atomic_fetch_sub_explicit(bytes, length, memory_order_relaxed);
}

/* Gives an event to the owner. One that finds no place is dropped: its acknowledgement will be missed. */
static void push_event(proa_nats *nats, const proa_nats_event *event, const void *message)
{
    if (!reserve(&nats->event_bytes, event->length))
        return;
    proa_nats_event *copy = malloc(sizeof *copy);
    if (copy != NULL) {
        *copy = *event;
        copy->message = malloc(event->length > 0 ? event->length : 1);
    }
    if (copy != NULL && copy->message != NULL) {
        if (event->length > 0)
            memcpy(copy->message, message, event->length);
        if (proa_mailbox_send(nats->events, copy) == PROA_OK)
            return;
        free(copy->message);
    }
    free(copy);
    release(&nats->event_bytes, event->length);
}

bool proa_nats_take(proa_nats *nats, proa_nats_event *event)
{
    proa_nats_event *taken = proa_mailbox_take(nats->events);
    if (taken == NULL)
        return false;
    *event = *taken;
    free(taken);
    release(&nats->event_bytes, event->length);
    if (event->undelivered) {
        free(event->message);
        event->message = NULL;
    }
    return true;
}

static void bounce(proa_nats *nats, uint64_t worker, uint64_t sequence)
{
    push_event(nats, &(proa_nats_event){.undelivered = true, .worker = worker, .sequence = sequence}, NULL);
}

/* ---- sessions ---- */

static void session_release(session *s)
{
    /* acquire and release: the last one sees all that the others did */
    if (atomic_fetch_sub_explicit(&s->references, 1, memory_order_acq_rel) > 1)
        return;
    pthread_mutex_destroy(&s->lock);
    free(s);
}

static void on_complete(void *context)
{
    session_release(context);
}

static void on_closed(natsConnection *connection, void *context)
{
    (void)connection;
    session *s = context;
    pthread_mutex_lock(&s->lock);
    if (s->nats != NULL)
        set(&s->nats->up, false);
    pthread_mutex_unlock(&s->lock);
    set(&s->closed, true);
    session_release(s);
}

/* "inbox.WORKER.SEQUENCE", both in hex: the server has found nobody at the subject of that letter. */
static void take_no_responders(proa_nats *nats, natsMsg *message)
{
    const char *subject = natsMsg_GetSubject(message);
    size_t head = strlen(nats->inbox);
    uint64_t worker, sequence;
    if (natsMsg_IsNoResponders(message) && strncmp(subject, nats->inbox, head) == 0 &&
        sscanf(subject + head, ".%16" SCNx64 ".%16" SCNx64, &worker, &sequence) == 2)
        bounce(nats, worker, sequence);
}

static void on_message(natsConnection *connection, natsSubscription *subscription, natsMsg *message,
                       void *context)
{
    (void)connection;
    (void)subscription;
    session *s = context;
    int length = natsMsg_GetDataLength(message);
    pthread_mutex_lock(&s->lock);
    if (s->nats != NULL && s->nats->subject[0] == 0)
        take_no_responders(s->nats, message);
    else if (s->nats != NULL && length > 0)
        push_event(s->nats, &(proa_nats_event){.length = (size_t)length}, natsMsg_GetData(message));
    pthread_mutex_unlock(&s->lock);
    natsMsg_Destroy(message);
}

/* The library reports what it drops and what the server refuses; connections that end are told of by on_closed. */
static void on_error(natsConnection *connection, natsSubscription *subscription, natsStatus status,
                     void *context)
{
    (void)connection;
    (void)subscription;
    (void)context;
    proa_log(PROA_LOG_DEBUG, "nats", "%s", natsStatus_GetText(status));
}

/* Splits at commas, in place. */
static int split_servers(char *text, const char *servers[SERVERS_MAX])
{
    int count = 0;
    char *rest = NULL;
    for (char *at = strtok_r(text, ", ", &rest); at != NULL && count < SERVERS_MAX;
         at = strtok_r(NULL, ", ", &rest))
        servers[count++] = at;
    return count;
}

static natsStatus make_options(const char *server, const char *name, session *s, natsOptions **made)
{
    char copy[SERVER_BYTES];
    const char *servers[SERVERS_MAX];
    natsOptions *o = NULL;
    snprintf(copy, sizeof copy, "%s", server);
    int count = split_servers(copy, servers);
    natsStatus status = count > 0 ? natsOptions_Create(&o) : NATS_INVALID_ARG;
    if (status == NATS_OK)
        status = natsOptions_SetServers(o, servers, count);
    if (status == NATS_OK)
        status = natsOptions_SetName(o, name);
    if (status == NATS_OK)
        status = natsOptions_SetAllowReconnect(o, false);
    if (status == NATS_OK)
        status = natsOptions_SetTimeout(o, PROA_NATS_CONNECT_MS);
    if (status == NATS_OK)
        status = natsOptions_SetWriteDeadline(o, WRITE_MS);
    if (status == NATS_OK)
        status = natsOptions_SetPingInterval(o, PING_MS);
    if (status == NATS_OK)
        status = natsOptions_SetMaxPingsOut(o, PINGS_OUT);
    if (status == NATS_OK)
        status = natsOptions_SetSendAsap(o, true);
    if (status == NATS_OK)
        status = natsOptions_SetErrorHandler(o, on_error, NULL);
    if (status == NATS_OK && s != NULL)
        status = natsOptions_SetClosedCB(o, on_closed, s);
    if (status != NATS_OK) {
        natsOptions_Destroy(o);
        o = NULL;
    }
    *made = o;
    return status;
}

static natsStatus subscribe(proa_nats *nats, session *s)
{
    char subject[SUBJECT_BYTES + 8], group[SUBJECT_BYTES];
    natsStatus status;
    if (nats->subject[0] != 0) { /* the group is named as Dynamo's service: "{namespace}_{component}" */
        snprintf(group, sizeof group, "%.*s", (int)strcspn(nats->subject, "."), nats->subject);
        status = natsConnection_QueueSubscribe(&s->subscription, s->connection, nats->subject, group,
                                               on_message, s);
    } else {
        snprintf(subject, sizeof subject, "%s.*.*", nats->inbox);
        status = natsConnection_Subscribe(&s->subscription, s->connection, subject, on_message, s);
    }
    if (status != NATS_OK)
        return status;
    atomic_fetch_add_explicit(&s->references, 1, memory_order_relaxed);
    status = natsSubscription_SetOnCompleteCB(s->subscription, on_complete, s);
    if (status != NATS_OK) { /* the session stays behind, rather than go while its callback may run */
        proa_log(PROA_LOG_DEBUG, "nats", "no completion callback: %s", natsStatus_GetText(status));
        return status;
    }
    status =
        natsSubscription_SetPendingLimits(s->subscription, PROA_NATS_QUEUED_MAX, PROA_NATS_QUEUED_BYTES_MAX);
    return status == NATS_OK ? natsConnection_FlushTimeout(s->connection, PROA_NATS_CONNECT_MS) : status;
}

/* No callback touches the plane after this. */
static void let_go(proa_nats *nats)
{
    session *s = nats->session;
    if (s == NULL)
        return;
    nats->session = NULL;
    set(&nats->up, false);
    pthread_mutex_lock(&s->lock);
    s->nats = NULL;
    pthread_mutex_unlock(&s->lock);
    natsSubscription_Destroy(s->subscription);
    natsConnection_Destroy(s->connection);
    session_release(s);
}

static natsStatus connect_session(proa_nats *nats)
{
    natsOptions *options = NULL;
    session *s = calloc(1, sizeof *s);
    if (s == NULL)
        return NATS_NO_MEMORY;
    pthread_mutex_init(&s->lock, NULL);
    s->nats = nats;
    atomic_init(&s->references, 1);
    natsStatus status = make_options(nats->server, nats->name, s, &options);
    if (status == NATS_OK)
        status = natsConnection_Connect(&s->connection, options);
    natsOptions_Destroy(options);
    nats->session = s;
    if (status == NATS_OK) { /* from here on its end is told of */
        atomic_fetch_add_explicit(&s->references, 1, memory_order_relaxed);
        status = subscribe(nats, s);
    }
    if (status != NATS_OK) {
        let_go(nats);
        return status;
    }
    atomic_store_explicit(&nats->max_payload, natsConnection_GetMaxPayload(s->connection),
                          memory_order_relaxed);
    set(&nats->up, true);
    if (get(&s->closed)) /* between the two: its callback came first */
        set(&nats->up, false);
    return NATS_OK;
}

/* ---- the thread ---- */

static void tell_down(proa_nats *nats, const char *why)
{
    if (nats->told_down)
        return;
    nats->told_down = true;
    nats->lost_us = proa_clock_us();
    proa_log(PROA_LOG_WARN, "nats", "nats-server %s %s: requests go over the links until it is there",
             nats->shown, why);
}

static void tell_up(proa_nats *nats)
{
    if (nats->told_down)
        proa_log(PROA_LOG_INFO, "nats", "nats-server %s is there after %.1f s", nats->shown,
                 (double)(proa_clock_us() - nats->lost_us) / 1e6);
    else
        proa_log(PROA_LOG_INFO, "nats", "connected to nats-server %s%s%s", nats->shown,
                 nats->subject[0] != 0 ? ", requests come at " : "", nats->subject);
    nats->told_down = false;
}

static void publish(proa_nats *nats, letter *l)
{
    char reply[128];
    natsStatus status = NATS_CONNECTION_CLOSED;
    snprintf(reply, sizeof reply, "%s.%" PRIx64 ".%" PRIx64, nats->inbox, l->worker, l->sequence);
    if (nats->session != NULL)
        status = natsConnection_PublishRequest(nats->session->connection, l->subject, reply, l->message,
                                               (int)l->length);
    if (status != NATS_OK)
        bounce(nats, l->worker, l->sequence);
    release(&nats->outgoing_bytes, l->length);
    free(l);
}

/* Connects when there is no session. Without one, what was queued before the loss goes back at once. */
static void keep_up(proa_nats *nats)
{
    letter *l;
    if (nats->session != NULL && get(&nats->session->closed)) {
        let_go(nats);
        tell_down(nats, "is lost");
    }
    if (nats->session != NULL)
        return;
    while ((l = proa_mailbox_take(nats->outgoing)) != NULL)
        publish(nats, l);
    natsStatus status = connect_session(nats);
    if (status == NATS_OK) {
        tell_up(nats);
    } else {
        char why[160];
        snprintf(why, sizeof why, "does not answer (%s)", natsStatus_GetText(status));
        tell_down(nats, why);
    }
}

static void *run(void *context)
{
    proa_nats *nats = context;
    while (!get(&nats->stops)) {
        keep_up(nats);
        letter *l = proa_mailbox_wait(nats->outgoing, PROA_NATS_RETRY_US);
        if (l != NULL)
            publish(nats, l);
    }
    let_go(nats);
    return NULL;
}

/* ---- the owner's side ---- */

static proa_status check_options(const proa_nats_options *options, proa_error *err)
{
    natsOptions *made = NULL;
    if (strlen(options->server) >= SERVER_BYTES)
        return proa_error_set(err, PROA_ERR_INVALID, "--nats-server has %zu characters, at most %d are read",
                              strlen(options->server), SERVER_BYTES - 1);
    natsStatus status = NATS_INVALID_ARG;
    if (proa_nats_server_valid(options->server))
        status = make_options(options->server, "proa", NULL, &made);
    natsOptions_Destroy(made);
    if (status != NATS_OK) {
        char shown[SERVER_BYTES];
        proa_nats_hide_password(options->server, shown, sizeof shown);
        return proa_error_set(err, PROA_ERR_INVALID,
                              "--nats-server is \"%s\" (%s): it must look like nats://host:4222", shown,
                              natsStatus_GetText(status));
    }
    if (options->subject != NULL &&
        (!proa_nats_subject_valid(options->subject) || strlen(options->subject) >= SUBJECT_BYTES))
        return proa_error_set(err, PROA_ERR_INVALID, "\"%s\" is no NATS subject", options->subject);
    return PROA_OK;
}

static void free_parts(proa_nats *nats)
{
    proa_nats_event event;
    letter *l;
    while (nats->events != NULL && proa_nats_take(nats, &event))
        free(event.message);
    while (nats->outgoing != NULL && (l = proa_mailbox_take(nats->outgoing)) != NULL)
        free(l);
    proa_mailbox_free(nats->events);
    proa_mailbox_free(nats->outgoing);
    free(nats);
}

proa_status proa_nats_create(const proa_nats_options *options, proa_nats **created, proa_error *err)
{
    *created = NULL;
    proa_status status = check_options(options, err);
    if (status != PROA_OK)
        return status;
    uint64_t random;
    proa_nats *nats = calloc(1, sizeof *nats);
    if (nats == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for the connection to nats-server");
    snprintf(nats->server, sizeof nats->server, "%s", options->server);
    proa_nats_hide_password(nats->server, nats->shown, sizeof nats->shown);
    snprintf(nats->name, sizeof nats->name, "%s", options->name);
    snprintf(nats->subject, sizeof nats->subject, "%s", options->subject != NULL ? options->subject : "");
    proa_random_bytes(&random, sizeof random);
    snprintf(nats->inbox, sizeof nats->inbox, "_INBOX.proa-%016" PRIx64, random);
    nats->outgoing = proa_mailbox_create(PROA_NATS_QUEUED_MAX, NULL, NULL);
    nats->events = proa_mailbox_create(PROA_NATS_QUEUED_MAX, options->wake, options->context);
    if (nats->outgoing == NULL || nats->events == NULL ||
        pthread_create(&nats->thread, NULL, run, nats) != 0) {
        free_parts(nats);
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory or thread for the connection to nats-server");
    }
    *created = nats;
    return PROA_OK;
}

void proa_nats_free(proa_nats *nats)
{
    if (nats == NULL)
        return;
    set(&nats->stops, true);
    proa_mailbox_close(nats->outgoing);
    pthread_join(nats->thread, NULL);
    free_parts(nats);
}

bool proa_nats_is_up(const proa_nats *nats)
{
    return get(&nats->up);
}

proa_status proa_nats_publish(proa_nats *nats, const char *subject, uint64_t worker, uint64_t sequence,
                              const void *message, size_t length)
{
    if (!proa_nats_is_up(nats))
        return PROA_ERR_UNREACHABLE;
    if ((int64_t)length > atomic_load_explicit(&nats->max_payload, memory_order_relaxed))
        return PROA_ERR_TOO_LONG;
    if (!proa_nats_subject_valid(subject) || strlen(subject) >= SUBJECT_BYTES)
        return PROA_ERR_INVALID;
    if (!reserve(&nats->outgoing_bytes, length))
        return PROA_BUSY;
    letter *l = malloc(sizeof *l + length);
    proa_status status = PROA_ERR_MEMORY;
    if (l != NULL) {
        snprintf(l->subject, sizeof l->subject, "%s", subject);
        l->worker = worker;
        l->sequence = sequence;
        l->length = length;
        memcpy(l->message, message, length);
        status = proa_mailbox_send(nats->outgoing, l);
    }
    if (status != PROA_OK) {
        free(l);
        release(&nats->outgoing_bytes, length);
    }
    return status;
}

/* ---- for proa doctor ---- */

proa_status proa_nats_probe(const char *server, proa_nats_check *check, proa_error *err)
{
    natsOptions *options = NULL;
    natsConnection *connection = NULL;
    char shown[SERVER_BYTES];
    int64_t round_trip_ns = 0;
    proa_nats_hide_password(server, shown, sizeof shown);
    natsStatus status = make_options(server, "proa doctor", NULL, &options);
    if (status == NATS_OK)
        status = natsConnection_Connect(&connection, options);
    if (status == NATS_OK)
        status = natsConnection_FlushTimeout(connection, PROA_NATS_CONNECT_MS);
    if (status == NATS_OK)
        status = natsConnection_GetRTT(connection, &round_trip_ns);
    if (status == NATS_OK)
        *check = (proa_nats_check){.round_trip_us = round_trip_ns / 1000,
                                   .max_payload = natsConnection_GetMaxPayload(connection)};
    natsConnection_Destroy(connection);
    natsOptions_Destroy(options);
    if (status != NATS_OK)
        return proa_error_set(err, PROA_ERR_UNREACHABLE, "nats-server %s: %s", shown,
                              natsStatus_GetText(status));
    return PROA_OK;
}

const char *proa_nats_library_version(void)
{
    return nats_GetVersion();
}
