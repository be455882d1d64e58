/* group.h - the ranks of a worker step together: who takes part, in which shape, with which placement of the experts.
 *
 * One pure state machine (law 3), run by each rank with the same code: events and a time go in, actions come out. It has no
 * socket, clock or thread, and takes no memory after proa_group_create. The shell around it carries messages over ordered links,
 * runs steps, and tells what it sees.
 *
 * Steps. Experts are spread over all ranks, so that all must pass the same all-to-alls. What is agreed for a step is its shape alone
 * (proa_group_shape); what a rank puts into it is its own affair and need not be known elsewhere. Each rank PROPOSEs what it
 * wants of step n + 1 while step n runs, the coordinator answers SHAPE to all when it has heard all: 2 (ranks - 1) messages a
 * step, none of them waited for when they are in time. The proposal of a rank that wants nothing stands until the rank says
 * otherwise: nobody waits for it, it says nothing, and follows the shapes that come. When nobody wants anything, no step
 * is run and nothing is sent.
 *
 *     A proposal for nothing that crosses with a SHAPE: the rank takes part in that step (what fits the shape may be computed in it), and
 *     its new proposal counts for the first step that was not agreed when it arrived. SHAPE says to each rank whether its own
 *     proposal was `counted` in it; one that was is used up, and the coordinator waits for the next, which is sent when that
 *     step has begun. What arrives from a rank whose counted SHAPE is on its way speaks of an earlier step and is dropped.
 *     So the coordinator is at most two shapes ahead of a rank that wants nothing, and one ahead of all others.
 *
 * Views. A view is a set of ranks that all see each other, under an epoch. A member that loses sight of another, or hears that one
 * did, leaves the running step (ABANDON), and says whom it sees to the coordinator, if it sees it, else to the lowest member that it
 * sees. That one collects (no longer than collect_us), chooses, draws an epoch above all it has heard of and sends VIEW. Steps count from 1
 * anew; a step that was abandoned is done again. An epoch names who drew it and in which life, so that two are never equal,
 * also when both halves of a partition go on by themselves. The one who drew it coordinates it. When links heal, the smaller view yields (of
 * equal ones: that without the lowest rank): its ranks RESET and JOIN the other. A rank that joins is admitted between two
 * steps, none of which is abandoned: VIEW names the last step of the view before.
 *
 * Placement. A proposal says the highest version of the expert placement that the rank is ready for (1, 2, ... in each
 * epoch; 0: none yet); a step is run with the least of them, so all ranks switch between the same two steps, and no step runs
 * before all are ready for one. A rank that says n can run every version from that of the last shape to n.
 *
 * What the shell owes: links are ordered and reliable until they break, and each end is told when they do; a message is of the
 * process at the other end of the link, which has said its life when the link came up. No two lives are equal; which of two began first
 * does not matter, since a link is always to the process that is there: so that no clock has to be right.
 *
 * One thread owns a group. Ranks are 0 .. ranks - 1, times in microseconds of any clock that does not go back.
 */
#ifndef PROA_ENGINE_GROUP_H
#define PROA_ENGINE_GROUP_H

#include "engine/group_mask.h"

/* ---- names ---- */

/* Never twice the same: count grows with each that is drawn, rank and life are of the process that drew it. count 0: none. */
typedef struct proa_group_epoch {
    uint64_t count;
    int32_t rank;
    uint64_t life;
} proa_group_epoch;

/* < 0, 0, > 0; by count, rank, life. */
int proa_group_epoch_compare(const proa_group_epoch *a, const proa_group_epoch *b);
static inline bool proa_group_epoch_equal(const proa_group_epoch *a, const proa_group_epoch *b)
{
    return proa_group_epoch_compare(a, b) == 0;
}

/* What a rank wants of the next step. */
typedef struct proa_group_want {
    int32_t windows;    /* MoE windows that its tokens need; 0: it has nothing to compute */
    bool extend;        /* it has prompt tokens */
    uint32_t placement; /* the highest version that it is ready for in this epoch; never falls in an epoch */
} proa_group_want;

