/* decode.c - a simulated decode worker: reserves blocks, adopts, makes a token a tick, retracts when memory is out. */
#include "sim/sim_internal.h"

enum { TICK_US = 2000, REDIAL_US = 100000 };

static int32_t rows_of(const sim_job *job)
{
    return job->prompt_count + job->output_count;
}

static void act(sim_world *w, int32_t node, sim_job *job, const proa_decode_actions *a);

/* ---- the machine's wishes ---- */

static void send_open(sim_world *w, int32_t node, const sim_job *job)
{
    sim_event open = {.kind = SIM_OPEN, .id = job->room, .number = rows_of(job), .epoch = job->peer_epoch};
    for (int32_t i = 0; i * SIM_BLOCK < rows_of(job); i++) {
        open.blocks[i] = job->blocks[i];
        open.generations[i] = job->generations[i];
    }
    proa_sim_send(w, job->peer_link, node, &open);
}

static void give_token(sim_world *w, int32_t node, sim_job *job, int32_t token)
{
    job->output[job->output_count++] = token;
    job->credit--;
    proa_sim_send(w, job->link, node, &(sim_event){.kind = SIM_TOKEN, .id = job->id, .number = token});
    if (job->output_count < job->max_new)
        return;
    job->ended = true;
    proa_sim_job_tell(w, node, job, PROA_OK, 0);
}

static void act(sim_world *w, int32_t node, sim_job *job, const proa_decode_actions *a)
{
    sim_worker *worker = &w->nodes[node].w;
    if (a->send_open)
        send_open(w, node, job);
    if (a->adopt) {
        job->adopted = true;
        job->computed = rows_of(job);
        give_token(w, node, job, job->first);
    }
    if (a->tell_ended)
        proa_sim_job_tell(w, node, job, a->status, a->blame ? w->nodes[job->peer].epoch : 0);
    if (a->cancel)
        job->ended = true; /* its blocks stay until the room is over */
    if (a->send_abort)
        proa_sim_send(w, job->peer_link, node, &(sim_event){.kind = SIM_ABORT, .id = job->room});
    if (a->forget) {
        proa_sim_bury(worker, job);
        proa_sim_job_settle(w, node, job);
    }
}

/* ---- sessions ---- */

static bool waits_for(const sim_worker *worker, int32_t peer)
{
    for (const sim_job *job = worker->jobs; job != NULL; job = job->next) {
        if (job->has_room && job->peer == peer)
            return true;
    }
    return false;
}

static void lost(sim_world *w, int32_t node, int32_t peer, bool quiet, bool closing_only)
{
    sim_worker *worker = &w->nodes[node].w;
    for (sim_job *job = worker->jobs, *next; job != NULL; job = next) {
        next = job->next;
        if (!job->has_room || job->peer != peer)
            continue;
        if (closing_only && job->decode.state != PROA_DECODE_CLOSING)
            continue;
        proa_decode_actions a;
        proa_decode_link_lost(&job->decode, quiet, w->now_us, &a);
        job->peer_link = -1;
        act(w, node, job, &a);
    }
}

static void dial(sim_world *w, int32_t node, int32_t peer)
{
    sim_worker *worker = &w->nodes[node].w;
    if (worker->session[peer] >= 0 || !waits_for(worker, peer))
        return;
    int32_t link = proa_sim_dial(w, node, peer);
    if (link < 0) { /* nobody listens there */
        lost(w, node, peer, true, false);
        return;
    }
    worker->session[peer] = link;
    worker->greeted[peer] = false;
    proa_sim_send(w, link, node, &(sim_event){.kind = SIM_HELLO});
}

static void take_welcome(sim_world *w, const sim_event *e)
{
    sim_worker *worker = &w->nodes[e->to].w;
    if (worker->session[e->from] != e->link || worker->greeted[e->from])
        return;
    worker->greeted[e->from] = true;
    lost(w, e->to, e->from, true, true); /* older sessions are quiet */
    for (sim_job *job = worker->jobs, *next; job != NULL; job = next) {
        next = job->next;
        if (!job->has_room || job->peer != e->from)
            continue;
        proa_decode_actions a;
        job->peer_link = e->link;
        if (job->peer_epoch != w->nodes[e->from].epoch)
            proa_decode_link_lost(&job->decode, true, w->now_us, &a);
        else
            proa_decode_linked(&job->decode, w->now_us, &a);
        act(w, e->to, job, &a);
    }
}

