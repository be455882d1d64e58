/* rank_mesh.h - a rank's links to the other ranks (net/mesh.h), on a thread of their own.
 *
 * opened, waited for and closed by one thread; the hooks of the options run on the mesh's.
 */
#ifndef PROA_CMD_RANK_MESH_H
#define PROA_CMD_RANK_MESH_H

#include "net/mesh.h"

typedef struct proa_rank_mesh proa_rank_mesh;

/* Hooks may be NULL. `tick` (may be NULL) is called every 20 ms with their context, on the same thread. Returns when the own port is
 * bound. */
proa_status proa_rank_mesh_open(const proa_mesh_options *options, void (*tick)(void *context),
                                proa_rank_mesh **mesh, proa_error *err);
/* As proa_mesh_send, from any thread: sent soon, in order, if the rank is up then. What cannot be sent ends the link (proa_mesh_break),
 * so that a link never loses a message and goes on. False: out of memory. */
bool proa_rank_mesh_post(proa_rank_mesh *mesh, int rank, uint16_t type, const void *body, size_t length);
/* PROA_OK: ready. PROA_BUSY: not within `seconds`. Otherwise the mesh has failed, which may happen after it was ready. */
proa_status proa_rank_mesh_wait(proa_rank_mesh *mesh, double seconds, proa_error *err);
void proa_rank_mesh_close(proa_rank_mesh *mesh); /* no hook is called after it; accepts NULL */

#endif
