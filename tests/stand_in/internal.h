/* internal.h - the stand-in's GPU, for gpu.c and queue.c. */
#ifndef PROA_TESTS_STAND_IN_INTERNAL_H
#define PROA_TESTS_STAND_IN_INTERNAL_H

#include "stand_in.h"

#include <pthread.h>
#include <stdalign.h>

typedef struct work work;
struct work {
    work *next;
    stand_in_run *run;
    size_t bytes;
    alignas(16) unsigned char args[];
};

/* First in, first out. */
typedef struct work_list {
    work *first;
    work **end;
} work_list;

typedef struct allocation {
    unsigned char *base;
    size_t bytes;
    bool pinned; /* the host's */
} allocation;

struct proa_gpu {
    proa_gpu_facts facts;
    pthread_t owner;
    allocation *allocations;
    int32_t count, room;
    size_t used;
    work_list queue, recorded;
    work_list second; /* since the fork */
    bool recording, forked, beside;
    void *scratch[STAND_IN_SLOTS];
    size_t scratch_bytes[STAND_IN_SLOTS];
    float e4m3[256];
};

/* The call is the owner's. */
void stand_in_assert_owner(const proa_gpu *gpu);
/* All that is queued, now. */
void stand_in_drain(proa_gpu *gpu);
void stand_in_list_init(work_list *list);
void stand_in_list_free(work_list *list);
/* Refuses what CUDA does not do while a graph is recorded, and what must not be done between a fork and its join. */
proa_status stand_in_not_recording(const proa_gpu *gpu, const char *what, proa_error *err);
/* The allocation that has [at, at + bytes), or NULL. */
const allocation *stand_in_find(const proa_gpu *gpu, const void *at, size_t bytes, bool pinned);

#endif
