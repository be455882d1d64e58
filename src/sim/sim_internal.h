/* sim_internal.h - the simulated world: world.c (time, chance, links), front.c, prefill.c, decode.c, cluster_sim.c (a life). */
#ifndef PROA_SIM_SIM_INTERNAL_H
#define PROA_SIM_SIM_INTERNAL_H

#include "cluster/call_plan.h"
#include "cluster/room.h"
#include "cluster/router.h"
#include "sim/cluster_sim.h"
#include "sim/queue.h"

enum {
    SIM_FRONTS = 2,
    SIM_WORKERS_MAX = 6,
    SIM_NODES_MAX = SIM_FRONTS + SIM_WORKERS_MAX,
    SIM_CALLS = 12, /* a front */
    SIM_PROMPT_MAX = 260,
    SIM_OUTPUT_MAX = 24,
    SIM_BLOCK = PROA_KV_BLOCK_TOKENS,
    SIM_BLOCKS_MAX = (SIM_PROMPT_MAX + SIM_OUTPUT_MAX) / SIM_BLOCK + 1, /* of a request */
    SIM_POOL_MAX = 24,                                                  /* of a worker */
    SIM_VOCAB = 50000,
    SIM_GRAVES = 4096,
};

typedef enum sim_kind {
    SIM_SUBMIT,
    SIM_CANCEL,
    SIM_GRANT,
    SIM_TOKEN,
    SIM_FINISH,
    SIM_HELLO, /* of the decode side */
    SIM_WELCOME,
    SIM_OPEN,
    SIM_ABORT,
    SIM_DONE,
    SIM_FAIL,
    SIM_QUIET,
    /* not messages */
    SIM_TICK,   /* a worker's engine and deadlines, a front's deadlines */
    SIM_DOWN,   /* an end of a link learns that it is gone */
    SIM_DIAL,   /* a node dials another again */
    SIM_COPY,   /* a block of a write arrives */
    SIM_CALL,   /* a client asks */
    SIM_CLIENT, /* a client reads, or leaves */
    SIM_TROUBLE,
    SIM_RESUME,
    SIM_RESTART,
} sim_kind;

typedef struct sim_event {
    sim_kind kind;
    int32_t to;
    int32_t from;
    int32_t link;   /* of messages and DOWN */
    uint64_t epoch; /* of `to` when it was meant for its process alone; 0: any */
    uint64_t id;    /* SUBMIT, CANCEL, ...: the call's; rooms: the room */
    int32_t
        number; /* GRANT: tokens; TOKEN: token; COPY: block's place; OPEN: rows; DOWN: 1 certain; CALL, CLIENT: call */
    proa_status status;
    uint64_t blame;
    /* SUBMIT */
    int32_t leg;
    int32_t peer; /* node */
    uint64_t peer_epoch;
    uint64_t room;
    int32_t prompt; /* number of the prompt */
    int32_t prompt_count;
    int32_t max_new;
    int32_t credit;
    int32_t output_count;
    int32_t output[SIM_OUTPUT_MAX];
    /* OPEN, DONE */
    int32_t blocks[SIM_BLOCKS_MAX];
    uint32_t generations[SIM_BLOCKS_MAX];
    uint64_t digests[SIM_BLOCKS_MAX];
} sim_event;

/* A connection; its ends learn of its end apart from each other. */
typedef struct sim_link {
    int32_t a, b; /* a dialled */
    bool up[2];
    bool cut; /* nothing passes any more */
} sim_link;

/* A request at a worker. */
typedef struct sim_job {
    struct sim_job *next;
    uint64_t id;
    int32_t front; /* node; -1: nobody listens */
    int32_t link;
    uint64_t room;
    bool has_room;
    proa_prefill_room prefill;
    proa_decode_room decode;
    int32_t peer; /* node */
    uint64_t peer_epoch;
    int32_t peer_link; /* -1: none */
    int32_t prompt;
    int32_t prompt_count;
    int32_t max_new;
    int32_t credit;
    int32_t output_count;
    int32_t output[SIM_OUTPUT_MAX + 1];
    /* the engine's part */
    bool asked;    /* the engine knows it */
    bool admitted; /* has blocks */
    bool ended;    /* computes nothing any more; blocks may be lent */
    bool adopted;
    bool told;
    int32_t computed;
    int32_t block_count;
    int32_t blocks[SIM_BLOCKS_MAX];
    uint32_t generations[SIM_BLOCKS_MAX];
    int32_t peer_blocks[SIM_BLOCKS_MAX];
    uint32_t peer_generations[SIM_BLOCKS_MAX];
    int32_t write_left; /* blocks of the write in flight */
    int32_t write_rows; /* rows until which it goes */
    bool write_dead;    /* given up: what still arrives is late */
    int32_t first;
} sim_job;

typedef struct sim_worker {
    int32_t pool;
    bool used[SIM_POOL_MAX];
    uint32_t generation[SIM_POOL_MAX];
    uint64_t rows[SIM_POOL_MAX][SIM_BLOCK];
    bool ticking;  /* a tick is on its way: only while there are jobs */
    sim_job *jobs; /* oldest first */
    proa_graves *graves;
    int32_t session[SIM_NODES_MAX]; /* link to the other side; -1: none */
    bool greeted[SIM_NODES_MAX];
} sim_worker;

