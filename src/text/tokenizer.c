/* tokenizer.c - encoding: added tokens are cut out first, the rest goes through the pre-tokenizer to BPE. */
#include "text/tokenizer.h"

#include "text/tokenizer_impl.h"
#include "text/unicode_shadow.h"
#include "text/utf8.h"

#include <stdlib.h>
#include <string.h>

enum {
    TEXT_BYTES_MAX = 1 << 30,
    KEPT_BYTES = 1 << 20, /* larger working buffers are given back after a text */
};

/* --- the vocabulary --- */

void proa_tokenizer_free(proa_tokenizer *tokenizer)
{
    if (tokenizer == NULL)
        return;
    proa_vocab_free(&tokenizer->model.vocab);
    proa_pretokenizer_free(&tokenizer->pre);
    proa_added_set_free(&tokenizer->verbatim);
    proa_added_set_free(&tokenizer->normalized);
    proa_regex_free(tokenizer->word);
    proa_arena_free(tokenizer->texts);
    free(tokenizer);
}

int32_t proa_tokenizer_vocab_size(const proa_tokenizer *tokenizer)
{
    return tokenizer->model.vocab.size;
}

int32_t proa_tokenizer_id(const proa_tokenizer *tokenizer, const char *token)
{
    proa_buf scratch = {0};
    int32_t id = proa_vocab_find(&tokenizer->model.vocab, token, strlen(token), &scratch);
    proa_buf_free(&scratch);
    return id;
}

static uint32_t flags_of(const proa_tokenizer *tokenizer, int32_t id)
{
    const proa_vocab *vocab = &tokenizer->model.vocab;
    return id >= 0 && id < vocab->size ? vocab->tokens[id].flags : 0;
}

bool proa_tokenizer_is_special(const proa_tokenizer *tokenizer, int32_t id)
{
    return (flags_of(tokenizer, id) & PROA_TOKEN_SPECIAL) != 0;
}

const char *proa_tokenizer_bytes(const proa_tokenizer *tokenizer, int32_t id, size_t *length)
{
    *length = 0;
    if (!(flags_of(tokenizer, id) & PROA_TOKEN_EXISTS))
        return NULL;
    return proa_vocab_bytes(&tokenizer->model.vocab, id, length);
}

/* --- ids --- */

bool proa_ids_push(proa_ids *ids, int32_t id)
{
    if (ids->count == ids->capacity) {
        size_t capacity = ids->capacity < 64 ? 64 : ids->capacity * 2;
        int32_t *data = realloc(ids->data, capacity * sizeof *data);
        if (data == NULL)
            return false;
        ids->data = data;
        ids->capacity = capacity;
    }
    ids->data[ids->count++] = id;
    return true;
}

void proa_ids_free(proa_ids *ids)
{
    free(ids->data);
    *ids = (proa_ids){0};
}

/* --- encoding --- */

struct proa_encoder {
    const proa_tokenizer *tokenizer;
    proa_regex_scratch *regex;
    proa_bpe *bpe;
    proa_buf clean;  /* the text with its broken UTF-8 replaced */
    proa_buf shadow; /* unicode_shadow.h */
    proa_ids *ids;   /* of the text at hand */
    proa_error *err;
};

proa_encoder *proa_encoder_create(const proa_tokenizer *tokenizer)
{
    proa_encoder *encoder = calloc(1, sizeof *encoder);
    if (encoder == NULL)
        return NULL;
    encoder->tokenizer = tokenizer;
    encoder->regex = proa_regex_scratch_create();
    encoder->bpe = proa_bpe_create(&tokenizer->model);
    if (encoder->regex == NULL || encoder->bpe == NULL) {
        proa_encoder_free(encoder);
        return NULL;
    }
    return encoder;
}

void proa_encoder_free(proa_encoder *encoder)
{
    if (encoder == NULL)
        return;
    proa_regex_scratch_free(encoder->regex);
    proa_bpe_free(encoder->bpe);
    proa_buf_free(&encoder->clean);
    proa_buf_free(&encoder->shadow);
    free(encoder);
}

static proa_status out_of_memory(proa_error *err)
{
    return proa_error_set(err, PROA_ERR_MEMORY, "no memory left to tokenize");
}

