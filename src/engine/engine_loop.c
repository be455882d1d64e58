/* engine_loop.c - the engine thread: takes what others have left, plans, executes, sleeps when there is nothing to do.
 *
 * When the device is lost, or the engine is stopped, each request that is known or was just left finishes with
 * ABORT; what is submitted later is refused. Nothing is left to wait for.
 */
#include "engine/engine_internal.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/stacks.h"

#include <stdio.h>

enum { SLEEP_US = 1000000 }; /* a message wakes it at once; this only bounds a wait (law 4) */

void proa_engine_publish(proa_engine *engine)
{
    proa_scheduler_view view;
    proa_scheduler_look(engine->scheduler, &view);
    engine->stats.running = view.running;
    engine->stats.kv_blocks_used = view.blocks_used;
    engine->stats.kv_blocks_cached = view.blocks_cached;
    engine->stats.kv_blocks_lent = view.blocks_lent;
    pthread_mutex_lock(&engine->lock);
    engine->published = engine->stats;
    engine->blocked = view.blocked;
    pthread_mutex_unlock(&engine->lock);
}

void proa_engine_fill_usage(const proa_engine *engine, int32_t slot, proa_engine_usage *usage)
{
    const proa_request *request = engine->slots[slot].request;
    *usage = (proa_engine_usage){
        .prompt_tokens = request->prompt_count,
        .cached_tokens = proa_scheduler_cached_tokens(engine->scheduler, slot),
        .output_tokens = request->output_count,
        .retractions = proa_scheduler_retractions(engine->scheduler, slot),
    };
}

/* Under lock. */
static void free_slot(proa_engine *engine, int32_t number)
{
    proa_engine_slot *slot = &engine->slots[number];
    slot->used = false;
    slot->generation++;
    engine->free_slots[engine->free_count++] = number;
}

void proa_engine_finish_request(proa_engine *engine, int32_t number, const proa_engine_finish *finish)
{
    proa_engine_slot *slot = &engine->slots[number];
    proa_request *request = slot->request;
    slot->request = NULL;
    slot->shown = 0;
    pthread_mutex_lock(&engine->lock);
    slot->lent = proa_scheduler_state(engine->scheduler, number) == PROA_REQUEST_LENT;
    if (slot->lent)
        engine->lent_count++;
    else
        free_slot(engine, number);
    pthread_mutex_unlock(&engine->lock);
    request->sink.finish(request->sink.context, finish);
    proa_request_free(request);
}

/* A request that the scheduler knows ends with ABORT. */
static void abort_request(proa_engine *engine, int32_t slot, const proa_error *error)
{
    proa_engine_finish finish = {.reason = PROA_FINISH_ABORT, .matched = -1, .error = *error};
    proa_engine_fill_usage(engine, slot, &finish.usage);
    proa_scheduler_cancel(engine->scheduler, slot);
    engine->stats.requests_aborted++;
    proa_engine_publish(engine);
    proa_engine_finish_request(engine, slot, &finish);
}

/* ---- hand-off ---- */

/* Tells the sinks of requests that were given their blocks where their peers must write. */
static void tell_reserved(proa_engine *engine, const proa_schedule_plan *plan)
{
    for (int32_t i = 0; i < plan->reserved_count; i++) {
        const proa_request *request = engine->slots[plan->reserved[i]].request;
        proa_engine_rows rows = {.id = request->id};
        proa_scheduler_rows(engine->scheduler, plan->reserved[i], &rows);
        if (engine->model.written != NULL)
            engine->model.written(engine->model.context, rows.blocks, rows.block_count);
        request->sink.reserved(request->sink.context, &rows);
    }
}

