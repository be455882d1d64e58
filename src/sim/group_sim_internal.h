/* group_sim_internal.h - the simulated worker: group_sim.c (a life, its trouble and its end), group_sim_net.c (time, chance, links),
 * group_sim_rank.c (a rank's shell and engine, and what must hold of its steps), group_sim_experts.c (where its experts are).
 */
#ifndef PROA_SIM_GROUP_SIM_INTERNAL_H
#define PROA_SIM_GROUP_SIM_INTERNAL_H

#include "engine/group.h"
#include "engine/rebalance.h"
#include "sim/group_sim.h"
#include "sim/queue.h"

enum {
    GSIM_RANKS_MAX = 64,
    GSIM_DELAY_US = 300,       /* of a message, at most */
    GSIM_SILENCE_US = 2500000, /* after which an end gives its link up */
    GSIM_WATCH_US = 100000,
};

typedef enum gsim_kind {
    GSIM_DELIVER,  /* the head of the queue from `peer` to `rank` */
    GSIM_GHOST,    /* a message of an earlier life */
    GSIM_TICK,     /* the machine's deadline */
    GSIM_WANT,     /* the shell says what it wants */
    GSIM_COMPUTED, /* the engine's step ends */
    GSIM_LEFT,     /* the engine leaves an abandoned step */
    GSIM_LOADED,   /* version `number` of the epoch's placement */
    GSIM_EXPERTS_TICK,
    GSIM_WORK,
    GSIM_RESUME,
    /* the world's */
    GSIM_START,
    GSIM_WATCH,
    GSIM_TROUBLE,
    GSIM_HEAL, /* partition `number` */
    GSIM_KILL, /* any rank */
} gsim_kind;

typedef struct gsim_event {
    gsim_kind kind;
    int32_t rank, peer;
    uint64_t life; /* of the process it is for; 0: any */
    uint64_t number;
    proa_group_epoch epoch;
    struct gsim_packet *packet; /* GHOST; owned */
} gsim_event;

typedef enum gsim_packet_kind {
    GSIM_HELLO, /* the link comes up at the receiver */
    GSIM_MESSAGE,
    GSIM_EXPERTS, /* of rebalance.h */
    GSIM_BYE,     /* it goes down there */
} gsim_packet_kind;

typedef struct gsim_packet {
    struct gsim_packet *next;
    gsim_packet_kind kind;
    int64_t due_us;
    uint64_t link;
    uint64_t life; /* HELLO: of the sender */
    proa_group_message message;
    size_t bytes;     /* EXPERTS */
    uint64_t lives[]; /* VIEW; EXPERTS: the encoded message */
} gsim_packet;

/* One direction, and what its receiver knows of the sender. */
typedef struct gsim_way {
    gsim_packet *head, **tail;
    int64_t last_due_us; /* in order */
    uint64_t link;       /* at the receiver: 0 when it is down */
    uint64_t life;       /* of the sender, by HELLO */
    uint64_t dead;       /* a link that has broken: the sender may not know */
    int64_t heard_us;
    bool told_silent;
    int32_t blocked; /* partitions that stop it */
} gsim_way;

typedef struct gsim_rank {
    bool alive, stalled;
    int64_t stalled_until_us;
    uint64_t life;
    proa_group *group;
    proa_rebalance *experts;
    int64_t experts_tick_us;
    proa_group_epoch placed; /* whose placements `experts` is about */
    int64_t tick_us;         /* of the next GSIM_TICK that was posted */
    /* shell */
    proa_group_epoch epoch; /* installed */
    proa_group_mask view;
    uint32_t ready;    /* placement */
    uint32_t in_force; /* of the last step */
    int32_t work;      /* steps that its requests still need */
    int32_t windows;   /* of the next */
    bool extend;
    /* engine */
    bool running, abandoned, computing, hung, stuck;
    bool takes;      /* the step does some of its work */
    bool owes;       /* its last proposal is used up */
    bool waits_long; /* missed was said */
    proa_group_shape shape;
    int64_t begun_us;
    uint64_t done; /* in this epoch */
    bool promised; /* the proposal of the step that runs must be in the next shape */
    proa_group_want promise;
} gsim_rank;

