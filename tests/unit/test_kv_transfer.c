/* test_kv_transfer.c - every kind of transfer against a plain copy, row by row: the bytes are where they should be, and nowhere
 * else. Both ends in this process; test_kv_processes.c has two. */
#include "base/digest.h"
#include "kv_fixture.h"

#include <pthread.h>
#include <stdatomic.h>

enum { TABLE = 40 /* blocks of a sequence at most */ };

/* --- rows --- */

/* The specification: one row after another into `image` of b's memory. Returns the contiguous runs. */
static uint32_t copy_rows(const kv_pair *p, char *image, const proa_kv_write *w)
{
    uint32_t pieces = 0;
    size_t bytes = p->a.layout.row_bytes;
    for (int32_t layer = 0; layer < p->a.layout.layers; layer++) {
        const char *from_last = NULL, *to_last = NULL;
        for (int32_t row = w->row_first; row < w->row_first + w->row_count; row++) {
            const char *from = kv_row(&p->a.layout, p->a.layout.base, layer, w->from, row);
            char *to = kv_row(&p->b.layout, image + KV_GUARD, layer, w->to, row);
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

typedef struct range {
    int32_t row_first, row_count;
} range;

static const range ranges[] = {
    {0, 1},    {0, 63},    {0, 64},   {0, 65}, {63, 1},   {63, 2},   {64, 64}, {1, 62},
    {17, 100}, {100, 300}, {129, 63}, {64, 1}, {127, 66}, {37, 555}, {0, 640},
};

enum { RANGES = sizeof ranges / sizeof ranges[0] };

static void fill(int32_t *table, const shape *s)
{
    for (int32_t i = 0; i < TABLE; i++)
        table[i] = s->block(i);
}

static void run_case(kv_pair *p, char *image, const shape *from, const shape *to, range rows)
{
    int32_t from_table[TABLE], to_table[TABLE];
    fill(from_table, from);
    fill(to_table, to);
    kv_outcome o = {0};
    proa_kv_write w = {from_table, to_table, rows.row_first, rows.row_count, kv_on_done, &o};
    uint32_t pieces = copy_rows(p, image, &w);
    kv_write(p, &w);
    assert_int_equal(o.calls, 0);
    kv_finish(p, &o, 1);
    if (o.result.status != PROA_OK || memcmp(image, p->b.memory, p->b.bytes) != 0)
        fail_msg("%s, %s to %s, rows %d + %d: status %d, or wrong bytes", p->kind->name, from->name, to->name,
                 rows.row_first, rows.row_count, o.result.status);
    assert_int_equal(o.result.pieces, pieces);
    assert_int_equal(o.result.bytes,
                     (size_t)rows.row_count * p->a.layout.row_bytes * (size_t)p->a.layout.layers);
    assert_true(o.result.us >= 0);
}

/* `first` to the last of the ranges; `image` is what b's memory should be, all the way. */
static void run_geometry(const kv_kind *k, int32_t layers, size_t row_bytes, size_t first)
{
    kv_pair p;
    kv_open_pair(&p, k, layers, row_bytes, 62, 64);
    char *image = malloc(p.b.bytes);
    assert_non_null(image);
    memcpy(image, p.b.memory, p.b.bytes);
    for (size_t r = first; r < RANGES; r++) {
        for (size_t s = 0; s < 16; s++) {
            /* other bytes each time, so that what an earlier case left does not pass for this one's */
            for (size_t i = 0; i < p.a.bytes; i += 61)
                p.a.memory[i] = (char)(p.a.memory[i] * 5 + 1);
            run_case(&p, image, &shapes[s / 4], &shapes[s % 4], ranges[r]);
        }
    }
    assert_string_not_equal(proa_kv_peer_path(p.peer), "");
    free(image);
    kv_close_pair(&p);
}

static void test_rows(void **state)
{
    run_geometry(*state, 1, 1, 0);
    run_geometry(*state, 3, 96, 0);
    run_geometry(*state, 2, 4096, RANGES - 1); /* runs of several chunks */
}

/* Many writes at once, of several rooms: all arrive, and `done` comes once for each. */
static void test_many(void **state)
{
    enum { WRITES = 48 };
    kv_pair p;
    kv_open_pair(&p, *state, 4, 576, 62, 64);
    int32_t from[TABLE], to[TABLE];
    fill(from, &shapes[1]);
    fill(to, &shapes[2]);
    kv_outcome o[WRITES] = {0};
    char *image = malloc(p.b.bytes);
    assert_non_null(image);
    memcpy(image, p.b.memory, p.b.bytes);
    for (int32_t i = 0; i < WRITES; i++) {
        proa_kv_write w = {from, to, i * 50, 50, kv_on_done, &o[i]};
        copy_rows(&p, image, &w);
        kv_write(&p, &w);
    }
    kv_finish(&p, o, WRITES);
    for (int i = 0; i < WRITES; i++) {
        assert_int_equal(o[i].calls, 1);
        assert_int_equal(o[i].result.status, PROA_OK);
    }
    assert_memory_equal(image, p.b.memory, p.b.bytes);
    free(image);
    kv_close_pair(&p);
}

/* --- two threads --- */

typedef struct receiver {
    kv_pair *pair;
    pthread_mutex_t mutex; /* guards the rest; also what orders the copy before the check */
    bool stop;
    int32_t block; /* to be digested; -1: none */
    uint64_t digest;
    bool answered;
} receiver;

static void *receive(void *context)
{
    receiver *r = context;
    for (bool stop = false; !stop;) {
        proa_kv_transfer_progress(r->pair->b.transfer);
        pthread_mutex_lock(&r->mutex);
        if (r->block >= 0) {
            r->digest = proa_kv_digest(&r->pair->b.layout, r->block, KV_ROWS, 7);
            r->answered = true;
            r->block = -1;
        }
        stop = r->stop;
        pthread_mutex_unlock(&r->mutex);
        struct pollfd wait = {.fd = proa_kv_transfer_fd(r->pair->b.transfer), .events = POLLIN};
        poll(&wait, 1, 1);
    }
    return NULL;
}

/* The other thread's digest of the block, as a `done` message would ask for it. */
static uint64_t ask(receiver *r, int32_t block)
{
    uint64_t digest = 0;
    pthread_mutex_lock(&r->mutex);
    r->block = block;
    r->answered = false;
    pthread_mutex_unlock(&r->mutex);
    int64_t deadline = proa_clock_us() + KV_DEADLINE_US;
    for (bool answered = false; !answered;) {
        assert_true(proa_clock_us() < deadline);
        poll(NULL, 0, 1);
        pthread_mutex_lock(&r->mutex);
        answered = r->answered;
        digest = r->digest;
        pthread_mutex_unlock(&r->mutex);
    }
    return digest;
}

static void test_threads(void **state)
{
    kv_pair p;
    kv_open_pair(&p, *state, 3, 1152, 62, 64);
    receiver r = {.pair = &p, .mutex = PTHREAD_MUTEX_INITIALIZER, .block = -1};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, receive, &r), 0);
    for (int32_t i = 0; i < 40; i++) {
        int32_t from = i, to = 63 - i;
        kv_outcome o = {0};
        proa_kv_write w = {&from, &to, 0, KV_ROWS, kv_on_done, &o};
        kv_write(&p, &w);
        int64_t deadline = proa_clock_us() + KV_DEADLINE_US;
        while (o.calls == 0 && proa_clock_us() < deadline)
            kv_turn(p.a.transfer);
        assert_int_equal(o.calls, 1);
        assert_int_equal(o.result.status, PROA_OK);
        assert_true(ask(&r, to) == proa_kv_digest(&p.a.layout, from, KV_ROWS, 7));
    }
    pthread_mutex_lock(&r.mutex);
    r.stop = true;
    pthread_mutex_unlock(&r.mutex);
    pthread_join(thread, NULL);
    kv_close_pair(&p);
}

/* --- ends --- */

/* Closed after 0, 1, 2, ... turns of the writer alone: each write is done before close returns, and never again. */
static void test_close_while_writing(void **state)
{
    enum { WRITES = 3 };
    kv_pair p;
    kv_open_pair(&p, *state, 4, 4096, 62, 44);
    int32_t from[TABLE], to[TABLE];
    fill(from, &shapes[1]);
    fill(to, &shapes[0]);
    bool cancelled = false;
    for (int turns = 0; turns < 12; turns++) {
        kv_outcome o[WRITES] = {0};
        for (int i = 0; i < WRITES; i++) {
            proa_kv_write w = {from, to, 0, 600, kv_on_done, &o[i]};
            kv_write(&p, &w);
        }
        for (int i = 0; i < turns; i++)
            proa_kv_transfer_progress(p.a.transfer);
        proa_kv_peer_close(p.peer);
        for (int i = 0; i < WRITES; i++) {
            assert_int_equal(o[i].calls, 1);
            assert_true(o[i].result.status == PROA_ERR_CANCELLED || o[i].result.status == PROA_OK);
            cancelled = cancelled || o[i].result.status == PROA_ERR_CANCELLED;
        }
        for (int i = 0; i < 20; i++) {
            proa_kv_transfer_progress(p.a.transfer);
            proa_kv_transfer_progress(p.b.transfer);
        }
        for (int i = 0; i < WRITES; i++)
            assert_int_equal(o[i].calls, 1);
        proa_kv_inbox_close(p.inbox);
        kv_connect(&p);
    }
    assert_true(cancelled);
    kv_close_pair(&p);
}

/* After the receiver has closed its inbox, nothing arrives, whatever the writer goes on to do; a new inbox works. */
static void test_inbox_closes_while_writing(void **state)
{
    kv_pair p;
    kv_open_pair(&p, *state, 4, 4096, 62, 44);
    int32_t from[TABLE], to[TABLE];
    fill(from, &shapes[1]);
    fill(to, &shapes[0]);
    char *image = malloc(p.b.bytes);
    assert_non_null(image);
    for (int turns = 0; turns < 4; turns++) {
        kv_outcome o = {0};
        proa_kv_write w = {from, to, 0, 600, kv_on_done, &o};
        kv_write(&p, &w);
        for (int i = 0; i < turns; i++)
            proa_kv_transfer_progress(p.a.transfer);
        proa_kv_inbox_close(p.inbox);
        memcpy(image, p.b.memory, p.b.bytes);
        for (int i = 0; i < 50; i++) {
            proa_kv_transfer_progress(p.a.transfer);
            proa_kv_transfer_progress(p.b.transfer);
        }
        assert_memory_equal(image, p.b.memory, p.b.bytes);
        proa_kv_peer_close(p.peer);
        assert_int_equal(o.calls, 1);
        kv_connect(&p);
    }
    kv_outcome o = {0};
    proa_kv_write w = {from, to, 0, 600, kv_on_done, &o};
    memcpy(image, p.b.memory, p.b.bytes);
    copy_rows(&p, image, &w);
    kv_write(&p, &w);
    kv_finish(&p, &o, 1);
    assert_int_equal(o.result.status, PROA_OK);
    assert_memory_equal(image, p.b.memory, p.b.bytes);
    free(image);
    kv_close_pair(&p);
}

/* --- hooks that act --- */

typedef struct actor {
    kv_pair *pair;
    int32_t table[1];
    int calls;
    int limit;
} actor;

static void act(void *context, const proa_kv_write_result *result)
{
    actor *a = context;
    proa_error err = {0};
    a->calls++;
    assert_int_equal(result->status, PROA_OK);
    proa_kv_write again = {a->table, a->table, 0, 1, act, a};
    if (a->calls < a->limit)
        assert_int_equal(proa_kv_peer_write(a->pair->peer, &again, &err), PROA_OK);
    else
        proa_kv_peer_close(a->pair->peer);
}

static void test_done_writes_and_closes(void **state)
{
    kv_pair p;
    kv_open_pair(&p, *state, 2, 64, 4, 4);
    actor a = {.pair = &p, .table = {2}, .limit = 5};
    proa_kv_write first = {a.table, a.table, 0, 1, act, &a};
    kv_write(&p, &first);
    int64_t deadline = proa_clock_us() + KV_DEADLINE_US;
    while (a.calls < a.limit && proa_clock_us() < deadline) {
        proa_kv_transfer_progress(p.a.transfer);
        proa_kv_transfer_progress(p.b.transfer);
    }
    assert_int_equal(a.calls, a.limit);
    p.peer = NULL;
    kv_close_pair(&p);
}

static void close_in_done(void *context, const proa_kv_write_result *result)
{
    actor *a = context;
    a->calls++;
    assert_int_equal(result->status, PROA_ERR_CANCELLED);
    proa_kv_peer_close(a->pair->peer); /* is being closed */
    proa_error err = {0};
    proa_kv_write again = {a->table, a->table, 0, 1, close_in_done, a};
    assert_int_equal(proa_kv_peer_write(a->pair->peer, &again, &err), PROA_ERR_UNREACHABLE);
}

static void test_done_closes_what_is_being_closed(void **state)
{
    kv_pair p;
    kv_open_pair(&p, *state, 2, 64, 4, 4);
    actor a = {.pair = &p, .table = {2}};
    proa_kv_write w = {a.table, a.table, 0, 1, close_in_done, &a};
    kv_write(&p, &w);
    kv_write(&p, &w);
    proa_kv_peer_close(p.peer);
    assert_int_equal(a.calls, 2);
    p.peer = NULL;
    kv_close_pair(&p);
}

/* --- refusals --- */

static void test_blocks_out_of_range(void **state)
{
    kv_pair p;
    kv_open_pair(&p, *state, 1, 8, 4, 6);
    kv_outcome o = {0};
    proa_error err = {0};
    const int32_t good[] = {3, 0}, high[] = {3, 6}, low[] = {3, -1}, four[] = {3, 4};
    const proa_kv_write bad[] = {
        {good, high, 60, 5, kv_on_done, &o},
        {good, low, 60, 5, kv_on_done, &o},
        {four, good, 60, 5, kv_on_done, &o},
        {low, good, 60, 5, kv_on_done, &o},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(proa_kv_peer_write(p.peer, &bad[i], &err), PROA_ERR_INVALID);
        assert_non_null(strstr(err.text, "at index 1"));
    }
    proa_kv_write outside = {good, high, 60, 4, kv_on_done, &o}; /* does not reach the bad one */
    kv_write(&p, &outside);
    kv_finish(&p, &o, 1);
    assert_int_equal(o.result.status, PROA_OK);
    kv_close_pair(&p);
}

static proa_status connect_with(kv_pair *p, const void *bytes, size_t length, proa_error *err)
{
    proa_kv_peer *peer = NULL;
    int32_t blocks = 0;
    void *copy = malloc(length + (length == 0)); /* exactly as long, so that a sanitizer sees reads beyond */
    assert_non_null(copy);
    memcpy(copy, bytes, length);
    proa_status status = proa_kv_peer_connect(p->a.transfer, copy, length, "stranger", &peer, &blocks, err);
    free(copy);
    proa_kv_peer_close(peer);
    return status;
}

static void test_malformed_descriptors(void **state)
{
    kv_pair p;
    proa_error err = {0};
    proa_buf good = {0};
    proa_kv_inbox *inbox = NULL;
    kv_open_pair(&p, *state, 3, 96, 4, 6);
    assert_int_equal(proa_kv_inbox_open(p.b.transfer, &good, &inbox, &err), PROA_OK);
    assert_true(good.length <= PROA_KV_DESCRIPTOR_BYTES_MAX);
    for (size_t n = 0; n < good.length; n++)
        assert_int_equal(connect_with(&p, good.data, n, &err), PROA_ERR_PROTOCOL);
    for (size_t i = 0; i < good.length; i++) {
        good.data[i] ^= 0x10;
        assert_int_equal(connect_with(&p, good.data, good.length, &err), PROA_ERR_PROTOCOL);
        good.data[i] ^= 0x10;
    }
    /* a good envelope around every truncation of the backend's part, and around too much */
    proa_kv_descriptor d;
    assert_int_equal(proa_kv_descriptor_get(good.data, good.length, &d, &err), PROA_OK);
    for (uint32_t n = 0; n <= d.backend_bytes + 1; n++) {
        proa_buf part = {0}, whole = {0};
        proa_buf_append(&part, d.backend, n < d.backend_bytes ? n : d.backend_bytes);
        if (n > d.backend_bytes)
            proa_buf_append_char(&part, 0);
        proa_kv_descriptor_put(&whole, p.b.transfer, &part);
        assert_int_equal(connect_with(&p, whole.data, whole.length, &err),
                         n == d.backend_bytes ? PROA_OK : PROA_ERR_PROTOCOL);
        proa_buf_free(&part);
        proa_buf_free(&whole);
    }
    proa_buf_free(&good);
    kv_close_pair(&p);
}

/* Descriptors of other models, kinds and inboxes that are gone. */
static void test_foreign_descriptors(void **state)
{
    const kv_kind *k = *state;
    const struct {
        int32_t layers;
        size_t row_bytes;
        proa_dtype dtype;
        const kv_kind *kind;
        proa_status status;
        const char *says;
    } cases[] = {
        {3, 96, PROA_DTYPE_BF16, k, PROA_OK, ""},
        {4, 96, PROA_DTYPE_BF16, k, PROA_ERR_INVALID, "96 bytes in 4 layers"},
        {3, 97, PROA_DTYPE_BF16, k, PROA_ERR_INVALID, "97 bytes in 3 layers"},
        {3, 96, PROA_DTYPE_E4M3, k, PROA_ERR_INVALID,
         "keeps its KV cache in fp8_e4m3, this process in bf16: give both the same --kv-cache-dtype"},
        {3, 96, PROA_DTYPE_BF16, &kv_kinds[k->kind == PROA_KV_TRANSFER_LOCAL], PROA_ERR_INVALID,
         "--disaggregation-transfer-backend"},
    };
    kv_pair p;
    kv_open_pair(&p, k, 3, 96, 4, 6);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        kv_side other = {0};
        proa_error err = {0};
        proa_buf descriptor = {0};
        proa_kv_inbox *inbox = NULL;
        kv_make_side(&other, cases[i].layers, 5, cases[i].row_bytes, 3);
        other.layout.dtype = cases[i].dtype;
        other.transfer = kv_make_transfer(cases[i].kind, p.registry, &other.layout);
        assert_int_equal(proa_kv_inbox_open(other.transfer, &descriptor, &inbox, &err), PROA_OK);
        assert_int_equal(connect_with(&p, descriptor.data, descriptor.length, &err), cases[i].status);
        assert_non_null(strstr(err.text, cases[i].says));
        proa_buf_free(&descriptor);
        proa_kv_transfer_free(other.transfer);
        free(other.memory);
    }
    kv_close_pair(&p);
}

