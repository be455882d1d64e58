/* ready.c - see ready.h. */
#include "cmd/ready.h"

#include "base/log.h"
#include "base/notify.h"

void proa_ready_tell(const proa_options *options)
{
    const char *path = proa_options_string(options, "notify-socket");
    proa_error err = {0};
    if (path != NULL && *path != 0 && proa_notify_send(path, "READY=1", &err) != PROA_OK)
        proa_log(PROA_LOG_WARN, "cmd", "the service manager does not hear that this is ready: %s", err.text);
}
