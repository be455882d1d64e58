/* bench_transfer.c - `proa bench transfer`: how fast KV rows travel, beside a copy of the same runs by the same thread.
 *
 * Each way is measured by two processes of its own, forked before any library of transfers is loaded (UCX does not survive a
 * fork): one writes and measures, the other receives; local is within the first. They make the loop's calls: progress, and a
 * wait of a millisecond at most when there is nothing to do. A row is the fastest of at least SAMPLES_MIN writes, from
 * proa_kv_peer_write to `done`; the bound is the fastest memcpy of the same runs between two caches of the writing process.
 * "scattered": the blocks of both sides stand in orders without two neighbours, so each block of a layer is a piece.
 */
#include "base/clock.h"
#include "cmd/bench.h"
#include "cmd/cmd.h"
#include "net/kv_transfer.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    BLOCK_ROWS = 64,
    BLOCKS = 64, /* of a cache; the longest case fills it */
    SAMPLES_MIN = 5,
    CASE_US = 300000,
    WRITE_US_MAX = 10000000,
    DESCRIPTOR_BYTES = 64 << 10,
};

typedef struct geometry {
    const char *name;
    int32_t layers;
    size_t row_bytes;
} geometry;

static const geometry geometries[] = {{"tiny-r1", 5, 320}, {"R1", 61, 1152}};
static const int32_t token_counts[] = {64, 1024, 4096};

typedef struct way {
    const char *name;
    proa_kv_transfer_kind kind;
    const char *tls;
    const char *devices;
} way;

static const way ways[] = {
    {"local", PROA_KV_TRANSFER_LOCAL, NULL, NULL},
    {"ucx", PROA_KV_TRANSFER_UCX, NULL, NULL},
    {"ucx, tcp", PROA_KV_TRANSFER_UCX, "tcp", "lo"},
    {"nixl", PROA_KV_TRANSFER_NIXL, NULL, NULL}, /* with --nixl-library */
};

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

/* What the writing process tells the one that prints. */
typedef struct row {
    int32_t tokens;
    bool scattered;
    uint32_t pieces;
    uint64_t bytes;
    double us;
    double copy_us;
    char path[64];
    proa_error err; /* status PROA_OK unless this row could not be measured */
} row;

/* --- both processes --- */

static proa_status make_cache(const geometry *g, proa_kv_layout *layout, proa_error *err)
{
    *layout = (proa_kv_layout){
        .dtype = PROA_DTYPE_BF16, .layers = g->layers, .blocks = BLOCKS, .row_bytes = g->row_bytes};
    layout->block_bytes = BLOCK_ROWS * g->row_bytes;
    layout->layer_bytes = BLOCKS * layout->block_bytes;
    size_t bytes = (size_t)g->layers * layout->layer_bytes;
    layout->base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (layout->base == MAP_FAILED)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for a KV cache of %zu MiB", bytes >> 20);
    memset(layout->base, 1, bytes); /* its pages are there before anything is measured */
    return PROA_OK;
}

static proa_status make_transfer(const way *w, const char *nixl, proa_kv_local_registry *registry,
                                 const proa_kv_layout *layout, proa_kv_transfer **transfer, proa_error *err)
{
    proa_kv_transfer_options options = {
        .local_registry = registry, .ucx_tls = w->tls, .ucx_net_devices = w->devices, .nixl_library = nixl};
    return proa_kv_transfer_create(w->kind, layout, &options, transfer, err);
}

static void turn(proa_kv_transfer *transfer)
{
    struct pollfd wait = {.fd = proa_kv_transfer_fd(transfer), .events = POLLIN};
    if (!proa_kv_transfer_progress(transfer))
        poll(&wait, 1, 1);
}