/* --- ucx: strangers --- */

/* b's inbox, described with another token or as a larger cache than it is. */
static proa_kv_peer *connect_falsely(kv_pair *p, size_t flip, int32_t blocks)
{
    proa_error err = {0};
    proa_buf good = {0}, part = {0}, bad = {0};
    proa_kv_inbox *inbox = NULL;
    proa_kv_peer *peer = NULL;
    proa_kv_descriptor d;
    int32_t told = 0;
    assert_int_equal(proa_kv_inbox_open(p->b.transfer, &good, &inbox, &err), PROA_OK);
    assert_int_equal(proa_kv_descriptor_get(good.data, good.length, &d, &err), PROA_OK);
    proa_buf_append(&part, d.backend, d.backend_bytes);
    part.data[0] ^= (char)flip; /* the token stands first */
    proa_kv_transfer larger = *p->b.transfer;
    larger.layout.blocks = blocks;
    proa_kv_descriptor_put(&bad, &larger, &part);
    assert_int_equal(proa_kv_peer_connect(p->a.transfer, bad.data, bad.length, "b", &peer, &told, &err),
                     PROA_OK);
    assert_int_equal(told, blocks);
    proa_buf_free(&good);
    proa_buf_free(&part);
    proa_buf_free(&bad);
    return peer;
}

