/* shell.h - words for a POSIX shell. Pure; any thread. */
#ifndef PROA_BASE_SHELL_H
#define PROA_BASE_SHELL_H

#include "base/buf.h"

/* Appends `word` so that a shell reads it as one word of exactly these bytes: as it is when no shell gives a meaning to any of it, else
 * in single quotes. */
void proa_shell_quote(proa_buf *out, const char *word);

#endif
