#include "mesh_fixture.h"

#include "base/clock.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* ---- hooks ---- */

static void blob_of(int rank, char text[32])
{
    snprintf(text, 32, "blob of rank %d", rank);
}

static void on_peer_up(void *context, int rank, uint64_t incarnation, const uint8_t *blob, size_t blob_bytes)
{
    mesh_seat *s = context;
    char text[32];
    blob_of(rank, text);
    assert_false(s->up[rank]);
    s->up[rank] = true;
    s->ups++;
    s->incarnations[rank] = incarnation;
    s->blobs_right += blob_bytes == strlen(text) && memcmp(blob, text, blob_bytes) == 0;
}

static void on_peer_down(void *context, int rank, const proa_error *why)
{
    mesh_seat *s = context;
    assert_true(s->up[rank]);
    s->up[rank] = false;
    s->downs++;
    s->down_why = *why;
}

static void on_message(void *context, int rank, uint16_t type, const uint8_t *body, size_t length)
{
    mesh_seat *s = context;
    assert_true(s->up[rank]);
    s->messages++;
    s->type = type;
    s->from = rank;
    for (size_t i = 0; i < length; i++)
        s->sum += body[i];
}

static void on_ready(void *context)
{
    mesh_seat *s = context;
    assert_false(s->ready);
    s->ready = true;
}

static void on_failed(void *context, const proa_error *why)
{
    mesh_seat *s = context;
    assert_false(s->failed);
    s->failed = true;
    s->why = *why;
    memset(s->up, 0, sizeof s->up);
}

/* ---- life ---- */

/* A free port below those that the system gives to connections: rank 0 must get it again. */
static int choose_port(void)
{
    enum { FIRST = 20000, COUNT = 12000 };
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    for (int i = 0; i < COUNT; i++) {
        int port = FIRST + ((int)getpid() * 7 + i) % COUNT,
            fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        at.sin_port = htons((uint16_t)port);
        bool is_free = bind(fd, (struct sockaddr *)&at, sizeof at) == 0;
        close(fd);
        if (is_free)
            return port;
    }
    fail_msg("no port is free");
    return 0;
}

void mesh_fixture_open(mesh_fixture *f, int world)
{
    memset(f, 0, sizeof *f);
    f->world = world;
    f->port = choose_port();
    assert_int_equal(proa_loop_create(NULL, NULL, &f->loop, NULL), PROA_OK);
}

mesh_seat *mesh_fixture_start(mesh_fixture *f, int seat, int rank, const mesh_variant *variant)
{
    const mesh_variant v = variant != NULL ? *variant : (mesh_variant){0};
    mesh_seat *s = &f->seats[seat];
    char address[32], blob[32];
    proa_error err = {0};
    const proa_mesh_term terms[] = {
        {"--page-size", v.page_size != NULL ? v.page_size : "64"},
        {"model", "0123456789abcdef"},
        {v.more_term, "on"},
    };
    assert_null(s->mesh);
    *s = (mesh_seat){.fixture = f, .rank = rank};
    snprintf(address, sizeof address, "127.0.0.1:%d", f->port);
    blob_of(rank, blob);
    const proa_mesh_options options = {
        .rank = rank,
        .world = v.world != 0 ? v.world : f->world,
        .init_address = address,
        .listen_host = "127.0.0.1",
        /* All ranks are one thread: when that gets no processor for seconds, both ends of a link fall silent. */
        .security = {.key = v.key != NULL ? v.key : MESH_KEY,
                     .silence_us = 60000000,
                     .connect_us = (int64_t)((v.connect_s != 0 ? v.connect_s : 30) * 1e6)},
        .terms = terms,
        .term_count = v.more_term != NULL ? 3 : 2,
        .blob = blob,
        .blob_bytes = strlen(blob),
        .rendezvous_us = (int64_t)((v.rendezvous_s != 0 ? v.rendezvous_s : 100) * 1e6),
        .hooks = {on_peer_up, on_peer_down, on_message, on_ready, on_failed, s},
    };
    if (proa_mesh_create(f->loop, &options, &s->mesh, &err) != PROA_OK)
        fail_msg("rank %d: %s", rank, err.text);
    return s;
}

void mesh_fixture_start_all(mesh_fixture *f)
{
    for (int i = f->world - 1; i >= 0; i--)
        mesh_fixture_start(f, i, i, NULL);
}

void mesh_fixture_kill(mesh_fixture *f, int seat)
{
    proa_mesh_free(f->seats[seat].mesh);
    f->seats[seat].mesh = NULL;
}

void mesh_fixture_close(mesh_fixture *f)
{
    for (int i = 0; i < MESH_SEATS; i++)
        mesh_fixture_kill(f, i);
    proa_loop_free(f->loop);
}

/* ---- the loop ---- */

typedef struct wait {
    mesh_fixture *fixture;
    mesh_condition condition;
    int64_t until_us;
    bool met;
} wait;

static void look(void *context)
{
    wait *w = context;
    w->met = w->condition != NULL && w->condition(w->fixture);
    if (w->met || proa_clock_us() >= w->until_us)
        proa_loop_stop(w->fixture->loop);
}

bool mesh_fixture_run(mesh_fixture *f, mesh_condition condition, double seconds)
{
    wait w = {.fixture = f, .condition = condition, .until_us = proa_clock_us() + (int64_t)(seconds * 1e6)};
    proa_timer *timer = proa_loop_add_timer(f->loop, 2000, look, &w);
    assert_non_null(timer);
    proa_loop_run(f->loop);
    proa_timer_free(timer);
    return w.met;
}

bool mesh_all_linked(const mesh_fixture *f)
{
    for (int i = 0; i < f->world; i++) {
        const mesh_seat *s = &f->seats[i];
        for (int j = 0; j < f->world && s->mesh != NULL; j++) {
            const mesh_seat *t = &f->seats[j];
            if (i == j)
                continue;
            if (s->up[j] != (t->mesh != NULL) || s->up[j] != proa_mesh_is_up(s->mesh, j))
                return false;
            if (t->mesh != NULL && s->incarnations[j] != proa_mesh_incarnation(t->mesh))
                return false;
        }
        if (s->mesh != NULL && (!s->ready || !proa_mesh_ready(s->mesh)))
            return false;
    }
    return true;
}
