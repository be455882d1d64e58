/* added.h - added tokens: found in a text before anything else cuts it.
 *
 * As in Hugging Face's tokenizers: leftmost match, the longest of those that start there; a single_word token counts
 * only between non-word characters; lstrip and rstrip take the white space beside the token with it. The tokenizer
 * searches twice: tokens with "normalized": false in the whole text, then the others in what lies between. Immutable
 * once made; any thread may search with a scratch of its own.
 */
#ifndef PROA_TEXT_ADDED_H
#define PROA_TEXT_ADDED_H

#include "text/regex.h"

#include <stddef.h>
#include <stdint.h>

typedef struct proa_added_token {
    const char *text; /* borrowed */
    uint32_t length;  /* > 0 */
    int32_t id;
    bool single_word;
    bool lstrip;
    bool rstrip;
} proa_added_token;

/* Sorted by bytes: tokens with a common prefix are a range, which each byte of text narrows. */
typedef struct proa_added_set {
    proa_added_token *tokens;
    size_t count;
    unsigned char starts[256]; /* 1: a token begins with this byte */
} proa_added_set;

/* Sorts; takes over `tokens` (from malloc, may be NULL when count is 0). The texts differ. */
void proa_added_set_init(proa_added_set *set, proa_added_token *tokens, size_t count);
void proa_added_set_free(proa_added_set *set);

/* The pattern (PCRE2) that matches a word character, as Rust's regex crate has it: for proa_added_search. */
extern const char proa_added_word_pattern[];

/* Where added tokens may stand: ranges of a larger text, ascending, none touching the next. A token that lies wholly
 * in one of them counts, any other is plain text. */
typedef struct proa_added_scope {
    const char *origin; /* the larger text, that the ranges are in */
    const struct proa_text_range *ranges;
    size_t count;
} proa_added_scope;

/* A search through one text; set `at` and `taken` to 0. */
typedef struct proa_added_search {
    const proa_added_set *set;
    const proa_added_scope *scope; /* NULL: everywhere */
    const char *text;              /* valid UTF-8; inside scope->origin */
    const char *shadow;            /* see unicode_shadow.h */
    size_t length;
    const proa_regex *word;
    proa_regex_scratch *scratch;
    size_t at;    /* searched up to here */
    size_t taken; /* end of the latest match */
} proa_added_search;

typedef struct proa_added_match {
    int32_t id;
    size_t start, end; /* with the white space that it takes */
} proa_added_match;

/* The next token that counts; false at the end. */
bool proa_added_next(proa_added_search *search, proa_added_match *match);

#endif
