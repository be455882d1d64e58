/* mesh_wire.c - see mesh_wire.h. Readers read all fields and check once; nothing of a message that fails is used. */
#include "net/mesh_wire.h"

#include <string.h>

static bool printable(const char *text)
{
    for (; *text != '\0'; text++) {
        if (*text < ' ' || *text > '~')
            return false;
    }
    return true;
}

static void put_place(const proa_mesh_place *place, proa_buf *out)
{
    proa_put_text(out, place->host);
    proa_put_u16(out, place->port);
}

static void get_place(proa_reader *in, proa_mesh_place *place)
{
    proa_get_text(in, place->host, sizeof place->host);
    place->port = proa_get_u16(in);
    in->failed |= !printable(place->host) || place->port == 0;
}

static bool get_bool(proa_reader *in)
{
    uint8_t value = proa_get_u8(in);
    in->failed |= value > 1;
    return value == 1;
}

/* ---- greeting ---- */

void proa_mesh_hello_put(const proa_mesh_hello *h, proa_buf *out)
{
    proa_put_u16(out, PROA_MESH_VERSION);
    proa_put_i32(out, h->rank);
    proa_put_i32(out, h->wanted);
    proa_put_i32(out, h->world);
    proa_put_u8(out, h->formed);
    put_place(&h->place, out);
    proa_put_u32(out, (uint32_t)h->term_count);
    for (int i = 0; i < h->term_count; i++) {
        proa_put_text(out, h->terms[i].name);
        proa_put_text(out, h->terms[i].value);
    }
    proa_put_u32(out, h->blob_bytes);
    proa_buf_append(out, h->blob, h->blob_bytes);
}

static void get_terms(proa_reader *in, proa_mesh_hello *h)
{
    enum { TERM_BYTES_MIN = 4 }; /* two empty texts */
    h->term_count = (int32_t)proa_get_count(in, PROA_MESH_TERMS_MAX, TERM_BYTES_MIN);
    for (int i = 0; i < h->term_count; i++) {
        proa_get_text(in, h->terms[i].name, sizeof h->terms[i].name);
        proa_get_text(in, h->terms[i].value, sizeof h->terms[i].value);
        in->failed |= !printable(h->terms[i].name) || !printable(h->terms[i].value);
    }
}

proa_status proa_mesh_hello_get(const uint8_t *bytes, size_t length, proa_mesh_hello *h, proa_error *err)
{
    proa_reader in = proa_reader_of(bytes, length);
    uint16_t version = proa_get_u16(&in);
    if (!in.failed && version != PROA_MESH_VERSION)
        return proa_error_set(
            err, PROA_ERR_PROTOCOL,
            "the greeting is of version %u, and the one that it is for of version %d: start "
            "the same version of proa on all nodes",
            version, PROA_MESH_VERSION);
    h->rank = proa_get_i32(&in);
    h->wanted = proa_get_i32(&in);
    h->world = proa_get_i32(&in);
    h->formed = get_bool(&in);
    get_place(&in, &h->place);
    get_terms(&in, h);
    h->blob_bytes = proa_get_count(&in, PROA_MESH_BLOB_BYTES_MAX, 1);
    h->blob = proa_get_bytes(&in, h->blob_bytes);
    if (!proa_reader_done(&in))
        return proa_error_set(err, PROA_ERR_PROTOCOL, "the greeting of %zu bytes is malformed", length);
    if (h->world < 2 || h->world > PROA_MESH_RANKS_MAX || h->rank < 0 || h->rank >= h->world ||
        h->wanted < 0 || h->wanted >= h->world || h->wanted == h->rank)
        return proa_error_set(err, PROA_ERR_PROTOCOL, "the greeting is from rank %d to rank %d of %d",
                              h->rank, h->wanted, h->world);
    return PROA_OK;
}

/* ---- refusal ---- */

void proa_mesh_refusal_put(const proa_mesh_refusal *r, proa_buf *out)
{
    proa_put_u8(out, r->for_good);
    proa_put_text(out, r->why);
}

proa_status proa_mesh_refusal_get(const uint8_t *bytes, size_t length, proa_mesh_refusal *r, proa_error *err)
{
    proa_reader in = proa_reader_of(bytes, length);
    r->for_good = get_bool(&in);
    proa_get_text(&in, r->why, sizeof r->why);
    if (!proa_reader_done(&in) || !printable(r->why))
        return proa_error_set(err, PROA_ERR_PROTOCOL, "its refusal of %zu bytes is malformed", length);
    return PROA_OK;
}

/* ---- table ---- */

void proa_mesh_table_begin(int32_t world, bool formed, uint32_t count, proa_buf *out)
{
    proa_put_i32(out, world);
    proa_put_u8(out, formed);
    proa_put_u32(out, count);
}

void proa_mesh_entry_put(const proa_mesh_entry *e, proa_buf *out)
{
    proa_put_i32(out, e->rank);
    proa_put_u64(out, e->incarnation);
    put_place(&e->place, out);
}

static void get_entry(proa_reader *in, proa_mesh_entry *e)
{
    e->rank = proa_get_i32(in);
    e->incarnation = proa_get_u64(in);
    get_place(in, &e->place);
    in->failed |= e->incarnation == 0 || e->place.host[0] == '\0';
}

proa_status proa_mesh_table_get(const uint8_t *bytes, size_t length, proa_mesh_table *t, proa_error *err)
{
    enum { ENTRY_BYTES_MIN = 16 };
    proa_reader in = proa_reader_of(bytes, length);
    t->world = proa_get_i32(&in);
    t->formed = get_bool(&in);
    t->count = proa_get_count(&in, PROA_MESH_RANKS_MAX, ENTRY_BYTES_MIN);
    t->entries = in;
    in.failed |= t->world < 2 || t->world > PROA_MESH_RANKS_MAX;
    int32_t before = -1;
    for (uint32_t i = 0; i < t->count && !in.failed; i++) {
        proa_mesh_entry e;
        get_entry(&in, &e);
        in.failed |= e.rank <= before || e.rank >= t->world;
        before = e.rank;
    }
    if (!proa_reader_done(&in))
        return proa_error_set(err, PROA_ERR_PROTOCOL, "its table of ranks (%zu bytes) is malformed", length);
    return PROA_OK;
}

bool proa_mesh_table_next(proa_mesh_table *t, proa_mesh_entry *e)
{
    if (t->count == 0)
        return false;
    t->count--;
    get_entry(&t->entries, e);
    return true;
}
