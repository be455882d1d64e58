/* mesh_end.c - one link of the mesh: greetings, refusals, tables, messages, its end. */
#include "net/mesh_internal.h"

#include "base/clock.h"
#include "base/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- life ---- */

static mesh_end *end_new(proa_mesh *mesh, proa_link *link, mesh_end_state state, int32_t rank)
{
    mesh_end *end = calloc(1, sizeof *end);
    if (end == NULL)
        return NULL;
    *end = (mesh_end){.mesh = mesh, .link = link, .state = state, .rank = rank, .next = mesh->ends};
    end->deadline_us = proa_clock_us() + mesh->options.security.connect_us;
    if (mesh->ends != NULL)
        mesh->ends->previous = end;
    mesh->ends = end;
    return end;
}

static void forget(mesh_end *end)
{
    proa_mesh *mesh = end->mesh;
    if (end->state == MESH_END_UP)
        mesh->linked[end->rank] = NULL;
    if (end->previous != NULL)
        end->previous->next = end->next;
    else
        mesh->ends = end->next;
    if (end->next != NULL)
        end->next->previous = end->previous;
    free(end);
}

void proa_mesh_end_free(mesh_end *end)
{
    proa_link *link = end->link;
    forget(end);
    proa_link_close(link);
}

/* ---- its end ---- */

static void note(proa_mesh *mesh, int32_t rank, const proa_error *why)
{
    if (rank != 0) {
        proa_log(PROA_LOG_DEBUG, "mesh", "rank %d is not reached: %s", rank, why->text);
        return;
    }
    if (strcmp(mesh->latest.text, why->text) != 0 && why->status != PROA_ERR_NOT_FOUND)
        proa_log(PROA_LOG_WARN, "mesh", "rank 0 at %s: %s (trying again)", mesh->init_address, why->text);
    mesh->latest = *why;
}

static void fail(proa_mesh *mesh, int32_t rank, const proa_error *why)
{
    proa_error err = *why;
    if (rank == 0)
        proa_error_prefix(&err, "rank 0 at %s", mesh->init_address);
    else
        proa_error_prefix(&err, "rank %d", rank);
    proa_mesh_fail(mesh, &err);
}

/* The link is gone or about to be: what follows from it. `end` is forgotten. */
static void lost(mesh_end *end, const proa_error *why)
{
    proa_mesh *mesh = end->mesh;
    int32_t rank = end->rank;
    mesh_end_state state = end->state;
    int64_t now = proa_clock_us();
    forget(end);
    if (state == MESH_END_UP) {
        proa_log(PROA_LOG_WARN, "mesh", "rank %d is gone: %s", rank, why->text);
        proa_mesh_book_down(mesh->book, rank, now);
        mesh->options.hooks.peer_down(mesh->options.hooks.context, rank, why);
        proa_mesh_changed(mesh);
    } else if (state != MESH_END_STRANGE) {
        proa_mesh_book_dial_failed(mesh->book, rank, why->status == PROA_ERR_NOT_FOUND, now);
        /* A wrong key, or no rank at all behind that address: no later attempt finds anything else. */
        if (why->status == PROA_ERR_PROTOCOL && rank == 0 && !mesh->book->peers[0].seen)
            fail(mesh, rank, why);
        else
            note(mesh, rank, why);
    }
}

void proa_mesh_end_drop(mesh_end *end, const proa_error *why)
{
    proa_link *link = end->link;
    if (end->state == MESH_END_STRANGE)
        proa_log(PROA_LOG_WARN, "mesh", "refused %s (%s): %s", proa_link_address(link),
                 proa_link_peer(link)->name, why->text);
    lost(end, why);
    proa_link_close(link);
}

void proa_mesh_end_late(mesh_end *end)
{
    proa_error why;
    proa_error_set(&why, PROA_ERR_DEADLINE, "it has not greeted within %.2f s",
                   (double)end->mesh->options.security.connect_us / 1e6);
    proa_mesh_end_drop(end, &why);
}

/* ---- greetings ---- */

static proa_status send_scratch(mesh_end *end, uint16_t type)
{
    const proa_buf *body = &end->mesh->scratch;
    return body->failed ? PROA_ERR_MEMORY : proa_link_send(end->link, type, body->data, body->length);
}

/* False: the end is dropped. */
static bool greet(mesh_end *end, uint16_t type)
{
    proa_mesh *mesh = end->mesh;
    mesh->mine.wanted = end->rank;
    mesh->mine.formed = mesh->book->ready;
    proa_buf_clear(&mesh->scratch);
    proa_mesh_hello_put(&mesh->mine, &mesh->scratch);
    if (send_scratch(end, type) == PROA_OK)
        return true;
    proa_error why;
    proa_error_set(&why, PROA_ERR_MEMORY, "no memory for a greeting");
    proa_mesh_end_drop(end, &why);
    return false;
}

