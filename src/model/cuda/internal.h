/* internal.h - the buffers of a GPU's forward, shared by its stages (forward.c, attention.c, moe.c). */
#ifndef PROA_MODEL_CUDA_INTERNAL_H
#define PROA_MODEL_CUDA_INTERNAL_H

#include "model/cuda/forward.h"
#include "model/cuda/marks.h"
#include "op/cuda/rows.h"

enum {
    PROA_CUDA_ROUTER_SLICES = 8, /* of K: what the router's product is cut into, always (law 2) */
    PROA_CUDA_SEGMENT_INTS = 6,  /* of a prompt's segment, as the prefill kernel has it */
    PROA_CUDA_KEY_TILE = 128,
};

/* What the host says about a step; one piece of memory here and there. R rows, A of them decode. */
typedef struct cuda_metadata {
    int32_t *ids;        /* [R] */
    int32_t *positions;  /* [R] */
    int32_t *slots;      /* [R]: place in the cache, -1: none */
    int32_t *lengths;    /* [A]: keys of a decode row */
    int32_t *tables;     /* [A, blocks of a sequence] */
    int32_t *segments;   /* [segments_max, 6] */
    int32_t *key_slots;  /* [keys_max] */
    int32_t *logit_rows; /* [logit_rows_max] */
} cuda_metadata;

/* Shapes: R rows_max, A decode_rows_max, T keys_max, H hidden, S slots: R * top_k and up to 127 of padding an expert. bf16 unless said. */
typedef struct cuda_buffers {
    void *hidden, *normed, *delta; /* [R, H] */
    proa_cuda_fp8_rows q8;         /* [R, widest input] */
    void *qkv_a;                   /* [R, q_lora_rank + kv_lora_rank + rope] */
    void *q_a;                     /* [R, q_lora_rank], where q_b is bf16 */
    void *q;                       /* [R, heads, nope + rope] */
    void *q_all;                   /* [A, heads, kv_lora_rank + rope] */
    void *o_lat;                   /* [A, heads, kv_lora_rank] */
    void *attention;               /* [R, heads, v] */
    void *kv_lora;                 /* [T, kv_lora_rank], where kv_b is bf16 */
    proa_cuda_fp8_rows kv_q8;      /* [T, kv_lora_rank] */
    void *kv;                      /* [T, heads, nope + v] */
    void *k_pe;                    /* [T, rope] */
    int32_t *tickets;              /* [2] of the prefill kernel */
    void *mla_workspace;
    void *gate_up;   /* [R, 2 * width] dense or shared */
    void *activated; /* [R, width] */
    proa_cuda_fp8_rows activated_q8;
    void *shared_out;       /* [R, H] */
    float *router_logits;   /* [slices, R, experts] float32 */
    int32_t *expert_ids;    /* [layers, rows of the step, top_k] */
    int32_t *place;         /* [R, top_k] */
    float *expert_weights;  /* [R, top_k] */
    int32_t *counts;        /* [2][2 * local experts]: counts and filled, of this layer and the next */
    int32_t *first, *count; /* [local experts] */
    void *spread;           /* [S, H] */
    proa_cuda_fp8_rows spread_q8;
    void *slot_gate_up;   /* [S, 2 * moe width] */
    void *slot_activated; /* [S, moe width] */
    proa_cuda_fp8_rows slot_q8;
    void *slot_out; /* [S, H] */
    void *last;     /* [logit_rows_max, H] */
    void *last_delta;
    float *logits; /* [logit_rows_max, vocab] float32 */
} cuda_buffers;

struct proa_cuda_forward {
    proa_gpu *gpu;
    const proa_cuda_weights *weights;
    int32_t local_experts;
    proa_model_config config;
    proa_cuda_limits limits;
    float softmax_scale;
    int32_t table_stride;
    int32_t slots_max; /* S */
    int32_t splits_max;
    uint32_t only;
    bool placed; /* experts: by `where` */
    int32_t *where;
    float *rope_cos, *rope_sin;
    unsigned char *cache; /* [layers][blocks * 64] rows of kv_row.h */
    uint64_t cache_bytes, buffer_bytes;
    void *memory;
    void *pinned;
    size_t metadata_bytes;
    cuda_metadata host, m;
    cuda_buffers b;
    /* the step that was prepared */
    int32_t rows, decode_rows, segments, keys, logit_rows, logits_at;
    int32_t layer; /* whose ops are queued, or -1 */
    bool two_streams, beside;
    proa_cuda_tap tap;
    void *tap_context;
    proa_cuda_marks *marks; /* or NULL */
    proa_status mark_status;
    proa_error mark_error;
    proa_cuda_tiles *tiles; /* or NULL */
    proa_cuda_watch watch;
    void *watch_context;
};

/* x of a product, in the form that the matrix takes. */
typedef struct cuda_input {
    const void *x; /* bf16 */
    int64_t x_stride;
    const proa_cuda_fp8_rows *q8;
    int32_t rows_max;
} cuda_input;

/* Is the op wanted? What is queued from now on, to the stream that takes it, is this op's. */
bool proa_cuda_begin(proa_cuda_forward *f, proa_cuda_op op);

/* What the op of the step at hand works on: what stands between the braces of a JSON object, in at most 256 bytes. */
void proa_cuda_describe(const proa_cuda_forward *f, proa_cuda_op op, int32_t layer, char *args, size_t bytes);

/* Between fork and join, what is queued beside runs beside the rest: neither may touch what the other writes. No kernel whose blocks wait for
 * one another may run then (attention's). On one stream these do nothing. */
proa_status proa_cuda_fork(proa_cuda_forward *f, proa_error *err);
void proa_cuda_beside(proa_cuda_forward *f, bool beside);
proa_status proa_cuda_join(proa_cuda_forward *f, proa_error *err);

/* Behind all that is queued, or the failure of it: `status`, or that of a mark. */
proa_status proa_cuda_end(proa_cuda_forward *f, proa_status status, proa_error *err);

/* The tile that a product gets; shows the product to whoever watches. */
proa_cuda_tile proa_cuda_tile_of(proa_cuda_forward *f, proa_cuda_op op, const proa_cuda_shape *shape);

/* y [rows, stack.n] at y_stride (elements). `groups` NULL: all rows with one matrix. */
proa_status proa_cuda_product(proa_cuda_forward *f, proa_cuda_op op, const cuda_input *x, int32_t rows,
                              const proa_cuda_groups *groups, const proa_cuda_stack *w, void *y,
                              int64_t y_stride, proa_error *err);
proa_status proa_cuda_product_of(proa_cuda_forward *f, proa_cuda_op op, const cuda_input *x, int32_t rows,
                                 const proa_cuda_groups *groups, const proa_cuda_matrix *w, void *y,
                                 int64_t y_stride, proa_error *err);

/* b.hidden (+= delta) to b.normed (where `keep`) and, where a matrix is FP8, b.q8. */
proa_status proa_cuda_norm(proa_cuda_forward *f, const void *delta, const void *w, bool keep, bool quantise,
                           proa_error *err);

/* b.hidden += b.delta where `add`, shown to the tap; and after all layers what the last norm makes of it, with b.delta zero then. */
proa_status proa_cuda_tap_hidden(proa_cuda_forward *f, int32_t index, bool add, proa_error *err);
proa_status proa_cuda_tap_last(proa_cuda_forward *f, proa_error *err);

proa_status proa_cuda_attention(proa_cuda_forward *f, int32_t layer, proa_error *err);
proa_status proa_cuda_mlp_of(proa_cuda_forward *f, int32_t layer, proa_error *err);

#endif
