/* fields.c - typed access to a client's JSON. */
#include "serve/fields.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { SHOWN_BYTES = 80 }; /* of a wrong value */

proa_json *proa_field(const proa_fields *fields, const char *name)
{
    proa_json *value = proa_json_get(fields->object, name);
    return proa_json_is(value, PROA_JSON_NULL) ? NULL : value;
}

bool proa_field_wrong(const proa_fields *fields, const char *name, const char *wanted, const proa_json *value)
{
    char full[64];
    snprintf(full, sizeof full, "%s%s", fields->prefix, name);
    proa_json_type type = proa_json_type_of(value);
    if (type == PROA_JSON_ARRAY || type == PROA_JSON_OBJECT)
        return proa_api_error_field(fields->error, full, "%s must be %s, got an %s", full, wanted,
                                    proa_json_type_name(type));
    proa_buf text = {0};
    proa_json_write(value, 0, &text);
    bool cut = text.length > SHOWN_BYTES;
    proa_api_error_field(fields->error, full, "%s must be %s, got %.*s%s", full, wanted,
                         cut ? SHOWN_BYTES : (int)text.length, proa_buf_text(&text), cut ? "..." : "");
    proa_buf_free(&text);
    return false;
}

bool proa_field_bool(const proa_fields *fields, const char *name, bool *out)
{
    proa_json *value = proa_field(fields, name);
    if (value == NULL)
        return true;
    if (!proa_json_is(value, PROA_JSON_BOOL))
        return proa_field_wrong(fields, name, "true or false", value);
    *out = proa_json_bool(value, false);
    return true;
}

bool proa_field_int(const proa_fields *fields, const char *name, int64_t low, int64_t high, int64_t *out)
{
    proa_json *value = proa_field(fields, name);
    if (value == NULL)
        return true;
    bool whole = proa_json_is(value, PROA_JSON_INT);
    int64_t number = proa_json_int(value, 0);
    if (proa_json_is(value, PROA_JSON_REAL)) {
        double real = proa_json_real(value, 0);
        whole = real == floor(real) && fabs(real) < 0x1p53;
        number = whole ? (int64_t)real : 0;
    }
    if (!whole || number < low || number > high) {
        char wanted[96];
        if (low == INT64_MIN && high == INT64_MAX)
            snprintf(wanted, sizeof wanted, "a whole number");
        else if (high >= INT32_MAX)
            snprintf(wanted, sizeof wanted, "a whole number of at least %lld", (long long)low);
        else
            snprintf(wanted, sizeof wanted, "a whole number from %lld to %lld", (long long)low,
                     (long long)high);
        return proa_field_wrong(fields, name, wanted, value);
    }
    *out = number;
    return true;
}

bool proa_field_int32(const proa_fields *fields, const char *name, int32_t low, int32_t high, int32_t *out)
{
    int64_t number = *out;
    if (!proa_field_int(fields, name, low, high, &number))
        return false;
    *out = (int32_t)number;
    return true;
}

bool proa_field_real(const proa_fields *fields, const char *name, double low, double high, float *out)
{
    proa_json *value = proa_field(fields, name);
    if (value == NULL)
        return true;
    double number = proa_json_real(value, NAN);
    if (!(number >= low && number <= high)) {
        char wanted[96];
        snprintf(wanted, sizeof wanted, "a number from %g to %g", low, high);
        return proa_field_wrong(fields, name, wanted, value);
    }
    *out = (float)number;
    return true;
}

bool proa_field_string(const proa_fields *fields, const char *name, const char **out)
{
    proa_json *value = proa_field(fields, name);
    if (value == NULL)
        return true;
    const char *text = proa_json_string(value, NULL);
    if (text == NULL || strlen(text) != proa_json_string_length(value))
        return proa_field_wrong(fields, name, "a string", value);
    *out = text;
    return true;
}

bool proa_field_typed(const proa_fields *fields, const char *name, proa_json_type type, proa_json **out)
{
    proa_json *value = proa_field(fields, name);
    if (value == NULL)
        return true;
    if (!proa_json_is(value, type)) {
        char wanted[32];
        snprintf(wanted, sizeof wanted, "an %s", proa_json_type_name(type));
        return proa_field_wrong(fields, name, wanted, value);
    }
    *out = value;
    return true;
}

static bool is_empty(const proa_json *value)
{
    switch (proa_json_type_of(value)) {
    case PROA_JSON_BOOL: return !proa_json_bool(value, false);
    case PROA_JSON_STRING: return proa_json_string_length(value) == 0;
    case PROA_JSON_ARRAY:
    case PROA_JSON_OBJECT: return proa_json_size(value) == 0;
    default: return false;
    }
}

bool proa_fields_refuse(const proa_fields *fields, const proa_field_refusal *refusals, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        proa_json *value = proa_field(fields, refusals[i].name);
        if (value == NULL || is_empty(value))
            continue;
        return proa_api_error_set(fields->error, 400, refusals[i].name, "unsupported_parameter",
                                  "%s is not supported: %s", refusals[i].name, refusals[i].reason);
    }
    return true;
}
