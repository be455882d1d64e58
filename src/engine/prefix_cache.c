/* prefix_cache.c - the tree, its locks and its order of eviction; see prefix_cache.h for what may be in it.
 *
 * Siblings form a treap (a search tree by tokens, a heap by a fixed hash of the node's number), rooted in their
 * parent. Unlocked nodes form one list from the least to the most recently used. Each operation appends a path
 * from its deepest node upwards, so a parent always stands behind its unlocked children and the list's
 * first node has none: eviction takes it in constant time.
 *
 * The root is the node after the last; in the list it is the sentinel.
 */
#include "engine/prefix_cache.h"

#include "base/digest.h"

#include <stdlib.h>
#include <string.h>

enum { BLOCK = PROA_KV_BLOCK_TOKENS, NONE = -1 };

typedef struct tree_node {
    int32_t tokens[BLOCK];
    int32_t count; /* tokens; below 64 only in a leaf */
    int32_t parent;
    int32_t children;    /* root of the treap of children, or NONE */
    int32_t left, right; /* in the treap of siblings; `left` also links free nodes */
    int32_t older, newer;
    int32_t locks;   /* requests that share this block */
    uint64_t digest; /* of a whole block and all before it; the root's is 0 */
    proa_kv_block block;
} tree_node;

struct proa_prefix_cache {
    proa_kv_blocks *blocks;
    int32_t page_size;
    int32_t root; /* number of nodes */
    int32_t first_free;
    int32_t used;
    int32_t evictable;
    uint64_t version;
    proa_kv_event_hook hook; /* may be NULL */
    void *hook_context;
    tree_node *nodes; /* [root + 1] */
};

proa_prefix_cache *proa_prefix_cache_create(proa_kv_blocks *blocks, int32_t page_size)
{
    PROA_ASSERT(page_size >= 1 && page_size <= BLOCK);
    proa_prefix_cache *cache = calloc(1, sizeof *cache);
    if (cache == NULL)
        return NULL;
    cache->blocks = blocks;
    cache->page_size = page_size;
    cache->version = 1;
    cache->root = proa_kv_blocks_total(blocks);
    cache->nodes = calloc((size_t)cache->root + 1, sizeof *cache->nodes);
    if (cache->nodes == NULL) {
        free(cache);
        return NULL;
    }
    for (int32_t i = 0; i < cache->root; i++)
        cache->nodes[i].left = i + 1 < cache->root ? i + 1 : NONE;
    tree_node *root = &cache->nodes[cache->root];
    root->parent = root->children = NONE;
    root->older = root->newer = cache->root;
    return cache;
}

void proa_prefix_cache_free(proa_prefix_cache *cache)
{
    if (cache == NULL)
        return;
    free(cache->nodes);
    free(cache);
}

void proa_prefix_cache_watch(proa_prefix_cache *cache, proa_kv_event_hook hook, void *context)
{
    cache->hook = hook;
    cache->hook_context = context;
}

int32_t proa_prefix_cache_root(const proa_prefix_cache *cache)
{
    return cache->root;
}

int32_t proa_prefix_cache_evictable(const proa_prefix_cache *cache)
{
    return cache->evictable;
}

uint64_t proa_prefix_cache_version(const proa_prefix_cache *cache)
{
    return cache->version;
}

int32_t proa_prefix_cache_nodes(const proa_prefix_cache *cache)
{
    return cache->used;
}

/* ---- order of use ---- */

static void list_remove(proa_prefix_cache *cache, int32_t n)
{
    tree_node *node = &cache->nodes[n];
    cache->nodes[node->older].newer = node->newer;
    cache->nodes[node->newer].older = node->older;
    cache->evictable--;
}

static void list_append(proa_prefix_cache *cache, int32_t n)
{
    tree_node *node = &cache->nodes[n], *sentinel = &cache->nodes[cache->root];
    node->older = sentinel->older;
    node->newer = cache->root;
    cache->nodes[sentinel->older].newer = n;
    sentinel->older = n;
    cache->evictable++;
}

