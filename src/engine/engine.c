/* engine.c - the side of the engine that other threads call: start, stop, submit, cancel, grant, statistics. */
#include "engine/engine_internal.h"

#include "base/clock.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { FLUSH_SECONDS_MAX = 10 };

/* ---- start and stop ---- */

static proa_status check_options(const proa_engine_options *options, proa_error *err)
{
    const struct {
        const char *flag;
        int32_t value, least, most;
    } table[] = {
        {"--max-running-requests", options->max_running_requests, 1, 1 << 20},
        {"--max-queued-requests", options->max_queued_requests, 0, 1 << 20},
        {"--max-total-tokens", options->max_total_tokens, PROA_KV_BLOCK_TOKENS, 1 << 30},
        {"--context-length", options->context_length, 2, 1 << 30},
        {"--page-size", options->page_size, 1, PROA_KV_BLOCK_TOKENS},
        {"--decode-log-interval", options->decode_log_interval, 0, INT32_MAX},
        {"--num-reserved-decode-tokens", options->num_reserved_decode_tokens, -1, 1 << 30},
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        if (table[i].value < table[i].least || table[i].value > table[i].most)
            return proa_error_set(err, PROA_ERR_INVALID, "%s is %d; it must be %d to %d", table[i].flag,
                                  table[i].value, table[i].least, table[i].most);
    }
    if (options->max_total_tokens % PROA_KV_BLOCK_TOKENS != 0)
        return proa_error_set(
            err, PROA_ERR_INVALID,
            "--max-total-tokens is %d; it must be a multiple of %d, the tokens of a KV block",
            options->max_total_tokens, PROA_KV_BLOCK_TOKENS);
    return PROA_OK;
}

proa_status proa_engine_forward_limits(const proa_engine_options *options, proa_forward_limits *limits,
                                       proa_error *err)
{
    proa_status status = check_options(options, err);
    if (status != PROA_OK)
        return status;
    int32_t context = options->context_length < options->max_total_tokens ? options->context_length
                                                                          : options->max_total_tokens;
    bool whole = options->chunked_prefill_size <= 0 || options->chunked_prefill_size > context;
    int32_t blocks = options->max_total_tokens / PROA_KV_BLOCK_TOKENS;
    /* a running request has a block of its own at least */
    int32_t running = options->max_running_requests < blocks ? options->max_running_requests : blocks;
    *limits = (proa_forward_limits){
        .rows_max = (whole ? context : options->chunked_prefill_size) + running,
        .logit_rows_max = running,
        .positions_max = context,
        .kv_blocks = blocks,
    };
    return PROA_OK;
}

static bool allocate_step(proa_engine *engine, const proa_forward_limits *forward)
{
    size_t rows = (size_t)forward->rows_max, running = (size_t)forward->logit_rows_max;
    engine->token_ids = calloc(rows, sizeof *engine->token_ids);
    engine->segments = calloc(running, sizeof *engine->segments);
    engine->logit_rows = calloc(running, sizeof *engine->logit_rows);
    engine->logit_segments = calloc(running, sizeof *engine->logit_segments);
    engine->params = calloc(running, sizeof *engine->params);
    engine->results = calloc(running, sizeof *engine->results);
    engine->outcomes = calloc(running, sizeof *engine->outcomes);
    engine->deliveries = calloc(running, sizeof *engine->deliveries);
    return engine->token_ids != NULL && engine->segments != NULL && engine->logit_rows != NULL &&
           engine->logit_segments != NULL && engine->params != NULL && engine->results != NULL &&
           engine->outcomes != NULL && engine->deliveries != NULL;
}

static bool allocate(proa_engine *engine, const proa_forward_limits *forward)
{
    size_t slots = (size_t)engine->limits.slots;
    engine->slots = calloc(slots, sizeof *engine->slots);
    engine->free_slots = calloc(slots, sizeof *engine->free_slots);
    engine->kv_changes = calloc(2 * (size_t)engine->limits.kv_blocks, sizeof *engine->kv_changes);
    engine->mailbox = proa_mailbox_create(slots + 2, NULL, NULL);
    engine->scheduler = proa_scheduler_create(&engine->limits);
    if (engine->slots == NULL || engine->free_slots == NULL || engine->kv_changes == NULL ||
        engine->mailbox == NULL || engine->scheduler == NULL || !allocate_step(engine, forward))
        return false;
    for (int32_t i = 0; i < engine->limits.slots; i++) {
        engine->slots[i].generation = 1;
        engine->free_slots[i] = engine->limits.slots - 1 - i;
    }
    engine->free_count = engine->limits.slots;
    return true;
}

static void engine_free(proa_engine *engine)
{
    proa_scheduler_free(engine->scheduler);
    proa_mailbox_free(engine->mailbox);
    free(engine->slots);
    free(engine->free_slots);
    free(engine->kv_changes);
    free(engine->token_ids);
    free(engine->segments);
    free(engine->logit_rows);
    free(engine->logit_segments);
    free(engine->params);
    free(engine->results);
    free(engine->outcomes);
    free(engine->deliveries);
    pthread_cond_destroy(&engine->changed);
    pthread_mutex_destroy(&engine->lock);
    free(engine);
}

