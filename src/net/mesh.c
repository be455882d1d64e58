/* mesh.c - a mesh's life and time: dials that are due, deadlines, what is waited for. See mesh.h.
 *
 * All that waits is looked at every TICK_US; what a message makes due at once (a table that names new ranks) is done at once. Tables are
 * sent by the tick alone, so that 64 ranks that come together cost a few tables and not 64.
 */
#include "net/mesh_internal.h"

#include "base/clock.h"
#include "base/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

enum {
    TICK_US = 20000,
    RENDEZVOUS_US = 600000000,
    REPORT_US = 10000000,
    CONNECT_US =
        5000000, /* to a link, and again to a greeting: all ranks start at once, on cores that load a model */
    DESCRIPTORS_BESIDE = 64, /* of a process with few links: files, loops, listeners */
};

/* ---- time ---- */

void proa_mesh_describe_wait(const proa_mesh *mesh, char *text, size_t bytes)
{
    const proa_mesh_book *book = mesh->book;
    char who[200], why[300] = "";
    text[0] = '\0';
    if (book->ready)
        return;
    if (book->rank != 0 && book->peers[0].state != PROA_MESH_UP) {
        snprintf(who, sizeof who, "rank 0");
        if (mesh->latest.status != PROA_OK)
            snprintf(why, sizeof why, ": %s", mesh->latest.text);
    } else
        proa_mesh_book_missing(book, who, sizeof who);
    snprintf(text, bytes, "waiting for %s of %d at %s for %.0f s%s", who, book->world, mesh->init_address,
             (double)(proa_clock_us() - book->began_us) / 1e6, why);
}

static void dial_due(proa_mesh *mesh)
{
    for (int32_t rank; !mesh->failed && (rank = proa_mesh_book_dial(mesh->book, proa_clock_us())) >= 0;)
        proa_mesh_end_dial(mesh, rank);
}

static void settle(proa_mesh *mesh)
{
    int64_t now = proa_clock_us();
    if (mesh->failed || !proa_mesh_book_settle(mesh->book, now))
        return;
    proa_log(PROA_LOG_INFO, "mesh", "linked to %d of %d other ranks after %.2f s", mesh->book->up_count,
             mesh->book->world - 1, (double)(now - mesh->book->began_us) / 1e6);
    mesh->table_due = mesh->book->rank == 0;
    mesh->options.hooks.ready(mesh->options.hooks.context);
}

void proa_mesh_changed(proa_mesh *mesh)
{
    mesh->table_due |= mesh->book->rank == 0;
    dial_due(mesh);
    settle(mesh);
}

static void end_late_ones(proa_mesh *mesh)
{
    int64_t now = proa_clock_us();
    for (mesh_end *end = mesh->ends, *next; end != NULL && !mesh->failed; end = next) {
        next = end->next;
        if ((end->state == MESH_END_GREETED || end->state == MESH_END_STRANGE) && now >= end->deadline_us) {
            proa_mesh_end_late(end);
            next = mesh->ends; /* what follows from it may have ended others */
        }
    }
}

static void watch_rendezvous(proa_mesh *mesh)
{
    int64_t now = proa_clock_us();
    char text[700];
    if (mesh->failed || mesh->book->ready)
        return;
    if (now - mesh->book->began_us >= mesh->options.rendezvous_us) {
        proa_error why;
        proa_mesh_describe_wait(mesh, text, sizeof text);
        proa_error_set(&why, PROA_ERR_DEADLINE, "the ranks of this worker have not found each other: %s",
                       text);
        proa_mesh_fail(mesh, &why);
    } else if (now >= mesh->report_at_us) {
        proa_mesh_describe_wait(mesh, text, sizeof text);
        proa_log(PROA_LOG_INFO, "mesh", "%s", text);
        mesh->report_at_us = now + mesh->options.report_us;
    }
}

static void on_tick(void *context)
{
    proa_mesh *mesh = context;
    if (mesh->failed)
        return;
    end_late_ones(mesh);
    dial_due(mesh);
    if (mesh->table_due && !mesh->failed)
        proa_mesh_send_tables(mesh);
    settle(mesh);
    watch_rendezvous(mesh);
}

