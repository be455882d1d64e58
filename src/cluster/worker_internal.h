/* worker_internal.h - the worker's state: worker.c (life), worker_events.c (from the engine), worker_front.c (request links),
 * worker_session.c (room links), worker_call.c (requests and their rooms), worker_nats.c, worker_files.c.
 *
 * All of it belongs to the loop's thread, but for what stands under `lock`.
 */
#ifndef PROA_CLUSTER_WORKER_INTERNAL_H
#define PROA_CLUSTER_WORKER_INTERNAL_H

#include "base/table.h"
#include "cluster/instance.h"
#include "cluster/nats_message.h"
#include "cluster/nats_plane.h"
#include "cluster/worker.h"

#include <pthread.h>
#include <stdio.h>

typedef struct worker_front worker_front;
typedef struct worker_session worker_session;
typedef struct worker_call worker_call;

/* A frontend's link. */
struct worker_front {
    proa_worker *worker;
    worker_front *next;
    proa_link *link;
    proa_table calls; /* by the frontend's id */
    proa_nats_inbox inbox;
    bool wants_files;
    uint32_t file_index;
    uint64_t file_offset;
    FILE *file;
};

/* A room link. Inbound at a prefill worker, one a decode worker; outbound at a decode worker, one a bootstrap address. */
struct worker_session {
    proa_worker *worker;
    worker_session *next;
    proa_link *link; /* NULL: being lost, or not dialled yet */
    bool inbound;
    bool greeted;
    bool broken;        /* to be ended at the next tick */
    char address[128];  /* outbound */
    int64_t dial_at_us; /* outbound without a link: when to dial again */
    int64_t backoff_us;
    proa_kv_peer *peer; /* inbound: where rows are written */
    int32_t peer_blocks;
    proa_kv_inbox *inbox; /* outbound: where they arrive */
};

/* A request, or a room that was opened before its request came. */
struct worker_call {
    proa_worker *worker;
    worker_call *next;
    worker_call *previous;
    worker_front *front; /* NULL: nobody listens */
    uint64_t id;         /* the frontend's */
    proa_wire_leg leg;
    uint64_t engine_id;
    bool submitted; /* the engine knows it */
    bool finished;  /* and has said its last */
    bool told;      /* the frontend has heard FINISH */
    bool has_room;  /* the machine below is not over */
    uint64_t room;
    proa_prefill_room prefill;
    proa_decode_room decode;
    worker_session *session; /* NULL: not known yet, or lost */
    uint64_t peer_instance;
    uint64_t peer_epoch;
    int32_t rows;
    int32_t block_count;      /* for `rows` */
    int32_t *blocks;          /* [block_count] of this worker */
    uint32_t *generations;    /* [block_count] decode: as reserved; prefill: as opened */
    int32_t *peer_blocks;     /* [block_count] prefill: of the decode worker */
    proa_sample_result first; /* prefill */
    int32_t cached_tokens;
    char why[200];  /* prefill: the engine's last words */
    uint64_t bytes; /* written */
    int64_t write_us;
};

struct proa_worker {
    proa_worker_options options;
    proa_link_identity self;
    char host[128];
    char advertise[128];
    proa_instance instance;
    char key[PROA_DISCOVERY_KEY_BYTES_MAX];
    proa_wire_card card;
    char dir[4096];
    proa_kv_layout layout;

    proa_loop *loop;
    pthread_t thread;
    bool thread_runs;
    proa_listener *requests;
    proa_listener *bootstrap;
    void (*record)(void *context, proa_wire_record action); /* may be NULL */
    void *record_context;
    proa_engine *engine;
    proa_kv_transfer *transfer;
    proa_timer *transfer_timer; /* NULL without a transfer */
    proa_nats *nats;            /* NULL: requests come over links alone */
    proa_nats_complaints nats_complaints;

    pthread_mutex_t lock;
    pthread_cond_t changed;
    proa_buf posted; /* records of worker_events.c */
    bool drain_asked;
    bool stop_asked;
    int32_t calls_left; /* while draining */

