/* prefix_cache.h - which KV blocks hold the keys of which prompt beginnings, so that they are computed once.
 *
 * A radix tree over token ids whose edges are KV blocks: a node is one block, keyed by the (up to) 64 tokens it
 * covers, below the node of the 64 tokens before. Siblings are kept in order of their tokens, and none is a
 * prefix of another, so the sibling with the longest common beginning is found in logarithmic time.
 *
 * What may be in the tree (law 2: a run with the cache gives the bits of a run without):
 * - only PROMPT tokens, computed by prefill in the expanded form of attention. Rows of generated tokens come from
 *   the absorbed form and differ in bits from what a prefill of the same tokens gives; they are never shared.
 * - only blocks that nobody writes any more. A full block of prompt tokens enters when it is computed. The last,
 *   partial block of a prompt goes on to receive generated tokens, so it enters only when its request lets go of
 *   it: then rows 0 .. count - 1 are prompt, what follows is never read.
 *
 * What a match gives: whole blocks, which the request shares and reads only, then, when page_size < 64 and the match
 * ends inside a block, the rows of that block to be COPIED into a fresh block of the request. A block that is
 * shared is never written, a block that is written is never shared.
 *
 * Locks: a request locks the deepest node that it shares; that locks the path to the root. What is unlocked is held
 * by the tree alone and can be evicted, least recently used first, leaves before their parents.
 *
 * Others may be told which whole blocks are here (proa_kv_event_hook): a block's name is the digest of its tokens chained
 * with that of the block before, so it says all tokens up to its end.
 * Lifetime: the engine's; memory is taken at creation only (as many nodes as blocks). Owner: the engine thread.
 */
#ifndef PROA_ENGINE_PREFIX_CACHE_H
#define PROA_ENGINE_PREFIX_CACHE_H

#include "engine/engine.h"
#include "engine/kv_blocks.h"

typedef struct proa_prefix_cache proa_prefix_cache;

typedef struct proa_prefix_match {
    int32_t tokens;              /* matched, a multiple of page_size: 64 * block_count + partial_tokens */
    int32_t node;                /* deepest node whose block is shared, or the root */
    int32_t block_count;         /* whole blocks shared */
    int32_t partial_node;        /* where partial_block stands; meaningful when partial_tokens > 0 */
    int32_t partial_tokens;      /* rows to copy from partial_block, 0 .. 63 */
    proa_kv_block partial_block; /* valid until the next eviction */
} proa_prefix_match;

/* Borrows `blocks`. page_size is 1 .. 64. NULL when memory is out. */
proa_prefix_cache *proa_prefix_cache_create(proa_kv_blocks *blocks, int32_t page_size);
void proa_prefix_cache_free(proa_prefix_cache *cache); /* accepts NULL; drops no reference */

/* From now on `hook` is called with each whole block that enters or leaves; it must not call back. NULL: nobody. */
void proa_prefix_cache_watch(proa_prefix_cache *cache, proa_kv_event_hook hook, void *context);

int32_t proa_prefix_cache_root(const proa_prefix_cache *cache);

/* The longest cached beginning of tokens[0 .. count - 1]. Changes nothing, not even recency. */
proa_prefix_match proa_prefix_cache_match(const proa_prefix_cache *cache, const int32_t *tokens,
                                          int32_t count);

/* Locks the match's path, takes a reference of each of its block_count blocks for the caller and stores them in
 * order; marks the partial block as used just now. */
void proa_prefix_cache_acquire(proa_prefix_cache *cache, const proa_prefix_match *match, proa_kv_block *held);

/* Puts a full block of prompt tokens below `node`, which the caller has locked, and moves the caller's lock to the
 * new node, which is returned. When these tokens are there already, the caller's reference of *block is exchanged
 * for one of the block in the tree (their bits are equal, law 2). */
int32_t proa_prefix_cache_extend(proa_prefix_cache *cache, int32_t node, const int32_t *tokens,
                                 proa_kv_block *block);

/* Puts a block whose first `count` (1 .. 63) rows are prompt tokens below `node`, unlocked. The caller is about to
 * drop its own reference and never writes the block again. */
void proa_prefix_cache_add_tail(proa_prefix_cache *cache, int32_t node, const int32_t *tokens, int32_t count,
                                proa_kv_block block);

/* Ends a lock that acquire (or extend) gave. The caller drops its references of the blocks afterwards. */
void proa_prefix_cache_unlock(proa_prefix_cache *cache, int32_t node);

/* Blocks that evict could free, one a call. */
int32_t proa_prefix_cache_evictable(const proa_prefix_cache *cache);

/* Frees the least recently used block. False when everything is locked. */
bool proa_prefix_cache_evict(proa_prefix_cache *cache);

/* Changes whenever the answer of a match may: what was matched under the same version need not be matched again. */
uint64_t proa_prefix_cache_version(const proa_prefix_cache *cache); /* from 1 */

int32_t proa_prefix_cache_nodes(const proa_prefix_cache *cache);

/* Asserts what must hold of tree, order and list. For tests: walks everything. */
void proa_prefix_cache_check(const proa_prefix_cache *cache);

#endif
