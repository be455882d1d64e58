/* discovery.h - who is there: keys with values that live as long as their owner, seen by everybody who watches.
 *
 *   mem   one process: a registry that its roles share
 *   file  a folder (of a host, or shared by hosts): one file a key, renewed by its owner
 *   etcd  3.4 and later through the v3 JSON gateway: lease, keep-alive, prefix watch, periodic list
 *
 * Discovery tells of addresses; it is never a failure detector (law 4): whoever is connected to an instance believes the
 * connection. So a key that vanishes means "do not begin anything new there", and everything goes on working while the
 * backend is away: watches keep what they last saw, registrations are made again when it is back.
 *
 * Keys are laid out as Dynamo's: v1/instances/{namespace}/{component}/{endpoint}/{instance id in hex}. Values are JSON, at
 * most PROA_DISCOVERY_VALUE_BYTES_MAX; they are untrusted, the receiver parses them.
 *
 * Threads: a discovery has a thread of its own; watch hooks run on it and must not block. The functions may be called from any
 * thread, and only unregister waits (1 s at most).
 */
#ifndef PROA_CLUSTER_DISCOVERY_H
#define PROA_CLUSTER_DISCOVERY_H

#include "base/status.h"

enum { PROA_DISCOVERY_VALUE_BYTES_MAX = 64 << 10, PROA_DISCOVERY_KEY_BYTES_MAX = 512 };

typedef struct proa_discovery proa_discovery;
typedef struct proa_registry proa_registry;

/* For mem: shared by the discoveries of one process; outlives them. */
proa_registry *proa_registry_create(void);        /* NULL when memory is out */
void proa_registry_free(proa_registry *registry); /* accepts NULL */

typedef struct proa_discovery_options {
    const char *backend;     /* "mem", "file", "etcd" */
    proa_registry *registry; /* mem */
    const char *path;        /* file: the folder, made when absent */
    const char *endpoints;   /* etcd: "http://a:2379,http://b:2379" */
    double lease_s;          /* etcd and file: a dead owner's keys vanish after about this; default 10 */
} proa_discovery_options;

typedef struct proa_discovery_hooks {
    /* A key is there, or has another value than before. Comes once for each change, also when the backend repeats it. */
    void (*put)(void *context, const char *key, const char *value, size_t length);
    void (*gone)(void *context, const char *key);
    /* The first complete list has been delivered. Once. */
    void (*synced)(void *context);
    void *context;
} proa_discovery_hooks;

/* Errors name flag and value. An etcd that does not answer is no error: it is tried again for ever. */
proa_status proa_discovery_create(const proa_discovery_options *options, proa_discovery **discovery,
                                  proa_error *err);
/* Ends watches (no hook runs after it returns) and lets registrations go as unregister does; accepts NULL. */
void proa_discovery_free(proa_discovery *discovery);

/* Watches all keys that begin with `prefix`. At most 8 watches. */
proa_status proa_discovery_watch(proa_discovery *discovery, const char *prefix,
                                 const proa_discovery_hooks *hooks, proa_error *err);

/* Keeps key = value there until unregister; again with another value: replaces it. */
proa_status proa_discovery_register(proa_discovery *discovery, const char *key, const char *value,
                                    proa_error *err);
void proa_discovery_unregister(proa_discovery *discovery, const char *key);

#endif
