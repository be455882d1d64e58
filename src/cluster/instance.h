/* instance.h - what a worker puts into discovery: who it is and where it listens. The rest (model, limits) it says itself in
 * its card (wire.h), over an authenticated link.
 *
 * Key v1/instances/{namespace}/{component}/{endpoint}/{instance id, 16 hex digits}; value, with Dynamo's fields first:
 *   {"component": "prefill", "endpoint": "generate", "namespace": "dynamo", "instance_id": 123,
 *    "transport": {"tcp": "10.0.0.1:41000"}, "epoch": "89abcdef01234567", "nats_subject": "..."}
 * instance_id fits 53 bits, so that every JSON reader keeps it. Pure.
 */
#ifndef PROA_CLUSTER_INSTANCE_H
#define PROA_CLUSTER_INSTANCE_H

#include "base/buf.h"
#include "base/status.h"

#include <stdint.h>

typedef struct proa_instance {
    char namespace_name[64]; /* names are [a-z0-9_-]+ */
    char component[64];      /* "prefill"; "backend" for decode and combined workers */
    char endpoint[64];       /* "generate" */
    uint64_t id;             /* 1 .. 2^53 - 1 */
    uint64_t epoch;          /* of the process; never 0 */
    char address[128];       /* "host:port" of its request links */
    char nats_subject[192];  /* where it takes requests by NATS; "" for none */
} proa_instance;

/* A name that keys may contain. */
bool proa_instance_name_valid(const char *name);

/* "v1/instances/{namespace}/" */
void proa_instance_prefix(const char *namespace_name, char *prefix, size_t bytes);
void proa_instance_key(const proa_instance *instance, char *key, size_t bytes);
void proa_instance_write(const proa_instance *instance, proa_buf *out);

/* From an untrusted value; key and value must agree. */
proa_status proa_instance_parse(const char *key, const char *value, size_t length, proa_instance *instance,
                                proa_error *err);

#endif