static void refuse(mesh_end *end, bool for_good, const char *text)
{
    proa_mesh_refusal refusal = {.for_good = for_good};
    proa_log(PROA_LOG_WARN, "mesh", "%s (%s) is refused: %s", proa_link_address(end->link),
             proa_link_peer(end->link)->name, text);
    snprintf(refusal.why, sizeof refusal.why, "%s", text);
    proa_buf_clear(&end->mesh->scratch);
    proa_mesh_refusal_put(&refusal, &end->mesh->scratch);
    send_scratch(end, PROA_MESH_REFUSAL);
    proa_mesh_end_free(end);
}

/* Where others reach the peer: what it says, with the host that is seen here if it says none. */
static proa_mesh_place place_of(const mesh_end *end, const proa_mesh_hello *hello)
{
    proa_mesh_place place = hello->place;
    uint16_t port;
    if (place.host[0] == '\0' &&
        proa_address_split(proa_link_address(end->link), place.host, &port, NULL) != PROA_OK)
        place.host[0] = '\0';
    return place;
}

static void come_up(mesh_end *end, const proa_mesh_hello *hello)
{
    proa_mesh *mesh = end->mesh;
    const proa_link_identity *peer = proa_link_peer(end->link);
    const proa_mesh_peer *before = &mesh->book->peers[hello->rank];
    proa_mesh_place place = place_of(end, hello);
    int64_t now = proa_clock_us();
    if (before->lost_us != 0)
        proa_log(PROA_LOG_INFO, "mesh", "rank %d is back after %.2f s: %s%s", hello->rank,
                 (double)(now - before->lost_us) / 1e6, peer->name,
                 peer->epoch == before->incarnation ? ", the same process" : "");
    end->rank = hello->rank;
    end->state = MESH_END_UP;
    mesh->linked[end->rank] = end;
    if (end->rank == 0)
        mesh->latest = (proa_error){0};
    proa_mesh_book_up(mesh->book, end->rank, peer->epoch, &place, hello->formed, now);
    mesh->options.hooks.peer_up(mesh->options.hooks.context, end->rank, peer->epoch, hello->blob,
                                hello->blob_bytes);
    proa_mesh_changed(mesh);
}

/* An accepted end's. */
static void take_hello(mesh_end *end, const uint8_t *body, size_t length)
{
    proa_mesh *mesh = end->mesh;
    proa_error err;
    proa_mesh_hello hello;
    char why[PROA_MESH_REASON_BYTES];
    if (proa_mesh_hello_get(body, length, &hello, &err) != PROA_OK) {
        refuse(end, true, err.text);
        return;
    }
    uint64_t incarnation = proa_link_peer(end->link)->epoch;
    proa_mesh_verdict verdict = proa_mesh_book_judge(mesh->book, &mesh->mine, &hello, incarnation, why);
    if (verdict != PROA_MESH_ADMIT) {
        refuse(end, verdict == PROA_MESH_REFUSE_FOR_GOOD, why);
        return;
    }
    if (mesh->linked[hello.rank] != NULL) { /* the same process; its end of the older link is closed */
        proa_error_set(&err, PROA_ERR_UNREACHABLE, "it has connected anew");
        proa_mesh_end_drop(mesh->linked[hello.rank], &err);
    }
    if (mesh->failed)
        return;
    end->rank = hello.rank;
    if (greet(end, PROA_MESH_WELCOME))
        come_up(end, &hello);
}

/* A dialling end's. */
static void take_welcome(mesh_end *end, const uint8_t *body, size_t length)
{
    proa_mesh_hello hello;
    proa_error err;
    proa_status status = proa_mesh_hello_get(body, length, &hello, &err);
    if (status == PROA_OK && (hello.rank != end->rank || hello.wanted != end->mesh->mine.rank ||
                              hello.world != end->mesh->mine.world))
        status = proa_error_set(&err, PROA_ERR_PROTOCOL,
                                "it answers as rank %d of %d to rank %d, where rank %d of %d was called",
                                hello.rank, hello.world, hello.wanted, end->rank, end->mesh->mine.world);
    if (status == PROA_OK)
        come_up(end, &hello);
    else
        proa_mesh_end_drop(end, &err);
}

static void take_refusal(mesh_end *end, const uint8_t *body, size_t length)
{
    proa_mesh *mesh = end->mesh;
    proa_mesh_refusal refusal;
    proa_error err;
    if (proa_mesh_refusal_get(body, length, &refusal, &err) != PROA_OK) {
        proa_mesh_end_drop(end, &err);
        return;
    }
    proa_error_set(&err, PROA_ERR_INVALID, "it does not take this process as rank %d: %s", mesh->mine.rank,
                   refusal.why);
    if (refusal.for_good)
        fail(mesh, end->rank, &err);
    else
        proa_mesh_end_drop(end, &err);
}