static void lock_node(proa_prefix_cache *cache, int32_t n)
{
    if (cache->nodes[n].locks++ == 0)
        list_remove(cache, n);
}

void proa_prefix_cache_unlock(proa_prefix_cache *cache, int32_t node)
{
    for (int32_t n = node; n != cache->root; n = cache->nodes[n].parent) {
        PROA_ASSERT(cache->nodes[n].locks > 0);
        if (--cache->nodes[n].locks == 0)
            list_append(cache, n);
    }
}

/* ---- siblings ---- */

/* A mix of the node's number: the treap's shape must not follow the order of tokens. */
static uint32_t priority(int32_t n)
{
    uint32_t x = (uint32_t)n * 0x9E3779B9u;
    x ^= x >> 15;
    x *= 0x85EBCA6Bu;
    return x ^ x >> 13;
}

static int32_t common(const int32_t *a, const int32_t *b, int32_t count)
{
    int32_t i = 0;
    while (i < count && a[i] == b[i])
        i++;
    return i;
}

/* Does `tokens` stand before the node? Only asked where neither is a prefix of the other. */
static bool stands_before(const proa_prefix_cache *cache, const int32_t *tokens, int32_t count, int32_t n)
{
    const tree_node *node = &cache->nodes[n];
    int32_t least = count < node->count ? count : node->count;
    int32_t same = common(tokens, node->tokens, least);
    PROA_ASSERT(same < least);
    return tokens[same] < node->tokens[same];
}

static void siblings_insert(proa_prefix_cache *cache, int32_t parent, int32_t n)
{
    tree_node *nodes = cache->nodes, *node = &nodes[n];
    int32_t *link = &nodes[parent].children;
    while (*link != NONE && priority(*link) >= priority(n))
        link =
            stands_before(cache, node->tokens, node->count, *link) ? &nodes[*link].left : &nodes[*link].right;
    int32_t rest = *link;
    *link = n;
    int32_t *less = &node->left, *more = &node->right; /* split what stood here around the new node */
    while (rest != NONE) {
        if (stands_before(cache, node->tokens, node->count, rest)) {
            *more = rest;
            more = &nodes[rest].left;
            rest = *more;
        } else {
            *less = rest;
            less = &nodes[rest].right;
            rest = *less;
        }
    }
    *less = *more = NONE;
}

static void siblings_remove(proa_prefix_cache *cache, int32_t n)
{
    tree_node *nodes = cache->nodes, *node = &nodes[n];
    int32_t *link = &nodes[node->parent].children;
    while (*link != n) {
        PROA_ASSERT(*link != NONE);
        link =
            stands_before(cache, node->tokens, node->count, *link) ? &nodes[*link].left : &nodes[*link].right;
    }
    int32_t less = node->left, more = node->right;
    while (less != NONE && more != NONE) {
        if (priority(less) >= priority(more)) {
            *link = less;
            link = &nodes[less].right;
            less = *link;
        } else {
            *link = more;
            link = &nodes[more].left;
            more = *link;
        }
    }
    *link = less != NONE ? less : more;
}

/* The child of `parent` that has the longest beginning in common with tokens[0 .. count - 1], and its length.
 * It lies on the search path, since a neighbour in the order does. */
static int32_t best_child(const proa_prefix_cache *cache, int32_t parent, const int32_t *tokens,
                          int32_t count, int32_t *length)
{
    int32_t best = NONE;
    *length = 0;
    for (int32_t n = cache->nodes[parent].children; n != NONE;) {
        const tree_node *node = &cache->nodes[n];
        int32_t least = count < node->count ? count : node->count;
        int32_t same = common(tokens, node->tokens, least);
        if (same > *length) {
            *length = same;
            best = n;
        }
        if (same == least)
            break; /* one is a prefix of the other: nothing is longer */
        n = tokens[same] < node->tokens[same] ? node->left : node->right;
    }
    return best;
}

/* ---- the tree ---- */