/* What all ranks of (epoch, step) agree on. The mask is the view's. */
typedef struct proa_group_shape {
    proa_group_epoch epoch;
    uint64_t step;      /* 1, 2, ... in each epoch */
    int32_t windows;    /* that every rank passes: the most that any wants */
    bool extend;        /* any rank has prompt tokens */
    uint32_t placement; /* the least that any is ready for */
} proa_group_shape;

/* ---- messages ---- */

typedef enum proa_group_kind {
    PROA_GROUP_PROPOSE, /* to the coordinator: want, from `step` on */
    PROA_GROUP_SHAPE,   /* from it: want is the shape of `step` */
    PROA_GROUP_ASK,     /* from one who collects: whom do you see? */
    PROA_GROUP_REPORT,  /* to it: mask. With REPAIR and FORM also: no step runs here, I wait for your view */
    PROA_GROUP_VIEW,    /* from it: epoch, mask and lives */
    PROA_GROUP_STATUS,  /* to a rank outside the sender's view: what I am in */
    PROA_GROUP_JOIN,    /* to a coordinator: take me in */
    PROA_GROUP_KINDS,
} proa_group_kind;

/* What is collected for. */
typedef enum proa_group_purpose {
    PROA_GROUP_REPAIR, /* the view has lost a member */
    PROA_GROUP_GROW,   /* ranks want to join it */
    PROA_GROUP_FORM,   /* ranks without any view make the first */
    PROA_GROUP_PURPOSES,
} proa_group_purpose;

typedef struct proa_group_message {
    proa_group_kind kind;
    int32_t from;
    uint64_t life; /* of the sender */
    /* PROPOSE, SHAPE, VIEW, STATUS inside: the view's. Others: the last that the sender was in, or was about to be in. */
    proa_group_epoch epoch;
    uint64_t step;              /* PROPOSE, SHAPE; VIEW: the last one of `before` */
    proa_group_want want;       /* PROPOSE, SHAPE */
    bool counted;               /* SHAPE: the receiver's proposal is in it and used up */
    bool inside;                /* STATUS: the sender is in the view of epoch, whose mask this is */
    proa_group_purpose purpose; /* ASK, REPORT */
    proa_group_mask mask;       /* REPORT: seen by the sender; VIEW, STATUS: members */
    proa_group_epoch before; /* VIEW: its members install this one after its step `step`; count 0: at once */
    const uint64_t *lives;   /* VIEW: of the members, by rising rank. Lent until the next event */
} proa_group_message;

/* ---- states ---- */

/* How a rank stands. RESET and INSTALL are told to the shell when the arrows so named are passed.
 *
 *                   links come up: STATUS both ways
 *                        |
 *                        v        a view whose members it all sees
 *      +------------> OUTSIDE ---------------------------------> KNOCKING  JOIN sent; refused or late: back
 *      |                 |  \                                       |
 *      |                 |   the lowest of those without a view     |
 *      |                 |   asks the others (FORM)                 |
 *      |                 v                                          |
 *      |   +----> REPORTING / COLLECTING                            |
 *      |   |             |                                          |
 *      |   |             | VIEW: INSTALL                            | VIEW: INSTALL
 *      |   |             v                                          |
 *      |   |          MEMBER <--------------------------------------+
 *      |   |             |  \___ VIEW of a grown view: INSTALL after its last step
 *      |   |             |
 *      |   +-------------+  a member is lost, missed or gone, or another reports so: ABANDON. COLLECTING at the
 *      |        REPAIR   |  coordinator, or at the lowest member that is seen when it is not; REPORTING at the others
 *      |                 |
 *      +-----------------+  a better view is there, and all of it is seen: RESET (also from REPORTING and COLLECTING)
 *
 * REPORTING ends with VIEW, or after view_us with doubt in the one that was to send it: the next lowest then. COLLECTING ends when all that
 * were asked have answered or are gone, or after collect_us without the rest. Nobody is ever waited for without a deadline.
 */
typedef enum proa_group_state {
    PROA_GROUP_OUTSIDE,
    PROA_GROUP_KNOCKING,
    PROA_GROUP_REPORTING,
    PROA_GROUP_COLLECTING,
    PROA_GROUP_MEMBER,
} proa_group_state;

/* ---- actions ---- */