static proa_status take_word(void *context, const char *word, size_t length)
{
    proa_encoder *encoder = context;
    return proa_bpe_encode(encoder->bpe, word, length, encoder->ids) ? PROA_OK : out_of_memory(encoder->err);
}

static proa_status encode_plain(proa_encoder *encoder, proa_text_piece piece)
{
    return proa_pretokenize(&encoder->tokenizer->pre, encoder->regex, piece, take_word, encoder,
                            encoder->err);
}

/* Searches the sets in turn: what lies between one's tokens is searched for the next one's, at last encoded. */
static proa_status encode_around(proa_encoder *encoder, proa_text_piece piece,
                                 const proa_added_set *const *sets, const proa_added_scope *scope)
{
    if (*sets == NULL)
        return encode_plain(encoder, piece);
    proa_added_search search = {.set = *sets,
                                .scope = scope,
                                .text = piece.text,
                                .shadow = piece.shadow,
                                .length = piece.length,
                                .word = encoder->tokenizer->word,
                                .scratch = encoder->regex};
    proa_status status = PROA_OK;
    for (bool more = true; more && status == PROA_OK;) {
        size_t from = search.taken, to = piece.length;
        proa_added_match match;
        more = proa_added_next(&search, &match);
        if (more)
            to = match.start;
        if (from < to) {
            proa_text_piece between = {piece.text + from, piece.shadow + from, to - from};
            status = encode_around(encoder, between, sets + 1, scope);
        }
        if (status == PROA_OK && more && !proa_ids_push(encoder->ids, match.id))
            status = out_of_memory(encoder->err);
    }
    return status;
}

static void give_back(proa_buf *buf)
{
    if (buf->capacity > KEPT_BYTES)
        proa_buf_free(buf);
}

/* `scope` NULL: added tokens count everywhere. */
static proa_status encode_valid(proa_encoder *encoder, const char *text, size_t length, bool parse_added,
                                const proa_added_scope *scope)
{
    const proa_tokenizer *tokenizer = encoder->tokenizer;
    const proa_added_set *const all[] = {&tokenizer->verbatim, &tokenizer->normalized, NULL};
    proa_text_piece piece = {text, proa_unicode_shadow(text, length, &encoder->shadow), length};
    proa_status status = piece.shadow == NULL
                             ? out_of_memory(encoder->err)
                             : encode_around(encoder, piece, parse_added ? all : all + 2, scope);
    give_back(&encoder->shadow);
    return status;
}

static proa_status check_length(size_t length, proa_error *err)
{
    if (length <= TEXT_BYTES_MAX)
        return PROA_OK;
    return proa_error_set(err, PROA_ERR_TOO_LONG, "a text of %zu bytes; at most %d are taken at once", length,
                          TEXT_BYTES_MAX);
}

proa_status proa_encode(proa_encoder *encoder, const char *text, size_t length, bool parse_added,
                        proa_ids *ids, proa_error *err)
{
    proa_status status = check_length(length, err);
    if (status != PROA_OK || length == 0)
        return status;
    encoder->ids = ids;
    encoder->err = err;
    if (proa_utf8_valid_length(text, length) == length)
        return encode_valid(encoder, text, length, parse_added, NULL);
    proa_buf_clear(&encoder->clean);
    proa_utf8_append_valid(text, length, &encoder->clean);
    if (encoder->clean.failed)
        status = out_of_memory(err);
    else
        status = encode_valid(encoder, encoder->clean.data, encoder->clean.length, parse_added, NULL);
    give_back(&encoder->clean);
    return status;
}

proa_status proa_encode_trusted(proa_encoder *encoder, const char *text, size_t length,
                                const proa_text_range *trusted, size_t trusted_count, proa_ids *ids,
                                proa_error *err)
{
    proa_status status = check_length(length, err);
    if (status != PROA_OK || length == 0)
        return status;
    if (proa_utf8_valid_length(text, length) < length)
        return proa_error_set(err, PROA_ERR_INVALID, "the text is not UTF-8");
    encoder->ids = ids;
    encoder->err = err;
    const proa_added_scope scope = {text, trusted, trusted_count};
    return encode_valid(encoder, text, length, true, &scope);
}
