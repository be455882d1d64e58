/* kv_transfer.h - KV rows from one process's cache into another's: one interface, three ways to travel.
 *
 *   local  the same process (two engines of `proa serve`): a copy
 *   ucx    UCX's active messages: shared memory on a host, TCP or RDMA between hosts; the receiver moves the bytes
 *   nixl   NIXL's C API, libnixl_capi.so, loaded at run time
 *
 * Each process has one transfer over its whole KV cache. A process that is written to opens an inbox for each peer; the peer
 * connects by the inbox's descriptor (bytes, carried by the room protocol's handshake). A write names rows by position: row p of a
 * sequence is row p % 64 of block table[p / 64], in each layer. Runs of rows that are contiguous on both sides become one
 * piece. `done` says that the rows are in the peer's memory (remote completion), with bytes and microseconds.
 *
 * Nothing here waits: writes progress in proa_kv_transfer_progress, which must be called when the descriptor of
 * proa_kv_transfer_fd is readable, and at least every millisecond while writes are outstanding (fd -1: only that); on the
 * writing and on the receiving side. A turn of progress moves a bounded number of bytes. The loop's thread alone.
 *
 * Deadlines and the peer's death are the caller's: it closes the peer, whose outstanding writes are `done` with
 * PROA_ERR_CANCELLED before proa_kv_peer_close returns. A write that failed may have moved any part of its rows.
 */
#ifndef PROA_NET_KV_TRANSFER_H
#define PROA_NET_KV_TRANSFER_H

#include "base/buf.h"
#include "base/status.h"
#include "op/tensor.h"

#include <stdint.h>

/* Where a process's KV cache lies: layer l, block b, row r starts at
 * base + l * layer_bytes + b * block_bytes + r * row_bytes, with block_bytes = 64 * row_bytes. */
typedef struct proa_kv_layout {
    void *base;
    proa_dtype
        dtype; /* F32, BF16 or E4M3: what rows are of (op/mla/kv_row.h). Bytes travel as they are; two ends must have the same */
    int32_t layers;
    int32_t blocks;
    size_t row_bytes; /* of one token in one layer */
    size_t block_bytes;
    size_t layer_bytes; /* blocks * block_bytes */
} proa_kv_layout;

typedef struct proa_kv_transfer proa_kv_transfer;
typedef struct proa_kv_peer proa_kv_peer;

/* Where the local transfers of a process find each other (no static memory does). Shared by their threads; outlives them. */
typedef struct proa_kv_local_registry proa_kv_local_registry;
proa_kv_local_registry *proa_kv_local_registry_create(void);        /* NULL when memory is out */
void proa_kv_local_registry_free(proa_kv_local_registry *registry); /* accepts NULL */

typedef enum proa_kv_transfer_kind {
    PROA_KV_TRANSFER_LOCAL,
    PROA_KV_TRANSFER_UCX,
    PROA_KV_TRANSFER_NIXL,
} proa_kv_transfer_kind;

typedef struct proa_kv_write_result {
    proa_status status; /* PROA_OK: the rows are in the peer's memory */
    uint64_t bytes;
    uint32_t pieces; /* contiguous runs, over all layers */
    int64_t us;      /* from proa_kv_write to completion */
} proa_kv_write_result;

typedef struct proa_kv_write {
    const int32_t *from; /* this process's block numbers for positions from 0; borrowed until done */
    const int32_t *to;   /* the peer's; borrowed until done */
    int32_t row_first;   /* position of the first row */
    int32_t row_count;   /* >= 1 */
    void (*done)(void *context, const proa_kv_write_result *result);
    void *context;
} proa_kv_write;

typedef struct proa_kv_transfer_options {
    proa_kv_local_registry *local_registry; /* local: required; other kinds do not look at it */
    const char *ucx_tls;         /* ucx: as UCX_TLS, "tcp" for example; NULL: what the environment says */
    const char *ucx_net_devices; /* ucx: as UCX_NET_DEVICES; NULL: likewise */
    const char *nixl_library;    /* nixl: path or name; NULL: libnixl_capi.so where the loader finds it */
} proa_kv_transfer_options;

/* Borrows the cache's memory until freed. An absent library is PROA_ERR_NOT_FOUND and names the package to install. */
proa_status proa_kv_transfer_create(proa_kv_transfer_kind kind, const proa_kv_layout *layout,
                                    const proa_kv_transfer_options *options, proa_kv_transfer **transfer,
                                    proa_error *err);
void proa_kv_transfer_free(proa_kv_transfer *transfer); /* closes peers first; accepts NULL */

const char *proa_kv_transfer_name(const proa_kv_transfer *transfer);
int proa_kv_transfer_fd(const proa_kv_transfer *transfer);
/* True while there is more to do at once. */
bool proa_kv_transfer_progress(proa_kv_transfer *transfer);

/* Where one peer may write: opened for each session with a peer, its descriptor (at most 64 KiB, appended to `descriptor`) goes
 * to that peer and to nobody else: who has it may write to this cache. Closing it tears down what the peer's writes travel on (its
 * own UCX worker, its own agent): when close has returned, nothing arrives any more. With nixl alone, a writer on this very host
 * that stands in the middle of a copy may still finish it: the room protocol waits for that (cluster/room.h). */
typedef struct proa_kv_inbox proa_kv_inbox;
proa_status proa_kv_inbox_open(proa_kv_transfer *transfer, proa_buf *descriptor, proa_kv_inbox **inbox,
                               proa_error *err);
void proa_kv_inbox_close(proa_kv_inbox *inbox); /* accepts NULL */
/* Whether a closed inbox is closed for good, whatever its peer is doing: all kinds but nixl. */
bool proa_kv_transfer_closes_for_good(const proa_kv_transfer *transfer);

/* Checks the descriptor (kind, dtype, layers, row bytes must equal this side's; untrusted bytes, bounds are checked) and prepares to
 * write there. `peer_blocks` gets the peer's block count. `name` is for errors. */
proa_status proa_kv_peer_connect(proa_kv_transfer *transfer, const void *descriptor, size_t length,
                                 const char *name, proa_kv_peer **peer, int32_t *peer_blocks,
                                 proa_error *err);
void proa_kv_peer_close(proa_kv_peer *peer); /* accepts NULL */

/* Begins a write. `done` is called by proa_kv_transfer_progress or proa_kv_peer_close, never from in here; it may write to and
 * close peers, this one too. Fails (then `done` is not called) for want of memory, with PROA_ERR_UNREACHABLE for a peer that
 * has failed before, and with PROA_ERR_INVALID for a block that this or the peer's cache does not have. */
proa_status proa_kv_peer_write(proa_kv_peer *peer, const proa_kv_write *write, proa_error *err);

/* In words: what carries the bytes to this peer ("posix, cma", "tcp eth0"), "" when not known. */
const char *proa_kv_peer_path(const proa_kv_peer *peer);

/* Digest of rows 0 .. row_count - 1 of one block, over all layers: XXH3, chained over layers from `seed`. The same on both
 * sides, whatever the block numbers. */
uint64_t proa_kv_digest(const proa_kv_layout *layout, int32_t block, int32_t row_count, uint64_t seed);

#endif
