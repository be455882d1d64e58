/* cluster_flags.h - what frontend, worker and serve share: discovery, request plane, security, from the command line.
 */
#ifndef PROA_CMD_CLUSTER_FLAGS_H
#define PROA_CMD_CLUSTER_FLAGS_H

#include "base/option.h"
#include "cluster/client.h"
#include "cluster/worker.h"

typedef struct proa_cluster_flags {
    proa_link_security security;
    char *key;
    char discovery_path[4096];
    proa_discovery_options discovery;
    const char *nats_server; /* NULL: the request plane is tcp */
} proa_cluster_flags;

/* Without --discovery-backend: etcd when endpoints are given, else file in a folder of this user that only it can read, so that
 * roles on one machine find each other with nothing started first. */
proa_status proa_cluster_flags_read(const proa_options *options, proa_cluster_flags *flags, proa_error *err);
void proa_cluster_flags_free(proa_cluster_flags *flags);

/* The flags of a client (--router-mode, --migration-limit, ...); discovery is the caller's. */
proa_client_options proa_cluster_client_options(const proa_options *options, const proa_cluster_flags *flags,
                                                proa_discovery *discovery);
/* The flags of a worker (--disaggregation-..., --host, --port, ...). */
proa_worker_options proa_cluster_worker_options(const proa_options *options, const proa_cluster_flags *flags,
                                                proa_wire_leg leg, proa_discovery *discovery);
/* The model's part of a worker's card. */
proa_status proa_cluster_card(const proa_options *options, const char *dir, const char *name,
                              proa_wire_card *card, proa_error *err);

#endif