static void test_wrong_token(void **state)
{
    kv_pair p;
    proa_error err = {0};
    kv_outcome o = {0};
    int32_t table[] = {1};
    kv_open_pair(&p, *state, 2, 4096, 4, 6);
    proa_kv_peer *stranger = connect_falsely(&p, 1, 6);
    char *image = malloc(p.b.bytes);
    assert_non_null(image);
    memcpy(image, p.b.memory, p.b.bytes);
    for (int32_t rows = 1; rows <= KV_ROWS; rows += 62) { /* within a message, and to be fetched */
        proa_kv_write w = {table, table, 0, rows, kv_on_done, &o};
        assert_int_equal(proa_kv_peer_write(stranger, &w, &err), PROA_OK);
    }
    for (int i = 0; i < 300; i++) {
        proa_kv_transfer_progress(p.a.transfer);
        proa_kv_transfer_progress(p.b.transfer);
    }
    assert_memory_equal(image, p.b.memory, p.b.bytes);
    proa_kv_peer_close(stranger);
    assert_int_equal(o.calls, 2);
    assert_int_not_equal(o.result.status, PROA_OK);
    free(image);
    kv_close_pair(&p);
}

static void test_rows_beyond_the_cache(void **state)
{
    kv_pair p;
    proa_error err = {0};
    kv_open_pair(&p, *state, 2, 4096, 4, 6);
    proa_kv_peer *liar = connect_falsely(&p, 0, 1000);
    char *image = malloc(p.b.bytes);
    assert_non_null(image);
    memcpy(image, p.b.memory, p.b.bytes);
    int32_t from[] = {1}, to[] = {999};
    for (int32_t rows = 1; rows <= KV_ROWS; rows += 63) {
        kv_outcome o = {0};
        proa_kv_write w = {from, to, 0, rows, kv_on_done, &o};
        assert_int_equal(proa_kv_peer_write(liar, &w, &err), PROA_OK);
        kv_finish(&p, &o, 1);
        assert_int_equal(o.result.status, PROA_ERR_UNREACHABLE);
        assert_memory_equal(image, p.b.memory, p.b.bytes);
        proa_kv_peer_close(liar);
        liar = rows == 1 ? connect_falsely(&p, 0, 1000) : NULL;
    }
    free(image);
    kv_close_pair(&p);
}

