/* test_bpe.c - merging against the definition: find the smallest rank, merge it, start again. */
#include "text/bpe.h"

#include "base/random.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

enum { LETTERS = 3, MERGES = 60, WORD_MAX_BYTES = 400, TOKENS_MAX = LETTERS + MERGES };

/* Merges drawn at random: each joins two tokens that exist. */
typedef struct random_model {
    proa_bpe_model model;
    int32_t left[MERGES], right[MERGES], result[MERGES];
    int merge_count;
} random_model;

static uint64_t draw(uint64_t key, uint64_t *counter, uint64_t below)
{
    return (uint64_t)(proa_random_uniform(key, (*counter)++) * (double)below);
}

static void make_model(random_model *m, uint64_t key)
{
    *m = (random_model){.model = {.unknown_id = -1}};
    proa_vocab *vocab = &m->model.vocab;
    proa_vocab_init(vocab);
    assert_true(proa_vocab_reserve_merges(vocab, MERGES));
    for (int i = 0; i < LETTERS; i++)
        assert_int_equal(proa_vocab_add(vocab, &"abc"[i], 1, i, 0, NULL), PROA_OK);
    uint64_t counter = 0;
    for (int i = 0; i < MERGES; i++) {
        int32_t left = (int32_t)draw(key, &counter, (uint64_t)vocab->count);
        int32_t right = (int32_t)draw(key, &counter, (uint64_t)vocab->count);
        proa_buf text = {0};
        size_t n;
        const char *bytes = proa_vocab_bytes(vocab, left, &n);
        proa_buf_append(&text, bytes, n);
        bytes = proa_vocab_bytes(vocab, right, &n);
        proa_buf_append(&text, bytes, n);
        int32_t id = proa_vocab_find_bytes(vocab, text.data, text.length, false);
        if (id < 0 && text.length < 60) {
            id = vocab->count;
            assert_int_equal(proa_vocab_add(vocab, text.data, text.length, id, 0, NULL), PROA_OK);
        }
        if (id >= 0 && proa_vocab_merge(vocab, left, right) == NULL) {
            m->left[m->merge_count] = left;
            m->right[m->merge_count] = right;
            m->result[m->merge_count] = id;
            proa_vocab_add_merge(vocab, left, right, (uint32_t)m->merge_count++, id);
        }
        proa_buf_free(&text);
    }
}

static int rank_of(const random_model *m, int32_t left, int32_t right)
{
    for (int i = 0; i < m->merge_count; i++) {
        if (m->left[i] == left && m->right[i] == right)
            return i;
    }
    return MERGES;
}

static size_t merge_by_definition(const random_model *m, const char *word, size_t length, int32_t *ids)
{
    size_t n = length;
    for (size_t i = 0; i < n; i++)
        ids[i] = word[i] - 'a';
    for (;;) {
        int best = MERGES;
        size_t at = 0;
        for (size_t i = 0; i + 1 < n; i++) {
            int rank = rank_of(m, ids[i], ids[i + 1]);
            if (rank < best) {
                best = rank;
                at = i;
            }
        }
        if (best == MERGES)
            return n;
        ids[at] = m->result[best];
        n--;
        memmove(&ids[at + 1], &ids[at + 2], (n - at - 1) * sizeof *ids);
    }
}

static void words_merge_by_definition(void **state)
{
    (void)state;
    enum { MODELS = 40, WORDS = 60 };
    for (uint64_t key = 0; key < MODELS; key++) {
        random_model m;
        make_model(&m, key);
        proa_bpe *bpe = proa_bpe_create(&m.model);
        uint64_t counter = 1000;
        for (int w = 0; w < WORDS; w++) {
            char word[WORD_MAX_BYTES];
            int32_t want[WORD_MAX_BYTES];
            size_t longest = (size_t[]){8, 60, WORD_MAX_BYTES}[w % 3],
                   length = 1 + draw(key, &counter, longest);
            uint64_t letters = 1 + draw(key, &counter, LETTERS); /* runs of one letter too */
            for (size_t i = 0; i < length; i++)
                word[i] = (char)('a' + draw(key, &counter, letters));
            size_t count = merge_by_definition(&m, word, length, want);
            for (int again = 0; again < 2; again++) { /* from the cache the second time */
                proa_ids ids = {0};
                assert_true(proa_bpe_encode(bpe, word, length, &ids));
                assert_int_equal(ids.count, count);
                assert_memory_equal(ids.data, want, count * sizeof *want);
                proa_ids_free(&ids);
            }
        }
        proa_bpe_free(bpe);
        proa_vocab_free(&m.model.vocab);
    }
}

/* Far more words than a cache without collisions would hold, each met twice. */
static void cached_words_are_not_confused(void **state)
{
    (void)state;
    enum { LETTERS_MAX = 9 };
    random_model m;
    make_model(&m, 7);
    proa_bpe *bpe = proa_bpe_create(&m.model);
    for (int again = 0; again < 2; again++) {
        int words = 1;
        for (size_t length = 1; length <= LETTERS_MAX; length++) {
            words *= LETTERS;
            for (int number = 0; number < words; number++) {
                char word[LETTERS_MAX];
                int32_t want[LETTERS_MAX];
                int rest = number;
                for (size_t i = 0; i < length; i++, rest /= LETTERS)
                    word[i] = (char)('a' + rest % LETTERS);
                size_t count = merge_by_definition(&m, word, length, want);
                proa_ids ids = {0};
                assert_true(proa_bpe_encode(bpe, word, length, &ids));
                assert_int_equal(ids.count, count);
                assert_memory_equal(ids.data, want, count * sizeof *want);
                proa_ids_free(&ids);
            }
        }
    }
    proa_bpe_free(bpe);
    proa_vocab_free(&m.model.vocab);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(words_merge_by_definition),
        cmocka_unit_test(cached_words_are_not_confused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
