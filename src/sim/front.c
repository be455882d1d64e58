/* front.c - a simulated frontend: real router, real call plans, and clients that know what they must hear. */
#include "sim/sim_internal.h"

#include <stdlib.h>

enum { REDIAL_US = 100000, TICK_US = 100000, WINDOW = 6, REDIAL_SILENT_US = 300000 };

static void carry_out(sim_world *w, int32_t node, sim_call *c, const proa_call_todo *todo, int32_t token);

/* ---- picking and sending ---- */

static void release(sim_front *f, sim_call *c, int leg)
{
    if (c->workers[leg] >= 0 && c->ids[leg] != 0)
        proa_router_released(f->router, c->workers[leg], c->tokens);
    c->ids[leg] = 0;
}

static uint64_t draw_id(sim_world *w)
{
    return (uint64_t)proa_sim_random(w, UINT32_MAX) << 32 | (proa_sim_random(w, UINT32_MAX) | 1);
}

static void submit_leg(sim_world *w, int32_t node, sim_call *c, int leg)
{
    sim_front *f = &w->nodes[node].f;
    proa_wire_submit s = {0};
    proa_call_plan_submit(c->plan, leg, &s);
    int32_t other = c->nodes[leg == PROA_CALL_MAIN ? PROA_CALL_PREFILL : PROA_CALL_MAIN];
    sim_event m = {.kind = SIM_SUBMIT,
                   .id = c->ids[leg],
                   .leg = s.leg,
                   .room = s.room,
                   .peer = other,
                   .peer_epoch = w->nodes[other].epoch,
                   .prompt = (int32_t)(c - f->calls) + node * SIM_CALLS + 1,
                   .prompt_count = s.request.prompt_count,
                   .max_new = s.request.max_new_tokens,
                   .credit = s.request.credit,
                   .output_count = s.request.output_count};
    for (int32_t i = 0; i < m.output_count; i++)
        m.output[i] = s.request.output_ids[i];
    proa_sim_send(w, c->links[leg], node, &m);
    proa_router_placed(f->router, c->workers[leg], c->tokens);
}

static int32_t node_of(const sim_world *w, const sim_front *f, int32_t worker)
{
    int32_t n = SIM_FRONTS;
    while (n < w->node_count && f->worker[n] != worker)
        n++;
    return n;
}

static void pick(sim_world *w, int32_t node, sim_call *c)
{
    sim_front *f = &w->nodes[node].f;
    const uint64_t *refused;
    proa_router_ask ask = {.prompt_ids = c->prompt_ids,
                           .prompt_count = c->prompt_count,
                           .room = draw_id(w),
                           .now_us = w->now_us};
    ask.refused_count = proa_call_plan_refused(c->plan, &refused);
    ask.refused = refused;
    proa_router_pick chosen;
    proa_error err = {0};
    if (proa_router_choose(f->router, &ask, &chosen, &err) != PROA_OK) {
        proa_call_todo todo = {0};
        proa_call_plan_unpicked(c->plan, &err, w->now_us, &todo);
        carry_out(w, node, c, &todo, -1);
        return;
    }
    c->workers[PROA_CALL_PREFILL] = chosen.prefill;
    c->workers[PROA_CALL_MAIN] = chosen.main;
    c->tokens = proa_call_plan_length(c->plan);
    for (int leg = 0; leg < PROA_CALL_LEGS; leg++) {
        c->nodes[leg] = node_of(w, f, c->workers[leg]);
        c->links[leg] = f->link[c->nodes[leg]];
        c->ids[leg] = draw_id(w);
    }
    const proa_call_pick picked = {
        .pair = true,
        .room = ask.room,
        .epochs = {w->nodes[c->nodes[0]].epoch, w->nodes[c->nodes[1]].epoch},
        .context_length = 4096,
        .vocab_size = SIM_VOCAB,
    };
    proa_call_plan_picked(c->plan, &picked);
    submit_leg(w, node, c, PROA_CALL_PREFILL);
    submit_leg(w, node, c, PROA_CALL_MAIN);
}

/* ---- the client ---- */

/* The next token that a right answer has. */
static void advance(sim_call *c, int32_t position, int32_t token)
{
    c->row = proa_sim_next_row(c->row, token);
    c->fold = proa_sim_fold(c->fold, c->row);
    c->expected = proa_sim_token_of(c->fold, position);
}

