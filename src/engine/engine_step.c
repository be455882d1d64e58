/* engine_step.c - a plan becomes a step of the forward, its logits tokens, the tokens callbacks. */
#include "engine/engine_internal.h"

#include "base/clock.h"

#include <string.h>

static void guard(proa_engine *engine, bool inside)
{
    if (engine->model.guard != NULL)
        engine->model.guard(engine->model.context, inside);
}

/* ---- rows ---- */

static void build(proa_engine *engine, const proa_schedule_plan *plan, proa_step *step)
{
    int32_t row = 0, logits = 0;
    for (int32_t i = 0; i < plan->segment_count; i++) {
        const proa_plan_segment *planned = &plan->segments[i];
        const proa_request *request = engine->slots[planned->slot].request;
        engine->segments[i] = (proa_segment){
            .row_first = row,
            .row_count = planned->row_count,
            .position_first = planned->position_first,
            .blocks = planned->blocks,
            .absorbed = planned->absorbed,
        };
        memcpy(engine->token_ids + row, request->tokens + planned->position_first,
               (size_t)planned->row_count * sizeof *engine->token_ids);
        row += planned->row_count;
        if (planned->logits) {
            engine->logit_rows[logits] = row - 1;
            engine->logit_segments[logits++] = i;
        }
    }
    PROA_ASSERT(row == plan->row_count);
    PROA_ASSERT(logits == plan->logit_count);
    *step = (proa_step){
        .row_count = row,
        .token_ids = engine->token_ids,
        .segments = engine->segments,
        .segment_count = plan->segment_count,
        .logit_rows = engine->logit_rows,
        .logit_count = logits,
    };
}

static proa_status compute(proa_engine *engine, const proa_schedule_plan *plan, float **logits,
                           proa_error *err)
{
    const proa_engine_model *model = &engine->model;
    proa_trace *trace = engine->options.trace;
    proa_step step;
    proa_trace_begin(trace, "build inputs");
    build(engine, plan, &step);
    proa_trace_end(trace);
    proa_status status = PROA_OK;
    if (plan->copy_count > 0)
        status = model->copy(model->context, plan->copies, plan->copy_count, err);
    proa_trace_begin(trace, "forward");
    if (status == PROA_OK)
        status = model->step(model->context, &step, logits, err);
    proa_trace_end(trace);
    return status;
}

/* ---- tokens ---- */

static proa_request *request_of(const proa_engine *engine, const proa_schedule_plan *plan, int32_t logit)
{
    return engine->slots[plan->segments[engine->logit_segments[logit]].slot].request;
}

static proa_status sample(proa_engine *engine, const proa_schedule_plan *plan, float *logits, proa_error *err)
{
    if (plan->logit_count == 0)
        return PROA_OK;
    proa_trace_begin(engine->options.trace, "sample");
    for (int32_t i = 0; i < plan->logit_count; i++)
        proa_request_sample_params(request_of(engine, plan, i), &engine->params[i]);
    const proa_status status = engine->model.sample(engine->model.sample_context,
                                                    &(proa_sample_args){
                                                        .rows = plan->logit_count,
                                                        .vocab = engine->config.vocab_size,
                                                        .logits = logits,
                                                        .params = engine->params,
                                                        .results = engine->results,
                                                    },
                                                    err);
    proa_trace_end(engine->options.trace);
    return status;
}

proa_request_end proa_engine_take_token(proa_engine *engine, int32_t slot, int32_t token,
                                        proa_engine_finish *finish)
{
    proa_request_end end = proa_request_append(engine->slots[slot].request, token);
    bool held = engine->options.role == PROA_ENGINE_PREFILL;
    finish->reason = end == PROA_REQUEST_STOPS ? PROA_FINISH_STOP : PROA_FINISH_LENGTH;
    finish->matched = end == PROA_REQUEST_STOPS ? token : -1;
    engine->stats.output_tokens++;
    engine->stats.requests_finished += end != PROA_REQUEST_GOES_ON && !held;
    return end;
}

