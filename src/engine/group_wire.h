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
#include "net/bytes.h"

/* Appends the message of a worker of `ranks` ranks. */
void proa_group_encode(const proa_group_message *message, int32_t ranks, proa_buf *out);

/* `lives` has room for `ranks` and is lent to the message. PROA_ERR_PROTOCOL when it is not a message of such a worker. */
proa_status proa_group_decode(const void *body, size_t length, int32_t ranks, uint64_t *lives,
                              proa_group_message *message, proa_error *err);

/* An epoch by itself, for other messages of a worker's ranks. False: it is none that `ranks` ranks could have drawn. */
void proa_group_put_epoch(proa_buf *out, const proa_group_epoch *epoch);
bool proa_group_get_epoch(proa_reader *reader, int32_t ranks, proa_group_epoch *epoch);

#endif
