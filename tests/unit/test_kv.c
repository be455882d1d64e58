/* test_kv.c - KV blocks and the prefix cache: tables of single cases, and matches against a search by hand. */
#include "base/digest.h"
#include "engine/prefix_cache.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static void blocks_are_counted_and_generations_end(void **state)
{
    (void)state;
    proa_kv_blocks *blocks = proa_kv_blocks_create(3);
    proa_kv_block a, b, c, d;
    assert_true(proa_kv_blocks_take(blocks, &a));
    assert_true(proa_kv_blocks_take(blocks, &b));
    assert_true(proa_kv_blocks_take(blocks, &c));
    assert_false(proa_kv_blocks_take(blocks, &d));
    assert_int_equal(a.number, 0);
    assert_int_equal(b.number, 1);
    assert_int_equal(proa_kv_blocks_available(blocks), 0);

    proa_kv_blocks_hold(blocks, b);
    assert_int_equal(proa_kv_blocks_references(blocks, b), 2);
    proa_kv_blocks_drop(blocks, b);
    assert_true(proa_kv_blocks_valid(blocks, b));
    assert_int_equal(proa_kv_blocks_available(blocks), 0);
    proa_kv_blocks_drop(blocks, b);
    assert_false(proa_kv_blocks_valid(blocks, b));
    assert_int_equal(proa_kv_blocks_available(blocks), 1);

    assert_true(proa_kv_blocks_take(blocks, &d));
    assert_int_equal(d.number, b.number);
    assert_int_not_equal(d.generation, b.generation);
    assert_false(proa_kv_blocks_valid(blocks, b)); /* the old handle does not name the new holder's block */
    assert_true(proa_kv_blocks_valid(blocks, d));
    assert_false(proa_kv_blocks_valid(blocks, (proa_kv_block){3, 1}));
    assert_false(proa_kv_blocks_valid(blocks, (proa_kv_block){-1, 1}));
    proa_kv_blocks_free(blocks);
}

/* Does what a request does: matches, shares, computes the rest, lets go. Returns the tokens matched. */
static int32_t use(proa_kv_blocks *blocks, proa_prefix_cache *cache, const int32_t *tokens, int32_t count)
{
    proa_kv_block held[64];
    proa_prefix_match match = proa_prefix_cache_match(cache, tokens, count);
    proa_prefix_cache_acquire(cache, &match, held);
    int32_t node = match.node, full = count / 64;
    for (int32_t i = match.block_count; i < proa_kv_blocks_for(count); i++) {
        bool taken = proa_kv_blocks_take(blocks, &held[i]) ||
                     (proa_prefix_cache_evict(cache) && proa_kv_blocks_take(blocks, &held[i]));
        assert_true(taken);
        if (i < full)
            node = proa_prefix_cache_extend(cache, node, tokens + i * 64, &held[i]);
    }
    if (count % 64 != 0)
        proa_prefix_cache_add_tail(cache, node, tokens + full * 64, count % 64, held[full]);
    proa_prefix_cache_unlock(cache, node);
    for (int32_t i = 0; i < proa_kv_blocks_for(count); i++)
        proa_kv_blocks_drop(blocks, held[i]);
    proa_prefix_cache_check(cache);
    return match.tokens;
}

/* Sequences are told by letters: "a64b10" is 64 times the token 'a', then 10 times 'b'. */
static int32_t spell(const char *text, int32_t *tokens)
{
    int32_t count = 0;
    while (*text != 0) {
        int32_t token = *text++;
        for (long n = strtol(text, (char **)&text, 10); n > 0; n--)
            tokens[count++] = token;
    }
    return count;
}

