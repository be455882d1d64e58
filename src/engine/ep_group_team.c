/* ep_group_team.c - the group's ranks that share the heads of this one's requests, or whose requests these are. */
#include "engine/ep_group_internal.h"

#include "base/clock.h"
#include "base/log.h"

/* Frontends have heard by then that this rank is away (cluster/worker.c tells them ten times a second), so that requests which end here are not
 * sent here again. */
enum { HEARD_US = 300000 };

/* A member may wait for others in the all-to-all, which has its own deadline and blames the right one. */
enum { PATIENCE = 2 };

static int32_t first_of(const proa_ep_group *r)
{
    return r->options.rank / r->options.team_size * r->options.team_size;
}

proa_status proa_ep_group_team_create(proa_ep_group *r, proa_precision precision, proa_error *err)
{
    if (r->options.team_size == 1)
        return PROA_OK;
    PROA_ASSERT(r->options.ranks % r->options.team_size == 0);
    const proa_ep_team_options options = {
        .first = first_of(r),
        .size = r->options.team_size,
        .rank = r->options.rank,
        .limits = r->options.step_limits,
        .brought_max = r->options.team_brought_max,
        .deadline_us = PATIENCE * r->options.deadline_us,
        .spin_us = r->options.spin_us,
    };
    return proa_ep_team_create(&options, &r->config, precision, r->a2a, &r->team, err);
}

bool proa_ep_group_team(const proa_ep_group *r, proa_team *team)
{
    if (r->team != NULL)
        *team = proa_ep_team_members(r->team);
    return r->team != NULL;
}

void proa_ep_group_team_lives(const proa_ep_group *r, uint64_t *lives)
{
    for (int32_t i = 0; i < r->options.team_size; i++) {
        int32_t rank = first_of(r) + i;
        uint64_t life = rank == r->options.rank ? r->options.life : r->peers[rank].life;
        lives[i] = r->live[rank] ? life : 0;
    }
}

void proa_ep_group_team_begin(proa_ep_group *r, uint64_t epoch, const uint64_t *lives)
{
    bool was_broken = atomic_load_explicit(&r->team_is_broken, memory_order_relaxed);
    proa_ep_team_begin(r->team, epoch, lives);
    bool broken = !proa_ep_team_is_whole(r->team);
    atomic_store_explicit(&r->team_is_broken, broken, memory_order_relaxed);
    if (broken && !was_broken)
        r->team_broken_us = proa_clock_us();
    if (broken != was_broken && proa_ep_team_leads(r->team))
        proa_log(broken ? PROA_LOG_WARN : PROA_LOG_INFO, "ranks",
                 broken
                     ? "of ranks %d to %d, which share the heads of attention, not all are there: this rank "
                       "takes no requests until they are"
                     : "ranks %d to %d, which share the heads of attention, are all there again",
                 first_of(r), first_of(r) + r->options.team_size - 1);
}

bool proa_ep_group_team_is_broken(const proa_ep_group *r)
{
    return r->team != NULL && r->installed && !proa_ep_team_is_whole(r->team);
}

int64_t proa_ep_group_team_patience_us(const proa_ep_group *r)
{
    return r->team_broken_us + HEARD_US - proa_clock_us();
}

proa_status proa_ep_group_team_step(proa_ep_group *r, const proa_step *step, float **logits, bool *computed,
                                    proa_error *err)
{
    *computed = true;
    return r->team != NULL ? proa_ep_team_step(r->team, step, logits, computed, err)
                           : proa_forward_step(r->forward, step, logits, err);
}

proa_status proa_ep_group_kv_copy(proa_ep_group *r, const proa_kv_copy *copies, int32_t count,
                                  proa_error *err)
{
    proa_status status = proa_forward_kv_copy(r->forward, copies, count, err);
    for (int32_t i = 0; i < count && r->team != NULL; i++)
        proa_ep_team_written(r->team, &copies[i].to, 1);
    return status;
}

void proa_ep_group_kv_written(proa_ep_group *r, const int32_t *blocks, int32_t count)
{
    if (r->team != NULL)
        proa_ep_team_written(r->team, blocks, count);
}
