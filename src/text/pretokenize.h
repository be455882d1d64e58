/* pretokenize.h - cuts a text into the words that BPE encodes one by one.
 *
 * The stages of tokenizer.json's pre_tokenizer, flattened: each cuts what the stage before it passed on, and sees each
 * piece as a text of its own (a lookahead does not see beyond it), as in Hugging Face's tokenizers. Immutable once
 * parsed; any thread may run it with a scratch of its own.
 */
#ifndef PROA_TEXT_PRETOKENIZE_H
#define PROA_TEXT_PRETOKENIZE_H

#include "base/json.h"
#include "text/regex.h"

enum { PROA_PRETOKENIZE_STAGES_MAX = 16 };

/* What becomes of a match of the pattern, and of what lies between. */
typedef enum proa_split_behavior {
    PROA_SPLIT_REMOVED,
    PROA_SPLIT_ISOLATED,
    PROA_SPLIT_MERGED_WITH_PREVIOUS,
    PROA_SPLIT_MERGED_WITH_NEXT,
    PROA_SPLIT_CONTIGUOUS,
} proa_split_behavior;

typedef struct proa_pretokenize_stage {
    proa_regex *regex; /* NULL: only the prefix space */
    proa_split_behavior behavior;
    bool invert;       /* the pattern describes what lies between */
    bool prefix_space; /* before it, a piece that begins with no space gets one */
} proa_pretokenize_stage;

typedef struct proa_pretokenizer {
    proa_pretokenize_stage stages[PROA_PRETOKENIZE_STAGES_MAX];
    size_t count;
} proa_pretokenizer;

/* From the JSON value of "pre_tokenizer". One that does not end in ByteLevel is PROA_ERR_UNSUPPORTED. */
proa_status proa_pretokenizer_parse(const proa_json *value, proa_pretokenizer *pre, proa_error *err);
void proa_pretokenizer_free(proa_pretokenizer *pre); /* accepts half-built ones */

/* Takes a word; anything but PROA_OK ends the run and is returned by it. */
typedef proa_status (*proa_word_sink)(void *context, const char *word, size_t length);

/* A piece of text and its shadow (unicode_shadow.h). */
typedef struct proa_text_piece {
    const char *text;
    const char *shadow;
    size_t length;
} proa_text_piece;

proa_status proa_pretokenize(const proa_pretokenizer *pre, proa_regex_scratch *scratch, proa_text_piece piece,
                             proa_word_sink sink, void *context, proa_error *err);

#endif
