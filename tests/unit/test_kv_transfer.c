/* test_kv_transfer.c - every backend against a plain copy, row by row: the bytes are where they should be, and nowhere else. */
#include "base/clock.h"
#include "base/digest.h"
#include "net/kv_transfer_internal.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    BLOCK = PROA_KV_ROWS_A_BLOCK,
    GUARD = 4096,
    TABLE = 40, /* blocks of a sequence at most */
    DEADLINE_US = 10000000,
};

/* --- two caches --- */

typedef struct side {
    char *memory; /* GUARD, the cache, GUARD */
    size_t bytes; /* of all that */
    proa_kv_layout layout;
    proa_kv_transfer *transfer;
} side;

typedef struct pair {
    proa_kv_local_registry *registry;
    side a; /* writes */
    side b; /* is written to */
    proa_kv_inbox *inbox;
    proa_kv_peer *peer;
    proa_buf descriptor;
} pair;

static uint64_t mix(uint64_t x)
{
    x = (x ^ x >> 31) * 0x9E3779B97F4A7C15u;
    return x ^ x >> 29;
}

static void make_side(side *s, int32_t layers, int32_t blocks, size_t row_bytes, uint64_t seed)
{
    s->layout = (proa_kv_layout){.layers = layers,
                                 .blocks = blocks,
                                 .row_bytes = row_bytes,
                                 .block_bytes = row_bytes * BLOCK,
                                 .layer_bytes = row_bytes * BLOCK * (size_t)blocks};
    s->bytes = 2 * GUARD + (size_t)layers * s->layout.layer_bytes;
    s->memory = malloc(s->bytes);
    assert_non_null(s->memory);
    s->layout.base = s->memory + GUARD;
    for (size_t i = 0; i < s->bytes; i++)
        s->memory[i] = (char)mix(seed + i);
}

typedef struct kind {
    const char *name;
    proa_kv_transfer_kind kind;
    const char *ucx_tls;
} kind;

static const kind kinds[] = {
    {"local", PROA_KV_TRANSFER_LOCAL, NULL},
    {"ucx", PROA_KV_TRANSFER_UCX, NULL},
    {"ucx over tcp", PROA_KV_TRANSFER_UCX, "tcp"},
};

enum { KINDS = sizeof kinds / sizeof kinds[0] };

static proa_kv_transfer *make_transfer(const kind *k, pair *p, const proa_kv_layout *layout)
{
    proa_error err = {0};
    proa_kv_transfer *transfer = NULL;
    proa_kv_transfer_options options = {
        .local_registry = p->registry,
        .ucx_tls = k->ucx_tls,
        .ucx_net_devices = k->ucx_tls != NULL ? "lo" : NULL,
    };
    if (proa_kv_transfer_create(k->kind, layout, &options, &transfer, &err) != PROA_OK)
        fail_msg("%s: %s", k->name, err.text);
    return transfer;
}

static void connect_pair(pair *p)
{
    proa_error err = {0};
    int32_t blocks = 0;
    p->descriptor = (proa_buf){0};
    if (proa_kv_inbox_open(p->b.transfer, &p->descriptor, &p->inbox, &err) != PROA_OK ||
        proa_kv_peer_connect(p->a.transfer, p->descriptor.data, p->descriptor.length, "b", &p->peer, &blocks,
                             &err) != PROA_OK)
        fail_msg("%s", err.text);
    assert_int_equal(blocks, p->b.layout.blocks);
}

static void open_pair(pair *p, const kind *k, int32_t layers, size_t row_bytes, int32_t a_blocks,
                      int32_t b_blocks)
{
    *p = (pair){.registry = proa_kv_local_registry_create()};
    make_side(&p->a, layers, a_blocks, row_bytes, 1);
    make_side(&p->b, layers, b_blocks, row_bytes, 1000000007);
    p->a.transfer = make_transfer(k, p, &p->a.layout);
    p->b.transfer = make_transfer(k, p, &p->b.layout);
    connect_pair(p);
}

static void close_pair(pair *p)
{
    proa_kv_peer_close(p->peer);
    proa_kv_transfer_free(p->a.transfer);
    proa_kv_transfer_free(p->b.transfer);
    proa_kv_local_registry_free(p->registry);
    proa_buf_free(&p->descriptor);
    free(p->a.memory);
    free(p->b.memory);
}

/* --- writes --- */

typedef struct outcome {
    int calls;
    proa_kv_write_result result;
} outcome;

static void on_done(void *context, const proa_kv_write_result *result)
{
    outcome *o = context;
    o->calls++;
    o->result = *result;
}

static void progress_until(pair *p, const outcome *o, int count)
{
    int64_t deadline = proa_clock_us() + DEADLINE_US;
    for (int done = 0; done < count;) {
        if (proa_clock_us() > deadline)
            fail_msg("%d of %d writes done after %d s", done, count, DEADLINE_US / 1000000);
        proa_kv_transfer_progress(p->a.transfer);
        proa_kv_transfer_progress(p->b.transfer);
        done = 0;
        for (int i = 0; i < count; i++)
            done += o[i].calls;
    }
}

