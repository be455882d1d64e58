/* node_env.h - what the nodes of a cluster must be told: where etcd and nats-server run, which addresses the head nodes have, the key.
 *
 * The head prefill node runs both servers; it and all others find them by the same variables. The text is lines for a shell, to be pasted
 * or evaluated, so an address is taken only when it cannot mean anything else to a shell, in a URL or in front of ":29500".
 *
 * Pure; any thread.
 */
#ifndef PROA_CLUSTER_NODE_ENV_H
#define PROA_CLUSTER_NODE_ENV_H

#include "base/buf.h"
#include "base/status.h"

#include <stdbool.h>

enum {
    PROA_NODE_NAME_MAX = 253, /* bytes of a host name (RFC 1035) */
    PROA_NODE_HOST_BYTES = PROA_NODE_NAME_MAX + 3,
};

typedef enum proa_node_address_kind {
    PROA_NODE_IPV4,
    PROA_NODE_IPV6,
    PROA_NODE_NAME,
} proa_node_address_kind;

typedef struct proa_node_address {
    proa_node_address_kind kind;
    bool loopback;                   /* nobody else reaches it */
    char host[PROA_NODE_HOST_BYTES]; /* IPv6 in brackets: everywhere else a port comes behind it */
} proa_node_address;

/* Reads an IPv4 address, an IPv6 address with or without brackets, or a host name, that another node can dial. PROA_ERR_INVALID quotes the
 * value and says what to write instead. `text` need not be terminated and may hold anything. */
proa_status proa_node_address_parse(const char *text, size_t length, proa_node_address *address,
                                    proa_error *err);

typedef struct proa_node_env {
    proa_node_address head_prefill;
    proa_node_address head_decode;
    int etcd_port;
    int etcd_peer_port;
    int nats_port;
    const char *key;      /* the cluster's key, or */
    const char *key_path; /* the file that holds it; both NULL: none */
} proa_node_env;

/* What single addresses do not show: an address of one machine alone beside one of another machine, two servers on one port. */
proa_status proa_node_env_check(const proa_node_env *env, proa_error *err);

/* Commands that start both servers on the head prefill node. */
void proa_node_env_servers(const proa_node_env *env, proa_buf *out);

/* Exports, the same for all nodes. */
void proa_node_env_exports(const proa_node_env *env, proa_buf *out);

#endif
