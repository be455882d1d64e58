/* json.c - the wrapper of jansson. `proa_json` is jansson's `json_t` under another name. */
#include "base/json.h"

#include "base/file.h"

#include <jansson.h>
#include <math.h>
#include <string.h>

static json_t *unwrap(const proa_json *value)
{
    return (json_t *)(uintptr_t)value;
}

static proa_json *wrap(json_t *value)
{
    return (proa_json *)value;
}

proa_json *proa_json_parse(const char *text, size_t length, proa_error *err)
{
    json_error_t where;
    json_t *value =
        json_loadb(text, length, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY | JSON_ALLOW_NUL, &where);
    if (value == NULL)
        proa_error_set(err, PROA_ERR_INVALID, "not valid JSON: %s (line %d, column %d)", where.text,
                       where.line, where.column);
    return wrap(value);
}

proa_json *proa_json_parse_file(const char *path, size_t limit_bytes, proa_error *err)
{
    proa_buf text = {0};
    proa_json *value = NULL;
    if (proa_file_read(path, limit_bytes, &text, err) == PROA_OK) {
        value = proa_json_parse(proa_buf_text(&text), text.length, err);
        if (value == NULL)
            proa_error_prefix(err, "%s", path);
    }
    proa_buf_free(&text);
    return value;
}

proa_json *proa_json_ref(proa_json *value)
{
    return wrap(json_incref(unwrap(value)));
}

void proa_json_free(proa_json *value)
{
    json_decref(unwrap(value));
}

proa_json_type proa_json_type_of(const proa_json *value)
{
    PROA_ASSERT(value != NULL);
    switch (json_typeof(unwrap(value))) {
    case JSON_OBJECT: return PROA_JSON_OBJECT;
    case JSON_ARRAY: return PROA_JSON_ARRAY;
    case JSON_STRING: return PROA_JSON_STRING;
    case JSON_INTEGER: return PROA_JSON_INT;
    case JSON_REAL: return PROA_JSON_REAL;
    case JSON_TRUE:
    case JSON_FALSE: return PROA_JSON_BOOL;
    case JSON_NULL: break;
    }
    return PROA_JSON_NULL;
}

const char *proa_json_type_name(proa_json_type type)
{
    static const char *const names[] = {"null", "boolean", "integer", "number", "string", "array", "object"};
    return names[type];
}

bool proa_json_is(const proa_json *value, proa_json_type type)
{
    return value != NULL && proa_json_type_of(value) == type;
}

bool proa_json_bool(const proa_json *value, bool otherwise)
{
    return proa_json_is(value, PROA_JSON_BOOL) ? json_is_true(unwrap(value)) : otherwise;
}

int64_t proa_json_int(const proa_json *value, int64_t otherwise)
{
    return proa_json_is(value, PROA_JSON_INT) ? json_integer_value(unwrap(value)) : otherwise;
}

double proa_json_real(const proa_json *value, double otherwise)
{
    return value != NULL && json_is_number(unwrap(value)) ? json_number_value(unwrap(value)) : otherwise;
}

const char *proa_json_string(const proa_json *value, const char *otherwise)
{
    return proa_json_is(value, PROA_JSON_STRING) ? json_string_value(unwrap(value)) : otherwise;
}

size_t proa_json_string_length(const proa_json *value)
{
    return value != NULL ? json_string_length(unwrap(value)) : 0;
}

size_t proa_json_size(const proa_json *value)
{
    if (proa_json_is(value, PROA_JSON_ARRAY))
        return json_array_size(unwrap(value));
    return value != NULL ? json_object_size(unwrap(value)) : 0;
}

proa_json *proa_json_at(const proa_json *array, size_t index)
{
    return array != NULL ? wrap(json_array_get(unwrap(array), index)) : NULL;
}

proa_json *proa_json_get(const proa_json *object, const char *key)
{
    return object != NULL ? wrap(json_object_get(unwrap(object), key)) : NULL;
}

void *proa_json_first(const proa_json *object)
{
    return object != NULL ? json_object_iter(unwrap(object)) : NULL;
}

void *proa_json_next(const proa_json *object, void *iterator)
{
    return json_object_iter_next(unwrap(object), iterator);
}

const char *proa_json_key(void *iterator)
{
    return json_object_iter_key(iterator);
}

