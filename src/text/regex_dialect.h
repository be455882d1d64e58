/* regex_dialect.h - Oniguruma's pattern dialect in PCRE2's words. Pure; any thread may call. */
#ifndef PROA_TEXT_REGEX_DIALECT_H
#define PROA_TEXT_REGEX_DIALECT_H

#include "base/buf.h"
#include "base/status.h"

/* Appends the PCRE2 pattern that matches what `pattern` matches in Oniguruma (Ruby syntax, UTF-8), to be compiled with
 * UTF, UCP and MULTILINE. What has no translation is PROA_ERR_UNSUPPORTED, what is malformed PROA_ERR_INVALID, with
 * the byte offset. */
proa_status proa_regex_translate(const char *pattern, size_t length, proa_buf *out, proa_error *err);

#endif
