/* ep_group_watch.c - the control thread's eye on the engine thread (what it does, for whom it waits, whether it hangs) and on how
 * long this rank has been outside. */
#include "engine/ep_group_internal.h"

#include "base/clock.h"
#include "base/stacks.h"

#include <stdio.h>

/* "3, 7" of those that the all-to-all waits for. */
static void name_missing(const proa_ep_group *r, const proa_a2a_look *look, char *text, size_t bytes)
{
    size_t used = 0;
    text[0] = 0;
    for (int32_t i = 0; i < r->options.ranks && used + 16 < bytes; i++) {
        if (proa_a2a_misses(r->a2a, i) && look->waits_for != NULL)
            used += (size_t)snprintf(text + used, bytes - used, "%s%d", used > 0 ? ", " : "", i);
    }
}

void proa_ep_group_describe(const proa_ep_group *r, char *text, size_t bytes)
{
    proa_a2a_look look;
    char missing[160];
    int64_t now = proa_clock_us();
    proa_a2a_get_look(r->a2a, &look);
    name_missing(r, &look, missing, sizeof missing);
    int used = snprintf(text, bytes, "%s step %llu of epoch %llu (%d of %d ranks)",
                        r->running      ? "in"
                        : r->installing ? "on its way to the first"
                        : r->begun      ? "before"
                                        : "after",
                        (unsigned long long)r->shape.step, (unsigned long long)r->epoch.count,
                        proa_group_mask_count(&r->view), r->options.ranks);
    if (used < 0 || (size_t)used >= bytes)
        return;
    text += used;
    bytes -= (size_t)used;
    if (look.waits_for != NULL)
        snprintf(text, bytes, ", layer %d, window %llu: it waits for %s of rank %s for %.1f s", look.layer,
                 (unsigned long long)look.window, look.waits_for, missing,
                 (double)(now - look.since_us) / 1e6);
    else
        snprintf(text, bytes, ", its last window was %llu, of layer %d; no progress for %.1f s",
                 (unsigned long long)look.window, look.layer, (double)(now - r->watch.since_us) / 1e6);
}

void proa_ep_group_stuck(proa_ep_group *r, const char *why)
{
    char text[700], where[400];
    proa_ep_group_describe(r, where, sizeof where);
    snprintf(text, sizeof text, "%s; %s", why, where);
    r->options.hooks.stuck(r->options.hooks.context, text);
}

static bool engine_sleeps(void *context)
{
    const proa_ep_group *r = context;
    return r->engine_thread != 0 && proa_stacks_is_asleep(r->engine_thread);
}

void proa_ep_group_watch(proa_ep_group *r, int64_t now_us)
{
    proa_a2a_look a2a;
    proa_a2a_get_look(r->a2a, &a2a);
    const proa_ep_look look = {
        .now_us = now_us,
        .wanted = (r->begun || r->to_install) && !r->running && !r->installing && !r->stopped,
        .busy = (r->running || r->installing) && !r->stopped,
        .waits = a2a.waits_for != NULL,
        .moves = a2a.moves + r->connections,
    };
    const char *why = proa_ep_watch_tick(&r->watch, &look, r->options.deadline_us, engine_sleeps, r);
    if (why != NULL)
        proa_ep_group_stuck(r, why);
}

void proa_ep_group_note_outside(proa_ep_group *r, int64_t now_us)
{
    proa_group_state state = proa_group_state_of(r->group);
    bool outside = state == PROA_GROUP_OUTSIDE || state == PROA_GROUP_KNOCKING;
    if (!outside)
        atomic_store_explicit(&r->outside_since_us, 0, memory_order_relaxed);
    else if (atomic_load_explicit(&r->outside_since_us, memory_order_relaxed) == 0)
        atomic_store_explicit(&r->outside_since_us, now_us, memory_order_relaxed);
}

int64_t proa_ep_group_outside_us(const proa_ep_group *r)
{
    int64_t since_us = atomic_load_explicit(&r->outside_since_us, memory_order_relaxed);
    return since_us == 0 ? 0 : proa_clock_us() - since_us;
}

bool proa_ep_group_is_away(const proa_ep_group *r)
{
    return proa_ep_group_outside_us(r) >= r->options.outside_us / 2 ||
           atomic_load_explicit(&r->team_is_broken, memory_order_relaxed);
}
