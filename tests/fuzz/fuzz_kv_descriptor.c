/* fuzz_kv_descriptor.c - what a peer sends before and during KV transfers: descriptors, as they are and with a digest that fits,
 * through the decoder and a local connect; headers of messages. What is accepted can be used without further checks. */
#include "base/digest.h"
#include "net/kv_transfer_internal.h"
#include "net/kv_ucx_message.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { LAYERS = 3, BLOCKS = 4, ROW_BYTES = 96 };

static char cache[LAYERS * BLOCKS * PROA_KV_ROWS_A_BLOCK * ROW_BYTES];

static proa_kv_transfer *make_transfer(void)
{
    const proa_kv_layout layout = {
        .base = cache,
        .dtype = PROA_DTYPE_BF16,
        .layers = LAYERS,
        .blocks = BLOCKS,
        .row_bytes = ROW_BYTES,
        .block_bytes = PROA_KV_ROWS_A_BLOCK * ROW_BYTES,
        .layer_bytes = BLOCKS * PROA_KV_ROWS_A_BLOCK * ROW_BYTES,
    };
    proa_kv_transfer_options options = {.local_registry = proa_kv_local_registry_create()};
    proa_kv_transfer *transfer = NULL;
    proa_error err = {0};
    if (proa_kv_transfer_create(PROA_KV_TRANSFER_LOCAL, &layout, &options, &transfer, &err) != PROA_OK)
        abort();
    return transfer;
}

static void try_descriptor(proa_kv_transfer *transfer, const uint8_t *bytes, size_t size)
{
    proa_kv_descriptor d;
    proa_error err = {0};
    proa_status status = proa_kv_descriptor_get(bytes, size, &d, &err);
    if (status == PROA_OK) {
        unsigned sum = 0;
        for (uint32_t i = 0; i < d.backend_bytes; i++)
            sum += d.backend[i];
        uint64_t rows = (uint64_t)d.layers * (uint64_t)d.blocks * PROA_KV_ROWS_A_BLOCK;
        if (d.kind > PROA_KV_TRANSFER_NIXL || d.dtype > PROA_DTYPE_E4M3 || d.layers < 1 || d.blocks < 1 ||
            d.row_bytes < 1 || d.row_bytes > (1ull << 47) / rows || sum == 1u << 31)
            abort();
    } else if (err.status != status || err.text[0] == 0) {
        abort();
    }
    proa_kv_peer *peer = NULL;
    int32_t blocks = -1;
    err = (proa_error){0};
    status = proa_kv_peer_connect(transfer, bytes, size, "x", &peer, &blocks, &err);
    if (status == PROA_OK ? peer == NULL || blocks < 1 : peer != NULL || err.text[0] == 0)
        abort();
    proa_kv_peer_close(peer);
}

static void try_message(const uint8_t *bytes, size_t size)
{
    static const uint8_t token[PROA_KV_TOKEN_BYTES] = "0123456789abcde";
    uint8_t header[PROA_KV_MESSAGE_BYTES];
    uint64_t write, value;
    if (!proa_kv_message_get(bytes, size, token, &write, &value))
        return;
    proa_kv_message_put(header, token, write, value);
    if (size != sizeof header || memcmp(header, bytes, size) != 0)
        abort();
    if (proa_kv_message_fits(value, write, sizeof cache) &&
        (value > sizeof cache || value + write > sizeof cache))
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static proa_kv_transfer *transfer;
    if (transfer == NULL)
        transfer = make_transfer();
    try_descriptor(transfer, data, size);
    try_message(data, size);
    if (size < 8)
        return 0;
    uint8_t *fixed = malloc(size);
    if (fixed == NULL)
        return 0;
    memcpy(fixed, data, size);
    uint64_t digest = proa_digest(fixed, size - 8, 0);
    for (size_t i = 0; i < 8; i++)
        fixed[size - 8 + i] = (uint8_t)(digest >> (8 * i));
    try_descriptor(transfer, fixed, size);
    free(fixed);
    return 0;
}
