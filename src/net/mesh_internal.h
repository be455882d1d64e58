/* mesh_internal.h - what the files of the mesh share.
 *
 *   mesh.c        life, time: dials that are due, deadlines, what is waited for; sending
 *   mesh_end.c    one link: greetings, refusals, tables, messages, its end
 *   mesh_book.c   who is there and what follows, pure
 *   mesh_wire.c   messages to bytes and back, pure
 */
#ifndef PROA_NET_MESH_INTERNAL_H
#define PROA_NET_MESH_INTERNAL_H

#include "net/mesh_book.h"

/* A link of the mesh. UP is entered by both ends with their greetings exchanged: the accepting one when it has sent WELCOME, the
 * dialling one when it has taken it. */
typedef enum mesh_end_state {
    MESH_END_CONNECT, /* dialled: not up as a link */
    MESH_END_GREETED, /* dialled: HELLO is sent */
    MESH_END_STRANGE, /* accepted: HELLO is awaited */
    MESH_END_UP,
} mesh_end_state;

typedef struct mesh_end {
    proa_mesh *mesh;
    proa_link *link;
    mesh_end_state state;
    int32_t rank;        /* -1: STRANGE */
    int64_t deadline_us; /* of GREETED and STRANGE */
    struct mesh_end *next, *previous;
} mesh_end;

struct proa_mesh {
    proa_loop *loop;
    proa_mesh_options options; /* init_address, terms and blob are not looked at after create */
    proa_link_identity self;   /* its epoch is the incarnation */
    proa_mesh_hello mine;
    uint8_t blob[PROA_MESH_BLOB_BYTES_MAX];
    char init_address[PROA_HOST_BYTES + 16];
    char init_host[PROA_HOST_BYTES];
    proa_listener *listener;
    proa_timer *tick;
    proa_mesh_book *book;
    mesh_end *ends;    /* all */
    mesh_end **linked; /* [world]; those that are UP */
    proa_buf scratch;  /* what is sent next */
    bool table_due;    /* rank 0: who is there has changed */
    bool failed;
    int64_t report_at_us;
    proa_error
        latest; /* why rank 0 was not reached or did not want this rank; status PROA_OK: nothing to say */
};

/* ---- mesh.c ---- */

/* The end: all links are closed, and the owner is told. */
void proa_mesh_fail(proa_mesh *mesh, const proa_error *why);
/* Who is there has changed: tables, readiness. */
void proa_mesh_changed(proa_mesh *mesh);

/* ---- mesh_end.c ---- */

proa_link_hooks proa_mesh_link_hooks(proa_mesh *mesh);
void proa_mesh_end_dial(proa_mesh *mesh, int32_t rank);
/* Closes the link and forgets it; nobody is told. */
void proa_mesh_end_free(mesh_end *end);
/* Closes the link; the owner is told why, if it was UP. */
void proa_mesh_end_drop(mesh_end *end, const proa_error *why);
/* GREETED or STRANGE for too long. */
void proa_mesh_end_late(mesh_end *end);
void proa_mesh_send_tables(proa_mesh *mesh);

#endif
