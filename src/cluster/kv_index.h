/* kv_index.h - which worker holds which prefixes, learnt from the workers' KV events.
 *
 * A block of 64 tokens is named by the chained digest of all tokens up to its end (engine.h, proa_kv_event_hook), so a set of
 * names for each worker tells how much of a prompt it has. Events may be repeated, lost or late: the index is a hint for
 * routing and nothing else depends on it.
 *
 * Memory: at most PROA_KV_INDEX_ENTRIES_MAX names (one entry for all workers that hold it: 48 bytes and its share of the buckets, 52 MiB
 * in all), and for each worker no more names than it has blocks; what does not fit is not recorded. Pure; one owner
 * thread; matching allocates nothing.
 */
#ifndef PROA_CLUSTER_KV_INDEX_H
#define PROA_CLUSTER_KV_INDEX_H

#include <stdbool.h>
#include <stdint.h>

enum {
    PROA_KV_INDEX_WORKERS_MAX = 256,
    PROA_KV_INDEX_WORDS = PROA_KV_INDEX_WORKERS_MAX / 64,
    PROA_KV_INDEX_ENTRIES_MAX = 1 << 20,
};

typedef struct proa_kv_index proa_kv_index;

/* A set of workers. */
typedef struct proa_kv_index_set {
    uint64_t words[PROA_KV_INDEX_WORDS];
} proa_kv_index_set;

static inline void proa_kv_index_set_add(proa_kv_index_set *set, int32_t worker)
{
    set->words[worker / 64] |= 1ull << (worker % 64);
}

static inline bool proa_kv_index_set_has(const proa_kv_index_set *set, int32_t worker)
{
    return (set->words[worker / 64] >> (worker % 64) & 1) != 0;
}

proa_kv_index *proa_kv_index_create(void);     /* NULL when memory is out */
void proa_kv_index_free(proa_kv_index *index); /* accepts NULL */

/* Forgets what `worker` (0 .. WORKERS_MAX - 1) held. */
void proa_kv_index_forget(proa_kv_index *index, int32_t worker);
/* The same; from now on at most `blocks_max` names of it are recorded (0 until the first call). */
void proa_kv_index_reset(proa_kv_index *index, int32_t worker, int32_t blocks_max);
void proa_kv_index_store(proa_kv_index *index, int32_t worker, uint64_t hash);
void proa_kv_index_remove(proa_kv_index *index, int32_t worker, uint64_t hash);

/* depths[w] = how many blocks of the prompt, from its start, worker w of `among` holds; 0 for the others. */
void proa_kv_index_match(const proa_kv_index *index, const proa_kv_index_set *among, const int32_t *ids,
                         int32_t count, int32_t depths[PROA_KV_INDEX_WORKERS_MAX]);

int32_t proa_kv_index_entries(const proa_kv_index *index);                /* names known, of any worker */
int32_t proa_kv_index_blocks(const proa_kv_index *index, int32_t worker); /* of one worker */

#endif
