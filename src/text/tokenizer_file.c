/* tokenizer_file.c - tokenizer.json into tables.
 *
 * The whole file is parsed first, then read by key; every number and every name that one part uses of another is
 * checked here, so that encoding and decoding can index without doubt. "truncation", "padding" and "post_processor" are
 * not read: what they add (bos, for one) is the template's or the caller's business.
 */
#include "text/tokenizer_impl.h"

#include "base/file.h"
#include "base/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FILE_BYTES_MAX = 256 << 20, PATH_BYTES_MAX = 4096 };

typedef struct loader {
    proa_tokenizer *tokenizer;
    proa_buf scratch;
    proa_buf joined;
    proa_error *err;
} loader;

static proa_status out_of_memory(loader *l)
{
    return proa_error_set(l->err, PROA_ERR_MEMORY, "no memory left for the tokenizer");
}

static bool is_absent(const proa_json *value)
{
    return value == NULL || proa_json_is(value, PROA_JSON_NULL);
}

static const char *type_name(const proa_json *value)
{
    return value == NULL ? "missing" : proa_json_type_name(proa_json_type_of(value));
}

static proa_status need(loader *l, const proa_json *value, proa_json_type type, const char *name)
{
    if (proa_json_is(value, type))
        return PROA_OK;
    return proa_error_set(l->err, PROA_ERR_INVALID, "\"%s\" is %s; a %s is needed", name, type_name(value),
                          proa_json_type_name(type));
}

/* A boolean member of the object called `name`. */
static proa_status read_bool(loader *l, const proa_json *object, const char *name, const char *key,
                             bool otherwise, bool *value)
{
    const proa_json *member = proa_json_get(object, key);
    *value = proa_json_bool(member, otherwise);
    if (is_absent(member) || proa_json_is(member, PROA_JSON_BOOL))
        return PROA_OK;
    return proa_error_set(l->err, PROA_ERR_INVALID, "%s: \"%s\" is %s; true or false is needed", name, key,
                          type_name(member));
}

/* --- model --- */

static proa_status load_vocab(loader *l, const proa_json *vocab)
{
    proa_status status = need(l, vocab, PROA_JSON_OBJECT, "model.vocab");
    if (status != PROA_OK)
        return status;
    if (proa_json_size(vocab) == 0)
        return proa_error_set(l->err, PROA_ERR_INVALID, "\"model.vocab\" is empty");
    if (!proa_vocab_reserve(&l->tokenizer->model.vocab, proa_json_size(vocab)))
        return out_of_memory(l);
    for (void *it = proa_json_first(vocab); it != NULL; it = proa_json_next(vocab, it)) {
        const char *text = proa_json_key(it);
        const proa_json *id = proa_json_value(it);
        if (!proa_json_is(id, PROA_JSON_INT))
            return proa_error_set(l->err, PROA_ERR_INVALID,
                                  "model.vocab: the id of \"%.100s\" is a %s; an integer is needed", text,
                                  type_name(id));
        status =
            proa_vocab_add(&l->tokenizer->model.vocab, text, strlen(text), proa_json_int(id, -1), 0, l->err);
        if (status != PROA_OK)
            return proa_error_prefix(l->err, "model.vocab");
    }
    return PROA_OK;
}

/* The two sides of a merge, spelt "a b" or ["a", "b"]. */
static bool merge_sides(const proa_json *merge, const char *side[2], size_t length[2])
{
    if (proa_json_is(merge, PROA_JSON_STRING)) {
        const char *text = proa_json_string(merge, "");
        size_t n = proa_json_string_length(merge);
        const char *space = memchr(text, ' ', n);
        if (space == NULL || memchr(space + 1, ' ', n - (size_t)(space + 1 - text)) != NULL)
            return false;
        side[0] = text;
        length[0] = (size_t)(space - text);
        side[1] = space + 1;
        length[1] = n - length[0] - 1;
        return true;
    }
    if (!proa_json_is(merge, PROA_JSON_ARRAY) || proa_json_size(merge) != 2)
        return false;
    for (size_t i = 0; i < 2; i++) {
        const proa_json *part = proa_json_at(merge, i);
        if (!proa_json_is(part, PROA_JSON_STRING))
            return false;
        side[i] = proa_json_string(part, "");
        length[i] = proa_json_string_length(part);
    }
    return true;
}

