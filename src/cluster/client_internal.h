/* client_internal.h - the client's state: client.c (life, and what other threads call), client_worker.c (discovery's news and the
 * links), client_call.c (requests), client_nats.c (those that go by NATS), client_files.c (the model's files), client_report.c
 * (statistics, /health, metrics).
 *
 * All of it belongs to the loop's thread, but for what stands under `lock`. Nothing tears a worker down in the middle of
 * something else: a link that must end is marked `broken`, and proa_client_settle, the last thing that each hook does, ends it.
 */
#ifndef PROA_CLUSTER_CLIENT_INTERNAL_H
#define PROA_CLUSTER_CLIENT_INTERNAL_H

#include "cluster/call_plan.h"
#include "cluster/instance.h"
#include "cluster/nats_message.h"
#include "cluster/nats_plane.h"
#include "cluster/router.h"

#include <pthread.h>
#include <stdio.h>

enum {
    CLIENT_CALLS_MAX = 1 << 16,
    CLIENT_WORKERS_MAX = PROA_ROUTER_WORKERS_MAX,
    CLIENT_ARENA_BYTES = 64 << 20,
    CLIENT_RECORDS_MAX = 16,
    CLIENT_TICK_US = 50000,
    CLIENT_DIAL_US_MIN = 100000, /* pauses between attempts to connect: doubling */
    CLIENT_DIAL_US_MAX = 2000000,
    CLIENT_CARD_US = 5000000,   /* for the card after the handshake */
    CLIENT_FILES_US = 10000000, /* for the next piece of a file */
    CLIENT_FORGET_US =
        60000000, /* how long a worker that discovery does not list is dialled after it was last connected */
};

typedef struct client_worker client_worker;
typedef struct client_call client_call;

/* How a worker stands.
 *
 *     DOWN ──dial──> DIALLING ──up──> GREETED ──CARD──> READY
 *      ^ ^              │                │                │
 *      │ └── after a pause that doubles ─┴────── down ────┘
 *      │
 *      └──> forgotten: not listed, and not connected for CLIENT_FORGET_US, or another process has its place
 *
 *     REFUSED: it serves another model than this frontend speaks; its link is closed and not dialled again
 */
typedef enum client_worker_state {
    CLIENT_WORKER_DOWN,
    CLIENT_WORKER_DIALLING,
    CLIENT_WORKER_GREETED,
    CLIENT_WORKER_READY,
    CLIENT_WORKER_REFUSED,
    CLIENT_WORKER_STATES,
} client_worker_state;

/* One process of a worker, by instance and epoch. */
struct client_worker {
    proa_client *client;
    int32_t number; /* the router's, and where it stands in `workers` */
    client_worker_state state;
    proa_instance instance;
    bool listed;              /* by discovery */
    bool superseded;          /* discovery lists another process of this instance */
    bool complained;          /* about what is wrong with its address or model: once */
    proa_link *link;          /* NULL: DOWN, REFUSED */
    proa_nats_outbox *outbox; /* of this link; NULL: it takes no requests by NATS */
    bool broken;              /* the link must end, for this reason */
    proa_error why;
    int64_t since_us;     /* of the state */
    int64_t connected_us; /* when it was READY last; 0: never */
    int64_t dial_at_us;
    int64_t pause_us;
    proa_wire_card card; /* READY */
    proa_wire_load load; /* the latest */
    uint64_t requests;   /* sent there, hand-offs and replays included */
};

/* Where a leg of a call's current attempt is. */
typedef struct client_leg {
    uint64_t id;    /* on the link; 0: over */
    int32_t worker; /* the router's number, as long as that worker's epoch is this: */
    uint64_t epoch;
    int32_t tokens; /* placed with the router */
} client_leg;

struct client_call {
    proa_client *client;
    uint64_t id; /* the caller's */
    proa_engine_sink sink;
    proa_call_plan *plan; /* the loop's, once it is in `begun` */
    client_leg legs[PROA_CALL_LEGS];
    client_call *next, *previous; /* in the list of begun ones */
    client_call *taken_next;      /* among those rung, while the loop looks at them */
    int32_t taken_grant;
    bool taken_cancel;
    bool begun;
    bool looked_at; /* the loop is at it: it must not be freed */
    bool over;      /* finished */
    /* under lock */
    client_call *rung_next;
    bool rung; /* stands in the list of calls to be looked at */
    bool cancelled;
    int32_t granted;
};

/* Under lock: what discovery's thread has said of an instance. */
typedef struct client_news {
    bool used;
    bool listed;
    bool changed;
    proa_instance instance;
    char key[PROA_DISCOVERY_KEY_BYTES_MAX];
} client_news;

/* Under lock: a worker for /health and metrics. */
typedef struct client_shown {
    bool used;
    client_worker_state state;
    proa_wire_leg leg;
    bool draining; /* by card or load */
    proa_instance instance;
    proa_wire_load load;
    uint64_t requests;
    uint64_t worker_id; /* of the card, as the next ones */
    int32_t dp_rank;
    int32_t dp_size;
} client_shown;

/* Counters of this client; the loop's, published under lock. */
typedef struct client_counts {
    uint64_t requests;   /* accepted */
    uint64_t migrations; /* replays begun */
    uint64_t failures;   /* requests that ended with an error that was not their own */
    uint64_t links_lost; /* of workers that were ready */
    uint64_t by_nats;    /* SUBMITs that nats-server was given */
    uint64_t relayed;    /* of those, sent again over the link */
} client_counts;

