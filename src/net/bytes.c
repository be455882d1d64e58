/* bytes.c - fields one byte at a time, so that neither alignment nor the machine's byte order matters. */
#include "net/bytes.h"

#include <string.h>

static uint64_t get(proa_reader *reader, size_t bytes)
{
    uint64_t value = 0;
    if (reader->failed || proa_reader_left(reader) < bytes) {
        reader->failed = true;
        return 0;
    }
    for (size_t i = 0; i < bytes; i++)
        value |= (uint64_t)reader->data[reader->at + i] << (8 * i);
    reader->at += bytes;
    return value;
}

uint8_t proa_get_u8(proa_reader *reader)
{
    return (uint8_t)get(reader, 1);
}

uint16_t proa_get_u16(proa_reader *reader)
{
    return (uint16_t)get(reader, 2);
}

uint32_t proa_get_u32(proa_reader *reader)
{
    return (uint32_t)get(reader, 4);
}

uint64_t proa_get_u64(proa_reader *reader)
{
    return get(reader, 8);
}

int32_t proa_get_i32(proa_reader *reader)
{
    return (int32_t)(uint32_t)get(reader, 4);
}

int64_t proa_get_i64(proa_reader *reader)
{
    return (int64_t)get(reader, 8);
}

float proa_get_f32(proa_reader *reader)
{
    uint32_t bits = (uint32_t)get(reader, 4);
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

const uint8_t *proa_get_bytes(proa_reader *reader, size_t length)
{
    if (reader->failed || proa_reader_left(reader) < length) {
        reader->failed = true;
        return NULL;
    }
    const uint8_t *bytes = reader->data + reader->at;
    reader->at += length;
    return bytes;
}

uint32_t proa_get_count(proa_reader *reader, uint32_t most, size_t element_bytes)
{
    uint32_t count = proa_get_u32(reader);
    if (count > most || proa_reader_left(reader) / element_bytes < count)
        reader->failed = true;
    return reader->failed ? 0 : count;
}

void proa_get_text(proa_reader *reader, char *text, size_t bytes)
{
    size_t length = proa_get_u16(reader);
    text[0] = 0;
    if (length >= bytes)
        reader->failed = true;
    const uint8_t *from = proa_get_bytes(reader, length);
    if (from == NULL)
        return;
    if (memchr(from, 0, length) != NULL) {
        reader->failed = true;
        return;
    }
    memcpy(text, from, length);
    text[length] = 0;
}

static void put(proa_buf *out, uint64_t value, size_t bytes)
{
    uint8_t field[8];
    for (size_t i = 0; i < bytes; i++)
        field[i] = (uint8_t)(value >> (8 * i));
    proa_buf_append(out, field, bytes);
}

void proa_put_u8(proa_buf *out, uint8_t value)
{
    put(out, value, 1);
}

void proa_put_u16(proa_buf *out, uint16_t value)
{
    put(out, value, 2);
}

void proa_put_u32(proa_buf *out, uint32_t value)
{
    put(out, value, 4);
}

void proa_put_u64(proa_buf *out, uint64_t value)
{
    put(out, value, 8);
}

void proa_put_i32(proa_buf *out, int32_t value)
{
    put(out, (uint32_t)value, 4);
}

void proa_put_i64(proa_buf *out, int64_t value)
{
    put(out, (uint64_t)value, 8);
}

void proa_put_f32(proa_buf *out, float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    put(out, bits, 4);
}

void proa_put_text(proa_buf *out, const char *text)
{
    size_t length = strlen(text);
    if (length > UINT16_MAX)
        length = UINT16_MAX;
    proa_put_u16(out, (uint16_t)length);
    proa_buf_append(out, text, length);
}
