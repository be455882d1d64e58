/* json.h - JSON values: parsing with limits, reading with defaults, writing. The only file that includes jansson.
 *
 * A value is reference counted; what the proa_json_get_* functions return is borrowed from its container. Objects
 * keep the order of insertion. Strings may hold zero bytes; lengths are given. A tree has one owner thread.
 */
#ifndef PROA_BASE_JSON_H
#define PROA_BASE_JSON_H

#include "base/buf.h"
#include "base/status.h"

#include <stdint.h>

typedef struct proa_json proa_json;

typedef enum proa_json_type {
    PROA_JSON_NULL,
    PROA_JSON_BOOL,
    PROA_JSON_INT,
    PROA_JSON_REAL,
    PROA_JSON_STRING,
    PROA_JSON_ARRAY,
    PROA_JSON_OBJECT,
} proa_json_type;

/* Parses one value of any type, followed by nothing. The error text has line, column and what was expected.
 * Nesting over jansson's limit (2,048) and duplicate keys are errors. Returns a new reference, or NULL. */
proa_json *proa_json_parse(const char *text, size_t length, proa_error *err);

/* Parses a file of at most limit_bytes; the error names the path. */
proa_json *proa_json_parse_file(const char *path, size_t limit_bytes, proa_error *err);

proa_json *proa_json_ref(proa_json *value); /* accepts NULL */
void proa_json_free(proa_json *value);      /* drops one reference; accepts NULL */

/* --- reading --- */
proa_json_type proa_json_type_of(const proa_json *value);
const char *proa_json_type_name(proa_json_type type);           /* "string", "object", ... */
bool proa_json_is(const proa_json *value, proa_json_type type); /* false for NULL */

/* Value or default when the type is another one or the value is NULL. A real reads an int too. */
bool proa_json_bool(const proa_json *value, bool otherwise);
int64_t proa_json_int(const proa_json *value, int64_t otherwise);
double proa_json_real(const proa_json *value, double otherwise);
const char *proa_json_string(const proa_json *value, const char *otherwise); /* terminated */
size_t proa_json_string_length(const proa_json *value);

size_t proa_json_size(const proa_json *value); /* elements of an array or object; 0 otherwise */
proa_json *proa_json_at(const proa_json *array, size_t index);      /* borrowed; NULL out of range */
proa_json *proa_json_get(const proa_json *object, const char *key); /* borrowed; NULL when absent */

/* Iteration over an object in order: for (it = proa_json_first(o); it; it = proa_json_next(o, it)). */
void *proa_json_first(const proa_json *object);
void *proa_json_next(const proa_json *object, void *iterator);
const char *proa_json_key(void *iterator);
proa_json *proa_json_value(void *iterator); /* borrowed */

/* --- making: new references; NULL when memory is out or text is not UTF-8 --- */
proa_json *proa_json_new_object(void);
proa_json *proa_json_new_array(void);
proa_json *proa_json_new_null(void);
proa_json *proa_json_new_bool(bool b);
proa_json *proa_json_new_int(int64_t i);
proa_json *proa_json_new_real(double d); /* a NaN or infinity becomes null */
proa_json *proa_json_new_string(const char *text, size_t length);
proa_json *proa_json_new_text(const char *text); /* up to its end */

/* These take over the reference of `value` (NULL included: then they fail) and return whether it worked. */
bool proa_json_set(proa_json *object, const char *key, proa_json *value);
bool proa_json_append(proa_json *array, proa_json *value);

/* --- writing --- */
/* Compact ({"a":1,"b":[2]}), UTF-8 unescaped; indent > 0 for people. */
void proa_json_write(const proa_json *value, int indent, proa_buf *out);

/* Appends a quoted JSON string; bytes that are not UTF-8 become U+FFFD. For writers that need no tree. */
void proa_json_write_string(const char *text, size_t length, proa_buf *out);

#endif
