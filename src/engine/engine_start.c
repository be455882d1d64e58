/* engine_start.c - binds the engine to the real forward and device; apart, so that tests link without them. */
#include "engine/engine_internal.h"
#include "engine/ep_group.h"

static proa_status copy(void *context, const proa_kv_copy *copies, int32_t count, proa_error *err)
{
    return proa_forward_kv_copy(context, copies, count, err);
}

static proa_status step(void *context, const proa_step *rows, float **logits, proa_error *err)
{
    return proa_forward_step(context, rows, logits, err);
}

static proa_status sample(void *context, const proa_sample_args *args, proa_error *err)
{
    const proa_device *device = context;
    (void)err; /* on the host nothing can fail */
    device->ops->sample(&device->host, args);
    return PROA_OK;
}

static proa_status sample_there(void *context, const proa_sample_args *args, proa_error *err)
{
    return proa_forward_sample(context, args, err);
}

/* A forward among those of other ranks. */
static proa_status step_ranks(void *context, const proa_step *rows, float **logits, proa_error *err)
{
    return proa_ep_group_step(context, rows, logits, err);
}

static proa_status copy_ranks(void *context, const proa_kv_copy *copies, int32_t count, proa_error *err)
{
    return proa_ep_group_kv_copy(context, copies, count, err);
}

static void written_ranks(void *context, const int32_t *blocks, int32_t count)
{
    proa_ep_group_kv_written(context, blocks, count);
}

static bool idle_ranks(void *context)
{
    return proa_ep_group_idle(context);
}

static bool is_away(void *context)
{
    return proa_ep_group_is_away(context);
}

/* `ranks` NULL: the model is a forward of its own. */
static proa_status start(const proa_engine_options *options, const proa_model_config *config,
                         const proa_engine_model *model, proa_forward *forward, proa_device *device,
                         proa_ep_group *ranks, proa_engine **engine, proa_error *err)
{
    proa_forward_limits limits;
    proa_status status = proa_engine_forward_limits(options, &limits, err);
    if (status != PROA_OK)
        return status;
    if (ranks != NULL)
        proa_ep_group_attach(ranks, forward, limits.rows_max);
    size_t scratch = proa_sample_scratch_bytes(&device->host, limits.logit_rows_max, config->vocab_size);
    status = proa_device_reserve(device, scratch, err);
    return status == PROA_OK ? proa_engine_start_with(options, config, model, engine, err) : status;
}

proa_status proa_engine_start_ranks(const proa_engine_options *options, const proa_model_config *config,
                                    proa_forward *forward, proa_device *device, proa_ep_group *ranks,
                                    proa_engine **engine, proa_error *err)
{
    const proa_engine_model model = {.context = ranks,
                                     .copy = copy_ranks,
                                     .step = step_ranks,
                                     .idle = idle_ranks,
                                     .written = written_ranks,
                                     .away = is_away,
                                     .sample_context = device,
                                     .sample = sample};
    return start(options, config, &model, forward, device, ranks, engine, err);
}

proa_status proa_engine_start(const proa_engine_options *options, const proa_model_config *config,
                              proa_forward *forward, proa_device *device, proa_engine **engine,
                              proa_error *err)
{
    const bool there = proa_forward_samples(forward);
    const proa_engine_model model = {.context = forward,
                                     .copy = copy,
                                     .step = step,
                                     .sample_context = there ? (void *)forward : (void *)device,
                                     .sample = there ? sample_there : sample};
    return start(options, config, &model, forward, device, NULL, engine, err);
}