/* Notes what the token of logit row i means for its request and what to tell the sink. */
static void settle_token(proa_engine *engine, const proa_schedule_plan *plan, int32_t i)
{
    int32_t segment = engine->logit_segments[i], token = engine->results[i].token;
    proa_request *request = request_of(engine, plan, i);
    proa_delivery *delivery = &engine->deliveries[i];
    delivery->slot = plan->segments[segment].slot;
    delivery->result = i;
    delivery->stop = false;
    delivery->done = true;
    delivery->finish.matched = -1;
    delivery->finish.error.status = PROA_OK;
    delivery->finish.error.text[0] = 0;
    if (token < 0 || token >= engine->config.vocab_size) {
        delivery->result = -1;
        delivery->finish.reason = PROA_FINISH_ABORT;
        proa_error_set(&delivery->finish.error, PROA_ERR_INTERNAL,
                       "no token can be drawn at position %d: all logits are NaN or -inf (a logit_bias that "
                       "forbids every token, or broken weights)",
                       request->prompt_count + request->output_count);
        engine->outcomes[segment] = PROA_OUTCOME_LOST;
        engine->stats.requests_aborted++;
    } else {
        proa_request_end end = proa_engine_take_token(engine, delivery->slot, token, &delivery->finish);
        delivery->stop = end == PROA_REQUEST_STOPS;
        delivery->done = end != PROA_REQUEST_GOES_ON;
        engine->outcomes[segment] = delivery->done ? PROA_OUTCOME_DONE : PROA_OUTCOME_TOKEN;
        if (engine->options.role == PROA_ENGINE_PREFILL) { /* it is held, and ends when it is released */
            engine->slots[delivery->slot].matched = delivery->finish.matched;
            delivery->done = false;
        }
    }
    if (delivery->done)
        proa_engine_fill_usage(engine, delivery->slot, &delivery->finish.usage);
}

/* PREFILL: tells of rows that have become final. */
static void tell_computed(proa_engine *engine, const proa_schedule_plan *plan)
{
    for (int32_t i = 0; i < plan->segment_count; i++) {
        int32_t number = plan->segments[i].slot;
        proa_engine_slot *slot = &engine->slots[number];
        proa_request_state state = proa_scheduler_state(engine->scheduler, number);
        if (state == PROA_REQUEST_FREE || state == PROA_REQUEST_LENT)
            continue; /* lost in this very step */
        proa_engine_rows rows = {.id = slot->request->id};
        proa_scheduler_rows(engine->scheduler, number, &rows);
        if (rows.rows > slot->shown) {
            slot->shown = rows.rows;
            slot->request->sink.computed(slot->request->sink.context, &rows);
        }
    }
}

static void deliver(proa_engine *engine, int32_t count)
{
    for (int32_t i = 0; i < count; i++) {
        const proa_delivery *delivery = &engine->deliveries[i];
        const proa_engine_sink *sink = &engine->slots[delivery->slot].request->sink;
        if (delivery->result >= 0)
            sink->token(sink->context, &engine->results[i], delivery->stop);
        if (delivery->done)
            proa_engine_finish_request(engine, delivery->slot, &delivery->finish);
    }
}

/* ---- failure ---- */

/* The requests of the step end with its error. */
static void fail(proa_engine *engine, const proa_schedule_plan *plan, const proa_error *error)
{
    for (int32_t i = 0; i < plan->segment_count; i++) {
        proa_delivery *delivery = &engine->deliveries[i];
        delivery->slot = plan->segments[i].slot;
        delivery->result = -1;
        delivery->stop = false;
        delivery->done = true;
        delivery->finish.reason = PROA_FINISH_ABORT;
        delivery->finish.matched = -1;
        delivery->finish.error = *error;
        proa_engine_fill_usage(engine, delivery->slot, &delivery->finish.usage);
    }
    int32_t count = plan->segment_count;
    proa_scheduler_fail(engine->scheduler);
    engine->stats.requests_aborted += (uint64_t)count;
    proa_engine_publish(engine);
    deliver(engine, count);
}

proa_status proa_engine_execute(proa_engine *engine, const proa_schedule_plan *plan, proa_error *err)
{
    float *logits = NULL;
    int64_t start_us = proa_clock_us();
    guard(engine, true);
    proa_status status = compute(engine, plan, &logits, err);
    if (status == PROA_OK)
        status = sample(engine, plan, logits, err);
    if (status == PROA_OK) {
        proa_trace_begin(engine->options.trace, "complete");
        for (int32_t i = 0; i < plan->logit_count; i++)
            settle_token(engine, plan, i);
        proa_scheduler_complete(engine->scheduler, engine->outcomes);
        proa_trace_end(engine->options.trace);
    }
    guard(engine, false);
    int64_t now_us = proa_clock_us();
    engine->stats.steps++;
    engine->stats.step_us_total += (uint64_t)(now_us - start_us);
    engine->stats.last_step_us = now_us;
    if (status != PROA_OK) {
        PROA_ASSERT(proa_failed(status));
        err->status = status;
        fail(engine, plan, err);
        return proa_is_request_error(status) ? PROA_OK : status;
    }
    proa_trace_begin(engine->options.trace, "deliver");
    proa_engine_publish(engine);
    if (engine->options.role == PROA_ENGINE_PREFILL)
        tell_computed(engine, plan);
    deliver(engine, plan->logit_count);
    proa_trace_end(engine->options.trace);
    return PROA_OK;
}
