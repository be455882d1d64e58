/* problems.c - collecting sentences and joining them into one error. */
#include "model/problems.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { LISTED_MAX = 20 };

void proa_problems_add(proa_problems *list, proa_status status, const char *format, ...)
{
    char sentence[512];
    va_list args;
    va_start(args, format);
    vsnprintf(sentence, sizeof sentence, format, args);
    va_end(args);
    if (list->count++ == 0)
        list->status = status;
    if (list->count > LISTED_MAX)
        return;
    proa_buf_append_text(&list->text, sentence);
    proa_buf_append_char(&list->text, '\n');
}

static proa_status join(const proa_problems *list, const char *where, proa_error *err)
{
    proa_buf joined = {0};
    if (list->count > 1)
        proa_buf_append_format(&joined, "%d problems: ", list->count);
    const char *next = proa_buf_text(&list->text);
    for (int i = 1; *next != '\0'; i++) {
        const char *end = strchr(next, '\n');
        if (list->count > 1)
            proa_buf_append_format(&joined, "%s(%d) ", i > 1 ? "; " : "", i);
        proa_buf_append(&joined, next, (size_t)(end - next));
        next = end + 1;
    }
    proa_error_set(err, list->status, "%s: %s", where, proa_buf_text(&joined));
    proa_buf_free(&joined);
    return list->status;
}

proa_status proa_problems_finish(proa_problems *list, const char *where, proa_error *err)
{
    proa_status status = list->count > 0 ? join(list, where, err) : PROA_OK;
    proa_buf_free(&list->text);
    *list = (proa_problems){0};
    return status;
}
