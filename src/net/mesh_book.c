/* mesh_book.c - see mesh_book.h.
 *
 * Why a second process with the same rank is never preferred, not even when rank 0 names it: a link says who is alive, a table
 * only who was. A dead process's link is down within PROA_LINK_SILENCE_US, and until then the newcomer tries again.
 */
#include "net/mesh_book.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    BACKOFF_US = 50000,
    BACKOFF_MAX_US = 1000000,
    /* Rank 0, started again among ranks that were complete before, does not know who of them lives. Those that do dial it within a
     * back-off of noticing that it was gone. */
    SETTLE_US = PROA_LINK_SILENCE_US + BACKOFF_MAX_US + 500000,
};

proa_mesh_book *proa_mesh_book_create(int32_t rank, int32_t world, int64_t now_us)
{
    PROA_ASSERT(world >= 1 && world <= PROA_MESH_RANKS_MAX);
    PROA_ASSERT(rank >= 0 && rank < world);
    proa_mesh_book *book = calloc(1, sizeof *book);
    if (book == NULL)
        return NULL;
    book->peers = calloc((size_t)world, sizeof *book->peers);
    if (book->peers == NULL) {
        free(book);
        return NULL;
    }
    book->rank = rank;
    book->world = world;
    book->began_us = now_us;
    if (rank > 0)
        book->peers[0] = (proa_mesh_peer){.state = PROA_MESH_WANTED, .due_us = now_us};
    return book;
}

void proa_mesh_book_free(proa_mesh_book *book)
{
    if (book != NULL)
        free(book->peers);
    free(book);
}

/* ---- who is let in ---- */

static const char *value_of(const proa_mesh_hello *h, const char *name)
{
    for (int i = 0; i < h->term_count; i++) {
        if (strcmp(h->terms[i].name, name) == 0)
            return h->terms[i].value;
    }
    return NULL;
}

/* Appends "--page-size is 64 here and 1 there" for each term of `mine` that is another at `theirs`, up to what fits. */
static void differing_terms(const proa_mesh_hello *mine, const proa_mesh_hello *theirs, proa_buf *out)
{
    for (int i = 0; i < mine->term_count; i++) {
        const char *value = value_of(theirs, mine->terms[i].name);
        if (value == NULL || strcmp(value, mine->terms[i].value) != 0)
            proa_buf_append_format(out, "%s%s is %s at rank %d and %s at rank %d",
                                   out->length > 0 ? "; " : "", mine->terms[i].name,
                                   value != NULL ? value : "not known", theirs->rank, mine->terms[i].value,
                                   mine->rank);
    }
    for (int i = 0; i < theirs->term_count; i++) {
        if (value_of(mine, theirs->terms[i].name) == NULL)
            proa_buf_append_format(out, "%s%s is %s at rank %d and not known at rank %d",
                                   out->length > 0 ? "; " : "", theirs->terms[i].name, theirs->terms[i].value,
                                   theirs->rank, mine->rank);
    }
}

static bool same_terms(const proa_mesh_hello *mine, const proa_mesh_hello *hello,
                       char why[PROA_MESH_REASON_BYTES])
{
    proa_buf differing = {0};
    differing_terms(mine, hello, &differing);
    bool same = differing.length == 0 && !differing.failed;
    if (!same)
        snprintf(why, PROA_MESH_REASON_BYTES,
                 "%.600s: give all nodes of a worker the same model and flags but for --node-rank",
                 proa_buf_text(&differing));
    proa_buf_free(&differing);
    return same;
}

