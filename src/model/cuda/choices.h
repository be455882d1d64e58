/* choices.h - what the routers of steps have chosen, brought to the host for whoever counts it (proa_forward_set_expert_tap): copied behind a step's
 * work, and waited for with its results.
 *
 * A step may be computed in pieces; it is told of as a whole, a call a MoE layer. Rows of padding are left out. Functions accept NULL, which
 * records nothing. Owner: the thread of the GPU.
 */
#ifndef PROA_MODEL_CUDA_CHOICES_H
#define PROA_MODEL_CUDA_CHOICES_H

#include "model/cuda/forward.h"
#include "model/forward.h"

typedef struct proa_cuda_choices proa_cuda_choices;

/* Steps, and pieces with their padding, have at most rows_max rows. `forward` has all experts (`where` NULL). */
proa_status proa_cuda_choices_create(proa_gpu *gpu, const proa_cuda_forward *forward,
                                     const proa_model_config *config, int32_t rows_max,
                                     proa_forward_expert_tap tap, void *context, proa_cuda_choices **choices,
                                     proa_error *err);
void proa_cuda_choices_free(proa_cuda_choices *choices);

/* A step begins; what is left of one that failed is forgotten. */
void proa_cuda_choices_begin(proa_cuda_choices *choices);
/* Queues the copy of the piece that was queued last: its first `rows` rows. */
proa_status proa_cuda_choices_fetch(proa_cuda_choices *choices, int32_t rows, proa_error *err);
/* The GPU was waited for: the piece's are here. */
void proa_cuda_choices_take(proa_cuda_choices *choices);
/* All pieces of the step are: tells. */
void proa_cuda_choices_tell(proa_cuda_choices *choices);

#endif
