/* group_fixture.h - one machine of engine/group.h, events that come to it, and what the last of them drew. */
#ifndef PROA_TEST_GROUP_FIXTURE_H
#define PROA_TEST_GROUP_FIXTURE_H

#include "engine/group.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <string.h>

enum { RANKS_MAX = 8, ACTIONS_MAX = 32 };

static const proa_group_limits limits = {.collect_us = 100,
                                         .view_us = 250,
                                         .join_us = 200,
                                         .form_us = 1000,
                                         .status_us = 500,
                                         .proposal_us = 2000,
                                         .placement_us = 5000,
                                         .shun_us = 10000,
                                         .abandon_us = 3000};

/* A machine, and what the last event drew. */
typedef struct rig {
    proa_group *group;
    int32_t ranks, self;
    int64_t now_us;
    proa_group_action actions[ACTIONS_MAX];
    int count;
    proa_group_epoch epoch; /* installed last */
} rig;

static inline void take(rig *r)
{
    r->count = 0;
    while (proa_group_next(r->group, &r->actions[r->count])) {
        if (r->actions[r->count].kind == PROA_GROUP_INSTALL)
            r->epoch = r->actions[r->count].shape.epoch;
        r->count++;
        assert_true(r->count < ACTIONS_MAX);
    }
}

static inline const proa_group_action *did(const rig *r, proa_group_action_kind kind)
{
    for (int i = 0; i < r->count; i++)
        if (r->actions[i].kind == kind)
            return &r->actions[i];
    return NULL;
}

/* The message of this kind that was sent to this rank, or NULL. */
static inline const proa_group_message *sent(const rig *r, proa_group_kind kind, int32_t to)
{
    for (int i = 0; i < r->count; i++)
        if (r->actions[i].kind == PROA_GROUP_SEND && r->actions[i].message.kind == kind &&
            proa_group_mask_has(&r->actions[i].to, to))
            return &r->actions[i].message;
    return NULL;
}

static inline proa_group_mask mask_of(const char *ranks)
{
    proa_group_mask mask = {{0}};
    for (; *ranks != 0; ranks++)
        proa_group_mask_add(&mask, *ranks - '0');
    return mask;
}

static inline void assert_mask(const proa_group_mask *mask, const char *ranks)
{
    proa_group_mask expected = mask_of(ranks);
    assert_true(proa_group_mask_equal(mask, &expected));
}

/* ---- events ---- */

static inline void begin(rig *r, int32_t ranks, int32_t self)
{
    *r = (rig){.ranks = ranks, .self = self};
    r->group = proa_group_create(ranks, self, 1, &limits, 0);
    assert_non_null(r->group);
}

static inline void end(rig *r)
{
    proa_group_free(r->group);
}

static inline void link_up(rig *r, int32_t peer, uint64_t life)
{
    proa_group_link_up(r->group, peer, life, r->now_us);
    take(r);
}

static inline void link_down(rig *r, int32_t peer)
{
    proa_group_link_down(r->group, peer, 1, r->now_us);
    take(r);
}

static inline void receive(rig *r, const proa_group_message *message)
{
    proa_group_receive(r->group, message, r->now_us);
    take(r);
}

static inline void tick(rig *r, int64_t us)
{
    r->now_us += us;
    proa_group_tick(r->group, r->now_us);
    take(r);
}

static inline void propose(rig *r, int32_t windows, bool extend, uint32_t placement)
{
    proa_group_propose(r->group,
                       &(proa_group_want){.windows = windows, .extend = extend, .placement = placement},
                       r->now_us);
    take(r);
}

static inline void ended(rig *r, bool completed)
{
    proa_group_ended(r->group, completed, r->now_us);
    take(r);
}

static inline proa_group_message message(proa_group_kind kind, int32_t from, const proa_group_epoch *epoch)
{
    return (proa_group_message){.kind = kind, .from = from, .life = 1, .epoch = *epoch};
}

static inline void hear_status(rig *r, int32_t from, const proa_group_epoch *epoch, const char *members)
{
    proa_group_message m = message(PROA_GROUP_STATUS, from, epoch);
    m.inside = *members != 0;
    m.mask = mask_of(members);
    receive(r, &m);
}

static inline void hear_report(rig *r, int32_t from, proa_group_purpose purpose, const char *seen)
{
    proa_group_message m = message(PROA_GROUP_REPORT, from, &r->epoch);
    m.purpose = purpose;
    m.mask = mask_of(seen);
    receive(r, &m);
}

static inline void hear_ask(rig *r, int32_t from, proa_group_purpose purpose)
{
    proa_group_message m = message(PROA_GROUP_ASK, from, &r->epoch);
    m.purpose = purpose;
    receive(r, &m);
}

static inline void hear_proposal(rig *r, int32_t from, uint64_t step, int32_t windows, bool extend,
                                 uint32_t placement)
{
    proa_group_message m = message(PROA_GROUP_PROPOSE, from, &r->epoch);
    m.step = step;
    m.want = (proa_group_want){.windows = windows, .extend = extend, .placement = placement};
    receive(r, &m);
}

static inline void hear_shape(rig *r, uint64_t step, int32_t windows, uint32_t placement, bool counted)
{
    proa_group_message m = message(PROA_GROUP_SHAPE, r->epoch.rank, &r->epoch);
    m.step = step;
    m.want = (proa_group_want){.windows = windows, .placement = placement};
    m.counted = counted;
    receive(r, &m);
}

static const uint64_t ones[RANKS_MAX] = {1, 1, 1, 1, 1, 1, 1, 1};

static inline void hear_view(rig *r, int32_t from, uint64_t count, const char *members,
                             const proa_group_epoch *before, uint64_t step)
{
    proa_group_epoch epoch = {.count = count, .rank = from, .life = 1};
    proa_group_message m = message(PROA_GROUP_VIEW, from, &epoch);
    m.mask = mask_of(members);
    m.lives = ones;
    m.step = step;
    if (before != NULL)
        m.before = *before;
    receive(r, &m);
}

/* All linked, and in one view that rank 0 has drawn. */
static inline void begin_member(rig *r, int32_t ranks, int32_t self)
{
    const char *all = &"01234567"[0];
    char members[RANKS_MAX + 1] = {0};
    memcpy(members, all, (size_t)ranks);
    proa_group_epoch none = {0};
    begin(r, ranks, self);
    for (int32_t peer = 0; peer < ranks; peer++)
        if (peer != self)
            link_up(r, peer, 1);
    if (self != 0) {
        hear_view(r, 0, 1, members, NULL, 0);
    } else {
        for (int32_t peer = 1; peer < ranks; peer++)
            hear_status(r, peer, &none, "");
        for (int32_t peer = 1; peer < ranks; peer++)
            hear_report(r, peer, PROA_GROUP_FORM, members);
    }
    assert_non_null(did(r, PROA_GROUP_INSTALL));
    assert_int_equal(proa_group_state_of(r->group), PROA_GROUP_MEMBER);
}

#endif
