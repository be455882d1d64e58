/* rank_mesh.c - see rank_mesh.h. */
#include "cmd/rank_mesh.h"

#include "base/clock.h"
#include "base/stacks.h"
#include "net/bytes.h"

#include <pthread.h>
#include <stdlib.h>

struct proa_rank_mesh {
    proa_mesh_hooks hooks; /* the caller's */
    proa_loop *loop;
    proa_mesh *mesh;
    pthread_t thread;
    bool started;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool ready;       /* under the lock */
    proa_buf posted;  /* under the lock: rank, type, length, body, one after another */
    proa_buf sending; /* the mesh's thread */
    proa_error error; /* under the lock; its status is PROA_OK until the mesh fails */
};

/* ---- the mesh's thread ---- */

static void on_peer_up(void *context, int rank, uint64_t incarnation, const uint8_t *blob, size_t blob_bytes)
{
    const proa_mesh_hooks *hooks = &((proa_rank_mesh *)context)->hooks;
    if (hooks->peer_up != NULL)
        hooks->peer_up(hooks->context, rank, incarnation, blob, blob_bytes);
}

static void on_peer_down(void *context, int rank, const proa_error *why)
{
    const proa_mesh_hooks *hooks = &((proa_rank_mesh *)context)->hooks;
    if (hooks->peer_down != NULL)
        hooks->peer_down(hooks->context, rank, why);
}

static void on_message(void *context, int rank, uint16_t type, const uint8_t *body, size_t length)
{
    const proa_mesh_hooks *hooks = &((proa_rank_mesh *)context)->hooks;
    if (hooks->message != NULL)
        hooks->message(hooks->context, rank, type, body, length);
}

static void change(proa_rank_mesh *m, bool ready, const proa_error *error)
{
    pthread_mutex_lock(&m->lock);
    m->ready |= ready;
    if (error != NULL)
        m->error = *error;
    pthread_cond_broadcast(&m->changed);
    pthread_mutex_unlock(&m->lock);
}

static void on_ready(void *context)
{
    proa_rank_mesh *m = context;
    if (m->hooks.ready != NULL)
        m->hooks.ready(m->hooks.context);
    change(m, true, NULL);
}

static void on_failed(void *context, const proa_error *why)
{
    proa_rank_mesh *m = context;
    if (m->hooks.failed != NULL)
        m->hooks.failed(m->hooks.context, why);
    change(m, false, why);
}

static void send_or_break(proa_rank_mesh *m, int rank, uint16_t type, const uint8_t *body, size_t length)
{
    proa_error why;
    proa_status status = proa_mesh_send(m->mesh, rank, type, body, length);
    if (status == PROA_OK || status == PROA_ERR_UNREACHABLE)
        return;
    if (status == PROA_BUSY)
        proa_error_set(&why, PROA_ERR_DEADLINE, "it has not read %d MiB that were sent to it",
                       PROA_MESH_PENDING_BYTES_MAX >> 20);
    else
        proa_error_set(&why, status, "a message to it could not be sent: %s", proa_status_name(status));
    proa_mesh_break(m->mesh, rank, &why);
}

/* What other threads have posted. */
static void on_wake(void *context)
{
    proa_rank_mesh *m = context;
    pthread_mutex_lock(&m->lock);
    proa_buf taken = m->posted;
    m->posted = m->sending;
    pthread_mutex_unlock(&m->lock);
    proa_reader r = proa_reader_of(taken.data, taken.length);
    while (proa_reader_left(&r) > 0 && m->mesh != NULL) {
        int rank = proa_get_i32(&r);
        uint16_t type = proa_get_u16(&r);
        uint32_t length = proa_get_u32(&r);
        const uint8_t *body = proa_get_bytes(&r, length);
        PROA_ASSERT(!r.failed);
        send_or_break(m, rank, type, body, length);
    }
    proa_buf_clear(&taken);
    m->sending = taken;
}

static void *run(void *context)
{
    proa_rank_mesh *m = context;
    proa_stacks_name_thread("ranks");
    proa_loop_run(m->loop);
    return NULL;
}

/* ---- the caller's ---- */

proa_status proa_rank_mesh_open(const proa_mesh_options *options, void (*tick)(void *context),
                                proa_rank_mesh **out, proa_error *err)
{
    enum { TICK_US = 20000 };
    proa_mesh_options o = *options;
    proa_rank_mesh *m = calloc(1, sizeof *m);
    if (m == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for a mesh");
    m->hooks = options->hooks;
    pthread_mutex_init(&m->lock, NULL);
    proa_clock_cond_init(&m->changed);
    o.hooks = (proa_mesh_hooks){on_peer_up, on_peer_down, on_message, on_ready, on_failed, m};
    proa_status status = proa_loop_create(on_wake, m, &m->loop, err);
    if (status == PROA_OK && tick != NULL &&
        proa_loop_add_timer(m->loop, TICK_US, tick, options->hooks.context) == NULL)
        status = proa_error_set(err, PROA_ERR_MEMORY, "no memory for the mesh's timer");
    if (status == PROA_OK)
        status = proa_mesh_create(m->loop, &o, &m->mesh, err);
    if (status == PROA_OK) {
        *out = m; /* before the thread: its hooks may post */
        m->started = pthread_create(&m->thread, NULL, run, m) == 0;
        if (!m->started)
            status = proa_error_set(err, PROA_ERR_MEMORY, "no memory for the mesh's thread");
    }
    if (status != PROA_OK) {
        *out = NULL;
        proa_rank_mesh_close(m);
    }
    return status;
}

bool proa_rank_mesh_post(proa_rank_mesh *m, int rank, uint16_t type, const void *body, size_t length)
{
    pthread_mutex_lock(&m->lock);
    size_t before = m->posted.length;
    proa_put_i32(&m->posted, rank);
    proa_put_u16(&m->posted, type);
    proa_put_u32(&m->posted, (uint32_t)length);
    proa_buf_append(&m->posted, body, length);
    bool good = !m->posted.failed;
    pthread_mutex_unlock(&m->lock);
    if (before == 0)
        proa_loop_wake(m->loop);
    return good;
}

proa_status proa_rank_mesh_wait(proa_rank_mesh *m, double seconds, proa_error *err)
{
    struct timespec until = proa_clock_deadline((int64_t)(seconds * 1e6));
    pthread_mutex_lock(&m->lock);
    while (!m->ready && m->error.status == PROA_OK &&
           pthread_cond_timedwait(&m->changed, &m->lock, &until) == 0) {
    }
    proa_status status = m->error.status != PROA_OK ? m->error.status : m->ready ? PROA_OK : PROA_BUSY;
    if (m->error.status != PROA_OK)
        *err = m->error;
    pthread_mutex_unlock(&m->lock);
    return status;
}

void proa_rank_mesh_close(proa_rank_mesh *m)
{
    if (m == NULL)
        return;
    if (m->started) {
        proa_loop_stop(m->loop);
        pthread_join(m->thread, NULL);
    }
    proa_mesh_free(m->mesh);
    proa_loop_free(m->loop);
    proa_buf_free(&m->posted);
    proa_buf_free(&m->sending);
    pthread_cond_destroy(&m->changed);
    pthread_mutex_destroy(&m->lock);
    free(m);
}
