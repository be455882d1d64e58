/* etcd_codec.h - what is said to etcd's v3 JSON gateway and what it answers. Pure: texts in, texts out.
 *
 * The gateway is protobuf written as JSON: keys and values in base64, 64-bit integers as strings, fields that are zero, false
 * or empty absent. A missing lease is told by an absent TTL under HTTP 200. A watch's answer is one JSON object a line.
 *
 * Answers are untrusted: what is not as it should be is PROA_ERR_PROTOCOL with a sentence. What they give lies in the arena.
 */
#ifndef PROA_CLUSTER_ETCD_CODEC_H
#define PROA_CLUSTER_ETCD_CODEC_H

#include "base/arena.h"
#include "base/buf.h"
#include "base/status.h"

#include <stdint.h>

/* --- base64 (RFC 4648, with padding) --- */

void proa_base64_write(const void *data, size_t length, proa_buf *out);
/* Into the arena, with a zero byte behind. NULL: malformed, or the arena is full. */
char *proa_base64_read(const char *text, size_t length, proa_arena *arena, size_t *bytes);

/* --- requests; each appends a JSON object --- */

void proa_etcd_write_put(const char *key, const char *value, int64_t lease, proa_buf *out); /* kv/put */
void proa_etcd_write_list(const char *prefix, proa_buf *out);                               /* kv/range */
void proa_etcd_write_count(const char *prefix, proa_buf *out);                              /* kv/range */
void proa_etcd_write_look(const char *const *keys, size_t count, proa_buf *out);            /* kv/txn */
void proa_etcd_write_delete(const char *key, int64_t lease,
                            proa_buf *out);               /* kv/txn: if it is of the lease */
void proa_etcd_write_grant(int64_t ttl_s, proa_buf *out); /* lease/grant */
void proa_etcd_write_lease(int64_t lease, proa_buf *out); /* lease/keepalive, revoke */
void proa_etcd_write_watch(const char *prefix, int64_t start_revision, proa_buf *out); /* watch */

/* --- answers --- */

typedef struct proa_etcd_kv {
    const char *key;   /* without zero bytes: entries with such keys are left out */
    const char *value; /* terminated; may hold zero bytes; "" when deleted */
    size_t length;
    int64_t mod_revision;
    int64_t lease; /* 0: none */
    bool deleted;  /* in events */
} proa_etcd_kv;

typedef struct proa_etcd_list {
    int64_t revision; /* of the store, when it answered */
    proa_etcd_kv *kvs;
    size_t count;
} proa_etcd_list;

typedef struct proa_etcd_lease {
    int64_t id;
    int64_t ttl_s; /* 0: there is no such lease */
} proa_etcd_lease;

typedef enum proa_etcd_news_kind {
    PROA_ETCD_CREATED,  /* the watch is there */
    PROA_ETCD_EVENTS,   /* also none: progress */
    PROA_ETCD_CANCELED, /* by the server; compact_revision is not 0 when history is missing */
    PROA_ETCD_FAILED,   /* text says why */
} proa_etcd_news_kind;

typedef struct proa_etcd_news {
    proa_etcd_news_kind kind;
    int64_t compact_revision;
    proa_etcd_list list; /* events */
    const char *text;
} proa_etcd_news;

proa_status proa_etcd_read_header(const char *body, size_t length, int64_t *revision,
                                  proa_error *err); /* put, delete, count */
proa_status proa_etcd_read_list(const char *body, size_t length, proa_arena *arena, proa_etcd_list *list,
                                proa_error *err);
/* The keys of a look that are there, in the request's order. */
proa_status proa_etcd_read_look(const char *body, size_t length, proa_arena *arena, proa_etcd_list *list,
                                proa_error *err);
proa_status proa_etcd_read_lease(const char *body, size_t length, proa_etcd_lease *lease, proa_error *err);
proa_status proa_etcd_read_news(const char *line, size_t length, proa_arena *arena, proa_etcd_news *news,
                                proa_error *err);

/* An answer with another code than 200: its gRPC code (0: it has none) and its message, or the start of the body. */
int proa_etcd_read_error(const char *body, size_t length, char *text, size_t bytes);
enum { PROA_ETCD_GRPC_NOT_FOUND = 5 };

/* --- the lines of a watch --- */

enum { PROA_ETCD_LINE_BYTES_MAX = 16 << 20 };

typedef struct proa_etcd_lines {
    proa_buf pending;
    size_t begin;    /* of the line that is under way */
    size_t searched; /* no newline before this */
} proa_etcd_lines;   /* {0} is empty */

void proa_etcd_lines_free(proa_etcd_lines *lines);
/* False: a line is longer than PROA_ETCD_LINE_BYTES_MAX, or memory is out. */
bool proa_etcd_lines_add(proa_etcd_lines *lines, const char *bytes, size_t length);
/* The next whole line without its newline; NULL: none. Valid until the next add. */
const char *proa_etcd_lines_next(proa_etcd_lines *lines, size_t *length);
/* What stands there without a newline. */
const char *proa_etcd_lines_rest(const proa_etcd_lines *lines, size_t *length);

#endif
