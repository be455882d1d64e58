/* kv_transfer_internal.h - between kv_transfer.c, which is the same for all kinds, and what carries the bytes.
 *
 * A write is a row of chunks: contiguous on both sides, at most PROA_KV_CHUNK_BYTES each. kv_transfer.c hands them to the backend one
 * by one, round robin over the peers, then says that there are no more:
 *
 *   QUEUED ──put, put, ... put──> ──flush──> FLUSHING ──proa_kv_write_end──> ENDED ──done──> freed
 *      └──── proa_kv_peer_fail (any state before ENDED) ─────────────────────┘
 *
 * Backends call proa_kv_write_end and proa_kv_peer_fail from their put, flush and progress; the caller's `done` runs later,
 * when no library's callback is on the stack.
 *
 * Descriptor: u32 magic, u16 version, u8 kind, u8 zero, i32 layers, i32 blocks, u64 row bytes, u32 length and that many bytes of
 * the backend, u64 digest of all that. The digest finds damage, not malice: who may send a descriptor, the link's handshake
 * has made sure of. It matters because UCX and NIXL read their part without a length.
 */
#ifndef PROA_NET_KV_TRANSFER_INTERNAL_H
#define PROA_NET_KV_TRANSFER_INTERNAL_H

#include "net/bytes.h"
#include "net/kv_transfer.h"

enum {
    PROA_KV_ROWS_A_BLOCK = 64,
    PROA_KV_CHUNK_BYTES = 1 << 20,
    PROA_KV_TURN_BYTES = 4 << 20, /* begun in a turn of progress */
    PROA_KV_DESCRIPTOR_BYTES_MAX = 64 << 10,
};

/* Offsets from the two caches' bases. */
typedef struct proa_kv_chunk {
    size_t from;
    size_t to;
    size_t bytes;
    bool opens_piece; /* is not the continuation of a run that was cut */
} proa_kv_chunk;

typedef enum proa_kv_write_phase {
    PROA_KV_WRITE_QUEUED,
    PROA_KV_WRITE_FLUSHING,
    PROA_KV_WRITE_ENDED
} proa_kv_write_phase;

typedef struct proa_kv_write_state {
    proa_kv_write write;
    proa_kv_peer *peer;
    proa_kv_write_phase phase;
    int32_t layer; /* of the next chunk */
    int32_t row;
    int32_t run;       /* rows from there that are contiguous on both sides */
    size_t run_offset; /* bytes of them that have been handed over */
    int64_t begin_us;
    proa_kv_write_result result;
    void *backend;   /* the backend's own, from begin */
    uint64_t number; /* likewise */
    struct proa_kv_write_state *next;
} proa_kv_write_state;

/* What the descriptor says, before the backend has looked at its part. */
typedef struct proa_kv_descriptor {
    uint8_t kind;
    proa_dtype dtype;
    int32_t layers;
    int32_t blocks;
    size_t row_bytes;
    const uint8_t *backend; /* inside the bytes */
    uint32_t backend_bytes;
} proa_kv_descriptor;

struct proa_kv_peer {
    proa_kv_transfer *transfer;
    proa_kv_peer *next; /* of the transfer; the head is served first in the next turn */
    char name[64];
    char path[128];
    int32_t blocks;
    size_t layer_bytes;
    bool closing;
    proa_error failed;           /* status PROA_OK: it works */
    proa_kv_write_state *writes; /* in the order of proa_kv_peer_write, ended ones too until they are done */
    void *backend;
};

struct proa_kv_inbox {
    proa_kv_transfer *transfer;
    proa_kv_inbox *next;
    void *backend;
};

/* What carries the bytes. All on the transfer's thread; peers and inboxes are closed before free. */
typedef struct proa_kv_backend {
    const char *name;
    proa_status (*create)(proa_kv_transfer *transfer, const proa_kv_transfer_options *options,
                          proa_error *err);
    void (*free)(proa_kv_transfer *transfer); /* also after a create that failed half way */
    int (*fd)(const proa_kv_transfer *transfer);
    /* Appends its part of the descriptor. */
    proa_status (*inbox_open)(proa_kv_inbox *inbox, proa_buf *out, proa_error *err);
    void (*inbox_close)(proa_kv_inbox *inbox); /* also after an open that failed half way */
    proa_status (*connect)(proa_kv_peer *peer, const proa_kv_descriptor *descriptor, proa_error *err);
    void (*close)(proa_kv_peer *peer); /* also after a connect that failed half way; no writes are left */
    proa_status (*begin)(proa_kv_write_state *write);
    void (*forget)(proa_kv_write_state *write); /* the write goes: what is still moving moves for nobody */
    /* PROA_OK: handed over; PROA_BUSY: nothing taken, after the next progress perhaps; else the peer has failed. */
    proa_status (*put)(proa_kv_write_state *write, const proa_kv_chunk *chunk, proa_error *err);
    proa_status (*flush)(proa_kv_write_state *write, proa_error *err);
    /* Completions; true while there is more to do at once. */
    bool (*progress)(proa_kv_transfer *transfer);
} proa_kv_backend;

extern const proa_kv_backend proa_kv_backend_local;
extern const proa_kv_backend proa_kv_backend_ucx;
extern const proa_kv_backend proa_kv_backend_nixl;

struct proa_kv_transfer {
    const proa_kv_backend *backend;
    proa_kv_transfer_kind kind;
    proa_kv_layout layout;
    proa_kv_peer *peers;
    proa_kv_inbox *inboxes;
    uint32_t ended; /* writes that wait for their `done` */
    bool delivering;
    void *state; /* the backend's own */
};

static inline size_t proa_kv_layout_bytes(const proa_kv_layout *layout)
{
    return (size_t)layout->layers * layout->layer_bytes;
}

/* The next chunk of a write; false at the end. `take` moves on by it. */
bool proa_kv_chunk_next(const proa_kv_write_state *write, proa_kv_chunk *chunk);
void proa_kv_chunk_take(proa_kv_write_state *write, const proa_kv_chunk *chunk);

void proa_kv_write_end(proa_kv_write_state *write, proa_status status);
/* The peer is lost: its writes end with the status, new ones are refused with the text. */
void proa_kv_peer_fail(proa_kv_peer *peer, proa_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

void proa_kv_descriptor_put(proa_buf *out, const proa_kv_transfer *transfer, const proa_buf *backend);
/* Untrusted. The text names field and value. */
proa_status proa_kv_descriptor_get(const void *bytes, size_t length, proa_kv_descriptor *descriptor,
                                   proa_error *err);

#endif
