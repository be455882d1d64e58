/* mailbox.c - a ring under a mutex; contention is one request or one token batch at a time, so a lock does. */
#include "base/mailbox.h"

#include "base/clock.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

struct proa_mailbox {
    pthread_mutex_t mutex;
    pthread_cond_t filled;
    void (*wake)(void *context);
    void *wake_context;
    size_t capacity;
    size_t first;
    size_t count;
    bool closed;
    void *ring[];
};

proa_mailbox *proa_mailbox_create(size_t capacity, void (*wake)(void *context), void *context)
{
    PROA_ASSERT(capacity > 0);
    proa_mailbox *box = calloc(1, sizeof *box + capacity * sizeof(void *));
    if (box == NULL)
        return NULL;
    pthread_mutex_init(&box->mutex, NULL);
    proa_clock_cond_init(&box->filled);
    box->capacity = capacity;
    box->wake = wake;
    box->wake_context = context;
    return box;
}

void proa_mailbox_free(proa_mailbox *box)
{
    if (box == NULL)
        return;
    pthread_cond_destroy(&box->filled);
    pthread_mutex_destroy(&box->mutex);
    free(box);
}

proa_status proa_mailbox_send(proa_mailbox *box, void *message)
{
    PROA_ASSERT(message != NULL);
    proa_status status = PROA_OK;
    bool was_empty = false;
    pthread_mutex_lock(&box->mutex);
    if (box->closed) {
        status = PROA_ERR_CANCELLED;
    } else if (box->count == box->capacity) {
        status = PROA_BUSY;
    } else {
        was_empty = box->count == 0;
        box->ring[(box->first + box->count) % box->capacity] = message;
        box->count++;
        pthread_cond_signal(&box->filled);
    }
    pthread_mutex_unlock(&box->mutex);
    if (was_empty && box->wake != NULL)
        box->wake(box->wake_context);
    return status;
}

static void *take_locked(proa_mailbox *box)
{
    if (box->count == 0)
        return NULL;
    void *message = box->ring[box->first];
    box->first = (box->first + 1) % box->capacity;
    box->count--;
    return message;
}

void *proa_mailbox_take(proa_mailbox *box)
{
    pthread_mutex_lock(&box->mutex);
    void *message = take_locked(box);
    pthread_mutex_unlock(&box->mutex);
    return message;
}

void *proa_mailbox_wait(proa_mailbox *box, int64_t timeout_us)
{
    struct timespec deadline = proa_clock_deadline(timeout_us);
    pthread_mutex_lock(&box->mutex);
    while (box->count == 0 && !box->closed) {
        if (pthread_cond_timedwait(&box->filled, &box->mutex, &deadline) == ETIMEDOUT)
            break;
    }
    void *message = take_locked(box);
    pthread_mutex_unlock(&box->mutex);
    return message;
}

void proa_mailbox_close(proa_mailbox *box)
{
    pthread_mutex_lock(&box->mutex);
    box->closed = true;
    pthread_cond_broadcast(&box->filled);
    pthread_mutex_unlock(&box->mutex);
}
