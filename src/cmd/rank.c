/* rank.c - the KV cache's size, then forward or proof, then the engine. */
#include "cmd/rank.h"

#include "base/log.h"
#include "cmd/memory.h"
#include "cmd/rank_trace.h"
#include "model/forward.h"

#include <malloc.h>
#include <stdio.h>
#include <string.h>

static const double mib = 1048576.0;

static proa_status choose_context(const proa_options *o, const proa_model_config *config, int32_t *context,
                                  proa_error *err)
{
    int32_t own = config->max_position_embeddings;
    *context = own;
    if (!proa_options_given(o, "context-length"))
        return PROA_OK;
    *context = (int32_t)proa_options_int(o, "context-length");
    if (*context > own)
        return proa_error_set(err, PROA_ERR_INVALID,
                              "--context-length %d is longer than the %d positions of config.json "
                              "(max_position_embeddings)",
                              *context, own);
    return PROA_OK;
}

/* Limits that are flags of the whole worker, of which this rank has its share. */
static int32_t running_requests(const proa_options *o, const proa_rank_use *use)
{
    bool shared = use->world != NULL && use->world->max_running_requests > 0;
    return shared ? use->world->max_running_requests : (int32_t)proa_options_int(o, "max-running-requests");
}

static int32_t prefill_chunk(const proa_options *o, const proa_rank_use *use)
{
    return use->world != NULL ? proa_rank_group_chunk(o, use->world, running_requests(o, use))
                              : (int32_t)proa_options_int(o, "chunked-prefill-size");
}

static proa_engine_options engine_options(const proa_options *o, const proa_rank_use *use, int32_t kv_tokens,
                                          int32_t context, proa_trace *trace)
{
    const char *policy = proa_options_string(o, "schedule-policy");
    bool decodes = use->role == PROA_ENGINE_DECODE;
    return (proa_engine_options){
        .max_running_requests = running_requests(o, use),
        .max_queued_requests = (int32_t)proa_options_int(o, "max-queued-requests"),
        .max_total_tokens = kv_tokens,
        .chunked_prefill_size = prefill_chunk(o, use),
        .context_length = context,
        .page_size = (int32_t)proa_options_int(o, "page-size"),
        .disable_radix_cache = decodes || proa_options_bool(o, "disable-radix-cache"),
        .schedule_policy = strcmp(policy, "lpm") == 0 ? PROA_SCHEDULE_LPM : PROA_SCHEDULE_FCFS,
        .decode_log_interval = (int32_t)proa_options_int(o, "decode-log-interval"),
        .role = use->role,
        .num_reserved_decode_tokens = (int32_t)proa_options_int(o, "num-reserved-decode-tokens"),
        .kv_event = use->kv_event,
        .kv_event_context = use->kv_event_context,
        .trace = trace,
    };
}

static uint64_t allocated_bytes(void)
{
    struct mallinfo2 info = mallinfo2();
    return (uint64_t)info.uordblks + (uint64_t)info.hblkhd;
}

static proa_status plan_memory(const proa_options *o, const proa_rank_use *use, const proa_rank *r,
                               const proa_memory_plan *memory, int32_t context, proa_memory_plan *plan,
                               proa_error *err)
{
    int32_t running = running_requests(o, use);
    int64_t wanted = proa_options_given(o, "max-total-tokens") ? proa_options_int(o, "max-total-tokens") : 0;
    double share = use->memory_share > 0 ? use->memory_share : 1;
    *plan = *memory;
    plan->exchange_bytes = r->group != NULL ? proa_ep_group_exchange_bytes(proa_rank_group_ep(r->group)) : 0;
    plan->block_bytes = proa_forward_kv_block_bytes(&r->loaded.config, r->precision, r->loaded.kv_cache);
    return proa_memory_plan_kv(plan, proa_options_real(o, "mem-fraction-static") * share, wanted, running,
                               context, err);
}

/* With other ranks, if there are any, `limits` gets what the forward needs of them. */
static proa_status make_forward(proa_rank *r, const proa_options *o, const proa_forward_limits *limits,
                                proa_error *err)
{
    proa_forward_limits with = *limits;
    proa_exchange exchange;
    proa_team team;
    if (r->group != NULL) {
        exchange = proa_rank_group_exchange(r->group);
        with.exchange = &exchange;
        with.team = proa_ep_group_team(proa_rank_group_ep(r->group), &team) ? &team : NULL;
        with.overlap_threshold = proa_options_real(o, "tbo-token-distribution-threshold");
    }
    return proa_loaded_forward(&r->loaded, o, &with, false, &r->forward, err);
}

