/* ready.h - tells whoever started this process that it serves. */
#ifndef PROA_CMD_READY_H
#define PROA_CMD_READY_H

#include "base/option.h"

/* Tells the service manager of --notify-socket, if there is one. That it does not hear is logged, and nothing else. */
void proa_ready_tell(const proa_options *options);

#endif
