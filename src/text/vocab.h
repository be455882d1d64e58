/* vocab.h - the tables of a byte-level BPE model: tokens by id and by text, and merges by pair.
 *
 * Part of the tokenizer. In tokenizer.json a byte is written as a printable character (GPT-2's table: a space is
 * U+0120); here tokens are kept as the bytes they stand for, so encoding never sees that spelling. A token that has
 * other characters too, such as <｜User｜>, is literal: it stands for its own UTF-8. One thread fills the tables;
 * then they are immutable.
 */
#ifndef PROA_TEXT_VOCAB_H
#define PROA_TEXT_VOCAB_H

#include "base/buf.h"
#include "base/status.h"

#include <stdint.h>

enum {
    PROA_VOCAB_ID_MAX = (1 << 22) - 1, /* larger ids would only make tables of nothing */
    PROA_VOCAB_TOKEN_BYTES_MAX = 1 << 16,
};

enum {
    PROA_TOKEN_EXISTS = 1,
    PROA_TOKEN_LITERAL = 2, /* not spelt in byte characters */
    PROA_TOKEN_ADDED = 4,
    PROA_TOKEN_SPECIAL = 8,
};

typedef struct proa_token {
    uint32_t start; /* in proa_vocab.bytes */
    uint32_t length;
    uint32_t flags;
} proa_token;

typedef struct proa_merge {
    uint64_t pair; /* left id << 32 | right id; PROA_MERGE_NONE in an empty slot */
    uint32_t rank; /* smaller merges first */
    int32_t id;    /* what they become */
} proa_merge;
#define PROA_MERGE_NONE UINT64_MAX

typedef struct proa_vocab {
    proa_token *tokens; /* by id */
    int32_t size;       /* largest id + 1 */
    int32_t capacity;
    int32_t count; /* tokens that exist */
    proa_buf bytes;
    int32_t *slots; /* open addressing by text: id + 1, or 0 */
    size_t slot_count;
    proa_merge *merges; /* open addressing by pair; merge_shift brings a hash to a slot */
    int merge_shift;
    int32_t byte_ids[256]; /* token of a single byte, or -1 */
} proa_vocab;

void proa_vocab_init(proa_vocab *vocab);
void proa_vocab_free(proa_vocab *vocab);

/* Room for `count` tokens in the table by text; grows by itself beyond. */
bool proa_vocab_reserve(proa_vocab *vocab, size_t count);

/* Adds a token by its spelling in tokenizer.json. INVALID when the id is out of range or taken, or the text exists. */
proa_status proa_vocab_add(proa_vocab *vocab, const char *text, size_t length, int64_t id, uint32_t flags,
                           proa_error *err);

/* Id by spelling, or -1. `scratch` is working memory. */
int32_t proa_vocab_find(const proa_vocab *vocab, const char *text, size_t length, proa_buf *scratch);

/* Id of the token that stands for these bytes, or -1. */
int32_t proa_vocab_find_bytes(const proa_vocab *vocab, const char *bytes, size_t length, bool literal);

/* The table for `count` merges; then each by its tokens' ids, ascending rank; a pair given twice keeps the later rank. */
bool proa_vocab_reserve_merges(proa_vocab *vocab, size_t count);
void proa_vocab_add_merge(proa_vocab *vocab, int32_t left, int32_t right, uint32_t rank, int32_t id);

static inline size_t proa_merge_slot(const proa_vocab *vocab, uint64_t pair)
{
    return (pair * 0x9e3779b97f4a7c15u ^ pair >> 29) * 0xbf58476d1ce4e5b9u >> vocab->merge_shift;
}

/* The merge of two neighbours, or NULL. */
static inline const proa_merge *proa_vocab_merge(const proa_vocab *vocab, int32_t left, int32_t right)
{
    uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    size_t mask = SIZE_MAX >> vocab->merge_shift;
    for (size_t i = proa_merge_slot(vocab, pair);; i = (i + 1) & mask) {
        const proa_merge *m = &vocab->merges[i];
        if (m->pair == pair)
            return m;
        if (m->pair == PROA_MERGE_NONE)
            return NULL;
    }
}

static inline const char *proa_vocab_bytes(const proa_vocab *vocab, int32_t id, size_t *length)
{
    *length = vocab->tokens[id].length;
    return vocab->bytes.data + vocab->tokens[id].start;
}

#endif
