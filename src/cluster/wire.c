/* wire.c - fields of messages: read with their limits, or refused by name. The messages are in wire_request.c,
 * wire_worker.c and wire_room.c.
 */
#include "cluster/wire_internal.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- what is wrong ---- */

void proa_wire_refuse(proa_wire_in *in, const char *field, const char *format, ...)
{
    if (in->failed)
        return;
    in->failed = true;
    char why[400];
    va_list args;
    va_start(args, format);
    vsnprintf(why, sizeof why, format, args);
    va_end(args);
    proa_error_set(in->err, PROA_ERR_PROTOCOL, "%s: %s %s", in->message, field, why);
}

/* After each field: was it there? */
static bool there(proa_wire_in *in, const char *field)
{
    if (in->reader.failed)
        proa_wire_refuse(in, field, "is cut short: the message has %zu bytes", in->reader.length);
    return !in->failed;
}

bool proa_wire_in_done(proa_wire_in *in)
{
    if (!in->failed && !proa_reader_done(&in->reader))
        proa_wire_refuse(in, "message", "of %zu bytes has %zu too many", in->reader.length,
                         proa_reader_left(&in->reader));
    return !in->failed;
}

/* ---- numbers ---- */

bool proa_wire_in_bool(proa_wire_in *in, const char *field)
{
    return proa_wire_in_u8(in, field, 1) == 1;
}

uint8_t proa_wire_in_u8(proa_wire_in *in, const char *field, uint8_t most)
{
    uint8_t value = proa_get_u8(&in->reader);
    if (there(in, field) && value > most)
        proa_wire_refuse(in, field, "is %u, it must be at most %u", value, most);
    return in->failed ? 0 : value;
}

int32_t proa_wire_in_i32(proa_wire_in *in, const char *field, int32_t least)
{
    int32_t value = proa_get_i32(&in->reader);
    if (there(in, field) && value < least)
        proa_wire_refuse(in, field, "is %" PRId32 ", it must be at least %" PRId32, value, least);
    return in->failed ? least : value;
}

int64_t proa_wire_in_i64(proa_wire_in *in, const char *field, int64_t least)
{
    int64_t value = proa_get_i64(&in->reader);
    if (there(in, field) && value < least)
        proa_wire_refuse(in, field, "is %" PRId64 ", it must be at least %" PRId64, value, least);
    return in->failed ? least : value;
}

uint32_t proa_wire_in_u32(proa_wire_in *in, const char *field)
{
    uint32_t value = proa_get_u32(&in->reader);
    return there(in, field) ? value : 0;
}

uint64_t proa_wire_in_u64(proa_wire_in *in, const char *field)
{
    uint64_t value = proa_get_u64(&in->reader);
    return there(in, field) ? value : 0;
}

uint64_t proa_wire_in_nonzero(proa_wire_in *in, const char *field)
{
    uint64_t value = proa_get_u64(&in->reader);
    if (there(in, field) && value == 0)
        proa_wire_refuse(in, field, "is 0, which stands for none");
    return value;
}

float proa_wire_in_finite(proa_wire_in *in, const char *field)
{
    float value = proa_get_f32(&in->reader);
    if (there(in, field) && !isfinite(value))
        proa_wire_refuse(in, field, "is %g, it must be finite", (double)value);
    return in->failed ? 0 : value;
}

/* ---- texts ---- */

void proa_wire_in_text(proa_wire_in *in, const char *field, char *text, size_t bytes)
{
    proa_get_text(&in->reader, text, bytes);
    if (in->reader.failed)
        proa_wire_refuse(
            in, field,
            "is longer than %zu bytes, has a zero byte, or is cut short: the message has %zu bytes",
            bytes - 1, in->reader.length);
}

void proa_wire_in_name(proa_wire_in *in, const char *field, char *text, size_t bytes)
{
    proa_wire_in_text(in, field, text, bytes);
    for (const char *c = text; *c != 0; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f) {
            proa_wire_refuse(in, field, "has the control character 0x%02x", (unsigned char)*c);
            return;
        }
}

static bool is_address(const char *text)
{
    const char *colon = strrchr(text, ':');
    if (colon == NULL || colon == text || strchr(text, ' ') != NULL)
        return false;
    size_t digits = strspn(colon + 1, "0123456789");
    long port = strtol(colon + 1, NULL, 10);
    return digits >= 1 && digits <= 5 && colon[1 + digits] == 0 && port >= 1 && port <= 65535;
}

void proa_wire_in_address(proa_wire_in *in, const char *field, bool wanted, char *text, size_t bytes)
{
    proa_wire_in_name(in, field, text, bytes);
    if (wanted && !is_address(text))
        proa_wire_refuse(in, field, "is \"%s\", it must be host:port", text);
    else if (!wanted && text[0] != 0)
        proa_wire_refuse(in, field, "is \"%s\", it must be empty here", text);
}

/* ---- arrays ---- */