/* Sends its descriptor, or the text of what is wrong with a zero before it; receives until the other end closes. */
static void receive(int socket, const geometry *g, const way *w, const char *nixl)
{
    proa_error err = {0};
    proa_kv_layout layout;
    proa_kv_transfer *transfer = NULL;
    proa_kv_inbox *inbox = NULL;
    proa_buf descriptor = {0};
    proa_status status = make_cache(g, &layout, &err);
    if (!proa_failed(status))
        status = make_transfer(w, nixl, NULL, &layout, &transfer, &err);
    if (!proa_failed(status))
        status = proa_kv_inbox_open(transfer, &descriptor, &inbox, &err);
    if (proa_failed(status)) {
        proa_buf_append_char(&descriptor, 0);
        proa_buf_append_text(&descriptor, err.text);
    }
    char byte;
    bool sent = send(socket, descriptor.data, descriptor.length, MSG_NOSIGNAL) > 0;
    while (sent && !proa_failed(status) && recv(socket, &byte, 1, MSG_DONTWAIT) != 0)
        turn(transfer);
    proa_buf_free(&descriptor);
    proa_kv_transfer_free(transfer);
}

/* --- the writing process --- */

typedef struct writer {
    proa_kv_layout layout;
    proa_kv_layout copy; /* where memcpy copies to */
    proa_kv_local_registry *registry;
    proa_kv_transfer *transfer;
    proa_kv_layout local;             /* the cache of the local receiver */
    proa_kv_transfer *local_receiver; /* NULL: another process receives */
    proa_kv_peer *peer;
} writer;

typedef struct outcome {
    bool done;
    proa_kv_write_result result;
} outcome;

static void on_done(void *context, const proa_kv_write_result *result)
{
    *(outcome *)context = (outcome){true, *result};
}

static proa_status get_descriptor(writer *w, int socket, proa_buf *out, proa_error *err)
{
    proa_kv_inbox *inbox;
    char bytes[DESCRIPTOR_BYTES];
    if (w->local_receiver != NULL)
        return proa_kv_inbox_open(w->local_receiver, out, &inbox, err);
    ssize_t length = recv(socket, bytes, sizeof bytes, 0);
    if (length <= 0)
        return proa_error_set(err, PROA_ERR_UNREACHABLE, "the receiving process has ended");
    if (bytes[0] == 0)
        return proa_error_set(err, PROA_ERR_UNSUPPORTED, "%.*s", (int)length - 1, bytes + 1);
    proa_buf_append(out, bytes, (size_t)length);
    return PROA_OK;
}

static proa_status open_writer(writer *w, int socket, const geometry *g, const way *how, const char *nixl,
                               proa_error *err)
{
    proa_buf descriptor = {0};
    int32_t blocks;
    bool local = how->kind == PROA_KV_TRANSFER_LOCAL;
    w->registry = proa_kv_local_registry_create();
    proa_status status = make_cache(g, &w->layout, err);
    if (!proa_failed(status))
        status = make_cache(g, &w->copy, err);
    if (!proa_failed(status))
        status = make_transfer(how, nixl, w->registry, &w->layout, &w->transfer, err);
    if (!proa_failed(status) && local)
        status = make_cache(g, &w->local, err);
    if (!proa_failed(status) && local)
        status = make_transfer(how, nixl, w->registry, &w->local, &w->local_receiver, err);
    if (!proa_failed(status))
        status = get_descriptor(w, socket, &descriptor, err);
    if (!proa_failed(status))
        status = proa_kv_peer_connect(w->transfer, descriptor.data, descriptor.length,
                                      "the receiving process", &w->peer, &blocks, err);
    proa_buf_free(&descriptor);
    return status;
}

static void close_writer(writer *w)
{
    proa_kv_peer_close(w->peer);
    proa_kv_transfer_free(w->transfer);
    proa_kv_transfer_free(w->local_receiver);
    proa_kv_local_registry_free(w->registry);
}

static proa_status write_once(writer *w, const int32_t *from, const int32_t *to, row *r, outcome *o)
{
    *o = (outcome){0};
    proa_kv_write write = {from, to, 0, r->tokens, on_done, o};
    proa_status status = proa_kv_peer_write(w->peer, &write, &r->err);
    int64_t deadline = proa_clock_us() + WRITE_US_MAX;
    while (!proa_failed(status) && !o->done && proa_clock_us() < deadline)
        turn(w->transfer);
    if (!proa_failed(status) && !o->done) {
        status = proa_error_set(&r->err, PROA_ERR_DEADLINE, "a write of %d rows is not done after %d s",
                                r->tokens, WRITE_US_MAX / 1000000);
        proa_kv_peer_close(w->peer); /* so that `done` is called while there is an outcome */
        w->peer = NULL;
    } else if (!proa_failed(status) && proa_failed(o->result.status)) {
        status = proa_error_set(&r->err, o->result.status, "a write of %d rows failed: %s", r->tokens,
                                proa_status_name(o->result.status));
    }
    return status;
}

