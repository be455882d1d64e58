/* wire_room.c - messages between workers: ROOM_HELLO, ROOM_OPEN, ROOM_ABORT, ROOM_DONE, ROOM_FAIL, ROOM_QUIET.
 *
 * What a room message says of lengths must agree in itself: as many blocks as the rows need, for which each block has its
 * generation (and digest). Whether room, epoch and block numbers are the receiver's own is the receiver's to check.
 */
#include "cluster/wire_internal.h"
#include "net/kv_transfer.h"

#include <inttypes.h>

enum { DESCRIPTOR_BYTES_MAX = 64 << 10 };

void proa_wire_put_room_hello(proa_buf *out, const proa_wire_room_hello *m)
{
    PROA_ASSERT(m->descriptor_bytes <= DESCRIPTOR_BYTES_MAX);
    proa_put_u64(out, m->model_digest);
    proa_put_u8(out, m->kv_dtype);
    proa_put_u8(out, m->transfer);
    proa_put_i32(out, m->block_tokens);
    proa_put_u32(out, m->descriptor_bytes);
    proa_buf_append(out, m->descriptor, m->descriptor_bytes);
}

bool proa_wire_get_room_hello(const void *body, size_t length, proa_wire_room_hello *m, proa_error *err)
{
    proa_wire_in in = proa_wire_in_of(body, length, "ROOM_HELLO", NULL, err);
    m->model_digest = proa_wire_in_u64(&in, "model_digest");
    m->kv_dtype = proa_wire_in_u8(&in, "kv_dtype", PROA_DTYPE_E4M3);
    m->transfer = proa_wire_in_u8(&in, "transfer", PROA_KV_TRANSFER_NIXL);
    m->block_tokens = proa_wire_in_i32(&in, "block_tokens", 1);
    if (m->block_tokens != PROA_KV_BLOCK_TOKENS)
        proa_wire_refuse(&in, "block_tokens", "is %" PRId32 ", but KV blocks have %d tokens here",
                         m->block_tokens, PROA_KV_BLOCK_TOKENS);
    m->descriptor_bytes = proa_wire_in_count(&in, "descriptor_bytes", DESCRIPTOR_BYTES_MAX, 1);
    m->descriptor = proa_wire_in_bytes(&in, "descriptor", m->descriptor_bytes);
    return proa_wire_in_done(&in);
}

/* Rows of a room, and the count of blocks that hold at least those. */
static int32_t get_rows(proa_wire_in *in)
{
    int32_t tokens = proa_wire_in_i32(in, "tokens", 1);
    if (tokens > PROA_WIRE_PROMPT_MAX)
        proa_wire_refuse(in, "tokens", "is %" PRId32 ", it must be at most %d", tokens, PROA_WIRE_PROMPT_MAX);
    return tokens;
}

static uint32_t get_block_count(proa_wire_in *in, int32_t tokens, size_t element_bytes)
{
    uint32_t count = proa_wire_in_count(in, "block_count", PROA_WIRE_BLOCKS_MAX, element_bytes);
    if ((int64_t)count * PROA_KV_BLOCK_TOKENS < tokens)
        proa_wire_refuse(in, "block_count", "is %" PRIu32 ", too few for %" PRId32 " tokens", count, tokens);
    return count;
}

void proa_wire_put_room_open(proa_buf *out, const proa_wire_room_open *m)
{
    PROA_ASSERT(m->block_count <= PROA_WIRE_BLOCKS_MAX);
    proa_put_u64(out, m->room);
    proa_put_u64(out, m->epoch);
    proa_put_i32(out, m->tokens);
    proa_put_u32(out, m->block_count);
    proa_wire_put_i32s(out, m->blocks, m->block_count);
    proa_wire_put_u32s(out, m->generations, m->block_count);
}