/* A peer has written the rows and drawn the token after them. */
static void adopt_request(proa_engine *engine, int32_t number, const proa_sample_result *first,
                          int32_t cached_tokens)
{
    proa_request *request = engine->slots[number].request;
    proa_engine_finish finish = {.matched = -1};
    if (proa_scheduler_state(engine->scheduler, number) != PROA_REQUEST_RESERVED)
        return;
    if (first->token < 0 || first->token >= engine->config.vocab_size) {
        proa_error_set(&finish.error, PROA_ERR_PROTOCOL,
                       "the first token is %d, but the model's ids are 0 to %d: prefill runs another model",
                       first->token, engine->config.vocab_size - 1);
        abort_request(engine, number, &finish.error);
        return;
    }
    if (cached_tokens < 0 || cached_tokens > request->prompt_count)
        cached_tokens = 0;
    bool done = proa_engine_take_token(engine, number, first->token, &finish) != PROA_REQUEST_GOES_ON;
    proa_engine_fill_usage(engine, number, &finish.usage);
    finish.usage.cached_tokens = cached_tokens;
    proa_scheduler_adopt(engine->scheduler, number, cached_tokens,
                         done ? PROA_OUTCOME_DONE : PROA_OUTCOME_TOKEN);
    proa_engine_publish(engine);
    request->sink.token(request->sink.context, first, done && finish.reason == PROA_FINISH_STOP);
    if (done)
        proa_engine_finish_request(engine, number, &finish);
}

/* Nobody else touches the request's blocks: it ends, well if it has had its one token. */
static void release_request(proa_engine *engine, int32_t number)
{
    const proa_engine_slot *slot = &engine->slots[number];
    proa_engine_finish finish = {.reason = PROA_FINISH_ABORT, .matched = -1};
    bool held = proa_scheduler_state(engine->scheduler, number) == PROA_REQUEST_HELD;
    if (held) {
        finish.reason = slot->matched >= 0 ? PROA_FINISH_STOP : PROA_FINISH_LENGTH;
        finish.matched = slot->matched;
        engine->stats.requests_finished++;
    } else {
        proa_error_set(&finish.error, PROA_ERR_CANCELLED, "the request was released before its end");
        engine->stats.requests_aborted++;
    }
    proa_engine_fill_usage(engine, number, &finish.usage);
    proa_scheduler_release(engine->scheduler, number);
    proa_engine_publish(engine);
    proa_engine_finish_request(engine, number, &finish);
}

static void release_lent(proa_engine *engine, int32_t number)
{
    proa_engine_slot *slot = &engine->slots[number];
    if (!slot->lent) /* only this thread changes it */
        return;
    proa_scheduler_release(engine->scheduler, number);
    proa_engine_publish(engine);
    pthread_mutex_lock(&engine->lock);
    slot->lent = false;
    engine->lent_count--;
    free_slot(engine, number);
    pthread_mutex_unlock(&engine->lock);
}

/* ---- what the prefix cache holds ---- */

void proa_engine_note_kv(void *context, bool stored, uint64_t hash)
{
    proa_engine *engine = context;
    PROA_ASSERT(engine->kv_change_count < 2 * engine->limits.kv_blocks);
    engine->kv_changes[engine->kv_change_count++] = (proa_kv_change){hash, stored};
}

static void tell_kv(proa_engine *engine)
{
    for (int32_t i = 0; i < engine->kv_change_count; i++)
        engine->options.kv_event(engine->options.kv_event_context, engine->kv_changes[i].stored,
                                 engine->kv_changes[i].hash);
    engine->kv_change_count = 0;
}

/* ---- what others have left ---- */

static void begin_request(proa_engine *engine, int32_t number, proa_request *request)
{
    PROA_ASSERT(engine->slots[number].request == NULL);
    engine->slots[number].request = request;
    engine->stats.prompt_tokens += (uint64_t)request->prompt_count;
    proa_scheduler_submit(engine->scheduler, number,
                          &(proa_scheduler_request){.prompt_ids = request->tokens,
                                                    .prompt_count = request->prompt_count,
                                                    .output_count = request->output_count,
                                                    .max_new_tokens = request->max_new_tokens,
                                                    .credit = request->credit});
}

