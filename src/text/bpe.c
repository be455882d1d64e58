/* bpe.c - the word cache and the two ways to merge.
 *
 * Words have few bytes, and a text has few words: nearly every word is found in a direct-mapped cache whose entries
 * are one cache line each. Rank and result of each pair are looked up once and kept beside the pair's left symbol.
 *
 * Long words: symbols form a list (next, previous); the heap holds (rank, position) for pairs that existed when they
 * were pushed. An entry is stale when its left symbol is gone or has another rank by now. The text under a
 * pair only ever grows, so a stale entry cannot name a rank that is current again.
 */
#include "text/bpe.h"

#include "base/digest.h"

#include <stdlib.h>
#include <string.h>

enum {
    CACHE_ENTRIES = 1 << 14,
    CACHED_BYTES = 26,
    CACHED_IDS = 9,
    SCANNED_BYTES = 48,     /* up to here, scanning beats the heap */
    KEPT_SYMBOLS = 1 << 16, /* memory for longer words is given back */
};
#define NO_RANK UINT32_MAX

typedef struct entry {
    uint8_t length; /* 0: empty */
    uint8_t count;
    char bytes[CACHED_BYTES];
    int32_t ids[CACHED_IDS];
} entry;
_Static_assert(sizeof(entry) == 64, "an entry is a cache line");

/* A symbol and the pair that it begins. */
typedef struct symbol {
    int32_t id;     /* -1: merged into its left neighbour */
    uint32_t rank;  /* of the pair (this, next), NO_RANK for none */
    int32_t merged; /* what that pair becomes */
    uint32_t next;
    uint32_t previous;
} symbol;

struct proa_bpe {
    const proa_bpe_model *model;
    entry *cache; /* cache lines inside cache_memory */
    void *cache_memory;
    symbol *symbols;
    size_t symbol_capacity;
    uint64_t *heap; /* rank << 32 | position, smallest first */
    size_t heap_count;
    size_t heap_capacity;
};

proa_bpe *proa_bpe_create(const proa_bpe_model *model)
{
    proa_bpe *bpe = calloc(1, sizeof *bpe);
    if (bpe == NULL)
        return NULL;
    bpe->model = model;
    /* calloc: a short text touches, and the kernel clears, few of the pages */
    bpe->cache_memory = calloc(CACHE_ENTRIES + 1, sizeof *bpe->cache);
    if (bpe->cache_memory == NULL) {
        free(bpe);
        return NULL;
    }
    uintptr_t address = (uintptr_t)bpe->cache_memory;
    bpe->cache = (entry *)((address + sizeof *bpe->cache - 1) / sizeof *bpe->cache * sizeof *bpe->cache);
    return bpe;
}

void proa_bpe_free(proa_bpe *bpe)
{
    if (bpe == NULL)
        return;
    free(bpe->cache_memory);
    free(bpe->symbols);
    free(bpe->heap);
    free(bpe);
}

/* Sets the pair that `left` begins. */
static void set_pair(const proa_bpe *bpe, symbol *left, int32_t right_id)
{
    const proa_merge *merge = proa_vocab_merge(&bpe->model->vocab, left->id, right_id);
    left->rank = merge != NULL ? merge->rank : NO_RANK;
    left->merged = merge != NULL ? merge->id : -1;
}

/* First symbols: one a byte. Returns how many; at most `length`. */
static size_t split_bytes(const proa_bpe *bpe, const char *word, size_t length, symbol *symbols)
{
    const proa_bpe_model *model = bpe->model;
    size_t n = 0;
    bool in_unknown = false;
    for (size_t i = 0; i < length; i++) {
        int32_t id = model->vocab.byte_ids[(unsigned char)word[i]];
        if (id < 0) {
            if (model->unknown_id < 0 || (in_unknown && model->fuse_unknown))
                continue;
            id = model->unknown_id;
            in_unknown = true;
        } else {
            in_unknown = false;
        }
        symbols[n++].id = id;
    }
    return n;
}

static size_t merge_scanning(const proa_bpe *bpe, symbol *symbols, size_t n)
{
    for (size_t i = 0; i + 1 < n; i++)
        set_pair(bpe, &symbols[i], symbols[i + 1].id);
    while (n > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < n; i++) {
            if (symbols[i].rank < symbols[best].rank)
                best = i;
        }
        if (symbols[best].rank == NO_RANK)
            break;
        symbols[best].id = symbols[best].merged;
        n--;
        memmove(&symbols[best + 1], &symbols[best + 2], (n - best - 1) * sizeof *symbols);
        if (best + 1 < n)
            set_pair(bpe, &symbols[best], symbols[best + 1].id);
        if (best > 0)
            set_pair(bpe, &symbols[best - 1], symbols[best].id);
    }
    return n;
}

/* --- the heap --- */

static void sift_down(uint64_t *heap, size_t count, size_t i)
{
    uint64_t moving = heap[i];
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= count)
            break;
        if (child + 1 < count && heap[child + 1] < heap[child])
            child++;
        if (heap[child] >= moving)
            break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = moving;
}

