/* rank_world.c - see rank_world.h. */
#include "model/rank_world.h"

static long long shown(int64_t value)
{
    return (long long)value;
}

static proa_status check_sizes(const proa_rank_flags *f, proa_error *err)
{
    if (f->node_rank < 0 || f->node_rank >= f->nnodes)
        return proa_error_set(err, PROA_ERR_INVALID, "--node-rank %lld is not below --nnodes %lld",
                              shown(f->node_rank), shown(f->nnodes));
    if (f->tp_size % f->nnodes != 0)
        return proa_error_set(err, PROA_ERR_INVALID, "--tp-size %lld must be a multiple of --nnodes %lld",
                              shown(f->tp_size), shown(f->nnodes));
    if (f->dp_size == 1)
        return PROA_OK;
    if (!f->enable_dp_attention && f->nnodes > 1)
        return proa_error_set(err, PROA_ERR_INVALID,
                              "--dp-size %lld over --nnodes %lld needs --enable-dp-attention",
                              shown(f->dp_size), shown(f->nnodes));
    if (!f->enable_dp_attention)
        return proa_error_set(
            err, PROA_ERR_UNSUPPORTED,
            "--dp-size %lld without --enable-dp-attention is %lld copies of the model: start as "
            "many workers, which frontends balance, or add --enable-dp-attention",
            shown(f->dp_size), shown(f->dp_size));
    if (f->tp_size % f->dp_size != 0)
        return proa_error_set(err, PROA_ERR_INVALID, "--tp-size %lld must be a multiple of --dp-size %lld",
                              shown(f->tp_size), shown(f->dp_size));
    return PROA_OK;
}

/* A dp rank's share; what is not positive stays as it is. */
static proa_status divide(const char *flag, int64_t value, int64_t dp_size, int32_t *share, proa_error *err)
{
    if (value > 0 && value < dp_size)
        return proa_error_set(
            err, PROA_ERR_INVALID,
            "%s %lld is of the whole worker, and leaves nothing to each of --dp-size %lld: give "
            "at least %lld",
            flag, shown(value), shown(dp_size), shown(dp_size));
    *share = (int32_t)(value > 0 ? value / dp_size : value);
    return PROA_OK;
}

proa_status proa_rank_world_make(const proa_rank_flags *f, int64_t rank, proa_rank_world *w, proa_error *err)
{
    PROA_ASSERT(f->tp_size >= 1 && f->tp_size <= INT32_MAX);
    PROA_ASSERT(f->dp_size >= 1 && f->dp_size <= INT32_MAX);
    PROA_ASSERT(f->nnodes >= 1 && f->nnodes <= INT32_MAX);
    proa_status status = check_sizes(f, err);
    if (status != PROA_OK)
        return status;
    int64_t local_size = f->tp_size / f->nnodes, attention_tp_size = f->tp_size / f->dp_size;
    if (rank < 0)
        rank = f->node_rank * local_size;
    if (rank >= f->tp_size)
        return proa_error_set(err, PROA_ERR_INVALID, "there is no rank %lld of --tp-size %lld", shown(rank),
                              shown(f->tp_size));
    *w = (proa_rank_world){
        .rank = (int32_t)rank,
        .world = (int32_t)f->tp_size,
        .node = (int32_t)(rank / local_size),
        .nnodes = (int32_t)f->nnodes,
        .local_rank = (int32_t)(rank % local_size),
        .local_size = (int32_t)local_size,
        .dp_rank = (int32_t)(rank / attention_tp_size),
        .dp_size = (int32_t)f->dp_size,
        .attention_tp_rank = (int32_t)(rank % attention_tp_size),
        .attention_tp_size = (int32_t)attention_tp_size,
        .moe_ep_rank = (int32_t)rank,
        .moe_ep_size = (int32_t)f->tp_size,
    };
    status =
        divide("--chunked-prefill-size", f->chunked_prefill_size, f->dp_size, &w->chunked_prefill_size, err);
    if (status == PROA_OK)
        status = divide("--max-running-requests", f->max_running_requests, f->dp_size,
                        &w->max_running_requests, err);
    return status;
}
