/* worker.c - what simulated prefill and decode workers share: jobs, blocks, what a frontend hears. */
#include "sim/sim_internal.h"

#include <stdlib.h>
#include <string.h>

void proa_sim_worker_start(sim_world *w, int32_t node)
{
    sim_worker *worker = &w->nodes[node].w;
    int32_t pool = worker->pool;
    *worker = (sim_worker){.pool = pool, .graves = proa_graves_create(SIM_GRAVES)};
    if (worker->graves == NULL)
        abort();
    for (int32_t i = 0; i < pool; i++) {
        worker->generation[i] = 1 + proa_sim_random(w, 1000);
        for (int32_t r = 0; r < SIM_BLOCK; r++)
            worker->rows[i][r] = proa_sim_mix((uint64_t)i, (uint64_t)r); /* what another life left behind */
    }
    for (int32_t i = 0; i < SIM_NODES_MAX; i++)
        worker->session[i] = -1;
}

void proa_sim_worker_tick(sim_world *w, int32_t node, int64_t delay_us)
{
    sim_worker *worker = &w->nodes[node].w;
    worker->ticking = worker->jobs != NULL;
    if (worker->ticking)
        proa_sim_post(w, &(sim_event){.kind = SIM_TICK, .to = node, .epoch = w->nodes[node].epoch}, delay_us);
}

void proa_sim_worker_stop(sim_world *w, int32_t node)
{
    sim_worker *worker = &w->nodes[node].w;
    for (sim_job *job = worker->jobs, *next; job != NULL; job = next) {
        next = job->next;
        free(job);
    }
    worker->jobs = NULL;
    proa_graves_free(worker->graves);
    worker->graves = NULL;
}

sim_job *proa_sim_job_new(sim_world *w, int32_t node, const sim_event *m)
{
    sim_worker *worker = &w->nodes[node].w;
    sim_job *job = calloc(1, sizeof *job), **at = &worker->jobs;
    if (job == NULL)
        abort();
    while (*at != NULL)
        at = &(*at)->next;
    *at = job;
    job->front = -1;
    job->link = -1;
    job->peer_link = -1;
    job->room = m->room;
    if (!worker->ticking)
        proa_sim_worker_tick(w, node, proa_sim_random(w, 3000));
    return job;
}

sim_job *proa_sim_job_of_room(const sim_worker *worker, uint64_t room)
{
    sim_job *job = worker->jobs;
    while (job != NULL && !(job->has_room && job->room == room))
        job = job->next;
    return job;
}

sim_job *proa_sim_job_of_id(const sim_worker *worker, uint64_t id, int32_t link)
{
    sim_job *job = worker->jobs;
    while (job != NULL && !(job->id == id && job->link == link))
        job = job->next;
    return job;
}

void proa_sim_job_settle(sim_world *w, int32_t node, sim_job *job)
{
    sim_worker *worker = &w->nodes[node].w;
    if (job->has_room || (job->asked && !job->ended) || job->write_left > 0)
        return;
    proa_sim_free_blocks(worker, job);
    sim_job **at = &worker->jobs;
    while (*at != job)
        at = &(*at)->next;
    *at = job->next;
    free(job);
}

void proa_sim_job_tell(sim_world *w, int32_t node, sim_job *job, proa_status status, uint64_t blame)
{
    if (job->told)
        return;
    job->told = true;
    proa_sim_send(w, job->link, node,
                  &(sim_event){.kind = SIM_FINISH, .id = job->id, .status = status, .blame = blame});
}

bool proa_sim_take_blocks(sim_worker *worker, sim_job *job, int32_t count)
{
    int32_t free_blocks = 0;
    for (int32_t i = 0; i < worker->pool; i++)
        free_blocks += !worker->used[i];
    if (free_blocks < count)
        return false;
    for (int32_t i = 0; i < worker->pool && count > 0; i++) {
        if (worker->used[i])
            continue;
        worker->used[i] = true;
        job->blocks[job->block_count] = i;
        job->generations[job->block_count++] = worker->generation[i];
        count--;
    }
    return true;
}

void proa_sim_free_blocks(sim_worker *worker, sim_job *job)
{
    for (int32_t i = 0; i < job->block_count; i++) {
        worker->used[job->blocks[i]] = false;
        worker->generation[job->blocks[i]]++;
    }
    job->block_count = 0;
    job->admitted = false;
}

int32_t proa_sim_job_token(const sim_job *job, int32_t position)
{
    return position < job->prompt_count ? proa_sim_prompt_token(job->prompt, position)
                                        : job->output[position - job->prompt_count];
}

uint64_t *proa_sim_row(sim_worker *worker, const int32_t *blocks, int32_t position)
{
    return &worker->rows[blocks[position / SIM_BLOCK]][position % SIM_BLOCK];
}

uint64_t proa_sim_digest(const sim_worker *worker, int32_t block, int32_t rows, uint64_t room)
{
    uint64_t digest = room;
    for (int32_t i = 0; i < rows; i++)
        digest = proa_sim_mix(digest, worker->rows[block][i]);
    return digest;
}

void proa_sim_bury(sim_worker *worker, sim_job *job)
{
    proa_graves_add(worker->graves, job->room);
    job->has_room = false;
    job->peer_link = -1;
}