static proa_status start_forward(proa_rank *r, const proa_options *o, const proa_engine_options *options,
                                 const proa_forward_limits *limits, proa_error *err)
{
    proa_status status = make_forward(r, o, limits, err);
    if (status != PROA_OK)
        return status;
    proa_forward_kv kv = proa_forward_kv_memory(r->forward);
    r->layout = (proa_kv_layout){
        .base = kv.base,
        .dtype = r->kv_dtype,
        .layers = r->loaded.config.num_hidden_layers,
        .blocks = limits->kv_blocks,
        .row_bytes = kv.row_bytes,
        .block_bytes = kv.row_bytes * PROA_KV_BLOCK_TOKENS,
        .layer_bytes = kv.layer_bytes,
    };
    if (r->group == NULL)
        return proa_engine_start(options, &r->loaded.config, r->forward, r->loaded.device, &r->engine, err);
    status = proa_engine_start_ranks(options, &r->loaded.config, r->forward, r->loaded.device,
                                     proa_rank_group_ep(r->group), &r->engine, err);
    if (status == PROA_OK)
        proa_rank_group_set_engine(r->group, r->engine);
    return status;
}

static proa_status start_proof(proa_rank *r, const proa_engine_options *options,
                               const proa_forward_limits *limits, proa_error *err)
{
    proa_status status = proa_proof_create(&r->loaded.config, limits, PROA_PROOF_KEY_DEFAULT, &r->proof, err);
    if (status != PROA_OK)
        return status;
    proa_proof_layout(r->proof, &r->layout);
    return proa_proof_start(options, &r->loaded.config, r->proof, &r->engine, err);
}

/* A rank that computes heads for another one's requests has as much of a KV cache, whatever memory the two have seen: a quarter more than
 * it would have planned, whose pages nobody touches unless the other has planned more. */
static int32_t tokens_of(const proa_options *o, const proa_rank_use *use, const proa_memory_plan *plan)
{
    bool follows = use->world != NULL && !proa_rank_world_leads(use->world);
    int32_t blocks = plan->kv_tokens / PROA_KV_BLOCK_TOKENS;
    return follows && !proa_options_given(o, "max-total-tokens")
               ? (blocks + blocks / 4) * PROA_KV_BLOCK_TOKENS
               : plan->kv_tokens;
}

/* What follows from the memory that there is. */
typedef struct rank_size {
    proa_memory_plan plan;
    proa_engine_options options;
    proa_forward_limits limits;
} rank_size;

static proa_status find_size(const proa_options *o, const proa_rank_use *use, const proa_rank *r,
                             const proa_memory_plan *memory, int32_t context, rank_size *size,
                             proa_error *err)
{
    proa_status status = plan_memory(o, use, r, memory, context, &size->plan, err);
    if (status != PROA_OK)
        return status;
    size->options = engine_options(o, use, tokens_of(o, use, &size->plan), context, r->trace);
    status = proa_engine_forward_limits(&size->options, &size->limits, err);
    size->limits.kv_cache = r->loaded.kv_cache;
    return status;
}

/* What there is, and what is taken already. The buffers of a GPU depend on the size of the cache, a little: they are counted for one that takes
 * all that the weights leave. */
static proa_status find_memory(const proa_options *o, const proa_rank_use *use, const proa_rank *r,
                               uint64_t available, int32_t context, proa_memory_plan *memory, proa_error *err)
{
    proa_loaded_gpu_bytes gpu;
    rank_size size;
    *memory = (proa_memory_plan){
        .available_bytes = available, .weight_bytes = r->loaded.weight_bytes, .where = "memory"};
    if (r->loaded.gpu == NULL)
        return PROA_OK;
    proa_status status = proa_loaded_gpu_plan(r->loaded.gpu, o, NULL, &gpu, err);
    if (status != PROA_OK)
        return status;
    *memory = (proa_memory_plan){
        .available_bytes = gpu.available, .weight_bytes = gpu.weights, .where = "GPU memory"};
    status = find_size(o, use, r, memory, context, &size, err);
    if (status == PROA_OK)
        status = proa_loaded_gpu_plan(r->loaded.gpu, o, &size.limits, &gpu, err);
    memory->buffer_bytes = gpu.buffers;
    return status;
}

/* The buffers of the all-to-all depend on a step's rows, and these on the KV cache, which takes what the buffers leave: so their size is
 * found for a cache without them, and it is large enough for the smaller one. */
static proa_status make_group(const proa_options *o, const proa_rank_use *use, proa_rank *r,
                              const proa_memory_plan *memory, int32_t context, rank_size *size,
                              proa_error *err)
{
    if (r->loaded.checkpoint == NULL || use->world == NULL || use->world->world == 1)
        return PROA_OK;
    proa_status status =
        proa_rank_group_create(o, use->world, &r->loaded.config, r->precision, &size->limits, &r->group, err);
    return status == PROA_OK ? find_size(o, use, r, memory, context, size, err) : status;
}

