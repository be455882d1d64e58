/* discovery_etcd.h - inside of the etcd backend: the connection (discovery_etcd.c), own keys (discovery_etcd_keys.c), what is watched
 * (discovery_etcd_watch.c). All of it belongs to the discovery's thread.
 *
 * One endpoint is used at a time. An op is one request to it; a failed op makes the next endpoint the current one, after a
 * pause when that has failed just before. Answers come one by one, so `arena` holds what is being read.
 */
#ifndef PROA_CLUSTER_DISCOVERY_ETCD_H
#define PROA_CLUSTER_DISCOVERY_ETCD_H

#include "base/arena.h"
#include "cluster/discovery_internal.h"
#include "cluster/etcd_codec.h"
#include "net/http_client.h"

enum {
    PROA_ETCD_ENDPOINTS_MAX = 8,
    PROA_ETCD_CALL_US = 1000000,   /* an isolated member would answer after 7 s, with an error */
    PROA_ETCD_LIST_US = 30000000,  /* all is listed again: 3.4 is known to lose events */
    PROA_ETCD_GRAVE_US = 10000000, /* a put that was given up may be carried out so much later */
};

typedef struct proa_etcd proa_etcd;

typedef struct proa_etcd_reply {
    bool no_lease; /* the lease of the request is not there; there is no body */
    const char *body;
    size_t length;
} proa_etcd_reply;

typedef struct proa_etcd_op proa_etcd_op;
struct proa_etcd_op {
    proa_etcd *etcd;
    void *owner;
    proa_http_call *call; /* NULL: not under way */
    size_t endpoint;
    /* An error returned (with its text in err) says that the endpoint is of no use. */
    proa_status (*answered)(proa_etcd_op *op, const proa_etcd_reply *reply, proa_error *err);
    void (*failed)(proa_etcd_op *op); /* may be NULL */
};

/* A key that is ours, or was and may come back.
 *
 *   wanted: ──put──> placed ──(lease lost, value changed, gone at a look)──> put again
 *   not wanted: ──delete──> let go ──(seen at a look)──> delete again; forgotten PROA_ETCD_GRAVE_US after the delete */
typedef struct proa_etcd_key {
    char *key;        /* NULL: a free place */
    char *value;      /* NULL: not wanted */
    uint64_t version; /* of the value; another one each time */
    uint64_t sent;    /* the version that is being put, under sent_lease */
    int64_t sent_lease;
    uint64_t placed;  /* the version that etcd has; 0: none that we know */
    bool tried;       /* a put was sent: etcd may have it */
    bool let_go;      /* deleted */
    bool lost;        /* it is another owner's; logged */
    int64_t grave_us; /* when it is forgotten, once let go */
    proa_etcd_op op;
} proa_etcd_key;

typedef struct proa_etcd_watch {
    proa_view *view;
    proa_etcd_op list;
    proa_http_call *call; /* the stream of events; NULL: none */
    proa_etcd *etcd;
    size_t endpoint;
    proa_etcd_lines lines;
    bool created;          /* the stream has begun */
    bool listed;           /* the view knows all up to list_revision */
    bool away;             /* news may have been missed since the list */
    int64_t created_by_us; /* until when it must have begun */
    int64_t list_us;       /* when to list next */
    int64_t hold_until_us; /* until when absent keys are in doubt */
    int64_t list_revision; /* of the newest list */
    int64_t revision;      /* the newest that was seen of the store */
    int64_t asked_at;      /* `revision` when the list was asked for: an older list means lost data */
} proa_etcd_watch;

struct proa_etcd {
    proa_http_client *client;
    proa_arena *arena;
    int wake_fd;
    int64_t lease_us;
    bool closing;

    struct proa_etcd_endpoint {
        char *url;
        int64_t pause_us;  /* after a failure, doubled by the next one; 0: it works */
        int64_t usable_us; /* not before */
    } endpoints[PROA_ETCD_ENDPOINTS_MAX];
    size_t endpoint_count;
    size_t current;
    size_t failures; /* in a row */
    bool lost;       /* no endpoint works; logged */
    int64_t lost_us;

    int64_t lease;   /* 0: none */
    int64_t beat_us; /* when to keep it alive, or to probe etcd when there is none */
    int64_t beat_every_us;
    proa_etcd_op beat;  /* grant, keep-alive, probe, revoke */
    proa_etcd_op look;  /* at own keys */
    uint64_t looked_at; /* `moves` when it was asked for */
    uint64_t moves;     /* counts requests about own keys and their answers */
    uint64_t versions;  /* counts values of own keys */
    /* wanted ones and graves */
    proa_etcd_key keys[2 * PROA_DISCOVERY_KEYS_MAX];

    proa_etcd_watch watches[PROA_DISCOVERY_WATCHES_MAX];
    size_t watch_count;
};

/* --- connection --- */

/* Begins an op at the current endpoint; false: memory is out, nothing was sent. `path` is "kv/put". */
bool proa_etcd_start(proa_etcd *etcd, proa_etcd_op *op, const char *path, const proa_buf *body);
void proa_etcd_cancel(proa_etcd_op *op);

/* An endpoint has been of no use, for a reason that is told to people. Watches of it end. */
void proa_etcd_fail_endpoint(proa_etcd *etcd, size_t endpoint, const char *cause);
void proa_etcd_praise_endpoint(proa_etcd *etcd, size_t endpoint); /* it works */

/* When something that is due at `at_us` can be sent. */
int64_t proa_etcd_usable_from(const proa_etcd *etcd, int64_t at_us);

/* --- own keys --- */

void proa_etcd_keys_put(proa_etcd *etcd, char *key, char *value);
void proa_etcd_keys_remove(proa_etcd *etcd, const char *key);
bool proa_etcd_keys_hold(const proa_etcd *etcd, const char *key);
/* Sends what is due; returns when there is more to do. */
int64_t proa_etcd_keys_step(proa_etcd *etcd, int64_t now_us);
void proa_etcd_keys_close(proa_etcd *etcd); /* lets the lease go */
void proa_etcd_keys_free(proa_etcd *etcd);

/* --- watches --- */

void proa_etcd_watch_add(proa_etcd *etcd, proa_view *view);
int64_t proa_etcd_watch_step(proa_etcd_watch *watch, int64_t now_us);
/* Ends its stream and its list; it is listed again as soon as an endpoint works. */
void proa_etcd_watch_drop(proa_etcd_watch *watch);
void proa_etcd_watch_end(proa_etcd_watch *watch); /* for good */

#endif