/* ---- tables ---- */

void proa_mesh_send_tables(proa_mesh *mesh)
{
    proa_buf_clear(&mesh->scratch);
    proa_mesh_book_put_table(mesh->book, &mesh->scratch);
    mesh->table_due = false;
    for (int32_t i = 0; i < mesh->book->world; i++) {
        /* A rank that does not read has 64 MiB pending, and its link is about to end. */
        if (mesh->linked[i] != NULL && send_scratch(mesh->linked[i], PROA_MESH_TABLE) != PROA_OK)
            mesh->table_due = true;
    }
}

static void take_table(mesh_end *end, const uint8_t *body, size_t length)
{
    proa_mesh *mesh = end->mesh;
    proa_mesh_table table;
    proa_error err;
    proa_status status = proa_mesh_table_get(body, length, &table, &err);
    if (status == PROA_OK)
        status = proa_mesh_book_take_table(mesh->book, &table, proa_clock_us(), &err);
    if (status == PROA_OK)
        proa_mesh_changed(mesh);
    else
        proa_mesh_end_drop(end, &err);
}

/* ---- the link's hooks ---- */

static void on_up(void *context, proa_link *link)
{
    proa_mesh *mesh = context;
    mesh_end *end = proa_link_user(link);
    if (end != NULL) {
        end->state = MESH_END_GREETED;
        end->deadline_us = proa_clock_us() + mesh->options.security.connect_us;
        greet(end, PROA_MESH_HELLO);
        return;
    }
    end = mesh->failed ? NULL : end_new(mesh, link, MESH_END_STRANGE, -1);
    proa_link_set_user(link, end);
    if (end == NULL)
        proa_link_close(link);
}

static void take_other(mesh_end *end, uint16_t type, const uint8_t *body, size_t length)
{
    const proa_mesh_hooks *hooks = &end->mesh->options.hooks;
    if (end->state == MESH_END_UP && type < PROA_MESH_TYPE_FIRST && length <= PROA_MESH_MESSAGE_BYTES_MAX) {
        hooks->message(hooks->context, end->rank, type, body, length);
        return;
    }
    proa_error why;
    proa_error_set(&why, PROA_ERR_PROTOCOL,
                   "it sends type 0x%04x with %zu bytes, which does not belong there", type, length);
    proa_mesh_end_drop(end, &why);
}

static void on_message(void *context, proa_link *link, uint16_t type, const uint8_t *body, size_t length)
{
    (void)context;
    mesh_end *end = proa_link_user(link);
    if (type == PROA_MESH_HELLO && end->state == MESH_END_STRANGE)
        take_hello(end, body, length);
    else if (type == PROA_MESH_WELCOME && end->state == MESH_END_GREETED)
        take_welcome(end, body, length);
    else if (type == PROA_MESH_REFUSAL && end->state == MESH_END_GREETED)
        take_refusal(end, body, length);
    else if (type == PROA_MESH_TABLE && end->state == MESH_END_UP && end->rank == 0)
        take_table(end, body, length);
    else
        take_other(end, type, body, length);
}

static void on_down(void *context, proa_link *link, const proa_error *why)
{
    (void)context;
    mesh_end *end = proa_link_user(link);
    lost(end, why);
}

proa_link_hooks proa_mesh_link_hooks(proa_mesh *mesh)
{
    return (proa_link_hooks){.up = on_up, .message = on_message, .down = on_down, .context = mesh};
}

void proa_mesh_end_dial(proa_mesh *mesh, int32_t rank)
{
    const proa_mesh_place *place = &mesh->book->peers[rank].place;
    proa_link_hooks hooks = proa_mesh_link_hooks(mesh);
    char address[PROA_HOST_BYTES + 16];
    proa_error err;
    proa_link *link = NULL;
    if (rank == 0)
        snprintf(address, sizeof address, "%s", mesh->init_address);
    else
        snprintf(address, sizeof address, strchr(place->host, ':') != NULL ? "[%s]:%u" : "%s:%u", place->host,
                 place->port);
    mesh_end *end = end_new(mesh, NULL, MESH_END_CONNECT, rank);
    proa_status status = PROA_ERR_MEMORY;
    if (end != NULL)
        status = proa_link_dial(mesh->loop, &mesh->options.security, &mesh->self, address, &hooks, end, &link,
                                &err);
    else
        proa_error_set(&err, status, "no memory for a link");
    if (status == PROA_OK) {
        end->link = link;
        return;
    }
    if (end != NULL)
        forget(end);
    proa_mesh_book_dial_failed(mesh->book, rank, false, proa_clock_us());
    if (status == PROA_ERR_INVALID && rank == 0) /* an address or files that will be no better later */
        proa_mesh_fail(mesh, &err);
    else
        note(mesh, rank, &err);
}
