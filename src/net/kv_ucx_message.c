/* kv_ucx_message.c - headers written and read back. */
#include "net/kv_ucx_message.h"

#include "net/bytes.h"

#include <string.h>

static void put_u64(uint8_t *at, uint64_t value)
{
    for (int i = 0; i < 8; i++)
        at[i] = (uint8_t)(value >> (8 * i));
}

void proa_kv_message_put(uint8_t header[PROA_KV_MESSAGE_BYTES], const uint8_t token[PROA_KV_TOKEN_BYTES],
                         uint64_t write, uint64_t value)
{
    memcpy(header, token, PROA_KV_TOKEN_BYTES);
    put_u64(header + PROA_KV_TOKEN_BYTES, write);
    put_u64(header + PROA_KV_TOKEN_BYTES + 8, value);
}

bool proa_kv_message_get(const void *header, size_t length, const uint8_t token[PROA_KV_TOKEN_BYTES],
                         uint64_t *write, uint64_t *value)
{
    proa_reader r = proa_reader_of(header, length);
    const uint8_t *given = proa_get_bytes(&r, PROA_KV_TOKEN_BYTES);
    *write = proa_get_u64(&r);
    *value = proa_get_u64(&r);
    uint8_t differs = 0;
    for (int i = 0; given != NULL && i < PROA_KV_TOKEN_BYTES; i++)
        differs |= given[i] ^ token[i];
    return proa_reader_done(&r) && differs == 0;
}