static char *row_at(const proa_kv_layout *layout, char *base, int32_t layer, const int32_t *table,
                    int32_t row)
{
    return base + (size_t)layer * layout->layer_bytes + (size_t)table[row / BLOCK] * layout->block_bytes +
           (size_t)(row % BLOCK) * layout->row_bytes;
}

/* The specification: one row after another into `image` of b's memory. Returns the contiguous runs. */
static uint32_t copy_rows(const pair *p, char *image, const proa_kv_write *w)
{
    uint32_t pieces = 0;
    size_t bytes = p->a.layout.row_bytes;
    for (int32_t layer = 0; layer < p->a.layout.layers; layer++) {
        const char *from_last = NULL, *to_last = NULL;
        for (int32_t row = w->row_first; row < w->row_first + w->row_count; row++) {
            const char *from = row_at(&p->a.layout, p->a.layout.base, layer, w->from, row);
            char *to = row_at(&p->b.layout, image + GUARD, layer, w->to, row);
            pieces += from_last == NULL || from != from_last + bytes || to != to_last + bytes;
            memcpy(to, from, bytes);
            from_last = from;
            to_last = to;
        }
    }
    return pieces;
}

typedef struct shape {
    const char *name;
    int32_t (*block)(int32_t index); /* of 64 */
} shape;

static int32_t straight(int32_t i)
{
    return 3 + i;
}

static int32_t scattered(int32_t i)
{
    return 1 + i * 37 % 61; /* 37 is coprime to 61: no block twice, no two in a row */
}

static int32_t backwards(int32_t i)
{
    return 60 - i;
}

static int32_t broken(int32_t i)
{
    return i + (i >= 2) * 5 + (i >= 3) + (i >= 7) * 9; /* runs of 2, 1, 4 and the rest */
}

static const shape shapes[] = {
    {"straight", straight}, {"scattered", scattered}, {"backwards", backwards}, {"broken", broken}};

static const struct {
    int32_t row_first, row_count;
} ranges[] = {
    {0, 1},    {0, 63},  {0, 64},   {0, 65},    {63, 1},
    {63, 2},   {64, 64}, {1, 62},   {17, 100},  {100, 300},
    {129, 63}, {0, 640}, {37, 555}, {BLOCK, 1}, {2 * BLOCK - 1, BLOCK + 2},
};

static void run_case(pair *p, const kind *k, const shape *from, const shape *to, int32_t row_first,
                     int32_t row_count)
{
    int32_t from_table[TABLE], to_table[TABLE];
    for (int32_t i = 0; i < TABLE; i++) {
        from_table[i] = from->block(i);
        to_table[i] = to->block(i);
    }
    outcome o = {0};
    proa_kv_write w = {from_table, to_table, row_first, row_count, on_done, &o};
    char *image = malloc(p->b.bytes);
    assert_non_null(image);
    memcpy(image, p->b.memory, p->b.bytes);
    uint32_t pieces = copy_rows(p, image, &w);
    proa_error err = {0};
    if (proa_kv_peer_write(p->peer, &w, &err) != PROA_OK)
        fail_msg("%s: %s", k->name, err.text);
    assert_int_equal(o.calls, 0);
    progress_until(p, &o, 1);
    if (o.result.status != PROA_OK || memcmp(image, p->b.memory, p->b.bytes) != 0)
        fail_msg("%s, %s to %s, rows %d + %d: status %d, or wrong bytes", k->name, from->name, to->name,
                 row_first, row_count, o.result.status);
    assert_int_equal(o.result.pieces, pieces);
    assert_int_equal(o.result.bytes, (size_t)row_count * p->a.layout.row_bytes * (size_t)p->a.layout.layers);
    assert_true(o.result.us >= 0);
    free(image);
}

static void test_rows(void **state)
{
    const kind *k = *state;
    const struct {
        int32_t layers;
        size_t row_bytes;
    } geometries[] = {{1, 1}, {3, 96}, {5, 1152}};
    for (size_t g = 0; g < sizeof geometries / sizeof geometries[0]; g++) {
        pair p;
        open_pair(&p, k, geometries[g].layers, geometries[g].row_bytes, 62, 64);
        for (size_t r = 0; r < sizeof ranges / sizeof ranges[0]; r++)
            for (size_t s = 0; s < 16; s++)
                run_case(&p, k, &shapes[s / 4], &shapes[s % 4], ranges[r].row_first, ranges[r].row_count);
        printf("%s: path \"%s\"\n", k->name, proa_kv_peer_path(p.peer));
        close_pair(&p);
    }
}

int main(void)
{
    struct CMUnitTest tests[KINDS];
    for (size_t i = 0; i < KINDS; i++)
        tests[i] = (struct CMUnitTest){
            .name = kinds[i].name, .test_func = test_rows, .initial_state = (void *)&kinds[i]};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