static void matches_are_the_longest(void **state)
{
    (void)state;
    static const struct {
        int32_t page;
        const char *cached[4];
        const char *asked;
        int32_t tokens, blocks, partial;
    } table[] = {
        {1, {NULL}, "a10", 0, 0, 0},
        {1, {"a100"}, "a100", 100, 1, 36},
        {1, {"a100"}, "a99", 99, 1, 35},
        {1, {"a100"}, "a64", 64, 1, 0},
        {1, {"a100"}, "a200", 100, 1, 36},
        {1, {"a128"}, "a100", 100, 1, 36},
        {1, {"a10"}, "a5b5", 5, 0, 5},
        {1, {"a10"}, "b10", 0, 0, 0},
        {1, {"a64b64", "a64c64"}, "a64c32d10", 96, 1, 32},
        {1, {"a64b10", "a64b20"}, "a64b64", 84, 1, 20},     /* the longer tail took the shorter one's place */
        {1, {"a64b20", "a64b10"}, "a64b64", 84, 1, 20},     /* the shorter one adds nothing */
        {1, {"a64b20", "a64b70"}, "a64b70", 134, 2, 6},     /* a full block takes a tail's place */
        {1, {"a64b20c9", "a64b20d9"}, "a64b64", 84, 1, 20}, /* any of two that share what was asked */
        {16, {"a100"}, "a100", 96, 1, 32},
        {16, {"a79"}, "a79", 64, 1, 0},
        {16, {"a15"}, "a15", 0, 0, 0},
        {48, {"a128"}, "a128", 96, 1, 32}, /* rounding takes a whole block away, its rows are copied */
        {48, {"a128"}, "a95", 48, 0, 48},
        {64, {"a200"}, "a200", 192, 3, 0},
        {64, {"a100"}, "a100", 64, 1, 0},
        {60, {"a128"}, "a128", 120, 1, 56},
        {63, {"a126"}, "a126", 126, 1, 62},
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        int32_t tokens[1024];
        proa_kv_blocks *blocks = proa_kv_blocks_create(32);
        proa_prefix_cache *cache = proa_prefix_cache_create(blocks, table[i].page);
        for (int32_t c = 0; c < 4 && table[i].cached[c] != NULL; c++)
            use(blocks, cache, tokens, spell(table[i].cached[c], tokens));
        int32_t count = spell(table[i].asked, tokens);
        proa_prefix_match match = proa_prefix_cache_match(cache, tokens, count);
        if (match.tokens != table[i].tokens || match.block_count != table[i].blocks ||
            match.partial_tokens != table[i].partial)
            fail_msg("case %zu: matched %d = %d blocks + %d", i, match.tokens, match.block_count,
                     match.partial_tokens);
        proa_prefix_cache_free(cache);
        proa_kv_blocks_free(blocks);
    }
}

/* Random prompts of few different tokens, none evicted: the match must be what comparing with each of them gives. */
static void matches_equal_a_search_by_hand(void **state)
{
    (void)state;
    enum { PROMPTS = 120, LONGEST = 200 };
    static int32_t prompts[PROMPTS][LONGEST];
    int32_t counts[PROMPTS];
    uint32_t random = 12345;
    for (int round = 0; round < 20; round++) {
        int32_t page = round % 4 == 0 ? 1 : round % 4 == 1 ? 16 : round % 4 == 2 ? 48 : 63;
        proa_kv_blocks *blocks = proa_kv_blocks_create(PROMPTS * 4);
        proa_prefix_cache *cache = proa_prefix_cache_create(blocks, page);
        for (int32_t p = 0; p < PROMPTS; p++) {
            random = random * 1664525u + 1013904223u;
            counts[p] = 1 + (int32_t)(random >> 8) % LONGEST;
            int32_t like = p > 0 ? (int32_t)(random >> 4) % p : 0, best = 0;
            int32_t same = p > 0 ? (int32_t)(random >> 12) % LONGEST : 0;
            for (int32_t t = 0; t < counts[p]; t++) {
                random = random * 1664525u + 1013904223u;
                bool shared = t < same && t < counts[like];
                prompts[p][t] = shared ? prompts[like][t] : (int32_t)(random >> 16) % 3;
            }
            for (int32_t o = 0; o < p; o++) {
                int32_t t = 0;
                while (t < counts[p] && t < counts[o] && prompts[p][t] == prompts[o][t])
                    t++;
                best = t > best ? t : best;
            }
            assert_int_equal(use(blocks, cache, prompts[p], counts[p]), best - best % page);
        }
        proa_prefix_cache_free(cache);
        proa_kv_blocks_free(blocks);
    }
}

