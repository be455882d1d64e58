/* kv_transfer.c - what is the same for all kinds: chunks, turns, peers and their writes, descriptors, digests. */
#include "net/kv_transfer_internal.h"

#include "base/clock.h"
#include "base/digest.h"
#include "op/mla/kv_row.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    DESCRIPTOR_MAGIC = 0x4456504b, /* "KPVD" */
    DESCRIPTOR_VERSION = 2,
    LAYERS_MAX = 4096,
};

/* A cache larger than this is a lie, and sizes below it multiply without overflow. */
static const uint64_t CACHE_BYTES_MAX = 1ull << 47;

static const proa_kv_backend *const backends[] = {
    [PROA_KV_TRANSFER_LOCAL] = &proa_kv_backend_local,
    [PROA_KV_TRANSFER_UCX] = &proa_kv_backend_ucx,
    [PROA_KV_TRANSFER_NIXL] = &proa_kv_backend_nixl,
};

enum { KINDS = sizeof backends / sizeof backends[0] };

/* --- chunks --- */

/* Rows from `row` that are contiguous on both sides, to the end of the write at most. */
static int32_t run_of(const proa_kv_write *write, int32_t row)
{
    int32_t end = write->row_first + write->row_count;
    int32_t block = row / PROA_KV_ROWS_A_BLOCK;
    int32_t until = (block + 1) * PROA_KV_ROWS_A_BLOCK;
    while (until < end && write->from[block + 1] == write->from[block] + 1 &&
           write->to[block + 1] == write->to[block] + 1) {
        until += PROA_KV_ROWS_A_BLOCK;
        block++;
    }
    return (until < end ? until : end) - row;
}

static size_t offset_of(const proa_kv_layout *layout, size_t layer_bytes, int32_t layer, const int32_t *table,
                        int32_t row)
{
    return (size_t)layer * layer_bytes + (size_t)table[row / PROA_KV_ROWS_A_BLOCK] * layout->block_bytes +
           (size_t)(row % PROA_KV_ROWS_A_BLOCK) * layout->row_bytes;
}

bool proa_kv_chunk_next(const proa_kv_write_state *write, proa_kv_chunk *chunk)
{
    const proa_kv_layout *layout = &write->peer->transfer->layout;
    if (write->layer == layout->layers)
        return false;
    size_t left = (size_t)write->run * layout->row_bytes - write->run_offset;
    chunk->from = offset_of(layout, layout->layer_bytes, write->layer, write->write.from, write->row) +
                  write->run_offset;
    chunk->to = offset_of(layout, write->peer->layer_bytes, write->layer, write->write.to, write->row) +
                write->run_offset;
    chunk->bytes = left < PROA_KV_CHUNK_BYTES ? left : PROA_KV_CHUNK_BYTES;
    chunk->opens_piece = write->run_offset == 0;
    return true;
}

void proa_kv_chunk_take(proa_kv_write_state *write, const proa_kv_chunk *chunk)
{
    const proa_kv_layout *layout = &write->peer->transfer->layout;
    write->result.bytes += chunk->bytes;
    write->result.pieces += chunk->opens_piece;
    write->run_offset += chunk->bytes;
    if (write->run_offset < (size_t)write->run * layout->row_bytes)
        return;
    write->run_offset = 0;
    write->row += write->run;
    if (write->row == write->write.row_first + write->write.row_count) {
        write->row = write->write.row_first;
        write->layer++;
    }
    write->run = run_of(&write->write, write->row);
}

/* --- life of a transfer --- */

static void check_layout(const proa_kv_layout *layout)
{
    PROA_ASSERT(layout->base != NULL);
    PROA_ASSERT(layout->layers > 0);
    PROA_ASSERT(layout->layers <= LAYERS_MAX);
    PROA_ASSERT(layout->blocks > 0);
    PROA_ASSERT(layout->dtype <= PROA_DTYPE_E4M3);
    PROA_ASSERT(layout->row_bytes > 0);
    PROA_ASSERT(layout->block_bytes == PROA_KV_ROWS_A_BLOCK * layout->row_bytes);
    PROA_ASSERT(layout->layer_bytes == (size_t)layout->blocks * layout->block_bytes);
}

