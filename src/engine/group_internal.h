/* group_internal.h - what the files of the group share: group.c (events), group_step.c (shapes), group_view.c (collecting and
 * installing views), group_join.c (ranks outside: status, yielding, joining).
 */
#ifndef PROA_ENGINE_GROUP_INTERNAL_H
#define PROA_ENGINE_GROUP_INTERNAL_H

#include "base/status.h"
#include "engine/group.h"

enum {
    GROUP_HELD = 2,     /* shapes ahead of the step that runs: see "Steps" in group.h */
    GROUP_ACTIONS = 32, /* that one event may draw */
    GROUP_MISSES = 2,   /* after which a member is shunned */
};

#define GROUP_NEVER INT64_MAX

/* What the coordinator knows of a member's next proposal. */
typedef enum group_standing {
    GROUP_AWAITED, /* it was used up, or there was none yet: nothing goes on without it */
    GROUP_IDLE,    /* it wants nothing until it says otherwise */
    GROUP_ACTIVE,  /* it wants something of the next step */
} group_standing;

/* The coordinator's part of the agreement, for the view of `epoch`, which it has drawn. */
typedef struct group_lead {
    proa_group_epoch epoch; /* count 0: it coordinates none */
    proa_group_mask members;
    uint64_t next;         /* step whose shape is to be given */
    int32_t awaited;       /* members */
    int32_t active;        /* members */
    int64_t waiting_us;    /* since when somebody wants a step that is not given; NEVER */
    uint8_t *standing;     /* a rank: group_standing */
    proa_group_want *want; /* a rank: proposed last; placement also when it is awaited */
} group_lead;

/* This rank's own part. */
typedef struct group_steps {
    uint64_t done;          /* in this epoch; the one that runs is done + 1 */
    bool running;           /* the shell has not said that it ended; it may be of an earlier epoch */
    proa_group_shape shape; /* of the step that began last */
    bool abandoned;         /* and it was told to leave it */
    int64_t abandoned_us;   /* NEVER: the shell has been told that it is stuck */
    int32_t held;           /* shapes that came ahead */
    proa_group_shape ahead[GROUP_HELD];
    bool counted[GROUP_HELD];
    bool owed;            /* the coordinator waits for a proposal */
    proa_group_want sent; /* proposed last in this epoch */
    int64_t waiting_us;   /* since when it wants something and has no shape; NEVER */
} group_steps;

typedef struct group_pending {
    bool there;
    proa_group_epoch epoch;
    proa_group_mask mask;
    proa_group_mask lost; /* members that were started again since it was drawn */
    uint64_t after;       /* step of the present epoch */
} group_pending;

struct proa_group {
    int32_t ranks, self;
    uint64_t life;
    proa_group_limits limits;
    int64_t now_us;

    /* peers */
    proa_group_mask up;       /* links */
    proa_group_mask doubt;    /* silent, or did not answer; until a message comes */
    proa_group_mask shun;     /* missed too often; until shun_until_us */
    proa_group_mask viewless; /* said so last */
    uint64_t *lives;          /* a rank; 0: never seen */
    uint8_t *misses;
    int64_t shun_until_us;

    /* view */
    proa_group_state state;
    proa_group_epoch epoch; /* installed last */
    /* The highest that this rank was in or about to be in. It installs none below, and says so to whom it reports, so that a
     * grown view which it had drawn or heard of, and then gave up, is not waited in by others for ever. */
    proa_group_epoch floor;
    proa_group_mask view;  /* empty: outside */
    proa_group_mask gone;  /* members that are in another view, or another life */
    group_pending pending; /* grown; installed at a boundary */
    uint64_t highest;      /* count of any epoch heard of */
    int64_t since_us;      /* of the state */
    const char *why;
    int32_t why_rank;