static void hear(sim_world *w, int32_t node, sim_call *c, int32_t token)
{
    if (c->finished)
        proa_sim_find(w, "front %d: a token after the end", node);
    if (token != c->expected)
        proa_sim_find(w, "front %d call %d: token %d is %d, right is %d", node,
                      (int)(c - w->nodes[node].f.calls), c->taken, token, c->expected);
    advance(c, c->prompt_count + c->taken, token);
    c->taken++;
    c->unread++;
}

static void end(sim_world *w, int32_t node, sim_call *c, const proa_engine_finish *finish)
{
    proa_cluster_sim_result *r = w->result;
    if (c->finished)
        proa_sim_find(w, "front %d: a call ends twice", node);
    c->finished = true;
    w->unfinished--;
    r->replays += proa_call_plan_replays(c->plan);
    if (finish->reason == PROA_FINISH_LENGTH) {
        r->clean++;
        if (c->taken != c->max_new)
            proa_sim_find(w, "front %d: a call ends clean after %d of %d tokens", node, c->taken, c->max_new);
    } else if (c->left) {
        r->cancelled++;
    } else {
        r->failed++;
        if (!w->trouble && w->result->crashes + w->result->stalls + w->result->breaks == 0)
            proa_sim_find(w, "front %d: a call failed without trouble: %s", node, finish->error.text);
    }
}

/* ---- what a plan wants ---- */

static void tell_router(sim_world *w, sim_front *f, const sim_call *c, const proa_call_todo *todo)
{
    for (int leg = 0; leg < PROA_CALL_LEGS; leg++) {
        if (todo->failed[leg] && c->workers[leg] >= 0)
            proa_router_failed(f->router, c->workers[leg], w->now_us);
        if (todo->worked[leg] && c->workers[leg] >= 0)
            proa_router_worked(f->router, c->workers[leg]);
    }
    bool both = c->workers[0] >= 0 && c->workers[1] >= 0;
    if (todo->pair_failed && both)
        proa_router_pair_failed(f->router, c->workers[0], c->workers[1], w->now_us);
    if (todo->pair_worked && both)
        proa_router_pair_worked(f->router, c->workers[0], c->workers[1]);
}

static void carry_out(sim_world *w, int32_t node, sim_call *c, const proa_call_todo *todo, int32_t token)
{
    sim_front *f = &w->nodes[node].f;
    for (int leg = 0; leg < PROA_CALL_LEGS; leg++) {
        if (!todo->cancel[leg])
            continue;
        proa_sim_send(w, c->links[leg], node, &(sim_event){.kind = SIM_CANCEL, .id = c->ids[leg]});
        release(f, c, leg);
    }
    tell_router(w, f, c, todo);
    if (todo->deliver)
        hear(w, node, c, token);
    if (todo->grant > 0)
        proa_sim_send(w, c->links[PROA_CALL_MAIN], node,
                      &(sim_event){.kind = SIM_GRANT, .id = c->ids[PROA_CALL_MAIN], .number = todo->grant});
    if (todo->pick)
        pick(w, node, c);
    if (todo->finished)
        end(w, node, c, &todo->finish);
}

/* ---- events ---- */

static void begin_call(sim_world *w, int32_t node, int32_t number)
{
    sim_call *c = &w->nodes[node].f.calls[number];
    int32_t prompt = number + node * SIM_CALLS + 1;
    *c = (sim_call){.workers = {-1, -1}, .row = 1, .fold = 1};
    c->prompt_count = 1 + (int32_t)proa_sim_random(w, proa_sim_chance(w, 300) ? SIM_PROMPT_MAX : 40);
    c->max_new = 1 + (int32_t)proa_sim_random(w, SIM_OUTPUT_MAX);
    for (int32_t i = 0; i < c->prompt_count; i++) {
        c->prompt_ids[i] = proa_sim_prompt_token(prompt, i);
        advance(c, i, c->prompt_ids[i]);
    }
    const proa_engine_request request = {
        .prompt_ids = c->prompt_ids,
        .prompt_count = c->prompt_count,
        .max_new_tokens = c->max_new,
        .ignore_eos = true,
        .top_k = -1,
        .top_p = 1,
        .repetition_penalty = 1,
        .top_logprobs = -1,
        .credit = WINDOW,
    };
    proa_error err = {0};
    proa_call_todo todo = {0};
    if (proa_call_plan_create(&request, 3, &c->plan, &err) != PROA_OK) {
        proa_sim_find(w, "a call cannot be planned: %s", err.text);
        return;
    }
    w->result->calls++;
    proa_call_plan_start(c->plan, &todo);
    carry_out(w, node, c, &todo, -1);
    proa_sim_post(
        w, &(sim_event){.kind = SIM_CLIENT, .to = node, .number = number, .epoch = w->nodes[node].epoch},
        proa_sim_random(w, 20000));
}

