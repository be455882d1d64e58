/* ep_group_internal.h - what the files of the group's shell share: ep_group.c (events, steps, views), ep_group_placement.c (where experts
 * are), ep_group_rebalance.c (when they move), ep_group_team.c (ranks that share the heads), ep_group_watch.c (whether the engine thread hangs).
 */
#ifndef PROA_ENGINE_EP_GROUP_INTERNAL_H
#define PROA_ENGINE_EP_GROUP_INTERNAL_H

#include "engine/ep_group.h"
#include "engine/ep_team.h"
#include "engine/ep_watch.h"
#include "engine/expert_map.h"
#include "engine/expert_reader.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/types.h>

/* What is known of another rank. */
typedef struct ep_peer {
    uint64_t life;
    uint64_t connected; /* life that the all-to-all is connected to; 0: none */
    uint8_t *address;   /* [PROA_POST_ADDRESS_BYTES_MAX] */
    size_t address_bytes;
} ep_peer;

struct proa_ep_group {
    proa_ep_group_options options;
    proa_model_config config;
    proa_a2a *a2a;
    proa_ep_team *team; /* NULL: all heads of attention are here */
    proa_forward *forward;
    proa_expert_shape most;            /* of any view */
    int32_t windows_max;               /* that a step here may need */
    _Atomic(int64_t) outside_since_us; /* 0: in a view, or making one. Relaxed: nothing else is told by it */
    atomic_bool team_is_broken;        /* relaxed, likewise */
    int64_t team_broken_us;            /* since when; the engine thread's */
    /* under lock */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    proa_group *group;
    ep_peer *peers; /* [ranks] */
    bool stopped;
    int32_t wanted; /* windows of what the engine has to compute; 0: nothing. What is proposed */
    bool speaks;    /* a proposal is due */
    bool installed; /* the view is; proposals may be made */
    bool unproven;  /* no step was made in it yet: one is, whether anybody has work or not */
    bool to_install;
    proa_group_mask view;
    proa_group_epoch epoch;
    bool begun; /* a step waits for the engine thread */
    bool running;
    bool installing;
    uint64_t connections; /* looked at while installing: progress of the engine thread */
    pid_t engine_thread;  /* 0: it has not come yet */
    proa_ep_watch watch;
    bool ended_here; /* the answer to an ABANDON that found the step not begun */
    proa_group_shape shape;
    int64_t trouble_us; /* first sign of a loss that is not over; 0: none */
    proa_ep_group_stats stats;
    uint32_t ready;            /* placement version that is proposed */
    proa_rebalance *rebalance; /* NULL: experts stay where the view puts them */
    uint64_t *record;          /* [layers * experts]; NULL: none may be asked for */
    bool recording;
    uint64_t reading; /* job of the reader, for this version: */
    uint32_t reading_version;
    proa_expert_reader *reader;
    /* engine thread */
    uint32_t *counts; /* [layers * experts] what the rows of the step have chosen; NULL: not counted */
    proa_expert_map *map;
    proa_expert_shape map_shape;
    bool *live;       /* [ranks] */
    int32_t *scratch; /* [layers * physical] placement */
    double *load;     /* [layers * experts] that views are planned by */
    bool load_given;  /* by the flags */
    int32_t *given;   /* [layers * slots] the placement of the flags, on all ranks; NULL: none */
    int32_t *local;   /* [capacity] */
    int32_t capacity; /* physical experts that a rank may hold */
};

/* ---- ep_group_watch.c: under lock ---- */

/* What the engine thread does, or for whom it waits. */
void proa_ep_group_describe(const proa_ep_group *r, char *text, size_t bytes);
/* The process must end: the hook is told why, and what the engine thread does. */
void proa_ep_group_stuck(proa_ep_group *r, const char *why);
/* How long this rank has been outside; 0: it is not. Any thread, no lock. */
int64_t proa_ep_group_outside_us(const proa_ep_group *r);
void proa_ep_group_note_outside(proa_ep_group *r, int64_t now_us);
/* Looks whether the engine thread hangs. */
void proa_ep_group_watch(proa_ep_group *r, int64_t now_us);

/* ---- ep_group_placement.c: the engine thread's ---- */

/* Slots of a rank: as many as the flags say, more when the live ranks must hold all experts. */
int32_t proa_ep_group_slots(const proa_ep_group *r, int32_t live);
/* Of a new view, whose ranks are r->live. */
proa_status proa_ep_group_make_placement(proa_ep_group *r, int32_t live, proa_error *err);
/* What the flags say of it; once. */
proa_status proa_ep_group_take_location(proa_ep_group *r, const proa_expert_location *location,
                                        proa_error *err);
/* Gives the forward the experts of this rank. */
void proa_ep_group_take_experts(proa_ep_group *r);
void proa_ep_group_take_layer(proa_ep_group *r, int32_t layer);
/* A proa_forward_place. */
void proa_ep_group_place(void *context, int32_t layer, int32_t first_row, int32_t rows, const int32_t *ids,
                         int32_t *physical);

/* ---- ep_group.c ---- */

/* All actions that the last event has led to, and what follows from them. Under lock. */
void proa_ep_group_pump(proa_ep_group *r);

/* ---- ep_group_team.c: the engine thread's ---- */

proa_status proa_ep_group_team_create(proa_ep_group *r, proa_precision precision, proa_error *err);
/* Of the processes of this rank's team that are in the view (r->live); [PROA_TEAM_MAX]. Under lock. */
void proa_ep_group_team_lives(const proa_ep_group *r, uint64_t *lives);
void proa_ep_group_team_begin(proa_ep_group *r, uint64_t epoch, const uint64_t *lives);
/* A rank that shares this one's heads is not in the view that is installed. */
bool proa_ep_group_team_is_broken(const proa_ep_group *r);
/* How long steps wait yet before they fail for that. */
int64_t proa_ep_group_team_patience_us(const proa_ep_group *r);
/* As proa_forward_step, with those that share the heads, if there are any. *computed: the rows were, not only blocks brought. */
proa_status proa_ep_group_team_step(proa_ep_group *r, const proa_step *step, float **logits, bool *computed,
                                    proa_error *err);

/* ---- ep_group_rebalance.c: under lock, but for the last three ---- */

bool proa_ep_group_rebalance_pump(proa_ep_group *r); /* true: there was something */
void proa_ep_group_rebalance_install(proa_ep_group *r);
/* A step with this version begins: moves experts, on the engine thread. */
void proa_ep_group_rebalance_begin(proa_ep_group *r, uint32_t version);
void proa_ep_group_rebalance_ended(proa_ep_group *r, uint64_t step, bool rows); /* well */
void proa_ep_group_rebalance_tick(proa_ep_group *r, int64_t now_us);
proa_status proa_ep_group_rebalance_create(proa_ep_group *r, proa_error *err);
void proa_ep_group_rebalance_attach(proa_ep_group *r);
void proa_ep_group_rebalance_free(proa_ep_group *r);

#endif