typedef struct sim_call {
    proa_call_plan *plan;
    uint64_t ids[PROA_CALL_LEGS]; /* of the running attempt */
    int32_t nodes[PROA_CALL_LEGS];
    int32_t workers[PROA_CALL_LEGS]; /* the router's; -1: none */
    int32_t tokens;                  /* placed with the router */
    int32_t links[PROA_CALL_LEGS];
    int32_t prompt_ids[SIM_PROMPT_MAX];
    int32_t prompt_count;
    int32_t max_new;
    int32_t taken;    /* tokens delivered */
    int32_t unread;   /* delivered and not granted again */
    uint64_t fold;    /* of the oracle */
    uint64_t row;     /* of the oracle */
    int32_t expected; /* next token */
    bool finished;
    bool left; /* the client has cancelled */
} sim_call;

typedef struct sim_front {
    proa_router *router;
    int32_t worker[SIM_NODES_MAX]; /* router's number; -1 */
    int32_t link[SIM_NODES_MAX];   /* -1: none */
    sim_call calls[SIM_CALLS];
} sim_front;

typedef struct sim_node {
    bool front, prefill;
    bool alive;
    bool stalled;
    int64_t stalled_until_us;
    uint64_t epoch;
    union {
        sim_front f;
        sim_worker w;
    };
} sim_node;

typedef struct sim_world {
    uint64_t seed;
    uint64_t draws;
    bool trouble; /* things may go wrong now */
    bool rough;   /* messages of rooms are lost, repeated, reordered */
    bool slow;    /* writes take long */
    int64_t trouble_until_us;
    int64_t calls_until_us;
    int64_t now_us;
    sim_queue queue; /* of sim_event */
    sim_link *links;
    int32_t link_count, link_room;
    int32_t node_count;
    sim_node *nodes; /* fronts, then prefill, then decode workers */
    int32_t prefills;
    int32_t unfinished;
    proa_room_limits limits;
    proa_cluster_sim_result *result;
} sim_world;

/* world.c */
uint32_t proa_sim_random(sim_world *w, uint32_t below); /* 0 .. below - 1 */
bool proa_sim_chance(sim_world *w, uint32_t permille);
void proa_sim_find(sim_world *w, const char *format, ...) __attribute__((format(printf, 2, 3)));
void proa_sim_post(sim_world *w, const sim_event *event, int64_t delay_us);
bool proa_sim_take(sim_world *w, sim_event *event);
/* A message over a link, if this end still has it. */
void proa_sim_send(sim_world *w, int32_t link, int32_t from, const sim_event *message);
int32_t proa_sim_dial(sim_world *w, int32_t a, int32_t b); /* -1: it cannot be reached */
void proa_sim_cut(sim_world *w, int32_t link, bool certain, int32_t except);
uint64_t proa_sim_mix(uint64_t a, uint64_t b);
int32_t proa_sim_prompt_token(int32_t prompt, int32_t i);
uint64_t proa_sim_next_row(uint64_t row, int32_t token);
uint64_t proa_sim_fold(uint64_t fold, uint64_t row);
int32_t proa_sim_token_of(uint64_t fold, int32_t position);

/* front.c */
void proa_sim_front_start(sim_world *w, int32_t node);
void proa_sim_front_stop(sim_world *w, int32_t node);
void proa_sim_front_event(sim_world *w, const sim_event *event);

/* worker.c: what both kinds share */
void proa_sim_worker_start(sim_world *w, int32_t node);
void proa_sim_worker_stop(sim_world *w, int32_t node);
void proa_sim_worker_tick(sim_world *w, int32_t node, int64_t delay_us); /* the next one, if there are jobs */
sim_job *proa_sim_job_new(sim_world *w, int32_t node, const sim_event *submit);
sim_job *proa_sim_job_of_room(const sim_worker *worker, uint64_t room);
sim_job *proa_sim_job_of_id(const sim_worker *worker, uint64_t id, int32_t link);
void proa_sim_job_settle(sim_world *w, int32_t node, sim_job *job); /* frees it when nothing is left of it */
void proa_sim_job_tell(sim_world *w, int32_t node, sim_job *job, proa_status status, uint64_t blame);
bool proa_sim_take_blocks(sim_worker *worker, sim_job *job, int32_t count);
void proa_sim_free_blocks(sim_worker *worker, sim_job *job);
int32_t proa_sim_job_token(const sim_job *job, int32_t position);
uint64_t *proa_sim_row(sim_worker *worker, const int32_t *blocks, int32_t position);
uint64_t proa_sim_digest(const sim_worker *worker, int32_t block, int32_t rows, uint64_t room);
void proa_sim_bury(sim_worker *worker, sim_job *job);

void proa_sim_prefill_event(sim_world *w, const sim_event *event);
void proa_sim_prefill_down(sim_world *w, int32_t node, int32_t link);
void proa_sim_decode_event(sim_world *w, const sim_event *event);

#endif
