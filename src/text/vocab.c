/* vocab.c - open-addressing tables, at most half full. */
#include "text/vocab.h"

#include "base/digest.h"
#include "text/utf8.h"

#include <stdlib.h>
#include <string.h>

_Static_assert(sizeof(size_t) == 8, "hashes are shifted as 64-bit words");

/* GPT-2's table. Printable Latin-1 bytes stand for themselves; the other 68, ascending, for U+0100 and on. */
static bool is_printable(uint32_t byte)
{
    return (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || (byte >= 0xae && byte <= 0xff);
}

/* The byte a character stands for, or -1. */
static int byte_of(uint32_t code)
{
    if (code < 0x100)
        return is_printable(code) ? (int)code : -1;
    if (code <= 0x120)
        return (int)(code - 0x100); /* 00 to 20 */
    if (code <= 0x142)
        return (int)(code - 0x121 + 0x7f); /* 7f to a0 */
    return code == 0x143 ? 0xad : -1;
}

/* Appends the bytes of a spelling; false (nothing appended) when it has a character that is no byte's. */
static bool unspell(const char *text, size_t length, proa_buf *out)
{
    size_t before = out->length;
    for (size_t i = 0; i < length;) {
        proa_utf8_step step = proa_utf8_look(text + i, length - i);
        int byte = step.kind == PROA_UTF8_VALID ? byte_of(step.code) : -1;
        if (byte < 0) {
            proa_buf_truncate(out, before);
            return false;
        }
        proa_buf_append_char(out, (char)byte);
        i += step.length;
    }
    return true;
}

void proa_vocab_init(proa_vocab *vocab)
{
    *vocab = (proa_vocab){0};
    for (int i = 0; i < 256; i++)
        vocab->byte_ids[i] = -1;
}

void proa_vocab_free(proa_vocab *vocab)
{
    free(vocab->tokens);
    free(vocab->slots);
    free(vocab->merges);
    proa_buf_free(&vocab->bytes);
    *vocab = (proa_vocab){0};
}

static uint64_t hash_text(const char *bytes, size_t length, bool literal)
{
    return proa_digest(bytes, length, literal);
}

static bool is_text(const proa_vocab *vocab, int32_t id, const char *bytes, size_t length, bool literal)
{
    size_t n;
    const char *have = proa_vocab_bytes(vocab, id, &n);
    return n == length && memcmp(have, bytes, n) == 0 &&
           literal == ((vocab->tokens[id].flags & PROA_TOKEN_LITERAL) != 0);
}

/* The slot that holds this text, or the empty one where it belongs. */
static size_t find_slot(const proa_vocab *vocab, const char *bytes, size_t length, bool literal)
{
    size_t mask = vocab->slot_count - 1;
    size_t i = hash_text(bytes, length, literal) & mask;
    while (vocab->slots[i] != 0 && !is_text(vocab, vocab->slots[i] - 1, bytes, length, literal))
        i = (i + 1) & mask;
    return i;
}

int32_t proa_vocab_find_bytes(const proa_vocab *vocab, const char *bytes, size_t length, bool literal)
{
    return vocab->slot_count == 0 ? -1 : vocab->slots[find_slot(vocab, bytes, length, literal)] - 1;
}

int32_t proa_vocab_find(const proa_vocab *vocab, const char *text, size_t length, proa_buf *scratch)
{
    proa_buf_clear(scratch);
    if (unspell(text, length, scratch))
        return proa_vocab_find_bytes(vocab, proa_buf_text(scratch), scratch->length, false);
    return proa_vocab_find_bytes(vocab, text, length, true);
}

bool proa_vocab_reserve(proa_vocab *vocab, size_t count)
{
    size_t need = 64;
    while (need < count * 2)
        need *= 2;
    if (need <= vocab->slot_count)
        return true;
    int32_t *slots = calloc(need, sizeof *slots);
    if (slots == NULL)
        return false;
    free(vocab->slots);
    vocab->slots = slots;
    vocab->slot_count = need;
    for (int32_t id = 0; id < vocab->size; id++) {
        if (!(vocab->tokens[id].flags & PROA_TOKEN_EXISTS))
            continue;
        size_t n;
        const char *bytes = proa_vocab_bytes(vocab, id, &n);
        slots[find_slot(vocab, bytes, n, (vocab->tokens[id].flags & PROA_TOKEN_LITERAL) != 0)] = id + 1;
    }
    return true;
}

static bool grow_tokens(proa_vocab *vocab, int32_t size)
{
    if (size > vocab->capacity) {
        int32_t capacity = vocab->capacity < 1024 ? 1024 : vocab->capacity * 2;
        if (capacity < size)
            capacity = size;
        proa_token *tokens = realloc(vocab->tokens, (size_t)capacity * sizeof *tokens);
        if (tokens == NULL)
            return false;
        vocab->tokens = tokens;
        vocab->capacity = capacity;
    }
    if (size > vocab->size) {
        memset(vocab->tokens + vocab->size, 0, (size_t)(size - vocab->size) * sizeof *vocab->tokens);
        vocab->size = size;
    }
    return true;
}

static proa_status out_of_memory(proa_error *err)
{
    return proa_error_set(err, PROA_ERR_MEMORY, "no memory left for the vocabulary");
}

/* Checks an id and that it is free. */
static proa_status check_id(const proa_vocab *vocab, const char *text, size_t length, int64_t id,
                            proa_error *err)
{
    int shown = length > 100 ? 100 : (int)length;
    if (id < 0 || id > PROA_VOCAB_ID_MAX)
        return proa_error_set(err, PROA_ERR_INVALID, "token \"%.*s\" has id %lld; ids are 0 to %d", shown,
                              text, (long long)id, PROA_VOCAB_ID_MAX);
    if (length > PROA_VOCAB_TOKEN_BYTES_MAX)
        return proa_error_set(err, PROA_ERR_TOO_LONG, "token \"%.*s...\" has %zu bytes; at most %d are taken",
                              shown, text, length, PROA_VOCAB_TOKEN_BYTES_MAX);
    if (id < vocab->size && vocab->tokens[id].flags & PROA_TOKEN_EXISTS) {
        size_t n;
        const char *other = proa_vocab_bytes(vocab, (int32_t)id, &n);
        return proa_error_set(err, PROA_ERR_INVALID,
                              "token \"%.*s\" has id %lld, which belongs to \"%.*s\" already", shown, text,
                              (long long)id, n > 100 ? 100 : (int)n, other);
    }
    return PROA_OK;
}

proa_status proa_vocab_add(proa_vocab *vocab, const char *text, size_t length, int64_t id, uint32_t flags,
                           proa_error *err)
{
    proa_status status = check_id(vocab, text, length, id, err);
    if (status != PROA_OK)
        return status;
    if (!proa_vocab_reserve(vocab, (size_t)vocab->count + 1) || !grow_tokens(vocab, (int32_t)id + 1))
        return out_of_memory(err);
    size_t start = vocab->bytes.length;
    bool literal = !unspell(text, length, &vocab->bytes);
    if (literal)
        proa_buf_append(&vocab->bytes, text, length);
    if (vocab->bytes.failed || vocab->bytes.length > UINT32_MAX)
        return out_of_memory(err);
    if (vocab->bytes.data == NULL) /* the empty token comes first */
        proa_buf_append(&vocab->bytes, "", 0);
    const char *bytes = proa_buf_text(&vocab->bytes) + start;
    size_t n = vocab->bytes.length - start;
    size_t slot = find_slot(vocab, bytes, n, literal);
    if (vocab->slots[slot] != 0) {
        proa_buf_truncate(&vocab->bytes, start);
        return proa_error_set(err, PROA_ERR_INVALID, "token \"%.*s\" has id %lld and id %d",
                              length > 100 ? 100 : (int)length, text, (long long)id, vocab->slots[slot] - 1);
    }
    vocab->slots[slot] = (int32_t)id + 1;
    vocab->tokens[id] = (proa_token){(uint32_t)start, (uint32_t)n,
                                     flags | PROA_TOKEN_EXISTS | (literal ? PROA_TOKEN_LITERAL : 0)};
    vocab->count++;
    if (n == 1 && !literal)
        vocab->byte_ids[(unsigned char)bytes[0]] = (int32_t)id;
    return PROA_OK;
}

bool proa_vocab_reserve_merges(proa_vocab *vocab, size_t count)
{
    PROA_ASSERT(vocab->merges == NULL);
    int bits = 4;
    while (bits < 40 && (size_t)1 << bits < count * 2)
        bits++;
    size_t slots = (size_t)1 << bits;
    vocab->merges = malloc(slots * sizeof *vocab->merges);
    if (vocab->merges == NULL)
        return false;
    vocab->merge_shift = 64 - bits;
    for (size_t i = 0; i < slots; i++)
        vocab->merges[i] = (proa_merge){.pair = PROA_MERGE_NONE};
    return true;
}

void proa_vocab_add_merge(proa_vocab *vocab, int32_t left, int32_t right, uint32_t rank, int32_t id)
{
    uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    size_t mask = SIZE_MAX >> vocab->merge_shift;
    size_t i = proa_merge_slot(vocab, pair);
    while (vocab->merges[i].pair != pair && vocab->merges[i].pair != PROA_MERGE_NONE)
        i = (i + 1) & mask;
    vocab->merges[i] = (proa_merge){pair, rank, id};
}
