/* worker.h - a worker's side of the cluster: takes requests from frontends, gives their tokens, hands KV rows over.
 *
 *   create   ports are bound (so that a wrong address shows at once), nothing is announced
 *   start    the engine is there: the loop's thread runs, discovery hears of it
 *   drain    nothing new, what runs may finish
 *   stop     what is left ends (frontends take it elsewhere), the thread is gone; then the engine is stopped
 *   free
 *
 * Threads: one thread with a loop owns links, rooms and transfers. The engine's callbacks leave records in a queue and wake it
 * (worker_events.c). The functions below are called from one other thread, but for proa_worker_kv_event (the
 * engine's).
 */
#ifndef PROA_CLUSTER_WORKER_H
#define PROA_CLUSTER_WORKER_H

#include "cluster/discovery.h"
#include "cluster/room.h"
#include "cluster/wire.h"
#include "net/kv_transfer.h"
#include "net/link.h"

typedef struct proa_worker proa_worker;

typedef struct proa_worker_options {
    proa_wire_leg leg;          /* what this worker is for */
    const char *namespace_name; /* "dynamo" */
    proa_discovery *discovery;  /* borrowed */
    proa_link_security security;
    const char *host; /* to bind; without a key always loopback */
    int port;         /* of request links; 0: any free one */
    const char *
        advertise_host; /* what others dial; NULL: `host`, or this machine's first address when that is 0.0.0.0 */
    int bootstrap_port; /* prefill: of room links; 0: any free one */
    proa_kv_transfer_kind transfer;
    proa_kv_transfer_options transfer_options;
    proa_room_limits limits;
    const char *nats_server; /* take requests through it too (nats_plane.h); NULL: over the links alone */
} proa_worker_options;

proa_status proa_worker_create(const proa_worker_options *options, proa_worker **worker, proa_error *err);

/* For the engine's options: kv_event, with the worker as context. */
void proa_worker_kv_event(void *worker, bool stored, uint64_t hash);

/* What the engine and its model are. Borrowed until stop. */
typedef struct proa_worker_model {
    proa_engine *engine;
    const proa_kv_layout *layout; /* copied */
    const char *dir;              /* where the card's files are */
    proa_wire_card
        card; /* model's and engine's part: name, path, digest, limits, files; the rest is filled in */
    /* A frontend asks for it; on the worker's thread. NULL: it is not recorded here. */
    void (*record)(void *context, proa_wire_record action);
    void *record_context;
} proa_worker_model;

proa_status proa_worker_start(proa_worker *worker, const proa_worker_model *model, proa_error *err);

/* Takes nothing new from now on; returns when nothing runs any more, or after `seconds`. True: nothing was left. */
bool proa_worker_drain(proa_worker *worker, double seconds);
void proa_worker_stop(proa_worker *worker);
void proa_worker_free(proa_worker *worker); /* after the engine has stopped; accepts NULL */

const char *proa_worker_address(const proa_worker *worker); /* "host:port" of request links, as announced */
int proa_worker_port(const proa_worker *worker);
int proa_worker_bootstrap_port(const proa_worker *worker);

/* Fills model_digest, file_count and files of a card from the model's folder: config.json, generation_config.json,
 * tokenizer.json, tokenizer_config.json, chat_template.jinja, special_tokens_map.json as far as they are there. The digest covers their
 * contents, and names and sizes of the safetensors. */
proa_status proa_worker_describe_model(const char *dir, proa_wire_card *card, proa_error *err);

#endif