static void start_locks(proa_engine *engine)
{
    proa_clock_cond_init(&engine->changed);
    pthread_mutex_init(&engine->lock, NULL);
}

proa_status proa_engine_start_with(const proa_engine_options *options, const proa_model_config *config,
                                   const proa_engine_model *model, proa_engine **started, proa_error *err)
{
    proa_forward_limits forward;
    proa_status status = proa_engine_forward_limits(options, &forward, err);
    if (status != PROA_OK)
        return status;
    proa_engine *engine = calloc(1, sizeof *engine);
    if (engine == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "out of memory for the engine");
    start_locks(engine);
    engine->options = *options;
    engine->config = *config;
    engine->model = *model;
    engine->limits = (proa_scheduler_limits){
        .role = options->role,
        .reserved_tokens = options->num_reserved_decode_tokens,
        .slots = options->max_running_requests + options->max_queued_requests,
        .running_max = forward.logit_rows_max,
        .chunk = forward.rows_max - forward.logit_rows_max,
        .kv_blocks = forward.kv_blocks,
        .context_length = forward.positions_max,
        .growth_permille = PROA_SCHEDULER_GROWTH_PERMILLE,
        .page_size = options->page_size,
        .cache = !options->disable_radix_cache && options->role != PROA_ENGINE_DECODE,
        .policy = options->schedule_policy,
        .kv_event = options->kv_event != NULL ? proa_engine_note_kv : NULL,
        .kv_event_context = engine,
    };
    if (!allocate(engine, &forward)) {
        status = proa_error_set(err, PROA_ERR_MEMORY,
                                "out of memory for an engine of %d running and %d queued requests",
                                options->max_running_requests, options->max_queued_requests);
        goto free_engine;
    }
    engine->published.kv_blocks_total = engine->stats.kv_blocks_total = forward.kv_blocks;
    int failed = pthread_create(&engine->thread, NULL, proa_engine_run, engine);
    if (failed != 0) {
        status =
            proa_error_set(err, PROA_ERR_MEMORY, "the engine thread does not start: %s", strerror(failed));
        goto free_engine;
    }
    *started = engine;
    return PROA_OK;

free_engine:
    engine_free(engine);
    return status;
}

void proa_engine_stop(proa_engine *engine)
{
    if (engine == NULL)
        return;
    pthread_mutex_lock(&engine->lock);
    if (engine->state == PROA_ENGINE_RUNS)
        engine->state = PROA_ENGINE_STOPS;
    pthread_cond_broadcast(&engine->changed);
    pthread_mutex_unlock(&engine->lock);
    proa_mailbox_close(engine->mailbox);
    pthread_join(engine->thread, NULL);
    engine_free(engine);
}

/* ---- requests ---- */

/* Puts the slot into the mailbox unless it stands there already. Under lock. A closed mailbox means that the engine
 * stops: it looks at all slots then. */
static void ring(proa_engine *engine, proa_engine_slot *slot)
{
    if (slot->rung)
        return;
    slot->rung = true;
    proa_status status = proa_mailbox_send(engine->mailbox, slot);
    PROA_ASSERT(status != PROA_BUSY); /* as many places as slots */
}

/* May one more request come in? Under lock. */
static proa_status check_admission(const proa_engine *engine, proa_error *err)
{
    if (engine->state == PROA_ENGINE_DEAD)
        return proa_error_set(err, engine->cause.status,
                              "the engine has stopped and must be started again: %s", engine->cause.text);
    if (engine->state == PROA_ENGINE_STOPS)
        return proa_error_set(err, PROA_ERR_CANCELLED, "the engine is stopping");
    int32_t running = engine->published.running + engine->lent_count;
    int32_t waiting = engine->limits.slots - engine->free_count - running;
    bool queue_full = engine->blocked && waiting >= engine->options.max_queued_requests;
    if (engine->free_count == 0 || queue_full)
        return proa_error_set(err, PROA_ERR_OVERLOADED,
                              "%d requests run and %d wait, as many as --max-running-requests %d and "
                              "--max-queued-requests %d allow: try again later",
                              running, waiting, engine->options.max_running_requests,
                              engine->options.max_queued_requests);
    return PROA_OK;
}