typedef enum proa_group_action_kind {
    PROA_GROUP_SEND,    /* message to each rank of `to` whose link is up; never to this rank */
    PROA_GROUP_BEGIN,   /* run the step of `shape`; answer proa_group_ended, and say anew what is wanted */
    PROA_GROUP_ABANDON, /* leave the running step: waits of its all-to-alls return; answer proa_group_ended */
    PROA_GROUP_INSTALL, /* shape.epoch and `to` are the view now; say what is wanted, with placements of this epoch */
    PROA_GROUP_RESET, /* this rank's requests end here, and are replayed elsewhere */
    PROA_GROUP_STUCK, /* an abandoned step has not ended after abandon_us: the process should end */
} proa_group_action_kind;

typedef struct proa_group_action {
    proa_group_action_kind kind;
    proa_group_mask to;
    proa_group_message message;
    proa_group_shape shape;
    /* BEGIN: this rank's proposal is in the shape. Else the rank wanted nothing, or has spoken too late. */
    bool counted;
} proa_group_action;

/* ---- the machine ---- */

typedef struct proa_group_limits {
    int64_t collect_us;   /* for reports to arrive, the end of an abandoned step included */
    int64_t view_us;      /* for VIEW after a report: more than collect_us */
    int64_t join_us;      /* for VIEW after JOIN: more than collect_us and a step */
    int64_t form_us;      /* outside: for a view to join, before one is formed with those that are seen */
    int64_t status_us;    /* between two STATUS to ranks that are seen and not in the view */
    int64_t proposal_us;  /* that others wait for a member's proposal: more than the longest step */
    int64_t placement_us; /* that others wait for a member to be ready for a placement of the epoch */
    int64_t shun_us;      /* for one that was missed twice without a completed step between */
    int64_t abandon_us;   /* for an abandoned step to end */
} proa_group_limits;

typedef struct proa_group proa_group;

/* NULL when memory is out. `life` is a number over 0 that no other process of this rank has (a random one). A group of one rank forms its
 * view at the first tick. proa_group_free accepts NULL. */
proa_group *proa_group_create(int32_t ranks, int32_t self, uint64_t life, const proa_group_limits *limits,
                              int64_t now_us);
void proa_group_free(proa_group *group);

/* Events. After each one, take all actions with proa_group_next, in order. */

void proa_group_link_up(proa_group *group, int32_t peer, uint64_t life, int64_t now_us);
/* `life`: that the link came up with. */
void proa_group_link_down(proa_group *group, int32_t peer, uint64_t life, int64_t now_us);
/* The watchdog: the peer's process makes no progress, though its link is up. Its next message, or a new link, ends that. */
void proa_group_silent(proa_group *group, int32_t peer, int64_t now_us);
/* An all-to-all of a step of `epoch` has waited for these peers past its deadline. Breaks the view; the second time without a completed step
 * between, they count as unseen for shun_us. */
void proa_group_missed(proa_group *group, const proa_group_mask *peers, const proa_group_epoch *epoch,
                       int64_t now_us);
/* A message, checked by the decoder: ranks and masks are below `ranks`. Any content is safe. */
void proa_group_receive(proa_group *group, const proa_group_message *message, int64_t now_us);
/* What this rank wants of the step after the one that began last. To be said after each INSTALL and after each BEGIN that was `counted`, as
 * soon as it is known, and whenever it has changed. */
void proa_group_propose(proa_group *group, const proa_group_want *want, int64_t now_us);
/* The step that began last has ended here: `completed`, or left. */
void proa_group_ended(proa_group *group, bool completed, int64_t now_us);
/* At proa_group_deadline, or at any other time. */
void proa_group_tick(proa_group *group, int64_t now_us);

/* False when there is none left. What the action lends lives until the next event. */
bool proa_group_next(proa_group *group, proa_group_action *action);

/* When to tick next; INT64_MAX: not before another event. */
int64_t proa_group_deadline(const proa_group *group);

proa_group_state proa_group_state_of(const proa_group *group);
/* The last one installed. */
proa_group_epoch proa_group_epoch_of(const proa_group *group);
/* Its members; empty when the rank is outside. */
const proa_group_mask *proa_group_view_of(const proa_group *group);
/* Why the view was broken or left last: a literal and the rank it was about (-1: none), for the log. */
const char *proa_group_why(const proa_group *group, int32_t *rank);

#endif
