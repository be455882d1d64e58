/* status.c - names of the status codes, filling of errors, and the end of a failed assertion. */
#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *name_of(int status)
{
    switch (status) {
    case PROA_OK: return "ok";
    case PROA_BUSY: return "busy";
    case PROA_END: return "end";
    case PROA_ERR_INVALID: return "invalid";
    case PROA_ERR_TOO_LONG: return "too long";
    case PROA_ERR_UNSUPPORTED: return "unsupported";
    case PROA_ERR_NOT_FOUND: return "not found";
    case PROA_ERR_CANCELLED: return "cancelled";
    case PROA_ERR_DEADLINE: return "deadline reached";
    case PROA_ERR_OVERLOADED: return "overloaded";
    case PROA_ERR_UNREACHABLE: return "peer unreachable";
    case PROA_ERR_PROTOCOL: return "protocol error";
    case PROA_ERR_DEVICE: return "device error";
    case PROA_ERR_DEVICE_MEMORY: return "out of device memory";
    case PROA_ERR_MEMORY: return "out of memory";
    case PROA_ERR_IO: return "input/output error";
    case PROA_ERR_CORRUPT: return "corrupt";
    case PROA_ERR_INTERNAL: return "internal error";
    }
    return NULL;
}

const char *proa_status_name(proa_status status)
{
    const char *name = name_of(status);
    return name != NULL ? name : "unknown status";
}

bool proa_status_known(int value)
{
    return name_of(value) != NULL;
}

proa_status proa_error_set(proa_error *err, proa_status status, const char *format, ...)
{
    if (err != NULL) {
        va_list args;
        va_start(args, format);
        err->status = status;
        vsnprintf(err->text, sizeof err->text, format, args);
        va_end(args);
    }
    return status;
}

proa_status proa_error_prefix(proa_error *err, const char *format, ...)
{
    if (err == NULL)
        return PROA_ERR_INTERNAL;
    char joined[sizeof err->text];
    va_list args;
    va_start(args, format);
    int used = vsnprintf(joined, sizeof joined, format, args);
    va_end(args);
    if (used >= 0 && (size_t)used < sizeof joined) {
        snprintf(joined + used, sizeof joined - (size_t)used, ": %s", err->text);
        memcpy(err->text, joined, sizeof joined);
    }
    return err->status;
}

_Noreturn void proa_assert_failed(const char *condition, const char *file, int line)
{
    fprintf(stderr, "proa: assertion failed: %s (%s:%d). This is a bug; please report it with this line.\n",
            condition, file, line);
    fflush(stderr);
    abort();
}