/* ---- the end ---- */

static void end_all(proa_mesh *mesh)
{
    while (mesh->ends != NULL)
        proa_mesh_end_free(mesh->ends);
}

void proa_mesh_fail(proa_mesh *mesh, const proa_error *why)
{
    if (mesh->failed)
        return;
    proa_error copy = *why; /* it may be the mesh's own */
    mesh->failed = true;
    end_all(mesh);
    mesh->options.hooks.failed(mesh->options.hooks.context, &copy);
}

/* ---- the beginning ---- */

/* A link is a descriptor, and while a peer is replaced, two. */
static proa_status raise_descriptors(int world, proa_error *err)
{
    struct rlimit limit;
    rlim_t needed = (rlim_t)world + DESCRIPTORS_BESIDE, wished = 2 * (rlim_t)world + 1024;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= wished)
        return PROA_OK;
    rlim_t most = limit.rlim_max < wished ? limit.rlim_max : wished;
    if (most > limit.rlim_cur) {
        limit.rlim_cur = most;
        if (setrlimit(RLIMIT_NOFILE, &limit) != 0)
            getrlimit(RLIMIT_NOFILE, &limit);
    }
    if (limit.rlim_cur >= needed)
        return PROA_OK;
    return proa_error_set(
        err, PROA_ERR_INVALID,
        "a rank of %d needs %llu descriptors, and this process may open %llu: raise the hard "
        "limit (ulimit -Hn)",
        world, (unsigned long long)needed, (unsigned long long)limit.rlim_cur);
}

static proa_status copy_terms(proa_mesh *mesh, proa_error *err)
{
    const proa_mesh_options *o = &mesh->options;
    PROA_ASSERT(o->term_count >= 0 && o->term_count <= PROA_MESH_TERMS_MAX);
    for (int i = 0; i < o->term_count; i++) {
        const char *name = o->terms[i].name, *value = o->terms[i].value;
        if (strlen(name) >= PROA_MESH_TERM_NAME_BYTES || strlen(value) >= PROA_MESH_TERM_VALUE_BYTES)
            return proa_error_set(err, PROA_ERR_TOO_LONG, "%s \"%s\" is too long to be told to other ranks",
                                  name, value);
        snprintf(mesh->mine.terms[i].name, sizeof mesh->mine.terms[i].name, "%s", name);
        snprintf(mesh->mine.terms[i].value, sizeof mesh->mine.terms[i].value, "%s", value);
    }
    mesh->mine.term_count = o->term_count;
    return PROA_OK;
}

/* The own greeting, but for the port. */
static proa_status prepare(proa_mesh *mesh, proa_error *err)
{
    proa_mesh_options *o = &mesh->options;
    PROA_ASSERT(o->blob_bytes <= PROA_MESH_BLOB_BYTES_MAX);
    snprintf(mesh->init_address, sizeof mesh->init_address, "%s", o->init_address);
    snprintf(mesh->mine.place.host, sizeof mesh->mine.place.host, "%s",
             o->advertise_host != NULL ? o->advertise_host : "");
    mesh->mine.rank = o->rank;
    mesh->mine.world = o->world;
    if (o->blob_bytes > 0)
        memcpy(mesh->blob, o->blob, o->blob_bytes);
    mesh->mine.blob = mesh->blob;
    mesh->mine.blob_bytes = (uint32_t)o->blob_bytes;
    if (o->rendezvous_us == 0)
        o->rendezvous_us = RENDEZVOUS_US;
    if (o->security.connect_us == 0)
        o->security.connect_us = CONNECT_US;
    if (o->report_us == 0)
        o->report_us = REPORT_US;
    return copy_terms(mesh, err);
}

static const char *host_to_bind(const proa_mesh *mesh)
{
    const proa_mesh_options *o = &mesh->options;
    return o->listen_host != NULL                 ? o->listen_host
           : o->rank == 0                         ? mesh->init_host
           : o->security.key == NULL              ? "127.0.0.1"
           : strchr(mesh->init_host, ':') != NULL ? "::"
                                                  : "0.0.0.0";
}

