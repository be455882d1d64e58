/* serving.h - what `serve` and `frontend` share: the HTTP server's options and the process around it.
 */
#ifndef PROA_CMD_SERVING_H
#define PROA_CMD_SERVING_H

#include "base/option.h"
#include "serve/server.h"

/* From the flags that both know; host, port and name are the caller's. */
proa_server_options proa_serving_options(const proa_options *options);
/* Each connection takes a descriptor. */
void proa_serving_raise_descriptor_limit(void);
/* "proa: listening on http://...", which scripts wait for. */
void proa_serving_print_address(const proa_options *options, const char *host_flag, int port);

#endif
