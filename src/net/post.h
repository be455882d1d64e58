/* post.h - messages with payloads among the ranks of a group, straight into memory that the receiver names: what all-to-alls are made of.
 *
 * A message has a small header and up to 4 GiB of payload. When it arrives the receiver's `land` says where the payload goes, or that it
 * is not wanted; `landed` follows when it is there. So nobody writes into memory that its owner has not just named: what a rank that was
 * given up sends late is dropped by its header. Two messages from one rank arrive in order; payloads may overtake each other.
 *
 * `local` (ranks are threads of one process, for tests and single machines) copies out of the sender's memory; `ucx` uses active messages:
 * TCP or RDMA, large payloads fetched by the receiver, out of the sender's memory on the same host.
 *
 * A post belongs to one thread, but for proa_post_wake.
 */
#ifndef PROA_NET_POST_H
#define PROA_NET_POST_H

#include "base/status.h"

#include <stdint.h>

enum {
    PROA_POST_HEADER_BYTES = 40,
    PROA_POST_CHANNEL =
        39, /* this byte of a header tells those apart who share a post: 0 the all-to-all, 1 swaps */
    PROA_POST_ADDRESS_BYTES_MAX = 4096
};

typedef struct proa_post proa_post;

typedef struct proa_post_hooks {
    /* NULL: the message is dropped (also one without payload, whose place is any pointer). The place stays good until landed, or until
     * the peer is lost. Header: PROA_POST_HEADER_BYTES. */
    void *(*land)(void *context, int32_t from, const uint8_t *header, size_t bytes);
    void (*landed)(void *context, int32_t from, const uint8_t *header, size_t bytes);
    /* Nothing more comes from it, and nothing reaches it. */
    void (*lost)(void *context, int32_t rank, const proa_error *why);
    void *context;
} proa_post_hooks;

/* Ranks that are threads: they share a hub, made for so many and freed after their posts. */
typedef struct proa_post_hub proa_post_hub;
proa_post_hub *proa_post_hub_create(int32_t ranks); /* NULL: out of memory */
void proa_post_hub_free(proa_post_hub *hub);
proa_status proa_post_local_create(proa_post_hub *hub, int32_t rank, const proa_post_hooks *hooks,
                                   proa_post **post, proa_error *err);

/* By UCX. `address` (proa_post_address) goes to the peers, who give it to proa_post_connect. */
proa_status proa_post_ucx_create(int32_t ranks, int32_t rank, const proa_post_hooks *hooks, proa_post **post,
                                 proa_error *err);
void proa_post_free(proa_post *post); /* accepts NULL; peers see it as lost, or by silence */

const void *proa_post_address(const proa_post *post, size_t *bytes); /* local: empty */
/* Also again, for a new process with the number of a lost one. */
proa_status proa_post_connect(proa_post *post, int32_t rank, const void *address, size_t bytes,
                              proa_error *err);
bool proa_post_is_connected(const proa_post *post, int32_t rank);
/* No more to or from that rank; what is under way ends. */
void proa_post_disconnect(proa_post *post, int32_t rank);

/* `data` must stay until proa_post_pending(rank) is 0. PROA_ERR_UNREACHABLE: the rank is not connected or lost. */
proa_status proa_post_send(proa_post *post, int32_t to, const uint8_t *header, const void *data, size_t bytes,
                           proa_error *err);
/* Messages to that rank whose payload is still needed. */
int32_t proa_post_pending(const proa_post *post, int32_t rank);
/* Payloads from that rank that are being written here: begun by `land`, not ended. */
int32_t proa_post_landing(const proa_post *post, int32_t rank);

/* Does what can be done without waiting: hooks are called from here. True when anything was done. */
bool proa_post_progress(proa_post *post);
/* Sleeps until there may be something to do, at most so long. Any number of early returns. */
void proa_post_wait(proa_post *post, int64_t timeout_us);
void proa_post_wake(proa_post *post); /* any thread */

#endif
