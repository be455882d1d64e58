/* forward_backend.h - a forward whose steps somebody else computes: a GPU's walk over the layers in the place of the one here.
 *
 * What calls a forward need not know which it is. One process alone: no exchange, no team. Owner: the forward's thread.
 */
#ifndef PROA_MODEL_FORWARD_BACKEND_H
#define PROA_MODEL_FORWARD_BACKEND_H

#include "model/forward.h"

typedef struct proa_forward_backend {
    void (*free)(void *context);
    proa_status (*step)(void *context, const proa_step *step, float **logits, proa_error *err);
    proa_status (*kv_copy)(void *context, const proa_kv_copy *copies, int32_t count, proa_error *err);
    void (*set_tap)(void *context, proa_forward_tap tap, void *tap_context);
    proa_status (*set_expert_tap)(void *context, proa_forward_expert_tap tap, void *tap_context,
                                  proa_error *err);
    /* Tokens of the last step's logits, where these do not leave the device. NULL: they are the host's, whose device samples. */
    proa_status (*sample)(void *context, const proa_sample_args *args, proa_error *err);
} proa_forward_backend;

/* Takes over `context`: proa_forward_free frees it, and so does a failure here. */
proa_status proa_forward_wrap(const proa_model_config *config, const proa_forward_limits *limits,
                              const proa_forward_backend *backend, void *context, proa_forward **forward,
                              proa_error *err);

#endif
