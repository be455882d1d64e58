/* notify.h - tells a service manager that this process is ready, in systemd's protocol: one datagram to a socket that the manager names.
 * No state; any thread may call. */
#ifndef PROA_BASE_NOTIFY_H
#define PROA_BASE_NOTIFY_H

#include "base/status.h"

/* Sends `state` ("READY=1") to the Unix datagram socket at `path`; "@name" is an abstract one. Never waits: a manager whose queue is full
 * is an error. */
proa_status proa_notify_send(const char *path, const char *state, proa_error *err);

#endif