static void take_slot(proa_engine *engine, proa_engine_slot *slot)
{
    pthread_mutex_lock(&engine->lock);
    const proa_engine_wishes wishes = slot->wishes;
    slot->wishes = (proa_engine_wishes){0};
    slot->rung = false;
    pthread_mutex_unlock(&engine->lock);

    int32_t number = (int32_t)(slot - engine->slots);
    int32_t granted = wishes.granted < INT32_MAX ? (int32_t)wishes.granted : INT32_MAX;
    if (wishes.incoming != NULL)
        begin_request(engine, number, wishes.incoming);
    if (slot->request == NULL && wishes.released)
        release_lent(engine, number);
    if (slot->request == NULL)
        return; /* it finished meanwhile */
    if (granted > 0)
        proa_scheduler_grant(engine->scheduler, number, granted);
    if (wishes.adopted)
        adopt_request(engine, number, &wishes.first, wishes.cached_tokens);
    if (slot->request != NULL && wishes.released)
        release_request(engine, number);
    else if (slot->request != NULL && wishes.cancelled)
        abort_request(engine, number, &(proa_error){PROA_ERR_CANCELLED, "the request was cancelled"});
}

static void flush_cache(proa_engine *engine)
{
    proa_scheduler_flush(engine->scheduler);
    tell_kv(engine);
    proa_engine_publish(engine);
    pthread_mutex_lock(&engine->lock);
    engine->flush_done = engine->flush_wanted;
    pthread_cond_broadcast(&engine->changed);
    pthread_mutex_unlock(&engine->lock);
}

static void take_nudge(proa_engine *engine)
{
    pthread_mutex_lock(&engine->lock);
    engine->nudged = false;
    pthread_mutex_unlock(&engine->lock);
}

static void take_message(proa_engine *engine, void *message)
{
    if (message == &engine->flush_bell)
        flush_cache(engine);
    else if (message == &engine->nudge_bell)
        take_nudge(engine);
    else
        take_slot(engine, message);
}

static void drain(proa_engine *engine)
{
    for (void *message; (message = proa_mailbox_take(engine->mailbox)) != NULL;)
        take_message(engine, message);
}

/* ---- the end ---- */

/* Finishes everything that is known or was left. No more can come: the state has changed. */
static void abort_all(proa_engine *engine, const proa_error *error)
{
    for (int32_t i = 0; i < engine->limits.slots; i++) {
        take_slot(engine, &engine->slots[i]);
        if (engine->slots[i].request != NULL)
            abort_request(engine, i, error);
    }
}

static void die(proa_engine *engine, const proa_error *cause)
{
    proa_log(PROA_LOG_ERROR, "engine", "a step failed, and with it the engine; all requests end: %s (%s)",
             cause->text, proa_status_name(cause->status));
    pthread_mutex_lock(&engine->lock);
    if (engine->state == PROA_ENGINE_RUNS)
        engine->state = PROA_ENGINE_DEAD;
    engine->cause = *cause;
    pthread_cond_broadcast(&engine->changed);
    pthread_mutex_unlock(&engine->lock);
}

static bool runs(proa_engine *engine)
{
    pthread_mutex_lock(&engine->lock);
    bool running = engine->state == PROA_ENGINE_RUNS;
    pthread_mutex_unlock(&engine->lock);
    return running;
}

/* ---- summary lines, in SGLang's words ---- */