static proa_status start(proa_mesh *mesh, proa_error *err)
{
    const proa_mesh_options *o = &mesh->options;
    proa_link_hooks hooks = proa_mesh_link_hooks(mesh);
    uint16_t port;
    proa_status status = proa_address_split(o->init_address, mesh->init_host, &port, err);
    if (status == PROA_OK)
        status = proa_listener_create(mesh->loop, &o->security, &mesh->self, host_to_bind(mesh),
                                      o->rank == 0 ? port : 0, &hooks, &mesh->listener, err);
    if (status != PROA_OK) {
        proa_error_prefix(err, "--dist-init-addr %s", o->init_address);
        return status;
    }
    mesh->mine.place.port = (uint16_t)proa_listener_port(mesh->listener);
    mesh->tick = proa_loop_add_timer(mesh->loop, TICK_US, on_tick, mesh);
    if (mesh->tick == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for a mesh");
    return PROA_OK;
}

proa_status proa_mesh_create(proa_loop *loop, const proa_mesh_options *options, proa_mesh **out,
                             proa_error *err)
{
    proa_mesh *mesh = calloc(1, sizeof *mesh);
    if (mesh == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for a mesh");
    mesh->loop = loop;
    mesh->options = *options;
    mesh->self = proa_link_identity_draw("rank");
    mesh->book = proa_mesh_book_create(options->rank, options->world, proa_clock_us());
    mesh->linked = calloc((size_t)options->world, sizeof(mesh_end *));
    proa_status status = prepare(mesh, err);
    if (mesh->book == NULL || mesh->linked == NULL)
        status = proa_error_set(err, PROA_ERR_MEMORY, "no memory for a mesh of %d ranks", options->world);
    if (status == PROA_OK)
        status = raise_descriptors(options->world, err);
    if (status == PROA_OK)
        status = start(mesh, err);
    if (status != PROA_OK) {
        proa_mesh_free(mesh);
        return status;
    }
    mesh->report_at_us = proa_clock_us() + mesh->options.report_us;
    *out = mesh;
    return PROA_OK;
}

void proa_mesh_free(proa_mesh *mesh)
{
    if (mesh == NULL)
        return;
    mesh->failed = true; /* nothing is called any more */
    end_all(mesh);
    proa_listener_free(mesh->listener);
    proa_timer_free(mesh->tick);
    proa_mesh_book_free(mesh->book);
    free(mesh->linked);
    proa_buf_free(&mesh->scratch);
    free(mesh);
}

/* ---- what the owner asks ---- */

proa_status proa_mesh_send(proa_mesh *mesh, int rank, uint16_t type, const void *body, size_t length)
{
    PROA_ASSERT(type < PROA_MESH_TYPE_FIRST);
    PROA_ASSERT(rank >= 0 && rank < mesh->book->world);
    if (length > PROA_MESH_MESSAGE_BYTES_MAX)
        return PROA_ERR_TOO_LONG;
    mesh_end *end = mesh->linked[rank];
    if (end == NULL)
        return PROA_ERR_UNREACHABLE;
    if (proa_link_pending(end->link) + length > PROA_MESH_PENDING_BYTES_MAX)
        return PROA_BUSY;
    return proa_link_send(end->link, type, body, length);
}

void proa_mesh_break(proa_mesh *mesh, int rank, const proa_error *why)
{
    PROA_ASSERT(rank >= 0 && rank < mesh->book->world);
    if (mesh->linked[rank] != NULL)
        proa_mesh_end_drop(mesh->linked[rank], why);
}

bool proa_mesh_ready(const proa_mesh *mesh)
{
    return mesh->book->ready;
}

bool proa_mesh_is_up(const proa_mesh *mesh, int rank)
{
    PROA_ASSERT(rank >= 0 && rank < mesh->book->world);
    return mesh->linked[rank] != NULL;
}

int proa_mesh_up_count(const proa_mesh *mesh)
{
    return mesh->book->up_count;
}

uint64_t proa_mesh_incarnation(const proa_mesh *mesh)
{
    return mesh->self.epoch;
}