/* An epoch that somebody has installed, and its steps. Kept for the whole life. */
typedef struct gsim_view {
    proa_group_epoch epoch;
    proa_group_mask mask;
    uint64_t lives[GSIM_RANKS_MAX]; /* of those that installed it */
    /* the last two steps that anyone began */
    uint64_t step;
    proa_group_shape shape[2];
    proa_group_mask begun[2];
    uint64_t experts[2]; /* digest of their placements */
} gsim_view;

typedef struct gsim_world {
    uint64_t seed, draws;
    proa_group_sim_trouble trouble;
    bool troubled;                        /* now */
    int32_t iterations, layers_per_chunk; /* of rebalance.h */
    bool lossy;                           /* messages about experts are lost now and then */
    bool watchdog;                        /* a silent peer is told as such, its link stays */
    int64_t missed_us;                    /* deadline of the all-to-all */
    int64_t trouble_until_us, heal_us, work_until_us, end_us;
    int64_t now_us;
    uint64_t links;
    sim_queue queue; /* of gsim_event */
    int32_t ranks;
    gsim_rank rank[GSIM_RANKS_MAX];
    gsim_way way[GSIM_RANKS_MAX][GSIM_RANKS_MAX]; /* from, to */
    gsim_view *views;
    int32_t view_count, view_room;
    proa_group_mask *cuts; /* of partitions: ways from cuts[2i] to cuts[2i + 1] */
    int32_t cut_count;
    int64_t first_down_us, last_install_us; /* CRASH */
    int64_t abandoned_before;               /* CRASH: when the rank started again */
    proa_group_limits limits;
    FILE *log;
    proa_group_sim_result *result;
} gsim_world;

/* group_sim_net.c */
uint32_t proa_gsim_random(gsim_world *w, uint32_t below);
bool proa_gsim_chance(gsim_world *w, uint32_t permille);
void proa_gsim_find(gsim_world *w, const char *format, ...) __attribute__((format(printf, 2, 3)));
void proa_gsim_log(gsim_world *w, const char *format, ...) __attribute__((format(printf, 2, 3)));
void proa_gsim_post(gsim_world *w, const gsim_event *event, int64_t delay_us);
bool proa_gsim_take(gsim_world *w, gsim_event *event);
void proa_gsim_send(gsim_world *w, int32_t from, int32_t to, const proa_group_message *message);
void proa_gsim_send_experts(gsim_world *w, int32_t from, int32_t to, const void *bytes, size_t length);
void proa_gsim_deliver(gsim_world *w, int32_t from, int32_t to);
void proa_gsim_break(gsim_world *w, int32_t a, int32_t b, bool quiet); /* quiet: the ends hear by silence */
void proa_gsim_crash_links(gsim_world *w, int32_t rank);
void proa_gsim_watch(gsim_world *w); /* silence, dialling */
void proa_gsim_resumed(gsim_world *w, int32_t rank);
void proa_gsim_drop(gsim_world *w, int32_t from, int32_t to);

/* group_sim_rank.c */
void proa_gsim_rank_start(gsim_world *w, int32_t rank);
void proa_gsim_rank_stop(gsim_world *w, int32_t rank);
void proa_gsim_rank_event(gsim_world *w, const gsim_event *event);
void proa_gsim_propose(gsim_world *w, int32_t rank);
void proa_gsim_acted(gsim_world *w, int32_t rank); /* carries the machine's actions out */
void proa_gsim_rows(gsim_world *w, int32_t rank);  /* have all rows of its step arrived? */
void proa_gsim_crash(gsim_world *w, int32_t rank);

/* group_sim_experts.c */
void proa_gsim_experts_plan(gsim_world *w); /* of a life */
void proa_gsim_experts_start(gsim_world *w, int32_t rank);
void proa_gsim_experts_install(gsim_world *w, int32_t rank);
void proa_gsim_experts_begin(gsim_world *w, int32_t rank, gsim_view *v, const proa_group_shape *s);
void proa_gsim_experts_ended(gsim_world *w, int32_t rank, const proa_group_shape *s, bool rows);
void proa_gsim_experts_acted(gsim_world *w, int32_t rank);
void proa_gsim_experts_tick(gsim_world *w, int32_t rank);
void proa_gsim_experts_receive(gsim_world *w, int32_t rank, const void *bytes, size_t length);
void proa_gsim_experts_loaded(gsim_world *w, int32_t rank, uint64_t number);
void proa_gsim_experts_check_end(gsim_world *w);

#endif
