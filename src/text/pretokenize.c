/* pretokenize.c - parsing and running the stages; a piece goes through all of them before the next one is cut.
 *
 * Merging behaviours look one piece back, so a stage holds one piece until it knows whether the next one joins it.
 */
#include "text/pretokenize.h"

#include "base/buf.h"

#include <stdio.h>
#include <string.h>

/* --- parsing --- */

/* The pattern that a ByteLevel with use_regex cuts by: GPT-2's. */
static const char gpt2_pattern[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

enum { NESTING_MAX = 8 };

typedef struct parser {
    proa_pretokenizer *pre;
    bool ended; /* a ByteLevel has come */
    proa_error *err;
} parser;

static proa_status add_stage(parser *p, const char *pattern, size_t length, proa_regex_syntax syntax,
                             proa_pretokenize_stage stage)
{
    if (p->pre->count == PROA_PRETOKENIZE_STAGES_MAX)
        return proa_error_set(p->err, PROA_ERR_UNSUPPORTED, "pre_tokenizer has more than %d stages",
                              PROA_PRETOKENIZE_STAGES_MAX);
    if (pattern != NULL) {
        char where[40];
        snprintf(where, sizeof where, "pre_tokenizer, stage %zu", p->pre->count + 1);
        proa_status status = proa_regex_compile(pattern, length, syntax, where, &stage.regex, p->err);
        if (status != PROA_OK)
            return status;
    }
    p->pre->stages[p->pre->count++] = stage;
    return PROA_OK;
}

/* A boolean member, `otherwise` when absent. */
static proa_status read_bool(parser *p, const proa_json *object, const char *key, bool otherwise, bool *value)
{
    const proa_json *member = proa_json_get(object, key);
    *value = proa_json_bool(member, otherwise);
    if (member != NULL && !proa_json_is(member, PROA_JSON_BOOL))
        return proa_error_set(p->err, PROA_ERR_INVALID,
                              "pre_tokenizer: \"%s\" is a %s; true or false is needed", key,
                              proa_json_type_name(proa_json_type_of(member)));
    return PROA_OK;
}

static proa_status parse_split(parser *p, const proa_json *value)
{
    static const char *const names[] = {"Removed", "Isolated", "MergedWithPrevious", "MergedWithNext",
                                        "Contiguous"};
    proa_pretokenize_stage stage = {0};
    proa_status status = read_bool(p, value, "invert", false, &stage.invert);
    if (status != PROA_OK)
        return status;
    const char *behavior = proa_json_string(proa_json_get(value, "behavior"), "");
    size_t i = 0;
    while (i < sizeof names / sizeof names[0] && strcmp(behavior, names[i]) != 0)
        i++;
    if (i == sizeof names / sizeof names[0])
        return proa_error_set(p->err, PROA_ERR_INVALID,
                              "pre_tokenizer: Split has the behavior \"%.60s\"; known are Removed, Isolated, "
                              "MergedWithPrevious, MergedWithNext and Contiguous",
                              behavior);
    stage.behavior = (proa_split_behavior)i;
    const proa_json *pattern = proa_json_get(value, "pattern");
    const proa_json *regex = proa_json_is(pattern, PROA_JSON_OBJECT) ? proa_json_get(pattern, "Regex") : NULL;
    const proa_json *string =
        proa_json_is(pattern, PROA_JSON_OBJECT) ? proa_json_get(pattern, "String") : NULL;
    const proa_json *source = regex != NULL ? regex : string;
    if (!proa_json_is(source, PROA_JSON_STRING))
        return proa_error_set(
            p->err, PROA_ERR_INVALID,
            "pre_tokenizer: Split needs \"pattern\": {\"Regex\": \"...\"} or {\"String\": \"...\"}");
    return add_stage(p, proa_json_string(source, ""), proa_json_string_length(source), regex == NULL, stage);
}

static proa_status parse_digits(parser *p, const proa_json *value)
{
    bool individual;
    proa_status status = read_bool(p, value, "individual_digits", false, &individual);
    if (status != PROA_OK)
        return status;
    proa_pretokenize_stage stage = {.behavior = individual ? PROA_SPLIT_ISOLATED : PROA_SPLIT_CONTIGUOUS};
    return add_stage(p, "\\p{N}", 5, PROA_REGEX_ONIGURUMA, stage);
}

static proa_status parse_byte_level(parser *p, const proa_json *value)
{
    bool prefix_space, use_regex;
    proa_status status = read_bool(p, value, "add_prefix_space", true, &prefix_space);
    if (status == PROA_OK)
        status = read_bool(p, value, "use_regex", true, &use_regex);
    if (status != PROA_OK)
        return status;
    p->ended = true;
    if (!prefix_space && !use_regex)
        return PROA_OK;
    proa_pretokenize_stage stage = {.behavior = PROA_SPLIT_ISOLATED, .prefix_space = prefix_space};
    return add_stage(p, use_regex ? gpt2_pattern : NULL, sizeof gpt2_pattern - 1, PROA_REGEX_ONIGURUMA,
                     stage);
}

static proa_status parse_one(parser *p, const proa_json *value, int depth)
{
    if (!proa_json_is(value, PROA_JSON_OBJECT))
        return proa_error_set(p->err, PROA_ERR_INVALID, "pre_tokenizer: an object with a \"type\" is needed");
    const char *type = proa_json_string(proa_json_get(value, "type"), "");
    if (p->ended && strcmp(type, "Sequence") != 0)
        return proa_error_set(
            p->err, PROA_ERR_UNSUPPORTED,
            "pre_tokenizer: %.60s after ByteLevel is not supported; ByteLevel must come last", type);
    if (strcmp(type, "Split") == 0)
        return parse_split(p, value);
    if (strcmp(type, "Digits") == 0)
        return parse_digits(p, value);
    if (strcmp(type, "ByteLevel") == 0)
        return parse_byte_level(p, value);
    if (strcmp(type, "Sequence") != 0)
        return proa_error_set(
            p->err, PROA_ERR_UNSUPPORTED,
            "pre_tokenizer: type \"%.60s\" is not supported; known are Split, Digits, ByteLevel "
            "and Sequence",
            type);
    const proa_json *list = proa_json_get(value, "pretokenizers");
    if (!proa_json_is(list, PROA_JSON_ARRAY))
        return proa_error_set(p->err, PROA_ERR_INVALID,
                              "pre_tokenizer: Sequence needs an array \"pretokenizers\"");
    if (depth == NESTING_MAX)
        return proa_error_set(p->err, PROA_ERR_UNSUPPORTED, "pre_tokenizer: Sequences nested deeper than %d",
                              NESTING_MAX);
    for (size_t i = 0; i < proa_json_size(list); i++) {
        proa_status status = parse_one(p, proa_json_at(list, i), depth + 1);
        if (status != PROA_OK)
            return status;
    }
    return PROA_OK;
}

proa_status proa_pretokenizer_parse(const proa_json *value, proa_pretokenizer *pre, proa_error *err)
{
    *pre = (proa_pretokenizer){0};
    parser p = {.pre = pre, .err = err};
    proa_status status = PROA_OK;
    if (value != NULL && !proa_json_is(value, PROA_JSON_NULL))
        status = parse_one(&p, value, 0);
    if (status == PROA_OK && !p.ended)
        status = proa_error_set(err, PROA_ERR_UNSUPPORTED,
                                "pre_tokenizer has no ByteLevel; only byte-level BPE is supported");
    return status;
}

void proa_pretokenizer_free(proa_pretokenizer *pre)
{
    for (size_t i = 0; i < pre->count; i++)
        proa_regex_free(pre->stages[i].regex);
    pre->count = 0;
}

/* --- running --- */

typedef struct run {
    const proa_pretokenizer *pre;
    proa_regex_scratch *scratch;
    proa_word_sink sink;
    void *context;
    proa_error *err;
} run;

static proa_status run_stage(run *r, size_t stage, proa_text_piece piece);

/* One stage's cutting of one piece: what waits for its successor. */
typedef struct cutter {
    run *run;
    size_t stage;
    proa_text_piece piece;
    size_t start, end; /* of what waits */
    bool waiting;
    bool is_match; /* the kind of its latest part */
} cutter;

static proa_status pass_on(cutter *c, size_t start, size_t end)
{
    if (start == end)
        return PROA_OK;
    proa_text_piece part = {c->piece.text + start, c->piece.shadow + start, end - start};
    return run_stage(c->run, c->stage + 1, part);
}

/* Does a part of this kind join the one that waits? The rules are Hugging Face's, read from their effect: the previous
 * part takes the first match after it; a match takes what follows it, unless that is a match too. */
static bool joins(proa_split_behavior behavior, bool waiting_is_match, bool is_match)
{
    switch (behavior) {
    case PROA_SPLIT_MERGED_WITH_PREVIOUS: return !waiting_is_match && is_match;
    case PROA_SPLIT_MERGED_WITH_NEXT: return waiting_is_match && !is_match;
    case PROA_SPLIT_CONTIGUOUS: return waiting_is_match == is_match;
    case PROA_SPLIT_REMOVED:
    case PROA_SPLIT_ISOLATED: break;
    }
    return false;
}

static proa_status cut(cutter *c, size_t start, size_t end, bool is_match)
{
    const proa_pretokenize_stage *stage = &c->run->pre->stages[c->stage];
    is_match ^= stage->invert;
    if (stage->behavior == PROA_SPLIT_ISOLATED)
        return pass_on(c, start, end);
    if (stage->behavior == PROA_SPLIT_REMOVED)
        return is_match ? PROA_OK : pass_on(c, start, end);
    if (c->waiting && joins(stage->behavior, c->is_match, is_match)) {
        c->end = end;
        c->is_match = is_match;
        return PROA_OK;
    }
    proa_status status = c->waiting ? pass_on(c, c->start, c->end) : PROA_OK;
    c->waiting = true;
    c->start = start;
    c->end = end;
    c->is_match = is_match;
    return status;
}

/* Matches as Rust's onig iterates them: one that is empty and begins where the last one ended is passed over. */
static proa_status cut_matches(cutter *c, const proa_regex *regex)
{
    size_t length = c->piece.length, previous = 0, from = 0, last_end = SIZE_MAX;
    proa_status status = PROA_OK;
    while (status == PROA_OK && from <= length) {
        size_t start, end;
        status =
            proa_regex_find(regex, c->run->scratch, c->piece.shadow, length, from, &start, &end, c->run->err);
        if (status != PROA_OK)
            break;
        if (start == end && end == last_end) {
            from++;
            while (from < length && ((unsigned char)c->piece.text[from] & 0xc0) == 0x80)
                from++;
            continue;
        }
        from = last_end = end;
        if (previous != start)
            status = cut(c, previous, start, false);
        if (status == PROA_OK)
            status = cut(c, start, end, true);
        previous = end;
    }
    if ((status == PROA_OK || status == PROA_END) && previous != length)
        return cut(c, previous, length, false);
    return status == PROA_END ? PROA_OK : status;
}

static proa_status run_with_space(run *r, size_t stage, proa_text_piece piece)
{
    proa_buf text = {0}, shadow = {0};
    proa_buf_append_char(&text, ' ');
    proa_buf_append(&text, piece.text, piece.length);
    proa_buf_append_char(&shadow, ' ');
    proa_buf_append(&shadow, piece.shadow, piece.length);
    proa_status status;
    if (text.failed || shadow.failed)
        status = proa_error_set(r->err, PROA_ERR_MEMORY, "no memory left to tokenize");
    else
        status = run_stage(r, stage, (proa_text_piece){text.data, shadow.data, text.length});
    proa_buf_free(&text);
    proa_buf_free(&shadow);
    return status;
}

static proa_status run_stage(run *r, size_t stage, proa_text_piece piece)
{
    if (stage == r->pre->count)
        return r->sink(r->context, piece.text, piece.length);
    const proa_pretokenize_stage *s = &r->pre->stages[stage];
    if (s->prefix_space && piece.text[0] != ' ')
        return run_with_space(r, stage, piece);
    if (s->regex == NULL)
        return run_stage(r, stage + 1, piece);
    cutter c = {.run = r, .stage = stage, .piece = piece};
    proa_status status = cut_matches(&c, s->regex);
    if (status == PROA_OK && c.waiting)
        status = pass_on(&c, c.start, c.end);
    return status;
}

proa_status proa_pretokenize(const proa_pretokenizer *pre, proa_regex_scratch *scratch, proa_text_piece piece,
                             proa_word_sink sink, void *context, proa_error *err)
{
    if (piece.length == 0)
        return PROA_OK;
    run r = {pre, scratch, sink, context, err};
    return run_stage(&r, 0, piece);
}
