/* kv_ucx_message.h - the header of each of kv_ucx.c's active messages: token, u64 write, u64 value; little-endian. Pure.
 *
 * The token is the inbox's, from its descriptor: who does not show it has no business there.
 */
#ifndef PROA_NET_KV_UCX_MESSAGE_H
#define PROA_NET_KV_UCX_MESSAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { PROA_KV_TOKEN_BYTES = 16, PROA_KV_MESSAGE_BYTES = PROA_KV_TOKEN_BYTES + 16 };

typedef enum proa_kv_message {
    PROA_KV_HELLO = 1, /* to the inbox: the address of the writer's worker is the payload */
    PROA_KV_ROWS = 2,  /* to the inbox: rows are the payload; value: their offset in the cache */
    PROA_KV_END = 3,   /* to the inbox: no more ROWS of the write; value: bytes of all of them */
    PROA_KV_DONE = 4,  /* to the writer; value: 0, or 1 when the write has failed */
} proa_kv_message;

void proa_kv_message_put(uint8_t header[PROA_KV_MESSAGE_BYTES], const uint8_t token[PROA_KV_TOKEN_BYTES],
                         uint64_t write, uint64_t value);
/* False: malformed, or not of one who has this token. Untrusted bytes. */
bool proa_kv_message_get(const void *header, size_t length, const uint8_t token[PROA_KV_TOKEN_BYTES],
                         uint64_t *write, uint64_t *value);

/* Whether `bytes` at `offset` lie in a cache of `cache_bytes`. */
static inline bool proa_kv_message_fits(uint64_t offset, uint64_t bytes, uint64_t cache_bytes)
{
    return bytes <= cache_bytes && offset <= cache_bytes - bytes;
}

#endif