proa_prefix_match proa_prefix_cache_match(const proa_prefix_cache *cache, const int32_t *tokens,
                                          int32_t count)
{
    int32_t depth = 0, length = 0, node = cache->root, last = NONE;
    while (depth * BLOCK < count) {
        int32_t rest = count - depth * BLOCK;
        int32_t child = best_child(cache, node, tokens + depth * BLOCK, rest < BLOCK ? rest : BLOCK, &length);
        if (child == NONE || length < BLOCK) {
            last = child;
            break;
        }
        node = child;
        depth++;
        length = 0;
    }
    proa_prefix_match match = {.tokens = depth * BLOCK + length};
    match.tokens -= match.tokens % cache->page_size;
    match.block_count = match.tokens / BLOCK;
    match.partial_tokens = match.tokens % BLOCK;
    for (; depth > match.block_count; depth--) { /* rounding took the last whole block away */
        last = node;
        node = cache->nodes[node].parent;
    }
    match.node = node;
    match.partial_node = match.partial_tokens > 0 ? last : NONE;
    if (match.partial_tokens > 0)
        match.partial_block = cache->nodes[last].block;
    return match;
}

void proa_prefix_cache_acquire(proa_prefix_cache *cache, const proa_prefix_match *match, proa_kv_block *held)
{
    int32_t i = match->block_count;
    for (int32_t n = match->node; n != cache->root; n = cache->nodes[n].parent) {
        lock_node(cache, n);
        held[--i] = cache->nodes[n].block;
        proa_kv_blocks_hold(cache->blocks, held[i]);
    }
    PROA_ASSERT(i == 0);
    /* its parent is locked now and will be appended behind it */
    if (match->partial_tokens > 0 && cache->nodes[match->partial_node].locks == 0) {
        list_remove(cache, match->partial_node);
        list_append(cache, match->partial_node);
    }
}

static void tell(const proa_prefix_cache *cache, bool stored, const tree_node *node)
{
    if (cache->hook != NULL && node->count == BLOCK)
        cache->hook(cache->hook_context, stored, node->digest);
}

/* The node's block holds these tokens from now on. */
static void fill(proa_prefix_cache *cache, tree_node *node, const int32_t *tokens, int32_t count,
                 proa_kv_block block)
{
    memcpy(node->tokens, tokens, (size_t)count * sizeof *tokens);
    node->count = count;
    node->block = block;
    if (count == BLOCK)
        node->digest = proa_digest(node->tokens, sizeof node->tokens, cache->nodes[node->parent].digest);
    proa_kv_blocks_hold(cache->blocks, block);
    cache->version++;
    tell(cache, true, node);
}

/* A node for tokens[0 .. count - 1] below parent, in the list, the tree holding the block. */
static int32_t add(proa_prefix_cache *cache, int32_t parent, const int32_t *tokens, int32_t count,
                   proa_kv_block block)
{
    int32_t n = cache->first_free;
    PROA_ASSERT(n != NONE); /* each node holds a block of its own, and there are as many of both */
    tree_node *node = &cache->nodes[n];
    cache->first_free = node->left;
    cache->used++;
    node->parent = parent;
    node->children = NONE;
    node->locks = 0;
    fill(cache, node, tokens, count, block);
    siblings_insert(cache, parent, n);
    list_append(cache, n);
    return n;
}

/* A longer run of tokens takes the place of a tail that is its prefix. The tail is unlocked, as tails always are,
 * and keeps its place among its siblings: they differ from both in the same token. */
static void replace_tail(proa_prefix_cache *cache, int32_t n, const int32_t *tokens, int32_t count,
                         proa_kv_block block)
{
    tree_node *node = &cache->nodes[n];
    PROA_ASSERT(node->locks == 0);
    PROA_ASSERT(node->children == NONE);
    proa_kv_block old = node->block;
    fill(cache, node, tokens, count, block);
    proa_kv_blocks_drop(cache->blocks, old);
    list_remove(cache, n);
    list_append(cache, n);
}