/* The client reads what it has heard, or leaves. */
static void client_turn(sim_world *w, const sim_event *e)
{
    sim_call *c = &w->nodes[e->to].f.calls[e->number];
    proa_call_todo todo = {0};
    if (c->finished || c->plan == NULL)
        return;
    if (w->trouble && proa_sim_chance(w, 4)) {
        c->left = true;
        proa_call_plan_cancel(c->plan, "the client has left", &todo);
        carry_out(w, e->to, c, &todo, -1);
    } else if (c->unread > 0) {
        int32_t tokens = c->unread;
        c->unread = 0;
        proa_call_plan_grant(c->plan, tokens, w->now_us, &todo);
        carry_out(w, e->to, c, &todo, -1);
    }
    proa_sim_post(w, e, 1000 + proa_sim_random(w, 15000));
}

static sim_call *call_of(sim_front *f, uint64_t id, int *leg)
{
    for (int32_t i = 0; i < SIM_CALLS; i++) {
        for (*leg = 0; *leg < PROA_CALL_LEGS; ++*leg) {
            if (f->calls[i].plan != NULL && id != 0 && f->calls[i].ids[*leg] == id)
                return &f->calls[i];
        }
    }
    return NULL;
}

static void take_token(sim_world *w, const sim_event *e)
{
    int leg;
    sim_call *c = call_of(&w->nodes[e->to].f, e->id, &leg);
    if (c == NULL || leg != PROA_CALL_MAIN)
        return;
    proa_call_todo todo = {0};
    const proa_sample_result token = {.token = e->number, .logprob = -1};
    const proa_wire_tokens tokens = {.id = e->id, .count = 1, .tokens = &token};
    proa_call_plan_tokens(c->plan, proa_call_plan_attempt(c->plan), &tokens, w->now_us, &todo);
    carry_out(w, e->to, c, &todo, e->number);
}

static void take_finish(sim_world *w, const sim_event *e)
{
    int leg;
    sim_front *f = &w->nodes[e->to].f;
    sim_call *c = call_of(f, e->id, &leg);
    if (c == NULL)
        return;
    proa_call_todo todo = {0};
    proa_engine_finish finish = {.reason = e->status == PROA_OK ? PROA_FINISH_LENGTH : PROA_FINISH_ABORT,
                                 .matched = -1};
    finish.error.status = e->status;
    release(f, c, leg);
    proa_call_plan_ended(c->plan, proa_call_plan_attempt(c->plan), leg, &finish, e->blame != 0, w->now_us,
                         &todo);
    carry_out(w, e->to, c, &todo, -1);
}

static void dial(sim_world *w, int32_t node, int32_t other)
{
    sim_front *f = &w->nodes[node].f;
    if (f->link[other] >= 0)
        return;
    int32_t link = proa_sim_dial(w, node, other);
    if (link < 0) {
        proa_sim_post(
            w, &(sim_event){.kind = SIM_DIAL, .to = node, .from = other, .epoch = w->nodes[node].epoch},
            REDIAL_US);
        return;
    }
    f->link[other] = link;
    f->worker[other] = proa_router_join(f->router, (uint64_t)other, w->nodes[other].epoch);
    proa_router_listed(f->router, f->worker[other], true);
    /* Two workers of one kind are dp ranks of one, with each method in some lives. */
    int32_t place = other - SIM_FRONTS - (w->nodes[other].prefill ? 0 : w->prefills);
    const proa_wire_card card = {.leg = w->nodes[other].prefill ? PROA_LEG_PREFILL : PROA_LEG_DECODE,
                                 .worker_id = 1 + (uint64_t)place / 2,
                                 .dp_rank = place % 2,
                                 .dp_size = 2,
                                 .balance = (uint8_t)(w->seed % PROA_BALANCE_COUNT),
                                 .context_length = 4096,
                                 .vocab_size = SIM_VOCAB,
                                 .kv_tokens = w->nodes[other].w.pool * SIM_BLOCK,
                                 .running_max = 64,
                                 .queued_max = 1000};
    proa_router_ready(f->router, f->worker[other], &card);
}

