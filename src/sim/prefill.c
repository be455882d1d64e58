/* prefill.c - a simulated prefill worker: an engine that computes rows in chunks, and the writes to decode workers. */
#include "sim/sim_internal.h"

enum { CHUNK = 128, TICK_US = 1500, COPY_US = 300, SLOW_COPY_US = 100000 };

static void act(sim_world *w, int32_t node, sim_job *job, const proa_prefill_actions *a);

static int32_t rows_of(const sim_job *job)
{
    return job->prompt_count + job->output_count;
}

/* ---- writes: block by block, each arriving when it does ---- */

static void begin_write(sim_world *w, int32_t node, sim_job *job, int32_t first, int32_t count)
{
    int32_t from = first / SIM_BLOCK, until = (first + count + SIM_BLOCK - 1) / SIM_BLOCK;
    job->write_rows = first + count;
    job->write_left = until - from;
    job->write_dead = false;
    for (int32_t i = from; i < until; i++)
        proa_sim_post(w,
                      &(sim_event){.kind = SIM_COPY,
                                   .to = node,
                                   .id = job->room,
                                   .number = i,
                                   .link = job->peer_link,
                                   .epoch = w->nodes[node].epoch},
                      50 + proa_sim_random(w, w->slow ? SLOW_COPY_US : COPY_US));
}

static void write_ended(sim_world *w, int32_t node, sim_job *job, proa_status status)
{
    proa_prefill_actions a;
    proa_prefill_written(&job->prefill, status, w->now_us, &a);
    act(w, node, job, &a);
}

/* The session is given up: the write in flight ends, as closing the peer does. */
static void stop_write(sim_world *w, int32_t node, sim_job *job)
{
    if (job->write_left == 0)
        return;
    job->write_left = 0;
    write_ended(w, node, job, PROA_ERR_CANCELLED);
}

static void take_copy(sim_world *w, const sim_event *e)
{
    sim_worker *mine = &w->nodes[e->to].w;
    sim_job *job = proa_sim_job_of_room(mine, e->id);
    if (job == NULL || job->write_left == 0 || job->peer_link != e->link)
        return; /* given up before: this process writes no more */
    sim_node *peer = &w->nodes[job->peer];
    if (peer->alive && peer->epoch == job->peer_epoch) {
        int32_t until =
            job->write_rows < (e->number + 1) * SIM_BLOCK ? job->write_rows : (e->number + 1) * SIM_BLOCK;
        if (w->links[e->link].cut)
            w->result->late_writes++;
        for (int32_t p = e->number * SIM_BLOCK; p < until; p++)
            *proa_sim_row(&peer->w, job->peer_blocks, p) = *proa_sim_row(mine, job->blocks, p);
    }
    if (--job->write_left == 0)
        write_ended(w, e->to, job, PROA_OK);
}

/* ---- the machine's wishes ---- */

static void send_done(sim_world *w, int32_t node, sim_job *job)
{
    sim_worker *worker = &w->nodes[node].w;
    sim_event done = {.kind = SIM_DONE, .id = job->room, .number = rows_of(job), .credit = job->first};
    for (int32_t i = 0; i * SIM_BLOCK < rows_of(job); i++) {
        int32_t left = rows_of(job) - i * SIM_BLOCK;
        done.digests[i] =
            proa_sim_digest(worker, job->blocks[i], left < SIM_BLOCK ? left : SIM_BLOCK, job->room);
        done.generations[i] = job->peer_generations[i];
    }
    proa_sim_send(w, job->peer_link, node, &done);
}

static void act(sim_world *w, int32_t node, sim_job *job, const proa_prefill_actions *a)
{
    sim_worker *worker = &w->nodes[node].w;
    if (a->write_count > 0) {
        begin_write(w, node, job, a->write_first, a->write_count);
        return;
    }
    if (a->stop_writes)
        job->write_dead = true; /* at the next tick */
    if (a->send_done)
        send_done(w, node, job);
    if (a->send_fail)
        proa_sim_send(w, job->peer_link, node,
                      &(sim_event){.kind = SIM_FAIL, .id = job->room, .status = a->status});
    if (a->send_quiet)
        proa_sim_send(w, job->peer_link, node, &(sim_event){.kind = SIM_QUIET, .id = job->room});
    if (a->release)
        job->ended = true;
    if (a->tell_ok)
        proa_sim_job_tell(w, node, job, PROA_OK, 0);
    if (a->tell_ended)
        proa_sim_job_tell(w, node, job, a->status, 0);
    if (a->forget) {
        proa_sim_bury(worker, job);
        proa_sim_job_settle(w, node, job);
    }
}

