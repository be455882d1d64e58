/* forward.h - one step of the model on a GPU: buffers, the walk over the layers, graphs of it.
 *
 * A step is written into pinned memory by the caller's thread, copied up, and computed; nothing is allocated, and with a graph nothing but one
 * copy and one launch is asked of the driver. Rows that decode (absorbed form) come before those of prompts (expanded form):
 * the caller orders them, a row's bits do not depend on it (law 2).
 *
 * The experts that are here take all rows: where a rank of several would send rows away, `where` says which of the local experts stands
 * for each expert of the model.
 *
 * Owner: the thread of the GPU.
 */
#ifndef PROA_MODEL_CUDA_FORWARD_H
#define PROA_MODEL_CUDA_FORWARD_H

#include "model/cuda/marks.h"
#include "model/cuda/tiles.h"
#include "model/cuda/weights.h"
#include "op/mla/kv_row.h"

typedef struct proa_cuda_forward proa_cuda_forward;

typedef struct proa_cuda_limits {
    int32_t rows_max;
    int32_t decode_rows_max;
    int32_t segments_max; /* of prompts */
    int32_t keys_max;     /* of all prompts of a step, those in the cache included, each rounded up to 128 */
    int32_t logit_rows_max;
    int32_t positions_max;
    int32_t kv_blocks;
    proa_kv_cache kv_cache; /* AUTO: BF16; E4M3 where the model's rows can be (proa_kv_row_fits) */
    int32_t
        splits_max; /* of all decode rows of a step together (proa_cuda_forward_splits); 0: whatever they may be */
    int32_t
        cache_layers; /* that have a cache of their own; 0: all. For measurements: the others share these, and results mean nothing */
} proa_cuda_limits;

/* What a step's time goes into. */
typedef enum proa_cuda_op {
    PROA_CUDA_UPLOAD, /* of the step's description */
    PROA_CUDA_EMBED,
    PROA_CUDA_NORM,
    PROA_CUDA_QKV_A,
    PROA_CUDA_Q_NORM,
    PROA_CUDA_Q_B,
    PROA_CUDA_ROPE,
    PROA_CUDA_APPEND, /* the cache's new rows: norm, RoPE */
    PROA_CUDA_UK,
    PROA_CUDA_MLA,
    PROA_CUDA_UV,
    PROA_CUDA_GATHER,
    PROA_CUDA_KV_B,
    PROA_CUDA_MHA,
    PROA_CUDA_O_QUANTISE,
    PROA_CUDA_O,
    PROA_CUDA_DENSE,
    PROA_CUDA_ROUTER,
    PROA_CUDA_SPREAD,
    PROA_CUDA_EXPERTS_UP,
    PROA_CUDA_EXPERTS_ACT,
    PROA_CUDA_EXPERTS_DOWN,
    PROA_CUDA_SHARED,
    PROA_CUDA_COMBINE,
    PROA_CUDA_HEAD,
    PROA_CUDA_SAMPLE, /* the caller's, as is the next */
    PROA_CUDA_DOWNLOAD,
    PROA_CUDA_OPS,
} proa_cuda_op;

const char *proa_cuda_op_name(proa_cuda_op op);

/* `where` [n_routed_experts]: local expert of each; NULL: itself, all are here. Copied. */
proa_status proa_cuda_forward_create(proa_gpu *gpu, const proa_cuda_weights *weights,
                                     const proa_cuda_limits *limits, const int32_t *where,
                                     proa_cuda_forward **forward, proa_error *err);
void proa_cuda_forward_free(proa_cuda_forward *forward); /* accepts NULL */

/* Bytes of GPU memory beside the weights: buffers, and the cache. Of a forward yet to be made; of one that is there. */
void proa_cuda_forward_plan(const proa_model_config *config, int32_t local_experts,
                            const proa_cuda_limits *limits, uint64_t *buffers, uint64_t *cache);
void proa_cuda_forward_bytes(const proa_cuda_forward *forward, uint64_t *buffers, uint64_t *cache);

