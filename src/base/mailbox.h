/* mailbox.h - a bounded queue of pointers between threads: many senders, and usually one receiver (several share
 * the messages, each goes to one of them).
 *
 * Ownership of what a pointer points to moves with it. Sending to a full or closed mailbox fails at once: the
 * sender decides what that means. The receiver may sleep on it with a deadline, or be woken through a
 * callback (to ring an event loop).
 */
#ifndef PROA_BASE_MAILBOX_H
#define PROA_BASE_MAILBOX_H

#include "base/status.h"

#include <stdint.h>

typedef struct proa_mailbox proa_mailbox;

/* `wake` (may be NULL) is called by the sender, outside the lock, after a send to an empty mailbox. */
proa_mailbox *proa_mailbox_create(size_t capacity, void (*wake)(void *context), void *context);

/* What is still inside is not freed: drain first. */
void proa_mailbox_free(proa_mailbox *box);

/* PROA_OK, PROA_BUSY (full) or PROA_ERR_CANCELLED (closed). */
proa_status proa_mailbox_send(proa_mailbox *box, void *message);

/* The oldest message, or NULL when there is none. */
void *proa_mailbox_take(proa_mailbox *box);

/* Waits until there is a message, the mailbox is closed, or timeout_us has passed; then like take. */
void *proa_mailbox_wait(proa_mailbox *box, int64_t timeout_us);

/* Later sends fail; a waiting receiver wakes. */
void proa_mailbox_close(proa_mailbox *box);

#endif
