/* rebalance_wire.h - the messages of rebalance.h as bytes.
 *
 * Fixed little-endian fields (net/bytes.h): kind, rank, epoch, then what the kind has; counts are 32 bits, experts and layers 16. What is
 * decoded encodes to the same bytes; whatever else comes is refused with a text that names the field. Any thread; no state but the
 * arguments.
 */
#ifndef PROA_ENGINE_REBALANCE_WIRE_H
#define PROA_ENGINE_REBALANCE_WIRE_H

#include "base/buf.h"
#include "engine/rebalance.h"

/* Where a decoded message's tables lie. */
typedef struct proa_rebalance_tables {
    int32_t layers[PROA_EXPERT_LAYERS_MAX];
    int32_t placement[PROA_REBALANCE_PART_BYTES / 2];
    uint32_t load[PROA_REBALANCE_PART_BYTES / 4];
} proa_rebalance_tables;

/* Appends a message about experts of this shape. */
void proa_rebalance_encode(const proa_rebalance_message *message, const proa_expert_shape *shape,
                           proa_buf *out);

/* `shape` as in rebalance.h: what this worker has. The tables are lent to the message. PROA_ERR_PROTOCOL when it is not a message of
 * such a worker. */
proa_status proa_rebalance_decode(const void *body, size_t length, const proa_expert_shape *shape,
                                  proa_rebalance_tables *tables, proa_rebalance_message *message,
                                  proa_error *err);

#endif
