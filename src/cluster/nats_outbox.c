/* nats_outbox.c - letters that wait for their acknowledgement: a ring by sequence number, so that the oldest is due first. */
#include "cluster/nats_message.h"

#include <stdlib.h>
#include <string.h>

typedef struct letter {
    proa_buf sealed; /* without memory: the place is free */
    uint64_t id;
    int64_t due_us;
} letter;

struct proa_nats_outbox {
    uint8_t key[PROA_LINK_KEY_BYTES];
    uint64_t frontend;
    uint64_t first; /* no letter before this number is kept */
    uint64_t next;  /* the number of the next letter */
    int64_t rest_until_us;
    letter letters[PROA_NATS_OUTBOX_MAX]; /* number s at s % PROA_NATS_OUTBOX_MAX */
};

proa_nats_outbox *proa_nats_outbox_create(const uint8_t key[PROA_LINK_KEY_BYTES], uint64_t frontend)
{
    proa_nats_outbox *outbox = calloc(1, sizeof *outbox);
    if (outbox == NULL)
        return NULL;
    memcpy(outbox->key, key, PROA_LINK_KEY_BYTES);
    outbox->frontend = frontend;
    outbox->first = outbox->next = 1;
    return outbox;
}

void proa_nats_outbox_free(proa_nats_outbox *outbox)
{
    if (outbox == NULL)
        return;
    for (size_t i = 0; i < PROA_NATS_OUTBOX_MAX; i++)
        proa_buf_free(&outbox->letters[i].sealed);
    free(outbox);
}

static letter *place_of(proa_nats_outbox *outbox, uint64_t sequence)
{
    return &outbox->letters[sequence % PROA_NATS_OUTBOX_MAX];
}

static bool is_kept(const letter *l)
{
    return l->sealed.data != NULL;
}

/* The letter of this number, or NULL when it is not kept. */
static letter *find(proa_nats_outbox *outbox, uint64_t sequence)
{
    if (sequence < outbox->first || sequence >= outbox->next)
        return NULL;
    letter *l = place_of(outbox, sequence);
    return is_kept(l) ? l : NULL;
}

static void drop_free_front(proa_nats_outbox *outbox)
{
    while (outbox->first < outbox->next && !is_kept(place_of(outbox, outbox->first)))
        outbox->first++;
}

bool proa_nats_outbox_ready(const proa_nats_outbox *outbox, int64_t now_us)
{
    return outbox->next - outbox->first < PROA_NATS_OUTBOX_MAX && now_us >= outbox->rest_until_us;
}

const proa_buf *proa_nats_outbox_seal(proa_nats_outbox *outbox, uint64_t id, const void *body, size_t length,
                                      int64_t now_us, uint64_t *sequence)
{
    PROA_ASSERT(proa_nats_outbox_ready(outbox, now_us));
    letter *l = place_of(outbox, outbox->next);
    l->sealed = (proa_buf){0};
    proa_nats_seal(outbox->key, outbox->frontend, outbox->next, body, length, &l->sealed);
    if (l->sealed.failed) {
        proa_buf_free(&l->sealed);
        l->sealed = (proa_buf){0};
        return NULL;
    }
    l->id = id;
    l->due_us = now_us + PROA_NATS_ACK_US;
    *sequence = outbox->next++;
    return &l->sealed;
}

/* Gives the letter's memory away. */
static void take(proa_nats_outbox *outbox, letter *l, proa_buf *sealed)
{
    *sealed = l->sealed;
    l->sealed = (proa_buf){0};
    drop_free_front(outbox);
}

void proa_nats_outbox_forget(proa_nats_outbox *outbox, uint64_t sequence)
{
    letter *l = find(outbox, sequence);
    proa_buf sealed;
    if (l == NULL)
        return;
    take(outbox, l, &sealed);
    proa_buf_free(&sealed);
}

bool proa_nats_outbox_take_due(proa_nats_outbox *outbox, int64_t now_us, proa_buf *sealed)
{
    letter *l = find(outbox, outbox->first);
    if (l == NULL || now_us < l->due_us)
        return false;
    outbox->rest_until_us = now_us + PROA_NATS_REST_US;
    take(outbox, l, sealed);
    return true;
}

bool proa_nats_outbox_take(proa_nats_outbox *outbox, uint64_t sequence, int64_t now_us, proa_buf *sealed)
{
    letter *l = find(outbox, sequence);
    if (l == NULL)
        return false;
    outbox->rest_until_us = now_us + PROA_NATS_REST_US;
    take(outbox, l, sealed);
    return true;
}

bool proa_nats_outbox_take_id(proa_nats_outbox *outbox, uint64_t id, proa_buf *sealed)
{
    for (uint64_t s = outbox->first; s < outbox->next; s++) {
        letter *l = find(outbox, s);
        if (l != NULL && l->id == id) {
            take(outbox, l, sealed);
            return true;
        }
    }
    return false;
}
