/* notify.c - see notify.h. */
#include "base/notify.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

proa_status proa_notify_send(const char *path, const char *state, proa_error *err)
{
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    size_t length = strlen(path);
    if ((path[0] != '/' && path[0] != '@') || length < 2 || length >= sizeof to.sun_path)
        return proa_error_set(err, PROA_ERR_INVALID,
                              "\"%.120s\" is no socket of a service manager: it begins with / or @ and has "
                              "fewer than %zu bytes",
                              path, sizeof to.sun_path);
    memcpy(to.sun_path, path, length);
    if (path[0] == '@')
        to.sun_path[0] = 0; /* abstract: a name that is no file, without a zero byte at its end */
    socklen_t bytes = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length + (path[0] != '@'));
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    ssize_t sent =
        fd < 0 ? -1 : sendto(fd, state, strlen(state), MSG_NOSIGNAL, (const struct sockaddr *)&to, bytes);
    int why = errno;
    if (fd >= 0)
        close(fd);
    if (sent < 0)
        return proa_error_set(err, PROA_ERR_IO, "telling %s at %s: %s", state, path, strerror(why));
    return PROA_OK;
}
