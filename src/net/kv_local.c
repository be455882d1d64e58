/* kv_local.c - KV rows between engines of one process: a copy.
 *
 * The registry is a table of inboxes under a lock; a descriptor names one by slot and ticket, both checked against the table, so no
 * pointer travels. The writer copies on its own thread, holding the inbox's lock shared; closing an inbox takes that lock
 * alone, so that nothing is written any more once close has returned.
 *
 * Visibility: the rows that are read were handed to the writer's thread, and `done` goes from there to the reader of the copy, by
 * messages through mutexes (mailboxes) or sockets; each of these orders the copy between them. Nothing here polls bytes.
 */
#include "net/kv_transfer_internal.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

enum { SLOTS_MAX = 1024 };

typedef struct slot {
    uint64_t ticket;       /* of the inbox, never given twice; 0: free */
    proa_kv_layout layout; /* of the cache behind it */
    pthread_rwlock_t lock; /* shared while copying, alone to open or close */
} slot;

struct proa_kv_local_registry {
    pthread_mutex_t mutex; /* taken to open and close */
    uint64_t ticket_last;  /* begins at random, so that other processes' tickets are unknown here */
    slot slots[SLOTS_MAX];
};

proa_kv_local_registry *proa_kv_local_registry_create(void)
{
    proa_kv_local_registry *registry = calloc(1, sizeof *registry);
    if (registry == NULL)
        return NULL;
    PROA_ASSERT(getrandom(&registry->ticket_last, sizeof registry->ticket_last, 0) ==
                sizeof registry->ticket_last);
    pthread_mutex_init(&registry->mutex, NULL);
    for (int i = 0; i < SLOTS_MAX; i++)
        pthread_rwlock_init(&registry->slots[i].lock, NULL);
    return registry;
}

void proa_kv_local_registry_free(proa_kv_local_registry *registry)
{
    if (registry == NULL)
        return;
    for (int i = 0; i < SLOTS_MAX; i++) {
        PROA_ASSERT(registry->slots[i].ticket == 0);
        pthread_rwlock_destroy(&registry->slots[i].lock);
    }
    pthread_mutex_destroy(&registry->mutex);
    free(registry);
}

/* What a peer holds: the inbox that it was told of, which may be closed by now. */
typedef struct target {
    slot *slot;
    uint64_t ticket;
} target;

static proa_status local_create(proa_kv_transfer *transfer, const proa_kv_transfer_options *options,
                                proa_error *err)
{
    transfer->state = options->local_registry;
    if (options->local_registry == NULL)
        return proa_error_set(err, PROA_ERR_INVALID, "local KV transfers need the registry of their process");
    return PROA_OK;
}

static void local_free(proa_kv_transfer *transfer)
{
    (void)transfer;
}

static int local_fd(const proa_kv_transfer *transfer)
{
    (void)transfer;
    return -1;
}

static proa_status local_inbox_open(proa_kv_inbox *inbox, proa_buf *out, proa_error *err)
{
    proa_kv_local_registry *registry = inbox->transfer->state;
    pthread_mutex_lock(&registry->mutex);
    for (uint32_t i = 0; i < SLOTS_MAX && inbox->backend == NULL; i++) {
        slot *s = &registry->slots[i];
        if (s->ticket != 0)
            continue;
        pthread_rwlock_wrlock(&s->lock);
        while (s->ticket == 0)
            s->ticket = ++registry->ticket_last;
        s->layout = inbox->transfer->layout;
        pthread_rwlock_unlock(&s->lock);
        proa_put_u32(out, i);
        proa_put_u64(out, s->ticket);
        inbox->backend = s;
    }
    pthread_mutex_unlock(&registry->mutex);
    if (inbox->backend == NULL)
        return proa_error_set(err, PROA_ERR_OVERLOADED, "more than %d local KV inboxes", SLOTS_MAX);
    return PROA_OK;
}

static void local_inbox_close(proa_kv_inbox *inbox)
{
    proa_kv_local_registry *registry = inbox->transfer->state;
    slot *s = inbox->backend;
    if (s == NULL)
        return;
    pthread_mutex_lock(&registry->mutex);
    pthread_rwlock_wrlock(&s->lock); /* waits for a copy of one chunk at most */
    s->ticket = 0;
    pthread_rwlock_unlock(&s->lock);
    pthread_mutex_unlock(&registry->mutex);
}

static proa_status local_connect(proa_kv_peer *peer, const proa_kv_descriptor *descriptor, proa_error *err)
{
    proa_kv_local_registry *registry = peer->transfer->state;
    proa_reader r = proa_reader_of(descriptor->backend, descriptor->backend_bytes);
    uint32_t index = proa_get_u32(&r);
    uint64_t ticket = proa_get_u64(&r);
    if (!proa_reader_done(&r) || index >= SLOTS_MAX || ticket == 0)
        return proa_error_set(err, PROA_ERR_PROTOCOL, "%s: malformed local KV descriptor", peer->name);
    slot *s = &registry->slots[index];
    pthread_rwlock_rdlock(&s->lock);
    bool known =
        s->ticket == ticket && s->layout.blocks == peer->blocks && s->layout.layer_bytes == peer->layer_bytes;
    pthread_rwlock_unlock(&s->lock);
    if (!known)
        return proa_error_set(err, PROA_ERR_UNREACHABLE,
                              "%s: its KV inbox is not in this process (another host or process needs "
                              "--disaggregation-transfer-backend ucx) or has been closed",
                              peer->name);
    target *t = calloc(1, sizeof *t);
    if (t == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for the KV peer %s", peer->name);
    *t = (target){s, ticket};
    peer->backend = t;
    memcpy(peer->path, "memory copy", sizeof "memory copy");
    return PROA_OK;
}

static void local_close(proa_kv_peer *peer)
{
    free(peer->backend);
}

static proa_status local_begin(proa_kv_write_state *write)
{
    (void)write;
    return PROA_OK;
}

static void local_forget(proa_kv_write_state *write)
{
    (void)write;
}

static proa_status local_put(proa_kv_write_state *write, const proa_kv_chunk *chunk, proa_error *err)
{
    const target *t = write->peer->backend;
    const char *from = write->peer->transfer->layout.base;
    pthread_rwlock_rdlock(&t->slot->lock);
    bool open = t->slot->ticket == t->ticket;
    if (open)
        memcpy((char *)t->slot->layout.base + chunk->to, from + chunk->from, chunk->bytes);
    pthread_rwlock_unlock(&t->slot->lock);
    if (!open)
        return proa_error_set(err, PROA_ERR_UNREACHABLE, "%s has closed its KV inbox", write->peer->name);
    return PROA_OK;
}

static proa_status local_flush(proa_kv_write_state *write, proa_error *err)
{
    (void)err;
    proa_kv_write_end(write, PROA_OK);
    return PROA_OK;
}

static bool local_progress(proa_kv_transfer *transfer)
{
    (void)transfer;
    return false;
}

const proa_kv_backend proa_kv_backend_local = {
    .name = "local",
    .create = local_create,
    .free = local_free,
    .fd = local_fd,
    .inbox_open = local_inbox_open,
    .inbox_close = local_inbox_close,
    .connect = local_connect,
    .close = local_close,
    .begin = local_begin,
    .forget = local_forget,
    .put = local_put,
    .flush = local_flush,
    .progress = local_progress,
};