static void take_down(sim_world *w, const sim_event *e)
{
    sim_front *f = &w->nodes[e->to].f;
    int32_t other = w->links[e->link].b;
    w->links[e->link].up[0] = false;
    if (f->link[other] != e->link)
        return;
    f->link[other] = -1;
    int32_t gone = f->worker[other];
    proa_router_failed(f->router, gone, w->now_us);
    proa_router_unready(f->router, gone);
    for (int32_t i = 0; i < SIM_CALLS; i++) {
        sim_call *c = &f->calls[i];
        for (int leg = 0; leg < PROA_CALL_LEGS && c->plan != NULL; leg++) {
            if (c->ids[leg] == 0 || c->links[leg] != e->link)
                continue;
            proa_call_todo todo = {0};
            const proa_error why = {PROA_ERR_UNREACHABLE, "its link is lost"};
            c->ids[leg] = 0; /* unready has let go of what was placed there */
            proa_call_plan_lost(c->plan, proa_call_plan_attempt(c->plan), leg, &why, w->now_us, &todo);
            carry_out(w, e->to, c, &todo, -1);
        }
    }
    proa_router_leave(f->router, gone);
    f->worker[other] = -1;
    for (int32_t i = 0; i < SIM_CALLS; i++) {
        for (int leg = 0; leg < PROA_CALL_LEGS; leg++) {
            if (f->calls[i].workers[leg] == gone)
                f->calls[i].workers[leg] = -1;
        }
    }
    proa_sim_post(w,
                  &(sim_event){.kind = SIM_DIAL, .to = e->to, .from = other, .epoch = w->nodes[e->to].epoch},
                  REDIAL_US);
}

static void tick(sim_world *w, const sim_event *e)
{
    sim_front *f = &w->nodes[e->to].f;
    for (int32_t i = 0; i < SIM_CALLS; i++) {
        sim_call *c = &f->calls[i];
        if (c->plan == NULL || c->finished || proa_call_plan_state(c->plan) != PROA_CALL_WAITING)
            continue;
        proa_call_todo todo = {0};
        proa_call_plan_retry(c->plan, &todo);
        carry_out(w, e->to, c, &todo, -1);
    }
    proa_sim_post(w, e, TICK_US);
}

void proa_sim_front_start(sim_world *w, int32_t node)
{
    sim_front *f = &w->nodes[node].f;
    *f = (sim_front){.router = proa_router_create(&(proa_router_options){
                         .mode = proa_sim_random(w, 4), .kv_overlap_weight = 1, .seed = w->seed})};
    if (f->router == NULL)
        abort();
    for (int32_t i = 0; i < SIM_NODES_MAX; i++)
        f->link[i] = f->worker[i] = -1;
    for (int32_t i = SIM_FRONTS; i < w->node_count; i++)
        dial(w, node, i);
    for (int32_t i = 0; i < SIM_CALLS; i++)
        proa_sim_post(w,
                      &(sim_event){.kind = SIM_CALL, .to = node, .number = i, .epoch = w->nodes[node].epoch},
                      1000 + proa_sim_random(w, (uint32_t)w->calls_until_us));
    proa_sim_post(w, &(sim_event){.kind = SIM_TICK, .to = node, .epoch = w->nodes[node].epoch}, TICK_US);
}

void proa_sim_front_stop(sim_world *w, int32_t node)
{
    sim_front *f = &w->nodes[node].f;
    for (int32_t i = 0; i < SIM_CALLS; i++) {
        proa_call_plan_free(f->calls[i].plan);
        f->calls[i].plan = NULL;
    }
    proa_router_free(f->router);
    f->router = NULL;
}

void proa_sim_front_event(sim_world *w, const sim_event *e)
{
    switch ((int)e->kind) {
    case SIM_CALL: begin_call(w, e->to, e->number); break;
    case SIM_CLIENT: client_turn(w, e); break;
    case SIM_TOKEN: take_token(w, e); break;
    case SIM_FINISH: take_finish(w, e); break;
    case SIM_DOWN: take_down(w, e); break;
    case SIM_DIAL: dial(w, e->to, e->from); break;
    case SIM_TICK: tick(w, e); break;
    default: break;
    }
}