uint32_t proa_wire_in_count(proa_wire_in *in, const char *field, uint32_t most, size_t element_bytes)
{
    proa_reader before = in->reader;
    uint32_t asked = proa_get_u32(&before);
    uint32_t count = proa_get_count(&in->reader, most, element_bytes);
    if (in->reader.failed && !before.failed && asked > most)
        proa_wire_refuse(in, field, "is %" PRIu32 ", it must be at most %" PRIu32, asked, most);
    return there(in, field) ? count : 0;
}

const uint8_t *proa_wire_in_bytes(proa_wire_in *in, const char *field, size_t length)
{
    const uint8_t *bytes = proa_get_bytes(&in->reader, length);
    return there(in, field) ? bytes : NULL;
}

void *proa_wire_in_array(proa_wire_in *in, const char *field, uint32_t count, size_t element_bytes)
{
    if (in->failed)
        return NULL;
    void *array = proa_arena_array(in->arena, count, element_bytes);
    if (array == NULL)
        proa_wire_refuse(in, field, "with %" PRIu32 " elements finds no memory", count);
    return array;
}

const int32_t *proa_wire_in_i32s(proa_wire_in *in, const char *field, uint32_t count, int32_t least)
{
    int32_t *values = proa_wire_in_array(in, field, count, sizeof *values);
    for (uint32_t i = 0; i < count && !in->failed; i++) {
        values[i] = proa_get_i32(&in->reader);
        if (there(in, field) && values[i] < least)
            proa_wire_refuse(in, field, "has %" PRId32 " at place %" PRIu32 ", it must be at least %" PRId32,
                             values[i], i, least);
    }
    return in->failed ? NULL : values;
}

const uint32_t *proa_wire_in_u32s(proa_wire_in *in, const char *field, uint32_t count)
{
    uint32_t *values = proa_wire_in_array(in, field, count, sizeof *values);
    for (uint32_t i = 0; i < count && !in->failed; i++)
        values[i] = proa_wire_in_u32(in, field);
    return in->failed ? NULL : values;
}

const uint64_t *proa_wire_in_u64s(proa_wire_in *in, const char *field, uint32_t count)
{
    uint64_t *values = proa_wire_in_array(in, field, count, sizeof *values);
    for (uint32_t i = 0; i < count && !in->failed; i++)
        values[i] = proa_wire_in_u64(in, field);
    return in->failed ? NULL : values;
}

void proa_wire_put_i32s(proa_buf *out, const int32_t *values, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        proa_put_i32(out, values[i]);
}

void proa_wire_put_u32s(proa_buf *out, const uint32_t *values, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        proa_put_u32(out, values[i]);
}

void proa_wire_put_u64s(proa_buf *out, const uint64_t *values, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        proa_put_u64(out, values[i]);
}

void proa_wire_put_bool(proa_buf *out, bool value)
{
    proa_put_u8(out, value ? 1 : 0);
}

/* ---- tokens and errors ---- */

static float logprob(proa_wire_in *in, const char *field)
{
    float value = proa_get_f32(&in->reader);
    if (there(in, field) && (isnan(value) || value == INFINITY))
        proa_wire_refuse(in, field, "has the log probability %g", (double)value);
    return in->failed ? 0 : value;
}

void proa_wire_in_sample(proa_wire_in *in, const char *field, proa_sample_result *result)
{
    *result = (proa_sample_result){0};
    result->token = proa_wire_in_i32(in, field, 0);
    result->logprob = logprob(in, field);
    uint32_t count = proa_wire_in_count(in, field, PROA_SAMPLE_MAX_TOP_LOGPROBS, 8);
    result->top_count = (int32_t)count;
    for (uint32_t i = 0; i < count; i++)
        result->top_ids[i] = proa_wire_in_i32(in, field, 0);
    for (uint32_t i = 0; i < count; i++)
        result->top_logprobs[i] = logprob(in, field);
}

void proa_wire_put_sample(proa_buf *out, const proa_sample_result *result)
{
    PROA_ASSERT(result->top_count >= 0);
    PROA_ASSERT(result->top_count <= PROA_SAMPLE_MAX_TOP_LOGPROBS);
    proa_put_i32(out, result->token);
    proa_put_f32(out, result->logprob);
    proa_put_u32(out, (uint32_t)result->top_count);
    for (int32_t i = 0; i < result->top_count; i++)
        proa_put_i32(out, result->top_ids[i]);
    for (int32_t i = 0; i < result->top_count; i++)
        proa_put_f32(out, result->top_logprobs[i]);
}

void proa_wire_in_error(proa_wire_in *in, const char *field, proa_error *error)
{
    int32_t status = proa_get_i32(&in->reader);
    if (there(in, field) && !proa_status_known(status))
        proa_wire_refuse(in, field, "has the unknown status %" PRId32, status);
    error->status = in->failed ? PROA_ERR_PROTOCOL : (proa_status)status;
    proa_wire_in_text(in, field, error->text, sizeof error->text);
}

void proa_wire_put_error(proa_buf *out, const proa_error *error)
{
    proa_put_i32(out, error->status);
    proa_put_text(out, error->text);
}
