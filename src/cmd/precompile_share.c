/* precompile_share.c - see precompile.h: a worker's flags, and what they leave to one rank. */
#include "cmd/precompile.h"

#include "base/minmax.h"
#include "cmd/rank_group.h"
#include "cmd/worker_ranks.h"

#include <string.h>

static proa_status divide(const proa_options *o, const proa_model_config *c, const proa_rank_world *w,
                          proa_precompile_share *s, proa_error *err)
{
    const int32_t redundant = (int32_t)proa_options_int(o, "ep-num-redundant-experts"),
                  physical = c->n_routed_experts > 0 ? c->n_routed_experts + redundant : 0;
    if (c->num_attention_heads % w->attention_tp_size != 0)
        return proa_error_set(err, PROA_ERR_INVALID,
                              "%d attention heads do not divide among %d ranks: choose another --tp-size or "
                              "--dp-size",
                              c->num_attention_heads, w->attention_tp_size);
    if (physical % w->world != 0)
        return proa_error_set(err, PROA_ERR_INVALID,
                              "%d experts and --ep-num-redundant-experts %d do not divide among %d ranks",
                              c->n_routed_experts, redundant, w->world);
    s->heads = c->num_attention_heads / w->attention_tp_size;
    s->experts = physical / w->world;
    if (!proa_options_given(o, "slice-experts"))
        return PROA_OK;
    s->experts = (int32_t)proa_options_int(o, "slice-experts");
    if (c->n_routed_experts > 0 && s->experts <= c->n_routed_experts)
        return PROA_OK;
    return proa_error_set(err, PROA_ERR_INVALID,
                          "--slice-experts %d: this model has %d routed experts a layer", s->experts,
                          c->n_routed_experts);
}

static void read_role(const proa_options *o, proa_precompile_share *s)
{
    const char *mode = proa_options_string(o, "disaggregation-mode");
    s->decodes = strcmp(mode, "prefill") != 0;
    s->prefills = strcmp(mode, "decode") != 0;
}

static proa_status read_limits(const proa_options *o, const proa_model_config *c, const proa_rank_world *w,
                               proa_precompile_share *s, proa_error *err)
{
    s->running = w->max_running_requests > 0 ? w->max_running_requests
                                             : (int32_t)proa_options_int(o, "max-running-requests");
    s->context = c->max_position_embeddings;
    if (proa_options_given(o, "context-length"))
        s->context = proa_min_i32(s->context, (int32_t)proa_options_int(o, "context-length"));
    if (proa_options_given(o, "max-total-tokens"))
        s->context = proa_min_i32(s->context, (int32_t)proa_options_int(o, "max-total-tokens"));
    const int32_t chunk = proa_rank_group_chunk(o, w, s->running);
    s->chunk = chunk <= 0 ? s->context : proa_min_i32(chunk, s->context);
    return s->decodes ? proa_graph_sizes_asked(o, s->running, s->graphs, &s->graph_count, err) : PROA_OK;
}

proa_status proa_precompile_share_of(const proa_options *o, const proa_model_config *c,
                                     proa_precompile_share *s, proa_error *err)
{
    const proa_rank_flags flags = proa_worker_ranks_flags(o);
    proa_rank_world world;
    *s = (proa_precompile_share){0};
    proa_status status =
        proa_rank_world_make(&flags, -1, &world, err); /* where ranks would meet is of no interest */
    if (status != PROA_OK)
        return status;
    s->ranks = world.world;
    read_role(o, s);
    status = divide(o, c, &world, s, err);
    return status == PROA_OK ? read_limits(o, c, &world, s, err) : status;
}
