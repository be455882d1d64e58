/* group_wire.h - the messages of a group (group.h) as bytes.
 *
 * Fixed little-endian fields (net/bytes.h): kind, rank, life, epoch, then what the kind has. Masks are as many words as the worker's ranks
 * need. What is decoded encodes to the same bytes; whatever else comes is refused with a text that names the field. Any
 * thread; no state but the arguments.
 */
#ifndef PROA_ENGINE_GROUP_WIRE_H
#define PROA_ENGINE_GROUP_WIRE_H

#include "base/buf.h"
#include "base/status.h"
#include "engine/group.h"

/* Appends the message of a worker of `ranks` ranks. */
void proa_group_encode(const proa_group_message *message, int32_t ranks, proa_buf *out);

/* `lives` has room for `ranks` and is lent to the message. PROA_ERR_PROTOCOL when it is not a message of such a worker. */
proa_status proa_group_decode(const void *body, size_t length, int32_t ranks, uint64_t *lives,
                              proa_group_message *message, proa_error *err);

#endif