static void heap_push(proa_bpe *bpe, uint32_t rank, uint32_t position)
{
    uint64_t value = (uint64_t)rank << 32 | position;
    PROA_ASSERT(bpe->heap_count < bpe->heap_capacity);
    size_t i = bpe->heap_count++;
    while (i > 0 && bpe->heap[(i - 1) / 2] > value) {
        bpe->heap[i] = bpe->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    bpe->heap[i] = value;
}

static uint64_t heap_pop(proa_bpe *bpe)
{
    uint64_t top = bpe->heap[0];
    bpe->heap[0] = bpe->heap[--bpe->heap_count];
    if (bpe->heap_count > 0)
        sift_down(bpe->heap, bpe->heap_count, 0);
    return top;
}

static void set_pair_and_push(proa_bpe *bpe, symbol *symbols, uint32_t left)
{
    symbol *s = &symbols[left];
    set_pair(bpe, s, symbols[s->next].id);
    if (s->rank != NO_RANK)
        heap_push(bpe, s->rank, left);
}

static void merge_one(proa_bpe *bpe, symbol *symbols, uint32_t n, uint32_t left)
{
    symbol *s = &symbols[left], *gone = &symbols[s->next];
    s->id = s->merged;
    s->rank = NO_RANK;
    s->next = gone->next;
    gone->id = -1;
    gone->rank = NO_RANK;
    if (s->next < n) {
        symbols[s->next].previous = left;
        set_pair_and_push(bpe, symbols, left);
    }
    if (left > 0)
        set_pair_and_push(bpe, symbols, s->previous);
}

static size_t merge_with_heap(proa_bpe *bpe, symbol *symbols, size_t count)
{
    uint32_t n = (uint32_t)count;
    bpe->heap_count = 0;
    for (uint32_t i = 0; i < n; i++) {
        symbols[i].next = i + 1;
        symbols[i].previous = i - 1; /* unused in the first */
        symbols[i].rank = NO_RANK;
        if (i + 1 < n)
            set_pair(bpe, &symbols[i], symbols[i + 1].id);
        if (symbols[i].rank != NO_RANK)
            bpe->heap[bpe->heap_count++] = (uint64_t)symbols[i].rank << 32 | i;
    }
    for (size_t i = bpe->heap_count / 2; i > 0; i--)
        sift_down(bpe->heap, bpe->heap_count, i - 1);
    while (bpe->heap_count > 0) {
        uint64_t top = heap_pop(bpe);
        uint32_t left = (uint32_t)top;
        if (symbols[left].rank == top >> 32)
            merge_one(bpe, symbols, n, left);
    }
    size_t kept = 0;
    for (uint32_t i = 0; i < n; i = symbols[i].next)
        symbols[kept++].id = symbols[i].id; /* kept <= i, and `next` stays as it is */
    return kept;
}

/* --- one word --- */

static bool reserve_symbols(proa_bpe *bpe, size_t n)
{
    if (n <= bpe->symbol_capacity)
        return true;
    free(bpe->symbols);
    free(bpe->heap);
    /* each merge removes a symbol and pushes at most two entries */
    bpe->symbols = malloc(n * sizeof *bpe->symbols);
    bpe->heap = malloc(3 * n * sizeof *bpe->heap);
    bpe->symbol_capacity = bpe->symbols != NULL && bpe->heap != NULL ? n : 0;
    bpe->heap_capacity = 3 * bpe->symbol_capacity;
    return bpe->symbol_capacity > 0;
}

static bool push_symbols(const symbol *symbols, size_t n, proa_ids *ids)
{
    for (size_t i = 0; i < n; i++) {
        if (!proa_ids_push(ids, symbols[i].id))
            return false;
    }
    return true;
}

static bool encode_long(proa_bpe *bpe, const char *word, size_t length, proa_ids *ids)
{
    if (!reserve_symbols(bpe, length))
        return false;
    size_t n = split_bytes(bpe, word, length, bpe->symbols);
    n = merge_with_heap(bpe, bpe->symbols, n);
    bool pushed = push_symbols(bpe->symbols, n, ids);
    if (bpe->symbol_capacity > KEPT_SYMBOLS) {
        free(bpe->symbols);
        free(bpe->heap);
        bpe->symbols = NULL;
        bpe->heap = NULL;
        bpe->symbol_capacity = bpe->heap_capacity = 0;
    }
    return pushed;
}

static bool encode_uncached(proa_bpe *bpe, const char *word, size_t length, proa_ids *ids)
{
    if (bpe->model->ignore_merges) {
        int32_t id = proa_vocab_find_bytes(&bpe->model->vocab, word, length, false);
        if (id >= 0)
            return proa_ids_push(ids, id);
    }
    if (length > SCANNED_BYTES)
        return encode_long(bpe, word, length, ids);
    symbol symbols[SCANNED_BYTES];
    size_t n = split_bytes(bpe, word, length, symbols);
    n = merge_scanning(bpe, symbols, n);
    return push_symbols(symbols, n, ids);
}

bool proa_bpe_encode(proa_bpe *bpe, const char *word, size_t length, proa_ids *ids)
{
    PROA_ASSERT(length < (size_t)1 << 31);
    if (length == 0)
        return true;
    if (length > CACHED_BYTES)
        return encode_uncached(bpe, word, length, ids);
    entry *e = &bpe->cache[proa_digest(word, length, 0) % CACHE_ENTRIES];
    if (e->length == length && memcmp(e->bytes, word, length) == 0) {
        for (size_t i = 0; i < e->count; i++) {
            if (!proa_ids_push(ids, e->ids[i]))
                return false;
        }
        return true;
    }
    size_t before = ids->count;
    if (!encode_uncached(bpe, word, length, ids))
        return false;
    size_t count = ids->count - before;
    if (count <= CACHED_IDS) {
        e->length = (uint8_t)length;
        e->count = (uint8_t)count;
        memcpy(e->bytes, word, length);
        if (count > 0)
            memcpy(e->ids, ids->data + before, count * sizeof *e->ids);
    }
    return true;
}
