/* products.c - the products of a GPU's step, and what its ops are called.
 *
 * Each product is looked up in the choices of tiles that were measured (tiles.h) before it is queued. */
#include "model/cuda/internal.h"

#include "op/linear/cuda.h"

const char *proa_cuda_op_name(proa_cuda_op op)
{
    static const char *const names[PROA_CUDA_OPS] = {
        [PROA_CUDA_UPLOAD] = "upload of the step",
        [PROA_CUDA_EMBED] = "embed",
        [PROA_CUDA_NORM] = "norms",
        [PROA_CUDA_QKV_A] = "q_a, kv_a",
        [PROA_CUDA_Q_NORM] = "q_a norm",
        [PROA_CUDA_Q_B] = "q_b",
        [PROA_CUDA_ROPE] = "RoPE",
        [PROA_CUDA_APPEND] = "kv_a norm, cache",
        [PROA_CUDA_UK] = "W_UK",
        [PROA_CUDA_MLA] = "MLA decode",
        [PROA_CUDA_UV] = "W_UV",
        [PROA_CUDA_GATHER] = "gather keys",
        [PROA_CUDA_KV_B] = "kv_b",
        [PROA_CUDA_MHA] = "MHA prefill",
        [PROA_CUDA_O_QUANTISE] = "quantise o",
        [PROA_CUDA_O] = "o_proj",
        [PROA_CUDA_DENSE] = "dense MLP",
        [PROA_CUDA_ROUTER] = "router",
        [PROA_CUDA_SPREAD] = "dispatch pack",
        [PROA_CUDA_EXPERTS_UP] = "experts gate, up",
        [PROA_CUDA_EXPERTS_ACT] = "experts SwiGLU",
        [PROA_CUDA_EXPERTS_DOWN] = "experts down",
        [PROA_CUDA_SHARED] = "shared expert",
        [PROA_CUDA_COMBINE] = "combine",
        [PROA_CUDA_HEAD] = "LM head",
        [PROA_CUDA_SAMPLE] = "sampler",
        [PROA_CUDA_DOWNLOAD] = "download of logits",
    };
    return names[op];
}

const char *proa_cuda_op_kernel(const proa_model_config *c, proa_cuda_op op)
{
    const char *fp8 = "fp8_gemm", *bf16 = "bf16_gemm", *product = c->fp8 ? fp8 : bf16,
               *mlp = c->fp8 ? "fp8_gemm, swiglu" : "bf16_gemm, swiglu";
    const bool rope = c->qk_rope_head_dim == 64,
               prefill = rope && c->qk_nope_head_dim == 128 && c->v_head_dim == 128;
    switch (op) {
    case PROA_CUDA_EMBED: return "embed";
    case PROA_CUDA_NORM:
    case PROA_CUDA_Q_NORM: return "rmsnorm";
    case PROA_CUDA_QKV_A:
    case PROA_CUDA_Q_B:
    case PROA_CUDA_KV_B:
    case PROA_CUDA_O: return product;
    case PROA_CUDA_ROPE: return "rotate";
    case PROA_CUDA_APPEND: return "kv_append";
    case PROA_CUDA_UK:
    case PROA_CUDA_UV:
    case PROA_CUDA_HEAD: return bf16;
    case PROA_CUDA_MLA: /* as op/mla/cuda_decode.h and cuda_prefill.h say */
        return rope && c->kv_lora_rank == 512 ? "mla_plan, mla_decode, mla_combine" : "mla_decode_generic";
    case PROA_CUDA_GATHER: return "kv_gather";
    case PROA_CUDA_MHA: return prefill ? "mla_prefill" : "mla_prefill_generic";
    case PROA_CUDA_O_QUANTISE: return c->fp8 ? "quantise_rows" : NULL;
    case PROA_CUDA_DENSE: return mlp;
    case PROA_CUDA_SHARED: return c->n_routed_experts > 0 && c->n_shared_experts > 0 ? mlp : NULL;
    case PROA_CUDA_ROUTER: return c->n_routed_experts > 0 ? "bf16_gemm, router" : NULL;
    case PROA_CUDA_SPREAD: return c->n_routed_experts > 0 ? "spread" : NULL;
    case PROA_CUDA_EXPERTS_UP:
    case PROA_CUDA_EXPERTS_DOWN: return c->n_routed_experts > 0 ? product : NULL;
    case PROA_CUDA_EXPERTS_ACT: return c->n_routed_experts > 0 ? "swiglu" : NULL;
    case PROA_CUDA_COMBINE: return c->n_routed_experts > 0 ? "combine" : NULL;
    case PROA_CUDA_SAMPLE: return "sample";
    case PROA_CUDA_UPLOAD:
    case PROA_CUDA_DOWNLOAD:
    case PROA_CUDA_OPS: break;
    }
    return NULL;
}