static void summarise(proa_engine *engine)
{
    proa_engine_window window = engine->window;
    if (engine->options.decode_log_interval == 0 || window.steps < engine->options.decode_log_interval)
        return;
    engine->window = (proa_engine_window){0};
    proa_scheduler_view view;
    proa_scheduler_look(engine->scheduler, &view);
    double usage = (double)view.blocks_used / engine->limits.kv_blocks;
    double seconds = (double)(window.busy_us > 0 ? window.busy_us : 1) / 1e6;
    if (window.prefill_rows > 0)
        proa_log(PROA_LOG_INFO, "engine",
                 "Prefill batch, #new-seq: %d, #new-token: %d, #cached-token: %d, token usage: %.2f, "
                 "#running-req: %d, #queue-req: %d, input throughput (token/s): %.2f",
                 window.admitted, window.prefill_rows, window.cached_tokens, usage, view.running,
                 view.waiting, window.prefill_rows / seconds);
    if (window.decode_rows > 0)
        proa_log(PROA_LOG_INFO, "engine",
                 "Decode batch, #running-req: %d, #token: %lld, token usage: %.2f, "
                 "gen throughput (token/s): %.2f, #queue-req: %d",
                 view.running, (long long)view.tokens_used, usage, window.decode_rows / seconds,
                 view.waiting);
}

/* ---- the loop ---- */

static void end_trace(proa_engine *engine, const proa_schedule_plan *plan)
{
    char args[128] = "";
    if (proa_trace_on(engine->options.trace))
        snprintf(args, sizeof args,
                 "\"rows\":%d,\"decode_rows\":%d,\"prefill_rows\":%d,\"logit_rows\":%d,\"step\":%llu",
                 plan->row_count, plan->decode_rows, plan->prefill_rows, plan->logit_count,
                 (unsigned long long)engine->stats.steps);
    proa_trace_step_end(engine->options.trace, args);
}

/* One round; PROA_BUSY when there was nothing to execute. */
static proa_status turn(proa_engine *engine, proa_error *err)
{
    proa_schedule_plan plan;
    proa_trace *trace = engine->options.trace;
    int64_t start_us = proa_clock_us();
    proa_trace_step_begin(trace);
    proa_trace_begin(trace, "schedule");
    drain(engine);
    if (engine->model.guard != NULL)
        engine->model.guard(engine->model.context, true);
    proa_scheduler_plan(engine->scheduler, start_us, &plan);
    if (engine->model.guard != NULL)
        engine->model.guard(engine->model.context, false);
    engine->stats.retractions += (uint64_t)plan.retracted;
    engine->stats.cached_tokens += (uint64_t)plan.cached_tokens;
    tell_kv(engine);
    tell_reserved(engine, &plan);
    proa_trace_end(trace);
    if (plan.segment_count == 0) {
        proa_trace_step_drop(trace);
        return PROA_BUSY;
    }
    atomic_store_explicit(&engine->busy_since_us, start_us, memory_order_relaxed);
    proa_status status = proa_engine_execute(engine, &plan, err);
    atomic_store_explicit(&engine->busy_since_us, 0, memory_order_relaxed);
    tell_kv(engine);
    end_trace(engine, &plan);
    engine->window.busy_us += proa_clock_us() - start_us;
    engine->window.steps++;
    engine->window.decode_rows += plan.decode_rows;
    engine->window.prefill_rows += plan.prefill_rows;
    engine->window.cached_tokens += plan.cached_tokens;
    engine->window.admitted += plan.admitted;
    summarise(engine);
    return status;
}

void *proa_engine_run(void *context)
{
    proa_engine *engine = context;
    proa_error error = {PROA_ERR_CANCELLED, "the engine was stopped"};
    proa_stacks_name_thread("engine");
    while (runs(engine)) {
        proa_error err = {0};
        proa_status status = turn(engine, &err);
        if (status == PROA_BUSY) {
            proa_engine_publish(engine);
            if (engine->model.idle != NULL && engine->model.idle(engine->model.context))
                continue;
            void *message = proa_mailbox_wait(engine->mailbox, SLEEP_US);
            if (message != NULL)
                take_message(engine, message);
        } else if (proa_failed(status)) {
            die(engine, &err);
            error = err;
        }
    }
    abort_all(engine, &error);
    return NULL;
}