static void test_closed_local_inbox(void **state)
{
    (void)state;
    kv_pair p;
    proa_error err = {0};
    proa_buf descriptor = {0};
    proa_kv_inbox *inbox = NULL, *next = NULL;
    kv_open_pair(&p, &kv_kinds[0], 1, 8, 4, 6);
    assert_int_equal(proa_kv_inbox_open(p.b.transfer, &descriptor, &inbox, &err), PROA_OK);
    proa_kv_inbox_close(inbox);
    size_t first = descriptor.length;
    assert_int_equal(proa_kv_inbox_open(p.b.transfer, &descriptor, &next, &err),
                     PROA_OK); /* takes the same slot */
    assert_int_equal(connect_with(&p, descriptor.data, first, &err), PROA_ERR_UNREACHABLE);
    assert_int_equal(connect_with(&p, descriptor.data + first, descriptor.length - first, &err), PROA_OK);
    proa_buf_free(&descriptor);
    kv_close_pair(&p);
}

static void test_absent_nixl(void **state)
{
    (void)state;
    kv_side s = {0};
    proa_error err = {0};
    proa_kv_transfer *transfer = NULL;
    kv_make_side(&s, 1, 1, 8, 1);
    proa_kv_transfer_options options = {.nixl_library = "/nowhere/libnixl_capi.so"};
    assert_int_equal(proa_kv_transfer_create(PROA_KV_TRANSFER_NIXL, &s.layout, &options, &transfer, &err),
                     PROA_ERR_NOT_FOUND);
    assert_non_null(strstr(err.text, "/nowhere/libnixl_capi.so"));
    assert_non_null(strstr(err.text, "pip install nixl-cu12"));
    options.nixl_library = "libm.so.6";
    assert_int_equal(proa_kv_transfer_create(PROA_KV_TRANSFER_NIXL, &s.layout, &options, &transfer, &err),
                     PROA_ERR_NOT_FOUND);
    assert_non_null(strstr(err.text, "nixl_capi_create_agent"));
    free(s.memory);
}