int32_t proa_prefix_cache_extend(proa_prefix_cache *cache, int32_t node, const int32_t *tokens,
                                 proa_kv_block *block)
{
    int32_t length = 0;
    int32_t n = best_child(cache, node, tokens, BLOCK, &length);
    if (n != NONE && length == BLOCK) {
        proa_kv_blocks_hold(cache->blocks, cache->nodes[n].block);
        proa_kv_blocks_drop(cache->blocks, *block);
        *block = cache->nodes[n].block;
    } else if (n != NONE && length == cache->nodes[n].count) {
        replace_tail(cache, n, tokens, BLOCK, *block);
    } else {
        n = add(cache, node, tokens, BLOCK, *block);
    }
    lock_node(cache, n);
    return n;
}

void proa_prefix_cache_add_tail(proa_prefix_cache *cache, int32_t node, const int32_t *tokens, int32_t count,
                                proa_kv_block block)
{
    PROA_ASSERT(count > 0);
    PROA_ASSERT(count < BLOCK);
    int32_t length = 0;
    int32_t n = best_child(cache, node, tokens, count, &length);
    if (n != NONE && length == count)
        return; /* there already */
    if (n != NONE && length == cache->nodes[n].count)
        replace_tail(cache, n, tokens, count, block);
    else
        add(cache, node, tokens, count, block);
}

bool proa_prefix_cache_evict(proa_prefix_cache *cache)
{
    int32_t n = cache->nodes[cache->root].newer;
    if (n == cache->root)
        return false;
    tree_node *node = &cache->nodes[n];
    PROA_ASSERT(node->locks == 0);
    PROA_ASSERT(node->children == NONE);
    list_remove(cache, n);
    siblings_remove(cache, n);
    tell(cache, false, node);
    proa_kv_blocks_drop(cache->blocks, node->block);
    node->left = cache->first_free;
    cache->first_free = n;
    cache->used--;
    cache->version++;
    return true;
}

/* ---- for tests ---- */

/* Checks the treap below n, whose nodes stand between the nodes `low` and `high` (NONE: no bound); returns how many
 * there are, with all their descendants. */
static int32_t check_siblings(const proa_prefix_cache *cache, int32_t n, int32_t parent, int32_t low,
                              int32_t high)
{
    if (n == NONE)
        return 0;
    const tree_node *node = &cache->nodes[n];
    PROA_ASSERT(node->parent == parent);
    PROA_ASSERT(node->count == BLOCK || (node->count > 0 && node->children == NONE && node->locks == 0));
    PROA_ASSERT(low == NONE || !stands_before(cache, node->tokens, node->count, low));
    PROA_ASSERT(high == NONE || stands_before(cache, node->tokens, node->count, high));
    PROA_ASSERT(node->left == NONE || priority(node->left) <= priority(n));
    PROA_ASSERT(node->right == NONE || priority(node->right) <= priority(n));
    PROA_ASSERT(parent == cache->root || cache->nodes[parent].locks >= node->locks);
    PROA_ASSERT(proa_kv_blocks_references(cache->blocks, node->block) == node->locks + 1);
    PROA_ASSERT(node->count < BLOCK ||
                node->digest == proa_digest(node->tokens, sizeof node->tokens, cache->nodes[parent].digest));
    return 1 + check_siblings(cache, node->left, parent, low, n) +
           check_siblings(cache, node->right, parent, n, high) +
           check_siblings(cache, node->children, n, NONE, NONE);
}

void proa_prefix_cache_check(const proa_prefix_cache *cache)
{
    int32_t count = check_siblings(cache, cache->nodes[cache->root].children, cache->root, NONE, NONE);
    PROA_ASSERT(count == cache->used);
    int32_t listed = 0;
    for (int32_t n = cache->nodes[cache->root].newer; n != cache->root; n = cache->nodes[n].newer) {
        PROA_ASSERT(cache->nodes[n].locks == 0);
        PROA_ASSERT(cache->nodes[cache->nodes[n].newer].older == n);
        listed++;
    }
    PROA_ASSERT(listed == cache->evictable);
}
