/* post_local.c - ranks that are threads of one process: a queue of descriptors a rank, payloads copied out of the sender's memory.
 *
 *   sender                      hub                                receiver
 *   send: descriptor ────────> box[to]: queue ── progress ──> land, copy, landed
 *   progress: pending-- <───── box[from]: returned <──────────┘
 *
 * A box has a lock; a payload is copied with none held, while the descriptor is the receiver's: a sender that leaves waits for that.
 */
#include "base/clock.h"
#include "net/post_internal.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum {
    LETTERS_PER_RANK = 16
}; /* on the way to one rank from one other; all-to-alls have at most two a lane */

typedef struct letter {
    int32_t from;
    uint8_t header[PROA_POST_HEADER_BYTES];
    const void *data;
    size_t bytes;
} letter;

typedef struct box {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool open; /* its rank has a post */
    bool woken;
    bool *cut;       /* [ranks] letters from there are not taken */
    int32_t *taken;  /* [ranks] letters of ours that others are done with, by receiver */
    letter *letters; /* ring */
    int32_t capacity, first, count;
    int32_t reading; /* whose letter is being copied, or -1 */
} box;

struct proa_post_hub {
    int32_t ranks;
    box *boxes;
};

typedef struct local_post {
    proa_post post;
    proa_post_hub *hub;
} local_post;

/* ---- hub ---- */

void proa_post_hub_free(proa_post_hub *hub)
{
    if (hub == NULL)
        return;
    for (int32_t i = 0; i < hub->ranks && hub->boxes != NULL; i++) {
        box *b = &hub->boxes[i];
        pthread_mutex_destroy(&b->lock);
        pthread_cond_destroy(&b->changed);
        free(b->cut);
        free(b->taken);
        free(b->letters);
    }
    free(hub->boxes);
    free(hub);
}

proa_post_hub *proa_post_hub_create(int32_t ranks)
{
    proa_post_hub *hub = calloc(1, sizeof *hub);
    if (hub == NULL)
        return NULL;
    hub->ranks = ranks;
    hub->boxes = calloc((size_t)ranks, sizeof *hub->boxes);
    bool good = hub->boxes != NULL;
    for (int32_t i = 0; i < ranks && hub->boxes != NULL; i++) {
        box *b = &hub->boxes[i];
        pthread_mutex_init(&b->lock, NULL);
        proa_clock_cond_init(&b->changed);
        b->reading = -1;
        b->capacity = LETTERS_PER_RANK * ranks;
        b->cut = calloc((size_t)ranks, sizeof *b->cut);
        b->taken = calloc((size_t)ranks, sizeof *b->taken);
        b->letters = calloc((size_t)b->capacity, sizeof *b->letters);
        good = good && b->cut != NULL && b->taken != NULL && b->letters != NULL;
    }
    if (good)
        return hub;
    proa_post_hub_free(hub);
    return NULL;
}

/* ---- a rank's post ---- */

static box *box_of(const proa_post *post, int32_t rank)
{
    return &((const local_post *)post)->hub->boxes[rank];
}

/* The receiver is done with a letter. No lock is held. */
static void give_back(const proa_post *post, int32_t sender, int32_t receiver)
{
    box *b = box_of(post, sender);
    pthread_mutex_lock(&b->lock);
    b->taken[receiver]++;
    pthread_cond_signal(&b->changed);
    pthread_mutex_unlock(&b->lock);
}

static proa_status local_connect(proa_post *post, int32_t rank, const void *address, size_t bytes,
                                 proa_error *err)
{
    (void)address;
    (void)bytes;
    (void)err;
    box *own = box_of(post, post->rank);
    pthread_mutex_lock(&own->lock);
    own->cut[rank] = false;
    pthread_mutex_unlock(&own->lock);
    return PROA_OK;
}

/* Takes back what that rank has not read; waits while it copies (a memcpy, no more). Nothing is pending there afterwards. */
static void withdraw(proa_post *post, int32_t rank)
{
    box *b = box_of(post, rank), *own = box_of(post, post->rank);
    int32_t kept = 0;
    pthread_mutex_lock(&b->lock);
    for (int32_t i = 0; i < b->count; i++) {
        letter l = b->letters[(b->first + i) % b->capacity];
        if (l.from != post->rank)
            b->letters[(b->first + kept++) % b->capacity] = l;
    }
    b->count = kept;
    while (b->reading == post->rank) {
        struct timespec soon = proa_clock_deadline(1000);
        pthread_cond_timedwait(&b->changed, &b->lock, &soon);
    }
    pthread_mutex_unlock(&b->lock);
    pthread_mutex_lock(&own->lock);
    own->taken[rank] = 0;
    pthread_mutex_unlock(&own->lock);
    post->pending[rank] = 0;
}

static void local_disconnect(proa_post *post, int32_t rank)
{
    box *own = box_of(post, post->rank);
    withdraw(post, rank);
    pthread_mutex_lock(&own->lock);
    own->cut[rank] = true;
    pthread_mutex_unlock(&own->lock);
}

