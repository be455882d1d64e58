/* shell.c - quoting. Single quotes keep everything but a single quote, which leaves them, is escaped, and enters them again. */
#include "base/shell.h"

#include <string.h>

static const char plain[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-./:,@%+=";

void proa_shell_quote(proa_buf *out, const char *word)
{
    /* a '=' in front is the path of a command to zsh */
    if (*word != '\0' && *word != '=' && word[strspn(word, plain)] == '\0') {
        proa_buf_append_text(out, word);
        return;
    }
    proa_buf_append_char(out, '\'');
    for (; *word != '\0'; word++)
        if (*word == '\'')
            proa_buf_append_text(out, "'\\''");
        else
            proa_buf_append_char(out, *word);
    proa_buf_append_char(out, '\'');
}
