/* page.c - reading a checkpoint's pages in, so that the first request does not wait for the disk.
 *
 * Served tensors that lie side by side are one range; ranges are cut into chunks, and the pool's threads populate the
 * chunks in the order of the files (MADV_POPULATE_READ, which reports a bad sector as an error where a plain load
 * would be killed; kernels before 5.14 get plain loads). A model that does not fit into memory is left to page itself.
 */
#include "model/checkpoint.h"

#include "base/log.h"
#include "base/progress.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { CHUNK_BYTES = 16 << 20 };

typedef struct chunk {
    const unsigned char *data;
    uint64_t bytes;
    int32_t shard;
} chunk;

typedef struct page_in {
    const chunk *chunks;
    uintptr_t page_bytes;
    proa_progress progress;
    _Atomic int failed_chunk; /* the first that failed, or -1 */
    _Atomic int failed_errno;
} page_in;

static int compare_data(const void *a, const void *b)
{
    const proa_shard_tensor *x = *(const proa_shard_tensor *const *)a,
                            *y = *(const proa_shard_tensor *const *)b;
    if (x->shard != y->shard)
        return x->shard < y->shard ? -1 : 1;
    if (x->tensor->data != y->tensor->data)
        return (const char *)x->tensor->data < (const char *)y->tensor->data ? -1 : 1;
    return 0;
}

/* The served tensors as chunks: joins neighbours, cuts at CHUNK_BYTES. Returns how many; `chunks` NULL only counts. */
static int cut(const proa_shard_tensor *const *served, size_t count, chunk *chunks)
{
    int n = 0;
    chunk last = {0};
    for (size_t i = 0; i < count; i++) {
        const unsigned char *data = served[i]->tensor->data;
        uint64_t left = served[i]->tensor->bytes;
        bool joins = n > 0 && last.shard == served[i]->shard && last.data + last.bytes == data;
        while (left > 0) {
            if (!joins || last.bytes == CHUNK_BYTES) {
                last = (chunk){.data = data, .bytes = 0, .shard = served[i]->shard};
                n++;
                joins = true;
            }
            uint64_t take = left < CHUNK_BYTES - last.bytes ? left : CHUNK_BYTES - last.bytes;
            last.bytes += take;
            data += take;
            left -= take;
            if (chunks != NULL)
                chunks[n - 1] = last;
        }
    }
    return n;
}

static void touch(const unsigned char *data, uint64_t bytes, uintptr_t page_bytes)
{
    for (uint64_t i = 0; i < bytes; i += page_bytes)
        (void)*(const volatile unsigned char *)(data + i);
}

static void populate(void *context, int task, int thread)
{
    (void)thread;
    page_in *p = context;
    const chunk *c = &p->chunks[task];
    uintptr_t first = (uintptr_t)c->data & ~(p->page_bytes - 1);
    uint64_t bytes = (uintptr_t)c->data + c->bytes - first;
    if (madvise((void *)first, bytes, MADV_POPULATE_READ) != 0) {
        int saved = errno, none = -1;
        if (saved == EINVAL) {
            touch((const unsigned char *)first, bytes, p->page_bytes);
        } else if (atomic_compare_exchange_strong_explicit(&p->failed_chunk, &none, task,
                                                           memory_order_relaxed, memory_order_relaxed)) {
            /* relaxed: read after the pool has joined */
            atomic_store_explicit(&p->failed_errno, saved, memory_order_relaxed);
        }
    }
    proa_progress_add(&p->progress, c->bytes);
}

static bool fits_in_memory(uint64_t bytes)
{
    long pages = sysconf(_SC_PHYS_PAGES), page_bytes = sysconf(_SC_PAGESIZE);
    return pages <= 0 || page_bytes <= 0 || bytes < (uint64_t)pages * (uint64_t)page_bytes;
}

static proa_status read_chunks(proa_checkpoint *checkpoint, const chunk *chunks, int count, uint64_t bytes,
                               proa_error *err)
{
    page_in p = {.chunks = chunks, .page_bytes = (uintptr_t)sysconf(_SC_PAGESIZE), .failed_chunk = -1};
    proa_progress_start(&p.progress, "loading", bytes, "B");
    proa_pool_run(checkpoint->pool, populate, &p, count);
    double seconds = proa_progress_finish(&p.progress);
    if (p.failed_chunk >= 0)
        return proa_error_set(err, PROA_ERR_IO,
                              "%s/%s: cannot read: %s; check the disk and fetch the file again",
                              checkpoint->dir, checkpoint->shards.shards[chunks[p.failed_chunk].shard].name,
                              strerror(p.failed_errno));
    char size[24], rate[24];
    proa_log(PROA_LOG_INFO, "model", "read %s of weights from %zu file%s in %.2f s (%s/s)",
             proa_format_bytes((double)bytes, size), checkpoint->shards.shard_count,
             checkpoint->shards.shard_count == 1 ? "" : "s", seconds,
             proa_format_bytes((double)bytes / seconds, rate));
    return PROA_OK;
}

proa_status proa_checkpoint_page_in(proa_checkpoint *checkpoint, proa_error *err)
{
    const proa_shards *shards = &checkpoint->shards;
    char size[24];
    if (!fits_in_memory(checkpoint->weights.bytes)) {
        proa_log(PROA_LOG_WARN, "model",
                 "%s of weights do not fit into this machine's memory: left on disk, slow",
                 proa_format_bytes((double)checkpoint->weights.bytes, size));
        return PROA_OK;
    }
    const proa_shard_tensor **served = calloc(shards->tensor_count + 1, sizeof served[0]);
    size_t count = 0;
    uint64_t bytes = 0;
    for (size_t i = 0; served != NULL && i < shards->tensor_count; i++) {
        if (shards->tensors[i].served) {
            served[count++] = &shards->tensors[i];
            bytes += shards->tensors[i].tensor->bytes;
        }
    }
    chunk *chunks = NULL;
    int chunk_count = 0;
    if (served != NULL) {
        qsort(served, count, sizeof served[0], compare_data);
        chunk_count = cut(served, count, NULL);
        chunks = calloc((size_t)chunk_count + 1, sizeof chunks[0]);
    }
    proa_status status;
    if (chunks == NULL) {
        status = proa_error_set(err, PROA_ERR_MEMORY, "%s: no memory left to load it", checkpoint->dir);
    } else {
        cut(served, count, chunks);
        status = read_chunks(checkpoint, chunks, chunk_count, bytes, err);
    }
    free(chunks);
    free(served);
    return status;
}