/* After the uses, blocks are evicted one by one; what is left is told by what still matches. */
static void the_least_recently_used_goes_first(void **state)
{
    (void)state;
    static const struct {
        const char *used[6];
        int32_t evictions;
        const char *asked[3];
        int32_t matched[3];
    } table[] = {
        {{"a64", "b64", "c64"}, 1, {"a64", "b64", "c64"}, {0, 64, 64}},
        {{"a64", "b64", "c64", "a64"}, 1, {"a64", "b64", "c64"}, {64, 0, 64}},
        {{"a64", "b64", "c64", "a64"}, 2, {"a64", "b64", "c64"}, {64, 0, 0}},
        {{"a192", "b64"}, 1, {"a192", "b64"}, {128, 64}}, /* leaves before parents */
        {{"a192", "b64"}, 3, {"a192", "b64"}, {0, 64}},
        {{"b64", "a192"}, 1, {"a192", "b64"}, {192, 0}},
        {{"a192", "b64", "a64"}, 3, {"a192", "b64"}, {64, 0}}, /* the beginning was used again */
        {{"a20", "b20", "a10c5"}, 1, {"a20", "b20"}, {20, 0}}, /* so is what rows are copied from */
        {{"a64b20", "c64", "a64b10d9"}, 1, {"a64b20", "c64"}, {84, 0}},
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        int32_t tokens[1024];
        proa_kv_blocks *blocks = proa_kv_blocks_create(32);
        proa_prefix_cache *cache = proa_prefix_cache_create(blocks, 1);
        for (int32_t u = 0; u < 6 && table[i].used[u] != NULL; u++)
            use(blocks, cache, tokens, spell(table[i].used[u], tokens));
        for (int32_t e = 0; e < table[i].evictions; e++)
            assert_true(proa_prefix_cache_evict(cache));
        proa_prefix_cache_check(cache);
        for (int32_t a = 0; a < 3 && table[i].asked[a] != NULL; a++) {
            int32_t count = spell(table[i].asked[a], tokens);
            int32_t matched = proa_prefix_cache_match(cache, tokens, count).tokens;
            if (matched != table[i].matched[a])
                fail_msg("case %zu: %s matches %d", i, table[i].asked[a], matched);
        }
        proa_prefix_cache_free(cache);
        proa_kv_blocks_free(blocks);
    }
}

static void locked_blocks_stay(void **state)
{
    (void)state;
    int32_t tokens[256];
    proa_kv_block held[4];
    proa_kv_blocks *blocks = proa_kv_blocks_create(4);
    proa_prefix_cache *cache = proa_prefix_cache_create(blocks, 64);
    use(blocks, cache, tokens, spell("a128", tokens));
    assert_int_equal(proa_prefix_cache_evictable(cache), 2);
    proa_prefix_match match = proa_prefix_cache_match(cache, tokens, 64);
    proa_prefix_cache_acquire(cache, &match, held);
    assert_int_equal(proa_prefix_cache_evictable(cache), 1);
    assert_true(proa_prefix_cache_evict(cache));
    assert_false(proa_prefix_cache_evict(cache));
    proa_prefix_cache_check(cache);
    proa_prefix_cache_unlock(cache, match.node);
    proa_kv_blocks_drop(blocks, held[0]);
    assert_true(proa_prefix_cache_evict(cache));
    assert_int_equal(proa_kv_blocks_available(blocks), 4);
    assert_int_equal(proa_prefix_cache_nodes(cache), 0);
    proa_prefix_cache_free(cache);
    proa_kv_blocks_free(blocks);
}

/* Two requests compute the same prompt side by side: the second one's block is exchanged for the first one's. */
static void equal_blocks_become_one(void **state)
{
    (void)state;
    int32_t tokens[64];
    proa_kv_block a, b;
    proa_kv_blocks *blocks = proa_kv_blocks_create(4);
    proa_prefix_cache *cache = proa_prefix_cache_create(blocks, 64);
    spell("a64", tokens);
    assert_true(proa_kv_blocks_take(blocks, &a));
    assert_true(proa_kv_blocks_take(blocks, &b));
    int32_t first = proa_prefix_cache_extend(cache, proa_prefix_cache_root(cache), tokens, &a);
    int32_t second = proa_prefix_cache_extend(cache, proa_prefix_cache_root(cache), tokens, &b);
    assert_int_equal(first, second);
    assert_int_equal(a.number, b.number);
    assert_int_equal(proa_kv_blocks_references(blocks, a), 3);
    assert_int_equal(proa_kv_blocks_available(blocks), 3);
    proa_prefix_cache_check(cache);
    proa_prefix_cache_free(cache);
    proa_kv_blocks_free(blocks);
}