static void log_memory(const rank_size *size, const char *kv_dtype, uint64_t allocated)
{
    double kv = (double)size->limits.kv_blocks * (double)size->plan.block_bytes,
           exchange = (double)size->plan.exchange_bytes,
           rest = size->plan.buffer_bytes > 0 ? (double)size->plan.buffer_bytes
                                              : (double)allocated - kv - exchange;
    char ranks[64] = "";
    if (exchange > 0)
        snprintf(ranks, sizeof ranks, "all-to-all %.1f MiB, ", exchange / mib);
    proa_log(PROA_LOG_INFO, "serve",
             "%s: %.0f MiB available; weights %.1f MiB, KV cache %.1f MiB (%d blocks of 64 tokens, %d "
             "tokens, %s), %sbuffers %.1f MiB",
             size->plan.where, (double)size->plan.available_bytes / mib,
             (double)size->plan.weight_bytes / mib, kv / mib, size->limits.kv_blocks, size->plan.kv_tokens,
             kv_dtype, ranks, rest > 0 ? rest / mib : 0);
}

static proa_status start_engine(proa_rank *r, const proa_options *o, const proa_rank_use *use,
                                uint64_t available, proa_error *err)
{
    int32_t context;
    rank_size size;
    proa_memory_plan memory;
    uint64_t before = allocated_bytes();
    proa_status status = choose_context(o, &r->loaded.config, &context, err);
    if (status == PROA_OK)
        status = find_memory(o, use, r, available, context, &memory, err);
    if (status == PROA_OK)
        status = find_size(o, use, r, &memory, context, &size, err);
    if (status == PROA_OK)
        status = make_group(o, use, r, &memory, context, &size, err);
    if (status == PROA_OK)
        status = r->loaded.device != NULL ? start_forward(r, o, &size.options, &size.limits, err)
                                          : start_proof(r, &size.options, &size.limits, err);
    if (status != PROA_OK)
        return status;
    log_memory(&size, proa_kv_cache_name(r->kv_dtype), allocated_bytes() - before);
    r->context_length = size.limits.positions_max;
    r->kv_tokens = size.plan.kv_tokens;
    r->running_max = size.options.max_running_requests;
    r->queued_max = size.options.max_queued_requests;
    return PROA_OK;
}

/* What a GPU does not do yet is said before its weights are loaded. */
static proa_status check_gpu_use(const proa_options *o, const proa_rank_use *use, proa_error *err)
{
    if (strcmp(proa_options_string(o, "device"), "cuda") != 0)
        return PROA_OK;
    if (use->world != NULL && use->world->world > 1)
        return proa_error_set(
            err, PROA_ERR_UNSUPPORTED,
            "--device cuda with %d ranks: a GPU serves alone for now; use --tp-size 1, or --device cpu",
            use->world->world);
    if (use->role != PROA_ENGINE_COMBINED)
        return proa_error_set(
            err, PROA_ERR_UNSUPPORTED,
            "--device cuda with prefill and decode apart: a GPU's KV cache is not handed over yet; "
            "use --disaggregation-mode null, or --device cpu");
    return PROA_OK;
}

proa_status proa_rank_open(const proa_options *o, const proa_rank_use *use, proa_rank *r, proa_error *err)
{
    *r = (proa_rank){0};
    uint64_t available = proa_memory_available();
    proa_status status = check_gpu_use(o, use, err);
    if (!proa_options_by_parent(o))
        proa_loaded_tell_of_idle_flags(o);
    if (status == PROA_OK)
        status = proa_rank_trace_open(o, use, &r->trace, err); /* before the weights: a path may be wrong */
    if (status == PROA_OK)
        status = proa_loaded_open(o, &r->loaded, err);
    if (status != PROA_OK)
        return status;
    r->loaded.trace = r->trace;
    r->precision = r->loaded.device != NULL ? r->loaded.device->host.precision : PROA_PRECISION_DEFAULT;
    r->kv_dtype = proa_kv_cache_dtype(r->loaded.kv_cache, r->precision);
    return start_engine(r, o, use, available, err);
}

void proa_rank_describe(const proa_rank *r, proa_worker_model *model)
{
    model->engine = r->engine;
    model->layout = &r->layout;
    if (r->group != NULL && proa_rank_group_records(r->group)) {
        model->record = proa_rank_group_record;
        model->record_context = r->group;
    }
    model->dir = r->loaded.dir;
    model->card.context_length = r->context_length;
    model->card.vocab_size = r->loaded.config.vocab_size;
    model->card.kv_tokens = r->kv_tokens;
    model->card.running_max = r->running_max;
    model->card.queued_max = r->queued_max;
}

void proa_rank_stop(proa_rank *r)
{
    proa_rank_group_stop(r->group);
    proa_engine_stop(r->engine);
    r->engine = NULL;
}

void proa_rank_close(proa_rank *r)
{
    proa_rank_stop(r);
    proa_forward_free(r->forward);
    proa_rank_group_close(r->group);
    proa_proof_free(r->proof);
    proa_loaded_close(&r->loaded);
    proa_trace_free(r->trace);
    *r = (proa_rank){0};
}
