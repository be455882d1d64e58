/* wire_internal.h - what the decoders of wire_*.c share: reading a field with its name and its limits.
 *
 * A proa_wire_in remembers the first thing that was wrong and then gives zeros (or the least allowed value), so that a decoder
 * reads all its fields in order and asks once at the end, proa_wire_in_done. Counts are bounded before memory is taken.
 */
#ifndef PROA_CLUSTER_WIRE_INTERNAL_H
#define PROA_CLUSTER_WIRE_INTERNAL_H

#include "cluster/wire.h"

typedef struct proa_wire_in {
    proa_reader reader;
    const char *message; /* its name, for errors */
    proa_arena *arena;   /* for arrays; NULL when the message has none */
    proa_error *err;     /* may be NULL */
    bool failed;
} proa_wire_in;

static inline proa_wire_in proa_wire_in_of(const void *body, size_t length, const char *message,
                                           proa_arena *arena, proa_error *err)
{
    return (proa_wire_in){
        .reader = proa_reader_of(body, length), .message = message, .arena = arena, .err = err};
}

/* Says what is wrong with a field, unless something was wrong before. */
void proa_wire_refuse(proa_wire_in *in, const char *field, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* True when everything was right and nothing is left over. */
bool proa_wire_in_done(proa_wire_in *in);

bool proa_wire_in_bool(proa_wire_in *in, const char *field); /* one byte, 0 or 1 */
uint8_t proa_wire_in_u8(proa_wire_in *in, const char *field, uint8_t most);
int32_t proa_wire_in_i32(proa_wire_in *in, const char *field, int32_t least);
int64_t proa_wire_in_i64(proa_wire_in *in, const char *field, int64_t least);
uint32_t proa_wire_in_u32(proa_wire_in *in, const char *field);
uint64_t proa_wire_in_u64(proa_wire_in *in, const char *field);
uint64_t proa_wire_in_nonzero(proa_wire_in *in, const char *field); /* ids, rooms and epochs */
float proa_wire_in_finite(proa_wire_in *in, const char *field);
void proa_wire_in_text(proa_wire_in *in, const char *field, char *text, size_t bytes);
/* A text without control characters: a name or an address, which may go into logs and paths. */
void proa_wire_in_name(proa_wire_in *in, const char *field, char *text, size_t bytes);
/* "host:port" when `wanted`, else "". */
void proa_wire_in_address(proa_wire_in *in, const char *field, bool wanted, char *text, size_t bytes);
uint32_t proa_wire_in_count(proa_wire_in *in, const char *field, uint32_t most, size_t element_bytes);
/* `length` bytes inside the body. */
const uint8_t *proa_wire_in_bytes(proa_wire_in *in, const char *field, size_t length);

/* Arrays in the arena, after their count was read. Never NULL unless it failed. */
void *proa_wire_in_array(proa_wire_in *in, const char *field, uint32_t count, size_t element_bytes);
const int32_t *proa_wire_in_i32s(proa_wire_in *in, const char *field, uint32_t count, int32_t least);
const uint32_t *proa_wire_in_u32s(proa_wire_in *in, const char *field, uint32_t count);
const uint64_t *proa_wire_in_u64s(proa_wire_in *in, const char *field, uint32_t count);

/* A drawn token with its log probabilities; a log probability may be -inf (op/sample/sample.h), never NaN or +inf. */
void proa_wire_in_sample(proa_wire_in *in, const char *field, proa_sample_result *result);
void proa_wire_put_sample(proa_buf *out, const proa_sample_result *result);
enum { PROA_WIRE_SAMPLE_BYTES_MIN = 12 };

/* A known status and its text. */
void proa_wire_in_error(proa_wire_in *in, const char *field, proa_error *error);
void proa_wire_put_error(proa_buf *out, const proa_error *error);

void proa_wire_put_bool(proa_buf *out, bool value);
void proa_wire_put_i32s(proa_buf *out, const int32_t *values, uint32_t count);
void proa_wire_put_u32s(proa_buf *out, const uint32_t *values, uint32_t count);
void proa_wire_put_u64s(proa_buf *out, const uint64_t *values, uint32_t count);

#endif