proa_status proa_engine_submit(proa_engine *engine, const proa_engine_request *asked, uint64_t *id,
                               proa_error *err)
{
    /* without it nobody would know what to release */
    PROA_ASSERT(engine->options.role != PROA_ENGINE_PREFILL || asked->sink.computed != NULL);
    PROA_ASSERT(engine->options.role != PROA_ENGINE_DECODE || asked->sink.reserved != NULL);
    proa_request *request = NULL;
    proa_status status =
        proa_request_create(asked, &engine->config, engine->limits.context_length, &request, err);
    if (status != PROA_OK)
        return status;
    pthread_mutex_lock(&engine->lock);
    status = check_admission(engine, err);
    if (status == PROA_OK) {
        int32_t number = engine->free_slots[--engine->free_count];
        proa_engine_slot *slot = &engine->slots[number];
        slot->used = true;
        slot->wishes = (proa_engine_wishes){.incoming = request};
        request->id = *id = (uint64_t)slot->generation << 32 | (uint32_t)(number + 1);
        ring(engine, slot);
    }
    pthread_mutex_unlock(&engine->lock);
    if (status != PROA_OK)
        proa_request_free(request);
    return status;
}

/* The slot that `id` names, if its request is still there or its blocks are lent. Under lock. */
static proa_engine_slot *find(proa_engine *engine, uint64_t id)
{
    uint32_t number = (uint32_t)id - 1, generation = (uint32_t)(id >> 32);
    if (number >= (uint32_t)engine->limits.slots)
        return NULL;
    proa_engine_slot *slot = &engine->slots[number];
    return slot->used && slot->generation == generation ? slot : NULL;
}

void proa_engine_cancel(proa_engine *engine, uint64_t id)
{
    pthread_mutex_lock(&engine->lock);
    proa_engine_slot *slot = find(engine, id);
    if (slot != NULL) {
        slot->wishes.cancelled = true;
        ring(engine, slot);
    }
    pthread_mutex_unlock(&engine->lock);
}

void proa_engine_grant(proa_engine *engine, uint64_t id, int32_t tokens)
{
    pthread_mutex_lock(&engine->lock);
    proa_engine_slot *slot = find(engine, id);
    if (slot != NULL && tokens > 0) {
        slot->wishes.granted += tokens;
        ring(engine, slot);
    }
    pthread_mutex_unlock(&engine->lock);
}

void proa_engine_release(proa_engine *engine, uint64_t id)
{
    pthread_mutex_lock(&engine->lock);
    proa_engine_slot *slot = find(engine, id);
    if (slot != NULL) {
        slot->wishes.released = true;
        ring(engine, slot);
    }
    pthread_mutex_unlock(&engine->lock);
}

void proa_engine_adopt(proa_engine *engine, uint64_t id, const proa_sample_result *first,
                       int32_t cached_tokens)
{
    pthread_mutex_lock(&engine->lock);
    proa_engine_slot *slot = find(engine, id);
    if (slot != NULL) {
        slot->wishes.adopted = true;
        slot->wishes.first = *first;
        slot->wishes.cached_tokens = cached_tokens;
        ring(engine, slot);
    }
    pthread_mutex_unlock(&engine->lock);
}

/* ---- the rest ---- */

void proa_engine_get_stats(proa_engine *engine, proa_engine_stats *stats)
{
    pthread_mutex_lock(&engine->lock);
    *stats = engine->published;
    stats->device_lost = engine->state == PROA_ENGINE_DEAD;
    stats->away = engine->model.away != NULL && engine->model.away(engine->model.context);
    stats->queued = engine->limits.slots - engine->free_count - engine->lent_count - stats->running;
    pthread_mutex_unlock(&engine->lock);
}

int64_t proa_engine_busy_us(const proa_engine *engine)
{
    int64_t since_us = atomic_load_explicit(&engine->busy_since_us, memory_order_relaxed);
    return since_us == 0 ? 0 : proa_clock_us() - since_us;
}

proa_trace *proa_engine_trace(const proa_engine *engine)
{
    return engine->options.trace;
}

void proa_engine_nudge(proa_engine *engine)
{
    pthread_mutex_lock(&engine->lock);
    if (!engine->nudged)
        engine->nudged = proa_mailbox_send(engine->mailbox, &engine->nudge_bell) == PROA_OK;
    pthread_mutex_unlock(&engine->lock);
}

proa_status proa_engine_flush_cache(proa_engine *engine)
{
    struct timespec deadline = proa_clock_deadline((int64_t)FLUSH_SECONDS_MAX * 1000000);
    proa_status status = PROA_OK;
    pthread_mutex_lock(&engine->lock);
    if (engine->free_count + engine->lent_count < engine->limits.slots)
        status = PROA_BUSY;
    uint64_t wanted = engine->flush_done;
    if (status == PROA_OK) {
        if (engine->flush_wanted == engine->flush_done)
            proa_mailbox_send(engine->mailbox, &engine->flush_bell);
        wanted = ++engine->flush_wanted;
    }
    while (status == PROA_OK && engine->flush_done < wanted) {
        if (engine->state != PROA_ENGINE_RUNS)
            status = PROA_ERR_CANCELLED;
        else if (pthread_cond_timedwait(&engine->changed, &engine->lock, &deadline) == ETIMEDOUT)
            status = PROA_ERR_DEADLINE;
    }
    pthread_mutex_unlock(&engine->lock);
    return status;
}
