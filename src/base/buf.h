/* buf.h - a growing run of bytes, always followed by a zero byte.
 *
 * Appending never fails visibly: when memory or the limit is out, `failed` stays set and later appends do
 * nothing, so that a writer checks once at the end. One owner thread.
 */
#ifndef PROA_BASE_BUF_H
#define PROA_BASE_BUF_H

#include <stdbool.h>
#include <stddef.h>

typedef struct proa_buf {
    char *data; /* never NULL after the first append; terminated */
    size_t length;
    size_t capacity;
    size_t limit; /* 0: none */
    bool failed;
} proa_buf;

/* {0} is an empty buffer without limit. */
void proa_buf_init(proa_buf *buf, size_t limit_bytes);
void proa_buf_free(proa_buf *buf);
void proa_buf_clear(proa_buf *buf); /* keeps the memory, clears `failed` */
void proa_buf_append(proa_buf *buf, const void *bytes, size_t length);
void proa_buf_append_text(proa_buf *buf, const char *text);
void proa_buf_append_char(proa_buf *buf, char c);
void proa_buf_append_format(proa_buf *buf, const char *format, ...) __attribute__((format(printf, 2, 3)));
void proa_buf_truncate(proa_buf *buf, size_t length);
void proa_buf_drop_front(proa_buf *buf, size_t length);

/* The text, "" when nothing was appended. Valid until the next change. */
const char *proa_buf_text(const proa_buf *buf);

#endif
