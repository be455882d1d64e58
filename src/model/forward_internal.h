/* forward_internal.h - the buffers of a forward and the stages that share them (forward.c, attention.c, mlp.c). */
#ifndef PROA_MODEL_FORWARD_INTERNAL_H
#define PROA_MODEL_FORWARD_INTERNAL_H

#include "model/forward_backend.h"

enum {
    /* Rows that the absorbed attention takes at once, positions of an expanded tile, and rows that an MLP takes at
     * once: they bound buffers (q_lat, expanded keys, expert slots) and change no bit of any result (law 2). */
    ABSORBED_ROWS = 128,
    EXPANDED_TILE = 256,
    MLP_ROWS = 1024,
};

/* What a window of a MoE layer keeps from its routing until its outputs are added up. */
typedef struct forward_lane {
    int32_t *expert_ids;   /* [M, K] */
    float *expert_weights; /* [M, K] */
    float *shared_out;     /* [M, H] */
} forward_lane;

/* Shapes: R = rows_max, H = hidden_size, T = EXPANDED_TILE, A = ABSORBED_ROWS, M = min(R, MLP_ROWS), K = top_k. */
typedef struct forward_buffers {
    int32_t *positions;          /* [R] */
    int32_t *logit_rows;         /* [logit_rows_max] */
    float *hidden;               /* [R, H] the residual stream */
    float *normed;               /* [R, H] */
    float *delta;                /* [R, H] what the next norm adds to hidden */
    uint8_t *q8;                 /* [R, widest k] quantised activations of the linear at hand */
    float *q8_scale;             /* [R, ceil(widest k / 128)] */
    float *q_a;                  /* [R, q_lora_rank] */
    float *q;                    /* [R, heads, nope + rope] */
    float *kv_a;                 /* [R, kv_lora_rank + rope] */
    float *attention;            /* [R, heads, v] */
    float *q_lat;                /* [A, heads, kv_lora_rank] */
    float *o_lat;                /* [A, heads, kv_lora_rank] */
    float *tile_lora;            /* [T, kv_lora_rank] */
    float *tile_pe;              /* [T, rope] */
    float *tile_kv;              /* [T, heads, nope + v] */
    float *state_max;            /* [R, heads] */
    float *state_sum;            /* [R, heads] */
    float *state_out;            /* [R, heads, v] */
    float *mlp_gate;             /* [M, width] dense or shared */
    float *mlp_up;               /* [M, width] */
    float *router_logits;        /* [M, experts] */
    forward_lane lanes[2];       /* the second one where the exchange has two lanes */
    int32_t *offsets;            /* [experts + 1] */
    int32_t *order;              /* [M * K] */
    int32_t *row_index;          /* [M * K] */
    int32_t *place;              /* [M * K] */
    float *slot_gate;            /* [M * K, moe width] */
    float *slot_up;              /* [M * K, moe width] */
    float *slot_out;             /* [M * K, H] */
    float *heads_out;            /* [slice_max, heads, v] with a team: all heads of the own slice */
    float *last_hidden;          /* [logit_rows_max, H] */
    float *last_delta;           /* [logit_rows_max, H] */
    float *logits;               /* [logit_rows_max, vocab] */
    proa_segment *batch;         /* [A] segments of one absorbed batch */
    proa_segment *half_segments; /* [R + 1] with two lanes: of both halves */
    /* with an exchange; L = local experts, Q = received_max * min(K, L) */
    int32_t *physical;      /* [M, K] */
    int32_t *work_order;    /* [Q] sorted place -> slot of the work */
    int32_t *work_row;      /* [Q] sorted place -> row of the work */
    int32_t *work_offsets;  /* [L + 1] */
    int32_t *piece_offsets; /* [L + 1] */
    int32_t *place_in;      /* [L] next place of each expert, while sorting */
    proa_weight *local;     /* [layers, 3, L] gate, up and down of the experts that are here */
} forward_buffers;

/* The heads of a layer that are computed here: rows of the weights, all of them without a team. */
typedef struct forward_heads {
    proa_weight q; /* of q_b_proj, or q_proj when q_lora_rank = 0 */
    proa_weight kv_b;
    const void *w_uk;
    const void *w_uv;
} forward_heads;

/* Rows of a step. */
typedef struct forward_rows {
    int32_t first;
    int32_t count;
} forward_rows;

struct proa_forward {
    const proa_forward_backend *backend; /* NULL: the layer graph here does the work */
    void *backend_context;
    proa_model_config config;
    const proa_weights *weights;
    proa_device *device;
    proa_forward_limits limits;
    float softmax_scale;
    float *rope_cos; /* [positions_max, rope / 2] */
    float *rope_sin;
    proa_kv_layer *kv; /* [layers] */
    void *kv_memory;
    void *memory; /* what the buffers are carved from */
    forward_buffers b;
    proa_forward_tap tap;
    void *tap_context;
    proa_forward_expert_tap expert_tap;
    void *expert_tap_context;
    bool shared_experts; /* there is an exchange */
    bool overlap;        /* it has two lanes */
    proa_exchange exchange;
    bool shares_heads; /* there is a team */
    proa_team team;
    int32_t heads;      /* that are computed here */
    forward_heads *own; /* [layers] */
    float *own_scales;  /* of weights whose heads begin inside a block of scales */
    proa_forward_place place;
    void *place_context;
};

