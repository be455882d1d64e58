/* gpu.c - see stand_in.h: facts, memory, copies, marks. */
#include "internal.h"

#include "base/number.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    MEMORY_BYTES = 1 << 30,
    ALIGNMENT = 256, /* of cudaMalloc */
    POISON = 0xff,   /* a NaN in every float format, and -1 */
};

int32_t proa_gpu_count(proa_error *err)
{
    (void)err;
    return 1;
}

proa_status proa_gpu_open(int32_t ordinal, proa_gpu **out, proa_error *err)
{
    *out = NULL;
    if (ordinal != 0)
        return proa_error_set(err, PROA_ERR_INVALID, "there is no GPU %d: GPUs 0 to 0 are here", ordinal);
    proa_gpu *gpu = calloc(1, sizeof *gpu);
    if (gpu == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for a GPU");
    gpu->facts = (proa_gpu_facts){.name = "stand-in",
                                  .capability = 90,
                                  .multiprocessors = 132,
                                  .memory_bytes = MEMORY_BYTES,
                                  .l2_bytes = 50 << 20,
                                  .driver = 13000};
    gpu->owner = pthread_self();
    stand_in_list_init(&gpu->queue);
    stand_in_list_init(&gpu->recorded);
    stand_in_list_init(&gpu->second);
    for (int32_t i = 0; i < 256; i++)
        gpu->e4m3[i] = proa_e4m3_to_f32((uint8_t)i);
    *out = gpu;
    return PROA_OK;
}

/* What was not freed is left to the leak checker. */
void proa_gpu_close(proa_gpu *gpu)
{
    if (gpu == NULL)
        return;
    stand_in_list_free(&gpu->queue);
    stand_in_list_free(&gpu->recorded);
    stand_in_list_free(&gpu->second);
    for (int32_t i = 0; i < STAND_IN_SLOTS; i++)
        free(gpu->scratch[i]);
    free(gpu->allocations);
    free(gpu);
}

proa_status proa_gpu_own(proa_gpu *gpu, proa_error *err)
{
    (void)err;
    gpu->owner = pthread_self();
    return PROA_OK;
}

const proa_gpu_facts *proa_gpu_facts_of(const proa_gpu *gpu)
{
    return &gpu->facts;
}

void *proa_gpu_stream(const proa_gpu *gpu)
{
    (void)gpu;
    return NULL; /* no CUDA here that could use one */
}

void stand_in_assert_owner(const proa_gpu *gpu)
{
    PROA_ASSERT(pthread_equal(gpu->owner, pthread_self()));
}

/* ---- memory ---- */

const allocation *stand_in_find(const proa_gpu *gpu, const void *at, size_t bytes, bool pinned)
{
    const uintptr_t first = (uintptr_t)at;
    for (int32_t i = 0; i < gpu->count; i++) {
        const allocation *a = &gpu->allocations[i];
        const uintptr_t base = (uintptr_t)a->base;
        if (a->pinned == pinned && first >= base && first - base <= a->bytes &&
            bytes <= a->bytes - (first - base))
            return a;
    }
    return NULL;
}

static __attribute__((noreturn)) void fail(const char *what, const char *why, const void *at, int64_t bytes)
{
    fprintf(stderr, "the stand-in's GPU: %s: %lld bytes at %p %s\n", what, (long long)bytes, at, why);
    proa_assert_failed(what, __FILE__, __LINE__);
}

void stand_in_check(const proa_gpu *gpu, const void *at, int64_t bytes, int32_t alignment, const char *what)
{
    if (bytes == 0)
        return;
    if (bytes < 0 || stand_in_find(gpu, at, (size_t)bytes, false) == NULL)
        fail(what, "do not lie within one allocation", at, bytes);
    if ((uintptr_t)at % (uintptr_t)alignment != 0)
        fail(what, "are not aligned as the kernel needs it", at, bytes);
}

void stand_in_check_rows(const proa_gpu *gpu, const void *at, int64_t rows, int64_t cols, int64_t stride,
                         int32_t element_bytes, const char *what)
{
    if (rows == 0)
        return;
    stand_in_check(gpu, at, ((rows - 1) * stride + cols) * element_bytes, 16, what);
    if (rows > 1 && (stride < cols || stride * element_bytes % 16 != 0))
        fail(what, "have rows at a stride that is too small, or no multiple of 16 bytes", at,
             stride * element_bytes);
}

void stand_in_check_fp8(const proa_gpu *gpu, const proa_cuda_fp8_rows *rows, int64_t count, int32_t cols,
                        const char *what)
{
    if (rows->q == NULL || count == 0)
        return;
    PROA_ASSERT(rows->stride >= count);
    PROA_ASSERT(rows->stride % PROA_CUDA_GROUP_ALIGN == 0);
    stand_in_check(gpu, rows->q, count * cols, 8, what);
    stand_in_check(gpu, rows->scale, (cols + 127) / 128 * rows->stride * (int64_t)sizeof(float), 16, what);
}

static proa_status add(proa_gpu *gpu, size_t bytes, bool pinned, void **memory, proa_error *err)
{
    if (gpu->count == gpu->room) {
        const int32_t room = 2 * gpu->room + 16;
        allocation *larger = realloc(gpu->allocations, sizeof *larger * (size_t)room);
        if (larger == NULL)
            return proa_error_set(err, PROA_ERR_MEMORY, "no memory for a table of %d allocations", room);
        gpu->allocations = larger;
        gpu->room = room;
    }
    *memory = aligned_alloc(ALIGNMENT, (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT + ALIGNMENT);
    if (*memory == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for %zu bytes of the stand-in's", bytes);
    memset(*memory, POISON, bytes);
    gpu->allocations[gpu->count++] = (allocation){*memory, bytes, pinned};
    return PROA_OK;
}

/* Waits for all that was queued, as CUDA does. */
static void take_out(proa_gpu *gpu, void *memory, bool pinned)
{
    stand_in_assert_owner(gpu);
    if (memory == NULL)
        return;
    PROA_ASSERT(!gpu->recording);
    stand_in_drain(gpu);
    for (int32_t i = 0; i < gpu->count; i++) {
        const allocation a = gpu->allocations[i];
        if (a.base != memory || a.pinned != pinned)
            continue;
        gpu->used -= pinned ? 0 : a.bytes;
        gpu->allocations[i] = gpu->allocations[--gpu->count];
        free(memory);
        return;
    }
    fail("a free", "are no allocation", memory, 0);
}

proa_status proa_gpu_alloc(proa_gpu *gpu, size_t bytes, void **memory, proa_error *err)
{
    stand_in_assert_owner(gpu);
    *memory = NULL;
    const size_t left = gpu->facts.memory_bytes - gpu->used;
    proa_status status = stand_in_not_recording(gpu, "reserving GPU memory", err);
    if (status == PROA_OK && bytes > left)
        status =
            proa_error_set(err, PROA_ERR_DEVICE_MEMORY, "GPU %d has no %zu MiB left: %zu MiB of %zu are free",
                           gpu->facts.ordinal, bytes >> 20, left >> 20, gpu->facts.memory_bytes >> 20);
    if (status == PROA_OK && bytes > 0)
        status = add(gpu, bytes, false, memory, err);
    if (status == PROA_OK)
        gpu->used += bytes;
    return status;
}

void proa_gpu_free(proa_gpu *gpu, void *memory)
{
    take_out(gpu, memory, false);
}

proa_status proa_gpu_memory(const proa_gpu *gpu, size_t *free_bytes, proa_error *err)
{
    (void)err;
    *free_bytes = gpu->facts.memory_bytes - gpu->used;
    return PROA_OK;
}

proa_status proa_gpu_alloc_host(proa_gpu *gpu, size_t bytes, void **memory, proa_error *err)
{
    stand_in_assert_owner(gpu);
    *memory = NULL;
    const proa_status status = stand_in_not_recording(gpu, "reserving pinned memory", err);
    return status == PROA_OK && bytes > 0 ? add(gpu, bytes, true, memory, err) : status;
}

void proa_gpu_free_host(proa_gpu *gpu, void *memory)
{
    take_out(gpu, memory, true);
}

void *stand_in_scratch(proa_gpu *gpu, int32_t slot, size_t bytes)
{
    if (gpu->scratch_bytes[slot] < bytes) {
        free(gpu->scratch[slot]);
        gpu->scratch_bytes[slot] = (2 * bytes + 63) / 64 * 64;
        gpu->scratch[slot] = aligned_alloc(64, gpu->scratch_bytes[slot]);
        PROA_ASSERT(gpu->scratch[slot] != NULL);
    }
    return gpu->scratch[slot];
}

const float *stand_in_e4m3(const proa_gpu *gpu)
{
    return gpu->e4m3;
}

/* ---- copies ---- */

typedef struct copy {
    void *to;
    const void *from;
    size_t bytes;
    int value;
    bool up, set;
} copy;

static void run_copy(proa_gpu *gpu, const void *args)
{
    const copy *c = args;
    const void *there = c->up ? c->to : c->from;
    stand_in_check(gpu, there, (int64_t)c->bytes, 1, c->set ? "a fill" : "a copy");
    if (c->set)
        memset(c->to, c->value, c->bytes);
    else
        memcpy(c->to, c->from, c->bytes);
}

/* To and from ordinary memory at once, behind all that was queued; a graph would read or write that memory whenever it runs, which nobody
 * means. */
static proa_status copy_memory(proa_gpu *gpu, const copy *c, const void *here, proa_error *err)
{
    if (c->bytes == 0)
        return PROA_OK;
    stand_in_assert_owner(gpu);
    if (c->set || stand_in_find(gpu, here, c->bytes, true) != NULL)
        return stand_in_queue(gpu, run_copy, c, sizeof *c, err);
    const proa_status status = stand_in_not_recording(gpu, "a copy of memory that is not pinned", err);
    if (status != PROA_OK)
        return status;
    stand_in_drain(gpu);
    run_copy(gpu, c);
    return PROA_OK;
}

proa_status proa_gpu_upload(proa_gpu *gpu, void *to, const void *from, size_t bytes, proa_error *err)
{
    return copy_memory(gpu, &(copy){.to = to, .from = from, .bytes = bytes, .up = true}, from, err);
}

proa_status proa_gpu_download(proa_gpu *gpu, void *to, const void *from, size_t bytes, proa_error *err)
{
    return copy_memory(gpu, &(copy){.to = to, .from = from, .bytes = bytes}, to, err);
}

proa_status proa_gpu_set(proa_gpu *gpu, void *to, int value, size_t bytes, proa_error *err)
{
    return copy_memory(gpu, &(copy){.to = to, .bytes = bytes, .value = value, .up = true, .set = true}, NULL,
                       err);
}

typedef struct copy_rows {
    unsigned char *to;
    const unsigned char *from;
    size_t stride, bytes, rows;
} copy_rows;

static void run_copy_rows(proa_gpu *gpu, const void *args)
{
    const copy_rows *c = args;
    const int64_t all = (int64_t)((c->rows - 1) * c->stride + c->bytes);
    PROA_ASSERT(c->bytes <= c->stride);
    stand_in_check(gpu, c->to, all, 1, "the target of a copy of rows");
    stand_in_check(gpu, c->from, all, 1, "the source of a copy of rows");
    for (size_t i = 0; i < c->rows; i++)
        memmove(c->to + i * c->stride, c->from + i * c->stride, c->bytes);
}

proa_status proa_gpu_copy_rows(proa_gpu *gpu, void *to, const void *from, size_t stride, size_t bytes,
                               size_t rows, proa_error *err)
{
    const copy_rows c = {to, from, stride, bytes, rows};
    return bytes > 0 && rows > 0 ? stand_in_queue(gpu, run_copy_rows, &c, sizeof c, err) : PROA_OK;
}

proa_status proa_gpu_sync(proa_gpu *gpu, proa_error *err)
{
    stand_in_assert_owner(gpu);
    const proa_status status = stand_in_not_recording(gpu, "work on the GPU", err);
    if (status == PROA_OK)
        stand_in_drain(gpu);
    return status;
}

/* ---- times ---- */

struct proa_gpu_mark {
    int64_t passed_ns; /* 0: not yet */
};

static void run_mark(proa_gpu *gpu, const void *args)
{
    struct timespec now;
    (void)gpu;
    clock_gettime(CLOCK_MONOTONIC, &now);
    (*(proa_gpu_mark *const *)args)->passed_ns = (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

proa_status proa_gpu_mark_create(proa_gpu *gpu, proa_gpu_mark **out, proa_error *err)
{
    (void)gpu;
    *out = calloc(1, sizeof **out);
    return *out != NULL ? PROA_OK : proa_error_set(err, PROA_ERR_MEMORY, "no memory for a mark");
}

void proa_gpu_mark_free(proa_gpu_mark *mark)
{
    free(mark);
}

proa_status proa_gpu_mark_set(proa_gpu *gpu, proa_gpu_mark *mark, proa_error *err)
{
    return stand_in_queue(gpu, run_mark, &mark, sizeof(mark), err);
}

proa_status proa_gpu_mark_wait(proa_gpu *gpu, proa_gpu_mark *mark, proa_error *err)
{
    (void)mark;
    return proa_gpu_sync(gpu, err);
}

double proa_gpu_mark_us(const proa_gpu_mark *from, const proa_gpu_mark *to)
{
    return from->passed_ns > 0 && to->passed_ns > 0 ? (double)(to->passed_ns - from->passed_ns) / 1e3 : -1;
}