/* What a decode row with so many keys takes of splits_max. */
int32_t proa_cuda_forward_splits(int32_t keys);

/* One sequence of a step. */
typedef struct proa_cuda_sequence {
    int32_t row_count;      /* decode: 1 */
    int32_t position_first; /* of its first row */
    const int32_t *ids;     /* [row_count] */
    const int32_t *blocks;  /* KV blocks for positions 0 .. position_first + row_count - 1 */
    int32_t logits;         /* of so many of its last rows */
} proa_cuda_sequence;

typedef struct proa_cuda_step {
    const proa_cuda_sequence *decode; /* one row each */
    int32_t decode_count;
    int32_t padding; /* rows that compute nothing of use, behind those: a graph has a fixed number */
    const proa_cuda_sequence *prompts;
    int32_t prompt_count;
    int32_t
        logits_at; /* row of the logits' memory that the first wanted one goes to; behind it, in the order of the sequences */
} proa_cuda_step;

/* Queues the step's description, once the one before has arrived there (proa_gpu_sync); then its work: logits [wanted, vocab] float32 on
 * the GPU. Rows of padding have logits too, behind those of the rows before them. */
proa_status proa_cuda_forward_prepare(proa_cuda_forward *forward, const proa_cuda_step *step,
                                      proa_error *err);
proa_status proa_cuda_forward_run(proa_cuda_forward *forward, proa_error *err);
const float *proa_cuda_forward_logits(const proa_cuda_forward *forward);
/* What the routers choose in that step: [layers, *rows of the step with its padding, num_experts_per_tok] on the GPU; of MoE layers alone. Not
 * with `where`: then they are places. */
bool proa_cuda_forward_placed(const proa_cuda_forward *forward);
const int32_t *proa_cuda_forward_choices(const proa_cuda_forward *forward, int32_t *rows);

/* Rows 0 .. tokens - 1 of block `from`, in every layer, to block `to`. Queued. */
proa_status proa_cuda_forward_kv_copy(proa_cuda_forward *forward, int32_t from, int32_t to, int32_t tokens,
                                      proa_error *err);

/* For comparison with a reference (model/forward.h): called in steps whose rows are all of prompts, outside of graphs. NULL: off. */
typedef void (*proa_cuda_tap)(void *context, int32_t index, int32_t rows, const float *hidden);
void proa_cuda_forward_set_tap(proa_cuda_forward *forward, proa_cuda_tap tap, void *context);

/* 2, the default: the shared expert runs beside the routed ones, and a layer's new keys are made beside its queries; or 1. No bit depends
 * on it. */
void proa_cuda_forward_set_streams(proa_cuda_forward *forward, int32_t streams);

/* For traces: a point where each op (proa_cuda_op) begins, in what is queued or recorded from now on. NULL, the default: nothing is queued for
 * it. A step has at most so many. */
void proa_cuda_forward_set_marks(proa_cuda_forward *forward, proa_cuda_marks *marks);
int32_t proa_cuda_forward_points_max(const proa_cuda_forward *forward);
/* Tiles of the products from now on; borrowed. NULL, which it begins with: the launchers choose. */
void proa_cuda_forward_set_tiles(proa_cuda_forward *forward, proa_cuda_tiles *tiles);
/* Each product that is queued is shown. NULL: off. */
typedef void (*proa_cuda_watch)(void *context, proa_cuda_op op, const proa_cuda_shape *shape);
void proa_cuda_forward_set_watch(proa_cuda_forward *forward, proa_cuda_watch watch, void *context);

/* The kernels that do an op of this model, "rmsnorm" for example; NULL: none, the model has no such op. */
const char *proa_cuda_op_kernel(const proa_model_config *config, proa_cuda_op op);

/* For measurements: the ops of this set alone are queued from now on (bit 1 << op). */
void proa_cuda_forward_only(proa_cuda_forward *forward, uint32_t ops);

#endif
