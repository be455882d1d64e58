/* kv_index.c - a chained hash table from block names to sets of workers. Entries lie in one array that doubles up to the bound;
 * chains and the list of free entries are indices into it. */
#include "cluster/kv_index.h"

#include "base/digest.h"
#include "base/status.h"
#include "op/tensor.h"

#include <stdlib.h>
#include <string.h>

enum { ENTRIES_FIRST = 1 << 10, NONE = -1, BLOCK = PROA_KV_BLOCK_TOKENS };

typedef struct index_entry {
    uint64_t hash;
    proa_kv_index_set holders; /* never empty while in a chain */
    int32_t next;              /* in the chain, or in the list of free ones */
} index_entry;

struct proa_kv_index {
    index_entry *entries; /* [capacity] */
    int32_t *buckets;     /* [capacity]: the first of a chain, or NONE */
    int32_t capacity;     /* a power of two */
    int32_t used;
    int32_t first_free;
    int32_t blocks[PROA_KV_INDEX_WORKERS_MAX];
    int32_t blocks_max[PROA_KV_INDEX_WORKERS_MAX];
};

static int32_t *bucket_of(const proa_kv_index *index, uint64_t hash)
{
    return &index->buckets[(hash * 0x9E3779B97F4A7C15u) >> 32 & (uint64_t)(index->capacity - 1)];
}

static void link_free(proa_kv_index *index, int32_t first)
{
    for (int32_t i = index->capacity - 1; i >= first; i--) {
        index->entries[i].next = index->first_free;
        index->first_free = i;
    }
}

proa_kv_index *proa_kv_index_create(void)
{
    proa_kv_index *index = calloc(1, sizeof *index);
    if (index == NULL)
        return NULL;
    index->capacity = ENTRIES_FIRST;
    index->entries = malloc((size_t)index->capacity * sizeof *index->entries);
    index->buckets = malloc((size_t)index->capacity * sizeof *index->buckets);
    if (index->entries == NULL || index->buckets == NULL) {
        proa_kv_index_free(index);
        return NULL;
    }
    memset(index->buckets, 0xff, (size_t)index->capacity * sizeof *index->buckets);
    index->first_free = NONE;
    link_free(index, 0);
    return index;
}

void proa_kv_index_free(proa_kv_index *index)
{
    if (index == NULL)
        return;
    free(index->entries);
    free(index->buckets);
    free(index);
}

/* Doubles; false at the bound or when memory is out. */
static bool grow(proa_kv_index *index)
{
    int32_t before = index->capacity, capacity = 2 * before;
    if (capacity > PROA_KV_INDEX_ENTRIES_MAX)
        return false;
    int32_t *buckets = malloc((size_t)capacity * sizeof *buckets);
    index_entry *entries = realloc(index->entries, (size_t)capacity * sizeof *entries);
    if (entries != NULL)
        index->entries = entries;
    if (entries == NULL || buckets == NULL) {
        free(buckets);
        return false;
    }
    free(index->buckets);
    index->buckets = buckets;
    index->capacity = capacity;
    memset(buckets, 0xff, (size_t)capacity * sizeof *buckets);
    for (int32_t i = 0; i < before; i++) { /* called with no entry free: all are in chains */
        int32_t *bucket = bucket_of(index, entries[i].hash);
        entries[i].next = *bucket;
        *bucket = i;
    }
    link_free(index, before);
    return true;
}

/* Where the entry's number stands (in its bucket or in the entry before it); *place is NONE when it is absent. */
static int32_t *find(const proa_kv_index *index, uint64_t hash)
{
    int32_t *place = bucket_of(index, hash);
    while (*place != NONE && index->entries[*place].hash != hash)
        place = &index->entries[*place].next;
    return place;
}

void proa_kv_index_store(proa_kv_index *index, int32_t worker, uint64_t hash)
{
    int32_t number = *find(index, hash);
    if (number != NONE && proa_kv_index_set_has(&index->entries[number].holders, worker))
        return;
    if (index->blocks[worker] >= index->blocks_max[worker])
        return;
    if (number == NONE) {
        if (index->first_free == NONE && !grow(index))
            return;
        number = index->first_free;
        index_entry *entry = &index->entries[number];
        index->first_free = entry->next;
        int32_t *bucket = bucket_of(index, hash);
        *entry = (index_entry){.hash = hash, .next = *bucket};
        *bucket = number;
        index->used++;
    }
    proa_kv_index_set_add(&index->entries[number].holders, worker);
    index->blocks[worker]++;
}

/* Takes the worker out of the entry at *place; true when the entry has gone and another one stands there. */
static bool drop(proa_kv_index *index, int32_t *place, int32_t worker)
{
    int32_t number = *place;
    index_entry *entry = &index->entries[number];
    if (!proa_kv_index_set_has(&entry->holders, worker))
        return false;
    entry->holders.words[worker / 64] &= ~(1ull << (worker % 64));
    index->blocks[worker]--;
    for (int i = 0; i < PROA_KV_INDEX_WORDS; i++) {
        if (entry->holders.words[i] != 0)
            return false;
    }
    *place = entry->next;
    entry->next = index->first_free;
    index->first_free = number;
    index->used--;
    return true;
}

void proa_kv_index_remove(proa_kv_index *index, int32_t worker, uint64_t hash)
{
    int32_t *place = find(index, hash);
    if (*place != NONE)
        drop(index, place, worker);
}

void proa_kv_index_forget(proa_kv_index *index, int32_t worker)
{
    for (int32_t b = 0; b < index->capacity && index->blocks[worker] > 0; b++) {
        for (int32_t *place = &index->buckets[b]; *place != NONE;) {
            if (!drop(index, place, worker))
                place = &index->entries[*place].next;
        }
    }
    PROA_ASSERT(index->blocks[worker] == 0);
}

void proa_kv_index_reset(proa_kv_index *index, int32_t worker, int32_t blocks_max)
{
    PROA_ASSERT(worker >= 0 && worker < PROA_KV_INDEX_WORKERS_MAX);
    proa_kv_index_forget(index, worker);
    index->blocks_max[worker] = blocks_max;
}

void proa_kv_index_match(const proa_kv_index *index, const proa_kv_index_set *among, const int32_t *ids,
                         int32_t count, int32_t depths[PROA_KV_INDEX_WORKERS_MAX])
{
    memset(depths, 0, PROA_KV_INDEX_WORKERS_MAX * sizeof *depths);
    proa_kv_index_set left = *among;
    uint64_t hash = 0;
    for (int32_t block = 0; block < count / BLOCK; block++) {
        hash = proa_digest(ids + (size_t)block * BLOCK, BLOCK * sizeof *ids, hash);
        int32_t number = *find(index, hash);
        if (number == NONE)
            return;
        uint64_t any = 0;
        for (int i = 0; i < PROA_KV_INDEX_WORDS; i++) {
            left.words[i] &= index->entries[number].holders.words[i];
            any |= left.words[i];
            for (uint64_t w = left.words[i]; w != 0; w &= w - 1)
                depths[i * 64 + __builtin_ctzll(w)] = block + 1;
        }
        if (any == 0)
            return;
    }
}

int32_t proa_kv_index_entries(const proa_kv_index *index)
{
    return index->used;
}

int32_t proa_kv_index_blocks(const proa_kv_index *index, int32_t worker)
{
    return index->blocks[worker];
}