    /* collecting (COLLECTING, or `growing` at a coordinator), reporting, knocking */
    proa_group_purpose purpose;
    bool growing;
    int64_t growing_us;
    proa_group_mask asked, reported;
    proa_group_mask joiners;  /* that have knocked here */
    proa_group_mask *reports; /* a rank: whom it sees */
    uint16_t *degree;         /* a rank: scratch of choosing */
    uint64_t *drawn_lives;    /* of the VIEW that was sent last */
    int32_t other;            /* REPORTING: to whom; KNOCKING: at whom */
    bool word_owed;           /* REPORT or JOIN is sent when no step runs any more */
    int64_t knock_us;         /* not before */
    int64_t status_us;        /* next STATUS to ranks outside */

    group_lead lead;
    group_steps steps;

    int32_t action_first, action_count;
    proa_group_action actions[GROUP_ACTIONS];
};

/* ---- group.c ---- */

proa_group_action *proa_group_push(proa_group *g, proa_group_action_kind kind);
/* A message of this rank, its header filled; empty `to` (without this rank): a place that nobody reads. */
proa_group_message *proa_group_send(proa_group *g, const proa_group_mask *to, proa_group_kind kind);
/* Peers whose links are up and that are neither doubted nor shunned, and this rank. */
proa_group_mask proa_group_seen(const proa_group *g);

/* ---- group_step.c ---- */

void proa_group_lead_begin(proa_group *g, const proa_group_epoch *epoch, const proa_group_mask *members);
void proa_group_lead_proposed(proa_group *g, int32_t from, uint64_t step, const proa_group_want *want);
void proa_group_lead_give(proa_group *g); /* the next shape, if it is due */
void proa_group_steps_install(proa_group *g);
void proa_group_steps_shaped(proa_group *g, const proa_group_message *message);
void proa_group_steps_go(proa_group *g); /* begins the next step, or installs what is pending */
void proa_group_steps_abandon(proa_group *g);
uint64_t proa_group_steps_last(const proa_group *g); /* whose shape this rank has, in this epoch */
void proa_group_steps_tick(proa_group *g);
int64_t proa_group_steps_deadline(const proa_group *g);

/* ---- group_view.c ---- */

/* The view is no longer whole: leave it and repair it. */
void proa_group_break(proa_group *g, const char *why, int32_t rank);
/* As a break, and who is among `ranks` (not empty) the second time in a row is shunned. */
void proa_group_suspect(proa_group *g, const char *why, const proa_group_mask *ranks);
/* The members that this rank may repair its view with. */
proa_group_mask proa_group_rest(const proa_group *g);
void proa_group_elect(proa_group *g); /* who collects for the repair? */
void proa_group_report_to(proa_group *g, int32_t rank, proa_group_purpose purpose);
void proa_group_collect(proa_group *g, const proa_group_mask *asked, proa_group_purpose purpose);
void proa_group_collect_settle(proa_group *g);         /* decides, if all is in */
int64_t proa_group_view_deadline(const proa_group *g); /* of REPORTING and COLLECTING */
void proa_group_collect_without(proa_group *g, int32_t rank);
void proa_group_answer(proa_group *g); /* sends the REPORT or JOIN that is owed, once no step runs */
/* Draws an epoch for a view, sends it to the others of `mask` and begins to coordinate it. */
proa_group_epoch proa_group_draw(proa_group *g, const proa_group_mask *mask, const proa_group_epoch *before,
                                 uint64_t step);
/* `lost`: members that are known to be lost already. */
void proa_group_install(proa_group *g, const proa_group_epoch *epoch, const proa_group_mask *mask,
                        const proa_group_mask *lost);
void proa_group_asked(proa_group *g, const proa_group_message *message);
void proa_group_reported(proa_group *g, const proa_group_message *message);
void proa_group_viewed(proa_group *g, const proa_group_message *message);

/* ---- group_join.c ---- */

void proa_group_tell_status(proa_group *g, const proa_group_mask *to);
void proa_group_status(proa_group *g, const proa_group_message *message);
void proa_group_knocked(proa_group *g, const proa_group_message *message);
void proa_group_outside(proa_group *g); /* becomes so; the view must have been left */
void proa_group_form(proa_group *g);    /* if it is this rank's turn */
void proa_group_grow(proa_group *g);    /* asks for those who have knocked, if it may */
void proa_group_grow_settle(proa_group *g);
void proa_group_join_tick(proa_group *g);

#endif