static void take_down(sim_world *w, const sim_event *e)
{
    sim_worker *worker = &w->nodes[e->to].w;
    const sim_link *l = &w->links[e->link];
    int32_t other = l->a == e->to ? l->b : l->a;
    w->links[e->link].up[l->b == e->to] = false;
    if (worker->session[other] == e->link) { /* the stream's end is quiet, a silence is not */
        worker->session[other] = -1;
        lost(w, e->to, other, e->number != 0 && worker->greeted[other], false);
        proa_sim_post(
            w, &(sim_event){.kind = SIM_DIAL, .to = e->to, .from = other, .epoch = w->nodes[e->to].epoch},
            REDIAL_US);
        return;
    }
    for (sim_job *job = worker->jobs, *next; job != NULL; job = next) {
        next = job->next;
        if (job->link != e->link)
            continue;
        job->told = true;
        if (job->has_room) {
            proa_decode_actions a;
            proa_decode_cancel(&job->decode, w->now_us, &a);
            act(w, e->to, job, &a);
        } else {
            job->ended = true;
            proa_sim_job_settle(w, e->to, job);
        }
    }
}

/* ---- messages ---- */

static void take_submit(sim_world *w, const sim_event *e)
{
    sim_worker *worker = &w->nodes[e->to].w;
    if (proa_graves_has(worker->graves, e->room) || proa_sim_job_of_room(worker, e->room) != NULL) {
        proa_sim_send(w, e->link, e->to,
                      &(sim_event){.kind = SIM_FINISH, .id = e->id, .status = PROA_ERR_PROTOCOL});
        return;
    }
    sim_job *job = proa_sim_job_new(w, e->to, e);
    job->id = e->id;
    job->front = e->from;
    job->link = e->link;
    job->prompt = e->prompt;
    job->prompt_count = e->prompt_count;
    job->max_new = e->max_new;
    job->credit = e->credit;
    job->output_count = e->output_count;
    for (int32_t i = 0; i < e->output_count; i++)
        job->output[i] = e->output[i];
    job->peer = e->peer;
    job->peer_epoch = e->peer_epoch;
    job->has_room = true;
    job->asked = true;
    proa_decode_begin(&job->decode, w->now_us);
    if (worker->session[e->peer] >= 0 && worker->greeted[e->peer]) {
        proa_decode_actions a;
        job->peer_link = worker->session[e->peer];
        if (w->nodes[e->peer].epoch != e->peer_epoch)
            proa_decode_link_lost(&job->decode, true, w->now_us, &a);
        else
            proa_decode_linked(&job->decode, w->now_us, &a);
        act(w, e->to, job, &a);
    } else {
        dial(w, e->to, e->peer);
    }
}

static void take_done(sim_world *w, const sim_event *e)
{
    sim_worker *worker = &w->nodes[e->to].w;
    sim_job *job = proa_sim_job_of_room(worker, e->id);
    if (job == NULL || job->peer_link != e->link)
        return;
    bool intact = e->number == rows_of(job);
    for (int32_t i = 0; intact && i * SIM_BLOCK < rows_of(job); i++) {
        int32_t left = rows_of(job) - i * SIM_BLOCK;
        intact = e->generations[i] == job->generations[i] &&
                 e->digests[i] ==
                     proa_sim_digest(worker, job->blocks[i], left < SIM_BLOCK ? left : SIM_BLOCK, job->room);
    }
    proa_decode_actions a;
    job->first = e->credit;
    if (!intact && job->decode.state == PROA_DECODE_OPEN)
        proa_sim_find(w, "room of call %llx: rows differ from what was sent", (unsigned long long)job->id);
    proa_decode_done(&job->decode, intact, &a);
    act(w, e->to, job, &a);
}

static void take_room_end(sim_world *w, const sim_event *e)
{
    sim_job *job = proa_sim_job_of_room(&w->nodes[e->to].w, e->id);
    if (job == NULL || job->peer_link != e->link)
        return;
    proa_decode_actions a;
    if (e->kind == SIM_FAIL)
        proa_decode_fail(&job->decode, e->status, "the prefill worker has failed", &a);
    else
        proa_decode_quiet(&job->decode, &a);
    act(w, e->to, job, &a);
}

static void take_cancel(sim_world *w, const sim_event *e)
{
    sim_job *job = proa_sim_job_of_id(&w->nodes[e->to].w, e->id, e->link);
    if (job == NULL)
        return;
    if (job->has_room) {
        proa_decode_actions a;
        proa_decode_cancel(&job->decode, w->now_us, &a);
        act(w, e->to, job, &a);
        return;
    }
    job->ended = true;
    proa_sim_job_tell(w, e->to, job, PROA_ERR_CANCELLED, 0);
    proa_sim_job_settle(w, e->to, job);
}