proa_status proa_kv_transfer_create(proa_kv_transfer_kind kind, const proa_kv_layout *layout,
                                    const proa_kv_transfer_options *options, proa_kv_transfer **transfer,
                                    proa_error *err)
{
    check_layout(layout);
    PROA_ASSERT((int)kind < KINDS);
    proa_kv_transfer *made = calloc(1, sizeof *made);
    if (made == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for a KV transfer");
    made->backend = backends[kind];
    made->kind = kind;
    made->layout = *layout;
    proa_status status = made->backend->create(made, options, err);
    if (proa_failed(status)) {
        proa_kv_transfer_free(made);
        return status;
    }
    *transfer = made;
    return PROA_OK;
}

void proa_kv_transfer_free(proa_kv_transfer *transfer)
{
    if (transfer == NULL)
        return;
    PROA_ASSERT(!transfer->delivering);
    while (transfer->peers != NULL)
        proa_kv_peer_close(transfer->peers);
    while (transfer->inboxes != NULL)
        proa_kv_inbox_close(transfer->inboxes);
    transfer->backend->free(transfer);
    free(transfer);
}

bool proa_kv_transfer_closes_for_good(const proa_kv_transfer *transfer)
{
    return transfer->kind != PROA_KV_TRANSFER_NIXL;
}

const char *proa_kv_transfer_name(const proa_kv_transfer *transfer)
{
    return transfer->backend->name;
}

int proa_kv_transfer_fd(const proa_kv_transfer *transfer)
{
    return transfer->backend->fd(transfer);
}

/* --- turns --- */

/* The oldest write of the peer that still has chunks. */
static proa_kv_write_state *queued_of(const proa_kv_peer *peer)
{
    proa_kv_write_state *write = peer->writes;
    while (write != NULL && write->phase != PROA_KV_WRITE_QUEUED)
        write = write->next;
    return write;
}

/* Hands one chunk to the backend; `moved` gets its bytes. PROA_BUSY: the backend takes none; PROA_END: nothing is queued. */
static proa_status pump_one(proa_kv_peer *peer, size_t *moved)
{
    proa_kv_backend const *backend = peer->transfer->backend;
    proa_kv_write_state *write = queued_of(peer);
    if (write == NULL)
        return PROA_END;
    proa_error err = {0};
    proa_kv_chunk chunk;
    PROA_ASSERT(proa_kv_chunk_next(write, &chunk));
    proa_status status = backend->put(write, &chunk, &err);
    if (status == PROA_OK && write->phase == PROA_KV_WRITE_QUEUED) { /* else the peer failed meanwhile */
        proa_kv_chunk_take(write, &chunk);
        *moved += chunk.bytes;
        if (!proa_kv_chunk_next(write, &chunk)) {
            write->phase = PROA_KV_WRITE_FLUSHING;
            status = backend->flush(write, &err);
        }
    }
    if (proa_failed(status))
        proa_kv_peer_fail(peer, status, "%s", err.text);
    return status;
}

/* Chunks round robin, until the turn's bytes are spent or nobody takes more. True when any was taken. */
static bool pump(proa_kv_transfer *transfer)
{
    size_t moved = 0;
    bool took = true;
    while (took && moved < PROA_KV_TURN_BYTES) {
        took = false;
        for (proa_kv_peer *peer = transfer->peers; peer != NULL && moved < PROA_KV_TURN_BYTES;
             peer = peer->next)
            took = pump_one(peer, &moved) == PROA_OK || took;
    }
    return moved > 0;
}

/* The first one waits at the end of the list for its next turn. */
static void rotate(proa_kv_transfer *transfer)
{
    proa_kv_peer *first = transfer->peers;
    if (first == NULL || first->next == NULL)
        return;
    proa_kv_peer **end = &transfer->peers;
    *end = first->next;
    while (*end != NULL)
        end = &(*end)->next;
    *end = first;
    first->next = NULL;
}

static void take_off(proa_kv_write_state *write)
{
    proa_kv_write_state **link = &write->peer->writes;
    while (*link != write)
        link = &(*link)->next;
    *link = write->next;
}

/* The peer and all others may be closed when this returns. */
static void deliver(proa_kv_write_state *write)
{
    take_off(write);
    write->peer->transfer->ended--;
    proa_kv_write done = write->write;
    proa_kv_write_result result = write->result;
    free(write);
    done.done(done.context, &result);
}

static proa_kv_write_state *ended_of(const proa_kv_peer *peer)
{
    proa_kv_write_state *write = peer->writes;
    while (write != NULL && write->phase != PROA_KV_WRITE_ENDED)
        write = write->next;
    return write;
}

static proa_kv_write_state *find_ended(const proa_kv_transfer *transfer)
{
    for (proa_kv_peer *peer = transfer->peers; peer != NULL; peer = peer->next) {
        proa_kv_write_state *write = ended_of(peer);
        if (write != NULL)
            return write;
    }
    return NULL;
}

/* Those that have ended by now; what `done` begins or ends waits for the next turn, so that a turn comes to its end. */
static void deliver_ended(proa_kv_transfer *transfer)
{
    transfer->delivering = true;
    for (uint32_t n = transfer->ended; n > 0 && transfer->ended > 0; n--)
        deliver(find_ended(transfer));
    transfer->delivering = false;
}

bool proa_kv_transfer_progress(proa_kv_transfer *transfer)
{
    PROA_ASSERT(!transfer->delivering);
    bool more = transfer->backend->progress(transfer);
    more = pump(transfer) || more;
    rotate(transfer);
    deliver_ended(transfer);
    return more || transfer->ended > 0;
}

/* --- writes --- */

void proa_kv_write_end(proa_kv_write_state *write, proa_status status)
{
    PROA_ASSERT(write->phase != PROA_KV_WRITE_ENDED);
    write->peer->transfer->backend->forget(write);
    write->phase = PROA_KV_WRITE_ENDED;
    write->result.status = status;
    write->result.us = proa_clock_us() - write->begin_us;
    write->peer->transfer->ended++;
}

void proa_kv_peer_fail(proa_kv_peer *peer, proa_status status, const char *format, ...)
{
    if (peer->failed.status != PROA_OK)
        return;
    va_list args;
    va_start(args, format);
    peer->failed.status = status;
    vsnprintf(peer->failed.text, sizeof peer->failed.text, format, args);
    va_end(args);
    for (proa_kv_write_state *write = peer->writes; write != NULL; write = write->next) {
        if (write->phase != PROA_KV_WRITE_ENDED)
            proa_kv_write_end(write, status);
    }
}

static proa_status check_blocks(const proa_kv_write *write, const int32_t *table, int32_t blocks,
                                const char *whose, proa_error *err)
{
    int32_t last = (write->row_first + write->row_count - 1) / PROA_KV_ROWS_A_BLOCK;
    for (int32_t i = write->row_first / PROA_KV_ROWS_A_BLOCK; i <= last; i++) {
        if (table[i] < 0 || table[i] >= blocks)
            return proa_error_set(err, PROA_ERR_INVALID,
                                  "KV write: block %d at index %d of %s table is not below %d", table[i], i,
                                  whose, blocks);
    }
    return PROA_OK;
}

proa_status proa_kv_peer_write(proa_kv_peer *peer, const proa_kv_write *write, proa_error *err)
{
    PROA_ASSERT(write->row_first >= 0);
    PROA_ASSERT(write->row_count > 0);
    PROA_ASSERT(write->row_count <= INT32_MAX - PROA_KV_ROWS_A_BLOCK - write->row_first);
    const proa_kv_layout *layout = &peer->transfer->layout;
    if (peer->failed.status != PROA_OK)
        return proa_error_set(err, PROA_ERR_UNREACHABLE, "%s", peer->failed.text);
    proa_status status = check_blocks(write, write->from, layout->blocks, "this side's", err);
    if (!proa_failed(status))
        status = check_blocks(write, write->to, peer->blocks, "the peer's", err);
    if (proa_failed(status))
        return status;
    proa_kv_write_state *state = calloc(1, sizeof *state);
    if (state == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for a KV write to %s", peer->name);
    *state = (proa_kv_write_state){
        .write = *write,
        .peer = peer,
        .row = write->row_first,
        .run = run_of(write, write->row_first),
        .begin_us = proa_clock_us(),
    };
    if (proa_failed(peer->transfer->backend->begin(state))) {
        free(state);
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for a KV write to %s", peer->name);
    }
    proa_kv_write_state **end = &peer->writes;
    while (*end != NULL)
        end = &(*end)->next;
    *end = state;
    return PROA_OK;
}

/* --- peers and inboxes --- */

proa_status proa_kv_peer_connect(proa_kv_transfer *transfer, const void *descriptor, size_t length,
                                 const char *name, proa_kv_peer **peer, int32_t *peer_blocks, proa_error *err)
{
    const proa_kv_layout *layout = &transfer->layout;
    proa_kv_descriptor d;
    proa_status status = proa_kv_descriptor_get(descriptor, length, &d, err);
    if (proa_failed(status))
        return proa_error_prefix(err, "%s", name);
    if (d.kind != transfer->kind)
        return proa_error_set(err, PROA_ERR_INVALID,
                              "%s receives KV by %s, this process writes by %s: give both the same "
                              "--disaggregation-transfer-backend",
                              name, backends[d.kind]->name, transfer->backend->name);
    if (d.dtype != layout->dtype)
        return proa_error_set(err, PROA_ERR_INVALID,
                              "%s keeps its KV cache in %s, this process in %s: give both the same "
                              "--kv-cache-dtype and --activation-dtype",
                              name, proa_kv_cache_name(d.dtype), proa_kv_cache_name(layout->dtype));
    if (d.layers != layout->layers || d.row_bytes != layout->row_bytes)
        return proa_error_set(
            err, PROA_ERR_INVALID,
            "%s has KV rows of %zu bytes in %d layers, this process %zu in %d: the models differ", name,
            d.row_bytes, d.layers, layout->row_bytes, layout->layers);
    proa_kv_peer *made = calloc(1, sizeof *made);
    if (made == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for the KV peer %s", name);
    made->transfer = transfer;
    made->blocks = d.blocks;
    made->layer_bytes = (size_t)d.blocks * layout->block_bytes;
    snprintf(made->name, sizeof made->name, "%s", name);
    status = transfer->backend->connect(made, &d, err);
    if (proa_failed(status)) {
        transfer->backend->close(made);
        free(made);
        return status;
    }
    made->next = transfer->peers;
    transfer->peers = made;
    *peer = made;
    *peer_blocks = d.blocks;
    return PROA_OK;
}

void proa_kv_peer_close(proa_kv_peer *peer)
{
    if (peer == NULL || peer->closing) /* closing: a `done` below closes what is being closed */
        return;
    peer->closing = true;
    proa_kv_transfer *transfer = peer->transfer;
    proa_kv_peer **link = &transfer->peers;
    while (*link != peer)
        link = &(*link)->next;
    *link = peer->next; /* first, so that a `done` below that closes others does not meet it */
    proa_kv_peer_fail(peer, PROA_ERR_CANCELLED, "KV peer %s is being closed", peer->name);
    while (peer->writes != NULL)
        deliver(peer->writes);
    transfer->backend->close(peer);
    free(peer);
}

const char *proa_kv_peer_path(const proa_kv_peer *peer)
{
    return peer->path;
}

proa_status proa_kv_inbox_open(proa_kv_transfer *transfer, proa_buf *descriptor, proa_kv_inbox **inbox,
                               proa_error *err)
{
    proa_buf part = {0};
    proa_kv_inbox *made = calloc(1, sizeof *made);
    if (made == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for a KV inbox");
    made->transfer = transfer;
    size_t before = descriptor->length;
    proa_status status = transfer->backend->inbox_open(made, &part, err);
    if (!proa_failed(status)) {
        proa_kv_descriptor_put(descriptor, transfer, &part);
        if (part.failed || descriptor->failed)
            status = proa_error_set(err, PROA_ERR_MEMORY, "no memory for a KV descriptor");
        else if (descriptor->length - before > PROA_KV_DESCRIPTOR_BYTES_MAX)
            status = proa_error_set(err, PROA_ERR_TOO_LONG, "a KV descriptor of %zu bytes, at most %d",
                                    descriptor->length - before, PROA_KV_DESCRIPTOR_BYTES_MAX);
    }
    proa_buf_free(&part);
    if (proa_failed(status)) {
        proa_buf_truncate(descriptor, before);
        transfer->backend->inbox_close(made);
        free(made);
        return status;
    }
    made->next = transfer->inboxes;
    transfer->inboxes = made;
    *inbox = made;
    return PROA_OK;
}

void proa_kv_inbox_close(proa_kv_inbox *inbox)
{
    if (inbox == NULL)
        return;
    proa_kv_inbox **link = &inbox->transfer->inboxes;
    while (*link != inbox)
        link = &(*link)->next;
    *link = inbox->next;
    inbox->transfer->backend->inbox_close(inbox);
    free(inbox);
}

/* --- descriptors --- */

void proa_kv_descriptor_put(proa_buf *out, const proa_kv_transfer *transfer, const proa_buf *backend)
{
    size_t begin = out->length;
    proa_put_u32(out, DESCRIPTOR_MAGIC);
    proa_put_u16(out, DESCRIPTOR_VERSION);
    proa_put_u8(out, (uint8_t)transfer->kind);
    proa_put_u8(out, (uint8_t)transfer->layout.dtype);
    proa_put_i32(out, transfer->layout.layers);
    proa_put_i32(out, transfer->layout.blocks);
    proa_put_u64(out, transfer->layout.row_bytes);
    proa_put_u32(out, (uint32_t)backend->length);
    proa_buf_append(out, backend->data, backend->length);
    if (!out->failed)
        proa_put_u64(out, proa_digest(out->data + begin, out->length - begin, 0));
}

proa_status proa_kv_descriptor_get(const void *bytes, size_t length, proa_kv_descriptor *descriptor,
                                   proa_error *err)
{
    proa_reader r = proa_reader_of(bytes, length);
    uint32_t magic = proa_get_u32(&r);
    uint16_t version = proa_get_u16(&r);
    *descriptor = (proa_kv_descriptor){.kind = proa_get_u8(&r)};
    uint8_t dtype = proa_get_u8(&r);
    descriptor->layers = proa_get_i32(&r);
    descriptor->blocks = proa_get_i32(&r);
    uint64_t row_bytes = proa_get_u64(&r);
    descriptor->backend_bytes = proa_get_count(&r, PROA_KV_DESCRIPTOR_BYTES_MAX, 1);
    descriptor->backend = proa_get_bytes(&r, descriptor->backend_bytes);
    size_t digested = r.at;
    uint64_t digest = proa_get_u64(&r);
    if (!proa_reader_done(&r) || magic != DESCRIPTOR_MAGIC)
        return proa_error_set(err, PROA_ERR_PROTOCOL, "malformed KV descriptor of %zu bytes", length);
    if (version != DESCRIPTOR_VERSION)
        return proa_error_set(
            err, PROA_ERR_PROTOCOL,
            "KV descriptor of version %u, this process knows %d: run the same release on both sides", version,
            DESCRIPTOR_VERSION);
    if (digest != proa_digest(bytes, digested, 0))
        return proa_error_set(err, PROA_ERR_PROTOCOL, "damaged KV descriptor: its digest does not fit");
    if (descriptor->kind >= KINDS)
        return proa_error_set(err, PROA_ERR_PROTOCOL, "KV descriptor of unknown kind %u", descriptor->kind);
    if (dtype > PROA_DTYPE_E4M3)
        return proa_error_set(err, PROA_ERR_PROTOCOL, "KV descriptor of rows of unknown type %u", dtype);
    if (descriptor->layers < 1 || descriptor->layers > LAYERS_MAX || descriptor->blocks < 1 ||
        row_bytes < 1 ||
        row_bytes > CACHE_BYTES_MAX / PROA_KV_ROWS_A_BLOCK / (uint64_t)descriptor->layers /
                        (uint64_t)descriptor->blocks)
        return proa_error_set(err, PROA_ERR_PROTOCOL,
                              "KV descriptor with %d layers of %d blocks of rows of %llu bytes: out of range",
                              descriptor->layers, descriptor->blocks, (unsigned long long)row_bytes);
    descriptor->dtype = (proa_dtype)dtype;
    descriptor->row_bytes = (size_t)row_bytes;
    return PROA_OK;
}

/* --- digest --- */

uint64_t proa_kv_digest(const proa_kv_layout *layout, int32_t block, int32_t row_count, uint64_t seed)
{
    const char *rows = (const char *)layout->base + (size_t)block * layout->block_bytes;
    for (int32_t layer = 0; layer < layout->layers; layer++)
        seed = proa_digest(rows + (size_t)layer * layout->layer_bytes, (size_t)row_count * layout->row_bytes,
                           seed);
    return seed;
}
