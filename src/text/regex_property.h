/* regex_property.h - names of Unicode properties in PCRE2's words. Pure; any thread may call. */
#ifndef PROA_TEXT_REGEX_PROPERTY_H
#define PROA_TEXT_REGEX_PROPERTY_H

#include "base/buf.h"

/* Appends \p{...} or \P{...} for a name as Oniguruma takes it: any case, with or without spaces, '_' and '-'. False when
 * it is none; a script is not checked here but by PCRE2. */
bool proa_regex_property(const char *name, size_t length, bool negated, proa_buf *out);

#endif