proa_json *proa_json_value(void *iterator)
{
    return wrap(json_object_iter_value(iterator));
}

proa_json *proa_json_new_object(void)
{
    return wrap(json_object());
}

proa_json *proa_json_new_array(void)
{
    return wrap(json_array());
}

proa_json *proa_json_new_null(void)
{
    return wrap(json_null());
}

proa_json *proa_json_new_bool(bool b)
{
    return wrap(json_boolean(b));
}

proa_json *proa_json_new_int(int64_t i)
{
    return wrap(json_integer(i));
}

proa_json *proa_json_new_real(double d)
{
    return wrap(isfinite(d) ? json_real(d) : json_null());
}

proa_json *proa_json_new_string(const char *text, size_t length)
{
    return wrap(json_stringn(text, length));
}

proa_json *proa_json_new_text(const char *text)
{
    return proa_json_new_string(text, strlen(text));
}

bool proa_json_set(proa_json *object, const char *key, proa_json *value)
{
    return json_object_set_new(unwrap(object), key, unwrap(value)) == 0;
}

bool proa_json_append(proa_json *array, proa_json *value)
{
    return json_array_append_new(unwrap(array), unwrap(value)) == 0;
}

static int append_chunk(const char *bytes, size_t length, void *data)
{
    proa_buf_append(data, bytes, length);
    return 0;
}

void proa_json_write(const proa_json *value, int indent, proa_buf *out)
{
    size_t flags = JSON_ENCODE_ANY | (indent > 0 ? JSON_INDENT((size_t)indent) : JSON_COMPACT);
    if (json_dump_callback(unwrap(value), append_chunk, out, flags) != 0)
        out->failed = true;
}

/* Length of the valid UTF-8 sequence at text, or 0. Rejects overlong forms, surrogates and beyond U+10FFFF. */
static size_t utf8_length(const unsigned char *s, size_t left)
{
    if (s[0] < 0x80)
        return 1;
    size_t n = s[0] >= 0xc2 && s[0] < 0xe0   ? 2
               : s[0] >= 0xe0 && s[0] < 0xf0 ? 3
               : s[0] >= 0xf0 && s[0] < 0xf5 ? 4
                                             : 0;
    if (n == 0 || n > left)
        return 0;
    for (size_t i = 1; i < n; i++) {
        if ((s[i] & 0xc0) != 0x80)
            return 0;
    }
    if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) || (s[0] == 0xf0 && s[1] < 0x90) ||
        (s[0] == 0xf4 && s[1] > 0x8f))
        return 0;
    return n;
}

/* NEL, LS or PS: allowed in JSON as they are, but there are clients that end a line of a stream there (httpx). */
static bool ends_line(const unsigned char *s, size_t n)
{
    return (n == 2 && s[0] == 0xC2 && s[1] == 0x85) ||
           (n == 3 && s[0] == 0xE2 && s[1] == 0x80 && (s[2] == 0xA8 || s[2] == 0xA9));
}

void proa_json_write_string(const char *text, size_t length, proa_buf *out)
{
    static const char *const escapes = "btn?fr"; /* for 8, 9, 10, 12, 13 */
    const unsigned char *s = (const unsigned char *)text;
    proa_buf_append_char(out, '"');
    for (size_t i = 0; i < length;) {
        size_t n = utf8_length(s + i, length - i);
        if (n == 0) {
            proa_buf_append_text(out, "\xef\xbf\xbd");
            n = 1;
        } else if (s[i] == '"' || s[i] == '\\') {
            proa_buf_append_char(out, '\\');
            proa_buf_append_char(out, (char)s[i]);
        } else if (s[i] < 0x20 && s[i] >= 8 && s[i] <= 13 && s[i] != 11) {
            proa_buf_append_char(out, '\\');
            proa_buf_append_char(out, escapes[s[i] - 8]);
        } else if (s[i] < 0x20) {
            proa_buf_append_format(out, "\\u%04x", s[i]);
        } else if (ends_line(s + i, n)) {
            proa_buf_append_format(out, "\\u%04x", n == 2 ? 0x85 : 0x2000 | (s[i + 2] & 0x3f));
        } else {
            proa_buf_append(out, s + i, n);
        }
        i += n;
    }
    proa_buf_append_char(out, '"');
}