/* ---- messages ---- */

static void take_submit(sim_world *w, const sim_event *e)
{
    sim_worker *worker = &w->nodes[e->to].w;
    sim_job *job = proa_sim_job_of_room(worker, e->room);
    if (proa_graves_has(worker->graves, e->room) || (job != NULL && job->prefill.asked)) {
        proa_sim_send(w, e->link, e->to,
                      &(sim_event){.kind = SIM_FINISH, .id = e->id, .status = PROA_ERR_PROTOCOL});
        return;
    }
    proa_prefill_actions a = {0};
    int32_t rows = e->prompt_count + e->output_count;
    bool fresh = job == NULL;
    if (fresh)
        job = proa_sim_job_new(w, e->to, e);
    job->id = e->id;
    job->front = e->from;
    job->link = e->link;
    job->prompt = e->prompt;
    job->prompt_count = e->prompt_count;
    job->output_count = e->output_count;
    for (int32_t i = 0; i < e->output_count; i++)
        job->output[i] = e->output[i];
    job->has_room = true;
    job->asked = true;
    if (fresh)
        proa_prefill_asked(&job->prefill, rows, w->now_us);
    else
        proa_prefill_ask(&job->prefill, rows, w->now_us, &a);
    act(w, e->to, job, &a);
}

static void take_open(sim_world *w, const sim_event *e)
{
    sim_worker *worker = &w->nodes[e->to].w;
    sim_job *job = proa_sim_job_of_room(worker, e->id);
    if (e->epoch != w->nodes[e->to].epoch || worker->session[e->from] != e->link)
        return;
    if (proa_graves_has(worker->graves, e->id)) {
        proa_sim_send(w, e->link, e->to, &(sim_event){.kind = SIM_QUIET, .id = e->id});
        return;
    }
    if (job != NULL && job->prefill.offered)
        return;
    proa_prefill_actions a = {0};
    bool fresh = job == NULL;
    if (fresh)
        job = proa_sim_job_new(w, e->to, &(sim_event){.room = e->id});
    job->has_room = true;
    job->peer = e->from;
    job->peer_epoch = w->nodes[e->from].epoch;
    job->peer_link = e->link;
    for (int32_t i = 0; i < SIM_BLOCKS_MAX; i++) {
        job->peer_blocks[i] = e->blocks[i];
        job->peer_generations[i] = e->generations[i];
    }
    if (fresh)
        proa_prefill_offered(&job->prefill, e->number, w->now_us);
    else
        proa_prefill_offer(&job->prefill, e->number, w->now_us, &a);
    act(w, e->to, job, &a);
}

static void take_abort(sim_world *w, const sim_event *e)
{
    sim_worker *worker = &w->nodes[e->to].w;
    sim_job *job = proa_sim_job_of_room(worker, e->id);
    if (job == NULL)
        proa_graves_add(worker->graves, e->id); /* an offer that comes late opens nothing */
    if (job == NULL || job->peer_link != e->link)
        proa_sim_send(w, e->link, e->to, &(sim_event){.kind = SIM_QUIET, .id = e->id});
    if (job == NULL || (job->peer_link != e->link && job->prefill.offered))
        return;
    proa_prefill_actions a;
    proa_prefill_abort(&job->prefill, &a);
    act(w, e->to, job, &a);
}

static void take_cancel(sim_world *w, const sim_event *e)
{
    sim_job *job = proa_sim_job_of_id(&w->nodes[e->to].w, e->id, e->link);
    if (job == NULL || !job->has_room)
        return;
    proa_prefill_actions a;
    proa_prefill_cancel(&job->prefill, &a);
    act(w, e->to, job, &a);
}