/* The model's files on their way. */
typedef struct client_files {
    char *dir;       /* cache_dir, or a folder that is ours */
    bool temporary;  /* ours */
    char path[4400]; /* dir/<digest> */
    int32_t worker;  /* that sends them; -1: none */
    int32_t tried;   /* the one asked last */
    uint32_t index;
    uint64_t offset;
    FILE *file;
    int64_t deadline_us; /* of the next piece; without a worker: when to ask again */
} client_files;

struct proa_client {
    proa_client_options options; /* its strings are the client's own copies */
    proa_loop *loop;
    pthread_t thread;
    bool thread_runs;

    pthread_mutex_t lock;
    /* under lock */
    struct client_slot {
        client_call *call;
        uint32_t generation;
    } * slots; /* [CLIENT_CALLS_MAX] */
    uint32_t *free_slots;
    int32_t free_count;
    client_call *rung;  /* calls that the loop shall look at, the latest first */
    int32_t pending;    /* accepted, not begun by the loop yet */
    int32_t room;       /* requests that can still be taken */
    proa_error no_room; /* why there is none */
    bool stopping;
    bool flush_asked;
    proa_wire_record record_asked[CLIENT_RECORDS_MAX]; /* in order */
    int record_count;
    bool news_came;
    client_news news[CLIENT_WORKERS_MAX];
    client_shown shown[CLIENT_WORKERS_MAX];
    proa_wire_load gone; /* counters of workers that are forgotten */
    client_counts published;
    /* the loop's */
    client_worker *workers[CLIENT_WORKERS_MAX];
    proa_router *router;
    proa_nats *nats;       /* NULL: requests go over the links alone */
    client_call **by_slot; /* [CLIENT_CALLS_MAX] begun ones */
    client_call *begun;
    int32_t begun_count; /* since the last publication */
    uint64_t leg_serial;
    client_counts counts;
    bool changed;     /* the router knows more than is published */
    bool worker_came; /* waiting calls may pick */
    bool model_known; /* model_card is the cluster's */
    bool announced;   /* on_model has been called */
    proa_wire_card model_card;
    client_files files;
    proa_buf scratch;  /* of one message */
    proa_arena *arena; /* of one message */
};

/* ---- client.c ---- */
/* The end of each hook: broken links, waiting calls, what others see. */
void proa_client_settle(proa_client *client);

/* ---- client_worker.c ---- */
void proa_client_watch_hooks(proa_client *client, proa_discovery_hooks *hooks);
void proa_client_take_news(proa_client *client);
void proa_client_worker_tick(client_worker *worker, int64_t now_us);
/* The link shall end; so does what runs there. The first reason counts. */
void proa_client_worker_break(client_worker *worker, proa_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void proa_client_worker_drop_broken(client_worker *worker);
void proa_client_worker_free(client_worker *worker);
/* Sends what is in `scratch`. A worker that does not read is broken. */
proa_status proa_client_worker_send(client_worker *worker, proa_wire_type type);

/* ---- client_call.c ---- */
/* `cancelled`: takes it among the begun ones and does no more. */
void proa_client_call_begin(client_call *call, bool cancelled);
void proa_client_call_cancel(client_call *call, const char *why);
void proa_client_call_grant(client_call *call, int32_t tokens);
void proa_client_call_retry(client_call *call);
/* Messages of a worker. */
void proa_client_call_tokens(client_worker *worker, const proa_wire_tokens *tokens);
void proa_client_call_finish(client_worker *worker, const proa_wire_finish *finish);
/* What runs at the worker goes on elsewhere; returns how many requests that are. */
int32_t proa_client_calls_lost(client_worker *worker, const proa_error *why);
/* Frees a call that is over, unless the loop is at it or will be. */
void proa_client_call_release(client_call *call);

/* ---- client_nats.c ---- */
proa_status proa_client_nats_start(proa_client *client, proa_error *err);
void proa_client_nats_take(proa_client *client);     /* what the plane has to tell */
void proa_client_nats_linked(client_worker *worker); /* its link is up, and is who it should be */
void proa_client_nats_unlinked(client_worker *worker);
void proa_client_nats_tick(client_worker *worker, int64_t now_us);
void proa_client_nats_taken(client_worker *worker, const proa_wire_taken *taken);
/* Sends the SUBMIT in `scratch`, of request `id`, by NATS or over the link. */
proa_status proa_client_send_submit(client_worker *worker, uint64_t id);
/* Sends the SUBMIT of `id` over the link too, if it is not known to have come: before anything else is said about `id`.
 * Uses `scratch`. */
void proa_client_nats_settle(client_worker *worker, uint64_t id);

/* ---- client_files.c ---- */
bool proa_client_files_start(proa_client *client, proa_error *err);
/* A card that may be the first; false: it is of another model. */
bool proa_client_files_card(client_worker *worker);
void proa_client_files_take(client_worker *worker, const proa_wire_file *piece);
void proa_client_files_tick(proa_client *client, int64_t now_us);
void proa_client_files_lost(client_worker *worker); /* it is down */
void proa_client_files_end(proa_client *client);

/* ---- client_report.c ---- */
/* Copies the worker's state to where other threads look. */
void proa_client_show(client_worker *worker);
void proa_client_hide(client_worker *worker); /* it is forgotten; its counters stay in the sums */
void proa_client_publish(proa_client *client);

#endif