/* --- digests --- */

static void test_digest(void **state)
{
    (void)state;
    kv_side s = {0};
    kv_make_side(&s, 3, 4, 24, 5);
    char *base = s.layout.base;
    const size_t block = 24 * KV_ROWS, layer = 4 * block;
    uint64_t seed = 11;
    for (int l = 0; l < 3; l++)
        seed = proa_digest(base + (size_t)l * layer + 2 * block, 24 * 10, seed);
    assert_true(proa_kv_digest(&s.layout, 2, 10, 11) == seed);
    assert_true(proa_kv_digest(&s.layout, 2, 10, 12) != seed);
    assert_true(proa_kv_digest(&s.layout, 2, 11, 11) != seed);
    assert_true(proa_kv_digest(&s.layout, 1, 10, 11) != seed);
    for (int l = 0; l < 3; l++) {
        char *byte = base + (size_t)l * layer + 2 * block + 24 * 10 - 1;
        *byte ^= 1; /* the last one that counts */
        assert_true(proa_kv_digest(&s.layout, 2, 10, 11) != seed);
        *byte ^= 1;
        byte[1] ^= 1; /* and the first that does not */
        assert_true(proa_kv_digest(&s.layout, 2, 10, 11) == seed);
    }
    free(s.memory);
}

/* --- all --- */