/* The same runs: whole layers when nothing is scattered, else blocks. */
static void copy_once(const writer *w, const int32_t *from, const int32_t *to, const row *r)
{
    const proa_kv_layout *l = &w->layout;
    size_t run = r->scattered ? l->block_bytes : (size_t)r->tokens * l->row_bytes;
    int32_t runs = r->scattered ? r->tokens / BLOCK_ROWS : 1;
    for (int32_t layer = 0; layer < l->layers; layer++) {
        char *target = (char *)w->copy.base + (size_t)layer * l->layer_bytes;
        const char *source = (const char *)l->base + (size_t)layer * l->layer_bytes;
        for (int32_t i = 0; i < runs; i++)
            memcpy(target + (size_t)to[i] * l->block_bytes, source + (size_t)from[i] * l->block_bytes, run);
    }
}

static proa_status measure(writer *w, row *r)
{
    int32_t from[BLOCKS], to[BLOCKS];
    outcome o;
    for (int32_t i = 0; i < BLOCKS; i++) { /* odd steps go through all of 64 */
        from[i] = r->scattered ? i * 37 % BLOCKS : i;
        to[i] = r->scattered ? i * 23 % BLOCKS : i;
    }
    r->us = r->copy_us = 1e18;
    int64_t end = proa_clock_us() + CASE_US;
    for (int i = 0; i < SAMPLES_MIN || proa_clock_us() < end; i++) {
        proa_status status = write_once(w, from, to, r, &o);
        if (proa_failed(status))
            return status;
        r->us = (double)o.result.us < r->us ? (double)o.result.us : r->us;
        int64_t begin = proa_clock_us();
        copy_once(w, from, to, r);
        double copy_us = (double)(proa_clock_us() - begin);
        r->copy_us = copy_us < r->copy_us ? copy_us : r->copy_us;
    }
    r->us = r->us < 1 ? 1 : r->us;
    r->copy_us = r->copy_us < 1 ? 1 : r->copy_us;
    r->bytes = o.result.bytes;
    r->pieces = o.result.pieces;
    snprintf(r->path, sizeof r->path, "%s", proa_kv_peer_path(w->peer));
    return PROA_OK;
}

/* Rows into the pipe; the first error is the last row. */
static void measure_all(int rows, int socket, const geometry *g, const way *how, const char *nixl)
{
    writer w = {0};
    row r = {0};
    proa_status status = open_writer(&w, socket, g, how, nixl, &r.err);
    for (size_t t = 0; t < COUNT(token_counts) && !proa_failed(status); t++) {
        for (int scattered = 0; scattered <= (token_counts[t] > BLOCK_ROWS) && !proa_failed(status);
             scattered++) {
            r = (row){.tokens = token_counts[t], .scattered = scattered != 0};
            status = measure(&w, &r);
            if (!proa_failed(status) && write(rows, &r, sizeof r) != sizeof r)
                status = PROA_ERR_IO;
        }
    }
    if (proa_failed(status) && write(rows, &r, sizeof r) != sizeof r)
        fprintf(stderr, "%s\n", r.err.text);
    close_writer(&w);
}

/* --- the process that prints --- */

typedef struct report {
    const char *shape; /* NULL: all */
    const char *nixl;
    proa_json *results;
    bool begun;
} report;