static void the_version_tells_when_matches_may_change(void **state)
{
    (void)state;
    static const struct {
        const char *used; /* NULL: evict */
        bool changes;
    } table[] = {
        {"a100", true}, {"a100", false}, {"a70", false}, {"a110", true}, {"a128", true},
        {"b64", true},  {NULL, true},    {"a64", false}, {"b64", false}, {NULL, true},
    };
    int32_t tokens[256];
    proa_kv_blocks *blocks = proa_kv_blocks_create(8);
    proa_prefix_cache *cache = proa_prefix_cache_create(blocks, 1);
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        uint64_t before = proa_prefix_cache_version(cache);
        if (table[i].used != NULL)
            use(blocks, cache, tokens, spell(table[i].used, tokens));
        else
            assert_true(proa_prefix_cache_evict(cache));
        if ((proa_prefix_cache_version(cache) != before) != table[i].changes)
            fail_msg("case %zu", i);
    }
    proa_prefix_cache_free(cache);
    proa_kv_blocks_free(blocks);
}

/* ---- what others are told ---- */

typedef struct mirror {
    uint64_t hashes[512];
    int32_t count, stored, removed;
} mirror;

static bool mirror_has(const mirror *m, uint64_t hash)
{
    for (int32_t i = 0; i < m->count; i++) {
        if (m->hashes[i] == hash)
            return true;
    }
    return false;
}

static void on_event(void *context, bool stored, uint64_t hash)
{
    mirror *m = context;
    assert_true(mirror_has(m, hash) != stored);
    m->stored += stored;
    m->removed += !stored;
    if (stored) {
        m->hashes[m->count++] = hash;
        return;
    }
    int32_t i = 0;
    while (m->hashes[i] != hash)
        i++;
    m->hashes[i] = m->hashes[--m->count];
}

/* Whole blocks of the prompt that the mirror knows, from the first on. */
static int32_t mirror_match(const mirror *m, const int32_t *tokens, int32_t count)
{
    uint64_t hash = 0;
    for (int32_t i = 0; i < count / 64; i++) {
        hash = proa_digest(tokens + i * 64, 64 * sizeof *tokens, hash);
        if (!mirror_has(m, hash))
            return i;
    }
    return count / 64;
}

/* Whoever follows the events knows what a match would find, whatever is used, evicted or replaced. */
static void events_mirror_the_cache(void **state)
{
    (void)state;
    enum { BLOCKS = 24, PROMPTS = 30, LONGEST = 260 };
    static int32_t prompts[PROMPTS][LONGEST];
    int32_t counts[PROMPTS], held = 0;
    uint32_t random = 99;
    mirror m = {.count = 0};
    proa_kv_blocks *blocks = proa_kv_blocks_create(BLOCKS);
    proa_prefix_cache *cache = proa_prefix_cache_create(blocks, 1);
    proa_prefix_cache_watch(cache, on_event, &m);
    for (int32_t p = 0; p < PROMPTS; p++) {
        counts[p] = 1 + p * 97 % LONGEST;
        for (int32_t t = 0; t < counts[p]; t++)
            prompts[p][t] = t / 40 < p % 7 ? t : p * 1000 + t; /* beginnings shared for multiples of 40 */
    }
    for (int round = 0; round < 3000; round++) {
        random = random * 1664525u + 1013904223u;
        int32_t p = (int32_t)(random >> 8) % PROMPTS;
        if (random >> 28 == 0)
            proa_prefix_cache_evict(cache);
        else
            use(blocks, cache, prompts[p], counts[p]);
        proa_prefix_match match = proa_prefix_cache_match(cache, prompts[p], counts[p]);
        assert_int_equal(mirror_match(&m, prompts[p], counts[p]), match.tokens / 64);
        held += m.count;
    }
    assert_true(m.stored > 500 && m.removed > 500 && held > 3000 * 10);
    while (proa_prefix_cache_evict(cache)) {
    }
    assert_int_equal(m.count, 0);
    proa_prefix_cache_free(cache);
    proa_kv_blocks_free(blocks);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks_are_counted_and_generations_end),
        cmocka_unit_test(matches_are_the_longest),
        cmocka_unit_test(matches_equal_a_search_by_hand),
        cmocka_unit_test(the_least_recently_used_goes_first),
        cmocka_unit_test(locked_blocks_stay),
        cmocka_unit_test(equal_blocks_become_one),
        cmocka_unit_test(the_version_tells_when_matches_may_change),
        cmocka_unit_test(events_mirror_the_cache),
    };
    return cmocka_run_group_tests_name("kv", tests, NULL, NULL);
}
