/* staging.c - see staging.h: two halves of pinned memory, one filled while the GPU reads the other. */
#include "model/cuda/staging.h"

#include <stdlib.h>
#include <string.h>

/* A task is large enough that its hand-out costs nothing; a half holds a task for each of many threads. */
enum { HALF_BYTES = 64 << 20, TASK_BYTES = 1 << 20, ALIGNMENT = 256 };

typedef struct half {
    unsigned char *memory; /* [HALF_BYTES] pinned */
    proa_gpu_mark *read;   /* passed when the GPU has taken all of it */
    bool marked;
} half;

struct proa_staging {
    proa_gpu *gpu;
    proa_pool *pool;
    half halves[2];
    int now;
    size_t used; /* of halves[now] */
};

proa_status proa_staging_create(proa_gpu *gpu, proa_pool *pool, proa_staging **out, proa_error *err)
{
    proa_staging *s = calloc(1, sizeof *s);
    proa_status status = PROA_OK;
    *out = NULL;
    if (s == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory to stage weights");
    s->gpu = gpu;
    s->pool = pool;
    for (int i = 0; i < 2 && status == PROA_OK; i++) {
        status = proa_gpu_alloc_host(gpu, HALF_BYTES, (void **)&s->halves[i].memory, err);
        if (status == PROA_OK)
            status = proa_gpu_mark_create(gpu, &s->halves[i].read, err);
    }
    if (status != PROA_OK) {
        proa_staging_free(s);
        return status;
    }
    *out = s;
    return PROA_OK;
}

void proa_staging_free(proa_staging *s)
{
    if (s == NULL)
        return;
    for (int i = 0; i < 2; i++) {
        proa_gpu_mark_free(s->halves[i].read);
        proa_gpu_free_host(s->gpu, s->halves[i].memory);
    }
    free(s);
}

typedef struct copy {
    unsigned char *to;
    const unsigned char *from;
    size_t bytes;
} copy;

static void run_copy(void *context, int task, int thread)
{
    const copy *c = context;
    const size_t at = (size_t)task * TASK_BYTES, left = c->bytes - at;
    (void)thread;
    memcpy(c->to + at, c->from + at, left < TASK_BYTES ? left : TASK_BYTES);
}

/* The other half, once the GPU has read it. */
static proa_status turn(proa_staging *s, proa_error *err)
{
    proa_status status = proa_gpu_mark_set(s->gpu, s->halves[s->now].read, err);
    s->halves[s->now].marked = true;
    s->now = 1 - s->now;
    s->used = 0;
    if (status == PROA_OK && s->halves[s->now].marked)
        status = proa_gpu_mark_wait(s->gpu, s->halves[s->now].read, err);
    return status;
}

proa_status proa_staging_put(proa_staging *s, void *to, const void *from, size_t bytes, proa_error *err)
{
    proa_status status = PROA_OK;
    for (size_t at = 0, n; at < bytes && status == PROA_OK; at += n) {
        if (s->used == HALF_BYTES)
            status = turn(s, err);
        if (status != PROA_OK)
            return status;
        const size_t room = HALF_BYTES - s->used;
        n = bytes - at < room ? bytes - at : room;
        copy c = {s->halves[s->now].memory + s->used, (const unsigned char *)from + at, n};
        proa_pool_run(s->pool, run_copy, &c, (int)((n + TASK_BYTES - 1) / TASK_BYTES));
        status = proa_gpu_upload(s->gpu, (unsigned char *)to + at, c.to, n, err);
        s->used += (n + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    }
    return status;
}