typedef struct per_kind {
    const char *name;
    CMUnitTestFunction run;
    bool ucx_alone;
} per_kind;

static const per_kind per_kinds[] = {
    {"rows", test_rows, false},
    {"many writes at once", test_many, false},
    {"two threads", test_threads, false},
    {"peer closed while writing", test_close_while_writing, false},
    {"inbox closed while writing", test_inbox_closes_while_writing, false},
    {"done writes and closes", test_done_writes_and_closes, false},
    {"done closes what is being closed", test_done_closes_what_is_being_closed, false},
    {"blocks out of range", test_blocks_out_of_range, false},
    {"malformed descriptors", test_malformed_descriptors, false},
    {"foreign descriptors", test_foreign_descriptors, false},
    {"wrong token", test_wrong_token, true},
    {"rows beyond the cache", test_rows_beyond_the_cache, true},
};

enum { PER_KIND = sizeof per_kinds / sizeof per_kinds[0] };

int main(void)
{
    struct CMUnitTest tests[KV_KINDS * PER_KIND + 3];
    char names[KV_KINDS * PER_KIND][64];
    size_t count = 0;
    for (size_t k = 0; k < KV_KINDS; k++) {
        if (kv_kinds[k].kind == PROA_KV_TRANSFER_NIXL && getenv("PROA_TEST_NIXL") == NULL) {
            printf("nixl: skipped, PROA_TEST_NIXL does not name a library (meson test sets it)\n");
            continue;
        }
        for (size_t i = 0; i < PER_KIND; i++) {
            if (per_kinds[i].ucx_alone && kv_kinds[k].kind != PROA_KV_TRANSFER_UCX)
                continue;
            snprintf(names[count], sizeof names[count], "%s: %s", kv_kinds[k].name, per_kinds[i].name);
            tests[count] = (struct CMUnitTest){
                .name = names[count], .test_func = per_kinds[i].run, .initial_state = (void *)&kv_kinds[k]};
            count++;
        }
    }
    tests[count++] = (struct CMUnitTest)cmocka_unit_test(test_closed_local_inbox);
    tests[count++] = (struct CMUnitTest)cmocka_unit_test(test_absent_nixl);
    tests[count++] = (struct CMUnitTest)cmocka_unit_test(test_digest);
    return _cmocka_run_group_tests("kv_transfer", tests, count, NULL, NULL);
}