static void print_row(report *p, const geometry *g, const way *w, const row *r)
{
    if (!p->begun)
        printf("%-9s %-8s %6s %-10s %6s %8s %10s %7s %10s %6s  %s\n", "way", "rows of", "tokens", "blocks",
               "pieces", "MB", "time us", "GB/s", "memcpy us", "of it", "path");
    p->begun = true;
    printf("%-9s %-8s %6d %-10s %6u %8.2f %10.0f %7.2f %10.0f %5.0f%%  %s\n", w->name, g->name, r->tokens,
           r->scattered ? "scattered" : "contiguous", r->pieces, (double)r->bytes / 1e6, r->us,
           (double)r->bytes / r->us / 1e3, r->copy_us, 100 * r->copy_us / r->us, r->path);
    fflush(stdout);
    if (p->results == NULL)
        return;
    proa_json *entry = proa_json_new_object();
    proa_json_set(entry, "way", proa_json_new_text(w->name));
    proa_json_set(entry, "rows", proa_json_new_text(g->name));
    proa_json_set(entry, "path", proa_json_new_text(r->path));
    proa_json_set(entry, "tokens", proa_json_new_int(r->tokens));
    proa_json_set(entry, "scattered", proa_json_new_bool(r->scattered));
    proa_json_set(entry, "pieces", proa_json_new_int(r->pieces));
    proa_json_set(entry, "bytes", proa_json_new_real((double)r->bytes));
    proa_json_set(entry, "time_us", proa_json_new_real(r->us));
    proa_json_set(entry, "bound_us", proa_json_new_real(r->copy_us));
    proa_json_append(p->results, entry);
}

static void end_child(pid_t pid)
{
    if (pid > 0) {
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
    }
}

/* In the child: keeps only the descriptor it works with. */
static void be_child(int keep, const int *others, int count)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (int i = 0; i < count; i++) {
        if (others[i] != keep)
            close(others[i]);
    }
}

static proa_status run_pair(report *p, const geometry *g, const way *w, proa_error *err)
{
    int ends[4]; /* socket of the receiver, of the writer; pipe's read, write end */
    if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends) != 0 || pipe(ends + 2) != 0)
        return proa_error_set(err, PROA_ERR_IO, "socketpair or pipe: %s", strerror(errno));
    fflush(stdout);
    pid_t receives = w->kind == PROA_KV_TRANSFER_LOCAL ? 0 : fork();
    if (receives == 0 && w->kind != PROA_KV_TRANSFER_LOCAL) {
        be_child(ends[0], ends, 4);
        receive(ends[0], g, w, p->nixl);
        _exit(0);
    }
    pid_t writes = receives < 0 ? -1 : fork();
    if (writes == 0) {
        int others[] = {ends[0], ends[2]};
        be_child(-1, others, 2);
        measure_all(ends[3], ends[1], g, w, p->nixl);
        _exit(0);
    }
    close(ends[0]);
    close(ends[1]);
    close(ends[3]);
    proa_status status = writes < 0 ? proa_error_set(err, PROA_ERR_IO, "fork: %s", strerror(errno)) : PROA_OK;
    row r;
    while (!proa_failed(status) && read(ends[2], &r, sizeof r) == sizeof r) {
        if (r.err.status != PROA_OK)
            status = proa_error_set(err, r.err.status, "%s: %s", w->name, r.err.text);
        else
            print_row(p, g, w, &r);
    }
    close(ends[2]);
    end_child(writes);
    end_child(receives);
    return status;
}

static proa_status run_all(report *p, proa_error *err)
{
    for (size_t i = 0; i < COUNT(ways); i++) {
        if ((ways[i].kind == PROA_KV_TRANSFER_NIXL && p->nixl == NULL) ||
            (p->shape != NULL && strstr(ways[i].name, p->shape) == NULL))
            continue;
        for (size_t g = 0; g < COUNT(geometries); g++) {
            proa_status status = run_pair(p, &geometries[g], &ways[i], err);
            if (proa_failed(status))
                return status;
        }
    }
    if (p->begun)
        return PROA_OK;
    return proa_error_set(
        err, PROA_ERR_NOT_FOUND,
        "--shape \"%s\" is in the name of no way: local; ucx; ucx, tcp; nixl (with --nixl-library)",
        p->shape);
}

int proa_cmd_bench_transfer(const proa_options *options)
{
    proa_error err = {0};
    const char *json = proa_options_string(options, "json");
    report p = {.shape = proa_options_string(options, "shape"),
                .nixl = proa_options_string(options, "nixl-library"),
                .results = json != NULL ? proa_json_new_array() : NULL};
    proa_status status = run_all(&p, &err);
    if (!proa_failed(status) && json != NULL) {
        proa_json *whole = proa_json_new_object();
        proa_json_set(whole, "rows", proa_json_ref(p.results));
        status = proa_bench_write_file(whole, json, &err);
        proa_json_free(whole);
    }
    proa_json_free(p.results);
    return proa_failed(status) ? proa_cmd_fail(&err) : PROA_EXIT_OK;
}