static bool local_is_connected(const proa_post *post, int32_t rank)
{
    box *own = box_of(post, post->rank);
    pthread_mutex_lock(&own->lock);
    bool connected = !own->cut[rank];
    pthread_mutex_unlock(&own->lock);
    return connected;
}

static void local_free(proa_post *post)
{
    box *own = box_of(post, post->rank);
    pthread_mutex_lock(&own->lock);
    own->open = false;
    own->count = 0;
    pthread_mutex_unlock(&own->lock);
    for (int32_t i = 0; i < post->ranks; i++) {
        if (i != post->rank)
            withdraw(post, i);
    }
    proa_post_clear(post);
    free(post);
}

static proa_status local_send(proa_post *post, int32_t to, const uint8_t *header, const void *data,
                              size_t bytes, proa_error *err)
{
    box *b = box_of(post, to);
    proa_status status = PROA_OK;
    pthread_mutex_lock(&b->lock);
    if (!b->open) {
        status = proa_error_set(err, PROA_ERR_UNREACHABLE, "rank %d is not there", to);
    } else if (b->cut[post->rank]) {
        status = PROA_OK; /* it reads nothing of ours any more: as lost on the way */
    } else {
        PROA_ASSERT(b->count < b->capacity);
        letter *l = &b->letters[(b->first + b->count++) % b->capacity];
        *l = (letter){.from = post->rank, .data = data, .bytes = bytes};
        memcpy(l->header, header, PROA_POST_HEADER_BYTES);
        post->pending[to]++;
        pthread_cond_signal(&b->changed);
    }
    pthread_mutex_unlock(&b->lock);
    return status;
}

/* One letter of this rank's box; false when there is none. */
static bool read_letter(proa_post *post, box *own)
{
    pthread_mutex_lock(&own->lock);
    if (own->count == 0) {
        pthread_mutex_unlock(&own->lock);
        return false;
    }
    letter l = own->letters[own->first];
    own->first = (own->first + 1) % own->capacity;
    own->count--;
    bool wanted = !own->cut[l.from];
    own->reading = l.from;
    pthread_mutex_unlock(&own->lock);
    void *to = wanted ? post->hooks.land(post->hooks.context, l.from, l.header, l.bytes) : NULL;
    if (to != NULL && l.bytes > 0)
        memcpy(to, l.data, l.bytes);
    give_back(post, l.from,
              post->rank); /* before `reading` ends: who withdraws knows that all has come back */
    pthread_mutex_lock(&own->lock);
    own->reading = -1;
    pthread_cond_broadcast(&own->changed);
    pthread_mutex_unlock(&own->lock);
    if (to != NULL)
        post->hooks.landed(post->hooks.context, l.from, l.header, l.bytes);
    return true;
}

static bool local_progress(proa_post *post)
{
    box *own = box_of(post, post->rank);
    bool any = false;
    pthread_mutex_lock(&own->lock);
    for (int32_t i = 0; i < post->ranks; i++) {
        post->pending[i] -= own->taken[i];
        any = any || own->taken[i] > 0;
        own->taken[i] = 0;
    }
    own->woken = false;
    pthread_mutex_unlock(&own->lock);
    while (read_letter(post, own))
        any = true;
    return any;
}

static void local_wait(proa_post *post, int64_t timeout_us)
{
    box *own = box_of(post, post->rank);
    struct timespec deadline = proa_clock_deadline(timeout_us);
    pthread_mutex_lock(&own->lock);
    bool any = own->woken || own->count > 0;
    for (int32_t i = 0; i < post->ranks && !any; i++)
        any = own->taken[i] > 0;
    if (!any)
        pthread_cond_timedwait(&own->changed, &own->lock, &deadline);
    pthread_mutex_unlock(&own->lock);
}

static void local_wake(proa_post *post)
{
    box *own = box_of(post, post->rank);
    pthread_mutex_lock(&own->lock);
    own->woken = true;
    pthread_cond_signal(&own->changed);
    pthread_mutex_unlock(&own->lock);
}

static const proa_post_ops local_ops = {
    .free = local_free,
    .connect = local_connect,
    .is_connected = local_is_connected,
    .disconnect = local_disconnect,
    .send = local_send,
    .progress = local_progress,
    .wait = local_wait,
    .wake = local_wake,
};

proa_status proa_post_local_create(proa_post_hub *hub, int32_t rank, const proa_post_hooks *hooks,
                                   proa_post **post, proa_error *err)
{
    *post = NULL;
    local_post *l = calloc(1, sizeof *l);
    if (l == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for the post of rank %d", rank);
    l->hub = hub;
    proa_status status = proa_post_prepare(&l->post, &local_ops, hub->ranks, rank, hooks, err);
    if (status != PROA_OK) {
        free(l);
        return status;
    }
    box *own = &hub->boxes[rank];
    pthread_mutex_lock(&own->lock);
    own->open = true;
    own->count = 0;
    memset(own->taken, 0, (size_t)hub->ranks * sizeof *own->taken);
    pthread_mutex_unlock(&own->lock);
    *post = &l->post;
    return PROA_OK;
}
