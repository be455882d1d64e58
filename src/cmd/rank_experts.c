/* rank_experts.c - see rank_experts.h. */
#include "cmd/rank_experts.h"

static proa_status read_location(const proa_options *o, const proa_rank_world *world,
                                 const proa_model_config *config, proa_rank_experts *e, proa_error *err)
{
    const proa_expert_shape shape = {.layers = config->num_hidden_layers,
                                     .experts = config->n_routed_experts,
                                     .physical = config->n_routed_experts +
                                                 (int32_t)proa_options_int(o, "ep-num-redundant-experts"),
                                     .ranks = world->world,
                                     .nodes = world->nnodes,
                                     .groups = config->n_group};
    bool moe[PROA_EXPERT_LAYERS_MAX];
    proa_status status =
        proa_expert_location_open(proa_options_string(o, "init-expert-location"), &e->location, err);
    if (status == PROA_OK && e->location.kind != PROA_EXPERT_LOCATION_TRIVIAL) {
        status = proa_expert_shape_check(&shape, err);
        for (int32_t l = 0; l < shape.layers && status == PROA_OK; l++)
            moe[l] = proa_model_config_is_moe(config, l);
        if (status == PROA_OK)
            status = proa_expert_location_fit(&e->location, &shape, moe, err);
    }
    e->digest = proa_expert_location_digest(&e->location);
    return status == PROA_OK ? PROA_OK : proa_error_prefix(err, "--init-expert-location");
}

static proa_status read_rebalance(const proa_options *o, proa_ep_group_rebalance *r, proa_error *err)
{
    static const char buffer[] = "expert-distribution-recorder-buffer-size";
    int64_t window = proa_options_given(o, buffer) ? proa_options_int(o, buffer) : -1;
    int64_t iterations = proa_options_int(o, "eplb-rebalance-num-iterations");
    if (!proa_options_bool(o, "enable-eplb"))
        return PROA_OK;
    if (window == 0 || window > iterations)
        return proa_error_set(err, PROA_ERR_INVALID,
                              "--%s %lld: with --enable-eplb it must be 1 to --eplb-rebalance-num-iterations "
                              "%lld, or -1",
                              buffer, (long long)window, (long long)iterations);
    *r = (proa_ep_group_rebalance){
        .iterations = (int32_t)iterations,
        .window = window < 0 ? 0 : (int32_t)window,
        .layers_per_chunk = proa_options_given(o, "eplb-rebalance-layers-per-chunk")
                                ? (int32_t)proa_options_int(o, "eplb-rebalance-layers-per-chunk")
                                : 0,
        .threshold = proa_options_real(o, "eplb-min-rebalancing-utilization-threshold"),
    };
    return PROA_OK;
}

proa_status proa_rank_experts_read(const proa_options *o, const proa_rank_world *world,
                                   const proa_model_config *config, proa_rank_experts *e, proa_error *err)
{
    *e = (proa_rank_experts){0};
    proa_status status = read_rebalance(o, &e->rebalance, err);
    if (status == PROA_OK)
        status = read_location(o, world, config, e, err);
    if (status != PROA_OK)
        proa_rank_experts_free(e);
    return status;
}

void proa_rank_experts_free(proa_rank_experts *e)
{
    proa_expert_location_free(&e->location);
}