    proa_buf taken;
    proa_buf scratch;  /* of one message */
    proa_arena *arena; /* of one message */
    worker_front *fronts;
    worker_session *sessions;
    worker_call *calls;
    int32_t call_count;
    proa_table rooms; /* by room id */
    proa_graves *graves;
    proa_table cached; /* digests of the prefix cache's blocks */
    proa_buf events;   /* kv events not sent yet: u8 stored, u64 hash */
    bool starved;      /* requests wait in the engine for memory */
    proa_wire_load load;
    proa_wire_load sent;
    int64_t sent_us;
};

enum { WORKER_ARENA_BYTES = 64 << 20, WORKER_GRAVES = 1 << 16 };

/* ---- worker.c ---- */
/* A room is open: rows may travel, in which this side takes part often. */
void proa_worker_hurry_transfer(proa_worker *worker);

/* ---- worker_events.c: from other threads to the loop's ---- */
proa_engine_sink proa_worker_sink(worker_call *call);
void proa_worker_take_events(proa_worker *worker);

/* ---- worker_front.c ---- */
const proa_link_hooks *proa_worker_front_hooks(proa_worker *worker, proa_link_hooks *hooks);
void proa_worker_front_submit(proa_worker *worker, worker_front *front, const void *body, size_t length);
void proa_worker_front_finish(worker_front *front, uint64_t id, const proa_engine_finish *finish,
                              uint64_t blame);
/* Sends what is in worker->scratch. */
void proa_worker_front_send(worker_front *front, uint16_t type);
void proa_worker_send_card(proa_worker *worker, worker_front *front); /* NULL: to all */
void proa_worker_send_loads(proa_worker *worker);
void proa_worker_send_kv_events(proa_worker *worker);
worker_front *proa_worker_find_front(proa_worker *worker, uint64_t instance);
void proa_worker_close_fronts(proa_worker *worker);
/* Sends what fits of the files that are asked for. */
void proa_worker_send_files(proa_worker *worker);

/* ---- worker_nats.c ---- */
proa_status proa_worker_start_nats(proa_worker *worker, proa_error *err);
void proa_worker_take_nats(proa_worker *worker);
void proa_worker_front_relay(worker_front *front, const void *body, size_t length);

/* ---- worker_session.c ---- */
const proa_link_hooks *proa_worker_session_hooks(proa_worker *worker, proa_link_hooks *hooks);
/* The session to a bootstrap address, dialled when it is new. NULL when memory is out. */
worker_session *proa_worker_session_of(proa_worker *worker, const char *address);
void proa_worker_tick_sessions(proa_worker *worker, int64_t now_us);
void proa_worker_close_sessions(proa_worker *worker);
/* Sends what is in worker->scratch; nothing without a session or link. */
void proa_worker_session_send(worker_session *session, uint16_t type);

/* ---- worker_call.c ---- */
worker_call *proa_worker_call_new(proa_worker *worker, worker_front *front, uint64_t id);
/* Frees it when nobody needs it any more. */
void proa_worker_call_settle(worker_call *call);
/* FINISH, once. */
void proa_worker_call_tell(worker_call *call, const proa_engine_finish *finish, uint64_t blame);
void proa_worker_call_fail(worker_call *call, proa_status status, const char *why, uint64_t blame);
void proa_worker_call_cancel(worker_call *call);
/* Arrays for rows; false when memory is out. */
bool proa_worker_call_rows(worker_call *call, int32_t rows);
/* The call is the room's from now on; false when memory is out. */
bool proa_worker_call_open_room(worker_call *call, uint64_t room);
/* The room is over without more ado: its id is buried. */
void proa_worker_call_drop_room(worker_call *call);
/* Carries out what a machine says, and settles. */
void proa_worker_prefill_act(worker_call *call, const proa_prefill_actions *actions);
void proa_worker_decode_act(worker_call *call, const proa_decode_actions *actions);
void proa_worker_call_tick(worker_call *call, int64_t now_us);

#endif
