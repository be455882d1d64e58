/* errors.c - the table of statuses, their reason phrases and OpenAI's types. */
#include "serve/errors.h"

#include "base/json.h"
#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const struct status_row {
    int status;
    const char *reason;
    const char *type;
} status_rows[] = {
    {200, "OK", ""},
    {204, "No Content", ""},
    {400, "Bad Request", "invalid_request_error"},
    {401, "Unauthorized", "authentication_error"},
    {403, "Forbidden", "permission_error"},
    {404, "Not Found", "invalid_request_error"},
    {405, "Method Not Allowed", "invalid_request_error"},
    {408, "Request Timeout", "timeout_error"},
    {411, "Length Required", "invalid_request_error"},
    {413, "Content Too Large", "invalid_request_error"},
    {414, "URI Too Long", "invalid_request_error"},
    {415, "Unsupported Media Type", "invalid_request_error"},
    {429, "Too Many Requests", "rate_limit_error"},
    {431, "Request Header Fields Too Large", "invalid_request_error"},
    {499, "Client Closed Request", "cancelled"},
    {500, "Internal Server Error", "server_error"},
    {501, "Not Implemented", "invalid_request_error"},
    {503, "Service Unavailable", "service_unavailable_error"},
    {504, "Gateway Timeout", "timeout_error"},
    {505, "HTTP Version Not Supported", "invalid_request_error"},
    {529, "Site Is Overloaded", "overloaded_error"},
};

static const struct status_row *row_of(int status)
{
    static const struct status_row unknown = {0, "Unknown", "server_error"};
    for (size_t i = 0; i < sizeof status_rows / sizeof status_rows[0]; i++) {
        if (status_rows[i].status == status)
            return &status_rows[i];
    }
    return &unknown;
}

const char *proa_http_reason(int status)
{
    return row_of(status)->reason;
}

static void set_all(proa_api_error *error, int status, const char *param, const char *code,
                    const char *format, va_list args)
{
    error->status = status;
    error->code = code;
    snprintf(error->param, sizeof error->param, "%s", param != NULL ? param : "");
    vsnprintf(error->message, sizeof error->message, format, args);
}

bool proa_api_error_set(proa_api_error *error, int status, const char *param, const char *code,
                        const char *format, ...)
{
    va_list args;
    va_start(args, format);
    set_all(error, status, param, code, format, args);
    va_end(args);
    return false;
}

bool proa_api_error_field(proa_api_error *error, const char *param, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    set_all(error, 400, param, NULL, format, args);
    va_end(args);
    return false;
}

bool proa_api_error_from(proa_api_error *error, const proa_error *cause, const char *param)
{
    switch (cause->status) {
    case PROA_ERR_INVALID:
    case PROA_ERR_UNSUPPORTED: return proa_api_error_field(error, param, "%s", cause->text);
    case PROA_ERR_TOO_LONG:
        return proa_api_error_set(error, 400, param, "context_length_exceeded", "%s", cause->text);
    case PROA_ERR_NOT_FOUND: return proa_api_error_set(error, 404, param, NULL, "%s", cause->text);
    case PROA_ERR_CANCELLED: return proa_api_error_set(error, 499, NULL, NULL, "%s", cause->text);
    case PROA_ERR_DEADLINE: return proa_api_error_set(error, 504, NULL, NULL, "%s", cause->text);
    case PROA_ERR_OVERLOADED: return proa_api_error_set(error, 429, NULL, "overloaded", "%s", cause->text);
    case PROA_ERR_UNREACHABLE: return proa_api_error_set(error, 503, NULL, "no_worker", "%s", cause->text);
    default: break;
    }
    proa_log(PROA_LOG_ERROR, "serve", "request failed: %s (%s)", cause->text,
             proa_status_name(cause->status));
    return proa_api_error_set(error, 500, NULL, NULL, "the server failed (%s); its log has the cause",
                              proa_status_name(cause->status));
}

static void write_text_or_null(const char *text, proa_buf *out)
{
    if (text == NULL || *text == 0)
        proa_buf_append_text(out, "null");
    else
        proa_json_write_string(text, strlen(text), out);
}

void proa_api_error_write(const proa_api_error *error, proa_buf *out)
{
    proa_buf_append_text(out, "{\"error\":{\"message\":");
    proa_json_write_string(error->message, strlen(error->message), out);
    proa_buf_append_format(out, ",\"type\":\"%s\",\"param\":", row_of(error->status)->type);
    write_text_or_null(error->param, out);
    proa_buf_append_text(out, ",\"code\":");
    write_text_or_null(error->code, out);
    proa_buf_append_text(out, "}}");
}
