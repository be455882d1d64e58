/* regex.h - regular expressions of tokenizer files, with the meaning Hugging Face gives them.
 *
 * Patterns are written in Oniguruma's dialect (its Ruby syntax over UTF-8, Unicode 16), which is what Hugging Face's
 * tokenizers compile them with; regex_dialect.c translates to PCRE2's and names what it does not know. PCRE2 runs
 * them, compiled by its JIT where the system allows. Matches are bounded by a step and a stack limit, so that a hostile
 * pattern fails instead of running away.
 *
 * PCRE2 may know an older Unicode than 16: match against proa_unicode_shadow's copy of the text (unicode_shadow.h),
 * not the text itself.
 *
 * A compiled pattern is immutable: any thread may match with a scratch of its own.
 */
#ifndef PROA_TEXT_REGEX_H
#define PROA_TEXT_REGEX_H

#include "base/status.h"

typedef struct proa_regex proa_regex;

typedef enum proa_regex_syntax {
    PROA_REGEX_ONIGURUMA, /* a file's */
    PROA_REGEX_LITERAL,   /* no operators */
    PROA_REGEX_PCRE2,     /* our own: not translated */
} proa_regex_syntax;

/* `where` names the pattern in messages ("pre_tokenizer, stage 1"). */
proa_status proa_regex_compile(const char *pattern, size_t length, proa_regex_syntax syntax,
                               const char *where, proa_regex **regex, proa_error *err);
void proa_regex_free(proa_regex *regex); /* accepts NULL */

/* Working memory of matches: one thread at a time, serves every pattern. */
typedef struct proa_regex_scratch proa_regex_scratch;
proa_regex_scratch *proa_regex_scratch_create(void);
void proa_regex_scratch_free(proa_regex_scratch *scratch); /* accepts NULL */

/* The first match that starts at or after byte `from` (a character's boundary, <= length). `text` is valid UTF-8.
 * PROA_OK and the match's bytes [*start, *end), PROA_END when there is none; PROA_ERR_TOO_LONG when a limit is hit. */
proa_status proa_regex_find(const proa_regex *regex, proa_regex_scratch *scratch, const char *text,
                            size_t length, size_t from, size_t *start, size_t *end, proa_error *err);

#endif