/* ---- the engine ---- */

static void reserve(sim_world *w, int32_t node)
{
    sim_worker *worker = &w->nodes[node].w;
    for (sim_job *job = worker->jobs, *next; job != NULL; job = next) {
        next = job->next;
        if (job->ended || job->admitted || job->adopted)
            continue;
        if (!proa_sim_take_blocks(worker, job, (rows_of(job) + SIM_BLOCK) / SIM_BLOCK))
            return; /* in order */
        job->admitted = true;
        proa_decode_actions a;
        proa_decode_reserved(&job->decode, w->now_us, &a);
        act(w, node, job, &a);
    }
}

/* A retracted job has its rows computed again, here: they are what they were. */
static bool come_back(sim_worker *worker, sim_job *job)
{
    if (!proa_sim_take_blocks(worker, job, (rows_of(job) + SIM_BLOCK) / SIM_BLOCK))
        return false;
    job->admitted = true;
    uint64_t row = 1;
    for (job->computed = 0; job->computed < rows_of(job) - 1; job->computed++) {
        row = proa_sim_next_row(row, proa_sim_job_token(job, job->computed));
        *proa_sim_row(worker, job->blocks, job->computed) = row;
    }
    return true;
}

static bool retract_one(sim_worker *worker, const sim_job *except)
{
    sim_job *victim = NULL;
    for (sim_job *job = worker->jobs; job != NULL; job = job->next) {
        if (job != except && job->adopted && job->admitted && !job->ended)
            victim = job;
    }
    if (victim != NULL)
        proa_sim_free_blocks(worker, victim);
    return victim != NULL;
}

static void decode(sim_world *w, int32_t node, sim_job *job)
{
    sim_worker *worker = &w->nodes[node].w;
    if (!job->admitted && !come_back(worker, job))
        return;
    int32_t last = rows_of(job) - 1;
    while (last / SIM_BLOCK >= job->block_count) {
        if (!proa_sim_take_blocks(worker, job, 1) && !retract_one(worker, job))
            return;
    }
    uint64_t before = last > 0 ? *proa_sim_row(worker, job->blocks, last - 1) : 1, fold = 1;
    *proa_sim_row(worker, job->blocks, last) = proa_sim_next_row(before, proa_sim_job_token(job, last));
    for (int32_t p = 0; p <= last; p++)
        fold = proa_sim_fold(fold, *proa_sim_row(worker, job->blocks, p));
    give_token(w, node, job, proa_sim_token_of(fold, last));
    proa_sim_job_settle(w, node, job);
}

static void step(sim_world *w, int32_t node)
{
    sim_worker *worker = &w->nodes[node].w;
    for (sim_job *job = worker->jobs, *next; job != NULL; job = next) {
        next = job->next;
        if (job->adopted && !job->ended && job->credit > 0)
            decode(w, node, job);
        else if (job->adopted && job->ended)
            proa_sim_job_settle(w, node, job);
    }
    reserve(w, node);
    for (sim_job *job = worker->jobs, *next; job != NULL; job = next) {
        next = job->next;
        if (!job->has_room)
            continue;
        proa_decode_actions a;
        proa_decode_tick(&job->decode, &w->limits, w->now_us, &a);
        act(w, node, job, &a);
    }
}

void proa_sim_decode_event(sim_world *w, const sim_event *e)
{
    sim_job *job;
    switch ((int)e->kind) {
    case SIM_SUBMIT: take_submit(w, e); break;
    case SIM_CANCEL: take_cancel(w, e); break;
    case SIM_GRANT:
        job = proa_sim_job_of_id(&w->nodes[e->to].w, e->id, e->link);
        if (job != NULL)
            job->credit += e->number;
        break;
    case SIM_WELCOME: take_welcome(w, e); break;
    case SIM_DONE: take_done(w, e); break;
    case SIM_FAIL:
    case SIM_QUIET: take_room_end(w, e); break;
    case SIM_DOWN: take_down(w, e); break;
    case SIM_DIAL: dial(w, e->to, e->from); break;
    case SIM_TICK:
        step(w, e->to);
        proa_sim_worker_tick(w, e->to, TICK_US + proa_sim_random(w, 1000));
        break;
    default: break;
    }
}