static proa_status load_merge(loader *l, const proa_json *merge, size_t index)
{
    proa_vocab *vocab = &l->tokenizer->model.vocab;
    const char *side[2];
    size_t length[2];
    if (!merge_sides(merge, side, length))
        return proa_error_set(
            l->err, PROA_ERR_INVALID,
            "model.merges[%zu] is no pair; \"a b\" with one space or [\"a\", \"b\"] is needed", index);
    int32_t id[3];
    for (size_t i = 0; i < 3; i++) {
        const char *text = side[i < 2 ? i : 0];
        size_t n = length[i < 2 ? i : 0];
        if (i == 2) {
            proa_buf_clear(&l->joined);
            proa_buf_append(&l->joined, side[0], length[0]);
            proa_buf_append(&l->joined, side[1], length[1]);
            text = proa_buf_text(&l->joined);
            n = l->joined.length;
        }
        id[i] = proa_vocab_find(vocab, text, n, &l->scratch);
        if (l->joined.failed || l->scratch.failed)
            return out_of_memory(l);
        if (id[i] < 0)
            return proa_error_set(l->err, PROA_ERR_INVALID,
                                  "model.merges[%zu] %s \"%.*s\", which is not in model.vocab", index,
                                  i == 2 ? "makes" : "names", n > 100 ? 100 : (int)n, text);
    }
    proa_vocab_add_merge(vocab, id[0], id[1], (uint32_t)index, id[2]);
    return PROA_OK;
}

static proa_status load_merges(loader *l, const proa_json *merges)
{
    proa_status status = need(l, merges, PROA_JSON_ARRAY, "model.merges");
    if (status != PROA_OK)
        return status;
    size_t count = proa_json_size(merges);
    if (count >= UINT32_MAX || !proa_vocab_reserve_merges(&l->tokenizer->model.vocab, count))
        return out_of_memory(l);
    for (size_t i = 0; i < count; i++) {
        const proa_json *merge = proa_json_at(merges, i);
        if (strncmp(proa_json_string(merge, ""), "#version", 8) == 0) /* a first line of old files */
            continue;
        status = load_merge(l, merge, i);
        if (status != PROA_OK)
            return status;
    }
    return PROA_OK;
}