void proa_cuda_forward_set_tiles(proa_cuda_forward *f, proa_cuda_tiles *tiles)
{
    f->tiles = tiles;
}

void proa_cuda_forward_set_watch(proa_cuda_forward *f, proa_cuda_watch watch, void *context)
{
    f->watch = watch;
    f->watch_context = context;
}

proa_cuda_tile proa_cuda_tile_of(proa_cuda_forward *f, proa_cuda_op op, const proa_cuda_shape *shape)
{
    if (f->watch != NULL)
        f->watch(f->watch_context, op, shape);
    return proa_cuda_tiles_find(f->tiles, shape);
}

/* y [rows, w->n], at y_stride */
static proa_status product(proa_cuda_forward *f, proa_cuda_op op, const cuda_input *x,
                           const proa_cuda_groups *rows, const proa_cuda_matrix *w, uint16_t *y,
                           int64_t y_stride, proa_error *err)
{
    const proa_cuda_shape shape = {.fp8 = w->dtype == PROA_DTYPE_E4M3,
                                   .form = PROA_CUDA_GROUPS_ROWS,
                                   .groups = rows->groups,
                                   .n = w->n,
                                   .k = w->k,
                                   .rows = rows->first != NULL ? rows->expected : rows->rows};
    const proa_cuda_tile tile = proa_cuda_tile_of(f, op, &shape);
    if (w->dtype == PROA_DTYPE_E4M3)
        return proa_cuda_fp8_linear(f->gpu,
                                    &(proa_cuda_fp8_linear_args){.rows = *rows,
                                                                 .rows_max = x->rows_max,
                                                                 .n = w->n,
                                                                 .k = w->k,
                                                                 .x = *x->q8,
                                                                 .w = w->data,
                                                                 .w_scale = w->scale,
                                                                 .y = y,
                                                                 .y_stride = y_stride,
                                                                 .tile = tile},
                                    err);
    return proa_cuda_bf16_linear(f->gpu,
                                 &(proa_cuda_bf16_linear_args){.rows = *rows,
                                                               .rows_max = x->rows_max,
                                                               .n = w->n,
                                                               .k = w->k,
                                                               .x = x->x,
                                                               .x_stride = x->x_stride,
                                                               .w = w->data,
                                                               .y = y,
                                                               .y_stride = y_stride,
                                                               .tile = tile},
                                 err);
}

proa_status proa_cuda_product(proa_cuda_forward *f, proa_cuda_op op, const cuda_input *x, int32_t rows,
                              const proa_cuda_groups *groups, const proa_cuda_stack *w, void *y,
                              int64_t y_stride, proa_error *err)
{
    const proa_cuda_groups all = {.groups = 1, .rows = rows};
    proa_status status = PROA_OK;
    int32_t column = 0;
    if (!proa_cuda_begin(f, op))
        return PROA_OK;
    for (int32_t i = 0; i < w->parts && status == PROA_OK; i++) {
        status = product(f, op, x, groups != NULL ? groups : &all, &w->part[i], (uint16_t *)y + column,
                         y_stride, err);
        column += w->part[i].n;
    }
    return status;
}

proa_status proa_cuda_product_of(proa_cuda_forward *f, proa_cuda_op op, const cuda_input *x, int32_t rows,
                                 const proa_cuda_groups *groups, const proa_cuda_matrix *w, void *y,
                                 int64_t y_stride, proa_error *err)
{
    const proa_cuda_stack one = {.part = {*w}, .parts = 1, .n = w->n};
    return proa_cuda_product(f, op, x, rows, groups, &one, y, y_stride, err);
}
