/* status.h - one status code for the whole program, and the error that carries it to a person.
 *
 * Codes are grouped in ranges by the largest thing that the failure destroys, so that a caller decides
 * "retry, drop or exit" by range and not by a list of codes. Zero is success; positive values are not errors.
 *
 * A function that can fail for a reason worth telling takes a `proa_error *` (which may be NULL). The function
 * that first decides that something is wrong fills it in, with the value, the place and what to do; callers pass
 * it on unchanged. Thread: an error belongs to the caller's stack.
 */
#ifndef PROA_BASE_STATUS_H
#define PROA_BASE_STATUS_H

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum proa_status {
    PROA_OK = 0,
    PROA_BUSY = 1, /* no room or nothing there just now: try again later; never an error */
    PROA_END = 2,  /* the end of a sequence */

    /* the request is lost, everything else goes on: -1 .. -99 */
    PROA_ERR_INVALID = -1,     /* malformed or out of range; the text names field, value and remedy */
    PROA_ERR_TOO_LONG = -2,    /* exceeds a limit; the text names the limit */
    PROA_ERR_UNSUPPORTED = -3, /* well formed, known, not served here */
    PROA_ERR_NOT_FOUND = -4,   /* a name, file or id that does not exist */
    PROA_ERR_CANCELLED = -5,   /* the client went away or asked to stop */
    PROA_ERR_DEADLINE = -6,    /* a wait reached its deadline; the text says what it waited for */
    PROA_ERR_OVERLOADED = -7,  /* refused at admission; may be tried again */

    /* a peer process is lost: -100 .. -199 */
    PROA_ERR_UNREACHABLE = -100,
    PROA_ERR_PROTOCOL = -101,

    /* a device is lost: -200 .. -299 */
    PROA_ERR_DEVICE = -200,
    PROA_ERR_DEVICE_MEMORY = -201,

    /* this process cannot go on: -300 .. */
    PROA_ERR_MEMORY = -300,
    PROA_ERR_IO = -301,       /* a system call failed; the text has its name, path and errno's text */
    PROA_ERR_CORRUPT = -302,  /* a file or message contradicts itself */
    PROA_ERR_INTERNAL = -303, /* a bug */
} proa_status;

/* A status and the sentence that explains it. `text` is always terminated. */
typedef struct proa_error {
    proa_status status;
    char text[1000];
} proa_error;

static inline bool proa_failed(proa_status s)
{
    return s < 0;
}
static inline bool proa_is_request_error(proa_status s)
{
    return s < 0 && s > -100;
}
static inline bool proa_is_peer_error(proa_status s)
{
    return s <= -100 && s > -200;
}
static inline bool proa_is_device_error(proa_status s)
{
    return s <= -200 && s > -300;
}

/* The code's name in lower case ("too long"), for logs. Never NULL. */
const char *proa_status_name(proa_status status);
/* Whether a number that came from elsewhere is one of the codes above. */
bool proa_status_known(int value);

/* Fills `err` (when not NULL) and returns `status`, so that `return proa_error_set(err, ...)` reads well. */
proa_status proa_error_set(proa_error *err, proa_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Puts "prefix: " before the text that is already in `err`; returns err's status. For callers that know the
 * place (a file's path) where the callee knew only the cause. */
proa_status proa_error_prefix(proa_error *err, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Assertions state what the programmer believes and stay on in release builds. One condition each. */
#define PROA_ASSERT(condition)                                                                               \
    do {                                                                                                     \
        if (__builtin_expect(!(condition), 0))                                                               \
            proa_assert_failed(#condition, __FILE__, __LINE__);                                              \
    } while (0)

__attribute__((noreturn)) void proa_assert_failed(const char *condition, const char *file, int line);

#ifdef __cplusplus
}
#endif

#endif