proa_mesh_verdict proa_mesh_book_judge(const proa_mesh_book *book, const proa_mesh_hello *mine,
                                       const proa_mesh_hello *hello, uint64_t incarnation,
                                       char why[PROA_MESH_REASON_BYTES])
{
    if (hello->world != book->world) {
        snprintf(why, PROA_MESH_REASON_BYTES,
                 "--tp-size is %d at rank %d and %d at rank %d: give all nodes of a worker the same",
                 hello->world, hello->rank, book->world, book->rank);
        return PROA_MESH_REFUSE_FOR_GOOD;
    }
    if (!same_terms(mine, hello, why))
        return PROA_MESH_REFUSE_FOR_GOOD;
    if (hello->wanted != book->rank) {
        snprintf(why, PROA_MESH_REASON_BYTES, "here is rank %d, not rank %d", book->rank, hello->wanted);
        return PROA_MESH_REFUSE_NOW;
    }
    if (hello->rank < book->rank) {
        snprintf(why, PROA_MESH_REASON_BYTES,
                 "rank %d dials rank %d, and the higher rank is to dial the lower", hello->rank, book->rank);
        return PROA_MESH_REFUSE_FOR_GOOD;
    }
    const proa_mesh_peer *peer = &book->peers[hello->rank];
    if (peer->state == PROA_MESH_UP && peer->incarnation != incarnation) {
        snprintf(
            why, PROA_MESH_REASON_BYTES,
            "rank %d is there already, another process whose link to rank %d lives: is --node-rank right?",
            hello->rank, book->rank);
        return PROA_MESH_REFUSE_NOW;
    }
    return PROA_MESH_ADMIT;
}

/* ---- up and down ---- */

void proa_mesh_book_up(proa_mesh_book *book, int32_t rank, uint64_t incarnation, const proa_mesh_place *place,
                       bool formed, int64_t now_us)
{
    PROA_ASSERT(rank >= 0 && rank < book->world && rank != book->rank);
    proa_mesh_peer *peer = &book->peers[rank];
    PROA_ASSERT(peer->state != PROA_MESH_UP);
    peer->state = PROA_MESH_UP;
    peer->incarnation = incarnation;
    peer->place = *place;
    peer->backoff_us = 0;
    book->up_count++;
    if (!peer->seen)
        book->seen_count++;
    peer->seen = true;
    /* What other ranks than 0 hear of it comes with the table, and with it who is there. */
    if (formed && book->rank == 0 && !book->formed) {
        book->formed = true;
        book->formed_us = now_us;
    }
}

static void want(proa_mesh_book *book, int32_t rank, int64_t due_us)
{
    bool dials = rank < book->rank;
    bool known = rank == 0 || book->peers[rank].place.port != 0;
    book->peers[rank].state = dials && known ? PROA_MESH_WANTED : PROA_MESH_UNKNOWN;
    book->peers[rank].due_us = due_us;
}

void proa_mesh_book_down(proa_mesh_book *book, int32_t rank, int64_t now_us)
{
    proa_mesh_peer *peer = &book->peers[rank];
    PROA_ASSERT(peer->state == PROA_MESH_UP);
    book->up_count--;
    peer->lost_us = now_us;
    peer->backoff_us = BACKOFF_US;
    want(book, rank, now_us + BACKOFF_US); /* a process that ends has closed its listener by then */
}

/* ---- dialling ---- */

int32_t proa_mesh_book_dial(proa_mesh_book *book, int64_t now_us)
{
    for (int32_t i = 0; i < book->rank; i++) {
        if (book->peers[i].state == PROA_MESH_WANTED && book->peers[i].due_us <= now_us) {
            book->peers[i].state = PROA_MESH_DIALLING;
            book->peers[i].moved = false;
            return i;
        }
    }
    return -1;
}

void proa_mesh_book_dial_failed(proa_mesh_book *book, int32_t rank, bool gone, int64_t now_us)
{
    proa_mesh_peer *peer = &book->peers[rank];
    PROA_ASSERT(peer->state == PROA_MESH_DIALLING);
    peer->backoff_us = peer->backoff_us == 0 ? BACKOFF_US : 2 * peer->backoff_us;
    if (peer->backoff_us > BACKOFF_MAX_US)
        peer->backoff_us = BACKOFF_MAX_US;
    if (gone && rank != 0 && !peer->moved)
        peer->place = (proa_mesh_place){0}; /* until a table names another one */
    want(book, rank, peer->moved ? now_us : now_us + peer->backoff_us);
}

