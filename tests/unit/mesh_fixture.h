/* mesh_fixture.h - all ranks of a mesh on one loop, in one thread, for tests: each step runs the loop until a condition holds or its
 * time is over. */
#ifndef PROA_TESTS_MESH_FIXTURE_H
#define PROA_TESTS_MESH_FIXTURE_H

#include "net/mesh.h"

enum { MESH_RANKS_MAX = 64, MESH_SEATS = MESH_RANKS_MAX + 1 };

#define MESH_KEY "0123456789abcdef0123456789abcdef"

typedef struct mesh_fixture mesh_fixture;

/* A process in a test's eyes. */
typedef struct mesh_seat {
    mesh_fixture *fixture;
    proa_mesh *mesh; /* NULL: not running */
    int rank;
    bool ready, failed;
    proa_error why; /* of failed */
    int ups, downs, messages;
    proa_error down_why;                   /* of the latest */
    bool up[MESH_RANKS_MAX];               /* as the hooks said */
    uint64_t incarnations[MESH_RANKS_MAX]; /* the latest of each rank */
    int blobs_right;
    uint16_t type; /* of the latest message */
    int from;
    uint64_t sum; /* of all bytes of all messages */
} mesh_seat;

struct mesh_fixture {
    proa_loop *loop;
    int world;
    int port;                    /* of rank 0, from its first start on */
    mesh_seat seats[MESH_SEATS]; /* seat i is for rank i; the last one for a double */
};

/* What is not as in most tests; {0} otherwise. */
typedef struct mesh_variant {
    const char *key;
    const char *page_size; /* a term's value */
    const char *more_term; /* a further term's name */
    int world;
    double rendezvous_s;
    double connect_s;
} mesh_variant;

typedef bool (*mesh_condition)(const mesh_fixture *f);

void mesh_fixture_open(mesh_fixture *f, int world);
void mesh_fixture_close(mesh_fixture *f);
/* A new process in that seat. */
mesh_seat *mesh_fixture_start(mesh_fixture *f, int seat, int rank, const mesh_variant *variant);
void mesh_fixture_start_all(mesh_fixture *f); /* rank 0 last */
void mesh_fixture_kill(mesh_fixture *f, int seat);
bool mesh_fixture_run(mesh_fixture *f, mesh_condition condition, double seconds);

/* Those who run are ready and linked to each other. */
bool mesh_all_linked(const mesh_fixture *f);

#endif
