/* bytes.h - fixed little-endian fields, written into a buffer and read back with bounds.
 *
 * Every message between processes is made of these: no pointers, no type tags that select code, lengths before what they
 * measure. A reader that runs past the end gives zeros and sets `failed`, so that a decoder reads all its fields and
 * checks once. Any thread; no state but the arguments.
 */
#ifndef PROA_NET_BYTES_H
#define PROA_NET_BYTES_H

#include "base/buf.h"

#include <stdint.h>

typedef struct proa_reader {
    const uint8_t *data;
    size_t length;
    size_t at;
    bool failed; /* something was read beyond the end */
} proa_reader;

static inline proa_reader proa_reader_of(const void *data, size_t length)
{
    return (proa_reader){.data = data, .length = length};
}

/* True when everything was there and nothing is left. */
static inline bool proa_reader_done(const proa_reader *reader)
{
    return !reader->failed && reader->at == reader->length;
}

static inline size_t proa_reader_left(const proa_reader *reader)
{
    return reader->length - reader->at;
}

uint8_t proa_get_u8(proa_reader *reader);
uint16_t proa_get_u16(proa_reader *reader);
uint32_t proa_get_u32(proa_reader *reader);
uint64_t proa_get_u64(proa_reader *reader);
int32_t proa_get_i32(proa_reader *reader);
int64_t proa_get_i64(proa_reader *reader);
float proa_get_f32(proa_reader *reader);
/* `length` bytes inside the reader's data, or NULL. */
const uint8_t *proa_get_bytes(proa_reader *reader, size_t length);
/* A u32 count that must be at most `most` and whose elements of `element_bytes` each must all be there; else failed, 0. */
uint32_t proa_get_count(proa_reader *reader, uint32_t most, size_t element_bytes);
/* A text (u16 length, bytes; no zero byte inside) into `text`, terminated; failed when it is longer than bytes - 1. */
void proa_get_text(proa_reader *reader, char *text, size_t bytes);

void proa_put_u8(proa_buf *out, uint8_t value);
void proa_put_u16(proa_buf *out, uint16_t value);
void proa_put_u32(proa_buf *out, uint32_t value);
void proa_put_u64(proa_buf *out, uint64_t value);
void proa_put_i32(proa_buf *out, int32_t value);
void proa_put_i64(proa_buf *out, int64_t value);
void proa_put_f32(proa_buf *out, float value);
void proa_put_text(proa_buf *out, const char *text); /* at most 65535 bytes are written */

#endif
