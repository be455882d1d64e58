/* deepep_config.h - what --deepep-config may say: SGLang's file for DeepEP. Nothing of it means anything here, but a file that SGLang would
 * refuse is refused, so that a slip is not carried on to where it matters.
 *
 *   {"normal_dispatch": {"num_sms": 24, "num_max_nvl_chunked_send_tokens": ..., "num_max_nvl_chunked_recv_tokens": ...,
 *                        "num_max_rdma_chunked_send_tokens": ..., "num_max_rdma_chunked_recv_tokens": ...},
 *    "normal_combine": {"num_sms": 24, ...}}
 *
 * Both objects are needed, and num_sms in each, which must be the same; DeepEP has defaults for the others.
 */
#ifndef PROA_CMD_DEEPEP_CONFIG_H
#define PROA_CMD_DEEPEP_CONFIG_H

#include "base/status.h"

/* `given`: a JSON text (from its first brace), or the path of a file with one. Errors name key, value and what it must be. */
proa_status proa_deepep_config_check(const char *given, proa_error *err);

#endif