bool proa_wire_get_room_open(const void *body, size_t length, proa_arena *arena, proa_wire_room_open *m,
                             proa_error *err)
{
    proa_wire_in in = proa_wire_in_of(body, length, "ROOM_OPEN", arena, err);
    m->room = proa_wire_in_nonzero(&in, "room");
    m->epoch = proa_wire_in_nonzero(&in, "epoch");
    m->tokens = get_rows(&in);
    m->block_count = get_block_count(&in, m->tokens, 8);
    m->blocks = proa_wire_in_i32s(&in, "blocks", m->block_count, 0);
    m->generations = proa_wire_in_u32s(&in, "generations", m->block_count);
    return proa_wire_in_done(&in);
}

void proa_wire_put_room(proa_buf *out, const proa_wire_room *m)
{
    proa_put_u64(out, m->room);
    proa_put_u64(out, m->epoch);
}

bool proa_wire_get_room(const void *body, size_t length, proa_wire_room *m, proa_error *err)
{
    proa_wire_in in = proa_wire_in_of(body, length, "ROOM_ABORT or ROOM_QUIET", NULL, err);
    m->room = proa_wire_in_nonzero(&in, "room");
    m->epoch = proa_wire_in_nonzero(&in, "epoch");
    return proa_wire_in_done(&in);
}

void proa_wire_put_room_done(proa_buf *out, const proa_wire_room_done *m)
{
    PROA_ASSERT(m->block_count <= PROA_WIRE_BLOCKS_MAX);
    proa_put_u64(out, m->room);
    proa_put_u64(out, m->epoch);
    proa_wire_put_sample(out, &m->first);
    proa_put_i32(out, m->cached_tokens);
    proa_put_i32(out, m->tokens);
    proa_put_u64(out, m->bytes);
    proa_put_i64(out, m->us);
    proa_put_u32(out, m->block_count);
    proa_wire_put_u64s(out, m->digests, m->block_count);
    proa_wire_put_u32s(out, m->generations, m->block_count);
}

bool proa_wire_get_room_done(const void *body, size_t length, proa_arena *arena, proa_wire_room_done *m,
                             proa_error *err)
{
    proa_wire_in in = proa_wire_in_of(body, length, "ROOM_DONE", arena, err);
    m->room = proa_wire_in_nonzero(&in, "room");
    m->epoch = proa_wire_in_nonzero(&in, "epoch");
    proa_wire_in_sample(&in, "first", &m->first);
    m->cached_tokens = proa_wire_in_i32(&in, "cached_tokens", 0);
    m->tokens = get_rows(&in);
    if (m->cached_tokens > m->tokens)
        proa_wire_refuse(&in, "cached_tokens", "is %" PRId32 " of %" PRId32 " tokens", m->cached_tokens,
                         m->tokens);
    m->bytes = proa_wire_in_u64(&in, "bytes");
    m->us = proa_wire_in_i64(&in, "us", 0);
    m->block_count = get_block_count(&in, m->tokens, 12);
    m->digests = proa_wire_in_u64s(&in, "digests", m->block_count);
    m->generations = proa_wire_in_u32s(&in, "generations", m->block_count);
    return proa_wire_in_done(&in);
}

void proa_wire_put_room_fail(proa_buf *out, const proa_wire_room_fail *m)
{
    proa_put_u64(out, m->room);
    proa_put_u64(out, m->epoch);
    proa_wire_put_error(out, &m->error);
}

bool proa_wire_get_room_fail(const void *body, size_t length, proa_wire_room_fail *m, proa_error *err)
{
    proa_wire_in in = proa_wire_in_of(body, length, "ROOM_FAIL", NULL, err);
    m->room = proa_wire_in_nonzero(&in, "room");
    m->epoch = proa_wire_in_nonzero(&in, "epoch");
    proa_wire_in_error(&in, "error", &m->error);
    if (!proa_failed(m->error.status))
        proa_wire_refuse(&in, "error", "has the status %d (%s), which is no failure", m->error.status,
                         proa_status_name(m->error.status));
    return proa_wire_in_done(&in);
}
