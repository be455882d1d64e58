/* config_reader.c - typed, ranged access to the fields of config.json. */
#include "model/config_reader.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

const proa_json *proa_config_field(const proa_config_reader *r, const char *key)
{
    const proa_json *value = proa_json_get(r->inner, key);
    if (value == NULL || proa_json_is(value, PROA_JSON_NULL))
        value = proa_json_get(r->outer, key);
    return proa_json_is(value, PROA_JSON_NULL) ? NULL : value;
}

const char *proa_config_value(const proa_json *value, char text[64])
{
    proa_buf buf;
    proa_buf_init(&buf, 1 << 16);
    proa_json_write(value, 0, &buf);
    if (buf.failed || buf.length > 60)
        snprintf(text, 64, "%.56s...", proa_buf_text(&buf));
    else
        snprintf(text, 64, "%s", proa_buf_text(&buf));
    proa_buf_free(&buf);
    return text;
}

/* "field is VALUE" begins every sentence about a value. */
static void wrong(const proa_config_reader *r, proa_status status, const char *key, const proa_json *value,
                  const char *rest)
{
    char text[64];
    proa_problems_add(r->problems, status, "%s%s is %s: %s", r->prefix, key, proa_config_value(value, text),
                      rest);
}

static int32_t read_int(const proa_config_reader *r, const char *key, const proa_json *value, int64_t low,
                        int64_t high)
{
    int64_t number = proa_json_int(value, low - 1);
    if (number >= low && number <= high)
        return (int32_t)number;
    char rest[96];
    snprintf(rest, sizeof rest, "must be a whole number from %" PRId64 " to %" PRId64, low, high);
    wrong(r, PROA_ERR_INVALID, key, value, rest);
    return (int32_t)low;
}

int32_t proa_config_int(const proa_config_reader *r, const char *key, int64_t low, int64_t high,
                        int32_t otherwise)
{
    const proa_json *value = proa_config_field(r, key);
    return value != NULL ? read_int(r, key, value, low, high) : otherwise;
}

int32_t proa_config_int_required(const proa_config_reader *r, const char *key, int64_t low, int64_t high)
{
    const proa_json *value = proa_config_field(r, key);
    if (value != NULL)
        return read_int(r, key, value, low, high);
    proa_problems_add(r->problems, PROA_ERR_INVALID,
                      "%s%s is missing: give a whole number from %" PRId64 " to %" PRId64
                      ", or take config.json from where the model was published",
                      r->prefix, key, low, high);
    return (int32_t)low;
}

double proa_config_real(const proa_config_reader *r, const char *key, double low, double high,
                        double otherwise)
{
    const proa_json *value = proa_config_field(r, key);
    if (value == NULL)
        return otherwise;
    double number = proa_json_real(value, NAN);
    if (number >= low && number <= high)
        return number;
    char rest[96];
    snprintf(rest, sizeof rest, "must be a number from %g to %g", low, high);
    wrong(r, PROA_ERR_INVALID, key, value, rest);
    return otherwise;
}

bool proa_config_bool(const proa_config_reader *r, const char *key, bool otherwise)
{
    const proa_json *value = proa_config_field(r, key);
    if (value != NULL && !proa_json_is(value, PROA_JSON_BOOL))
        wrong(r, PROA_ERR_INVALID, key, value, "must be true or false");
    return proa_json_bool(value, otherwise);
}

void proa_config_expect_text(const proa_config_reader *r, const char *key, const char *served,
                             const char *remedy)
{
    const proa_json *value = proa_config_field(r, key);
    if (value == NULL || strcmp(proa_json_string(value, ""), served) == 0)
        return;
    char rest[256];
    snprintf(rest, sizeof rest, "only \"%s\" is served; %s", served, remedy);
    wrong(r, PROA_ERR_UNSUPPORTED, key, value, rest);
}

void proa_config_expect_bool(const proa_config_reader *r, const char *key, bool served, const char *remedy)
{
    const proa_json *value = proa_config_field(r, key);
    if (value == NULL || (proa_json_is(value, PROA_JSON_BOOL) && proa_json_bool(value, !served) == served))
        return;
    char rest[256];
    snprintf(rest, sizeof rest, "only %s is served; %s", served ? "true" : "false", remedy);
    wrong(r, PROA_ERR_UNSUPPORTED, key, value, rest);
}
