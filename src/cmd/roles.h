/* roles.h - a whole cluster in this process: a client and workers with an engine each, found through memory (discovery mem), with
 * KV rows copied from cache to cache (transfer local). What runs is what `proa frontend` and `proa worker` run.
 */
#ifndef PROA_CMD_ROLES_H
#define PROA_CMD_ROLES_H

#include "cluster/client.h"
#include "cmd/rank.h"
#include "serve/server.h"

typedef struct proa_roles proa_roles;

/* The client; --prefill-workers and --decode-workers must both be over 0. */
proa_status proa_roles_create(const proa_options *options, proa_roles **roles, proa_error *err);
/* Loads the ranks one after another and starts their workers; returns when the client has them. */
proa_status proa_roles_open(const proa_options *options, const char *dir, const char *name, proa_roles *roles,
                            proa_error *err);
proa_client *proa_roles_client(proa_roles *roles);
const proa_rank *proa_roles_rank(const proa_roles *roles); /* the first one */
const proa_server_cluster *proa_roles_cluster(proa_roles *roles);
void proa_roles_stop(proa_roles *roles); /* client, workers, engines; accepts NULL */
void proa_roles_free(proa_roles *roles); /* accepts NULL */

#endif
