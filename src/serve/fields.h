/* fields.h - reads the fields of a client's JSON object, with types and ranges checked.
 *
 * Each function: an absent or null field leaves *out as it is and is no error; a wrong one fills `error`, which names
 * the field, what it must be and what it was, and the function returns false. So that reading chains with &&.
 * Pure; any thread.
 */
#ifndef PROA_SERVE_FIELDS_H
#define PROA_SERVE_FIELDS_H

#include "base/json.h"
#include "serve/errors.h"

typedef struct proa_fields {
    const proa_json *object;
    const char *prefix; /* of names in errors: "", or "sampling_params." */
    proa_api_error *error;
} proa_fields;

/* The field, or NULL when it is absent or null. */
proa_json *proa_field(const proa_fields *fields, const char *name);

bool proa_field_bool(const proa_fields *fields, const char *name, bool *out);
/* A whole number; 3.0 counts as one. */
bool proa_field_int(const proa_fields *fields, const char *name, int64_t low, int64_t high, int64_t *out);
bool proa_field_int32(const proa_fields *fields, const char *name, int32_t low, int32_t high, int32_t *out);
/* low <= value <= high */
bool proa_field_real(const proa_fields *fields, const char *name, double low, double high, float *out);
/* Borrowed from the object; a string with a zero byte is refused. */
bool proa_field_string(const proa_fields *fields, const char *name, const char **out);
/* The array or object itself, borrowed. */
bool proa_field_typed(const proa_fields *fields, const char *name, proa_json_type type, proa_json **out);

/* Fills the error: "NAME must be WANTED, got VALUE". Returns false. */
bool proa_field_wrong(const proa_fields *fields, const char *name, const char *wanted,
                      const proa_json *value);

/* A field that is known and not served: any value but null, false, "", [] and {} is refused. */
typedef struct proa_field_refusal {
    const char *name;
    const char *reason; /* what follows "NAME is not supported: " */
} proa_field_refusal;
bool proa_fields_refuse(const proa_fields *fields, const proa_field_refusal *refusals, size_t count);

#endif
