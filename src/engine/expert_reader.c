/* expert_reader.c - a thread that touches pages; looks between two experts whether the job is still wanted. */
#include "engine/expert_reader.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>

enum { PAGE_BYTES = 4096 };

struct proa_expert_reader {
    proa_expert_reader_hooks hooks;
    pthread_t thread;
    bool started;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    /* under lock */
    int32_t *pairs; /* [2 * experts_max] */
    int32_t count, at;
    uint64_t job;
    bool wanted, ends;
};

static void read_range(const proa_expert_range *range)
{
    uintptr_t first = (uintptr_t)range->start / PAGE_BYTES * PAGE_BYTES,
              end = (uintptr_t)range->start + range->bytes;
    if (range->bytes == 0)
        return;
    (void)madvise((void *)first, end - first,
                  MADV_WILLNEED); /* a hint: reads what follows while this waits */
    volatile const uint8_t *bytes = range->start;
    uint8_t sum = bytes[range->bytes - 1];
    for (size_t i = 0; i < range->bytes; i += PAGE_BYTES)
        sum ^= bytes[i];
    (void)sum;
}

static void read_expert(proa_expert_reader *r, int32_t layer, int32_t expert)
{
    proa_expert_range ranges[PROA_EXPERT_RANGES];
    int count = r->hooks.find(r->hooks.context, layer, expert, ranges);
    for (int i = 0; i < count; i++)
        read_range(&ranges[i]);
}

static void *run(void *context)
{
    proa_expert_reader *r = context;
    pthread_mutex_lock(&r->lock);
    while (!r->ends) {
        if (!r->wanted) {
            pthread_cond_wait(&r->changed, &r->lock);
            continue;
        }
        if (r->at == r->count) {
            uint64_t job = r->job;
            r->wanted = false;
            pthread_mutex_unlock(&r->lock);
            r->hooks.done(r->hooks.context, job);
            pthread_mutex_lock(&r->lock);
            continue;
        }
        int32_t layer = r->pairs[2 * r->at], expert = r->pairs[2 * r->at + 1];
        r->at++;
        pthread_mutex_unlock(&r->lock);
        read_expert(r, layer, expert);
        pthread_mutex_lock(&r->lock);
    }
    pthread_mutex_unlock(&r->lock);
    return NULL;
}

proa_status proa_expert_reader_create(int32_t experts_max, const proa_expert_reader_hooks *hooks,
                                      proa_expert_reader **out, proa_error *err)
{
    proa_expert_reader *r = calloc(1, sizeof *r);
    *out = r;
    if (r == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for the reader of experts");
    r->hooks = *hooks;
    pthread_mutex_init(&r->lock, NULL);
    pthread_cond_init(&r->changed, NULL);
    r->pairs = calloc(2 * (size_t)experts_max, sizeof *r->pairs);
    r->started = r->pairs != NULL && pthread_create(&r->thread, NULL, run, r) == 0;
    if (r->started)
        return PROA_OK;
    proa_expert_reader_free(r);
    *out = NULL;
    return proa_error_set(err, PROA_ERR_MEMORY, "no memory for the reader of experts");
}

void proa_expert_reader_free(proa_expert_reader *r)
{
    if (r == NULL)
        return;
    pthread_mutex_lock(&r->lock);
    r->ends = true;
    pthread_cond_signal(&r->changed);
    pthread_mutex_unlock(&r->lock);
    if (r->started)
        pthread_join(r->thread, NULL);
    pthread_mutex_destroy(&r->lock);
    pthread_cond_destroy(&r->changed);
    free(r->pairs);
    free(r);
}

int32_t *proa_expert_reader_begin(proa_expert_reader *r)
{
    pthread_mutex_lock(&r->lock);
    r->wanted = false;
    return r->pairs;
}

void proa_expert_reader_start(proa_expert_reader *r, uint64_t job, int32_t count)
{
    r->job = job;
    r->count = count;
    r->at = 0;
    r->wanted = true;
    pthread_cond_signal(&r->changed);
    pthread_mutex_unlock(&r->lock);
}
