/* buf.c - doubling growth with a sticky failure flag. */
#include "base/buf.h"

#include "base/status.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void proa_buf_init(proa_buf *buf, size_t limit_bytes)
{
    *buf = (proa_buf){.limit = limit_bytes};
}

void proa_buf_free(proa_buf *buf)
{
    if (buf == NULL)
        return;
    free(buf->data);
    *buf = (proa_buf){.limit = buf->limit};
}

void proa_buf_clear(proa_buf *buf)
{
    buf->length = 0;
    buf->failed = false;
    if (buf->data != NULL)
        buf->data[0] = 0;
}

/* Room for `extra` more bytes and the terminator. */
static bool reserve(proa_buf *buf, size_t extra)
{
    if (buf->failed)
        return false;
    size_t limit = buf->limit != 0 ? buf->limit : SIZE_MAX / 4;
    if (extra > limit || buf->length > limit - extra) {
        buf->failed = true;
        return false;
    }
    size_t need = buf->length + extra + 1;
    if (need <= buf->capacity)
        return true;
    size_t capacity = buf->capacity < 64 ? 64 : buf->capacity * 2;
    if (capacity < need)
        capacity = need;
    char *data = realloc(buf->data, capacity);
    if (data == NULL) {
        buf->failed = true;
        return false;
    }
    buf->data = data;
    buf->capacity = capacity;
    return true;
}

void proa_buf_append(proa_buf *buf, const void *bytes, size_t length)
{
    if (!reserve(buf, length))
        return;
    if (length > 0)
        memcpy(buf->data + buf->length, bytes, length);
    buf->length += length;
    buf->data[buf->length] = 0;
}

void proa_buf_append_text(proa_buf *buf, const char *text)
{
    proa_buf_append(buf, text, strlen(text));
}

void proa_buf_append_char(proa_buf *buf, char c)
{
    proa_buf_append(buf, &c, 1);
}

void proa_buf_append_format(proa_buf *buf, const char *format, ...)
{
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int length = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (length >= 0 && reserve(buf, (size_t)length)) {
        vsnprintf(buf->data + buf->length, (size_t)length + 1, format, again);
        buf->length += (size_t)length;
    }
    va_end(again);
}

void proa_buf_truncate(proa_buf *buf, size_t length)
{
    PROA_ASSERT(length <= buf->length);
    buf->length = length;
    if (buf->data != NULL)
        buf->data[length] = 0;
}

void proa_buf_drop_front(proa_buf *buf, size_t length)
{
    PROA_ASSERT(length <= buf->length);
    if (length == 0)
        return;
    memmove(buf->data, buf->data + length, buf->length - length + 1);
    buf->length -= length;
}

const char *proa_buf_text(const proa_buf *buf)
{
    return buf->data != NULL ? buf->data : "";
}
