/* mesh_wire.h - what ranks say to each other to form a mesh (mesh.h): structs to bytes and back. Pure.
 *
 * Little-endian fields (bytes.h). Texts are printable ASCII, since they go into logs.
 *
 *   HELLO    u16 version, u32 rank, u32 wanted, u32 world, u8 formed, place,
 *            u32 terms, each {text name, text value}, u32 blob bytes, the blob
 *   WELCOME  the same
 *   REFUSAL  u8 for_good, text why
 *   TABLE    u32 world, u8 formed, u32 entries by ascending rank, each {u32 rank, u64 incarnation, place}
 *   place    text host, u16 port
 */
#ifndef PROA_NET_MESH_WIRE_H
#define PROA_NET_MESH_WIRE_H

#include "net/bytes.h"
#include "net/mesh.h"
#include "net/resolve.h"

enum {
    PROA_MESH_VERSION = 1,
    PROA_MESH_HELLO = PROA_MESH_TYPE_FIRST,
    PROA_MESH_WELCOME,
    PROA_MESH_REFUSAL,
    PROA_MESH_TABLE,
    PROA_MESH_REASON_BYTES = 800, /* of a refusal, with the zero byte */
};

typedef struct proa_mesh_place {
    char host[PROA_HOST_BYTES]; /* "": as the receiver sees the sender */
    uint16_t port;
} proa_mesh_place;

typedef struct proa_mesh_hello {
    int32_t rank;
    int32_t wanted; /* the rank that the sender means to talk to */
    int32_t world;
    bool formed; /* the sender has seen the world complete */
    proa_mesh_place place;
    int32_t term_count;
    struct {
        char name[PROA_MESH_TERM_NAME_BYTES];
        char value[PROA_MESH_TERM_VALUE_BYTES];
    } terms[PROA_MESH_TERMS_MAX];
    const uint8_t *blob; /* read: in the message */
    uint32_t blob_bytes;
} proa_mesh_hello;

void proa_mesh_hello_put(const proa_mesh_hello *hello, proa_buf *out);
/* PROA_ERR_PROTOCOL; ranks are within the world then, and not the same. */
proa_status proa_mesh_hello_get(const uint8_t *bytes, size_t length, proa_mesh_hello *hello, proa_error *err);

typedef struct proa_mesh_refusal {
    bool for_good; /* trying again leads nowhere */
    char why[PROA_MESH_REASON_BYTES];
} proa_mesh_refusal;

void proa_mesh_refusal_put(const proa_mesh_refusal *refusal, proa_buf *out);
proa_status proa_mesh_refusal_get(const uint8_t *bytes, size_t length, proa_mesh_refusal *refusal,
                                  proa_error *err);

typedef struct proa_mesh_entry {
    int32_t rank;
    uint64_t incarnation; /* never 0 */
    proa_mesh_place place;
} proa_mesh_entry;

/* A table that was read: checked as a whole, its entries taken one after another. */
typedef struct proa_mesh_table {
    int32_t world;
    bool formed;
    uint32_t count;
    proa_reader entries; /* in the message */
} proa_mesh_table;

void proa_mesh_table_begin(int32_t world, bool formed, uint32_t count, proa_buf *out);
void proa_mesh_entry_put(const proa_mesh_entry *entry, proa_buf *out); /* `count` times */
proa_status proa_mesh_table_get(const uint8_t *bytes, size_t length, proa_mesh_table *table, proa_error *err);
bool proa_mesh_table_next(proa_mesh_table *table, proa_mesh_entry *entry); /* false at the end */

#endif