/* Features of BPE that byte-level models do not use. */
static proa_status refuse_other_bpe(loader *l, const proa_json *model)
{
    static const char *const empty_strings[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    for (size_t i = 0; i < sizeof empty_strings / sizeof empty_strings[0]; i++) {
        const proa_json *value = proa_json_get(model, empty_strings[i]);
        if (!is_absent(value) && strcmp(proa_json_string(value, "?"), "") != 0)
            return proa_error_set(l->err, PROA_ERR_UNSUPPORTED,
                                  "model: \"%s\" is not supported; byte-level BPE has none",
                                  empty_strings[i]);
    }
    const proa_json *dropout = proa_json_get(model, "dropout");
    if (!is_absent(dropout) && proa_json_real(dropout, 1.0) != 0.0)
        return proa_error_set(l->err, PROA_ERR_UNSUPPORTED,
                              "model: \"dropout\" is for training; set it to null");
    bool byte_fallback;
    proa_status status = read_bool(l, model, "model", "byte_fallback", false, &byte_fallback);
    if (status == PROA_OK && byte_fallback)
        status = proa_error_set(l->err, PROA_ERR_UNSUPPORTED,
                                "model: \"byte_fallback\" is not supported; only byte-level BPE is");
    return status;
}

static proa_status load_unknown(loader *l, const proa_json *model)
{
    proa_bpe_model *made = &l->tokenizer->model;
    made->unknown_id = -1;
    proa_status status = read_bool(l, model, "model", "fuse_unk", false, &made->fuse_unknown);
    const proa_json *token = proa_json_get(model, "unk_token");
    if (status != PROA_OK || is_absent(token))
        return status;
    status = need(l, token, PROA_JSON_STRING, "model.unk_token");
    if (status != PROA_OK)
        return status;
    const char *text = proa_json_string(token, "");
    made->unknown_id = proa_vocab_find(&made->vocab, text, strlen(text), &l->scratch);
    if (made->unknown_id < 0)
        return proa_error_set(l->err, PROA_ERR_INVALID, "model.unk_token \"%.100s\" is not in model.vocab",
                              text);
    return PROA_OK;
}

static proa_status load_model(loader *l, const proa_json *model)
{
    proa_status status = need(l, model, PROA_JSON_OBJECT, "model");
    if (status != PROA_OK)
        return status;
    const char *type = proa_json_string(proa_json_get(model, "type"), "BPE"); /* old files do not say */
    if (strcmp(type, "BPE") != 0)
        return proa_error_set(l->err, PROA_ERR_UNSUPPORTED,
                              "model: type \"%.60s\" is not supported; only BPE is", type);
    status = refuse_other_bpe(l, model);
    if (status == PROA_OK)
        status = read_bool(l, model, "model", "ignore_merges", false, &l->tokenizer->model.ignore_merges);
    if (status == PROA_OK)
        status = load_vocab(l, proa_json_get(model, "vocab"));
    if (status == PROA_OK)
        status = load_merges(l, proa_json_get(model, "merges"));
    if (status == PROA_OK)
        status = load_unknown(l, model);
    return status;
}

/* --- added tokens --- */

/* Enters the token into the vocabulary, or marks the one that is there. */
static proa_status enter_added(loader *l, const char *text, size_t length, int64_t id, bool special,
                               size_t index)
{
    proa_vocab *vocab = &l->tokenizer->model.vocab;
    uint32_t flags = PROA_TOKEN_ADDED | (special ? PROA_TOKEN_SPECIAL : 0);
    int32_t known = proa_vocab_find(vocab, text, length, &l->scratch);
    if (l->scratch.failed)
        return out_of_memory(l);
    if (known < 0) {
        proa_status status = proa_vocab_add(vocab, text, length, id, flags, l->err);
        return status == PROA_OK ? status : proa_error_prefix(l->err, "added_tokens[%zu]", index);
    }
    if (known != id)
        return proa_error_set(
            l->err, PROA_ERR_INVALID,
            "added_tokens[%zu]: \"%.100s\" has id %lld here and %d in the vocabulary or another "
            "added token",
            index, text, (long long)id, known);
    if (vocab->tokens[known].flags & PROA_TOKEN_ADDED)
        return proa_error_set(l->err, PROA_ERR_INVALID, "added_tokens[%zu]: \"%.100s\" was added before",
                              index, text);
    vocab->tokens[known].flags |= flags;
    return PROA_OK;
}

/* Leaves token->length 0 when there is nothing to search for. */
static proa_status load_added_token(loader *l, const proa_json *entry, size_t index, proa_added_token *token,
                                    bool *normalized)
{
    char name[48];
    snprintf(name, sizeof name, "added_tokens[%zu]", index);
    proa_status status = need(l, entry, PROA_JSON_OBJECT, name);
    if (status != PROA_OK)
        return status;
    const proa_json *content = proa_json_get(entry, "content"), *id = proa_json_get(entry, "id");
    if (!proa_json_is(content, PROA_JSON_STRING) || !proa_json_is(id, PROA_JSON_INT))
        return proa_error_set(l->err, PROA_ERR_INVALID,
                              "%s: \"content\" (%s) must be a string and \"id\" (%s) an integer", name,
                              type_name(content), type_name(id));
    bool special;
    struct {
        const char *key;
        bool otherwise;
        bool *value;
    } flags[] = {{"special", false, &special},
                 {"single_word", false, &token->single_word},
                 {"lstrip", false, &token->lstrip},
                 {"rstrip", false, &token->rstrip},
                 {"normalized", true, normalized}};
    for (size_t i = 0; i < sizeof flags / sizeof flags[0]; i++) {
        bool otherwise = flags[i].value == normalized ? !special : flags[i].otherwise;
        status = read_bool(l, entry, name, flags[i].key, otherwise, flags[i].value);
        if (status != PROA_OK)
            return status;
    }
    size_t length = proa_json_string_length(content);
    if (length == 0) /* passed over, as Hugging Face does */
        return PROA_OK;
    status = enter_added(l, proa_json_string(content, ""), length, proa_json_int(id, -1), special, index);
    if (status != PROA_OK)
        return status;
    token->id = (int32_t)proa_json_int(id, -1);
    token->length = (uint32_t)length;
    token->text = proa_arena_string(l->tokenizer->texts, proa_json_string(content, ""), length);
    return token->text == NULL ? out_of_memory(l) : PROA_OK;
}

static proa_status load_added(loader *l, const proa_json *list)
{
    if (is_absent(list))
        return PROA_OK;
    proa_status status = need(l, list, PROA_JSON_ARRAY, "added_tokens");
    size_t total = proa_json_size(list), verbatim_count = 0, normalized_count = 0;
    if (status != PROA_OK || total == 0)
        return status;
    proa_added_token *verbatim = calloc(total, sizeof *verbatim),
                     *normalized = calloc(total, sizeof *normalized);
    if (verbatim == NULL || normalized == NULL) {
        free(verbatim);
        free(normalized);
        return out_of_memory(l);
    }
    for (size_t i = 0; status == PROA_OK && i < total; i++) {
        proa_added_token token = {0};
        bool is_normalized = false;
        status = load_added_token(l, proa_json_at(list, i), i, &token, &is_normalized);
        if (status != PROA_OK || token.length == 0)
            continue;
        if (is_normalized)
            normalized[normalized_count++] = token;
        else
            verbatim[verbatim_count++] = token;
    }
    proa_added_set_init(&l->tokenizer->verbatim, verbatim, verbatim_count);
    proa_added_set_init(&l->tokenizer->normalized, normalized, normalized_count);
    return status;
}

/* --- normalizer, decoder --- */

/* Only what does nothing: null, or a Sequence of such. */
static proa_status check_normalizer(loader *l, const proa_json *value, int depth)
{
    if (is_absent(value))
        return PROA_OK;
    const char *type = proa_json_string(proa_json_get(value, "type"), "");
    const proa_json *list = proa_json_get(value, "normalizers");
    if (strcmp(type, "Sequence") != 0 || !proa_json_is(list, PROA_JSON_ARRAY) || depth > 8)
        return proa_error_set(
            l->err, PROA_ERR_UNSUPPORTED,
            "normalizer: type \"%.60s\" is not supported; only null and an empty Sequence are", type);
    for (size_t i = 0; i < proa_json_size(list); i++) {
        proa_status status = check_normalizer(l, proa_json_at(list, i), depth + 1);
        if (status != PROA_OK)
            return status;
    }
    return PROA_OK;
}

/* ByteLevel, or a Sequence of just that. */
static proa_status check_decoder(loader *l, const proa_json *value)
{
    const char *type = proa_json_string(proa_json_get(value, "type"), "");
    if (strcmp(type, "ByteLevel") == 0)
        return PROA_OK;
    const proa_json *list = proa_json_get(value, "decoders");
    if (strcmp(type, "Sequence") == 0 && proa_json_size(list) == 1 &&
        strcmp(proa_json_string(proa_json_get(proa_json_at(list, 0), "type"), ""), "ByteLevel") == 0)
        return PROA_OK;
    return proa_error_set(l->err, PROA_ERR_UNSUPPORTED,
                          "decoder: type \"%.60s\" is not supported; only ByteLevel is",
                          value == NULL ? "none" : type);
}

/* --- the file --- */

static proa_status load_root(loader *l, const proa_json *root)
{
    if (!proa_json_is(root, PROA_JSON_OBJECT))
        return proa_error_set(l->err, PROA_ERR_INVALID, "the file is a JSON %s; an object is needed",
                              type_name(root));
    proa_status status = check_normalizer(l, proa_json_get(root, "normalizer"), 0);
    if (status == PROA_OK)
        status = proa_pretokenizer_parse(proa_json_get(root, "pre_tokenizer"), &l->tokenizer->pre, l->err);
    if (status == PROA_OK)
        status = check_decoder(l, proa_json_get(root, "decoder"));
    if (status == PROA_OK)
        status = load_model(l, proa_json_get(root, "model"));
    if (status == PROA_OK)
        status = load_added(l, proa_json_get(root, "added_tokens"));
    if (status == PROA_OK)
        status = proa_regex_compile(proa_added_word_pattern, strlen(proa_added_word_pattern),
                                    PROA_REGEX_PCRE2, "word characters", &l->tokenizer->word, l->err);
    return status;
}

proa_status proa_tokenizer_parse(const char *json, size_t length, const char *where,
                                 proa_tokenizer **tokenizer, proa_error *err)
{
    *tokenizer = NULL;
    proa_tokenizer *made = calloc(1, sizeof *made);
    if (made == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory left for the tokenizer");
    proa_vocab_init(&made->model.vocab);
    made->texts = proa_arena_create(0);
    loader l = {.tokenizer = made, .err = err};
    proa_status status = PROA_OK;
    proa_json *root = NULL;
    if (made->texts == NULL) {
        status = out_of_memory(&l);
    } else {
        root = proa_json_parse(json, length, err);
        status = root == NULL ? PROA_ERR_INVALID : load_root(&l, root);
    }
    proa_json_free(root);
    proa_buf_free(&l.scratch);
    proa_buf_free(&l.joined);
    if (status == PROA_OK) {
        *tokenizer = made;
        return PROA_OK;
    }
    proa_tokenizer_free(made);
    if (err != NULL)
        proa_error_prefix(err, "%s", where);
    return status;
}

proa_status proa_tokenizer_load(const char *dir, proa_tokenizer **tokenizer, proa_error *err)
{
    *tokenizer = NULL;
    char path[PATH_BYTES_MAX];
    int n = snprintf(path, sizeof path, "%s/tokenizer.json", dir);
    if (n < 0 || (size_t)n >= sizeof path)
        return proa_error_set(err, PROA_ERR_TOO_LONG, "the path %.100s... is too long", dir);
    proa_buf text = {0};
    proa_status status = proa_file_read(path, FILE_BYTES_MAX, &text, err);
    if (status == PROA_OK)
        status = proa_tokenizer_parse(proa_buf_text(&text), text.length, path, tokenizer, err);
    proa_buf_free(&text);
    return status;
}