/* ---- tables ---- */

static bool same_place(const proa_mesh_place *a, const proa_mesh_place *b)
{
    return a->port == b->port && strcmp(a->host, b->host) == 0;
}

static void take_entry(proa_mesh_book *book, const proa_mesh_entry *e, int64_t now_us)
{
    proa_mesh_peer *peer = &book->peers[e->rank];
    peer->listed = true;
    if (same_place(&peer->place, &e->place))
        return;
    peer->place = e->place;
    if (peer->state == PROA_MESH_DIALLING)
        peer->moved = true;
    else if (peer->state != PROA_MESH_UP) { /* of one that is UP, the link says when it ends */
        peer->backoff_us = 0;
        want(book, e->rank, now_us);
    }
}

proa_status proa_mesh_book_take_table(proa_mesh_book *book, proa_mesh_table *table, int64_t now_us,
                                      proa_error *err)
{
    proa_mesh_entry e;
    if (table->world != book->world)
        return proa_error_set(err, PROA_ERR_PROTOCOL, "its table is of %d ranks, and the world has %d",
                              table->world, book->world);
    for (int32_t i = 0; i < book->world; i++)
        book->peers[i].listed = false;
    while (proa_mesh_table_next(table, &e)) {
        if (e.rank != book->rank && e.rank != 0)
            take_entry(book, &e, now_us);
    }
    book->formed = table->formed;
    return PROA_OK;
}

void proa_mesh_book_put_table(const proa_mesh_book *book, proa_buf *out)
{
    proa_mesh_table_begin(book->world, book->ready, (uint32_t)book->up_count, out);
    for (int32_t i = 0; i < book->world; i++) {
        const proa_mesh_peer *peer = &book->peers[i];
        if (peer->state == PROA_MESH_UP) {
            const proa_mesh_entry e = {.rank = i, .incarnation = peer->incarnation, .place = peer->place};
            proa_mesh_entry_put(&e, out);
        }
    }
}

/* ---- complete ---- */

static bool all_listed_seen(const proa_mesh_book *book)
{
    for (int32_t i = 1; i < book->world; i++) {
        if (i != book->rank && book->peers[i].listed && !book->peers[i].seen)
            return false;
    }
    return book->peers[0].seen;
}

bool proa_mesh_book_settle(proa_mesh_book *book, int64_t now_us)
{
    if (book->ready)
        return false;
    book->ready = book->seen_count == book->world - 1;
    if (!book->ready && book->formed)
        book->ready = book->rank == 0 ? now_us - book->formed_us >= SETTLE_US : all_listed_seen(book);
    return book->ready;
}

void proa_mesh_book_missing(const proa_mesh_book *book, char *text, size_t bytes)
{
    enum { PIECES_MAX = 12 };
    proa_buf list = {0};
    int missing = book->world - 1 - book->seen_count, told = 0, pieces = 0;
    for (int32_t i = 0, last; i < book->world && pieces < PIECES_MAX; i = last + 1) {
        last = i;
        if (i == book->rank || book->peers[i].seen)
            continue;
        while (last + 1 < book->world && last + 1 != book->rank && !book->peers[last + 1].seen)
            last++;
        proa_buf_append_format(&list, "%s%d", pieces++ > 0 ? ", " : "", i);
        if (last > i)
            proa_buf_append_format(&list, "%s%d", last > i + 1 ? "-" : ", ", last);
        told += last - i + 1;
    }
    snprintf(text, bytes, "rank%s %s", missing == 1 ? "" : "s", proa_buf_text(&list));
    if (told < missing)
        snprintf(text + strlen(text), bytes - strlen(text), " and %d more", missing - told);
    proa_buf_free(&list);
}