/* x [rows, cols] as the linears of `w` and `w2` (which may be NULL) want it: quantised when one of them is FP8 and
 * the precision is the default one. The quantised copy lives in b.q8 until the next call. */
proa_rows proa_forward_rows(proa_forward *f, const float *x, int32_t rows, int32_t cols, const proa_weight *w,
                            const proa_weight *w2);

/* Between ops: moves on what travels while this thread computes (two halves of a step). */
static inline void proa_forward_progress(const proa_forward *f)
{
    if (f->overlap)
        f->exchange.progress(f->exchange.context);
}

/* y [x.rows, w->n] = x W^T, rounded in the default precision. */
void proa_forward_linear(proa_forward *f, proa_rows x, const proa_weight *w, float *y);

/* hidden += delta (unless NULL); normed = norm(hidden) * w (unless w is NULL). Contiguous rows. */
void proa_forward_add_and_norm(proa_forward *f, int32_t rows, float *hidden, const float *delta,
                               const proa_weight *w, float *normed);

/* The first half of a layer, for the rows of a step, whose first one is row `first` of the buffers: from b.hidden, to which `delta` of
 * these rows is added first (unless NULL), to b.normed, which the MLP takes. */
void proa_forward_attend(proa_forward *f, int32_t layer, int32_t first, const proa_step *step,
                         const float *delta);

/* Attention in its three parts. normed [rows, hidden] to rows `to` .. of b.q_a (unless q_lora_rank is 0) and b.kv_a. */
void proa_forward_latents(proa_forward *f, int32_t layer, const float *normed, int32_t to, int32_t rows);
/* From these rows of all the step, to b.attention for the heads that are here, and the keys to the cache. normed [rows, hidden] is what
 * the latents were made of. */
void proa_forward_attend_heads(proa_forward *f, int32_t layer, const int32_t *positions, const float *normed,
                               const proa_step *step);
/* o_proj: y [rows, hidden] of x [rows, heads, v], all heads. */
void proa_forward_join_heads(proa_forward *f, int32_t layer, const float *x, int32_t rows, float *y);

/* Which heads are here, and their weights; before the scratch is reserved. */
proa_status proa_forward_take_heads(proa_forward *f, proa_error *err);

/* Rows of a step that are the own slice; all of them without a team. */
forward_rows proa_forward_own_rows(const proa_forward *f, int32_t rows);

/* As proa_forward_attend, with a team: b.hidden, delta and b.normed of the own slice. */
proa_status proa_forward_team_attend(proa_forward *f, int32_t layer, const proa_step *step,
                                     const float *delta, proa_error *err);
/* The rows that need logits, after the last norm, to b.normed of the leader; from b.hidden and `delta` of the own slices. */
proa_status proa_forward_team_last(proa_forward *f, const proa_step *step, const float *delta,
                                   proa_error *err);

/* From b.normed to b.delta, rows first .. first + rows - 1: dense MLP, or routed experts plus the shared one; those in `windows` windows
 * where ranks share them. */
proa_status proa_forward_mlp(proa_forward *f, int32_t layer, int32_t first, int32_t rows, int32_t windows,
                             proa_error *err);

/* y [x.rows, hidden] = down(silu(gate(x)) * up(x)) */
void proa_forward_run_mlp(proa_forward *f, const proa_mlp_weights *w, proa_rows x, float *y);

/* y [rows, hidden] of routed experts plus the shared one (moe.c); all of them here. */
void proa_forward_moe(proa_forward *f, int32_t layer, const float *x, int32_t rows, float *y);

/* The same with experts at other ranks: one window on one lane, from b.normed to b.delta, rows first .. first + rows - 1. `send` routes
 * and dispatches the rows, and computes their shared expert while they travel; `work` computes what all ranks have sent, and gives it
 * back; `collect` adds up. */
proa_status proa_forward_moe_send(proa_forward *f, int32_t lane, int32_t layer, int32_t first, int32_t rows,
                                  proa_error *err);
proa_status proa_forward_moe_work(proa_forward *f, int32_t lane, int32_t layer, proa_error *err);
proa_status proa_forward_moe_collect(proa_forward *f, int32_t lane, int32_t layer, int32_t first,
                                     int32_t rows, proa_error *err);

/* Scratch that these stages' ops may ask for. */
size_t proa_forward_attention_scratch(const proa_forward *f);
size_t proa_forward_mlp_scratch(const proa_forward *f);

#endif