/* A decode worker dials: its older session ends first. */
static void take_hello(sim_world *w, const sim_event *e)
{
    sim_worker *worker = &w->nodes[e->to].w;
    if (worker->session[e->from] >= 0)
        proa_sim_prefill_down(w, e->to, worker->session[e->from]);
    worker->session[e->from] = e->link;
    proa_sim_send(w, e->link, e->to, &(sim_event){.kind = SIM_WELCOME});
}

void proa_sim_prefill_down(sim_world *w, int32_t node, int32_t link)
{
    sim_worker *worker = &w->nodes[node].w;
    const sim_link *l = &w->links[link];
    int32_t other = l->a == node ? l->b : l->a;
    w->links[link].up[l->b == node] = false;
    if (worker->session[other] == link)
        worker->session[other] = -1;
    for (sim_job *job = worker->jobs, *next; job != NULL; job = next) {
        next = job->next;
        proa_prefill_actions a = {0};
        if (job->has_room && job->peer_link == link) {
            proa_prefill_link_lost(&job->prefill, &a);
            act(w, node, job, &a);
            if (a.forget)
                continue;
            stop_write(w, node, job);
        } else if (job->has_room && job->link == link) {
            job->told = true;
            proa_prefill_cancel(&job->prefill, &a);
            act(w, node, job, &a);
        }
    }
}

/* ---- the engine ---- */

static void compute(sim_world *w, int32_t node, sim_job *job, int32_t rows)
{
    sim_worker *worker = &w->nodes[node].w;
    int32_t until = job->computed + rows < rows_of(job) ? job->computed + rows : rows_of(job);
    for (; job->computed < until; job->computed++) {
        uint64_t before = job->computed > 0 ? *proa_sim_row(worker, job->blocks, job->computed - 1) : 1;
        *proa_sim_row(worker, job->blocks, job->computed) =
            proa_sim_next_row(before, proa_sim_job_token(job, job->computed));
    }
    proa_prefill_actions a;
    if (until < rows_of(job)) {
        proa_prefill_computed(&job->prefill, until, w->now_us, &a);
    } else {
        uint64_t fold = 1;
        for (int32_t p = 0; p < until; p++)
            fold = proa_sim_fold(fold, *proa_sim_row(worker, job->blocks, p));
        job->first = proa_sim_token_of(fold, until - 1);
        proa_prefill_first(&job->prefill, w->now_us, &a);
    }
    act(w, node, job, &a);
}

static void step(sim_world *w, int32_t node)
{
    sim_worker *worker = &w->nodes[node].w;
    int32_t budget = CHUNK;
    bool blocked = false;
    for (sim_job *job = worker->jobs, *next; job != NULL; job = next) {
        next = job->next;
        if (!job->asked || job->ended || !job->has_room)
            continue;
        if (!job->admitted && !blocked) {
            job->admitted = proa_sim_take_blocks(worker, job, (rows_of(job) + SIM_BLOCK - 1) / SIM_BLOCK);
            blocked = !job->admitted;
        }
        if (job->admitted && job->computed < rows_of(job) && budget > 0) {
            int32_t rows = rows_of(job) - job->computed < budget ? rows_of(job) - job->computed : budget;
            budget -= rows;
            compute(w, node, job, rows);
        }
    }
    for (sim_job *job = worker->jobs, *next; job != NULL; job = next) {
        next = job->next;
        if (!job->has_room)
            continue;
        if (job->write_dead && job->write_left > 0) {
            stop_write(w, node, job);
            continue;
        }
        proa_prefill_actions a;
        proa_prefill_tick(&job->prefill, &w->limits, blocked, w->now_us, &a);
        act(w, node, job, &a);
    }
}

void proa_sim_prefill_event(sim_world *w, const sim_event *e)
{
    switch ((int)e->kind) {
    case SIM_SUBMIT: take_submit(w, e); break;
    case SIM_CANCEL: take_cancel(w, e); break;
    case SIM_HELLO: take_hello(w, e); break;
    case SIM_OPEN: take_open(w, e); break;
    case SIM_ABORT: take_abort(w, e); break;
    case SIM_COPY: take_copy(w, e); break;
    case SIM_DOWN: proa_sim_prefill_down(w, e->to, e->link); break;
    case SIM_TICK:
        step(w, e->to);
        proa_sim_worker_tick(w, e->to, TICK_US + proa_sim_random(w, 1000));
        break;
    default: break;
    }
}
