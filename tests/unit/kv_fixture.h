/* kv_fixture.h - caches with guards, pairs of transfers and the kinds that tests of net/kv_transfer.h go through. */
#ifndef KV_FIXTURE_H
#define KV_FIXTURE_H

#include "base/clock.h"
#include "net/kv_transfer_internal.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { KV_ROWS = PROA_KV_ROWS_A_BLOCK, KV_GUARD = 4096, KV_DEADLINE_US = 10000000 };

typedef struct kv_kind {
    const char *name;
    proa_kv_transfer_kind kind;
    const char *ucx_tls;
} kv_kind;

static const kv_kind kv_kinds[] = {
    {"local", PROA_KV_TRANSFER_LOCAL, NULL},
    {"ucx", PROA_KV_TRANSFER_UCX, NULL},
    {"ucx over tcp", PROA_KV_TRANSFER_UCX, "tcp"},
    {"nixl", PROA_KV_TRANSFER_NIXL, NULL},
};

enum { KV_KINDS = sizeof kv_kinds / sizeof kv_kinds[0] };

/* A cache between two guards. */
typedef struct kv_side {
    char *memory;
    size_t bytes; /* of all that */
    proa_kv_layout layout;
    proa_kv_transfer *transfer;
} kv_side;

static inline uint64_t kv_mix(uint64_t x)
{
    x = (x ^ x >> 31) * 0x9E3779B97F4A7C15u;
    return x ^ x >> 29;
}

static inline void kv_make_side(kv_side *s, int32_t layers, int32_t blocks, size_t row_bytes, uint64_t seed)
{
    s->layout = (proa_kv_layout){.dtype = PROA_DTYPE_BF16,
                                 .layers = layers,
                                 .blocks = blocks,
                                 .row_bytes = row_bytes,
                                 .block_bytes = row_bytes * KV_ROWS,
                                 .layer_bytes = row_bytes * KV_ROWS * (size_t)blocks};
    s->bytes = 2 * KV_GUARD + (size_t)layers * s->layout.layer_bytes;
    s->memory = malloc(s->bytes + sizeof(uint64_t));
    assert_non_null(s->memory);
    s->layout.base = s->memory + KV_GUARD;
    for (size_t i = 0; i < s->bytes; i += sizeof(uint64_t)) {
        uint64_t word = kv_mix(seed + i);
        memcpy(s->memory + i, &word, sizeof word);
    }
}

static inline proa_kv_transfer *kv_make_transfer(const kv_kind *k, proa_kv_local_registry *registry,
                                                 const proa_kv_layout *layout)
{
    proa_error err = {0};
    proa_kv_transfer *transfer = NULL;
    proa_kv_transfer_options options = {
        .local_registry = registry,
        .ucx_tls = k->ucx_tls,
        .ucx_net_devices = k->ucx_tls != NULL ? "lo" : NULL,
        .nixl_library = getenv("PROA_TEST_NIXL"),
    };
    if (proa_kv_transfer_create(k->kind, layout, &options, &transfer, &err) != PROA_OK)
        fail_msg("%s: %s", k->name, err.text);
    return transfer;
}

/* a writes to b. */
typedef struct kv_pair {
    const kv_kind *kind;
    proa_kv_local_registry *registry;
    kv_side a;
    kv_side b;
    proa_kv_inbox *inbox;
    proa_kv_peer *peer;
} kv_pair;

static inline void kv_connect(kv_pair *p)
{
    proa_error err = {0};
    int32_t blocks = 0;
    proa_buf descriptor = {0};
    if (proa_kv_inbox_open(p->b.transfer, &descriptor, &p->inbox, &err) != PROA_OK ||
        proa_kv_peer_connect(p->a.transfer, descriptor.data, descriptor.length, "b", &p->peer, &blocks,
                             &err) != PROA_OK)
        fail_msg("%s: %s", p->kind->name, err.text);
    assert_int_equal(blocks, p->b.layout.blocks);
    proa_buf_free(&descriptor);
}

static inline void kv_open_pair(kv_pair *p, const kv_kind *k, int32_t layers, size_t row_bytes,
                                int32_t a_blocks, int32_t b_blocks)
{
    *p = (kv_pair){.kind = k, .registry = proa_kv_local_registry_create()};
    kv_make_side(&p->a, layers, a_blocks, row_bytes, 1);
    kv_make_side(&p->b, layers, b_blocks, row_bytes, 1000000007);
    p->a.transfer = kv_make_transfer(k, p->registry, &p->a.layout);
    p->b.transfer = kv_make_transfer(k, p->registry, &p->b.layout);
    kv_connect(p);
}

static inline void kv_close_pair(kv_pair *p)
{
    proa_kv_peer_close(p->peer);
    proa_kv_transfer_free(p->a.transfer);
    proa_kv_transfer_free(p->b.transfer);
    proa_kv_local_registry_free(p->registry);
    free(p->a.memory);
    free(p->b.memory);
}

/* What `done` has said. */
typedef struct kv_outcome {
    int calls;
    proa_kv_write_result result;
} kv_outcome;

static inline void kv_on_done(void *context, const proa_kv_write_result *result)
{
    kv_outcome *o = context;
    o->calls++;
    o->result = *result;
}

static inline void kv_write(kv_pair *p, const proa_kv_write *w)
{
    proa_error err = {0};
    if (proa_kv_peer_write(p->peer, w, &err) != PROA_OK)
        fail_msg("%s: %s", p->kind->name, err.text);
}

/* As the loop does: progress, and when there is nothing to do, at most a millisecond of waiting. */
static inline void kv_turn(proa_kv_transfer *transfer)
{
    struct pollfd wait = {.fd = proa_kv_transfer_fd(transfer), .events = POLLIN};
    if (!proa_kv_transfer_progress(transfer))
        poll(&wait, 1, 1);
}

static inline void kv_finish(kv_pair *p, const kv_outcome *o, int count)
{
    int64_t deadline = proa_clock_us() + KV_DEADLINE_US;
    for (int done = 0; done < count;) {
        if (proa_clock_us() > deadline)
            fail_msg("%s: %d of %d writes done after %d s", p->kind->name, done, count,
                     KV_DEADLINE_US / 1000000);
        proa_kv_transfer_progress(p->a.transfer);
        proa_kv_transfer_progress(p->b.transfer);
        done = 0;
        for (int i = 0; i < count; i++)
            done += o[i].calls;
    }
}

static inline char *kv_row(const proa_kv_layout *layout, char *base, int32_t layer, const int32_t *table,
                           int32_t row)
{
    return base + (size_t)layer * layout->layer_bytes + (size_t)table[row / KV_ROWS] * layout->block_bytes +
           (size_t)(row % KV_ROWS) * layout->row_bytes;
}

#endif
