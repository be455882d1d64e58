/* errors.h - what goes wrong, as OpenAI's clients want to hear it: an HTTP status and the nested object
 * {"error": {"message", "type", "param", "code"}}, all four always there.
 *
 * The type follows from the status, so that one table decides it. Any thread may call.
 */
#ifndef PROA_SERVE_ERRORS_H
#define PROA_SERVE_ERRORS_H

#include "base/buf.h"
#include "base/status.h"

typedef struct proa_api_error {
    int status;       /* HTTP; 0: no error */
    const char *code; /* a literal, or NULL */
    char param[64];   /* the field at fault; "" for none */
    char message[1000];
} proa_api_error;

/* Fills `error` (never NULL) and returns false, so that `return proa_api_error_set(...)` reads well. `param` and `code`
 * may be NULL; code must be a literal. */
bool proa_api_error_set(proa_api_error *error, int status, const char *param, const char *code,
                        const char *format, ...) __attribute__((format(printf, 5, 6)));

/* 400, for the field that is wrong. */
bool proa_api_error_field(proa_api_error *error, const char *param, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* From the program's own errors; `param` may be NULL. Errors that are not the request's keep their text for the log:
 * the client hears that it is the server's fault. */
bool proa_api_error_from(proa_api_error *error, const proa_error *cause, const char *param);

/* Appends the object. */
void proa_api_error_write(const proa_api_error *error, proa_buf *out);

/* "Bad Request" for 400. */
const char *proa_http_reason(int status);

#endif
