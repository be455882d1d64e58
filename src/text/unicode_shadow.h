/* unicode_shadow.h - a copy of a text in which characters newer than PCRE2's Unicode stand as older ones.
 *
 * Which characters are letters or symbols decides where a pre-tokenizer cuts. Hugging Face's Oniguruma knows Unicode
 * 16, PCRE2 10.42 knows 14: U+1FAE8 (shaking face) would be a symbol to one and nothing to the other. So patterns run
 * over a shadow of the text, in which each such character is replaced by one of the same category, script and
 * length in bytes; offsets found there hold in the text. With a newer PCRE2 the shadow changes nothing. Lacks: scripts
 * whose first characters of that length are new (Cyrillic at U+1E030) keep the category alone.
 * Pure; any thread may call.
 */
#ifndef PROA_TEXT_UNICODE_SHADOW_H
#define PROA_TEXT_UNICODE_SHADOW_H

#include "base/buf.h"

#include <stddef.h>
#include <stdint.h>

typedef struct proa_unicode_shadow_row {
    uint32_t first, last; /* these */
    uint32_t substitute;  /* stand as this */
} proa_unicode_shadow_row;

/* Ascending. */
extern const proa_unicode_shadow_row proa_unicode_shadow_rows[];
extern const size_t proa_unicode_shadow_row_count;

/* The shadow of `text` (valid UTF-8): `text` itself when nothing needs replacing, otherwise its copy in `memory`, which
 * is overwritten. NULL when memory is out. */
const char *proa_unicode_shadow(const char *text, size_t length, proa_buf *memory);

#endif
