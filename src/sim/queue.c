/* queue.c - a binary heap. */
#include "sim/queue.h"

#include <stdlib.h>
#include <string.h>

typedef struct when {
    int64_t due_us;
    uint64_t order;
} when;

static size_t entry_bytes(const sim_queue *q)
{
    return sizeof(when) + q->event_bytes;
}

static unsigned char *entry(const sim_queue *q, int32_t i)
{
    return q->entries + (size_t)i * entry_bytes(q);
}

static when when_of(const sim_queue *q, int32_t i)
{
    when w;
    memcpy(&w, entry(q, i), sizeof w);
    return w;
}

static bool before(when a, when b)
{
    return a.due_us != b.due_us ? a.due_us < b.due_us : a.order < b.order;
}

static void move(sim_queue *q, int32_t to, int32_t from)
{
    if (to != from)
        memcpy(entry(q, to), entry(q, from), entry_bytes(q));
}

void proa_sim_queue_post(sim_queue *q, const void *event, int64_t due_us)
{
    if (q->count == q->room) {
        q->room = q->room > 0 ? 2 * q->room : 256;
        q->entries = realloc(q->entries, (size_t)q->room * entry_bytes(q));
        if (q->entries == NULL)
            abort();
    }
    const when posted = {due_us, q->order++};
    int32_t i = q->count++;
    for (; i > 0 && before(posted, when_of(q, (i - 1) / 2)); i = (i - 1) / 2)
        move(q, i, (i - 1) / 2);
    memcpy(entry(q, i), &posted, sizeof posted);
    memcpy(entry(q, i) + sizeof posted, event, q->event_bytes);
}

bool proa_sim_queue_take(sim_queue *q, void *event, int64_t *due_us)
{
    if (q->count == 0)
        return false;
    *due_us = when_of(q, 0).due_us;
    memcpy(event, entry(q, 0) + sizeof(when), q->event_bytes);
    int32_t last = --q->count, i = 0;
    for (;;) {
        int32_t child = 2 * i + 1;
        if (child >= q->count)
            break;
        if (child + 1 < q->count && before(when_of(q, child + 1), when_of(q, child)))
            child++;
        if (!before(when_of(q, child), when_of(q, last)))
            break;
        move(q, i, child);
        i = child;
    }
    move(q, i, last);
    return true;
}

void proa_sim_queue_free(sim_queue *q)
{
    free(q->entries);
    *q = (sim_queue){.event_bytes = q->event_bytes};
}
