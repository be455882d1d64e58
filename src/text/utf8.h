/* utf8.h - UTF-8 one step at a time, and text made valid.
 *
 * What is not valid becomes U+FFFD once for each maximal subpart (Unicode 16, 3.9, "Substitution of Maximal
 * Subparts"): what Rust's lossy conversion, Python's errors="replace" and the WHATWG decoder do. Any thread may call.
 */
#ifndef PROA_TEXT_UTF8_H
#define PROA_TEXT_UTF8_H

#include "base/buf.h"

#include <stddef.h>
#include <stdint.h>

#define PROA_UTF8_REPLACEMENT "\xef\xbf\xbd"

typedef enum proa_utf8_kind {
    PROA_UTF8_VALID,
    PROA_UTF8_BROKEN,     /* a maximal subpart that no continuation can make valid */
    PROA_UTF8_UNFINISHED, /* all bytes up to the end; more bytes could make it valid */
} proa_utf8_kind;

typedef struct proa_utf8_step {
    proa_utf8_kind kind;
    uint32_t length; /* bytes: 1 to 4 */
    uint32_t code;   /* of a valid one */
} proa_utf8_step;

/* Looks at the sequence that starts at `text`; left >= 1. */
proa_utf8_step proa_utf8_look(const char *text, size_t left);

/* Bytes of the longest valid prefix. */
size_t proa_utf8_valid_length(const char *text, size_t length);

/* Appends `text`, invalid parts replaced. */
void proa_utf8_append_valid(const char *text, size_t length, proa_buf *out);

/* Writes a code point (<= 0x10ffff, no surrogate) to `out`, 4 bytes of room; returns its length. */
size_t proa_utf8_encode(uint32_t code, char *out);

#endif
